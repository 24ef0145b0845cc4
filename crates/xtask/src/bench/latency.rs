//! `bench latency`: from COMMIT returned to receipt by a read_committed consumer, at a fixed rate, one event a
//! transaction.
//!
//! Rows are due at intended times, so that a stall shows in every row it delayed (no coordinated omission). Binaries are
//! measured in turns, so that a change is told from a machine that changed. Must never mix the warm-up into the figures.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::budget::{self, Budget};
use crate::costs::{Costs, Watch};
use crate::load::Schedule;
use crate::machine::wait_quiet;
use crate::picture::{self, Curve};
use crate::relay::{self, Pipeline, Relay};
use crate::servers::{DATABASE, Servers};
use crate::statistics::{Spread, cell};
use crate::stream::Stream;
use crate::{Common, drain, process, report};

/// Connections that write: one slow commit must not delay the next row.
pub(crate) const WRITERS: usize = 4;
/// The longest latency a histogram holds, in microseconds; longer ones count as this.
const LATENCY_MAX_US: u64 = 600_000_000;

/// Options of `bench latency`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Transactions a second; may be given several times
    #[arg(long, default_values_t = [100, 1000])]
    rate: Vec<u32>,
    /// Seconds that count
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Seconds before that
    #[arg(long, default_value_t = 10)]
    warm_up: u32,
    /// Runs at each rate
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Another binary, measured in turns with this tree's: what a change brings. May be given several times
    #[arg(long, value_name = "PATH")]
    against: Vec<PathBuf>,
}

/// A distribution in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// One run at one rate.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Run {
    pub(crate) rate: u32,
    /// The binary: "this tree", or the name of its file.
    binary: String,
    events: u64,
    /// COMMIT returned -> received. Zero where the event was received first: that is possible, as the walsender may send
    /// before the writer is woken.
    pub(crate) commit_to_receipt: Percentiles,
    received_first: u64,
    /// The moment the row was due -> received: what a user of a busy system sees.
    pub(crate) due_to_receipt: Percentiles,
    /// The moment the row was due -> COMMIT returned: the load itself.
    due_to_commit: Percentiles,
    kafka_commits_per_second: Option<f64>,
    pub(crate) relay_cores: f64,
    walsender_cores: f64,
    pub(crate) broker_cores: f64,
    /// Everybody else meanwhile: Postgres' own backends, and whoever shares the machine.
    other_cores: f64,
    pub(crate) relay_memory_peak_bytes: Option<u64>,
    /// Since the start, warm-up included. None for a binary that does not tell.
    budget: Option<Budget>,
    foreign_cores_before: f64,
    ended_in_order: bool,
}

/// What was used while the figures were taken.
pub(crate) struct Window {
    pub(crate) costs: Costs,
    pub(crate) commits: Option<u64>,
}

/// Runs `bench latency`.
pub(crate) fn run(options: &Options, common: &Common) -> anyhow::Result<()> {
    let binaries = relay::binaries(&options.against)?;
    let dir = drain::open_dir()?;
    let mut servers = Servers::start(common.postgres)?;
    let mut runs = Vec::new();
    for round in 1..=options.rounds {
        for &rate in &options.rate {
            for (turn, (label, binary)) in binaries.iter().enumerate() {
                let name = format!("bench{rate}_{round}_{turn}");
                let pipeline = Pipeline::new(&servers, binary, dir.path(), &name, 1)?;
                pipeline.setup(&mut servers)?;
                let foreign = wait_quiet(Duration::from_secs(common.quiet_wait));
                eprintln!(
                    "bench: round {round}, {label}, {rate} transactions/s; others use {foreign:.2} cores"
                );
                let mut run = measure(&servers, &pipeline, rate, options)?;
                (run.foreign_cores_before, run.binary) = (foreign, label.clone());
                servers.sql(&format!("SELECT pg_drop_replication_slot('{}')", pipeline.slot()))?;
                runs.push(run);
            }
        }
    }
    report::write(common, "latency", &servers.versions, &runs, &markdown(&runs, options))?;
    report::picture(common, "latency", &drawn(&runs))
}

