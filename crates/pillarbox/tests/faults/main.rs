//! What becomes of a pipeline when a part of its world stalls, breaks, disappears or is replaced.
//!
//! ```text
//! load ---> Postgres ---> relay ---> Kafka        a fault in one place, the load going on
//!                           |
//!                    goes on by itself, or halts and says why; in the end the judge compares
//! ```
//! Real servers, the built binary. Must never call a test passed that did not see its fault happen.

#[expect(dead_code, reason = "each ring of tests uses a part of it")]
#[path = "../harness/mod.rs"]
mod harness;

mod brokers;
mod clones;
mod endings;
mod history;
mod ids;
mod outages;
mod postgres;
mod probe;
mod process;
mod repartition;
mod shapes;
mod shards;
mod slots;
mod stalls;
mod topics;
mod world;
