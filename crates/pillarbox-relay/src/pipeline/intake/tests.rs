//! Streams by hand: what is sealed, where it ends, and what a restart does with the rest.

mod letters;
mod messages;
mod repartition;

use std::time::Duration;

use pillarbox_wire::lsn::{Lsn, PgTimestamp};
use pillarbox_wire::position::Epoch;
use pillarbox_wire::record_batch::record_count;

use super::{CommittedSet, Intake, Now, SETS_MAX, SealedSet, Taken, UpdatesSeen};
use crate::config::{
    Compression, Config, Kafka, OtherShard, Outbox, Postgres, Shard, TableName, Topics, Transaction, Updates,
};
use crate::decode::tests::{begin, commit, delete, insert, message, relation, update};
use crate::error::{Class, Code};
use crate::pipeline::pace::Due;
use crate::position::checkpoint::{PositionRecord, Table, VERSION};
use crate::position::recognition::Recognition;
use crate::route::{Topic, TopicLimits};

const T0: Now = Now { monotonic: Duration::from_secs(100), unix_ms: 1_700_000_000_000 };

/// When the commits by hand were made.
const SENT: PgTimestamp = PgTimestamp(0);

fn later(ms: u64) -> Now {
    Now { monotonic: T0.monotonic + Duration::from_millis(ms), ..T0 }
}

fn config(limits: Transaction) -> Config {
    let table = TableName { schema: "public".into(), name: "outbox".into() };
    Config {
        pipeline: "orders".parse().unwrap(),
        postgres: Postgres {
            host: "h".into(),
            port: 5432,
            user: "u".into(),
            password: None,
            database: "d".into(),
            slot: "s".into(),
            publication: "p".into(),
            tls: Default::default(),
            sql: None,
        },
        kafka: Kafka {
            brokers: vec![],
            compression: Compression::None,
            tls: None,
            sasl: None,
            topics: Topics::default(),
            transaction: limits,
        },
        outbox: vec![Outbox::debezium(table)],
        messages: None,
    }
}

fn first() -> Table {
    let position = PositionRecord {
        v: VERSION,
        epoch: 1,
        commit_lsn: Lsn::ZERO,
        commit_ms: None,
        index: None,
        part: None,
        resume_lsn: Lsn(10),
        published_end_lsn: Lsn::ZERO,
        system_id: "1".into(),
        timeline: 1,
        lineage_nonce: None,
        slot: "s".into(),
        generation: String::new(),
        paused: false,
        snapshot_offset: None,
        at: 0,
    };
    Table { position: Some(position), ..Table::default() }
}

fn topic(partitions: u32) -> Topic {
    Topic {
        name: "outbox.event.order".into(),
        id: uuid::Uuid::nil(),
        partitions,
        first_slot: 0,
        recorded: false,
        limits: TopicLimits {
            batch_bytes_max: 1000,
            retention_ms: None,
            before_max_ms: i64::MAX,
            after_max_ms: i64::MAX,
            compacted: false,
        },
    }
}

fn intake(table: &Table, limits: Transaction) -> Intake {
    Intake::new(&config(limits), Epoch(1), table, vec![topic(4)], T0)
}

fn outbox() -> Vec<u8> {
    relation(
        1,
        "outbox",
        &[("id", 2950), ("aggregatetype", 25), ("aggregateid", 25), ("type", 25), ("payload", 3802)],
    )
}

fn row(id: &str, payload: Option<&str>) -> Vec<u8> {
    insert(1, &[Some(id), Some("order"), Some("key"), Some("made"), payload])
}

