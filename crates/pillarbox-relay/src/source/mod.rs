//! The replication connection: a socket on one side, borrowed [`Frame`]s on the other.
//!
//! ```text
//! Connection::connect -> query, identify_system, slot, publication ...   (idle, request and answer)
//!            | start_replication
//!            v
//! Stream { link, frames }
//!     link.wait(wake)  ->  link.read_into(frames)  ->  frames.next() -> Frame<'_>
//!     link.send_status(flushed)                        the only thing that moves the slot
//! ```
//!
//! Everything blocks, with a limit, and lives on a thread of its own: the walsender pays for every
//! wake-up of its reader, so the reader must be free to choose when it reads. Two fields instead
//! of one object, so that a status can be sent while a frame is still borrowed.
//!
//! This module must never decide what is safe to confirm (it sends the LSN it is told), never
//! create or drop a slot, never skip a notice, and never put data of a row into an error.

mod buffer;
mod catalog;
mod channel;
mod connection;
mod error;
mod frames;
mod link;
mod message;
mod options;
mod quote;
mod secure;
mod socket;
mod startup;
mod tls;
mod wake;

pub use catalog::{
    KeyFacts, Publication, PublicationState, PublishedTable, SlotInfo, SystemInfo, TimelineSwitch,
};
pub use connection::{Connection, TextRow};
pub use error::{Attempt, ServerError, SourceError};
pub use frames::{FRAME_BYTES_MAX, Frame, Frames};
pub use link::{Link, Readiness, Stream, Way};
pub use message::Notice;
pub use quote::{quote_identifier, quote_literal};
pub use wake::Wake;

pub(crate) use catalog::{publication_query, published_table_query};
pub(crate) use error::{server_fault, tls_fault, tls_required};
pub(crate) use secure::offers_tls;
pub(crate) use socket::LOOPBACK_BUFFER;
