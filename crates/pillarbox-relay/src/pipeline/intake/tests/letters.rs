//! Rows that go to dead letters, and orders about them: what shares a set, and what halts.

use super::*;
use crate::config::OnError;
use crate::dead_letters::letter::{Letters, State};
use crate::dead_letters::order::{self, PREFIX, Shape};
use crate::pipeline::intake::LettersSeen;
use pillarbox_kafka::reader::Record;
use pillarbox_wire::position::Position;

const LETTERS: &str = "__pillarbox.orders.dead-letters";
const LETTER: &str = "orders:00000001000000000000006400000001:1";

fn lettering(limits: Transaction) -> Config {
    let mut config = config(limits);
    config.outbox[0].on_error = OnError::DeadLetter;
    config
}

fn letters_topic() -> Topic {
    let mut topic = topic(1);
    topic.name = LETTERS.into();
    topic.limits.batch_bytes_max = 1500;
    topic
}

fn started(config: &Config) -> Intake {
    Intake::new(config, Epoch(1), &first(), vec![topic(4), letters_topic()], T0)
}

fn sealed(intake: &mut Intake) -> SealedSet {
    intake.pace(T0);
    let mut sets = intake.take_sealed();
    assert_eq!(sets.len(), 1, "one set");
    sets.remove(0)
}

/// Records that went to a topic, and all their bytes as far as they are text.
fn told(set: &SealedSet, topic: &str) -> (u32, String) {
    let batches = set.batches.iter().filter(|batch| batch.topic.name == topic);
    batches.fold((0, String::new()), |(records, text), batch| {
        (records + record_count(&batch.bytes), text + &String::from_utf8_lossy(&batch.bytes))
    })
}

fn order(content: &[u8]) -> Vec<u8> {
    message(true, PREFIX, content)
}

fn shape(table: &str) -> Shape {
    let columns = ["id", "aggregatetype", "aggregateid", "type", "payload"];
    Shape {
        schema: "public".into(),
        table: table.into(),
        columns: columns.map(|name| (name.to_owned(), 25, -1)).to_vec(),
    }
}

/// An order to replay a row of text values.
fn replay(table: &str, values: &[Option<&str>; 5]) -> Vec<u8> {
    // `I`, relation, `N`, count: the columns follow.
    let columns = &insert(1, values)[8..];
    order(&order::replay("orders", LETTER, &shape(table), columns).unwrap())
}

#[test]
fn refused_rows_share_the_set_of_the_rows_around_them() {
    let huge = "x".repeat(2000);
    for (frame, code) in [
        (row("a", Some(&huge)), "PB-4002"),
        (insert(1, &[Some("a"), Some("a/b"), Some("k"), Some("t"), None]), "PB-4001"),
        (insert(1, &[Some("a"), None, Some("k"), Some("t"), None]), "PB-4003"),
        (insert(1, &[None, Some("order"), Some("k"), Some("t"), None]), "PB-4003"),
    ] {
        let mut intake = started(&lettering(Transaction::default()));
        feed(
            &mut intake,
            &[outbox(), begin(100), row("one", None), frame, row("two", None), commit(100, 108)],
        );
        let set = sealed(&mut intake);
        assert_eq!((set.events, set.dead_letters, set.transactions), (2, 1, 1), "{code}");
        let (events, text) = told(&set, "outbox.event.order");
        assert!(events == 2 && text.contains("one") && text.contains("two") && !text.contains(code));
        let (letters, text) = told(&set, LETTERS);
        assert_eq!(letters, if code == "PB-4002" { 3 } else { 1 }, "{code}");
        assert!(text.contains(code) && text.contains("public.outbox"), "{text}");
        assert!(
            text.contains("orders:00000001000000000000006400000001:1"),
            "its position, sequence 1: {text}"
        );
        // The data topic's sequence did not move for it.
        assert_eq!(set.delta.buckets[0].1.iter().sum::<u64>(), 2 + u64::from(letters));
        assert_eq!(intake.letters().letters, 1);
        let fault = intake.letters().last.clone().unwrap();
        assert!(!fault.to_string().contains("xxx") && !fault.to_string().contains("a/b"), "{fault}");
    }
}

