//! What a command asks of the relay: logical messages with a prefix of their own.
//!
//! ```text
//! {"pipeline":"orders","verb":"replay","letter":"orders:<position>:7","row":{...}}\n<row as the stream wrote it>
//! {"pipeline":"orders","verb":"discard","letter":"orders:<position>:8"}\n
//! {"pipeline":"orders","verb":"flush"}\n
//! ```
//! A replay carries the row itself, so that the relay needs nothing but WAL to carry it out. Pure;
//! never shows what is in a row.

use pillarbox_wire::lsn::Oid;
use pillarbox_wire::pgoutput::Tuple;
use serde::{Deserialize, Serialize};

use crate::config::Messages;
use crate::decode::{ColumnDescription, Description};

/// The prefix of orders.
pub const PREFIX: &str = "pillarbox.dead-letters";
/// The longest row that an order carries: with its head it stays below what a replication message
/// may hold.
pub const ROW_BYTES_MAX: usize = 60 << 20;

/// The one column of a message's letter, bytes.
const CONTENT: (&str, u32, i32) = ("content", 17, -1);

/// A table and the columns of one row of it, as the stream described them; or a message, whose
/// content is the one column of a table without a schema, with the message's prefix as its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// Names, type oids and type modifiers, in the order of the row.
    pub columns: Vec<(String, u32, i32)>,
}

impl Shape {
    /// The shape of a described table.
    pub fn new(relation: &Description) -> Self {
        let column =
            |column: &ColumnDescription| (column.name.clone(), column.type_oid.0, column.type_modifier);
        Self {
            schema: relation.schema.clone(),
            table: relation.name.clone(),
            columns: relation.columns.iter().map(column).collect(),
        }
    }

    /// The shape of messages with this prefix.
    pub fn message(prefix: &str) -> Self {
        let (name, oid, type_modifier) = CONTENT;
        Self {
            schema: Messages::SCHEMA.to_owned(),
            table: prefix.to_owned(),
            columns: vec![(name.to_owned(), oid, type_modifier)],
        }
    }

    /// Whether it is that of a message.
    pub fn is_message(&self) -> bool {
        self.schema == Messages::SCHEMA
    }

    /// `schema.table`, or `message:prefix`.
    pub fn name(&self) -> String {
        if self.is_message() {
            format!("message:{}", self.table)
        } else {
            format!("{}.{}", self.schema, self.table)
        }
    }

    /// As the stream would describe it. Its number means nothing.
    pub fn description(&self) -> Description {
        let column = |(name, oid, type_modifier): &(String, u32, i32)| ColumnDescription {
            name: name.clone(),
            type_oid: Oid(*oid),
            type_modifier: *type_modifier,
        };
        Description {
            number: 0,
            schema: self.schema.clone(),
            name: self.table.clone(),
            columns: self.columns.iter().map(column).collect(),
        }
    }

    /// The count of columns as the stream writes it before them.
    ///
    /// # Errors
    /// More columns than a row can have.
    pub fn count(&self) -> Result<u16, OrderError> {
        u16::try_from(self.columns.len()).map_err(|_| OrderError::Row)
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order<'a> {
    /// Commit a checkpoint beyond this message.
    Flush,
    /// Close the letter.
    Discard {
        /// The `pb-pos` of the letter.
        letter: String,
    },
    /// Publish the row, and close the letter.
    Replay {
        /// The `pb-pos` of the letter.
        letter: String,
        /// The table of the row.
        shape: Shape,
        /// The row.
        tuple: Tuple<'a>,
    },
}

/// An order that cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// No line of JSON that says what is asked.
    #[error("its head is not what this version writes")]
    Head,
    /// The row does not fit its head.
    #[error("its row is not whole")]
    Row,
}

#[derive(Serialize, Deserialize)]
struct Head<'a> {
    pipeline: &'a str,
    verb: Verb,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    letter: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    row: Option<Shape>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Verb {
    Flush,
    Discard,
    Replay,
}

