//! Stage 3, outbox: inserted rows of outbox tables become events that borrow from the row.
//!
//! Columns are found by name, once per description of the table. Never reorders, never parses a
//! payload: text, json and jsonb go out as Postgres wrote them, bytea as its bytes.

mod message;

use std::ops::Range;

use pillarbox_wire::lsn::Oid;
use pillarbox_wire::pgoutput::Column;

use crate::config;
use crate::config::TopicPart;
use crate::decode::{Description, Row};

pub use self::message::{MessageError, MessageReader, OwnHeaders};

/// Columns that may become headers, per table: they live on the stack while a row is read.
pub const HEADERS_MAX: usize = 16;
/// Pieces of a topic template at most.
pub const TOPIC_PARTS_MAX: usize = 8;

const BYTEA: Oid = Oid(17);

/// What an application emitted. It has no `Debug`: its fields never reach a log.
pub struct Event<'a> {
    /// The table that it came from, an index into the configured outboxes.
    pub outbox: usize,
    /// The event id as text.
    pub id: &'a [u8],
    /// The record key.
    pub key: Option<&'a [u8]>,
    /// The record value, verbatim.
    pub payload: Option<&'a [u8]>,
    /// Values of the template's column pieces, by piece.
    pub topic_values: [Option<&'a [u8]>; TOPIC_PARTS_MAX],
    /// Values of the configured header columns, in order.
    pub headers: [Option<&'a [u8]>; HEADERS_MAX],
}

/// A row that cannot become an event, or a table that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutboxError {
    /// A configured column is not in the table, or not in the publication's column list.
    #[error("table {table} has no column `{column}` in the replication stream")]
    ColumnMissing {
        /// schema.table
        table: String,
        /// The column.
        column: String,
    },
    /// A value that every event needs.
    #[error("column `{column}` of {table} is NULL")]
    Null {
        /// schema.table
        table: String,
        /// The column.
        column: String,
    },
    /// A value that is not what its type says.
    #[error("column `{column}` of {table} cannot be read: {reason}")]
    Unreadable {
        /// schema.table
        table: String,
        /// The column.
        column: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// What a column is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Id,
    Key,
    Payload,
    Topic(usize),
    Header(usize),
}

/// How the rows of one described table are read.
#[derive(Debug)]
struct Plan {
    outbox: usize,
    /// For each column of the tuple, whether it is bytea and what it is needed for.
    columns: Vec<(bool, Vec<Role>)>,
}

/// A value, before the scratch buffer has its final address.
#[derive(Clone)]
enum Field<'a> {
    Input(&'a [u8]),
    Scratch(Range<usize>),
}

/// Reads outbox rows.
pub struct Extractor {
    outboxes: Vec<config::Outbox>,
    /// By description number; `None` inside = not an outbox.
    plans: Vec<Option<Option<Plan>>>,
    scratch: Vec<u8>,
}

impl Extractor {
    /// An extractor for the configured tables.
    pub fn new(outboxes: Vec<config::Outbox>) -> Self {
        Self { outboxes, plans: Vec::new(), scratch: Vec::new() }
    }

    /// The configured tables.
    pub fn outboxes(&self) -> &[config::Outbox] {
        &self.outboxes
    }

    /// The event in a row; `None` if its table is no outbox.
    pub fn extract<'a>(&'a mut self, row: &Row<'a>) -> Result<Option<Event<'a>>, OutboxError> {
        let number = row.relation.number;
        if self.plans.len() <= number {
            self.plans.resize_with(number + 1, || None);
        }
        if self.plans[number].is_none() {
            self.plans[number] = Some(plan(&self.outboxes, row.relation)?);
        }
        match self.plans[number].as_ref().expect("planned above") {
            Some(plan) => read(plan, &self.outboxes[plan.outbox], row, &mut self.scratch).map(Some),
            None => Ok(None),
        }
    }
}

fn plan(outboxes: &[config::Outbox], relation: &Description) -> Result<Option<Plan>, OutboxError> {
    let found = outboxes
        .iter()
        .position(|outbox| outbox.table.schema == relation.schema && outbox.table.name == relation.name);
    let Some(index) = found else { return Ok(None) };
    let mut columns: Vec<(bool, Vec<Role>)> =
        relation.columns.iter().map(|column| (column.type_oid == BYTEA, Vec::new())).collect();
    for (name, role) in roles(&outboxes[index]) {
        let at = relation.columns.iter().position(|column| column.name == name).ok_or_else(|| {
            OutboxError::ColumnMissing { table: outboxes[index].table.to_string(), column: name.to_owned() }
        })?;
        columns[at].1.push(role);
    }
    Ok(Some(Plan { outbox: index, columns }))
}

fn roles(outbox: &config::Outbox) -> Vec<(&str, Role)> {
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
    roles.extend(outbox.headers.iter().enumerate().map(|(at, h)| (h.column.as_str(), Role::Header(at))));
    roles
}

fn read<'a>(
    plan: &Plan,
    outbox: &config::Outbox,
    row: &Row<'a>,
    scratch: &'a mut Vec<u8>,
) -> Result<Event<'a>, OutboxError> {
    scratch.clear();
    let (mut id, mut key, mut payload) = (None, None, None);
    let mut topic = [const { None }; TOPIC_PARTS_MAX];
    let mut headers = [const { None }; HEADERS_MAX];
    for (at, (column, (bytea, roles))) in row.tuple.columns().zip(&plan.columns).enumerate() {
        if roles.is_empty() {
            continue;
        }
        let unreadable = |reason| OutboxError::Unreadable {
            table: outbox.table.to_string(),
            column: row.relation.columns[at].name.clone(),
            reason,
        };
        let field = field(column, *bytea, scratch).map_err(unreadable)?;
        for role in roles {
            match role {
                Role::Id => id.clone_from(&field),
                Role::Key => key.clone_from(&field),
                Role::Payload => payload.clone_from(&field),
                Role::Topic(part) => topic[*part].clone_from(&field),
                Role::Header(header) => headers[*header].clone_from(&field),
            }
        }
    }
    let scratch: &'a [u8] = scratch;
    let at = |field: Option<Field<'a>>| field.map(|field| resolve(field, scratch));
    let null = || OutboxError::Null { table: outbox.table.to_string(), column: outbox.id_column.clone() };
    Ok(Event {
        outbox: plan.outbox,
        id: at(id).ok_or_else(null)?,
        key: at(key),
        payload: at(payload),
        topic_values: topic.map(at),
        headers: headers.map(at),
    })
}

