//! How a relay ends, pauses and goes on; and that two of them do not share a port.

use std::fs;
use std::time::{Duration, Instant};

use pillarbox_lab::{KafkaOptions, PostgresOptions};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::dice::Dice;
use crate::harness::relay::Relay;
use crate::harness::site::Site;
use crate::harness::until::until;
use crate::probe::OpenTransactions;
use crate::world::{PARTITIONS, PATIENCE, load, settle, site, streaming};

/// The drain's own deadline is 20 s.
const DRAIN_MAX: Duration = Duration::from_secs(25);

/// A drain reads on inside a transaction for 5 s, and gives a commit 10 s.
const READ_ON: Duration = Duration::from_millis(5_500);

fn ask(relay: &Relay, verb: &str) {
    let (code, text) = relay.post(&format!("/api/v1/{verb}")).expect("an answer");
    assert_eq!(code, 200, "{verb}: {text}");
}

/// fault: 4 SIGTERM five times, each with events in flight
/// holds: nothing lost; what was read is committed and confirmed, so that nothing is sent again; no transaction is left
/// open
/// told: exit code 0
#[test]
fn sigterm_commits_and_confirms_what_is_in_flight_and_exits_0() {
    let site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, options) = load(&site, Dice::new().seed(), 300.0);
    relay.wait_count("events_total", 1_000, PATIENCE);
    let open = OpenTransactions::watch(&site, &options.topics(), PARTITIONS);
    for round in 1..=5 {
        let status = relay.terminate(DRAIN_MAX);
        assert_eq!(status.code(), Some(0), "round {round}");
        assert!(open.end(), "round {round} left a transaction open");
        let confirmed =
            "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'pillarbox_orders'";
        let resume = &crate::probe::checkpoint(&site, "orders")["position"]["resume_lsn"];
        // The walsender has read the last status before it ends.
        until(&format!("all of round {round} is confirmed"), PATIENCE, || {
            let confirmed = site.postgres.query_one("postgres", confirmed).expect("the slot");
            (resume.as_str() == Some(confirmed.as_str())).then_some(())
        });
        relay = site.relay(&configuration);
        relay.wait_count("events_total", 200, PATIENCE);
    }
    settle(&site, &configuration, load, &options);
}

/// fault: 4 SIGTERM inside a transaction of 100,000 rows while Kafka hangs
/// holds: nothing lost; it ends inside the transaction and goes on inside of it
/// told: exit code 0
#[test]
fn a_drain_inside_a_huge_transaction_ends_with_what_is_sealed_and_leaves_nothing_open() {
    // A broker that stood still is not fenced for it, which would take more of the 10 s.
    let kafka = KafkaOptions::default().setting("broker.session.timeout.ms", "60000");
    let mut site = Site::start(PostgresOptions::default(), kafka);
    let (configuration, mut relay) = streaming(&site, &["transaction: { max_events: 100 }"]);
    let sql = "INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload) SELECT gen_random_uuid(), \
               'order', 'k' || i % 50, 'made', '{}' FROM generate_series(1, 100000) i";
    site.postgres.execute("postgres", sql).expect("one transaction");
    relay.wait_count("events_total", 1_000, PATIENCE);
    let open = OpenTransactions::watch(&site, &["outbox.event.order".to_owned()], PARTITIONS);
    site.kafka.suspend(1).expect("Kafka hangs");
    // Longer than the drain reads on, shorter than it waits for a commit.
    let pid = Pid::from_raw(i32::try_from(relay.pid()).expect("a pid")).expect("not zero");
    kill_process(pid, Signal::TERM).expect("the relay takes the signal");
    let since = Instant::now();
    until("the relay has stopped to read", PATIENCE, || (since.elapsed() > READ_ON).then_some(()));
    assert!(relay.is_running(), "it ended although sets were in flight");
    site.kafka.resume(1).expect("Kafka goes on");
    assert_eq!(relay.wait_end(DRAIN_MAX).code(), Some(0));
    assert!(open.end(), "it left a transaction open");
    let position = &crate::probe::checkpoint(&site, "orders")["position"];
    assert!(position["index"].is_u64(), "it did not end inside the transaction: {position}");
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", PATIENCE);
    site.caught_up(&configuration, 2 * PATIENCE);
    assert_eq!(crate::probe::records(&site, "outbox.event.order", 4).len(), 100_000);
}

#[test]
fn a_pause_survives_sigterm_and_kill_9_and_a_resume_does_too() {
    let site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, options) = load(&site, Dice::new().seed(), 100.0);
    relay.wait_count("events_total", 200, PATIENCE);
    ask(&relay, "pause");
    // At once: what was answered must hold.
    relay.kill9();
    relay = site.relay(&configuration);
    relay.wait_state("paused", PATIENCE);
    assert_eq!(relay.get("/readyz").expect("an answer").0, 200);
    assert_eq!(relay.terminate(DRAIN_MAX).code(), Some(0));
    relay = site.relay(&configuration);
    relay.wait_state("paused", PATIENCE);
    assert_eq!(relay.count("events_total"), 0, "a paused relay relays nothing");
    ask(&relay, "resume");
    relay.kill9();
    relay = site.relay(&configuration);
    relay.wait_state("streaming", PATIENCE);
    relay.wait_count("events_total", 200, PATIENCE);
    settle(&site, &configuration, load, &options);
}

#[test]
fn a_pause_and_a_resume_in_turn_end_as_the_last_one_says() {
    let site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, options) = load(&site, Dice::new().seed(), 200.0);
    for _ in 0..20 {
        ask(&relay, "pause");
        assert_eq!(relay.state().as_deref(), Some("paused"));
        ask(&relay, "resume");
        until("streaming", PATIENCE, || (relay.state()? == "streaming").then_some(()));
    }
    relay.wait_count("events_total", 200, PATIENCE);
    settle(&site, &configuration, load, &options);
    assert!(relay.is_running());
}

#[test]
fn a_second_run_on_the_same_port_says_so_and_touches_nothing() {
    let site = site();
    let (configuration, relay) = streaming(&site, &[]);
    let answer = site.command(&["run"], &configuration);
    assert_eq!(answer.code, Some(78), "{}", answer.stderr);
    let address = format!("127.0.0.1:{}", configuration.port);
    assert!(answer.stderr.contains("error[PB-0003]"), "{}", answer.stderr);
    assert!(answer.stderr.contains(&address) && answer.stderr.contains("hint: "), "{}", answer.stderr);
    assert_eq!(relay.count("starts_total"), 1);
    let text = fs::read_to_string(&configuration.file).expect("the file");
    assert!(text.contains(&address));
}