/// The curve of this tree: what an event waits at which load.
fn drawn(runs: &[Run]) -> String {
    let groups: Vec<_> =
        groups(runs).into_iter().filter(|(_, binary, _)| *binary == runs[0].binary).collect();
    let places: Vec<String> = groups.iter().map(|(rate, ..)| format!("{rate}/s")).collect();
    let curve = |name: &str, figure: fn(&Percentiles) -> f64| {
        let of = |runs: &[&Run]| Spread::of(runs.iter().map(|run| figure(&run.commit_to_receipt)));
        (name.to_owned(), groups.iter().filter_map(|(.., runs)| of(runs)).collect())
    };
    let curves: [Curve; 2] = [curve("p50", |p| p.p50), curve("p90", |p| p.p90)];
    picture::curves("COMMIT -> received, ms, by transactions a second", &places, &curves)
}

fn measure(servers: &Servers, pipeline: &Pipeline, rate: u32, options: &Options) -> anyhow::Result<Run> {
    servers.sql("TRUNCATE outbox")?;
    servers.sql("CHECKPOINT")?;
    let mut relay = pipeline.start()?;
    relay.wait_state("streaming")?;
    let warm_up = u64::from(rate * options.warm_up);
    let count = warm_up + u64::from(rate * options.seconds);
    let stream = Stream::new(Schedule { start: Instant::now(), rate: f64::from(rate), count });
    let url = servers.postgres.superuser_url(DATABASE);
    let mut watch = Watch::start(servers, relay.pid(), &pipeline.slot(), relay.started);
    let window = stream.run(&url, WRITERS, &pipeline.destination, |stream| {
        window(&stream.schedule, warm_up, &mut watch, &relay)
    })?;
    let memory_peak = process::memory_peak(relay.pid());
    let mut run = evaluate(&stream, rate, warm_up, &window, memory_peak)?;
    run.budget = relay.budget();
    run.ended_in_order = relay.stop()?;
    Ok(run)
}

/// Waits for the warm-up and for the rest of the schedule, and takes what was used in between.
fn window(schedule: &Schedule, warm_up: u64, watch: &mut Watch<'_>, relay: &Relay) -> anyhow::Result<Window> {
    let until = |n: u64| sleep(schedule.intended(n).saturating_duration_since(Instant::now()));
    until(warm_up);
    let (before, commits_before) = (watch.look(), relay.commits());
    until(schedule.count);
    let (after, commits) = (watch.look(), relay.commits());
    let commits = commits.zip(commits_before).map(|(after, before)| after - before);
    Ok(Window { costs: after.since(before), commits })
}

pub(crate) fn evaluate(
    stream: &Stream,
    rate: u32,
    warm_up: u64,
    window: &Window,
    relay_memory_peak_bytes: Option<u64>,
) -> anyhow::Result<Run> {
    let new = || Histogram::<u64>::new_with_max(LATENCY_MAX_US, 3);
    let (mut receipt, mut due_receipt, mut due_commit) = (new()?, new()?, new()?);
    let mut received_first = 0;
    for n in warm_up..stream.schedule.count {
        let Some((committed, received)) = stream.commits.get(n).zip(stream.receipts.get(n)) else { continue };
        let due = stream.schedule.intended(n) - stream.schedule.start;
        received_first += u64::from(received < committed);
        receipt.saturating_record(micros(received.saturating_sub(committed)));
        due_receipt.saturating_record(micros(received.saturating_sub(due)));
        due_commit.saturating_record(micros(committed.saturating_sub(due)));
    }
    let Window { costs, commits } = window;
    Ok(Run {
        rate,
        binary: String::new(),
        events: receipt.len(),
        commit_to_receipt: percentiles(&receipt),
        received_first,
        due_to_receipt: percentiles(&due_receipt),
        due_to_commit: percentiles(&due_commit),
        kafka_commits_per_second: commits.map(|commits| commits as f64 / costs.elapsed.as_secs_f64()),
        relay_cores: costs.cores(costs.client),
        walsender_cores: costs.cores(costs.walsender),
        broker_cores: costs.cores(costs.broker),
        other_cores: costs.cores(costs.foreign),
        relay_memory_peak_bytes,
        budget: None,
        foreign_cores_before: 0.0,
        ended_in_order: false,
    })
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(LATENCY_MAX_US)
}

