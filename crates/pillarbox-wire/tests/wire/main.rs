//! What the crate writes and reads, judged by others: Kafka's own codec, Postgres' own stream, and properties.
//!
//! Needs no server: what servers and the Java client said is kept in `tests/data`, with the programs that asked them.

mod compression;
mod model;
mod pgoutput;
mod postgres_stream;
mod record_batch;
