//! Logical messages as rows: what `pillarbox.emit()` wrote, and plain content.
//!
//! ```text
//! written by emit(): a record of six columns, see `emitted`
//! anything else:     a JSON object; some fields are picked, the payload is the content as it is
//! ```
//! | content | then |
//! | --- | --- |
//! | written by `emit()` | its columns, as the stream writes a row |
//! | plain, every part configured as a value | never looked into |
//! | plain, a field asked for | must be a JSON object with text, number, truth or null there |
//! | anything else | an error: the pipeline halts at the message |
//!
//! The row that comes out belongs to the table that [`config::Messages`] describes, so that the
//! rest of the way is that of a table's row. Never repeats content in an error.

use std::borrow::Cow;
use std::fmt;

use pillarbox_wire::lsn::Oid;
use pillarbox_wire::pgoutput::{DecodeError, Tuple};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::emitted::{Emitted, OwnHeaders};
use crate::config::{self, MESSAGE_COLUMNS, Messages, PlainPart};
use crate::decode::{ColumnDescription, Description, Note, Row};

/// Parts of a plain message that can be fields: all columns but the payload.
const PARTS: usize = MESSAGE_COLUMNS.len() - 1;

const TEXT: Oid = Oid(25);

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

/// Reads messages.
pub struct MessageReader {
    config: Messages,
    description: Description,
    /// The row of the message that is read.
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
        self.row.clear();
        self.row.extend_from_slice(&(MESSAGE_COLUMNS.len() as u16).to_be_bytes());
        let headers = match Emitted::read(note.content)? {
            Some(emitted) => {
                emitted
                    .columns()
                    .into_iter()
                    .for_each(|column| put_or_null(&mut self.row, column.as_deref()));
                emitted.headers
            }
            None => {
                self.compose(note)?;
                OwnHeaders::default()
            }
        };
        let (tuple, _) = Tuple::decode(&self.row)?;
        let Note { transaction, index, .. } = *note;
        Ok((Row { transaction, index, relation: &self.description, tuple }, headers))
    }

    /// Writes the columns of a plain message.
    fn compose(&mut self, note: &Note<'_>) -> Result<(), MessageError> {
        let plain = &self.config.plain;
        let parts = [&plain.id, &plain.aggregate_type, &plain.aggregate_id, &plain.event_type];
        let found = fields(&parts, note.content)?;
        let row = &mut self.row;
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

fn put_or_null(row: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) => put(row, value),
        None => row.push(b'n'),
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
