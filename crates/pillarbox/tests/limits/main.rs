//! How far it goes: transactions, rows, topics and outages of a size that nobody plans, with what they cost in memory.
//!
//! ```text
//! a load of one kind -> relay (peak memory, longest silence towards Postgres) -> Kafka -> every event counted, in order
//! ```
//! | file | holds |
//! | --- | --- |
//! | `transactions` | one of 10 GB, one of 100,000 subtransactions, a million without an event |
//! | `rows` | fields up to and beyond what Postgres itself can send, 1,600 columns |
//! | `topics` | 5,000 partitions |
//! | `outages` | Kafka gone, or standing still, for ten minutes under load |
//! | `world` | a relay and the watch over it |
//! | `arrived` | what a `read_committed` consumer finds, counted without holding it |
//! | `figures` | what is printed, and recorded by `cargo xtask bench limits` |
//!
//! Each has a small form, which runs by default. `PILLARBOX_LIMITS=full` runs the sizes above, for which a debug build is
//! too slow. Postgres here cuts a client that is silent for five seconds, so no test passes in which that happened.
//! Must never hold what it counts in memory, nor time anything but a deadline.

mod arrived;
mod figures;
#[expect(dead_code, reason = "not every test needs all of the harness")]
#[path = "../harness/mod.rs"]
mod harness;
mod outages;
mod rows;
mod topics;
mod transactions;
mod world;
