//! A relay that is stopped, killed, or started with another number of transactional ids.

use std::time::Duration;

use pillarbox_lab::{KafkaOptions, PostgresOptions};

use crate::harness::dice::Dice;
use crate::harness::site::Site;
use crate::harness::until::until;
use crate::probe::{self, OpenTransactions};
use crate::world::{PARTITIONS, PATIENCE, load, settle, site, streaming};

/// Rows of the transaction that is killed inside: at [`SPLIT_EVENTS`] a part, seconds of work.
const SPLIT_ROWS: u32 = 60_000;
/// `kafka.transaction.timeout`, as it comes.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);
/// How long markers may take: much less than the timeout of a transaction.
const MARKERS: Duration = Duration::from_secs(1);
/// Events of a part.
const SPLIT_EVENTS: u32 = 40;

/// fault: 2, 36 stopped inside a Kafka transaction until the broker aborts it
/// holds: nothing lost; it starts once more by itself
/// told: the start is counted (`starts_total`); the log has PB-2015
#[test]
fn a_relay_stopped_inside_a_transaction_goes_on_by_itself_after_the_broker_aborted_it() {
    let kafka =
        KafkaOptions::default().setting("transaction.abort.timed.out.transaction.cleanup.interval.ms", "500");
    let site = Site::start(PostgresOptions::default(), kafka);
    let mut dice = Dice::new();
    let (configuration, mut relay) = streaming(&site, &["transaction: { timeout: 5s }"]);
    let (load, options) = load(&site, dice.seed(), 400.0);
    relay.wait_count("events_total", 2_000, PATIENCE);
    let open = OpenTransactions::watch(&site, &options.topics(), PARTITIONS);
    let mut attempts = 0;
    loop {
        attempts += 1;
        relay.suspend();
        // Not one that only waits for its markers; the abort comes later.
        if open.exist() {
            std::thread::sleep(MARKERS);
            if open.exist() {
                break;
            }
        }
        relay.resume();
        let more = relay.count("events_total") + 1 + dice.below(300);
        relay.wait_count("events_total", more, PATIENCE);
    }
    let (_, took) = until("the broker aborts", PATIENCE, || (!open.exist()).then_some(()));
    println!("stopped inside a transaction at attempt {attempts}, aborted after {took:.1?}");
    relay.resume();
    let (starts, goes_on) = until("a second start", PATIENCE, || {
        let starts = relay.count("starts_total");
        (starts >= 2 && relay.state().as_deref() == Some("streaming")).then_some(starts)
    });
    println!("streams again {goes_on:.2?} after it was continued, at start {starts}");
    settle(&site, &configuration, load, &options);
    assert!(relay.is_running());
}

#[test]
fn another_number_of_transactional_ids_loses_and_doubles_nothing() {
    let site = site();
    let seed = Dice::new().seed();
    let (mut configuration, mut relay) = streaming(&site, &["transaction: { ids: 4 }"]);
    let (load, options) = load(&site, seed, 300.0);
    for ids in [1, 8, 1, 4] {
        relay.wait_count("events_total", 1_000, PATIENCE);
        // Killed, so that whatever its ids had open is left to the successor.
        relay.kill9();
        configuration = site.configure("orders", PARTITIONS, &[&format!("transaction: {{ ids: {ids} }}")]);
        relay = site.relay(&configuration);
        // An id that nobody fenced would hold the checkpoint back until its transaction times out.
        relay.wait_state("streaming", TRANSACTION_TIMEOUT / 2);
    }
    relay.wait_count("events_total", 1_000, PATIENCE);
    settle(&site, &configuration, load, &options);
}

#[test]
fn killed_inside_a_split_transaction_it_resumes_inside_with_the_right_parts() {
    let site = site();
    let events = format!("transaction: {{ max_events: {SPLIT_EVENTS} }}");
    let (configuration, mut relay) = streaming(&site, &[&events]);
    let sql = format!(
        "INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload) SELECT gen_random_uuid(), \
         'order', 'k' || i % 50, 'made', '{{}}' FROM generate_series(1, {SPLIT_ROWS}) i"
    );
    site.postgres.execute("postgres", &sql).expect("one transaction");
    let mut inside = 0;
    for published in [1_000, 3_000, 9_000] {
        relay.wait_count("events_total", published, PATIENCE);
        relay.kill9();
        let index = &probe::checkpoint(&site, "orders")["position"]["index"];
        inside += u32::from(index.is_u64());
        println!("killed at index {index}");
        relay = site.relay(&configuration);
    }
    assert!(inside > 0, "no kill fell inside the transaction");
    site.caught_up(&configuration, 2 * PATIENCE);
    let seen = probe::records(&site, "outbox.event.order", 4);
    assert_eq!(seen.len(), SPLIT_ROWS as usize);
    let mut events_of_part = 0;
    for (expected, seen) in (0..).zip(&seen) {
        assert_eq!(seen.position.index, expected, "each ordinal once");
    }
    for pair in seen.windows(2) {
        let (before, after) = (pair[0].part, pair[1].part);
        events_of_part = if before == after { events_of_part + 1 } else { 1 };
        assert!(after == before || after == before + 1, "part {after} after part {before}");
        assert!(events_of_part <= SPLIT_EVENTS, "part {after} is larger than allowed");
    }
    assert_eq!(seen[0].part, 1);
    let parts = seen[seen.len() - 1].part;
    println!("{parts} parts, killed inside {inside} times");
    assert!(parts >= SPLIT_ROWS / SPLIT_EVENTS);
    let position = &probe::checkpoint(&site, "orders")["position"];
    assert!(position["index"].is_null() && position["part"].is_null(), "{position}");
    assert_eq!(relay.terminate(Duration::from_secs(25)).code(), Some(0));
}
