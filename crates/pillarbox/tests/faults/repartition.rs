//! Partitions added to a topic, and the pin moved under load while relays are killed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use pillarbox_wire::header::PbPos;
use pillarbox_wire::partition::partition_for_key;
use pillarbox_wire::position::Position;
use rdkafka::message::Message;
use serde_json::{Value, json};

use crate::harness::records::{Isolation, header, read};
use crate::harness::site::Site;
use crate::probe;
use crate::topics::{TOPIC, administer};
use crate::world::{PARTITIONS, PATIENCE, site, streaming};

const MORE: u32 = 10;

/// Rows of several keys in one transaction; id and order are one number.
const WRITE: &str = "INSERT INTO outbox SELECT lpad(to_hex(nextval('ids')), 32, '0')::uuid, 'order', 'key-' || k, \
     'made', '{}' FROM generate_series(1, 20) k";

/// `id`, key, partition and `pb-pos` of every event, by position. Sequences are dense in every partition.
fn events(site: &Site) -> Vec<(Position, String, Vec<u8>, u32)> {
    let mut found = Vec::new();
    let mut last = vec![0; MORE as usize];
    read(&site.kafka.bootstrap(), TOPIC, Isolation::Committed, |message| {
        let position = header(message, "pb-pos").expect("a position");
        let position = PbPos::parse(&position).map(|at| (at.position, at.sequence.0)).expect("one");
        let partition = u32::try_from(message.partition()).expect("a partition");
        let before = std::mem::replace(&mut last[partition as usize], position.1);
        assert_eq!(position.1, before + 1, "partition {partition}: the sequence is not dense");
        let key = message.key().expect("a key").to_vec();
        found.push((position.0, header(message, "id").expect("an id"), key, partition));
    });
    found.sort_by_key(|(position, ..)| *position);
    found
}

/// Ends the writer, also where the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_pin_moves_once_at_one_place_in_history() {
    let site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    site.postgres.execute("postgres", "CREATE SEQUENCE ids").expect("a sequence");
    let ended = AtomicBool::new(false);
    let words = ["repartition", TOPIC, "-o", "json", "--timeout", "5m"];
    let plan = |words: &[&str]| {
        let answer = site.command(words, &configuration);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        serde_json::from_str::<Value>(&answer.stdout).expect("JSON")
    };
    thread::scope(|scope| {
        let _guard = Ends(&ended);
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                site.postgres.execute("postgres", WRITE).expect("rows");
            }
        });
        relay.wait_count("events_total", 200, PATIENCE);
        let value = plan(&words);
        assert_eq!((&value["partitions"], &value["done"]), (&json!(PARTITIONS), &json!(false)), "{value}");

        administer(&site, "org.apache.kafka.tools.TopicCommand", &["--partitions", &MORE.to_string()]);
        let value = plan(&[&words[..], &["--dry-run"]].concat());
        assert_eq!((&value["pinned"], &value["done"]), (&json!(PARTITIONS), &json!(false)), "{value}");
        let asked = scope.spawn(|| plan(&words));
        for _ in 0..4 {
            thread::sleep(Duration::from_millis(300));
            relay.kill9();
            relay.start_again();
        }
        let value = asked.join().expect("the command ends");
        assert_eq!((&value["partitions"], &value["done"]), (&json!(MORE), &json!(true)), "{value}");
        relay.wait_state("streaming", PATIENCE);
        let more = relay.count("events_total") + 500;
        relay.wait_count("events_total", more, PATIENCE);
        relay.kill9();
        relay.start_again();
        ended.store(true, Ordering::Relaxed);
    });
    site.caught_up(&configuration, PATIENCE);

    let events = events(&site);
    let written = site.postgres.query_one("postgres", "SELECT count(*) FROM outbox").expect("a count");
    assert_eq!(events.len().to_string(), written, "each event once");
    let moved = events.iter().position(|(_, _, key, at)| *at != partition_for_key(key, PARTITIONS).0);
    let moved = moved.expect("events after the move");
    assert!(moved > 0 && moved < events.len());
    let (before, after) = events.split_at(moved);
    assert!(before.iter().all(|(_, _, key, at)| *at == partition_for_key(key, PARTITIONS).0));
    // The first events behind the move may be those of keys that stay.
    assert!(after.iter().all(|(_, _, key, at)| *at == partition_for_key(key, MORE).0));
    let mut ids: Vec<&String> = events.iter().map(|(_, id, ..)| id).collect();
    assert!(ids.is_sorted(), "commit order");
    ids.dedup();
    assert_eq!(ids.len(), events.len());
    println!("{} events, {moved} before the move", events.len());
}

#[test]
fn a_topic_without_events_is_refused() {
    let site = site();
    let (configuration, _relay) = streaming(&site, &[]);
    for topic in ["no.such.topic", "__pillarbox.orders"] {
        let answer = site.command(&["repartition", topic], &configuration);
        assert_eq!(answer.code, Some(1), "{}", answer.stderr);
        assert!(answer.stderr.contains("error[PB-2021]"), "{}", answer.stderr);
    }
}

#[test]
fn a_topic_deleted_before_the_order_is_not_created_again() {
    let site = site();
    let (_, mut relay) = streaming(&site, &[]);
    site.postgres.execute("postgres", "CREATE SEQUENCE ids").expect("a sequence");
    site.postgres.execute("postgres", WRITE).expect("rows");
    relay.wait_count("events_total", 20, PATIENCE);
    assert_eq!(relay.post("/api/v1/pause").expect("an answer").0, 200);
    site.kafka.delete_topic(TOPIC).expect("the topic is deleted");
    let order = format!(
        "SELECT pg_logical_emit_message(true, 'pillarbox.repartition', \
         '{{\"pipeline\":\"orders\",\"topic\":\"{TOPIC}\"}}')"
    );
    site.postgres.execute("postgres", &order).expect("an order");
    assert_eq!(relay.post("/api/v1/resume").expect("an answer").0, 200);
    relay.wait_state("halted", PATIENCE);
    assert_eq!(relay.fault().as_deref(), Some("PB-2006"));
    assert!(!probe::topics(&site).iter().any(|topic| topic == TOPIC), "it was created again");
}
