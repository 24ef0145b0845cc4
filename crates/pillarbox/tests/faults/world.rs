//! A pipeline under load, as most tests here need it.

use std::time::Duration;

use pillarbox_lab::workload::{Workload, WorkloadOptions};
use pillarbox_lab::{KafkaOptions, PostgresOptions};

use crate::harness::relay::Relay;
use crate::harness::site::{Configuration, Site};

/// Partitions of each topic.
pub(crate) const PARTITIONS: u32 = 4;

/// How long anything that comes by itself may take on a machine that does other things too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Servers as they come.
pub(crate) fn site() -> Site {
    Site::start(PostgresOptions::default(), KafkaOptions::default())
}

/// A pipeline that is set up and streams.
pub(crate) fn streaming(site: &Site, more: &[&str]) -> (Configuration, Relay) {
    let configuration = site.configure("orders", PARTITIONS, more);
    site.setup(&configuration);
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", PATIENCE);
    (configuration, relay)
}

/// Writers that go on until they are told to stop.
pub(crate) fn load(site: &Site, seed: u64, rate: f64) -> (Workload, WorkloadOptions) {
    let options = WorkloadOptions {
        writers: 4,
        transactions: 1_000_000,
        events_max: 20,
        rate: Some(rate),
        seed,
        ..WorkloadOptions::default()
    };
    (Workload::start(&site.url(), options.clone()).expect("the writers start"), options)
}

/// Ends the load, waits until the pipeline has confirmed it all, and compares.
pub(crate) fn settle(site: &Site, at: &Configuration, load: Workload, options: &WorkloadOptions) {
    load.stop();
    let log = load.finish().expect("the writers know what they committed");
    let caught_up = site.caught_up(at, PATIENCE);
    let report = site.judge(&log, options, at.partitions);
    assert!(report.is_clean() && report.observed > 0, "seed {}: {report:?}", options.seed);
    println!("{} events, caught up after {caught_up:.1?}", report.events);
}
