//! What `pillarbox.emit()` writes: a record as Postgres sends one in binary.
//!
//! ```text
//! 6 | uuid id | aggregatetype | aggregateid | type | bytea headers | payload
//!     each: oid (32 bit), length (32 bit, -1 = null), bytes; texts are UTF-8
//!     headers: a row as the replication stream writes it: name, value, name, value, ...
//! ```
//! One call of `record_send` makes it: `emit()` is a fifth cheaper than with a frame of its own, put
//! together part by part. The payload is text, bytea, or jsonb, which has a version in front. It
//! begins with a zero byte, as no text does. Never repeats content in an error.

use std::borrow::Cow;

use pillarbox_wire::header::{ID, PB_ORIG_POS, PB_PART, PB_POS, PB_TS};
use pillarbox_wire::lsn::Oid;
use pillarbox_wire::pgoutput::{Column, Tuple};
use uuid::Uuid;

use super::message::MessageError;
use crate::config::{MESSAGE_COLUMNS, OWN_HEADERS_MAX};

/// Columns of the record: one more than an event's row has, for the headers.
const COLUMNS: u8 = MESSAGE_COLUMNS.len() as u8 + 1;

/// What follows the count of columns: the id's type, and its length.
const ID_BEGINS: [u8; 8] = [0, 0, 0x0b, 0x86, 0, 0, 0, 16];

const JSONB: Oid = Oid(3802);

/// What `jsonb_send` writes in front of the text.
const JSONB_VERSION: u8 = 1;

/// Headers that the relay writes itself.
const RESERVED: [&str; 5] = [ID, PB_POS, PB_PART, PB_TS, PB_ORIG_POS];

/// An event as it was emitted.
pub(super) struct Emitted<'a> {
    id: Uuid,
    /// Aggregate type, aggregate id and event type.
    texts: [Option<&'a [u8]>; 3],
    /// Those of this event alone.
    pub(super) headers: OwnHeaders<'a>,
    payload: Option<&'a [u8]>,
}

impl<'a> Emitted<'a> {
    /// The event in the content; `None` for content that `emit()` did not write.
    ///
    /// # Errors
    /// [`MessageError`] for what begins as `emit()` writes it and goes on otherwise.
    pub(super) fn read(content: &'a [u8]) -> Result<Option<Self>, MessageError> {
        let Some((&[0, 0, 0, columns], rest)) = content.split_first_chunk() else { return Ok(None) };
        let Some(rest) = rest.strip_prefix(&ID_BEGINS) else { return Ok(None) };
        if columns != COLUMNS {
            return Err(MessageError::Damaged("in a form that this version does not know"));
        }
        let (id, mut rest) = rest.split_first_chunk().ok_or(CUT)?;
        let mut texts = [None; 3];
        for text in &mut texts {
            *text = take(&mut rest)?.value;
        }
        let headers = take(&mut rest)?.value;
        let payload = take(&mut rest)?;
        if !rest.is_empty() {
            return Err(MessageError::Damaged("goes on behind its payload"));
        }
        let payload = match payload {
            Field { kind: JSONB, value: Some(json) } => Some(
                json.strip_prefix(&[JSONB_VERSION])
                    .ok_or(MessageError::Damaged("its jsonb has a form that this version does not know"))?,
            ),
            Field { value, .. } => value,
        };
        let headers = headers.map(OwnHeaders::read).transpose()?.unwrap_or_default();
        Ok(Some(Self { id: Uuid::from_bytes(*id), texts, headers, payload }))
    }

    /// The event's row: id, aggregate type, aggregate id, event type, payload.
    pub(super) fn columns(&self) -> [Option<Cow<'a, [u8]>>; MESSAGE_COLUMNS.len()] {
        let [aggregate_type, aggregate_id, event_type] = self.texts.map(|text| text.map(Cow::Borrowed));
        let id = Cow::Owned(self.id.to_string().into_bytes());
        [Some(id), aggregate_type, aggregate_id, event_type, self.payload.map(Cow::Borrowed)]
    }
}

const CUT: MessageError = MessageError::Damaged("it ends early");

/// One column of the record.
struct Field<'a> {
    kind: Oid,
    value: Option<&'a [u8]>,
}

/// Takes the next column off the front.
fn take<'a>(rest: &mut &'a [u8]) -> Result<Field<'a>, MessageError> {
    let (kind, after) = rest.split_first_chunk().ok_or(CUT)?;
    let (length, after) = after.split_first_chunk().ok_or(CUT)?;
    let (value, after) = match i32::from_be_bytes(*length) {
        -1 => (None, after),
        length => {
            let length = usize::try_from(length).map_err(|_| CUT)?;
            let (value, after) = after.split_at_checked(length).ok_or(CUT)?;
            (Some(value), after)
        }
    };
    *rest = after;
    Ok(Field { kind: Oid(u32::from_be_bytes(*kind)), value })
}

/// Headers that a message carries itself.
#[derive(Clone, Copy, Default)]
pub struct OwnHeaders<'a>(Option<Tuple<'a>>);

impl<'a> OwnHeaders<'a> {
    /// Names and values, in order.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> {
        let mut columns = self.0.into_iter().flat_map(|tuple| tuple.columns());
        std::iter::from_fn(move || {
            let Column::Text(name) = columns.next()? else { return None };
            let value = match columns.next()? {
                Column::Text(value) => Some(value),
                _ => None,
            };
            Some((std::str::from_utf8(name).ok()?, value))
        })
    }

    /// The headers in a row of names and values in turns.
    fn read(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let (tuple, rest) = Tuple::decode(bytes)?;
        if !tuple.len().is_multiple_of(2) || tuple.len() > 2 * OWN_HEADERS_MAX || !rest.is_empty() {
            return Err(MessageError::Damaged("with too many headers or half of one"));
        }
        for (at, column) in tuple.columns().enumerate() {
            let good = match column {
                Column::Text(name) if at % 2 == 0 => {
                    std::str::from_utf8(name).is_ok_and(|name| !name.is_empty() && !RESERVED.contains(&name))
                }
                Column::Text(_) => true,
                Column::Null => at % 2 == 1,
                Column::Unchanged | Column::Binary(_) => false,
            };
            if !good {
                return Err(MessageError::Damaged("a header's name is not allowed"));
            }
        }
        Ok(Self(Some(tuple)))
    }
}

/// A name and the value that goes by it.
pub type Part<'a> = (String, Option<Cow<'a, [u8]>>);

/// What a person finds in content that `pillarbox.emit()` wrote: the parts by the names of its
/// columns, then `header NAME` for each of the caller's; `None` for other content.
pub fn emitted_parts(content: &[u8]) -> Option<Vec<Part<'_>>> {
    let emitted = Emitted::read(content).ok()??;
    let columns = MESSAGE_COLUMNS.map(str::to_owned).into_iter().zip(emitted.columns());
    let headers = emitted.headers.iter();
    Some(
        columns
            .chain(headers.map(|(name, value)| (format!("header {name}"), value.map(Cow::Borrowed))))
            .collect(),
    )
}

/// The event id in content that `pillarbox.emit()` wrote.
pub fn emitted_id(content: &[u8]) -> Option<String> {
    Some(Emitted::read(content).ok()??.id.to_string())
}
