//! Arrivals as reader and sink tell of them.

use bytes::BytesMut;
use pillarbox_kafka::producer::TopicRef;
use pillarbox_wire::lsn::{SystemId, TimelineId};
use uuid::Uuid;

use super::*;

fn facts() -> SourceFacts {
    SourceFacts {
        system_id: SystemId(7),
        timeline: TimelineId(1),
        wal_position: Lsn(0),
        history: Vec::new(),
        confirmed_flush_lsn: Lsn(0),
        lineage: None,
    }
}

fn record(partitions: u32, first_slot: u32) -> TopicRecord {
    TopicRecord { topic_id: "t".into(), partitions, first_slot }
}

/// Topic `a` of two partitions with 5 and 0 events, topic `b` of one with 9, and dead letters.
fn table() -> Table {
    let topics =
        [("a", record(2, 0)), ("b", record(1, 2)), ("__pillarbox.orders.dead-letters", record(1, 3))];
    Table {
        position: None,
        topics: topics.map(|(name, record)| (name.to_owned(), record)).into(),
        sequences: vec![5, 0, 9, 4],
    }
}

fn begun() -> Arrivals {
    let arrivals = Arrivals::new("orders");
    arrivals.began(&facts(), &table());
    arrivals
}

fn batch(topic: &str, partition: i32, records: u32) -> Batch {
    let topic = Arc::new(TopicRef { name: topic.to_owned(), id: Uuid::nil() });
    Batch { topic, partition, bytes: BytesMut::new(), records }
}

fn delta(sequences: &[u64]) -> Delta {
    Delta { topics: Vec::new(), buckets: vec![(0, sequences.to_vec())] }
}

fn token(text: &str) -> Token {
    text.parse().expect("a token")
}

fn reached(arrivals: &Arrivals, lsn: &str, topics: &[&str]) -> Option<String> {
    let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
    let receipt = arrivals.reached(&token(&format!("7:1:{lsn}")), &topics).expect("of this history");
    receipt.map(|receipt| receipt.to_string())
}

fn find(arrivals: &Arrivals, id: &str) -> Option<(String, u32, u64, Option<i64>)> {
    let place = arrivals.find(&mut arrivals.look(id))?;
    Some((place.topic, place.partition, place.sequence, place.offset))
}

#[test]
fn a_token_is_reached_by_a_commit_or_in_silence() {
    let arrivals = Arrivals::new("orders");
    assert_eq!((reached(&arrivals, "0/0", &[]), arrivals.through()), (None, None), "it never led");
    arrivals.began(&facts(), &table());
    assert_eq!(reached(&arrivals, "0/10", &[]), None);
    arrivals.committed(Lsn(0x10), &delta(&[5, 1, 9, 4]), &[batch("a", 1, 1)], &[70]);
    assert_eq!(reached(&arrivals, "0/10", &[]), Some("orders:a/0=5,a/1=1,b/0=9".into()));
    assert_eq!(reached(&arrivals, "0/11", &[]), None);
    arrivals.caught_up(Lsn(0x11));
    assert_eq!(reached(&arrivals, "0/11", &["b"]), Some("orders:b/0=9".into()));
    arrivals.caught_up(Lsn(0x5));
    assert_eq!(arrivals.through(), Some(Lsn(0x11)), "never backwards");
}

#[test]
fn partitions_without_events_and_letters_are_not_in_a_receipt() {
    let arrivals = begun();
    assert_eq!(reached(&arrivals, "0/0", &[]), Some("orders:a/0=5,b/0=9".into()));
    let letters = "__pillarbox.orders.dead-letters";
    assert_eq!(reached(&arrivals, "0/0", &[letters]), Some(format!("orders:{letters}/0=4")));
    let unknown = arrivals.reached(&token("7:1:0/0"), &["c".to_owned()]).expect_err("no such topic");
    assert_eq!(unknown.code, Code::TopicUnknown);
    assert_eq!(arrivals.reached(&token("7:1:0/1"), &["c".to_owned()]), Ok(None), "it may still come");
}

#[test]
fn an_event_is_found_once_it_is_committed() {
    let arrivals = begun();
    let mut look = arrivals.look("e-1");
    assert_eq!(arrivals.find(&mut look), None);
    arrivals.takes(b"e-0", 0, 6);
    arrivals.takes(b"e-1", 0, 7);
    arrivals.takes(b"e-2", 0, 8);
    assert_eq!(arrivals.find(&mut look), None, "taken is not committed");
    let batches = [batch("a", 0, 1), batch("b", 0, 1), batch("a", 0, 2)];
    arrivals.committed(Lsn(0x10), &delta(&[8, 0, 10, 4]), &batches, &[40, 90, 50]);
    let place = Place { topic: "a".into(), partition: 0, sequence: 7, offset: Some(50) };
    assert_eq!(arrivals.find(&mut look), Some(place));
    assert_eq!(find(&arrivals, "e-0"), Some(("a".into(), 0, 6, Some(40))));
    assert_eq!(find(&arrivals, "e-2"), Some(("a".into(), 0, 8, Some(51))));
    assert_eq!(find(&arrivals, "e-3"), None);
}

