//! The servers a bench runs against: one Postgres and one Kafka broker, durable, with room for the backlog.
//!
//! Must never switch durability off: fsync and synchronous_commit stay as users have them. Only the filling of a
//! backlog, which is not measured, commits asynchronously.

use std::time::Duration;

use anyhow::Context;
use pillarbox_lab::kafka::Profile;
use pillarbox_lab::{Kafka, KafkaOptions, Postgres, PostgresOptions, Progress};
use serde::Serialize;

/// Partitions of an event topic: more than the cores, as users have them.
pub(crate) const PARTITIONS: u32 = 8;
/// The database everything happens in.
pub(crate) const DATABASE: &str = "postgres";

/// What differs from the defaults of the lab, and why.
const POSTGRES_SETTINGS: [(&str, &str); 6] = [
    // As bench tables and their WAL fit into it, reading them costs no I/O in any arm.
    ("shared_buffers", "1GB"),
    // No checkpoint in the middle of a drain; each arm starts after an explicit one.
    ("max_wal_size", "20GB"),
    ("checkpoint_timeout", "1h"),
    // A slot and a copy of it for every round.
    ("max_replication_slots", "64"),
    ("max_wal_senders", "16"),
    // It would start at a moment of its own choosing.
    ("autovacuum", "off"),
];

/// Heap of the broker: what Kafka's own start script gives it.
const KAFKA_HEAP_MIB: u32 = 1024;

/// The running servers. Dropping them ends them.
pub(crate) struct Servers {
    pub(crate) postgres: Postgres,
    pub(crate) kafka: Kafka,
    pub(crate) versions: Versions,
}

/// What was measured with.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Versions {
    pub(crate) postgres: String,
    pub(crate) kafka: String,
}

impl Servers {
    /// Starts both and creates the outbox table.
    pub(crate) fn start(postgres_version: u32) -> anyhow::Result<Servers> {
        let say = |progress: Progress| eprintln!("bench: {progress:?}");
        let mut options = PostgresOptions::version(postgres_version);
        for (name, value) in POSTGRES_SETTINGS {
            options = options.setting(name, value);
        }
        let postgres = Postgres::start_with(options, &say).context("cannot start Postgres")?;
        let options =
            KafkaOptions { heap_mb: KAFKA_HEAP_MIB, profile: Profile::Throughput, ..KafkaOptions::default() };
        let kafka_version = options.version.clone();
        let kafka = Kafka::start_with(options, &say).context("cannot start Kafka")?;
        let versions =
            Versions { postgres: postgres.query_one(DATABASE, "SHOW server_version")?, kafka: kafka_version };
        postgres.execute(DATABASE, crate::load::TABLE)?;
        Ok(Servers { postgres, kafka, versions })
    }

    /// Runs SQL whose result does not matter.
    pub(crate) fn sql(&self, sql: &str) -> anyhow::Result<()> {
        self.postgres.execute(DATABASE, sql).with_context(|| format!("sql: {sql}"))
    }

    /// The process that serves a slot's replication connection, while there is one.
    pub(crate) fn walsender(&self, slot: &str) -> Option<u32> {
        let sql = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{slot}'");
        self.postgres.query_one(DATABASE, &sql).ok()?.parse().ok()
    }

    /// CPU the broker has used.
    pub(crate) fn broker_cpu(&self) -> Option<Duration> {
        crate::process::cpu(self.kafka.pid(1)?)
    }
}
