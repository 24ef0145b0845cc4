//! Stage 3, outbox: inserted rows of outbox tables become events that borrow from the row.
//!
//! ```text
//! row -> plan (columns by name, once per description) -> read -> event
//!                                                          |
//!                        JSON is asked for: compose -------+
//! ```
//!
//! | the row has | the event |
//! | --- | --- |
//! | id NULL | cannot be: the pipeline halts |
//! | key NULL | has no key; the text `null` where keys are JSON |
//! | payload NULL | has no value; the text `null` where values are JSON and tombstones are not asked for |
//! | payload empty or blank | has it as its value, or none where tombstones are asked for |
//! | placed column NULL | has the header without a value, the field as `null`, the partition of its key |
//! | placed column missing | cannot be, or is without it (`Missing::Ignore`) |
//! | timestamp NULL | carries its commit time |
//! | a trace that cannot be understood | is without it |
//! | a key of another shard | is another pipeline's, if it is none: the pipeline halts ([`OtherShard`]) |
//!
//! Never reorders, never looks into a payload unless it is told to: text, json and jsonb go out as
//! Postgres wrote them, bytea as its bytes.

mod compose;
mod document;
mod expand;
mod json;
mod number;
mod plan;
mod time;
mod trace;
mod value;

mod emitted;
mod message;

use std::ops::Range;

use pillarbox_wire::pgoutput::Column;

use crate::config::{self, OtherShard, Shard, Updates};
use crate::decode::{Description, Row};

pub use self::emitted::{OwnHeaders, Part, emitted_id, emitted_parts};
pub use self::message::{MessageError, MessageReader};
use self::plan::{Plan, Role};
use self::value::{Kind, Plain, partition, plain, unix_millis};

pub use crate::config::HEADERS_MAX;

/// Pieces of a topic template at most.
pub const TOPIC_PARTS_MAX: usize = 8;

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
    /// Bit n: the event does not have header n at all.
    pub headers_absent: u16,
    /// The partition that the row asks for.
    pub partition: Option<u32>,
    /// The time that the row asks for, milliseconds since 1970.
    pub time_ms: Option<i64>,
}

const _: () = assert!(HEADERS_MAX <= u16::BITS as usize, "a bit for each header");

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
    /// It is not of this pipeline's shard.
    #[error("a row of {table} is not of shard {shard}: its WAL was decoded with another filter")]
    OtherShard {
        /// schema.table
        table: String,
        /// The pipeline's.
        shard: Shard,
    },
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
    composed: Vec<u8>,
    sharded: bool,
    foreign: u64,
}

impl Extractor {
    /// An extractor for the configured tables.
    pub fn new(outboxes: Vec<config::Outbox>) -> Self {
        let sharded = outboxes.iter().any(|outbox| outbox.shard.is_some());
        Self { sharded, outboxes, plans: Vec::new(), scratch: Vec::new(), composed: Vec::new(), foreign: 0 }
    }

    /// The configured tables.
    pub fn outboxes(&self) -> &[config::Outbox] {
        &self.outboxes
    }

    /// What an update of a row of this table does; `None` if it is no outbox.
    pub fn on_update(&self, relation: &Description) -> Option<Updates> {
        let table = |outbox: &&config::Outbox| {
            outbox.table.schema == relation.schema && outbox.table.name == relation.name
        };
        self.outboxes.iter().find(table).map(|outbox| outbox.updates)
    }

    /// Rows of other shards that were left to their pipelines so far.
    pub fn foreign(&self) -> u64 {
        self.foreign
    }

    /// Whether a row is of another pipeline's shard, and left to it.
    ///
    /// # Errors
    /// [`OutboxError::OtherShard`] where such a row must not be left.
    #[inline]
    pub fn is_foreign(&mut self, row: &Row<'_>) -> Result<bool, OutboxError> {
        if !self.sharded {
            return Ok(false);
        }
        let Some(plan) = planned(&mut self.plans, &self.outboxes, row)? else { return Ok(false) };
        let Some(own) = plan.own.as_ref().filter(|own| !own.holds(row)) else { return Ok(false) };
        let outbox = &self.outboxes[plan.outbox];
        if outbox.other_shard == OtherShard::Stop {
            return Err(OutboxError::OtherShard { table: outbox.table.to_string(), shard: own.shard });
        }
        self.foreign += 1;
        Ok(true)
    }

    /// The event in a row; `None` if its table is no outbox.
    pub fn extract<'a>(&'a mut self, row: &Row<'a>) -> Result<Option<Event<'a>>, OutboxError> {
        let Some(plan) = planned(&mut self.plans, &self.outboxes, row)? else { return Ok(None) };
        let outbox = &self.outboxes[plan.outbox];
        let event = match plan.verbatim {
            true => read_verbatim(plan, outbox, row)?,
            false => read(plan, outbox, row, &mut self.scratch)?,
        };
        match &plan.compose {
            None => Ok(Some(event)),
            Some(compose) => compose.apply(event, row, &mut self.composed).map(Some),
        }
    }

    /// The event in a row whose description is not one of the stream: nothing is kept of it.
    pub fn extract_once<'a>(&'a mut self, row: &Row<'a>) -> Result<Option<Event<'a>>, OutboxError> {
        let Some(plan) = plan::plan(&self.outboxes, row.relation)? else { return Ok(None) };
        let event = read(&plan, &self.outboxes[plan.outbox], row, &mut self.scratch)?;
        match &plan.compose {
            None => Ok(Some(event)),
            Some(compose) => compose.apply(event, row, &mut self.composed).map(Some),
        }
    }
}