#[test]
fn an_offset_that_was_not_told_is_left_out() {
    let arrivals = begun();
    arrivals.takes(b"e", 0, 6);
    arrivals.committed(Lsn(0x10), &delta(&[6, 0, 9, 4]), &[batch("a", 0, 1)], &[-1]);
    assert_eq!(find(&arrivals, "e"), Some(("a".into(), 0, 6, None)));
}

#[test]
fn what_was_taken_and_lost_is_forgotten_at_the_next_start() {
    let arrivals = begun();
    arrivals.takes(b"kept", 0, 5);
    arrivals.takes(b"lost", 0, 6);
    let mut look = arrivals.look("lost");
    assert_eq!(arrivals.find(&mut look), None);
    arrivals.began(&facts(), &table());
    assert_eq!(find(&arrivals, "kept"), Some(("a".into(), 0, 5, None)));
    // Another event gets the place that it had.
    arrivals.takes(b"other", 0, 6);
    arrivals.committed(Lsn(0x10), &delta(&[6, 0, 9, 4]), &[batch("a", 0, 1)], &[40]);
    assert_eq!(arrivals.find(&mut look), None);
    arrivals.takes(b"lost", 0, 7);
    arrivals.committed(Lsn(0x20), &delta(&[7, 0, 9, 4]), &[batch("a", 0, 1)], &[41]);
    assert_eq!(arrivals.find(&mut look).map(|place| place.sequence), Some(7));
}

#[test]
fn a_moved_pin_keeps_the_places_of_older_events() {
    let arrivals = begun();
    arrivals.takes(b"old", 0, 6);
    arrivals.committed(Lsn(0x10), &delta(&[6, 0, 9, 4]), &[batch("a", 0, 1)], &[40]);
    let moved =
        Delta { topics: vec![("a".into(), record(3, 4))], buckets: vec![(0, vec![6, 0, 9, 4, 6, 0, 0])] };
    arrivals.committed(Lsn(0x20), &moved, &[], &[]);
    arrivals.takes(b"new", 6, 1);
    arrivals.committed(Lsn(0x30), &delta(&[6, 0, 9, 4, 6, 0, 1]), &[batch("a", 2, 1)], &[0]);
    assert_eq!(find(&arrivals, "old"), Some(("a".into(), 0, 6, Some(40))));
    assert_eq!(find(&arrivals, "new"), Some(("a".into(), 2, 1, Some(0))));
    assert_eq!(reached(&arrivals, "0/30", &["a"]), Some("orders:a/0=6,a/2=1".into()));
}

#[test]
fn a_receipt_of_events_names_the_last_of_each_partition() {
    let place =
        |topic: &str, partition, sequence| Place { topic: topic.into(), partition, sequence, offset: None };
    let places =
        vec![place("b", 0, 3), place("a", 1, 9), place("a", 1, 10), place("a", 0, 7), place("b", 0, 1)];
    assert_eq!(Receipt::new("orders", places).to_string(), "orders:a/0=7,a/1=10,b/0=3");
    assert_eq!(Receipt::new("orders", Vec::new()).to_string(), "orders:");
}

#[test]
fn ids_differ_by_their_hash() {
    let arrivals = Arrivals::new("orders");
    let mut hashes: Vec<u64> = (0..50_000_u32).map(|n| arrivals.ids.hash(n.to_string().as_bytes())).collect();
    hashes
        .extend((0..50_000_u32).map(|n| arrivals.ids.hash(Uuid::from_u128(n.into()).to_string().as_bytes())));
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 100_000);
    assert_ne!(hashes[0], 0);
}

#[tokio::test]
async fn whoever_waits_is_woken() {
    let arrivals = Arc::new(begun());
    let changes = arrivals.known.subscribe();
    arrivals.caught_up(Lsn(0x8));
    assert!(!changes.has_changed().expect("it lives"), "nobody waits");
    let mut ticks = arrivals.ticks();
    let forward = tokio::spawn(Arc::clone(&arrivals).forward());
    arrivals.caught_up(Lsn(0x10));
    ticks.changed().await.expect("it lives");
    assert!(reached(&arrivals, "0/10", &[]).is_some());
    forward.abort();
}
