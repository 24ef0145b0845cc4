//! `bench drain` and `bench transaction`: how fast a backlog leaves the WAL, beside `pg_recvlogical` on the same WAL.
//!
//! ```text
//! setup N pipelines, base slot -> fill once -> per round: pg_recvlogical | each binary, in turns -> read back, compare
//! ```
//! A run counts only if the destination holds every row once and in order. Must never time the reading back.

mod page;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde::Serialize;
use tempfile::TempDir;

use crate::baseline::Reading;
use crate::budget::Budget;
use crate::costs::{Costs, Watch};
use crate::destination::{Contents, Progress};
use crate::load::{self, Backlog, Events, Payload};
use crate::machine::wait_quiet;
use crate::relay::{self, Pipeline, Source};
use crate::servers::Servers;
use crate::statistics::Spread;
use crate::{Common, baseline, emit, process, report};

/// How often end offsets and CPU are looked at: fine enough for a drain of seconds, cheap for the broker.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Nothing more arrives: the drain is over.
pub(crate) const QUIET: Duration = Duration::from_secs(1);
/// A drain that takes longer is a failure.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(600);

/// Options of `bench drain`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Rows in the backlog
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Rows in each source transaction
    #[arg(long, default_value_t = 10)]
    rows_per_transaction: u64,
    /// Type of the payload column
    #[arg(long, default_value = "jsonb")]
    payload: Payload,
    /// Events that are messages of `pillarbox.emit()` in place of rows
    #[arg(long, conflicts_with = "payload")]
    messages: bool,
    /// Runs of each arm
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Only one of the arms
    #[arg(long)]
    only: Option<Arm>,
    /// Another binary, measured in turns with this tree's: what a change brings. May be given several times
    #[arg(long, value_name = "PATH")]
    against: Vec<PathBuf>,
}

/// Options of `bench transaction`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TransactionOptions {
    /// Rows in the one source transaction
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Runs of each arm
    #[arg(long, default_value_t = 1)]
    rounds: u32,
}

/// Who drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Arm {
    /// pg_recvlogical to a null file
    Baseline,
    /// The relay, exactly once into Kafka
    Pillarbox,
}

/// One drain by the relay.
#[derive(Debug, Clone, Serialize)]
struct RelayRun {
    /// Rows a second, process start to the last row visible to read_committed.
    rate: f64,
    /// The same from the first commit on, without the rows of that commit.
    rate_from_first_commit: Option<f64>,
    seconds: f64,
    first_commit_seconds: f64,
    relay_cpu_us_per_event: f64,
    walsender_cpu_s: f64,
    broker_cpu_s: f64,
    relay_memory_peak_bytes: Option<u64>,
    kafka_commits: Option<u64>,
    /// None for a binary that does not tell.
    budget: Option<Budget>,
    /// CPU of others during the run, in cores.
    foreign_cores: f64,
    ended_in_order: bool,
    contents: Contents,
}

/// All runs.
#[derive(Debug, Serialize)]
struct Result {
    events: Events,
    rows: u64,
    rows_per_transaction: u64,
    payload: Payload,
    wal_bytes: u64,
    baseline: Vec<baseline::Run>,
    /// The same transaction read in other ways.
    readings: Vec<(Reading, Vec<baseline::Run>)>,
    relays: Vec<Measured>,
}

/// The runs of one binary.
#[derive(Debug, Serialize)]
struct Measured {
    /// "this tree", or the name of its file.
    binary: String,
    runs: Vec<RelayRun>,
    /// Against `pg_recvlogical` of the same round.
    ratio: Option<Spread>,
}

/// Runs `bench drain`.
pub(crate) fn run(options: &Options, common: &Common) -> anyhow::Result<()> {
    let mut name = "drain".to_owned();
    if options.rows_per_transaction != 10 {
        name += &format!("-{}-per-transaction", options.rows_per_transaction);
    }
    name += &options.payload.suffix();
    if options.messages {
        name += "-messages";
    }
    measure(options, common, &name)
}

