//! Rows that can never be published, where the table says `on_error: dead_letter`: everything else flows, nothing
//! is lost or doubled, and a person can look at them, replay them, give them up.
//!
//! ```text
//! real servers + a file with several outboxes --> run, dead-letters list | show | replay | discard --> librdkafka
//! ```
//! Must never take the relay's word for what is in a topic: librdkafka reads it.

#[expect(dead_code, reason = "each ring of tests uses a part of it")]
#[path = "../harness/mod.rs"]
mod harness;

mod kills;
mod messages;
mod operator;
mod world;
