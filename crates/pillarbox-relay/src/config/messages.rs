//! Events without a table: how logical messages become events.
//!
//! A message is read as the row of a table that does not exist, with the columns of Debezium's
//! outbox table, so that topic, key and headers are configured as for a real one.

use super::{Outbox, TableName};

/// The columns that a message has.
pub const MESSAGE_COLUMNS: [&str; 5] = ["id", "aggregatetype", "aggregateid", "type", "payload"];

/// Headers that a call of `pillarbox.emit()` may add by itself; the function in `sql/` counts them.
pub const OWN_HEADERS_MAX: usize = 12;

/// Which messages are events, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Messages {
    /// The prefix of the messages, exactly.
    pub prefix: String,
    /// The table that they are read as.
    pub outbox: Outbox,
    /// What the content of a message that `pillarbox.emit()` did not write means.
    pub plain: PlainMessage,
}

/// Where a plain message has what `pillarbox.emit()` gets as arguments. Its payload is the whole
/// content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainMessage {
    /// The event id; without one the event gets its place in WAL.
    pub id: PlainPart,
    /// The aggregate type.
    pub aggregate_type: PlainPart,
    /// The aggregate id, by default the key.
    pub aggregate_id: PlainPart,
    /// The event type.
    pub event_type: PlainPart,
}

/// A part of a plain message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlainPart {
    /// The text of a field of the content, which is a JSON object.
    Field(String),
    /// The same for every message.
    Value(String),
}

impl Messages {
    /// The schema of the table that does not exist: no real one has an empty name.
    pub const SCHEMA: &str = "";

    /// Messages with this prefix, routed as Debezium routes its table; plain ones have fields with
    /// the names of its columns.
    pub fn new(prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        let table = TableName { schema: Self::SCHEMA.to_owned(), name: prefix.clone() };
        let field = |name: &str| PlainPart::Field(name.to_owned());
        let plain = PlainMessage {
            id: field("id"),
            aggregate_type: field("aggregatetype"),
            aggregate_id: field("aggregateid"),
            event_type: field("type"),
        };
        Self { prefix, outbox: Outbox::debezium(table), plain }
    }
}