/// Runs `bench transaction`: a drain of one source transaction.
pub(crate) fn run_transaction(options: &TransactionOptions, common: &Common) -> anyhow::Result<()> {
    let TransactionOptions { rows, rounds } = *options;
    let options = Options {
        rows,
        rows_per_transaction: rows,
        payload: Payload::Jsonb,
        messages: false,
        rounds,
        only: None,
        against: Vec::new(),
    };
    measure(&options, common, "transaction")
}

fn measure(options: &Options, common: &Common, name: &str) -> anyhow::Result<()> {
    let with = |arm: Arm| options.only.is_none_or(|only| only == arm);
    let binaries = if with(Arm::Pillarbox) { relay::binaries(&options.against)? } else { Vec::new() };
    let events = if options.messages { Events::Messages } else { Events::Rows };
    let dir = open_dir()?;
    let mut servers = Servers::start(common.postgres)?;
    options.payload.make(&servers)?;
    if events == Events::Messages {
        emit::schema(&servers)?;
    }
    if with(Arm::Baseline) {
        baseline::prepare(&servers)?;
    }
    let mut pipelines = Vec::new();
    for round in 1..=options.rounds {
        for (turn, (_, binary)) in binaries.iter().enumerate() {
            let name = format!("bench{round}_{turn}");
            let pipeline = Pipeline::of(&Source::new(events, &name), &servers, binary, dir.path(), &name, 1)?;
            pipeline.setup(&mut servers)?;
            pipelines.push(pipeline);
        }
    }
    let backlog = load::fill(&servers, events, options.rows, options.rows_per_transaction)?;
    let measured = |(binary, _)| Measured { binary, runs: Vec::new(), ratio: None };
    let mut result = Result {
        events,
        rows: backlog.rows,
        rows_per_transaction: options.rows_per_transaction,
        payload: options.payload,
        wal_bytes: backlog.wal_bytes,
        baseline: Vec::new(),
        readings: Vec::new(),
        relays: binaries.into_iter().map(measured).collect(),
    };
    let mut pipelines = pipelines.iter();
    for round in 1..=options.rounds {
        for arm in turn(round).into_iter().filter(|arm| with(*arm)) {
            if arm == Arm::Baseline {
                quiet(common, round, "pg_recvlogical");
                let reading = Reading::Plain;
                result.baseline.push(baseline::run(&servers, &backlog, reading, round, dir.path())?);
                continue;
            }
            for measured in &mut result.relays {
                quiet(common, round, &measured.binary);
                let pipeline = pipelines.next().context("a pipeline for each run")?;
                measured.runs.push(drain(&servers, pipeline, &backlog)?);
            }
        }
    }
    if options.rows == options.rows_per_transaction && with(Arm::Baseline) {
        result.readings = readings(&servers, &backlog, options.rounds, common, dir.path())?;
    }
    for measured in &mut result.relays {
        let runs = measured.runs.iter().zip(&result.baseline);
        measured.ratio = Spread::of(runs.map(|(ours, base)| ours.rate / base.rate));
    }
    report::write(common, name, &servers.versions, &result, &page::markdown(&result, options.rounds))
}

/// What `pg_recvlogical` makes of one huge transaction when it asks for it in other ways.
fn readings(
    servers: &Servers,
    backlog: &Backlog,
    rounds: u32,
    common: &Common,
    logs: &Path,
) -> anyhow::Result<Vec<(Reading, Vec<baseline::Run>)>> {
    let mut readings: Vec<_> = Reading::OTHERS.map(|reading| (reading, Vec::new())).into();
    for round in 1..=rounds {
        for (reading, runs) in &mut readings {
            quiet(common, round, reading.name());
            runs.push(baseline::run(servers, backlog, *reading, round, logs)?);
        }
    }
    Ok(readings)
}

fn quiet(common: &Common, round: u32, what: &str) {
    let load = wait_quiet(Duration::from_secs(common.quiet_wait));
    eprintln!("bench: round {round}, {what}; others use {load:.2} cores");
}

/// The arms take turns in going first.
fn turn(round: u32) -> [Arm; 2] {
    if round % 2 == 1 { [Arm::Baseline, Arm::Pillarbox] } else { [Arm::Pillarbox, Arm::Baseline] }
}

/// A folder for configuration and logs that the account of the relay can enter.
pub(crate) fn open_dir() -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("pillarbox-bench-").permissions(Permissions::from_mode(0o755));
    builder.tempdir().context("cannot make a folder")
}

