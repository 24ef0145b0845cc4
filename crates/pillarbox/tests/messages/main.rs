//! Events without a table, end to end: written by `pillarbox.emit()` and `pg_logical_emit_message`, relayed by the
//! built binary, read by librdkafka.
//!
//! ```text
//! servers + a file with `messages` --> SQL as applications run it --> relay --> records in order
//! ```
//! Must never judge by what the relay says where Kafka can be asked.

#[expect(dead_code, reason = "each ring of tests uses a part of it")]
#[path = "../harness/mod.rs"]
mod harness;

mod emit;
mod plain;
mod roles;

use std::fs;
use std::time::Duration;

use harness::records::{Isolation, header, read};
use harness::relay::Relay;
use harness::site::{Configuration, Site};
use pillarbox_lab::PostgresOptions;
use pillarbox_wire::header::{PB_POS, PbPos};
use rdkafka::message::{Headers, Message};

/// How long any step may take on a busy machine.
const STEP_MAX: Duration = Duration::from_secs(60);

const TABLE: &str = "outbox: { table: public.outbox }";

/// A pipeline of which the section `outbox` is replaced by `more`, set up and streaming.
fn streaming(site: &Site, pipeline: &str, more: &str) -> (Configuration, Relay) {
    let configuration = configured(site, pipeline, more);
    site.setup(&configuration);
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", STEP_MAX);
    (configuration, relay)
}

fn configured(site: &Site, pipeline: &str, more: &str) -> Configuration {
    let configuration = site.configure(pipeline, 1, &[]);
    let text = fs::read_to_string(&configuration.file).expect("the file");
    assert!(text.contains(TABLE));
    fs::write(&configuration.file, text.replace(TABLE, more)).expect("the file is written");
    configuration
}

fn execute(site: &Site, sql: &str) {
    site.postgres.execute("postgres", sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// A record as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    key: Option<String>,
    value: Option<String>,
    /// In order, without `pb-pos`.
    headers: Vec<(String, Option<String>)>,
    index: u32,
}

/// Every committed record of a topic with one partition; sequences are dense and positions rise.
fn events(site: &Site, topic: &str) -> Vec<Event> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (mut events, mut last) = (Vec::new(), None);
    read(&site.kafka.bootstrap(), topic, Isolation::Committed, |message| {
        let pos = header(message, PB_POS).expect("every record has its position");
        let pos = PbPos::parse(&pos).expect("a position");
        assert_eq!(pos.sequence.0, events.len() as u64 + 1, "{topic}: sequences are dense");
        assert!(last < Some(pos.position), "{topic}: {:?} after {last:?}", pos.position);
        last = Some(pos.position);
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let headers = headers.map(|header| (header.key.to_owned(), header.value.map(text)));
        events.push(Event {
            key: message.key().map(text),
            value: message.payload().map(text),
            headers: headers.filter(|(name, _)| name != PB_POS).collect(),
            index: pos.position.index,
        });
    });
    events
}

fn values(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.value.as_deref().unwrap_or("(null)")).collect()
}
