//! Applies each event of a topic once: what the consumer remembers is one row per partition, changed in the transaction
//! that applies the event.
//!
//! Every event that Pillarbox writes carries its place in the header [`PB_POS`]: a position that grows for ever, and a
//! sequence without holes. So a consumer needs no table of ids and no window of time: one comparison tells an event
//! that was applied already from the next one, from one before which others were lost, and from one of another history.
//!
//! ```text
//! record -> Header::parse -> State::accept -> apply | duplicate | refused       (this is all; pure, no allocation)
//! ```
//!
//! # The decision alone
//!
//! For a database of any kind: keep [`State`] beside the effect, in one transaction, one for each (source, topic,
//! partition).
//!
//! ```
//! use pillarbox_consumer::{Decision, Header, Refusal, Rules, State};
//!
//! let mut balance = 0;
//! let mut state = State::FRESH;
//! let log = [
//!     ("orders:00000001000000000000100000000000:1", 10),
//!     ("orders:00000001000000000000100000000001:2", 20),
//!     ("orders:00000001000000000000100000000000:1", 10), // read again after a rebalance
//!     ("orders:00000001000000000000100000000001:2", 20),
//!     ("orders:00000002000000000000080000000000:3", 30), // after a failover: LSNs repeat, the epoch does not
//! ];
//! for (pb_pos, amount) in log {
//!     let header = Header::parse(Some(pb_pos.as_bytes()))?;
//!     if state.accept(&header, Rules::default())?.applies() {
//!         balance += amount;
//!     }
//! }
//! assert_eq!(balance, 60);
//!
//! // What is missing is noticed, and never skipped.
//! let header = Header::parse(Some(b"orders:00000002000000000000090000000000:5"))?;
//! let refusal = state.accept(&header, Rules::default()).expect_err("4 is missing");
//! assert_eq!(refusal.to_string(), "sequence 4 missing before the event");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it relies on
//!
//! The state and the effect commit together. Events come in the order of their partition. A state is per partition:
//! one for a whole topic would skip what a slower partition still has to say. Offsets of the group are a hint:
//! whatever they say, the row decides, so that a rebalance, a second owner, or reading the whole topic again changes
//! nothing. Where handlers run in parallel by key, order of the partition is lost, and with it this guarantee.

#![forbid(unsafe_code)]

pub mod header;
pub mod state;

pub use header::{Header, HeaderError};
pub use pillarbox_wire::header::PB_POS;
pub use pillarbox_wire::{Epoch, Lsn, Position, Sequence};
pub use state::{
    Contradiction, Decision, FirstContact, Gap, Mark, OnGap, Refusal, Rules, State, resume_offset,
};