/// Takes frames; a split is presented again as the reader does. Panics on anything else.
fn feed(intake: &mut Intake, frames: &[Vec<u8>]) {
    for frame in frames {
        loop {
            match intake.take(frame, SENT, T0).unwrap() {
                Taken::Done => break,
                Taken::Again => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn give_back(intake: &mut Intake, set: SealedSet) {
    give_back_at(intake, set, T0);
}

fn give_back_at(intake: &mut Intake, set: SealedSet, now: Now) {
    let buffers = set.batches.into_iter().map(|batch| Vec::from(batch.bytes)).collect();
    intake.committed(CommittedSet { end: set.end, bytes: set.bytes, buffers }, now);
}

fn records(set: &SealedSet) -> u32 {
    set.batches.iter().map(|batch| record_count(&batch.bytes)).sum()
}

#[test]
fn a_quiet_pipeline_seals_its_first_transaction_at_once() {
    let mut intake = intake(&first(), Transaction::default());
    feed(&mut intake, &[outbox(), begin(100), row("a", Some("{}")), row("b", None)]);
    intake.pace(T0);
    assert!(intake.take_sealed().is_empty(), "inside a transaction nothing is sealed");
    feed(&mut intake, &[commit(100, 108)]);
    intake.pace(T0);
    let sealed = intake.take_sealed();
    let [set] = &sealed[..] else { panic!("one set") };
    assert_eq!((set.events, set.transactions, records(set)), (2, 1, 2));
    assert_eq!((set.end.commit_lsn, set.end.index), (Lsn(100), None));
    assert_eq!((set.end.resume_lsn, set.end.published_end_lsn), (Lsn(108), Lsn(108)));
    assert_eq!(set.delta.topics.len(), 1, "the topic's first event records it");
    assert_eq!(set.delta.buckets[0].1.iter().sum::<u64>(), 2);
    assert_eq!(intake.confirmed(), Lsn(10), "sealed is not committed");
    for set in sealed {
        give_back(&mut intake, set);
    }
    assert_eq!(intake.confirmed(), Lsn(108));
}

#[test]
fn what_a_commit_took_spaces_the_next_one() {
    let mut intake = intake(&first(), Transaction::default());
    feed(&mut intake, &[outbox(), begin(100), row("a", Some("{}")), commit(100, 108)]);
    intake.pace(T0);
    let set = intake.take_sealed().pop().expect("sealed at once");
    give_back_at(&mut intake, set, later(4));
    feed(&mut intake, &[begin(200), row("b", Some("{}")), commit(200, 208)]);
    assert_eq!(intake.pace(later(5)), Due::At(later(6).monotonic));
    assert!(intake.take_sealed().is_empty());
    intake.pace(later(6));
    assert_eq!(intake.take_sealed().len(), 1);
}

#[test]
fn a_restart_publishes_only_what_the_checkpoint_does_not_cover() {
    let mut table = first();
    let position = table.position.as_mut().unwrap();
    (position.commit_lsn, position.index, position.part) = (Lsn(100), Some(0), Some(1));
    let mut intake = intake(&table, Transaction::default());
    feed(
        &mut intake,
        &[
            outbox(),
            begin(90),
            row("old", None),
            commit(90, 98),
            begin(100),
            row("published", None),
            row("rest", None),
            commit(100, 108),
        ],
    );
    intake.pace(T0);
    let set = intake.take_sealed().remove(0);
    assert_eq!(set.events, 1);
    let text = String::from_utf8_lossy(&set.batches[0].bytes).into_owned();
    assert!(text.contains("rest") && text.contains("pb-part\u{2}2"), "part 2 says so");
    assert_eq!((set.end.index, set.end.published_end_lsn), (None, Lsn(108)));
}

#[test]
fn a_huge_transaction_is_split_and_every_part_says_where_it_ends() {
    let mut intake = intake(&first(), Transaction { events_max: 2, ..Transaction::default() });
    feed(&mut intake, &[outbox(), begin(100)]);
    for id in ["a", "b", "c", "d", "e"] {
        feed(&mut intake, &[row(id, None)]);
    }
    feed(&mut intake, &[commit(100, 108)]);
    intake.flush(T0);
    let sets = intake.take_sealed();
    let ends: Vec<_> =
        sets.iter().map(|set| (set.events, set.end.index, set.end.part, set.end.resume_lsn)).collect();
    assert_eq!(
        ends,
        [(2, Some(1), Some(1), Lsn(10)), (2, Some(3), Some(2), Lsn(10)), (1, None, None, Lsn(108)),]
    );
    assert!(!String::from_utf8_lossy(&sets[0].batches[0].bytes).contains("pb-part"));
}

#[test]
fn a_split_that_ends_with_the_transaction_is_closed_by_a_checkpoint() {
    let mut table = first();
    let position = table.position.as_mut().unwrap();
    (position.commit_lsn, position.index, position.part) = (Lsn(100), Some(1), Some(1));
    let mut intake = intake(&table, Transaction::default());
    feed(&mut intake, &[outbox(), begin(100), row("a", None), row("b", None), commit(100, 108)]);
    intake.pace(T0);
    let set = intake.take_sealed().remove(0);
    assert_eq!((set.events, set.end.index, set.end.resume_lsn), (0, None, Lsn(108)));
}

#[test]
fn a_full_pool_takes_nothing_until_a_commit() {
    let mut intake = intake(&first(), Transaction { events_max: 1, ..Transaction::default() });
    feed(&mut intake, &[outbox(), begin(100)]);
    for id in 0..SETS_MAX {
        feed(&mut intake, &[row(&id.to_string(), None)]);
    }
    let frame = row("last", None);
    assert_eq!(intake.take(&frame, SENT, T0).unwrap(), Taken::Again);
    assert_eq!(intake.take(&frame, SENT, T0).unwrap(), Taken::NeedsRoom);
    assert_eq!(intake.take(&frame, SENT, T0).unwrap(), Taken::NeedsRoom, "asking again changes nothing");
    let set = intake.take_sealed().remove(0);
    give_back(&mut intake, set);
    assert_eq!(intake.take(&frame, SENT, T0).unwrap(), Taken::Done);
}

#[test]
fn an_unknown_topic_is_asked_for_and_the_row_keeps_its_index() {
    let mut intake = Intake::new(&config(Transaction::default()), Epoch(1), &first(), vec![], T0);
    feed(&mut intake, &[outbox(), begin(100)]);
    let frame = row("a", None);
    assert_eq!(
        intake.take(&frame, SENT, T0).unwrap(),
        Taken::NeedsTopic("outbox.event.order".to_owned().into())
    );
    intake.learn(topic(4));
    feed(&mut intake, &[frame, commit(100, 108)]);
    intake.pace(T0);
    assert_eq!(intake.take_sealed().remove(0).end.last.unwrap().index, 0);
}

/// A replay may be decoded with another filter than the first run was.
#[test]
fn rows_of_other_shards_have_no_place_in_their_transaction() {
    let keyed = |id, key| insert(1, &[Some(id), Some("order"), Some(key), Some("made"), None]);
    let intake = |other_shard, commit_lsn| {
        let mut config = config(Transaction::default());
        config.outbox[0].shard = Shard::parse("1/2").ok();
        config.outbox[0].other_shard = other_shard;
        let mut table = first();
        table.position.as_mut().unwrap().commit_lsn = commit_lsn;
        let mut intake = Intake::new(&config, Epoch(1), &table, vec![topic(4)], T0);
        feed(&mut intake, &[outbox(), begin(100)]);
        intake
    };
    // Of two shards, key-1 is of the first, key-2 of the second.
    let mut skips = intake(OtherShard::Skip, Lsn::ZERO);
    feed(&mut skips, &[keyed("a", "key-2"), keyed("b", "key-1"), keyed("c", "key-2"), commit(100, 108)]);
    skips.pace(T0);
    let set = skips.take_sealed().remove(0);
    assert_eq!((set.events, set.end.last.unwrap().index, skips.foreign()), (1, 0, 2));

    let fault = intake(OtherShard::Stop, Lsn::ZERO).take(&keyed("a", "key-2"), SENT, T0).unwrap_err();
    assert_eq!((fault.code, fault.class()), (Code::PublicationLacksTable, Class::Halt));
    let mut covered = intake(OtherShard::Stop, Lsn(100));
    feed(&mut covered, &[keyed("a", "key-2"), keyed("b", "key-1"), commit(100, 108)]);
    assert_eq!(covered.foreign(), 0, "whoever published beyond it had decided");
}

#[test]
fn a_split_transaction_goes_on_at_its_place_amid_rows_of_other_shards() {
    let mut config = config(Transaction::default());
    config.outbox[0].shard = Shard::parse("1/2").ok();
    config.outbox[0].other_shard = OtherShard::Skip;
    let mut table = first();
    let position = table.position.as_mut().unwrap();
    (position.commit_lsn, position.index, position.part) = (Lsn(100), Some(1), Some(1));
    let mut intake = Intake::new(&config, Epoch(1), &table, vec![topic(4)], T0);
    feed(&mut intake, &[outbox(), begin(100)]);
    // Of two shards, key-1 is of the first, key-2 of the second.
    for (id, key) in
        [("a", "key-2"), ("b", "key-1"), ("c", "key-2"), ("d", "key-1"), ("e", "key-2"), ("rest", "key-1")]
    {
        feed(&mut intake, &[insert(1, &[Some(id), Some("order"), Some(key), Some("made"), None])]);
    }
    feed(&mut intake, &[commit(100, 108)]);
    intake.pace(T0);
    let set = intake.take_sealed().remove(0);
    assert_eq!((set.events, set.end.last.unwrap().index, intake.foreign()), (1, 2, 3));
    assert!(String::from_utf8_lossy(&set.batches[0].bytes).contains("rest"));
}

#[test]
fn transactions_without_events_move_the_idle_position_only() {
    let mut intake = intake(&first(), Transaction::default());
    feed(&mut intake, &[begin(100), message(true, "other", b"x"), commit(100, 108)]);
    intake.pace(T0);
    assert!(intake.take_sealed().is_empty(), "nothing is due yet");
    intake.keepalive(Lsn(200), true).expect("nothing is looked for");
    intake.pace(T0);
    let set = intake.take_sealed().remove(0);
    assert_eq!((set.events, set.end.resume_lsn), (0, Lsn(200)));
    assert_eq!((set.end.commit_lsn, set.end.published_end_lsn), (Lsn::ZERO, Lsn::ZERO));
}

#[test]
fn a_keepalive_confirms_nothing_while_a_set_is_in_flight() {
    let mut intake = intake(&first(), Transaction::default());
    feed(&mut intake, &[outbox(), begin(100), row("a", None), commit(100, 108)]);
    intake.pace(T0);
    let set = intake.take_sealed().remove(0);
    intake.keepalive(Lsn(500), true).expect("nothing is looked for");
    intake.pace(later(60_000));
    assert!(intake.take_sealed().is_empty());
    give_back(&mut intake, set);
    assert!(intake.fill.spare_bytes() > 0);
    intake.pace(later(60_000));
    assert_eq!(intake.take_sealed().remove(0).end.resume_lsn, Lsn(500));
    assert_eq!(intake.fill.spare_bytes(), 0, "a quiet pipeline keeps no buffers");
}

#[test]
fn a_lineage_nonce_reaches_the_checkpoint_with_its_transaction() {
    let mut intake = intake(&first(), Transaction::default());
    feed(&mut intake, &[begin(100), message(true, "pillarbox.lineage", b"orders:5-abc")]);
    intake.pace(T0);
    assert!(intake.take_sealed().is_empty());
    feed(&mut intake, &[commit(100, 108)]);
    intake.pace(T0);
    assert_eq!(intake.take_sealed().remove(0).end.lineage_nonce.as_deref(), Some("5-abc"));
}

#[test]
fn the_newest_nonce_wins_whichever_way_it_comes() {
    let mut intake = intake(&first(), Transaction::default());
    intake.lineage("7-abc".to_owned(), T0);
    intake.pace(T0);
    let set = intake.take_sealed().remove(0);
    assert_eq!((set.end.lineage_nonce.as_deref(), set.events), (Some("7-abc"), 0));
    give_back(&mut intake, set);
    // An older one arrives late, through WAL.
    feed(&mut intake, &[begin(100), message(true, "pillarbox.lineage", b"orders:6-old"), commit(100, 108)]);
    intake.pace(later(100));
    let set = intake.take_sealed().remove(0);
    assert_eq!((set.end.lineage_nonce.as_deref(), set.end.resume_lsn), (Some("7-abc"), Lsn(108)));
    give_back(&mut intake, set);
    intake.lineage("10-def".to_owned(), later(200));
    intake.pace(later(200));
    assert_eq!(intake.take_sealed().remove(0).end.lineage_nonce.as_deref(), Some("10-def"));
}

#[test]
fn rows_that_cannot_be_published_name_their_place_and_take_nothing() {
    let huge = "x".repeat(2000);
    for (frame, code) in [
        (row("a", Some(&huge)), Code::EventTooLarge),
        (insert(1, &[Some("a"), Some("a/b"), Some("k"), Some("t"), None]), Code::IllegalTopic),
        (insert(1, &[Some("a"), None, Some("k"), Some("t"), None]), Code::MissingValue),
        (insert(1, &[None, Some("order"), Some("k"), Some("t"), None]), Code::MissingValue),
    ] {
        let mut intake = intake(&first(), Transaction::default());
        feed(&mut intake, &[outbox(), begin(0x100)]);
        let fault = intake.take(&frame, SENT, T0).unwrap_err();
        assert_eq!(fault.code, code);
        assert!(fault.message.contains("0/100") && fault.message.contains("row 0"), "{}", fault.message);
        assert!(!fault.to_string().contains("xxx") && !fault.to_string().contains("a/b"), "{fault}");
    }
}

#[test]
fn old_commits_carry_the_relays_time() {
    let mut old = topic(4);
    old.limits.retention_ms = Some(1000);
    let mut intake = Intake::new(&config(Transaction::default()), Epoch(1), &first(), vec![old], T0);
    feed(&mut intake, &[outbox(), begin(100), row("a", None), commit(100, 108)]);
    intake.pace(T0);
    let set = intake.take_sealed().remove(0);
    assert!(String::from_utf8_lossy(&set.batches[0].bytes).contains("pb-ts"));
    assert_eq!(intake.retimed(), 1);
}

#[test]
fn a_settled_transaction_shares_no_set_with_those_before_it() {
    let mut intake = intake(&first(), Transaction::default());
    intake.settle_before(Lsn(110));
    let one = |commit_lsn: u64| [begin(commit_lsn), row("a", None), commit(commit_lsn, commit_lsn + 8)];
    feed(&mut intake, &[outbox()]);
    feed(&mut intake, &one(90));
    feed(&mut intake, &one(100));
    feed(&mut intake, &[begin(110), row("b", None)]);
    let sets = intake.take_sealed();
    assert_eq!(sets.len(), 1);
    assert_eq!((sets[0].events, sets[0].end.commit_lsn), (2, Lsn(100)));
}

#[test]
fn updates_give_no_event_and_do_what_they_are_told_to() {
    let changed = update(1, &[Some("a"), Some("order"), Some("key"), Some("other"), None]);
    for (updates, seen) in [
        (Updates::Warn, Some(UpdatesSeen { warnings: 1, errors: 0 })),
        (Updates::Error, Some(UpdatesSeen { warnings: 0, errors: 1 })),
        (Updates::Stop, None),
    ] {
        let mut config = config(Transaction::default());
        config.outbox[0].updates = updates;
        let mut intake = Intake::new(&config, Epoch(1), &first(), vec![topic(4)], T0);
        // An unrelated table may change as it likes.
        let other = relation(2, "other", &[("id", 25)]);
        feed(&mut intake, &[outbox(), other, begin(100), update(2, &[None]), row("a", None), delete(1, "a")]);
        match (seen, intake.take(&changed, SENT, T0)) {
            (None, Err(fault)) => {
                assert_eq!(fault.code, Code::OutboxUpdated);
                assert!(fault.message.contains("row 3 of the transaction at 0/64"), "{fault}");
            }
            (Some(seen), Ok(Taken::Done)) => {
                feed(&mut intake, &[commit(100, 108)]);
                intake.pace(T0);
                assert_eq!(intake.take_sealed().remove(0).events, 1);
                assert_eq!(intake.updates(), seen);
            }
            (_, other) => panic!("{updates:?}: {other:?}"),
        }
    }
}

#[test]
fn a_rows_own_time_is_the_records() {
    let mut config = config(Transaction::default());
    config.outbox[0].timestamp_column = Some("at".into());
    let mut intake = Intake::new(&config, Epoch(1), &first(), vec![topic(4)], T0);
    let columns = [("id", 25), ("aggregatetype", 25), ("aggregateid", 25), ("payload", 25), ("at", 1114)];
    let row = |at| insert(1, &[Some("a"), Some("order"), Some("k"), None, at]);
    feed(&mut intake, &[relation(1, "outbox", &columns), begin(100), row(Some("2020-02-02 02:02:02.002"))]);
    feed(&mut intake, &[commit(100, 108)]);
    intake.pace(T0);
    let set = intake.take_sealed().remove(0);
    // Offset 27 of a record batch: the first record's timestamp.
    let first: [u8; 8] = set.batches[0].bytes[27..35].try_into().unwrap();
    assert_eq!(i64::from_be_bytes(first), 1_580_608_922_002);
    assert_eq!(set.end.last_commit_ms, Some(SENT.to_unix_millis()), "the commit is what lags");
}

#[test]
fn a_stream_of_another_history_gives_nothing() {
    let mut known = intake(&first(), Transaction::default());
    feed(&mut known, &[outbox(), begin(100), row("a", None), commit(100, 108)]);
    known.pace(T0);
    let end = known.take_sealed().remove(0).end;
    let position = end.position(first().position.as_ref().unwrap(), 0);
    let table = Table { position: Some(position.clone()), ..first() };
    let resumed = || {
        let mut intake = intake(&table, Transaction::default());
        intake.recognise(Recognition::of(&position, Lsn(50), ""));
        intake
    };
    let mut same = resumed();
    feed(&mut same, &[outbox(), begin(100), row("a", None), commit(100, 108)]);
    assert!(same.keepalive(Lsn(300), false).is_ok());
    assert_eq!((resumed().confirmed(), same.confirmed()), (Lsn::ZERO, Lsn(108)));
    let mut other = resumed();
    let fault = other.take(&begin(101), SENT, T0).expect_err("not the one that was published");
    assert_eq!(fault.code, Code::LineageDiffers);
    assert_eq!(resumed().keepalive(Lsn(101), false).map_err(|fault| fault.code), Err(Code::LineageDiffers));
}
