//! What becomes of a pipeline when the network between it and its servers is bad, half-open or late.
//!
//! ```text
//! relay ---> proxy ---> Postgres (stream, SQL)         standby, writers and judge go straight to the servers
//!   +------> proxy of each broker ---> Kafka
//! ```
//! Real servers, the built binary, the lab's fault proxy. Must never call a test passed that did not see its fault
//! happen.

#[expect(dead_code, reason = "each ring of tests uses a part of it")]
#[path = "../harness/mod.rs"]
mod harness;

#[expect(dead_code, reason = "each ring of tests uses a part of it")]
#[path = "../faults/probe.rs"]
mod probe;

mod brokers;
mod distant;
mod half_open;
mod late;
mod sql;
mod stream;
mod world;
