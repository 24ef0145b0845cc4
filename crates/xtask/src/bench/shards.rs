//! `bench shards`: a backlog by one pipeline, and by several that share the table by key, each with a walsender of its own.
//!
//! ```text
//! per round: one pipeline | two shards | ...     on the same WAL, into a topic each
//! ```
//! Must never count an arm whose topic does not hold each row once. The order of keys is what a test holds
//! (`--test faults two_pipelines`): rows of different shards have none.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::costs::{Costs, Watch};
use crate::destination::Progress;
use crate::drain::{DRAIN_MAX, LOOK_EVERY, QUIET};
use crate::load::{self, Events};
use crate::machine::wait_quiet;
use crate::relay::{self, Pipeline, Relay, Source};
use crate::servers::Servers;
use crate::statistics::cell;
use crate::{Common, drain, report};

/// Options of `bench shards`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Rows in the backlog
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Runs of each arm
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Pipelines that share the table; may be given several times
    #[arg(long, default_values_t = [1, 2])]
    shards: Vec<u32>,
}

/// One drain.
#[derive(Debug, Clone, Serialize)]
struct Run {
    shards: u32,
    rate: f64,
    relays_cpu_us_per_event: f64,
    walsenders_cpu_us_per_event: f64,
    broker_cpu_us_per_event: f64,
}

/// Runs `bench shards`.
pub(crate) fn run(options: &Options, common: &Common) -> anyhow::Result<()> {
    let binary = relay::build()?;
    let dir = drain::open_dir()?;
    let mut servers = Servers::start(common.postgres)?;
    let mut arms = Vec::new();
    for round in 1..=options.rounds {
        for &shards in &options.shards {
            arms.push((round, shards, pipelines(&mut servers, &binary, dir.path(), round, shards)?));
        }
    }
    let backlog = load::fill(&servers, Events::Rows, options.rows, 10)?;
    let mut runs = Vec::new();
    for (round, shards, pipelines) in &arms {
        let foreign = wait_quiet(Duration::from_secs(common.quiet_wait));
        eprintln!("bench: round {round}, {shards} pipelines; others use {foreign:.2} cores");
        runs.push(drain(&servers, pipelines, backlog.rows)?);
    }
    report::write(common, "shards", &servers.versions, &runs, &markdown(&runs, options))
}

/// The pipelines of one run: a topic for all of them, a slot and a publication each.
fn pipelines(
    servers: &mut Servers,
    binary: &Path,
    dir: &Path,
    round: u32,
    shards: u32,
) -> anyhow::Result<Vec<Pipeline>> {
    let topic = format!("shards{round}_{shards}");
    if shards == 1 {
        let pipeline = Pipeline::new(servers, binary, dir, &topic, 1)?;
        pipeline.setup(servers)?;
        return Ok(vec![pipeline]);
    }
    let mut pipelines = Vec::new();
    for number in 1..=shards {
        let shard = format!("{number}/{shards}");
        let pipeline = Pipeline::of(
            &Source::shard(&topic, &shard),
            servers,
            binary,
            dir,
            &format!("{topic}_{number}"),
            1,
        )?;
        if number == 1 {
            pipeline.setup(servers)?;
        } else {
            pipeline.setup_database()?;
        }
        pipelines.push(pipeline);
    }
    Ok(pipelines)
}

fn drain(servers: &Servers, pipelines: &[Pipeline], rows: u64) -> anyhow::Result<Run> {
    servers.sql("CHECKPOINT")?;
    let destination = &pipelines[0].destination;
    let offsets = destination.watch()?;
    let mut progress = Progress::default();
    progress.add(Instant::now(), offsets.get()?);
    let started = Instant::now();
    let mut relays = pipelines.iter().map(Pipeline::start).collect::<anyhow::Result<Vec<Relay>>>()?;
    let watched = relays.iter().zip(pipelines);
    let mut watches: Vec<Watch<'_>> = watched
        .map(|(relay, pipeline)| Watch::start(servers, relay.pid(), &pipeline.slot(), relay.started))
        .collect();
    let mut looks: Vec<(Instant, Vec<Costs>)> = Vec::new();
    let mut moved = Instant::now();
    // One row more than the backlog: the marker behind it.
    while progress.total() < i64::try_from(rows + 1)? || moved.elapsed() < QUIET {
        std::thread::sleep(LOOK_EVERY);
        let at = Instant::now();
        looks.push((at, watches.iter_mut().map(Watch::look).collect()));
        if progress.add(at, offsets.get()?) {
            moved = at;
        }
        relays.iter_mut().try_for_each(Relay::ensure_running)?;
        ensure!(
            started.elapsed() < DRAIN_MAX,
            "not drained in {DRAIN_MAX:?}:\n{}",
            pipelines[0].last_words()
        );
    }
    for relay in relays {
        relay.stop()?;
    }
    let contents = destination.read(rows + 1)?;
    let wrong = contents.missing + contents.duplicates + contents.foreign;
    ensure!(wrong == 0, "not exactly once: {contents:?}");
    let complete = progress.complete(&contents.ranges).context("the end was not seen")?;
    let (_, costs) = looks.iter().find(|(at, _)| *at >= complete).context("no look at the end")?;
    let per_event = |spent: Duration| spent.as_secs_f64() * 1e6 / rows as f64;
    Ok(Run {
        shards: u32::try_from(pipelines.len())?,
        rate: rows as f64 / (complete - started).as_secs_f64(),
        relays_cpu_us_per_event: per_event(costs.iter().map(|costs| costs.client).sum()),
        walsenders_cpu_us_per_event: per_event(costs.iter().map(|costs| costs.walsender).sum()),
        // Each watch sees the same broker.
        broker_cpu_us_per_event: per_event(costs[0].broker),
    })
}

fn markdown(runs: &[Run], options: &Options) -> String {
    let mut text = format!(
        "A backlog of {} rows, 10 a transaction, by one pipeline and by several that share the table by key; median (min-max) \
         of {} runs. Each row was in the topic once.\n\n\
         | pipelines | rows/s, start of the processes to last row, thousands | relays' CPU, us per event | walsenders' CPU, us \
         per event | broker CPU, us per event |\n| --- | --- | --- | --- | --- |\n",
        options.rows, options.rounds,
    );
    for &shards in &options.shards {
        let of = |figure: fn(&Run) -> f64, unit, decimals| {
            let runs = runs.iter().filter(|run| run.shards == shards);
            cell(runs.map(|run| Some(figure(run))), unit, decimals)
        };
        text += &format!(
            "| {shards} | {} | {} | {} | {} |\n",
            of(|run| run.rate, 1e3, 1),
            of(|run| run.relays_cpu_us_per_event, 1.0, 2),
            of(|run| run.walsenders_cpu_us_per_event, 1.0, 2),
            of(|run| run.broker_cpu_us_per_event, 1.0, 2),
        );
    }
    text
}
