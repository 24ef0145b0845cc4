//! Logical messages as rows: what `pillarbox.emit()` wrote, and plain content.
//!
//! ```text
//! ff 50 42 01 | headers: name, value, name, value, ... | id, aggregatetype, aggregateid, type, payload
//!             '-- both as the stream writes a row -----'
//! anything else: a JSON object; some fields are picked, the payload is the content as it is
//! ```
//! | content | then |
//! | --- | --- |
//! | written by `emit()` | borrowed as it is |
//! | plain, every part configured as a value | never looked into |
//! | plain, a field asked for | must be a JSON object with text, number, truth or null there |
//! | anything else | an error: the pipeline halts at the message |
//!
//! The row that comes out belongs to the table that [`config::Messages`] describes, so that the
//! rest of the way is that of a table's row. Never repeats content in an error.

use std::borrow::Cow;
use std::fmt;

use pillarbox_wire::header::{ID, PB_ORIG_POS, PB_PART, PB_POS, PB_TS};
use pillarbox_wire::lsn::Oid;
use pillarbox_wire::pgoutput::{Column, DecodeError, Tuple};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::config::{self, MESSAGE_COLUMNS, Messages, OWN_HEADERS_MAX, PlainPart};
use crate::decode::{ColumnDescription, Description, Note, Row};

/// What content written by `emit()` begins with; no UTF-8 text does. A version follows.
const MAGIC: [u8; 3] = [0xff, b'P', b'B'];
const VERSION: u8 = 1;

/// Parts of a plain message that can be fields: all columns but the payload.
const PARTS: usize = MESSAGE_COLUMNS.len() - 1;

const TEXT: Oid = Oid(25);

/// Headers that the relay writes itself.
const RESERVED: [&str; 5] = [ID, PB_POS, PB_PART, PB_TS, PB_ORIG_POS];

/// A message that cannot become an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It begins as `emit()` writes it, and goes on otherwise.
    #[error("it begins as pillarbox.emit() writes it, but {0}")]
    Damaged(&'static str),
    /// It begins as `emit()` writes it, and its rows cannot be read.
    #[error("it begins as pillarbox.emit() writes it, but not to its end: {0}")]
    Cut(#[from] DecodeError),
    /// Fields are asked for, and there are none.
    #[error("its content is not a JSON object: line {line}, column {column}")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1; 0 before the first character of a line.
        column: usize,
    },
    /// A field has an object or a list.
    #[error("field `{0}` of its content is an object or a list")]
    NotText(String),
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
    fn new(tuple: Tuple<'a>) -> Result<Self, MessageError> {
        if !tuple.len().is_multiple_of(2) || tuple.len() > 2 * OWN_HEADERS_MAX {
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

/// Reads messages.
pub struct MessageReader {
    config: Messages,
    description: Description,
    /// The row of a plain message.
    row: Vec<u8>,
}

impl MessageReader {
    /// A reader for the configured prefix.
    pub fn new(config: Messages) -> Self {
        let column =
            |name: &str| ColumnDescription { name: name.to_owned(), type_oid: TEXT, type_modifier: -1 };
        let config::TableName { schema, name } = config.outbox.table.clone();
        let columns = MESSAGE_COLUMNS.into_iter().map(column).collect();
        let description = Description { number: 0, schema, name, columns };
        Self { config, description, row: Vec::new() }
    }

    /// Whether messages with this prefix are events.
    pub fn is_event(&self, prefix: &str) -> bool {
        self.config.prefix == prefix
    }

    /// The message as a row, and the headers that it brings along.
    ///
    /// # Errors
    /// [`MessageError`]; the message can never become an event.
    pub fn read<'a>(&'a mut self, note: &Note<'a>) -> Result<(Row<'a>, OwnHeaders<'a>), MessageError> {
        let (tuple, headers) = match note.content.strip_prefix(&MAGIC) {
            Some([VERSION, rest @ ..]) => emitted(rest)?,
            Some(_) => return Err(MessageError::Damaged("in a form that this version does not know")),
            None => {
                self.compose(note)?;
                let (tuple, _) = Tuple::decode(&self.row)?;
                (tuple, OwnHeaders::default())
            }
        };
        let Note { transaction, index, .. } = *note;
        Ok((Row { transaction, index, relation: &self.description, tuple }, headers))
    }

    /// Writes the row of a plain message.
    fn compose(&mut self, note: &Note<'_>) -> Result<(), MessageError> {
        let plain = &self.config.plain;
        let parts = [&plain.id, &plain.aggregate_type, &plain.aggregate_id, &plain.event_type];
        let found = fields(&parts, note.content)?;
        let row = &mut self.row;
        row.clear();
        row.extend_from_slice(&(MESSAGE_COLUMNS.len() as u16).to_be_bytes());
        for (at, part) in parts.into_iter().enumerate() {
            match (part, &found[at]) {
                (PlainPart::Value(value), _) => put(row, value.as_bytes()),
                (PlainPart::Field(_), Some(value)) => put(row, value.as_bytes()),
                // It needs one, and its place is its own for ever.
                (PlainPart::Field(_), None) if at == 0 => {
                    put(row, format!("{:016x}{:08x}", note.transaction.commit_lsn.0, note.index).as_bytes());
                }
                (PlainPart::Field(_), None) => row.push(b'n'),
            }
        }
        put(row, note.content);
        Ok(())
    }
}

/// What `emit()` wrote behind the version.
fn emitted(rest: &[u8]) -> Result<(Tuple<'_>, OwnHeaders<'_>), MessageError> {
    let (headers, rest) = Tuple::decode(rest)?;
    let (row, rest) = Tuple::decode(rest)?;
    let plain = |column| matches!(column, Column::Text(_) | Column::Null);
    if row.len() != MESSAGE_COLUMNS.len() || !rest.is_empty() || !row.columns().all(plain) {
        return Err(MessageError::Damaged("with another row"));
    }
    Ok((row, OwnHeaders::new(headers)?))
}

/// A name and the value that goes by it.
pub type Part<'a> = (String, Option<&'a [u8]>);

/// What a person finds in content that `pillarbox.emit()` wrote: the parts by the names of its
/// columns, then `header NAME` for each of the caller's; `None` for other content.
pub fn emitted_parts(content: &[u8]) -> Option<Vec<Part<'_>>> {
    let (row, headers) = emitted(content.strip_prefix(&MAGIC)?.strip_prefix(&[VERSION])?).ok()?;
    let values = row.columns().map(|column| match column {
        Column::Text(value) => Some(value),
        _ => None,
    });
    let columns = MESSAGE_COLUMNS.map(str::to_owned).into_iter().zip(values);
    Some(columns.chain(headers.iter().map(|(name, value)| (format!("header {name}"), value))).collect())
}

