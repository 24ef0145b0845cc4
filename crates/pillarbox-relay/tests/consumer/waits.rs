//! Whoever has written waits until a consumer has applied it: by receipt, told by NOTIFY, never too early.

use tokio_postgres::types::ToSql;

use super::store::{Session, Store};
use super::{nth, pos};

const LISTEN: &str = "LISTEN pillarbox_applied";
const BEGIN: &str = "SELECT pillarbox.wait_begin($1, 'billing')";
const KEY: &str = "SELECT pillarbox.wait_key('billing', 'orders', 'orders', 3)::text";

async fn applied(session: &Session, receipt: &str) -> bool {
    session.one("SELECT pillarbox.applied($1, 'billing')", &[&receipt]).await
}

async fn wait(session: &Session, receipt: &str, timeout: &str) -> bool {
    let sql = format!("SELECT pillarbox.wait($1, 'billing', '{timeout}')");
    session.one(&sql, &[&receipt]).await
}

#[tokio::test]
async fn a_receipt_says_how_far_each_partition_must_be() {
    for store in Store::each() {
        let session = store.session().await;
        session.run(&format!("SELECT pillarbox.accept('billing', 'orders', 0, '{}')", pos(1, 7))).await;
        session.accept(&pos(2, 5)).await.expect("accepted");
        for (receipt, expected) in [
            ("orders:", true),
            ("orders:orders/3=5", true),
            ("orders:orders/3=4", true),
            ("orders:orders/3=6", false),
            ("orders:orders/0=7,orders/3=5", true),
            ("orders:orders/0=8,orders/3=5", false),
            ("orders:orders/0=7,orders/3=5,orders/4=1", false),
            ("orders:payments/3=5", false),
        ] {
            assert_eq!(applied(&session, receipt).await, expected, "{receipt}");
            assert_eq!(wait(&session, receipt, "1 ms").await, expected, "{receipt}");
        }
        let never: bool = session.one("SELECT pillarbox.applied('orders:orders/3=5', 'shipping')", &[]).await;
        assert!(!never, "another consumer has applied nothing");
    }
}

/// What is compared is the sequence of an event that is there: no later event has to come.
#[tokio::test]
async fn idle_partitions_hold_nobody_up() {
    let store = Store::newest();
    let session = store.session().await;
    session.accept(&nth(1)).await.expect("accepted");
    let mut receipt = "orders:orders/3=1".to_owned();
    for partition in 10..40 {
        let event = pos(1_000 + partition, 1);
        session.run(&format!("SELECT pillarbox.accept('billing', 'orders', {partition}, '{event}')")).await;
        receipt.push_str(&format!(",orders/{partition}=1"));
    }
    assert!(wait(&session, &receipt, "30 s").await, "partition 3 has had no event since position 1");
}

#[tokio::test]
async fn what_is_no_receipt_of_this_source_is_refused() {
    for store in Store::each() {
        let session = store.session().await;
        session.accept(&nth(1)).await.expect("accepted");
        for (receipt, sqlstate, words) in [
            ("7234567890123456789:1:16/B374D900", "PB004", "a token of the source"),
            ("orders", "PB004", "not a receipt"),
            ("", "PB004", "not a receipt"),
            ("orders:orders/3=1,", "PB004", "not a receipt"),
            ("orders:orders/3=-1", "PB004", "not a receipt"),
            ("orders:orders/3=1000000000000000000", "PB004", "not a receipt"),
            ("orders:orders/1000000000=1", "PB004", "not a receipt"),
            ("orders:orders/3=1\n", "PB004", "not a receipt"),
            ("Orders:orders/3=1", "PB004", "not a receipt"),
            ("invoices:orders/3=1", "PB005", "has applied nothing of pipeline invoices"),
        ] {
            for call in ["applied($1, 'billing')", "wait($1, 'billing')", "wait_begin($1, 'billing')"] {
                let refused = session.client.query(&format!("SELECT pillarbox.{call}"), &[&receipt]).await;
                let error: super::store::Refusal = refused.expect_err(receipt).into();
                assert_eq!(error.sqlstate, sqlstate, "{receipt:?}");
                assert!(error.message.contains(words), "{error:?}");
            }
        }
        let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
        let locks: i64 = session.one(held, &[]).await;
        assert_eq!(locks, 0, "a refusal leaves no lock");
        // Other topics of other pipelines are none of this one's business.
        assert!(!applied(&session, "invoices:invoices/0=1").await);
    }
}