fn percentiles(histogram: &Histogram<u64>) -> Percentiles {
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
    Percentiles {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: histogram.max() as f64 / 1e3,
    }
}

fn markdown(runs: &[Run], options: &Options) -> String {
    let Options { rounds, seconds, warm_up, .. } = options;
    let mut text = format!(
        "One event a transaction, {WRITERS} connections, rows due at fixed times; {seconds} s after {warm_up} s of warm-up. \
         Milliseconds; median (min-max) of {rounds} runs.\n\n\
         | tx/s | binary | from -> to | p50 | p90 | p99 | p99.9 | max |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let groups: Vec<(u32, &str, Vec<&Run>)> = groups(runs);
    for (rate, binary, of) in &groups {
        for (name, figure) in [
            ("**COMMIT -> received**", (|run| run.commit_to_receipt) as fn(&Run) -> Percentiles),
            ("due -> received", |run| run.due_to_receipt),
            ("due -> COMMIT", |run| run.due_to_commit),
        ] {
            let row = row(&of.iter().map(|run| figure(run)).collect::<Vec<_>>());
            text += &format!("| {rate} | {binary} | {name} | {row} |\n");
        }
    }
    text += "\n| tx/s | binary | Kafka tx/s | relay cores | walsender cores | broker cores | other cores | relay MiB |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- |\n";
    for (rate, binary, of) in &groups {
        let spread =
            |figure: fn(&Run) -> Option<f64>, decimals| cell(of.iter().map(|run| figure(run)), 1.0, decimals);
        text += &format!(
            "| {rate} | {binary} | {} | {} | {} | {} | {} | {} |\n",
            spread(|run| run.kafka_commits_per_second, 0),
            spread(|run| Some(run.relay_cores), 3),
            spread(|run| Some(run.walsender_cores), 3),
            spread(|run| Some(run.broker_cores), 3),
            spread(|run| Some(run.other_cores), 2),
            spread(|run| run.relay_memory_peak_bytes.map(|bytes| (bytes >> 20) as f64), 0),
        );
    }
    text + &waits(&groups)
}

/// What Kafka transactions wait for.
fn waits(groups: &[(u32, &str, Vec<&Run>)]) -> String {
    let names: Vec<&str> = budget::waits().collect();
    let mut text = format!(
        "\nWhat a Kafka transaction waits for, ms, means; `fill` is from its first event until it is sealed:\n\n\
         | tx/s | binary | {} |\n| --- | --- |{}\n",
        names.join(" | "),
        " --- |".repeat(names.len()),
    );
    for (rate, binary, of) in groups {
        let wait = |name: &&str| {
            let value = |run: &&Run| budget::of(&run.budget.as_ref()?.waits_ms_per_commit, name);
            cell(of.iter().map(value), 1.0, 2)
        };
        let cells: Vec<String> = names.iter().map(wait).collect();
        text += &format!("| {rate} | {binary} | {} |\n", cells.join(" | "));
    }
    text
}

/// The runs of each rate and binary, in the order in which they were first run.
fn groups(runs: &[Run]) -> Vec<(u32, &str, Vec<&Run>)> {
    let mut groups: Vec<(u32, &str, Vec<&Run>)> = Vec::new();
    for run in runs {
        match groups.iter_mut().find(|(rate, binary, _)| (*rate, *binary) == (run.rate, &run.binary)) {
            Some((.., of)) => of.push(run),
            None => groups.push((run.rate, &run.binary, vec![run])),
        }
    }
    groups
}

fn row(of: &[Percentiles]) -> String {
    let spread = |figure: fn(&Percentiles) -> f64| cell(of.iter().map(|run| Some(figure(run))), 1.0, 2);
    let cells =
        [spread(|p| p.p50), spread(|p| p.p90), spread(|p| p.p99), spread(|p| p.p999), spread(|p| p.max)];
    cells.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_milliseconds() {
        let mut histogram = Histogram::<u64>::new_with_max(LATENCY_MAX_US, 3).expect("a legal histogram");
        for us in 1..=1000 {
            histogram.saturating_record(us * 10);
        }
        let found = percentiles(&histogram);
        assert!((found.p50 - 5.0).abs() < 0.01 && (found.p99 - 9.9).abs() < 0.02, "{found:?}");
    }
}
