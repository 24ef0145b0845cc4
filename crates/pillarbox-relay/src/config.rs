//! What a pipeline is told to do: validated settings only, every value legal.
//!
//! How a file or the environment spells them is the binary's business. Never reads a file or the
//! environment itself. Defaults stand beside their reason.

mod messages;

use std::fmt;
use std::time::Duration;

pub use self::messages::{MESSAGE_COLUMNS, Messages, OWN_HEADERS_MAX, PlainMessage, PlainPart};

pub use pillarbox_wire::record_batch::Compression;
pub use pillarbox_wire::topic::PipelineName;

/// A secret that never shows itself in logs or errors.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// One pipeline: one slot, one checkpoint, one order.
#[derive(Debug, Clone)]
pub struct Config {
    /// Names slot, publication, transactional ids, checkpoint topic and the position header.
    pub pipeline: PipelineName,
    /// Where the WAL comes from.
    pub postgres: Postgres,
    /// Where the events go.
    pub kafka: Kafka,
    /// The outbox tables.
    pub outbox: Vec<Outbox>,
    /// Logical messages that are events; `None` = they are not.
    pub messages: Option<Messages>,
}

/// The source server.
#[derive(Debug, Clone)]
pub struct Postgres {
    /// Host name, IP address, or a directory with a Unix socket (starts with `/`).
    pub host: String,
    /// TCP port, or the number in the socket's name.
    pub port: u16,
    /// The role.
    pub user: String,
    /// Its password, if the server asks for one.
    pub password: Option<Secret>,
    /// The database.
    pub database: String,
    /// The replication slot; default `pillarbox_<pipeline>`.
    pub slot: String,
    /// The publication; default `pillarbox_<pipeline>`.
    pub publication: String,
}

/// The destination cluster.
#[derive(Debug, Clone)]
pub struct Kafka {
    /// Bootstrap brokers, `host:port`.
    pub brokers: Vec<String>,
    /// How record batches are compressed.
    pub compression: Compression,
    /// How topics that were never recorded come to be.
    pub topics: Topics,
    /// Limits of a Kafka transaction.
    pub transaction: Transaction,
}

/// How topics that were never recorded come to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// Create them; otherwise halt.
    pub create: bool,
    /// Partitions of a created topic; -1 = the broker's default.
    pub partitions: i32,
    /// Replicas of a created topic; -1 = the broker's default.
    pub replication_factor: i16,
}

impl Default for Topics {
    fn default() -> Self {
        Self { create: true, partitions: -1, replication_factor: -1 }
    }
}

/// Limits of a Kafka transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// A source transaction with more record bytes than this is split.
    pub bytes_max: usize,
    /// A source transaction with more events than this is split.
    pub events_max: usize,
    /// Transactional ids in rotation, 1 to 8.
    pub ids: u8,
    /// After this long an unfinished Kafka transaction is aborted by the broker.
    pub timeout: Duration,
}

/// The number of transactional ids that a pipeline always owns, whatever it uses: another relay's
/// setting must not leave an id unfenced.
pub const TRANSACTION_IDS_OWNED: u8 = 8;

impl Default for Transaction {
    fn default() -> Self {
        Self {
            // One source transaction in memory beside the sets in flight stays within the budget.
            bytes_max: 16 << 20,
            events_max: 100_000,
            // Four ids hide the marker writing that one id would wait 20 ms for.
            ids: 4,
            // Bounds how long a dead relay blocks read_committed readers.
            timeout: Duration::from_secs(30),
        }
    }
}

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
        if self.schema == Messages::SCHEMA {
            return write!(f, "messages with prefix {}", self.name);
        }
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

/// A topic name with at least one literal character or none but one column, e.g.
/// `outbox.event.{aggregatetype}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate {
    parts: Vec<TopicPart>,
}

/// A piece of a topic template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicPart {
    /// Text that stands as it is.
    Literal(String),
    /// The text of a column.
    Column(String),
}

