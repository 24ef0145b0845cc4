//! How the rows of one described table are read: columns found by name, once.
//!
//! A table that changes is described anew and planned anew. Never looks at a row.

use pillarbox_wire::lsn::Oid;
use pillarbox_wire::pgoutput::Column;

use super::compose::Compose;
use super::value::Kind;
use super::{OutboxError, TOPIC_PARTS_MAX};
use crate::config::{HEADERS_MAX, Missing, Outbox, Shard, TopicPart};
use crate::decode::{Description, Row};

/// The type of char(n).
const BPCHAR: Oid = Oid(1042);

/// What a column is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Id,
    Key,
    Payload,
    Topic(usize),
    Header(usize),
    /// A header of bytes: text in base64, as Connect's header converter writes it.
    BytesHeader(usize),
    Partition,
    Time,
    /// Where its headers begin.
    Trace(usize),
}

impl Role {
    /// Whether it takes the column's text as it is.
    fn is_verbatim(self) -> bool {
        matches!(self, Role::Id | Role::Key | Role::Payload | Role::Topic(_) | Role::Header(_))
    }
}

/// How the rows of one described table are read.
#[derive(Debug)]
pub(super) struct Plan {
    /// Which of the configured tables it is.
    pub(super) outbox: usize,
    /// For each column of the tuple, what its type means and what it is needed for.
    pub(super) columns: Vec<(Kind, Vec<Role>)>,
    /// Whether every value that is needed goes out as the stream has it.
    pub(super) verbatim: bool,
    /// Bit n: the table lacks the column of header n.
    pub(super) headers_absent: u16,
    /// What is made of the values that were read; `None` = they go out as they are.
    pub(super) compose: Option<Compose>,
    /// The part of the table's keys that is ours, if it is not all.
    pub(super) own: Option<Own>,
}

/// Tells the rows of a shard from others.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) shard: Shard,
    /// Where the key is.
    at: usize,
    /// It is a char(n), which Postgres hashes without its trailing blanks.
    padded: bool,
}

impl Own {
    /// Whether a row is of this shard. One without a value for the key is an error for whoever reads it.
    pub(super) fn holds(&self, row: &Row<'_>) -> bool {
        let key = match row.tuple.columns().nth(self.at) {
            Some(Column::Text(bytes) | Column::Binary(bytes)) => Some(bytes),
            Some(Column::Null) => None,
            Some(Column::Unchanged) | None => return true,
        };
        let length = |key: &[u8]| match self.padded {
            true => key.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1),
            false => key.len(),
        };
        self.shard.holds(key.map(|key| &key[..length(key)]))
    }
}

/// The plan for a described table; `None` if it is no outbox.
pub(super) fn plan(outboxes: &[Outbox], relation: &Description) -> Result<Option<Plan>, OutboxError> {
    let found = outboxes
        .iter()
        .position(|outbox| outbox.table.schema == relation.schema && outbox.table.name == relation.name);
    let Some(index) = found else { return Ok(None) };
    let outbox = &outboxes[index];
    assert!(outbox.header_names().count() <= HEADERS_MAX && outbox.topic.parts().len() <= TOPIC_PARTS_MAX);
    let table = Table { outbox, relation };
    let mut columns: Vec<(Kind, Vec<Role>)> = relation
        .columns
        .iter()
        .map(|column| (Kind::of(column.type_oid, column.type_modifier), Vec::new()))
        .collect();
    for (name, role) in required(outbox) {
        columns[table.required(name)?].1.push(role);
    }
    let mut headers_absent = 0;
    for (number, header) in outbox.headers.iter().enumerate() {
        match table.placed(&header.column)? {
            Some(at) if columns[at].0 == Kind::Bytea => columns[at].1.push(Role::BytesHeader(number)),
            Some(at) => columns[at].1.push(Role::Header(number)),
            None => headers_absent |= 1 << number,
        }
    }
    if let Some(column) = &outbox.partition_column
        && let Some(at) = table.placed(column)?
    {
        columns[at].1.push(Role::Partition);
    }
    if let Some(column) = &outbox.trace_column {
        let first = outbox.headers.len();
        // Most tables never had it, as with Debezium; each row says which of them it has.
        headers_absent |= 0b111 << first;
        if let Some(at) = table.find(column) {
            columns[at].1.push(Role::Trace(first));
        }
    }
    if let Some(column) = &outbox.version_column {
        table.required(column)?;
    }
    let compose = compose(&table, &columns)?;
    let verbatim = columns.iter().all(|(kind, roles)| {
        roles.is_empty() || kind.is_verbatim() && roles.iter().all(|role| role.is_verbatim())
    });
    let own = outbox.shard.map(|shard| {
        let at = table.required(&outbox.key_column)?;
        Ok(Own { shard, at, padded: relation.columns[at].type_oid == BPCHAR })
    });
    let own = own.transpose()?;
    Ok(Some(Plan { outbox: index, columns, verbatim, headers_absent, compose, own }))
}

/// Columns that every event needs.
fn required(outbox: &Outbox) -> Vec<(&str, Role)> {
    let mut roles = vec![
        (outbox.id_column.as_str(), Role::Id),
        (outbox.key_column.as_str(), Role::Key),
        (outbox.payload_column.as_str(), Role::Payload),
    ];
    for (at, part) in outbox.topic.parts().iter().enumerate() {
        if let TopicPart::Column(column) = part {
            roles.push((column, Role::Topic(at)));
        }
    }
    roles.extend(outbox.timestamp_column.as_deref().map(|column| (column, Role::Time)));
    roles
}

fn compose(table: &Table<'_>, columns: &[(Kind, Vec<Role>)]) -> Result<Option<Compose>, OutboxError> {
    let outbox = table.outbox;
    if !Compose::is_needed(outbox) {
        return Ok(None);
    }
    let kind = |name: &str| table.required(name).map(|at| columns[at].0);
    let mut envelope = Vec::new();
    for field in &outbox.envelope {
        if let Some(at) = table.placed(&field.column)? {
            envelope.push((field.name.clone(), at, columns[at].0));
        }
    }
    let (key, payload) = (kind(&outbox.key_column)?, kind(&outbox.payload_column)?);
    Ok(Some(Compose::new(outbox, key, payload, envelope)))
}

struct Table<'a> {
    outbox: &'a Outbox,
    relation: &'a Description,
}

impl Table<'_> {
    fn find(&self, name: &str) -> Option<usize> {
        self.relation.columns.iter().position(|column| column.name == name)
    }

    fn required(&self, name: &str) -> Result<usize, OutboxError> {
        self.find(name).ok_or_else(|| OutboxError::ColumnMissing {
            table: self.outbox.table.to_string(),
            column: name.to_owned(),
        })
    }

    /// A placed column may be missing where the configuration says so.
    fn placed(&self, name: &str) -> Result<Option<usize>, OutboxError> {
        match self.outbox.missing {
            Missing::Stop => self.required(name).map(Some),
            Missing::Ignore => Ok(self.find(name)),
        }
    }
}
