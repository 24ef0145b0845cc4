//! One event as `tap` shows it: every field of the record, text where it is text.

use std::cmp::Ordering;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pillarbox_kafka::reader::Record;
use pillarbox_wire::header::{self, PbPos};
use pillarbox_wire::position::Position;
use serde_json::{Map, Value, json};

/// Longest value shown in a table row, in characters; `-o ndjson` shows all of it.
const TABLE_VALUE_CHARS_MAX: usize = 120;

/// A record and where it stands.
pub(crate) struct Event {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) record: Record,
    position: Option<Position>,
}

impl Event {
    pub(crate) fn new(topic: &str, partition: i32, record: Record) -> Self {
        let position = record
            .header(header::PB_POS)
            .and_then(|text| PbPos::parse(std::str::from_utf8(text).ok()?).ok())
            .map(|pos| pos.position);
        Self { topic: topic.to_owned(), partition, record, position }
    }

    /// Commit order over all partitions of a pipeline; records of others stand by their timestamp.
    pub(crate) fn order(&self) -> Order {
        Order(self.position, self.record.timestamp_ms)
    }

    /// One line of JSON without the line break.
    pub(crate) fn json(&self) -> Value {
        let mut line = Map::new();
        line.insert("topic".to_owned(), json!(self.topic));
        line.insert("partition".to_owned(), json!(self.partition));
        line.insert("offset".to_owned(), json!(self.record.offset));
        line.insert("timestamp".to_owned(), json!(self.record.timestamp_ms));
        field(&mut line, "id", self.record.header(header::ID));
        field(&mut line, "pb_pos", self.record.header(header::PB_POS));
        field(&mut line, "key", self.record.key.as_deref());
        field(&mut line, "value", self.record.value.as_deref());
        let mut headers = Map::new();
        for (name, value) in &self.record.headers {
            if !matches!(&**name, header::ID | header::PB_POS) {
                field(&mut headers, name, value.as_deref());
            }
        }
        if !headers.is_empty() {
            line.insert("headers".to_owned(), Value::Object(headers));
        }
        Value::Object(line)
    }

    /// One row for people; control characters are shown, not obeyed.
    pub(crate) fn row(&self) -> String {
        let place = format!("{}/{}@{}", self.topic, self.partition, self.record.offset);
        let position = self.position.map_or_else(|| "-".to_owned(), |position| position.to_string());
        let key = shown(self.record.key.as_deref(), TABLE_VALUE_CHARS_MAX);
        let value = shown(self.record.value.as_deref(), TABLE_VALUE_CHARS_MAX);
        format!("{place:<32} {position:<32} {key:<12} {value}")
    }

    /// The heading of [`Event::row`].
    pub(crate) fn heading() -> String {
        format!("{:<32} {:<32} {:<12} VALUE", "TOPIC/PARTITION@OFFSET", "POSITION", "KEY")
    }
}

/// Positions first; without one the timestamp alone decides.
#[derive(PartialEq, Eq)]
pub(crate) struct Order(Option<Position>, i64);

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.0, other.0) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => (self.0.is_some(), self.1).cmp(&(other.0.is_some(), other.1)),
        }
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Text as a string, other bytes in base64 under `<name>_base64`, nothing as null.
fn field(line: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(std::str::from_utf8) {
        None => line.insert(name.to_owned(), Value::Null),
        Some(Ok(text)) => line.insert(name.to_owned(), json!(text)),
        Some(Err(_)) => {
            line.insert(format!("{name}_base64"), json!(STANDARD.encode(bytes.unwrap_or_default())))
        }
    };
}

fn shown(bytes: Option<&[u8]>, chars_max: usize) -> String {
    let Some(bytes) = bytes else { return "-".to_owned() };
    let Ok(text) = std::str::from_utf8(bytes) else { return format!("({} bytes)", bytes.len()) };
    let mut out: String = text
        .chars()
        .take(chars_max)
        .map(|c| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() })
        .collect();
    if text.chars().nth(chars_max).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn event(partition: i32, offset: i64, pb_pos: &str, timestamp_ms: i64, value: &[u8]) -> Event {
        let mut headers = vec![("id".to_owned().into(), Some(b"e-1".to_vec().into()))];
        if !pb_pos.is_empty() {
            headers.push(("pb-pos".to_owned().into(), Some(pb_pos.as_bytes().to_vec().into())));
        }
        let value = Some(value.to_vec().into());
        let record = Record { offset, timestamp_ms, key: Some(b"k".to_vec().into()), value, headers };
        Event::new("t", partition, record)
    }

    #[test]
    fn text_is_text_and_bytes_are_base64() {
        let line = event(1, 7, "p:00000001000000000000001000000002:3", 9, b"{\"a\":1}").json();
        assert_eq!(
            line,
            json!({"topic": "t", "partition": 1, "offset": 7, "timestamp": 9, "id": "e-1",
                "pb_pos": "p:00000001000000000000001000000002:3", "key": "k", "value": "{\"a\":1}"})
        );
        let line = event(1, 7, "", 9, b"\xff").json();
        assert_eq!((&line["value_base64"], &line["pb_pos"]), (&json!("/w=="), &Value::Null));
    }

    #[test]
    fn a_row_obeys_no_control_character() {
        let row = event(1, 7, "", 9, b"a\x1b[2Jb\nc").row();
        assert!(row.ends_with("a\\u{1b}[2Jb\\nc"), "{row}");
        let row = event(1, 7, "", 9, "x".repeat(500).as_bytes()).row();
        assert!(row.ends_with("x…"), "{row}");
    }

    #[test]
    fn positions_order_events() {
        let first = event(0, 1, "p:00000001000000000000001000000000:1", 5, b"");
        let second = event(1, 1, "p:00000001000000000000001000000001:1", 4, b"");
        assert!(first.order() < second.order());
        assert!(event(0, 1, "", 1, b"").order() < event(0, 1, "", 2, b"").order());
    }
}
