//! Pillarbox's own Kafka client: connections, cluster metadata, a transactional producer (KIP-890, "TV2"), a
//! partition reader and the few admin calls a relay needs, on the `kafka-protocol` codec.
//!
//! ```text
//! admin   markers   reader   producer (state: pure, plan: pure, io)
//!    \       |        |      /
//!         cluster            metadata, connections by (broker, purpose)
//!            |
//!        connection          one TCP stream, requests pipelined, answered in order
//! ```
//!
//! Everything runs on a current-thread runtime as well as on a multi-thread one. A [`cluster::Cluster`]'s
//! connections live on the runtime that opened them: give every runtime its own.
//!
//! It never decides what a lost transaction means, never retries what it cannot prove safe, and never writes a
//! payload, a key or a header into a log or an error.

pub mod admin;
pub mod cluster;
pub mod connection;
pub mod error;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod markers;
pub mod producer;
pub mod reader;
pub mod sasl;

mod guard;
mod protocol;

pub use cluster::{Cluster, ClusterConfig};
pub use error::{Error, ErrorCode};
pub use kafka_protocol::messages::ApiKey;
pub use uuid::Uuid;
