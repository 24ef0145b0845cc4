//! The baseline: `pg_recvlogical` on a copy of the slot, to a null file. It reads what the relay reads and keeps nothing,
//! so a relay that is faster *with* Kafka is faster than Postgres' own client without.
//!
//! Must never read past the backlog: `--endpos` beyond the last commit waits for the next one.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pillarbox_lab::process::{Launch, ServerProcess};
use serde::Serialize;

use crate::costs::{Costs, Watch};
use crate::load::{Backlog, Events};
use crate::servers::{DATABASE, Servers};

/// How often CPU is looked at: the last look before the end counts.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A drain that takes longer is a failure.
const DRAIN_MAX: Duration = Duration::from_secs(600);

/// The slot that every run copies.
pub(crate) const BASE_SLOT: &str = "bench_base";
/// The publication of the baseline.
pub(crate) const PUBLICATION: &str = "bench_base";

/// How a huge transaction is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reading {
    /// As the relay does: spilled to disk beyond 64 MB, sent when it has committed.
    Plain,
    /// `streaming 'on'`: sent while it is open, in pieces, also where it will roll back.
    Streaming,
    /// `logical_decoding_work_mem` of 1 GB: not spilled.
    InMemory,
}

impl Reading {
    /// Those that a huge transaction is read by besides.
    pub(crate) const OTHERS: [Reading; 2] = [Reading::Streaming, Reading::InMemory];

    /// As the table calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reading::Plain => "as it is",
            Reading::Streaming => "streaming 'on'",
            Reading::InMemory => "logical_decoding_work_mem = 1GB",
        }
    }
}

/// One drain by `pg_recvlogical`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    /// Rows a second, process start to exit.
    pub(crate) rate: f64,
    pub(crate) seconds: f64,
    pub(crate) client_cpu_s: f64,
    pub(crate) walsender_cpu_s: f64,
    /// CPU of others during the run, in cores.
    pub(crate) foreign_cores: f64,
}

/// Creates what the baseline reads: before the backlog is written.
pub(crate) fn prepare(servers: &Servers) -> anyhow::Result<()> {
    servers.postgres.bin("pg_recvlogical").context("the baseline needs pg_recvlogical")?;
    servers.sql(&format!("CREATE PUBLICATION {PUBLICATION} FOR TABLE outbox WITH (publish = 'insert')"))?;
    servers.sql(&format!("SELECT pg_create_logical_replication_slot('{BASE_SLOT}', 'pgoutput')"))
}

/// Drains the backlog once, on a fresh copy of the slot.
pub(crate) fn run(
    servers: &Servers,
    backlog: &Backlog,
    reading: Reading,
    round: u32,
    logs: &Path,
) -> anyhow::Result<Run> {
    let slot = format!("bench_copy{round}");
    servers.sql(&format!("SELECT pg_copy_logical_replication_slot('{BASE_SLOT}', '{slot}')"))?;
    servers.sql("CHECKPOINT")?;
    let log = logs.join(format!("recvlogical-{round}.log"));
    let (start, mut child) = spawn(servers, backlog, reading, &slot, &log)?;
    let mut watch = Watch::start(servers, child.pid(), &slot, start);
    let mut costs = Costs::default();
    let status = loop {
        if let Some(status) = child.wait(LOOK_EVERY)? {
            break status;
        }
        ensure!(start.elapsed() < DRAIN_MAX, "pg_recvlogical did not end in {DRAIN_MAX:?}");
        costs = watch.look();
    };
    let seconds = start.elapsed().as_secs_f64();
    ensure!(status.success(), "pg_recvlogical failed ({status})");
    servers.sql(&format!("SELECT pg_drop_replication_slot('{slot}')"))?;
    Ok(Run {
        rate: backlog.rows as f64 / seconds,
        seconds,
        client_cpu_s: costs.client.as_secs_f64(),
        walsender_cpu_s: costs.walsender.as_secs_f64(),
        foreign_cores: costs.cores(costs.foreign),
    })
}

fn spawn(
    servers: &Servers,
    backlog: &Backlog,
    reading: Reading,
    slot: &str,
    log: &Path,
) -> anyhow::Result<(Instant, ServerProcess)> {
    let mut command = Command::new(servers.postgres.bin("pg_recvlogical")?);
    command.args(["--start", "--no-loop", "-s", "1", "-f", "/dev/null", "--slot", slot]);
    command.args(["-d", &servers.postgres.superuser_url(DATABASE), "--endpos", &backlog.end_lsn]);
    command.args(["-o", &format!("publication_names={PUBLICATION}")]);
    match reading {
        Reading::Plain => command.args(["-o", "proto_version=1"]),
        Reading::Streaming => command.args(["-o", "proto_version=2", "-o", "streaming=on"]),
        Reading::InMemory => {
            command.args(["-o", "proto_version=1"]).env("PGOPTIONS", "-c logical_decoding_work_mem=1GB")
        }
    };
    if backlog.events == Events::Messages {
        command.args(["-o", "messages=true"]);
    }
    let start = Instant::now();
    let account = pillarbox_lab::account::server_account()?;
    let launch = Launch { name: "pg_recvlogical".into(), command, log: log.into(), account };
    Ok((start, ServerProcess::start(launch)?))
}
