//! Kafka that is down or hangs, and Postgres that wants to stop meanwhile.

use std::time::{Duration, Instant};

use pillarbox_lab::ShutdownMode;

use crate::harness::dice::{Dice, number};
use crate::harness::relay::Relay;
use crate::harness::site::{Configuration, Site};
use crate::harness::until::until;
use crate::world::{PATIENCE, load, settle, site, streaming};

/// How long Kafka is down, in seconds; `PILLARBOX_OUTAGE_SECONDS` overrides it.
const OUTAGE_SECONDS: u64 = 30;

/// A fast shutdown of Postgres must take less, whatever Kafka and operators do.
const STOP_MAX: Duration = Duration::from_secs(15);

/// fault: 33 the only broker is gone for 30 s under load
/// holds: nothing lost; WAL waits in Postgres
/// told: `/readyz` 503 with PB-2001 or PB-3008; `/livez` stays 200
#[test]
fn kafka_down_under_load_is_waited_for_and_caught_up_with() {
    let outage = Duration::from_secs(number("PILLARBOX_OUTAGE_SECONDS", OUTAGE_SECONDS));
    let mut site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, options) = load(&site, Dice::new().seed(), 100.0);
    relay.wait_count("events_total", 500, PATIENCE);
    site.kafka.kill9(1).expect("the broker dies");
    let since = Instant::now();
    until("not ready", PATIENCE, || relay.get("/readyz").filter(|(code, _)| *code == 503));
    println!("not ready {:.1?} after the kill", since.elapsed());
    until("the outage is over", outage + PATIENCE, || {
        assert_eq!(relay.get("/livez").expect("an answer").0, 200);
        assert!(relay.is_running());
        (since.elapsed() >= outage).then_some(())
    });
    // Between two attempts it says why; in the middle of one, that it starts.
    until("/readyz says why", PATIENCE, || {
        let (_, text) = relay.get("/readyz").expect("an answer");
        (text.contains("PB-2") || text.contains("PB-3008")).then_some(())
    });
    site.kafka.start_broker(1).expect("the broker comes back");
    let back = relay.wait_state("streaming", PATIENCE);
    println!("streams {back:.1?} after the broker was back, {:.0?} after the kill", since.elapsed());
    settle(&site, &configuration, load, &options);
}

/// Rows that the relay cannot get rid of.
fn insert(site: &Site) {
    let sql = "INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload) \
               SELECT gen_random_uuid(), 'order', 'k' || i, 'made', '{}' FROM generate_series(1, 500) i";
    site.postgres.execute("postgres", sql).expect("the rows are written");
}

fn stop_fast(site: &mut Site, what: &str) {
    let took = site.postgres.stop(ShutdownMode::Fast, STOP_MAX).expect("Postgres stops in time");
    println!("fast shutdown {what}: {took:.1?}");
}

/// Postgres is back; everything written so far arrives.
fn recovers(site: &mut Site, relay: &mut Relay, configuration: &Configuration, state: &str) {
    site.postgres.start_again().expect("Postgres starts");
    let back = relay.wait_state(state, PATIENCE);
    println!("{state} after {back:.1?}");
    if state == "streaming" {
        site.caught_up(configuration, PATIENCE);
    }
}

/// fault: 9 a fast shutdown while Kafka hangs, is gone, or the pipeline is paused
/// holds: every event arrives; the shutdown waits for nobody
/// told: `/readyz` says which server is away, then the former state
#[test]
fn postgres_stops_fast_whatever_kafka_and_operators_do() {
    let mut site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    insert(&site);
    relay.wait_count("events_total", 500, PATIENCE);

    stop_fast(&mut site, "with nothing to do");
    recovers(&mut site, &mut relay, &configuration, "streaming");

    // Hangs, rather than refuses: the relay has to decide by itself that it waits for nothing.
    site.kafka.suspend(1).expect("Kafka hangs");
    insert(&site);
    stop_fast(&mut site, "with events in flight to a Kafka that hangs");
    site.kafka.resume(1).expect("Kafka goes on");
    recovers(&mut site, &mut relay, &configuration, "streaming");

    site.kafka.kill9(1).expect("Kafka dies");
    insert(&site);
    stop_fast(&mut site, "with events in flight to a Kafka that is gone");
    site.kafka.start_broker(1).expect("Kafka comes back");
    recovers(&mut site, &mut relay, &configuration, "streaming");

    let (code, text) = relay.post("/api/v1/pause").expect("an answer");
    assert_eq!(code, 200, "{text}");
    insert(&site);
    stop_fast(&mut site, "while paused");
    recovers(&mut site, &mut relay, &configuration, "paused");
    let (code, text) = relay.post("/api/v1/resume").expect("an answer");
    assert_eq!(code, 200, "{text}");
    relay.wait_state("streaming", PATIENCE);
    site.caught_up(&configuration, PATIENCE);
    assert_eq!(crate::probe::records(&site, "outbox.event.order", 4).len(), 4 * 500);
}
