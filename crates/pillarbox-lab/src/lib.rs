//! Private Postgres and Kafka servers for tests, benches and `pillarbox dev`, a workload that knows what it
//! committed, and a checker that compares that with what Kafka holds.
//!
//! Must never: touch a server it did not start, run a server as root, or leave one behind. Downloads go
//! through Maven only, so that the mirrors and proxies a user has set for Maven hold here too.

pub mod account;
pub mod cache;
#[cfg(feature = "certificates")]
pub mod certificates;
pub mod connect;
#[cfg(feature = "rdkafka")]
pub mod consumer;
pub mod download;
pub mod error;
mod folder;
pub mod history;
pub mod http;
pub mod kafka;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
mod secured;
pub mod sql;
pub mod wal;
pub mod workload;

pub use cache::Progress;
pub use connect::Connect;
pub use error::LabError;
pub use kafka::{Kafka, KafkaOptions};
pub use postgres::{Postgres, PostgresOptions, ShutdownMode};
pub use proxy::Proxy;
pub use secured::ServerTls;
