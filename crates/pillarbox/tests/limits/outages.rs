//! Kafka away for a long time, under load.

use std::time::{Duration, Instant};

use pillarbox_lab::Kafka;
use pillarbox_lab::workload::{Workload, WorkloadOptions};

use crate::figures::size;
use crate::harness::dice::Dice;
use crate::harness::until::until;
use crate::world::{PATIENCE, World, arrival_max, site};

const PARTITIONS: u32 = 4;
/// Transactions a second.
const RATE: f64 = 100.0;
/// What a relay that waits may hold resident more than before.
const GROWTH_MAX_KIB: u64 = 32 << 10;

/// fault: 33 the only broker is killed and stays away for 10 minutes under load
/// holds: memory stays as it was, nobody's stream is cut by Postgres, afterwards every event is there once and in order
/// told: `/readyz` 503 with PB-2001 or PB-3008, `/livez` 200
#[test]
fn kafka_killed_for_minutes_is_waited_for_and_caught_up_with() {
    outage("outage-killed", "killed", |kafka| kafka.kill9(1), |kafka| kafka.start_broker(1));
}

/// fault: 33 the only broker hangs for 10 minutes under load
/// holds: the same; the slot is given back and taken again, so that Postgres can stop at any time
/// told: `/readyz` 503 with PB-2001 or PB-3008, `/livez` 200
#[test]
fn kafka_that_hangs_for_minutes_is_waited_for_and_caught_up_with() {
    outage("outage-hung", "hung (SIGSTOP)", |kafka| kafka.suspend(1), |kafka| kafka.resume(1));
}

type Done = Result<(), pillarbox_lab::LabError>;

fn outage(case: &'static str, how: &str, begin: fn(&mut Kafka) -> Done, end: fn(&mut Kafka) -> Done) {
    let lasts = size(Duration::from_secs(20), Duration::from_secs(600));
    let site = site();
    let at = site.configure("orders", PARTITIONS, &[]);
    let mut world = World::on(site, at);
    let options = WorkloadOptions {
        writers: 4,
        transactions: 1_000_000,
        events_max: 20,
        rate: Some(RATE),
        seed: Dice::new().seed(),
        ..WorkloadOptions::default()
    };
    let load = Workload::start(&world.site.url(), options.clone()).expect("the writers start");
    world.relay.wait_count("events_total", 2_000, PATIENCE);
    let before_kib = world.relay.rss_max_kib();
    begin(&mut world.site.kafka).expect("Kafka is away");
    let since = Instant::now();
    until("not ready", PATIENCE, || world.relay.get("/readyz").filter(|(code, _)| *code == 503));
    until("the outage is over", lasts + PATIENCE, || {
        assert_eq!(world.relay.get("/livez").expect("an answer").0, 200);
        assert!(world.relay.is_running());
        (since.elapsed() >= lasts).then_some(())
    });
    // Between two attempts it says why; in the middle of one, that it starts.
    until("/readyz says why", PATIENCE, || {
        let (_, text) = world.relay.get("/readyz").expect("an answer");
        (text.contains("PB-2") || text.contains("PB-3008")).then_some(())
    });
    let away_kib = world.relay.rss_max_kib();
    end(&mut world.site.kafka).expect("Kafka is back");
    world.relay.wait_state("streaming", PATIENCE);
    let took = world.site.caught_up(&world.at, arrival_max());
    load.stop();
    let log = load.finish().expect("the writers know what they committed");
    world.site.caught_up(&world.at, PATIENCE);
    let what = format!("Kafka {how} for {lasts:.0?}, {RATE} transactions a second");
    let (mut figures, site) = world.figures(case, what, 0, took);
    let report = site.judge(&log, &options, PARTITIONS);
    report.assert_clean();
    figures.events = report.observed as u64;
    // Meanwhile the relay gives the slot back and takes it again.
    figures.silence = None;
    figures.note = format!("{} MiB before, {} MiB at its end", before_kib >> 10, away_kib >> 10);
    figures.tell();
    assert!(away_kib < before_kib + GROWTH_MAX_KIB, "{}", figures.note);
}