/// What was seen at one moment.
struct Look {
    at: Instant,
    costs: Costs,
}

/// Starts a relay on the backlog and watches until all of it has arrived.
fn drain(servers: &Servers, pipeline: &Pipeline, backlog: &Backlog) -> anyhow::Result<RelayRun> {
    servers.sql("CHECKPOINT")?;
    let offsets = pipeline.destination.watch()?;
    let mut progress = Progress::default();
    progress.add(Instant::now(), offsets.get()?);
    // One row more than the backlog: the marker behind it.
    let rows = backlog.rows + 1;
    let mut relay = pipeline.start()?;
    let mut watch = Watch::start(servers, relay.pid(), &pipeline.slot(), relay.started);
    let mut looks = Vec::new();
    let mut moved = Instant::now();
    while progress.total() < i64::try_from(rows)? || moved.elapsed() < QUIET {
        std::thread::sleep(LOOK_EVERY);
        let (at, costs) = (Instant::now(), watch.look());
        if progress.add(at, offsets.get()?) {
            moved = at;
        }
        looks.push(Look { at, costs });
        relay.ensure_running()?;
        ensure!(
            relay.started.elapsed() < DRAIN_MAX,
            "not drained in {DRAIN_MAX:?}:\n{}",
            pipeline.last_words()
        );
    }
    let memory_peak = process::memory_peak(relay.pid());
    let (started, commits, budget) = (relay.started, relay.commits(), relay.budget());
    let ended_in_order = relay.stop()?;
    let contents = pipeline.destination.read(rows)?;
    contents.ensure_exact()?;
    let mut run = evaluate(backlog.rows, started, &progress, &looks, contents)?;
    (run.relay_memory_peak_bytes, run.kafka_commits) = (memory_peak, commits);
    (run.budget, run.ended_in_order) = (budget, ended_in_order);
    Ok(run)
}

fn evaluate(
    rows: u64,
    started: Instant,
    progress: &Progress,
    looks: &[Look],
    contents: Contents,
) -> anyhow::Result<RelayRun> {
    let complete = progress.complete(&contents.ranges).context("the end was not seen")?;
    let (first, visible) = progress.first().context("the first commit was not seen")?;
    let costs = looks.iter().find(|look| look.at >= complete).context("no look at the end")?.costs;
    let seconds = (complete - started).as_secs_f64();
    let rest = (rows as f64 - visible as f64).max(0.0);
    let rest_seconds = (complete - first).as_secs_f64();
    Ok(RelayRun {
        rate: rows as f64 / seconds,
        rate_from_first_commit: (rest_seconds > 0.0).then(|| rest / rest_seconds),
        seconds,
        first_commit_seconds: (first - started).as_secs_f64(),
        relay_cpu_us_per_event: costs.client.as_secs_f64() * 1e6 / rows as f64,
        walsender_cpu_s: costs.walsender.as_secs_f64(),
        broker_cpu_s: costs.broker.as_secs_f64(),
        relay_memory_peak_bytes: None,
        kafka_commits: None,
        budget: None,
        foreign_cores: costs.cores(costs.foreign),
        ended_in_order: false,
        contents,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_timed_from_start_to_the_last_row() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut progress = Progress::default();
        for (ms, end) in [(0, 0), (500, 100), (1000, 1000), (1500, 1002)] {
            progress.add(at(ms), vec![end]);
        }
        let client = |ms: u64| Costs { client: Duration::from_millis(ms), ..Costs::default() };
        let looks: Vec<Look> = [(500, 1), (1000, 4), (1500, 9)]
            .map(|(ms, used)| Look { at: at(ms), costs: client(used) })
            .into();
        let contents = Contents { rows: 1000, ranges: vec![Some((0, 998))], ..Contents::default() };
        let run = evaluate(1000, start, &progress, &looks, contents).expect("complete");
        assert_eq!((run.rate, run.first_commit_seconds), (1000.0, 0.5));
        assert_eq!(run.rate_from_first_commit, Some(1800.0));
        assert_eq!(run.relay_cpu_us_per_event, 4.0);
    }
}