fn field<'a>(
    column: Column<'a>,
    bytea: bool,
    scratch: &mut Vec<u8>,
) -> Result<Option<Field<'a>>, &'static str> {
    match column {
        Column::Null => Ok(None),
        Column::Text(text) if bytea => unhex(text, scratch).map(|range| Some(Field::Scratch(range))),
        Column::Text(bytes) | Column::Binary(bytes) => Ok(Some(Field::Input(bytes))),
        Column::Unchanged => Err("an inserted row has no value for it"),
    }
}

fn resolve<'a>(field: Field<'a>, scratch: &'a [u8]) -> &'a [u8] {
    match field {
        Field::Input(bytes) => bytes,
        Field::Scratch(range) => &scratch[range],
    }
}

/// Decodes bytea's hex output, `\x6162`, behind what the scratch buffer holds.
fn unhex(text: &[u8], scratch: &mut Vec<u8>) -> Result<Range<usize>, &'static str> {
    let hex = text.strip_prefix(b"\\x").ok_or("bytea is not in hex format")?;
    if !hex.len().is_multiple_of(2) {
        return Err("bytea has half a byte");
    }
    let start = scratch.len();
    scratch.reserve(hex.len() / 2);
    for pair in hex.chunks_exact(2) {
        let (high, low) = (NIBBLES[pair[0] as usize], NIBBLES[pair[1] as usize]);
        if (high | low) > 0xf {
            return Err("bytea has a character that is not hex");
        }
        scratch.push(high << 4 | low);
    }
    Ok(start..scratch.len())
}

const NIBBLES: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut at = 0;
    while at < 10 {
        table[b'0' as usize + at] = at as u8;
        at += 1;
    }
    let mut at = 0;
    while at < 6 {
        table[b'a' as usize + at] = 10 + at as u8;
        table[b'A' as usize + at] = 10 + at as u8;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unhex_reads_what_postgres_writes() {
        let mut scratch = vec![1];
        assert_eq!(unhex(b"\\x00ffAb", &mut scratch), Ok(1..4));
        assert_eq!(scratch, [1, 0, 0xff, 0xab]);
        for bad in [&b"6162"[..], b"\\x6", b"\\x6g", b""] {
            assert!(unhex(bad, &mut Vec::new()).is_err(), "{bad:?}");
        }
    }
}
