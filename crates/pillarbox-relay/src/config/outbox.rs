//! What is made of the rows of an outbox table. The defaults are those of Debezium's router.
//!
//! Holds no rule of its own: the stages `outbox` and `route` act on it.

use std::fmt;

use super::housekeeping::Housekeeping;
use super::pattern::TopicPattern;
use super::shard::{OtherShard, Shard};
use super::topic::TopicTemplate;

/// Columns that may become headers, per table; the relay reads them without allocating.
pub const HEADERS_MAX: usize = 16;

/// Headers of a propagated trace, in their order behind the configured ones.
pub const TRACE_HEADERS: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// A table name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableName {
    /// The schema.
    pub schema: String,
    /// The table in it.
    pub name: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.schema == super::Messages::SCHEMA {
            return write!(f, "messages with prefix {}", self.name);
        }
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// What becomes of a row that can never be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// The pipeline halts at it.
    #[default]
    Stop,
    /// It goes to the topic of dead letters, and the pipeline goes on.
    DeadLetter,
}

/// One outbox table and how its rows become events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbox {
    /// The table.
    pub table: TableName,
    /// Column with the event id; NULL is a rejected event.
    pub id_column: String,
    /// Column with the record key; NULL = no key.
    pub key_column: String,
    /// Column with the event's type. As with Debezium nothing reads it, unless it is placed; `setup`
    /// creates it.
    pub type_column: String,
    /// Column with the record value; NULL = null value.
    pub payload_column: String,
    /// Column with the record's time; absent or NULL = the commit time.
    pub timestamp_column: Option<String>,
    /// Column with the version of the payload's schema: it must be there, and JSON without schemas
    /// has no place for it.
    pub version_column: Option<String>,
    /// The topic of a row.
    pub topic: TopicTemplate,
    /// What makes a topic of the template's text; `None` = the text is the topic.
    pub pattern: Option<TopicPattern>,
    /// The only topics that rows may go to.
    pub topics_allowed: Option<Vec<String>>,
    /// Columns that become headers, in this order after `id`.
    pub headers: Vec<HeaderColumn>,
    /// Columns that stand beside the payload in the value, in this order.
    pub envelope: Vec<EnvelopeColumn>,
    /// Column with the record's partition; NULL = by key.
    pub partition_column: Option<String>,
    /// What happens when the stream lacks a column of `headers`, `envelope` or `partition_column`.
    pub missing: Missing,
    /// How keys are written.
    pub key_format: Format,
    /// How values are written. An envelope is JSON, and so is what is expanded.
    pub value_format: Format,
    /// Whether a JSON payload becomes the value itself rather than a string in it.
    pub expand: Option<Expand>,
    /// What becomes of a payload that is NULL, empty or blank.
    pub empty_payload: EmptyPayload,
    /// What an UPDATE of a row does, where the publication publishes it.
    pub updates: Updates,
    /// What becomes of a row that can never be published.
    pub on_error: OnError,
    /// Column with a propagated trace; its headers stand behind the configured ones.
    pub trace_column: Option<String>,
    /// How the table is kept small.
    pub housekeeping: Housekeeping,
    /// The part of its keys that this pipeline relays; `None` = all.
    pub shard: Option<Shard>,
    /// What becomes of rows of other shards.
    pub other_shard: OtherShard,
}

/// A column that becomes a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderColumn {
    /// The column.
    pub column: String,
    /// The header's name.
    pub name: String,
}

/// A column that becomes a field of the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeColumn {
    /// The column.
    pub column: String,
    /// The field's name.
    pub name: String,
}

/// What happens when a placed column is not in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missing {
    /// The pipeline halts.
    #[default]
    Stop,
    /// The placement is left out.
    Ignore,
}

/// How a key or a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// The column's text, bytea its bytes.
    #[default]
    Text,
    /// JSON as Connect's JsonConverter writes it without schemas.
    Json,
}

/// How a JSON payload is expanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expand {
    /// Fields that are `null` stay.
    pub keep_nulls: bool,
    /// Fields that are `[]` stay.
    pub keep_empty_arrays: bool,
}

/// What becomes of an empty payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EmptyPayload {
    /// It is a value like others.
    #[default]
    Keep,
    /// A record without a value.
    Tombstone,
}

/// What an UPDATE of an outbox row does. It never gives an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Updates {
    /// A warning in the log.
    #[default]
    Warn,
    /// An error in the log.
    Error,
    /// The pipeline halts at it.
    Stop,
}

impl Outbox {
    /// Names of the headers after `id`: the configured ones, then those of the trace.
    pub fn header_names(&self) -> impl Iterator<Item = &str> {
        let trace = self.trace_column.iter().flat_map(|_| TRACE_HEADERS);
        self.headers.iter().map(|header| header.name.as_str()).chain(trace)
    }

    /// Debezium's outbox table and record, so that its consumers notice nothing.
    pub fn debezium(table: TableName) -> Self {
        Self {
            table,
            id_column: "id".into(),
            key_column: "aggregateid".into(),
            type_column: "type".into(),
            payload_column: "payload".into(),
            timestamp_column: None,
            version_column: None,
            topic: TopicTemplate::parse("outbox.event.{aggregatetype}").expect("a legal template"),
            pattern: None,
            topics_allowed: None,
            headers: Vec::new(),
            envelope: Vec::new(),
            partition_column: None,
            missing: Missing::default(),
            key_format: Format::default(),
            value_format: Format::default(),
            expand: None,
            empty_payload: EmptyPayload::default(),
            updates: Updates::default(),
            on_error: OnError::Stop,
            trace_column: None,
            housekeeping: Housekeeping::None,
            shard: None,
            other_shard: OtherShard::default(),
        }
    }
}