/// Why a topic template is not legal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicTemplateError {
    /// Nothing in it.
    #[error("the topic template is empty")]
    Empty,
    /// `{` without `}` or the other way round.
    #[error("unbalanced brace at character {at}")]
    Brace {
        /// 1-based character position.
        at: usize,
    },
    /// `{}`.
    #[error("empty column name at character {at}")]
    EmptyColumn {
        /// 1-based character position.
        at: usize,
    },
    /// A literal that no topic name may contain.
    #[error("character {found:?} is not allowed in a topic name")]
    Illegal {
        /// The character.
        found: char,
    },
    /// Only columns: any row could choose any topic, internal ones included.
    #[error("the template needs a literal prefix or suffix, or every row could choose any topic")]
    NoLiteral,
}

impl TopicTemplate {
    /// Parses `literal{column}literal`.
    pub fn parse(text: &str) -> Result<Self, TopicTemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let at = text[..text.len() - rest.len()].chars().count() + 1;
            match rest.find(['{', '}']) {
                Some(0) if rest.starts_with('{') => {
                    let end = rest.find('}').ok_or(TopicTemplateError::Brace { at })?;
                    let column = &rest[1..end];
                    if column.is_empty() {
                        return Err(TopicTemplateError::EmptyColumn { at });
                    }
                    if column.contains('{') {
                        return Err(TopicTemplateError::Brace { at });
                    }
                    parts.push(TopicPart::Column(column.to_owned()));
                    rest = &rest[end + 1..];
                }
                Some(0) => return Err(TopicTemplateError::Brace { at }),
                end => {
                    let (literal, tail) = rest.split_at(end.unwrap_or(rest.len()));
                    if let Some(found) = literal.chars().find(|c| !topic_char(*c)) {
                        return Err(TopicTemplateError::Illegal { found });
                    }
                    parts.push(TopicPart::Literal(literal.to_owned()));
                    rest = tail;
                }
            }
        }
        if parts.is_empty() {
            return Err(TopicTemplateError::Empty);
        }
        if !parts.iter().any(|part| matches!(part, TopicPart::Literal(_))) {
            return Err(TopicTemplateError::NoLiteral);
        }
        Ok(Self { parts })
    }

    /// The pieces in order.
    pub fn parts(&self) -> &[TopicPart] {
        &self.parts
    }
}

impl fmt::Display for TopicTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            TopicPart::Literal(text) => f.write_str(text),
            TopicPart::Column(column) => write!(f, "{{{column}}}"),
        })
    }
}

fn topic_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
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

impl Config {
    /// The compacted topic with the checkpoint.
    pub fn checkpoint_topic(&self) -> String {
        format!("__pillarbox.{}", self.pipeline)
    }

    /// What the transactional ids begin with; a digit follows.
    pub fn transactional_id_prefix(&self) -> String {
        format!("pillarbox.{}.", self.pipeline)
    }

    /// Everything that gives events, in the order of [`Event::outbox`](crate::outbox::Event::outbox):
    /// the tables, then the messages.
    pub fn sources(&self) -> Vec<Outbox> {
        let messages = self.messages.iter().map(|messages| messages.outbox.clone());
        self.outbox.iter().cloned().chain(messages).collect()
    }

    /// A fingerprint of everything that decides routing: FNV-1a over a canonical text, 16 hex
    /// digits. A change inside a split transaction halts; at a boundary it is only recorded.
    pub fn generation(&self) -> String {
        let mut text = String::new();
        for outbox in &self.outbox {
            text.push_str(&format!(
                "{:?} {:?} {:?} {:?} {:?}",
                outbox.table, outbox.key_column, outbox.payload_column, outbox.id_column, outbox.topic
            ));
            text.push_str(&format!("{:?}\n", outbox.headers));
        }
        if let Some(messages) = &self.messages {
            text.push_str(&format!("{messages:?}\n"));
        }
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        format!("{hash:016x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_templates() {
        let ok = TopicTemplate::parse("outbox.event.{aggregatetype}").unwrap();
        assert_eq!(ok.parts().len(), 2);
        assert_eq!(ok.to_string(), "outbox.event.{aggregatetype}");
        for (text, error) in [
            ("", TopicTemplateError::Empty),
            ("a{b", TopicTemplateError::Brace { at: 2 }),
            ("a}b", TopicTemplateError::Brace { at: 2 }),
            ("a{}", TopicTemplateError::EmptyColumn { at: 2 }),
            ("a/{b}", TopicTemplateError::Illegal { found: '/' }),
            ("{b}", TopicTemplateError::NoLiteral),
        ] {
            assert_eq!(TopicTemplate::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }
}