#[tokio::test]
async fn a_parked_event_is_not_applied_until_it_is_replayed() {
    for store in Store::each() {
        let (mut reader, consumer) = (store.session().await, store.session().await);
        consumer.accept(&pos(1, 8)).await.expect("accepted");
        let park = "INSERT INTO pillarbox.consumer_parked \
            (consumer, source, topic, partition, position, sequence, header_names, header_values) \
            VALUES ('billing', 'orders', 'orders', 3, 'x', 8, '{}', '{}')";
        consumer.run(park).await;
        consumer.accept(&pos(2, 9)).await.expect("accepted");
        assert!(applied(&reader, "orders:orders/3=7").await, "it is a later one that is parked");
        reader.run(LISTEN).await;
        let begun: bool = reader.one(BEGIN, &[&"orders:orders/3=9"]).await;
        assert!(!begun);
        consumer.run("DELETE FROM pillarbox.consumer_parked").await;
        let key: String = reader.one(KEY, &[]).await;
        assert_eq!(reader.told().await, key);
        assert!(applied(&reader, "orders:orders/3=9").await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_in_sql_ends_when_it_is_applied_and_after_the_timeout() {
    for store in Store::each() {
        let (reader, consumer) = (store.session().await, store.session().await);
        assert!(!wait(&reader, "orders:orders/3=1", "50 ms").await, "nobody applies it");
        assert!(!wait(&reader, "orders:orders/3=1", "-1 s").await);
        let pid = reader.pid().await;
        let (waited, _) = tokio::join!(wait(&reader, "orders:orders/3=1", "60 s"), async {
            store.await_sleeping(pid).await;
            consumer.accept(&nth(1)).await
        });
        assert!(waited);
        for level in ["REPEATABLE READ", "SERIALIZABLE"] {
            reader.run(&format!("BEGIN ISOLATION LEVEL {level}")).await;
            let sql = "SELECT pillarbox.wait('orders:orders/3=9', 'billing', '60 s')";
            assert_eq!(reader.try_run(sql).await.expect_err("it would never see it").sqlstate, "25000");
            reader.run("ROLLBACK").await;
        }
    }
}

#[tokio::test]
async fn a_listener_is_told_whatever_the_consumer_does() {
    let step =
        |sequence: i64| format!("SELECT pillarbox.accept('billing', 'orders', 3, '{}')", nth(sequence));
    let batch = format!(
        "SELECT pillarbox.accept_batch('billing', 'orders', 3, ARRAY['{}', '{}', '{}'])",
        nth(1),
        nth(2),
        nth(3)
    );
    let leap = format!("SELECT pillarbox.accept('billing', 'orders', 3, '{}', NULL, 'warn')", nth(500));
    let reset = format!("SELECT pillarbox.accept_reset('billing', 'orders', 3, '{}', 'lost')", nth(400));
    for store in Store::each() {
        for (before, target, moves) in [
            (None, 1, vec![step(1)]),
            (Some(1), 2, vec![step(2)]),
            (Some(63), 64, vec![step(64)]),
            (Some(64), 65, vec![step(65)]),
            (None, 3, vec![batch.clone()]),
            (Some(1), 3, vec![batch.clone()]),
            (Some(7), 77, vec![leap.clone()]),
            (Some(7), 399, vec![reset.clone()]),
            (Some(1), 3, vec!["BEGIN".into(), step(2), step(3), "COMMIT".into()]),
            // A snapshot from before the wait does not see it, and need not.
            (Some(1), 2, vec!["BEGIN ISOLATION LEVEL SERIALIZABLE".into(), step(2), "COMMIT".into()]),
        ] {
            let (mut reader, consumer) = (store.session().await, store.session().await);
            consumer.run("DELETE FROM pillarbox.consumer_positions").await;
            if let Some(before) = before {
                consumer.run(&step(before)).await;
            }
            reader.run(LISTEN).await;
            let mut moves = moves.into_iter();
            if let Some(begin) = moves.as_slice().first().filter(|first| first.starts_with("BEGIN")) {
                consumer.run(begin).await;
                consumer.run("SELECT FROM pillarbox.consumer_resets").await;
                moves.next();
            }
            let receipt = format!("orders:orders/3={target}");
            let begun: bool = reader.one(BEGIN, &[&receipt]).await;
            assert!(!begun, "{receipt} after {before:?}");
            for sql in moves {
                consumer.run(&sql).await;
            }
            let key: String = reader.one(KEY, &[]).await;
            assert_eq!(reader.told().await, key, "{receipt} after {before:?}");
            assert!(applied(&reader, &receipt).await, "{receipt} after {before:?}");
        }
    }
}

/// Between an event's acceptance and its COMMIT it is not applied, and no later event may come to wake anyone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_under_way_is_waited_for() {
    for store in Store::each() {
        for (before, level) in [(0, "READ COMMITTED"), (1, "READ COMMITTED"), (1, "REPEATABLE READ")] {
            let (reader, consumer) = (store.session().await, store.session().await);
            consumer.run("DELETE FROM pillarbox.consumer_positions").await;
            for sequence in 1..=before {
                consumer.accept(&nth(sequence)).await.expect("accepted");
            }
            consumer.run(&format!("BEGIN ISOLATION LEVEL {level}")).await;
            consumer.accept(&nth(before + 1)).await.expect("accepted");
            let receipt = format!("orders:orders/3={}", before + 1);
            let (pid, arguments): (i32, [&(dyn ToSql + Sync); 1]) = (reader.pid().await, [&receipt]);
            let (begun, ()) = tokio::join!(reader.one::<bool>(BEGIN, &arguments), async {
                store.await_blocked(pid).await;
                consumer.run("COMMIT").await;
            });
            assert!(begun, "what was committed meanwhile is seen at once");
        }
    }
}

#[tokio::test]
async fn nobody_is_told_without_need() {
    for store in Store::each() {
        let (mut reader, consumer) = (store.session().await, store.session().await);
        reader.run(LISTEN).await;
        for sequence in 1..=70 {
            consumer.accept(&nth(sequence)).await.expect("accepted");
        }
        assert_eq!(reader.told_so_far().await, 0, "nobody waits");
        let begun: bool = reader.one(BEGIN, &[&"orders:orders/3=1000"]).await;
        assert!(!begun);
        for sequence in 71..=192 {
            consumer.accept(&nth(sequence)).await.expect("accepted");
        }
        assert_eq!(reader.told_so_far().await, 2, "at 128 and at 192: the target is far away");
        reader.run("SELECT pillarbox.wait_end('orders:orders/3=1000', 'billing')").await;
        assert_eq!(reader.warnings(), Vec::<String>::new(), "each lock was held");
        for sequence in 193..=300 {
            consumer.accept(&nth(sequence)).await.expect("accepted");
        }
        assert_eq!(reader.told_so_far().await, 0, "nobody waits any more");
    }
}

#[tokio::test]
async fn a_waiter_that_dies_leaves_nothing() {
    let store = Store::newest();
    let (mut listener, consumer) = (store.session().await, store.session().await);
    listener.run(LISTEN).await;
    let waiter = store.session().await;
    let begun: bool = waiter.one(BEGIN, &[&"orders:orders/3=1"]).await;
    assert!(!begun);
    let gone: bool = consumer.one("SELECT pg_terminate_backend($1, 30000)", &[&waiter.pid().await]).await;
    assert!(gone);
    consumer.accept(&nth(1)).await.expect("accepted");
    assert_eq!(listener.told_so_far().await, 0);
}

#[tokio::test]
async fn a_receipt_to_wait_for_has_its_limit() {
    let session = Store::newest().session().await;
    let targets: Vec<String> = (0..257).map(|partition| format!("orders/{partition}=1")).collect();
    let receipt = |count: usize| format!("orders:{}", targets[..count].join(","));
    let begun: bool = session.one(BEGIN, &[&receipt(256)]).await;
    assert!(!begun);
    session.run(&format!("SELECT pillarbox.wait_end('{}', 'billing')", receipt(256))).await;
    let refused =
        session.try_run(&format!("SELECT pillarbox.wait_begin('{}', 'billing')", receipt(257))).await;
    assert_eq!(refused.expect_err("too many locks").sqlstate, "54000");
}