impl<'a> Order<'a> {
    /// Reads a message's content; `None` = it is for another pipeline.
    ///
    /// # Errors
    /// [`OrderError`]
    pub fn parse(content: &'a [u8], pipeline: &str) -> Result<Option<Self>, OrderError> {
        let end = content.iter().position(|byte| *byte == b'\n').ok_or(OrderError::Head)?;
        let head: Head<'_> = serde_json::from_slice(&content[..end]).map_err(|_| OrderError::Head)?;
        if head.pipeline != pipeline {
            return Ok(None);
        }
        Ok(Some(match (head.verb, head.letter, head.row) {
            (Verb::Flush, ..) => Order::Flush,
            (Verb::Discard, Some(letter), _) => Order::Discard { letter },
            (Verb::Replay, Some(letter), Some(shape)) => {
                let (tuple, rest) = Tuple::decode(&content[end + 1..]).map_err(|_| OrderError::Row)?;
                if !rest.is_empty() || tuple.len() != shape.columns.len() {
                    return Err(OrderError::Row);
                }
                Order::Replay { letter, shape, tuple }
            }
            _ => return Err(OrderError::Head),
        }))
    }
}

/// The content of a message that asks for a checkpoint.
pub fn flush(pipeline: &str) -> Vec<u8> {
    content(&Head { pipeline, verb: Verb::Flush, letter: None, row: None })
}

/// The content of a message that closes a letter.
pub fn discard(pipeline: &str, letter: &str) -> Vec<u8> {
    content(&Head { pipeline, verb: Verb::Discard, letter: Some(letter.to_owned()), row: None })
}

/// The content of a message that replays a letter; `columns` as the letter holds them.
///
/// # Errors
/// More columns than a row can have.
pub fn replay(pipeline: &str, letter: &str, shape: &Shape, columns: &[u8]) -> Result<Vec<u8>, OrderError> {
    let count = shape.count()?;
    let (letter, row) = (Some(letter.to_owned()), Some(shape.clone()));
    let mut content = content(&Head { pipeline, verb: Verb::Replay, letter, row });
    content.extend_from_slice(&count.to_be_bytes());
    content.extend_from_slice(columns);
    Ok(content)
}

fn content(head: &Head<'_>) -> Vec<u8> {
    let mut content = serde_json::to_vec(head).expect("plain records always serialise");
    content.push(b'\n');
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        let columns = vec![("id".to_owned(), 2950, -1), ("a \"b\"\n".to_owned(), 25, -1)];
        Shape { schema: "public".into(), table: "outbox".into(), columns }
    }

    #[test]
    fn orders_are_read_as_they_were_written() {
        let columns = b"nt\x00\x00\x00\x02x\n";
        let replay = replay("orders", "orders:p:1", &shape(), columns).unwrap();
        let Ok(Some(Order::Replay { letter, shape: read, tuple })) = Order::parse(&replay, "orders") else {
            panic!("a replay")
        };
        assert_eq!((letter.as_str(), read, tuple.as_bytes()), ("orders:p:1", shape(), &columns[..]));
        let discard = discard("orders", "orders:p:2");
        assert_eq!(
            Order::parse(&discard, "orders"),
            Ok(Some(Order::Discard { letter: "orders:p:2".into() }))
        );
        assert_eq!(Order::parse(&flush("orders"), "orders"), Ok(Some(Order::Flush)));
        for content in [replay, discard, flush("orders")] {
            assert_eq!(Order::parse(&content, "others"), Ok(None));
        }
    }

    #[test]
    fn what_is_no_order_is_an_error() {
        let whole = replay("orders", "l", &shape(), b"nn").unwrap();
        for (content, error) in [
            (&b""[..], OrderError::Head),
            (b"{}\n", OrderError::Head),
            (b"{\"pipeline\":\"orders\",\"verb\":\"burn\"}\n", OrderError::Head),
            (b"{\"pipeline\":\"orders\",\"verb\":\"discard\"}\n", OrderError::Head),
            (&whole[..whole.len() - 1], OrderError::Row),
            (&[&whole[..], b"n"].concat(), OrderError::Row),
            (&replay("orders", "l", &shape(), b"n").unwrap(), OrderError::Row),
        ] {
            assert_eq!(Order::parse(content, "orders"), Err(error));
        }
    }
}
