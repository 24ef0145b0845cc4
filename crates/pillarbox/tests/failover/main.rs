//! The database fails over to a standby, or a copy takes its place: what was committed there is in Kafka once, in
//! order; what Kafka has and no database is listed, and goes on only when an operator accepts it.
//!
//! ```text
//! primary --> relay --+             primary --> relay --+
//!    | WAL            v                | copy           v
//! standby, promoted  Kafka          a copy, restored   Kafka
//! ```
//! Must never judge by what the relay says where Kafka and the new database can be asked.

#[expect(dead_code, reason = "each ring of tests uses a part of it")]
#[path = "../harness/mod.rs"]
mod harness;

mod restored;
mod standby;
mod warnings;
mod world;