#[test]
fn other_tables_and_other_errors_stop_as_ever() {
    let mut config = lettering(Transaction::default());
    let table = TableName { schema: "public".into(), name: "strict".into() };
    config.outbox.push(Outbox::debezium(table));
    let mut intake = started(&config);
    let columns = [("id", 25), ("aggregatetype", 25), ("aggregateid", 25), ("type", 25), ("payload", 25)];
    feed(&mut intake, &[outbox(), relation(2, "strict", &columns), begin(100)]);
    let bad = |oid| insert(oid, &[None, Some("order"), Some("k"), Some("t"), None]);
    assert_eq!(intake.take(&bad(2), SENT, T0).unwrap_err().code, Code::MissingValue);
    feed(&mut intake, &[bad(1), relation(1, "outbox", &columns[1..])]);
    let without_id = insert(1, &[Some("order"), Some("k"), Some("t"), None]);
    assert_eq!(intake.take(&without_id, SENT, T0).unwrap_err().code, Code::ColumnMissing);
}

#[test]
fn the_topic_is_asked_for_once_a_letter_needs_it() {
    let config = lettering(Transaction::default());
    let mut intake = Intake::new(&config, Epoch(1), &first(), vec![topic(4)], T0);
    feed(&mut intake, &[outbox(), begin(100), row("a", None)]);
    let bad = insert(1, &[None, Some("order"), Some("k"), Some("t"), None]);
    assert_eq!(intake.take(&bad, SENT, T0).unwrap(), Taken::NeedsTopic(LETTERS.to_owned().into()));
    intake.learn(letters_topic());
    feed(&mut intake, &[bad, commit(100, 108)]);
    let set = sealed(&mut intake);
    assert!(set.delta.topics.iter().any(|(name, _)| name == LETTERS), "recorded like any topic");
}

#[test]
fn a_topic_too_small_for_any_chunk_stops() {
    let mut small = letters_topic();
    small.limits.batch_bytes_max = 700;
    let mut intake =
        Intake::new(&lettering(Transaction::default()), Epoch(1), &first(), vec![topic(4), small], T0);
    feed(&mut intake, &[outbox(), begin(100)]);
    let bad = insert(1, &[None, Some("order"), Some("k"), Some("t"), None]);
    assert_eq!(intake.take(&bad, SENT, T0).unwrap_err().code, Code::EventTooLarge);
}

#[test]
fn a_replay_is_an_event_and_a_verdict_in_one_set() {
    // Not even a transaction that is split after every event tears them.
    for events_max in [1, 100_000] {
        let mut intake = started(&lettering(Transaction { events_max, ..Transaction::default() }));
        let values = [Some("a"), Some("order"), Some("k"), Some("t"), Some("again")];
        feed(&mut intake, &[begin(200), replay("outbox", &values), commit(200, 208)]);
        let set = sealed(&mut intake);
        assert_eq!((set.events, set.dead_letters), (1, 0));
        let (events, text) = told(&set, "outbox.event.order");
        assert_eq!(events, 1);
        assert!(text.contains("again") && text.contains(LETTER) && text.contains("pb-orig-pos"), "{text}");
        assert!(text.contains("orders:0000000100000000000000c800000000:1"), "a new position: {text}");
        let (verdicts, text) = told(&set, LETTERS);
        assert_eq!(verdicts, 1);
        assert!(text.contains("replayed") && text.contains(LETTER) && !text.contains("again"), "{text}");
    }
}

#[test]
fn a_replay_that_is_refused_halts_nothing() {
    let good = [Some("a"), Some("order"), Some("k"), Some("t"), None];
    let bad = [None, Some("order"), Some("k"), Some("t"), None];
    for (table, values, code) in [("outbox", &bad, "PB-4003"), ("gone", &good, "PB-1017")] {
        let mut intake = started(&lettering(Transaction::default()));
        feed(&mut intake, &[begin(200), replay(table, values), commit(200, 208)]);
        let set = sealed(&mut intake);
        assert_eq!((set.events, set.dead_letters), (0, 0));
        let (verdicts, text) = told(&set, LETTERS);
        assert!(verdicts == 1 && text.contains("refused") && text.contains(code), "{text}");
    }
}

