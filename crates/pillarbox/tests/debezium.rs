//! What Debezium's outbox router writes, byte for byte, and what a consumer reads from Pillarbox instead.
//!
//! `debezium/golden.json` holds records of a real Debezium 3.7.0.Final on Connect 4.3.1 (without its
//! `__debezium.context.*` headers), the options that made it write them, and ours that must make us write the same.
//! A case may say that it `differs` (other values, on purpose) or goes `beyond` (Debezium's task died at a row): then it
//! says why. All cases are tables of one pipeline.
//!
//! Must never take an expectation from Pillarbox.

#[expect(dead_code, reason = "not every test needs all of the harness")]
mod harness;

use std::collections::BTreeMap;
use std::time::Duration;

use harness::records::{self, Isolation};
use harness::site::Site;
use pillarbox_lab::{KafkaOptions, PostgresOptions};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use serde_json::{Value, json};

const GOLDEN: &str = include_str!("debezium/golden.json");
const STEP_MAX: Duration = Duration::from_secs(90);

/// A record as a consumer sees it.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    topic: String,
    key: Option<String>,
    headers: Vec<(String, Option<String>)>,
    value: Option<Vec<u8>>,
}

struct Case(Value);

impl Case {
    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_else(|| panic!("{name} is text"))
    }

    fn list(&self, name: &str) -> &[Value] {
        self.0[name].as_array().map_or(&[], Vec::as_slice)
    }

    fn table(&self) -> String {
        format!("golden_{}", self.text("case"))
    }

    /// A column of Debezium's table, under the name it has here.
    fn column(&self, name: &str) -> String {
        self.0["columns"][name].as_str().unwrap_or(name).to_owned()
    }

    fn aggregate_type(&self) -> String {
        self.0["aggregate_type"]
            .as_str()
            .map_or_else(|| format!("order-{}", self.text("case")), str::to_owned)
    }

    fn key(&self, row: usize) -> String {
        self.0["keys"][row].as_str().map_or_else(|| format!("agg-{}", row + 1), str::to_owned)
    }

    fn create(&self, site: &Site) {
        let (aggregate_type, key) = (self.column("aggregatetype"), self.column("aggregateid"));
        let sql = format!(
            "CREATE TABLE {} (id uuid PRIMARY KEY, {aggregate_type} varchar(255) NOT NULL, \
             {key} varchar(255) NOT NULL, type varchar(255) NOT NULL, payload {})",
            self.table(),
            self.text("payload_type")
        );
        site.postgres.execute("postgres", &sql).expect("a table");
    }

    fn insert(&self, site: &Site) {
        for (row, payload) in self.list("payloads").iter().enumerate() {
            let payload = payload.as_str().map_or_else(|| "NULL".to_owned(), quote);
            let sql = format!(
                "INSERT INTO {} VALUES ('00000000-0000-0000-0000-{:012}', {}, {}, 'OrderCreated', {payload})",
                self.table(),
                row + 1,
                quote(&self.aggregate_type()),
                quote(&self.key(row)),
            );
            site.postgres.execute("postgres", &sql).expect("a row");
        }
    }

    /// Our options, with the table.
    fn outbox(&self) -> Value {
        let mut outbox = self.0["outbox"].clone();
        outbox["table"] = json!(format!("public.{}", self.table()));
        outbox
    }

    /// Debezium's records; other values where the case differs, more records where it goes beyond.
    fn expected(&self) -> Vec<Record> {
        let golden = self.list("records").iter().map(record);
        let values = |name: &str| self.0[name]["values"].as_array().cloned().unwrap_or_default();
        let mut expected: Vec<Record> = golden.collect();
        for (record, value) in expected.iter_mut().zip(values("differs")) {
            record.value = bytes(&value);
        }
        for value in values("beyond") {
            let row = expected.len();
            expected.push(Record {
                topic: format!("outbox.event.{}", self.aggregate_type()),
                key: Some(self.key(row)),
                headers: vec![("id".into(), Some(format!("00000000-0000-0000-0000-{:012}", row + 1)))],
                value: bytes(&value),
            });
        }
        expected
    }
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Text, `null`, or `{ "hex": .. }`.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    if let Some(hex) = value["hex"].as_str() {
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
        return Some((0..hex.len()).step_by(2).map(byte).collect());
    }
    value.as_str().map(|text| text.as_bytes().to_vec())
}

fn record(golden: &Value) -> Record {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let headers = golden["headers"].as_array().expect("headers");
    Record {
        topic: text(&golden["topic"]).expect("a topic"),
        key: text(&golden["key"]),
        headers: headers.iter().map(|pair| (text(&pair[0]).expect("a name"), text(&pair[1]))).collect(),
        value: bytes(&golden["value"]),
    }
}

/// What librdkafka reads, without the headers that only Pillarbox writes.
fn read(message: &BorrowedMessage<'_>) -> Record {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let headers = headers.filter(|header| !header.key.starts_with("pb-"));
    Record {
        topic: message.topic().to_owned(),
        key: message.key().map(text),
        headers: headers.map(|header| (header.key.to_owned(), header.value.map(text))).collect(),
        value: message.payload().map(<[u8]>::to_vec),
    }
}

#[test]
fn the_router_writes_what_debezium_wrote() {
    let golden: Vec<Value> = serde_json::from_str(GOLDEN).expect("golden.json is JSON");
    let cases: Vec<Case> = golden.into_iter().map(Case).collect();
    let site = Site::start(PostgresOptions::version(15), KafkaOptions::default());
    cases.iter().for_each(|case| case.create(&site));
    // JSON is YAML.
    let outbox = Value::Array(cases.iter().map(Case::outbox).collect()).to_string();
    let configuration = site.configure_outbox("golden", 1, &[], &outbox);
    site.setup(&configuration);
    cases.iter().for_each(|case| case.insert(&site));
    let mut relay = site.relay(&configuration);
    let rows: usize = cases.iter().map(|case| case.list("payloads").len()).sum();
    relay.wait_count("events_total", rows as u64, STEP_MAX);

    let mut expected: BTreeMap<String, (String, Vec<Record>)> = BTreeMap::new();
    for case in &cases {
        let records = case.expected();
        let name = format!("{}: {}", case.text("case"), case.text("title"));
        let topic = records.first().expect("every case gives records").topic.clone();
        assert_eq!(records.len(), case.list("payloads").len(), "{name}");
        assert!(expected.insert(topic, (name, records)).is_none(), "a topic for each case");
    }
    for (topic, (name, expected)) in expected {
        let mut found = Vec::new();
        records::read(&site.kafka.bootstrap(), &topic, Isolation::Committed, |message| {
            found.push(read(message))
        });
        for (found, expected) in found.iter().zip(&expected) {
            assert!(found == expected, "{name}:\n  {}\nnot\n  {}", shown(found), shown(expected));
        }
        assert_eq!(found.len(), expected.len(), "{name}");
    }
}

/// With the value as text, for a failure that can be read.
fn shown(record: &Record) -> String {
    let value = record.value.as_ref().map(|value| String::from_utf8_lossy(value));
    format!("{} {:?} {:?} {value:?}", record.topic, record.key, record.headers)
}