/// The event id in content that `pillarbox.emit()` wrote.
pub fn emitted_id(content: &[u8]) -> Option<&[u8]> {
    let (row, _) = emitted(content.strip_prefix(&MAGIC)?.strip_prefix(&[VERSION])?).ok()?;
    match row.columns().next()? {
        Column::Text(id) => Some(id),
        _ => None,
    }
}

fn put(row: &mut Vec<u8>, value: &[u8]) {
    row.push(b't');
    // A message is received in one frame, which is far shorter than 2 GiB.
    row.extend_from_slice(&(value.len() as u32).to_be_bytes());
    row.extend_from_slice(value);
}

/// The texts of the fields that are asked for.
fn fields<'a>(
    parts: &[&PlainPart; PARTS],
    content: &'a [u8],
) -> Result<[Option<Cow<'a, str>>; PARTS], MessageError> {
    let names = parts.map(|part| match part {
        PlainPart::Field(name) => Some(name.as_str()),
        PlainPart::Value(_) => None,
    });
    if names.iter().all(Option::is_none) {
        return Ok(Default::default());
    }
    let not_json =
        |error: serde_json::Error| MessageError::NotJson { line: error.line(), column: error.column() };
    let mut json = serde_json::Deserializer::from_slice(content);
    let raw = Wanted(names).deserialize(&mut json).map_err(not_json)?;
    json.end().map_err(not_json)?;
    let mut texts: [Option<Cow<'a, str>>; PARTS] = Default::default();
    for ((text, raw), name) in texts.iter_mut().zip(raw).zip(names) {
        *text = match raw.map(RawValue::get) {
            None | Some("null") => None,
            Some(list) if list.starts_with(['{', '[']) => {
                return Err(MessageError::NotText(name.unwrap_or_default().to_owned()));
            }
            Some(quoted) if quoted.starts_with('"') => Some(unquoted(quoted).map_err(not_json)?),
            Some(number) => Some(Cow::Borrowed(number)),
        };
    }
    Ok(texts)
}

/// The content of a JSON string, borrowed where nothing in it is escaped.
fn unquoted(quoted: &str) -> serde_json::Result<Cow<'_, str>> {
    match serde_json::from_str::<&str>(quoted) {
        Ok(text) => Ok(Cow::Borrowed(text)),
        Err(_) => serde_json::from_str::<String>(quoted).map(Cow::Owned),
    }
}

/// Picks fields of an object by name; of a name that comes twice the last, as jsonb does.
struct Wanted<'n>([Option<&'n str>; PARTS]);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = [Option<&'de RawValue>; PARTS];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = [Option<&'de RawValue>; PARTS];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut found = [None; PARTS];
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if !self.0.contains(&Some(&*name)) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value::<&RawValue>()?;
            for (found, wanted) in found.iter_mut().zip(self.0) {
                if wanted == Some(&*name) {
                    *found = Some(value);
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
