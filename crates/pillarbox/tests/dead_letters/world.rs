//! A site with outboxes of different shape, and what librdkafka finds in its topics.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use pillarbox_lab::{KafkaOptions, PostgresOptions};
use rdkafka::message::Message;
use serde_json::Value;

use crate::harness::records::{Isolation, header, read};
use crate::harness::site::{Answer, Configuration, Site};

/// How long anything that comes by itself may take on a machine that does other things too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) const LETTERS: &str = "__pillarbox.orders.dead-letters";

/// Two tables of different shape that give letters, and one that stops.
const OUTBOX: &str = "outbox:
  - { table: public.outbox, on_error: dead_letter }
  - table: public.facts
    columns: { id: number, key: subject, payload: body }
    topic: \"facts.{kind}\"
    headers: [ { column: kind, name: kind } ]
    on_error: dead_letter
  - { table: public.strict }
messages: { prefix: outbox, on_error: dead_letter }
";

const TABLES: &str =
    "CREATE TABLE public.facts (kind text, body bytea, number bigint NOT NULL, subject text, note text);
    CREATE TABLE public.strict (LIKE public.outbox)";

/// Servers, Postgres of this version, tables, a pipeline that is set up.
pub(crate) fn site(postgres: u32) -> (Site, Configuration) {
    let site = Site::start(PostgresOptions::version(postgres), KafkaOptions::default());
    site.postgres.execute("postgres", TABLES).expect("the tables");
    let configuration = site.configure("orders", 2, &[]);
    let text = fs::read_to_string(&configuration.file).expect("the file");
    let text = text.replace("outbox: { table: public.outbox }\n", OUTBOX);
    fs::write(&configuration.file, text).expect("the file");
    site.setup(&configuration);
    (site, configuration)
}

/// Runs SQL as one transaction.
pub(crate) fn write(site: &Site, sql: &str) {
    site.postgres.execute("postgres", sql).expect("the rows are written");
}

/// Sets a topic's largest batch.
pub(crate) fn limit(site: &Site, topic: &str, bytes: u32) {
    let mut java = site.kafka.tool("kafka.admin.ConfigCommand");
    java.args(["--alter", "--topic", topic]);
    java.args(["--add-config", &format!("max.message.bytes={bytes}")]);
    let output = java.output().expect("java runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A record as librdkafka reads it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) partition: i32,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: BTreeMap<&'static str, String>,
}

const HEADERS: [&str; 11] = [
    "id",
    "kind",
    "pb-pos",
    "pb-orig-pos",
    "pb-chunk",
    "pb-reason",
    "pb-cause",
    "pb-table",
    "pb-size",
    "pb-verdict",
    "pb-part",
];

/// What a `read_committed` consumer finds. Its sequences are dense in every partition, or this panics.
pub(crate) fn records(site: &Site, topic: &str) -> Vec<Found> {
    let mut found = Vec::new();
    read(&site.kafka.bootstrap(), topic, Isolation::Committed, |message| {
        let headers = HEADERS.iter().filter_map(|name| Some((*name, header(message, name)?))).collect();
        let bytes = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
        found.push(Found {
            partition: message.partition(),
            key: bytes(message.key()),
            value: bytes(message.payload()),
            headers,
        });
    });
    let mut last = BTreeMap::new();
    for record in &found {
        let sequence: u64 =
            record.headers["pb-pos"].split(':').nth(2).expect("a sequence").parse().expect("one");
        let before = last.insert(record.partition, sequence).unwrap_or(0);
        assert_eq!(sequence, before + 1, "{topic}/{}: the sequence is not dense", record.partition);
    }
    found
}

/// `dead-letters` with these words; JSON where it succeeds.
pub(crate) fn letters(site: &Site, at: &Configuration, words: &[&str]) -> (Answer, Value) {
    let words = [&["dead-letters"], words, &["-o", "json"]].concat();
    let answer = site.command(&words, at);
    let value = serde_json::from_str(&answer.stdout).unwrap_or(Value::Null);
    (answer, value)
}

/// Letters in this state, by event id, `-` where the row has none.
pub(crate) fn in_state(site: &Site, at: &Configuration, state: &str) -> Vec<(String, Value)> {
    let (answer, value) = letters(site, at, &["list", "--all"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let all = value.as_array().expect("a list").iter().filter(|letter| letter["state"] == state);
    all.map(|letter| (letter["id"].as_str().unwrap_or("-").to_owned(), letter.clone())).collect()
}