#[test]
fn orders_that_are_not_ours_or_not_understood_do_nothing() {
    let strange = order(b"{}\n");
    let foreign = order(&order::discard("others", LETTER));
    let mut intake = started(&lettering(Transaction::default()));
    feed(&mut intake, &[begin(200), strange.clone(), foreign, commit(200, 208)]);
    intake.pace(T0);
    assert!(intake.take_sealed().is_empty());
    assert_eq!(*intake.letters(), LettersSeen { letters: 0, last: None, strange: 1 });
    // Where nobody configured dead letters, nobody may order a replay.
    let values = [Some("a"), Some("order"), Some("k"), Some("t"), None];
    let mut intake = Intake::new(&config(Transaction::default()), Epoch(1), &first(), vec![topic(4)], T0);
    feed(&mut intake, &[begin(200), replay("outbox", &values), strange, commit(200, 208)]);
    intake.pace(T0);
    assert!(intake.take_sealed().is_empty());
}

#[test]
fn a_flush_commits_a_checkpoint_at_once() {
    let mut intake = started(&lettering(Transaction::default()));
    feed(&mut intake, &[begin(200), order(&order::flush("orders")), commit(200, 208)]);
    let set = sealed(&mut intake);
    assert_eq!((set.events, set.end.resume_lsn), (0, Lsn(208)));
}

#[test]
fn what_the_checkpoint_covers_is_carried_out_once() {
    let mut table = first();
    let position = table.position.as_mut().unwrap();
    (position.commit_lsn, position.published_end_lsn) = (Lsn(200), Lsn(208));
    let config = lettering(Transaction::default());
    let mut intake = Intake::new(&config, Epoch(1), &table, vec![topic(4), letters_topic()], T0);
    let bad = insert(1, &[None, Some("order"), Some("k"), Some("t"), None]);
    let discard = order(&order::discard("orders", LETTER));
    feed(&mut intake, &[outbox(), begin(100), bad, commit(100, 108), begin(200), discard, commit(200, 208)]);
    intake.pace(T0);
    assert!(intake.take_sealed().is_empty());
}

fn record(offset: i64, headers: &[(&'static str, &str)]) -> Record {
    let headers = headers.iter().map(|(name, value)| {
        (pillarbox_kafka::reader::StrBytes::from_static_str(name), Some(value.as_bytes().to_vec().into()))
    });
    Record { offset, timestamp_ms: 5, key: None, value: None, headers: headers.collect() }
}

#[test]
fn a_letter_is_open_until_a_verdict_closes_it() {
    let mut letters = Letters::default();
    let shape = serde_json::to_string(&shape("outbox")).unwrap();
    let at = "orders:0000000100000000000000c800000000:9";
    letters.take(&record(0, &[("pb-pos", "nonsense")]));
    letters.take(&record(
        1,
        &[
            ("pb-pos", LETTER),
            ("pb-chunk", "1/2"),
            ("pb-reason", "PB-4002"),
            ("pb-cause", "too large"),
            ("pb-row", &shape),
            ("pb-size", "7"),
        ],
    ));
    letters.take(&record(2, &[("pb-pos", LETTER), ("pb-chunk", "2/2")]));
    let refused = [("pb-verdict", "refused"), ("pb-reason", "PB-4003"), ("pb-cause", "NULL")];
    letters.take(&record(4, &[&[("pb-pos", at), ("pb-orig-pos", LETTER)][..], &refused].concat()));
    let open = Letters::into_vec(std::mem::take(&mut letters)).remove(0);
    assert_eq!((open.state, open.refusals, open.chunks, open.offset), (State::Open, 1, 2, 1));
    assert_eq!((open.reason.code.as_str(), open.size, open.id.as_deref()), ("PB-4003", 7, None));
    letters.take(&record(
        1,
        &[
            ("pb-pos", LETTER),
            ("pb-chunk", "1/1"),
            ("pb-reason", "r"),
            ("pb-cause", "c"),
            ("pb-row", &shape),
            ("pb-size", "0"),
        ],
    ));
    letters.take(&record(5, &[("pb-pos", at), ("pb-orig-pos", LETTER), ("pb-verdict", "replayed")]));
    let closed = letters.into_vec().remove(0);
    assert_eq!(closed.state, State::Replayed(Position { epoch: Epoch(1), commit_lsn: Lsn(200), index: 0 }));
}
