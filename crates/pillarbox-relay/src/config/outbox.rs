//! What is made of the rows of an outbox table. The defaults are those of Debezium's router.
//!
//! Holds no rule of its own: the stages `outbox` and `route` act on it.

use std::fmt;

use super::topic::TopicTemplate;

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
        write!(f, "{}.{}", self.schema, self.name)
    }
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
    /// Column with the record value; NULL = null value.
    pub payload_column: String,
    /// The topic of a row.
    pub topic: TopicTemplate,
    /// Columns that become headers, in this order after `id`.
    pub headers: Vec<HeaderColumn>,
}

/// A column that becomes a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderColumn {
    /// The column.
    pub column: String,
    /// The header's name.
    pub name: String,
}

impl Outbox {
    /// Debezium's outbox table and record, so that its consumers notice nothing.
    pub fn debezium(table: TableName) -> Self {
        Self {
            table,
            id_column: "id".into(),
            key_column: "aggregateid".into(),
            payload_column: "payload".into(),
            topic: TopicTemplate::parse("outbox.event.{aggregatetype}").expect("a legal template"),
            headers: Vec::new(),
        }
    }
}
