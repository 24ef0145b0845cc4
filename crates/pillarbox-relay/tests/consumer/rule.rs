//! Every row of the rule, by each way to ask for it.

use super::store::{Session, Store};
use super::{hex, nth, pos};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Apply,
    Duplicate,
    Gap,
    Foreign,
}
use Verdict::{Apply, Duplicate, Foreign, Gap};

/// The second epoch begins at a lower LSN than the first one ended at.
const EPOCH_1: u128 = 1 << 96 | 0xffff_0000 << 32;
const EPOCH_2: u128 = 2 << 96 | 0x0001_0000 << 32;
const LAST: i64 = i64::MAX;

type Stored = Option<(u128, i64)>;
/// What is stored, what is given, strict or not, and what is to come of it.
const RULE: &[(Stored, (u128, i64), bool, Verdict)] = &[
    (None, (10, 1), false, Apply),
    (None, (10, 7), false, Apply),
    (None, (10, 1), true, Apply),
    (None, (10, 7), true, Gap),
    (Some((10, 5)), (10, 5), false, Duplicate),
    (Some((10, 5)), (9, 4), false, Duplicate),
    (Some((10, 5)), (9, 5), false, Duplicate),
    (Some((10, 5)), (10, 4), false, Duplicate),
    (Some((10, 5)), (11, 6), false, Apply),
    (Some((10, 5)), (11, 6), true, Apply),
    (Some((10, 5)), (11, 7), false, Gap),
    (Some((10, 5)), (11, LAST), false, Gap),
    (Some((10, 5)), (11, 5), false, Foreign),
    (Some((10, 5)), (11, 4), false, Foreign),
    (Some((10, 5)), (11, 1), true, Foreign),
    (Some((10, 5)), (10, 6), false, Foreign),
    (Some((10, 5)), (9, 6), false, Foreign),
    (Some((10, 5)), (10, 7), false, Foreign),
    (Some((10, 5)), (9, 7), false, Foreign),
    // A failover: what was sent before it comes again, or goes on in the next epoch.
    (Some((EPOCH_1, 5)), (EPOCH_2, 6), false, Apply),
    (Some((EPOCH_2, 6)), (EPOCH_1, 5), false, Duplicate),
    (Some((EPOCH_2, 6)), (EPOCH_1, 7), false, Foreign),
    (Some((EPOCH_1, 5)), (EPOCH_2, 5), false, Foreign),
    // The ends of both numbers; text order is position order only where every digit counts.
    (Some((10, LAST - 1)), (11, LAST), false, Apply),
    (Some((11, LAST)), (11, LAST), false, Duplicate),
    (Some((u128::MAX - 1, 1)), (u128::MAX, 2), false, Apply),
    (Some((0x9f, 1)), (0xa0, 2), false, Apply),
    (Some((0xa0, 1)), (0x9f, 2), false, Foreign),
];

#[tokio::test]
async fn every_row_of_the_rule() {
    for store in Store::each() {
        let session = store.session().await;
        for row in RULE {
            let (stored, given, strict, verdict) = *row;
            let offset = Some(given.1 % 1000);
            for batch in [false, true] {
                put(&session, stored).await;
                let header = pos(given.0, given.1);
                let answer = if batch {
                    let offsets = offset.as_slice();
                    let applied = session.accept_batch(&[header], Some(offsets), "error", strict).await;
                    applied.map(|ordinals| ordinals == [1])
                } else {
                    session.accept_with(Some(&header), offset, "error", strict).await
                };
                let found = match answer {
                    Ok(true) => Apply,
                    Ok(false) => Duplicate,
                    Err(refusal) if refusal.sqlstate == "PB001" => Gap,
                    Err(refusal) if refusal.sqlstate == "PB002" => Foreign,
                    Err(refusal) => panic!("{row:?}: {refusal:?}"),
                };
                assert_eq!(found, verdict, "{row:?}, batch {batch}");
                let expected = match (verdict, stored) {
                    (Apply, _) => Some((hex(given.0), given.1, offset)),
                    (_, Some((position, sequence))) => Some((hex(position), sequence, None)),
                    (_, None) => None,
                };
                assert_eq!(session.stored().await, expected, "{row:?}, batch {batch}");
            }
        }
    }
}

async fn put(session: &Session, stored: Stored) {
    session.run("TRUNCATE pillarbox.consumer_positions").await;
    if let Some((position, sequence)) = stored {
        session
            .run(&format!(
                "INSERT INTO pillarbox.consumer_positions (consumer, source, topic, partition, position, sequence) \
                 VALUES ('billing', 'orders', 'orders', 3, '{}', {sequence})",
                hex(position)
            ))
            .await;
    }
}