/// The plan of a row's table, made at its first row; `None` if it is no outbox.
#[inline]
fn planned<'p>(
    plans: &'p mut Vec<Option<Option<Plan>>>,
    outboxes: &[config::Outbox],
    row: &Row<'_>,
) -> Result<Option<&'p Plan>, OutboxError> {
    let number = row.relation.number;
    if plans.len() <= number {
        plans.resize_with(number + 1, || None);
    }
    if plans[number].is_none() {
        plans[number] = Some(plan::plan(outboxes, row.relation)?);
    }
    Ok(plans[number].as_ref().expect("planned above").as_ref())
}

fn unreadable(row: &Row<'_>, at: usize, reason: &'static str) -> OutboxError {
    OutboxError::Unreadable {
        table: format!("{}.{}", row.relation.schema, row.relation.name),
        column: row.relation.columns[at].name.clone(),
        reason,
    }
}

/// A row whose values all go out as the stream has them: they are put where they belong at once.
fn read_verbatim<'a>(plan: &Plan, outbox: &config::Outbox, row: &Row<'a>) -> Result<Event<'a>, OutboxError> {
    let mut id = None;
    let mut event = Event {
        outbox: plan.outbox,
        id: &[],
        key: None,
        payload: None,
        topic_values: [None; TOPIC_PARTS_MAX],
        headers: [None; HEADERS_MAX],
        headers_absent: plan.headers_absent,
        partition: None,
        time_ms: None,
    };
    for (at, (column, (_, roles))) in row.tuple.columns().zip(&plan.columns).enumerate() {
        let value = match column {
            Column::Text(bytes) | Column::Binary(bytes) => Some(bytes),
            Column::Null => None,
            Column::Unchanged if roles.is_empty() => continue,
            Column::Unchanged => return Err(unreadable(row, at, value::NOT_INSERTED)),
        };
        for role in roles {
            match role {
                Role::Id => id = value,
                Role::Key => event.key = value,
                Role::Payload => event.payload = value,
                Role::Topic(part) => event.topic_values[*part] = value,
                Role::Header(header) => event.headers[*header] = value,
                Role::BytesHeader(_) | Role::Partition | Role::Time | Role::Trace(_) => {
                    unreachable!("a plan with such a role is not verbatim")
                }
            }
        }
    }
    event.id = id.ok_or_else(|| null_id(outbox))?;
    Ok(event)
}

fn null_id(outbox: &config::Outbox) -> OutboxError {
    OutboxError::Null { table: outbox.table.to_string(), column: outbox.id_column.clone() }
}

fn read<'a>(
    plan: &Plan,
    outbox: &config::Outbox,
    row: &Row<'a>,
    scratch: &'a mut Vec<u8>,
) -> Result<Event<'a>, OutboxError> {
    scratch.clear();
    let (mut id, mut key, mut payload) = (None, None, None);
    let (mut asked_partition, mut time_ms) = (None, None);
    let mut topic = [const { None }; TOPIC_PARTS_MAX];
    let mut headers = [const { None }; HEADERS_MAX];
    let mut headers_absent = plan.headers_absent;
    for (at, (column, (kind, roles))) in row.tuple.columns().zip(&plan.columns).enumerate() {
        if roles.is_empty() {
            continue;
        }
        let unreadable = |reason| unreadable(row, at, reason);
        let field = field(column, *kind, scratch).map_err(unreadable)?;
        for role in roles {
            match role {
                Role::Id => id.clone_from(&field),
                Role::Key => key.clone_from(&field),
                Role::Payload => payload.clone_from(&field),
                Role::Topic(part) => topic[*part].clone_from(&field),
                Role::Header(header) => headers[*header].clone_from(&field),
                Role::BytesHeader(header) => headers[*header] = field.clone().map(|f| base64(f, scratch)),
                Role::Partition => asked_partition = partition(column, *kind).map_err(unreadable)?,
                Role::Trace(first) => {
                    let Column::Text(text) = column else { continue };
                    for (at, value) in trace::read(text, scratch).into_iter().enumerate() {
                        let Some(value) = value else { continue };
                        headers[first + at] = Some(Field::Scratch(value));
                        headers_absent &= !(1 << (first + at));
                    }
                }
                Role::Time => time_ms = unix_millis(column, *kind).map_err(unreadable)?,
            }
        }
    }
    let scratch: &'a [u8] = scratch;
    let at = |field: Option<Field<'a>>| field.map(|field| resolve(field, scratch));
    Ok(Event {
        outbox: plan.outbox,
        id: at(id).ok_or_else(|| null_id(outbox))?,
        key: at(key),
        payload: at(payload),
        topic_values: topic.map(at),
        headers: headers.map(at),
        headers_absent,
        partition: asked_partition,
        time_ms,
    })
}

#[inline]
fn field<'a>(
    column: Column<'a>,
    kind: Kind,
    scratch: &mut Vec<u8>,
) -> Result<Option<Field<'a>>, &'static str> {
    Ok(plain(column, kind, scratch)?.map(|plain| match plain {
        Plain::Input(bytes) => Field::Input(bytes),
        Plain::Scratch(start) => Field::Scratch(start..scratch.len()),
    }))
}

/// Bytes as text, behind what the scratch buffer holds.
fn base64<'a>(field: Field<'_>, scratch: &mut Vec<u8>) -> Field<'a> {
    let bytes = resolve(field, scratch).to_vec();
    let start = scratch.len();
    json::base64(&bytes, scratch);
    Field::Scratch(start..scratch.len())
}

fn resolve<'a>(field: Field<'a>, scratch: &'a [u8]) -> &'a [u8] {
    match field {
        Field::Input(bytes) => bytes,
        Field::Scratch(range) => &scratch[range],
    }
}

#[cfg(test)]
mod tests;
