//! Records of a real Debezium, without its `__debezium.context.*` headers, and the options that made it write them.
//!
//! A case may say that it `differs` (other values, on purpose) or goes `beyond` (Debezium's task died at a row): then it
//! says why.

use serde_json::{Value, json};

use super::Case;
use super::record::{Expected, bytes};

const GOLDEN: &str = include_str!("golden.json");

pub(super) fn cases() -> Vec<Case> {
    let golden: Vec<Value> = serde_json::from_str(GOLDEN).expect("golden.json is JSON");
    golden.into_iter().map(|case| Golden(case).case()).collect()
}

struct Golden(Value);

impl Golden {
    fn case(&self) -> Case {
        let expected = self.expected();
        assert_eq!(expected.len(), self.list("payloads").len(), "a record for each row");
        Case {
            name: format!("{}: {}", self.text("case"), self.text("title")),
            create: self.create(),
            statements: (0..expected.len()).map(|row| self.insert(row)).collect(),
            outbox: self.outbox(),
            topic: self.topic().to_owned(),
            expected,
        }
    }

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

    fn topic(&self) -> String {
        let first = self.list("records").first().and_then(|record| record["topic"].as_str());
        first.map_or_else(|| format!("outbox.event.{}", self.aggregate_type()), str::to_owned)
    }

    fn key(&self, row: usize) -> String {
        self.0["keys"][row].as_str().map_or_else(|| format!("agg-{}", row + 1), str::to_owned)
    }

    fn create(&self) -> String {
        format!(
            "CREATE TABLE {} (id uuid PRIMARY KEY, {} varchar(255) NOT NULL, {} varchar(255) NOT NULL, \
             type varchar(255) NOT NULL, payload {})",
            self.table(),
            self.column("aggregatetype"),
            self.column("aggregateid"),
            self.text("payload_type")
        )
    }

    fn insert(&self, row: usize) -> String {
        let payload = self.list("payloads")[row].as_str().map_or_else(|| "NULL".to_owned(), quote);
        format!(
            "INSERT INTO {} VALUES ('{}', {}, {}, 'OrderCreated', {payload})",
            self.table(),
            id(row),
            quote(&self.aggregate_type()),
            quote(&self.key(row)),
        )
    }

    fn outbox(&self) -> Value {
        let mut outbox = self.0["outbox"].clone();
        outbox["table"] = json!(format!("public.{}", self.table()));
        outbox
    }

    /// Debezium's records; other values where the case differs, more records where it goes beyond.
    fn expected(&self) -> Vec<Expected> {
        let topic = self.topic();
        let values = |name: &str| self.0[name]["values"].as_array().cloned().unwrap_or_default();
        let mut expected: Vec<Expected> =
            self.list("records").iter().map(|record| Expected::new(&topic, record)).collect();
        for (expected, value) in expected.iter_mut().zip(values("differs")) {
            expected.record.value = bytes(&value);
        }
        for value in values("beyond") {
            let row = expected.len();
            let record = json!({ "key": self.key(row), "headers": [["id", id(row)]], "value": value });
            expected.push(Expected::new(&topic, &record));
        }
        expected
    }
}

fn id(row: usize) -> String {
    format!("00000000-0000-0000-0000-{:012}", row + 1)
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
