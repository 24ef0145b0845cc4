//! Coming from Debezium: its router's records and cases, by name; its connectors, imported; the hand-over from a running
//! one, and back.
//!
//! | file | holds |
//! | --- | --- |
//! | `golden.json`, `golden` | records of a Debezium 3.7.0.Final on Connect 4.3.1, and our options that must write the same |
//! | `conformance.json`, `conformance` | the 44 cases of Debezium's `EventRouterTest`: what each asserts, as rows and records |
//! | `article.json`, `article` | the connector of a well-known article: imported and run as it stands |
//! | `handover` | a real Debezium in Kafka Connect, then Pillarbox on its slot, then Debezium again |
//!
//! Every case is a table of one pipeline, or a configuration that must be refused. Must never take an expectation from
//! Pillarbox.

#[expect(dead_code, reason = "not every test needs all of the harness")]
#[path = "../harness/mod.rs"]
mod harness;

mod article;
mod conformance;
mod golden;
mod handover;
mod record;

use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::records::{self, Isolation};
use harness::site::{Configuration, Site};
use pillarbox_lab::{KafkaOptions, PostgresOptions};
use record::{Expected, Record};
use serde_json::Value;

const STEP_MAX: Duration = Duration::from_secs(90);
/// More than one: a row that asks for a partition must get it.
const PARTITIONS: u32 = 4;

/// A table, what is done to it, and what consumers read then.
struct Case {
    name: String,
    create: String,
    statements: Vec<String>,
    /// Our options, with the table.
    outbox: Value,
    topic: String,
    expected: Vec<Expected>,
}

#[test]
fn the_router_does_what_debeziums_does() {
    let site = Site::start(PostgresOptions::version(15), KafkaOptions::default());
    let (tables, configurations) = conformance::cases();
    let cases: Vec<Case> = golden::cases().into_iter().chain(tables).collect();
    let began = millis();
    relay_all(&site, &cases);
    let topics: Vec<&str> = cases.iter().map(|case| case.topic.as_str()).collect();
    let mut found: Vec<Record> = Vec::new();
    records::read_all(&site.kafka.bootstrap(), &topics, Isolation::Committed, |m| {
        found.push(record::read(m))
    });
    // Their ids ascend; rows of one case may lie in several partitions.
    found.sort_by_key(Record::id);
    for case in &cases {
        compare(case, found.iter().filter(|record| record.topic == case.topic), began..=millis());
    }
    for refusal in configurations {
        refusal.check(&site);
    }
}

fn relay_all(site: &Site, cases: &[Case]) {
    cases.iter().for_each(|case| execute(site, &case.create));
    // JSON is YAML.
    let outbox = Value::Array(cases.iter().map(|case| case.outbox.clone()).collect()).to_string();
    let configuration = site.configure_outbox("router", PARTITIONS, &[], &outbox);
    set_up(site, &configuration);
    cases.iter().flat_map(|case| &case.statements).for_each(|sql| execute(site, sql));
    let mut relay = site.relay(&configuration);
    let events: usize = cases.iter().map(|case| case.expected.len()).sum();
    relay.wait_count("events_total", events as u64, STEP_MAX);
}

/// The pipeline with a publication that hides nothing: Debezium's cases change and delete rows.
fn set_up(site: &Site, configuration: &Configuration) {
    site.setup(configuration);
    let name = &configuration.pipeline;
    execute(site, &format!("ALTER PUBLICATION pillarbox_{name} SET (publish = 'insert, update, delete')"));
}

fn compare<'a>(case: &Case, found: impl Iterator<Item = &'a Record>, now: RangeInclusive<i64>) {
    let found: Vec<&Record> = found.collect();
    for (found, expected) in found.iter().zip(&case.expected) {
        let (name, record) = (&case.name, expected.record.shown());
        assert!(expected.is(found, &now), "{name}:\n  {}\nis not\n  {record}", found.shown());
    }
    assert_eq!(found.len(), case.expected.len(), "{}", case.name);
}

fn execute(site: &Site, sql: &str) {
    site.postgres.execute("postgres", sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn millis() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_millis()).expect("before the year 292 million")
}
