//! A record as a consumer sees it, read by librdkafka or described in a file.

use std::ops::RangeInclusive;

use rdkafka::message::{BorrowedMessage, Headers, Message};
use serde_json::Value;

/// A record without the headers that only Pillarbox writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) topic: String,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<String>)>,
    pub(crate) value: Option<Vec<u8>>,
    partition: i32,
    timestamp: i64,
}

/// A record that must come, and what is known of its place and time.
pub(crate) struct Expected {
    pub(crate) record: Record,
    partition: Option<i32>,
    timestamp: Option<Time>,
}

/// Within the test, moved by so many milliseconds: commits are now.
struct Time(i64);

impl Record {
    /// The event's id.
    pub(crate) fn id(&self) -> Option<String> {
        self.headers.iter().find(|(name, _)| name == "id").and_then(|(_, value)| value.clone())
    }

    /// For a failure that can be read.
    pub(crate) fn shown(&self) -> String {
        let text =
            |bytes: &Option<Vec<u8>>| bytes.as_deref().map(|b| String::from_utf8_lossy(b).into_owned());
        format!(
            "{}/{} at {} key {:?} headers {:?} value {:?}",
            self.topic,
            self.partition,
            self.timestamp,
            text(&self.key),
            self.headers,
            text(&self.value)
        )
    }
}

impl Expected {
    /// From a description: `key`, `headers`, `value`, perhaps `partition`, and `timestamp`: `commit` or milliseconds
    /// after it.
    pub(crate) fn new(topic: &str, described: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let headers = described["headers"].as_array().expect("headers");
        let timestamp = match &described["timestamp"] {
            Value::String(_) => Some(Time(0)),
            other => other.as_i64().map(Time),
        };
        let record = Record {
            topic: topic.to_owned(),
            key: bytes(&described["key"]),
            headers: headers.iter().map(|pair| (text(&pair[0]).expect("a name"), text(&pair[1]))).collect(),
            value: bytes(&described["value"]),
            partition: 0,
            timestamp: 0,
        };
        let partition =
            described["partition"].as_i64().map(|number| i32::try_from(number).expect("a partition"));
        Self { record, partition, timestamp }
    }

    /// Whether this is the record; the test ran from begin to end of `now`.
    pub(crate) fn is(&self, found: &Record, now: &RangeInclusive<i64>) -> bool {
        let place = self.partition.is_none_or(|partition| partition == found.partition);
        let time = self.timestamp.as_ref().is_none_or(|Time(moved)| now.contains(&(found.timestamp - moved)));
        let Record { partition, timestamp, .. } = *found;
        place && time && *found == Record { partition, timestamp, ..self.record.clone() }
    }
}

/// What librdkafka reads.
pub(crate) fn read(message: &BorrowedMessage<'_>) -> Record {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let headers = headers.filter(|header| !header.key.starts_with("pb-"));
    Record {
        topic: message.topic().to_owned(),
        key: message.key().map(<[u8]>::to_vec),
        headers: headers.map(|header| (header.key.to_owned(), header.value.map(text))).collect(),
        value: message.payload().map(<[u8]>::to_vec),
        partition: message.partition(),
        timestamp: message.timestamp().to_millis().expect("a record has a time"),
    }
}

/// Text, `null`, or `{ "hex": .. }`.
pub(crate) fn bytes(value: &Value) -> Option<Vec<u8>> {
    if let Some(hex) = value["hex"].as_str() {
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
        return Some((0..hex.len()).step_by(2).map(byte).collect());
    }
    value.as_str().map(|text| text.as_bytes().to_vec())
}
