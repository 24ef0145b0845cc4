//! The relay engine: Postgres WAL in, Kafka transactions out, exactly once and in commit order.
//!
//! ```text
//! Postgres WAL -> source -> decode -> outbox -> route -> batch -> sink -> Kafka
//!                   ^                                              |
//!                   +------------- position (confirm) <------------+
//! ```
//!
//! Read the modules in that order: it is the life of an event. A stage defines its output type and
//! only later stages import it; the one way back is a value, the position. `decode`, `outbox`,
//! `route`, `batch`, `position` and `pipeline::state` decide in pure code: they know no socket, no
//! clock and no environment. This crate never parses YAML, never prints, never exits the process.

#![forbid(unsafe_code)]

pub mod config;
pub mod error;

pub mod source;

pub mod decode;

pub mod outbox;

pub mod route;

pub mod batch;

pub mod sink;

pub mod position;

pub mod pipeline;

pub mod check;
pub mod dead_letters;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod housekeeping;
pub mod lineage;
mod orders;
pub mod repartition;
pub mod setup;
pub mod sql;
