//! What a pipeline is told to do: validated settings only, every value legal.
//!
//! How a file or the environment spells them is the binary's business. Never reads a file or the
//! environment itself. Defaults stand beside their reason.

mod housekeeping;
mod messages;
mod outbox;
mod pattern;
mod shard;
mod topic;

use std::fmt;
use std::time::Duration;

pub use self::housekeeping::{Batches, Housekeeping, Partitions};
pub use self::messages::{MESSAGE_COLUMNS, Messages, OWN_HEADERS_MAX, PlainMessage, PlainPart};
pub use pillarbox_kafka::sasl::{Login, OAuth, Sasl};
pub use pillarbox_tls::{Identity, Roots, Tls, Verify};

pub use pillarbox_wire::record_batch::Compression;
pub use pillarbox_wire::topic::PipelineName;

pub use self::outbox::{
    EmptyPayload, EnvelopeColumn, Expand, Format, HEADERS_MAX, HeaderColumn, Missing, OnError, Outbox,
    TRACE_HEADERS, TableName, Updates,
};
pub use self::pattern::{PatternScratch, TopicPattern, TopicPatternError};
pub use self::shard::{OtherShard, Shard, hashtext};
pub use self::topic::{TopicPart, TopicTemplate, TopicTemplateError};
pub use secured::{ChannelBinding, PostgresTls, TlsMode, Transport};

mod secured;

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
    /// How connections are secured.
    pub tls: PostgresTls,
    /// Who runs SQL, so that the role that replicates needs no rights on tables; `None` = the same.
    pub sql: Option<SqlRole>,
}

/// The role of the SQL connection.
#[derive(Debug, Clone)]
pub struct SqlRole {
    /// Its name.
    pub user: String,
    /// Its password, if the server asks for one.
    pub password: Option<Secret>,
}

impl Postgres {
    /// The role of the SQL connection.
    pub fn sql_user(&self) -> &str {
        self.sql.as_ref().map_or(&self.user, |role| &role.user)
    }

    /// The settings of the SQL connection.
    #[must_use]
    pub fn for_sql(&self) -> Self {
        let mut settings = self.clone();
        if let Some(SqlRole { user, password }) = settings.sql.take() {
            (settings.user, settings.password) = (user, password);
        }
        settings
    }
}

/// The destination cluster.
#[derive(Debug, Clone)]
pub struct Kafka {
    /// Bootstrap brokers, `host:port`.
    pub brokers: Vec<String>,
    /// How connections are secured; `None` = plaintext.
    pub tls: Option<Tls>,
    /// How connections log in; `None` = not at all.
    pub sasl: Option<Sasl>,
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

impl Config {
    /// The compacted topic with the checkpoint.
    pub fn checkpoint_topic(&self) -> String {
        format!("__pillarbox.{}", self.pipeline)
    }

    /// The topic with the dead letters.
    pub fn dead_letter_topic(&self) -> String {
        format!("__pillarbox.{}.dead-letters", self.pipeline)
    }

    /// Whether any row may become a dead letter.
    pub fn has_dead_letters(&self) -> bool {
        self.sources().iter().any(|outbox| outbox.on_error == OnError::DeadLetter)
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
        // All of a table's settings, so that none can be forgotten here, but for what decides nothing.
        let decides = |outbox: &Outbox| Outbox {
            housekeeping: Housekeeping::None,
            // A row of another shard has no place of its own.
            other_shard: OtherShard::default(),
            ..outbox.clone()
        };
        let mut text: String = self.outbox.iter().map(|outbox| format!("{:?}\n", decides(outbox))).collect();
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
    fn how_tables_are_kept_decides_no_routing() {
        let table = TableName { schema: "public".into(), name: "outbox".into() };
        let mut config = Config {
            pipeline: "orders".parse().expect("a name"),
            postgres: Postgres {
                host: "db".into(),
                port: 5432,
                user: "u".into(),
                password: None,
                database: "d".into(),
                slot: "s".into(),
                publication: "p".into(),
                tls: PostgresTls::default(),
                sql: None,
            },
            kafka: Kafka {
                brokers: Vec::new(),
                tls: None,
                sasl: None,
                compression: Compression::None,
                topics: Topics::default(),
                transaction: Transaction::default(),
            },
            outbox: vec![Outbox::debezium(table)],
            messages: None,
        };
        let before = config.generation();
        config.outbox[0].housekeeping = Housekeeping::Delete(Batches::default());
        config.outbox[0].other_shard = OtherShard::Skip;
        assert_eq!(config.generation(), before);
        config.outbox[0].key_column = "other".into();
        assert_ne!(config.generation(), before);
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }
}