/// One position for all partitions would take the second partition's first event for a duplicate.
#[tokio::test]
async fn partitions_topics_sources_and_consumers_are_apart() {
    for store in Store::each() {
        let session = store.session().await;
        let accept = |consumer, topic, partition: i32, header| {
            let sql = "SELECT pillarbox.accept($1, $2, $3, $4)";
            let session = &session;
            async move {
                let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
                    [&consumer, &topic, &partition, &header];
                session.one::<bool>(sql, &parameters).await
            }
        };
        let (early, late) = (pos(5, 1), pos(10, 1));
        let other = early.replace("orders:", "returns:");
        assert!(accept("billing", "orders", 3, &late).await);
        for (consumer, topic, partition, header) in [
            ("billing", "orders", 4, &early),
            ("billing", "Orders", 3, &early),
            ("shipping", "orders", 3, &early),
            ("billing", "orders", 3, &other),
        ] {
            assert!(
                accept(consumer, topic, partition, header).await,
                "{consumer} {topic} {partition} {header}"
            );
            assert!(!accept(consumer, topic, partition, header).await);
        }
        assert_eq!(session.one::<i64>("SELECT count(*) FROM pillarbox.consumer_positions", &[]).await, 5);
        // The next event of one moves no other.
        for (consumer, topic, partition, header) in [
            ("billing", "orders", 4, &pos(20, 2)),
            ("billing", "Orders", 3, &pos(21, 2)),
            ("shipping", "orders", 3, &pos(22, 2)),
            ("billing", "orders", 3, &pos(23, 2).replace("orders:", "returns:")),
            ("billing", "orders", 3, &pos(11, 2)),
        ] {
            assert!(
                accept(consumer, topic, partition, header).await,
                "{consumer} {topic} {partition} {header}"
            );
        }
    }
}

/// In the common case one row is changed in place; what comes again writes nothing, not even a lock.
#[tokio::test]
async fn one_update_of_one_row_and_no_write_for_duplicates() {
    for store in Store::each() {
        let session = store.session().await;
        let writes = "SELECT ARRAY[pg_stat_get_xact_tuples_inserted(c), pg_stat_get_xact_tuples_updated(c), \
            pg_stat_get_xact_tuples_hot_updated(c)] FROM CAST('pillarbox.consumer_positions'::regclass AS oid) c";
        session.run("BEGIN").await;
        for n in 1..=20 {
            assert_eq!(session.accept(&nth(n)).await, Ok(true));
        }
        assert_eq!(session.one::<Vec<i64>>(writes, &[]).await, [1, 19, 19]);
        let batch: Vec<String> = (15..=220).map(nth).collect();
        let applied = session.accept_batch(&batch, None, "error", false).await.expect("in order");
        assert_eq!(applied, (7..=206).collect::<Vec<i32>>());
        assert_eq!(session.one::<Vec<i64>>(writes, &[]).await, [1, 21, 21]);
        session.run("COMMIT; BEGIN").await;
        assert_eq!(session.accept(&batch[0]).await, Ok(false));
        assert_eq!(session.accept_batch(&batch, None, "error", false).await, Ok(Vec::new()));
        let xid = "SELECT pg_current_xact_id_if_assigned()::text IS NULL";
        assert!(session.one::<bool>(xid, &[]).await, "a duplicate made the transaction one that writes");
        session.run("COMMIT").await;
        let blocks = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'pillarbox'::regnamespace \
            AND prosrc ~* 'exception\\s+when'";
        assert_eq!(session.one::<i64>(blocks, &[]).await, 0, "a subtransaction for every event");
    }
}

#[tokio::test]
async fn what_rolls_back_was_not_applied() {
    for store in Store::each() {
        let session = store.session().await;
        session.run("BEGIN").await;
        assert_eq!(session.accept(&pos(1, 1)).await, Ok(true));
        session.run("ROLLBACK").await;
        assert_eq!(session.stored().await, None);
        session.run("BEGIN").await;
        assert_eq!(session.accept(&pos(1, 1)).await, Ok(true));
        session.run("SAVEPOINT s").await;
        assert_eq!(session.accept(&pos(2, 2)).await, Ok(true));
        let batch = [pos(3, 3), pos(4, 4)];
        assert_eq!(session.accept_batch(&batch, None, "error", false).await, Ok(vec![1, 2]));
        session.run("ROLLBACK TO SAVEPOINT s; COMMIT").await;
        assert_eq!(session.stored().await, Some((hex(1), 1, None)));
        assert_eq!(session.accept(&pos(2, 2)).await, Ok(true));
    }
}

/// A caller that gives no offset leaves none: one of an earlier event would be wrong for this one.
#[tokio::test]
async fn the_offset_is_that_of_the_event_applied_last() {
    let session = Store::newest().session().await;
    for (n, offset) in [(1, Some(100)), (2, None), (3, Some(104))] {
        let header = nth(n);
        assert_eq!(session.accept_with(Some(&header), offset, "error", false).await, Ok(true));
        assert_eq!(session.stored().await.expect("a row").2, offset);
        assert_eq!(session.accept_with(Some(&header), Some(999), "error", false).await, Ok(false));
        assert_eq!(session.stored().await.expect("a row").2, offset, "a duplicate moves nothing");
    }
    let batch = [pos(2, 2), pos(4, 4), pos(5, 5)];
    let applied = session.accept_batch(&batch, Some(&[1, 107, 109]), "error", false).await;
    assert_eq!(applied, Ok(vec![2, 3]));
    assert_eq!(session.stored().await, Some((hex(5), 5, Some(109))));
    let refusal = session.accept_batch(&batch, Some(&[1]), "error", false).await.expect_err("too few");
    assert_eq!(refusal.sqlstate, "22023", "{refusal:?}");
}
