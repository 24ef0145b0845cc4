//! Decoder of pgoutput, the output plugin of logical replication, protocol version 1 (whole transactions, in commit
//! order), with logical messages.
//!
//! A message is checked once, as a whole, by [`Message::decode`]: every length in range, every name UTF-8, no byte
//! left over. After that its rows are read without further errors. Everything borrows from the input; nothing is
//! allocated; arbitrary input gives an error, never a panic.
//!
//! Must never guess: streamed (version 2) and two-phase (version 3) messages are refused by name, because rows inside
//! them may still be rolled back. Nor does it print a row: `Debug` and errors show kinds and sizes only.
//!
//! Formats: <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>.

mod error;
mod message;
mod reader;
mod relation;
mod tuple;

pub use error::DecodeError;
pub use message::{Message, Old, TruncatedRelations};
pub use relation::{Relation, RelationColumn, RelationColumns, ReplicaIdentity};
pub use tuple::{Column, Columns, Tuple};
