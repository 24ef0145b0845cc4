//! Dead letters: rows that can never be published, kept in a topic of their own (`on_error: dead_letter`).
//!
//! ```text
//!             +--> event --> its topic                 (same Kafka transaction, same checkpoint)
//!  row ------>+
//!             +--> letter -> __pillarbox.<pipeline>.dead-letters
//!                    ^  |
//!          refused   |  | order (a logical message: replay, discard)
//!                    |  v
//!                  [open] --replay--> event at a new position + verdict `replayed`
//!                    |
//!                    +------discard-> verdict `discarded`
//! ```
//!
//! A letter is never changed: it is *open* until a verdict that closes it stands behind it in the
//! same partition. Letters and verdicts are written by the relay alone, in the order of their
//! positions, with a dense sequence of their own; a data topic's sequence never moves for them.
//! Commands write nothing to Kafka: they leave an order in WAL and wait until it was carried out.
//!
//! | failure | then |
//! | --- | --- |
//! | the relay dies before the commit | neither letter nor checkpoint: the row is judged again; limits may have changed, and then it may be an event |
//! | the relay dies after the commit | the checkpoint covers the row: no second letter |
//! | a letter is larger than the topic's batches | it goes in chunks, all in one transaction |
//! | not even a chunk fits | the pipeline halts at the row, as with `on_error: stop` |
//! | the topic is missing, never used | created with one partition and without retention, or halt (PB-2005) |
//! | the topic is gone, or was re-created | halt (PB-2006, PB-2007): letters are events, too |
//! | a replayed row is refused again | verdict `refused` with the reason; the letter stays open; a replay never halts the pipeline |
//! | the relay dies between order and verdict | the order is in WAL: event and verdict come together, once |
//! | two people replay the same letter | a lock in the database admits one; the other first waits until the relay has carried out everything before, and then finds the letter closed |
//! | an order that cannot be understood | ignored with a warning: the letter stays open |
//! | a row beyond what a replication message may hold | never seen whole, so no letter: halt (PB-4002) |
//!
//! | file | is |
//! | --- | --- |
//! | [`order`] | what a command asks of the relay, as bytes in WAL: pure |
//! | [`letter`] | what stands in the topic, and what it adds up to: pure |
//! | `topic` | reads the topic |
//! | [`command`](mod@command) | list, replay, discard |
//!
//! Never shows a value of a row in a log or an error.

pub mod command;
pub mod letter;
pub mod order;
mod topic;

pub use topic::{list, row};
