//! `bench rolling`: two relays of one pipeline are restarted in turn (SIGTERM), as a deployment does, under load. How long
//! does an event wait, at worst?
//!
//! Counted for each row from the return of COMMIT to its receipt by a `read_committed` consumer, so draining, takeover and
//! all that goes wrong between are in the figure. Must never accept a run in which a row is lost, doubled or out of order.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Serialize;

use crate::load::Schedule;
use crate::relay::{self, ASK_EVERY, Pipeline, Relay};
use crate::servers::{DATABASE, Servers};
use crate::statistics::Spread;
use crate::stream::Stream;
use crate::{Common, drain, report};

/// A roll that lasts longer is a failure.
const ROLL_MAX: Duration = Duration::from_secs(60);
/// Between two restarts: each relay has led for a moment, or stood by.
const PAUSE: Duration = Duration::from_secs(1);

/// Options of `bench rolling`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// How often both relays are restarted
    #[arg(long, default_value_t = 10)]
    rolls: u32,
    /// Transactions a second meanwhile
    #[arg(long, default_value_t = 200)]
    rate: u32,
}

/// All rolls.
#[derive(Debug, Serialize)]
struct Result {
    rolls: u32,
    rate: u32,
    rows: u64,
    /// Seconds from COMMIT to receipt: the longest of each roll.
    longest_seconds: Vec<f64>,
    /// The same of all rows.
    median_seconds: f64,
    p99_seconds: f64,
    max_seconds: f64,
    /// Rows that waited for more than a second.
    late_rows: usize,
    /// Seconds from SIGTERM to the end of a leader that drained.
    drain_seconds: Option<Spread>,
}

/// Runs `bench rolling`.
pub(crate) fn run(options: &Options, common: &Common) -> anyhow::Result<()> {
    ensure!(options.rolls > 0, "--rolls is at least 1");
    let binary = relay::build()?;
    let dir = drain::open_dir()?;
    let mut servers = Servers::start(common.postgres)?;
    let pipeline = |instance: u32| Pipeline::new(&servers, &binary, dir.path(), "bench", instance);
    let instances = [pipeline(1)?, pipeline(2)?];
    instances[0].setup(&mut servers)?;
    let result = measure(&servers, &instances, options)?;
    report::write(common, "rolling", &servers.versions, &result, &markdown(&result))
}

fn measure(servers: &Servers, instances: &[Pipeline; 2], options: &Options) -> anyhow::Result<Result> {
    let mut relays = Vec::from([instances[0].start()?]);
    relays[0].wait_state("streaming")?;
    relays.push(instances[1].start()?);
    leader(&relays)?;
    let count = u64::from(options.rate) * ROLL_MAX.as_secs() * u64::from(options.rolls);
    let stream = Stream::new(Schedule { start: Instant::now(), rate: f64::from(options.rate), count });
    let url = servers.postgres.superuser_url(DATABASE);
    let destination = &instances[0].destination;
    // One writer: rows then commit in the order of their numbers, and every reordering shows.
    let (begins, drains) = stream.run(&url, 1, destination, |stream| {
        let (mut begins, mut drains) = (Vec::new(), Vec::new());
        for n in 0..options.rolls as usize {
            sleep(PAUSE);
            begins.push(stream.schedule.start.elapsed());
            let led = leader(&relays)?;
            restart(&mut relays, instances, 1 - led)?;
            leader(&relays)?;
            sleep(PAUSE);
            let drained = restart(&mut relays, instances, led)?;
            drains.push(drained.as_secs_f64());
            eprintln!("bench: roll {}, drained in {drained:?}, relay {} leads", n + 1, leader(&relays)? + 1);
        }
        sleep(PAUSE);
        relays.iter_mut().try_for_each(Relay::ensure_running)?;
        Ok((begins, drains))
    })?;
    let rows = (0..count).take_while(|n| stream.commits.get(*n).is_some()).count() as u64;
    destination.read(rows)?.ensure_exact()?;
    Ok(judge(options, &stream, rows, &begins, &drains))
}

/// Ends a relay by SIGTERM and starts it again at once, as a deployment does; gives how long its end took.
fn restart(relays: &mut Vec<Relay>, instances: &[Pipeline; 2], which: usize) -> anyhow::Result<Duration> {
    let stopping = Instant::now();
    ensure!(relays.remove(which).stop()?, "a relay did not drain in time");
    let drained = stopping.elapsed();
    relays.insert(which, instances[which].start()?);
    Ok(drained)
}

/// Waits until one of them streams and the other one stands by. A leader that ends within milliseconds and is back as
/// soon may well lead again.
fn leader(relays: &[Relay]) -> anyhow::Result<usize> {
    let waiting = Instant::now();
    loop {
        let states: Vec<Option<String>> = relays.iter().map(Relay::state).collect();
        let at = |state: &str| states.iter().position(|known| known.as_deref() == Some(state));
        if let (Some(leader), Some(_)) = (at("streaming"), at("standing_by")) {
            return Ok(leader);
        }
        ensure!(waiting.elapsed() < ROLL_MAX, "the relays are {states:?}");
        sleep(ASK_EVERY);
    }
}

fn judge(options: &Options, stream: &Stream, rows: u64, begins: &[Duration], drains: &[f64]) -> Result {
    let mut longest = vec![0.0_f64; begins.len()];
    let mut waits: Vec<f64> = Vec::new();
    for n in 0..rows {
        let (Some(committed), Some(received)) = (stream.commits.get(n), stream.receipts.get(n)) else {
            continue;
        };
        let wait = received.saturating_sub(committed).as_secs_f64();
        waits.push(wait);
        if let Some(roll) = begins.iter().rposition(|begin| *begin <= committed) {
            longest[roll] = longest[roll].max(wait);
        }
    }
    waits.sort_by(f64::total_cmp);
    let at = |share: f64| {
        waits.get((waits.len() as f64 * share) as usize).or(waits.last()).copied().unwrap_or(0.0)
    };
    Result {
        rolls: options.rolls,
        rate: options.rate,
        rows,
        longest_seconds: longest,
        median_seconds: at(0.5),
        p99_seconds: at(0.99),
        max_seconds: at(1.0),
        late_rows: waits.iter().filter(|wait| **wait > 1.0).count(),
        drain_seconds: Spread::of(drains.iter().copied()),
    }
}

fn markdown(result: &Result) -> String {
    let Result { rolls, rate, rows, longest_seconds, .. } = result;
    let each: Vec<String> = longest_seconds.iter().map(|seconds| format!("{seconds:.2}")).collect();
    let drains = result.drain_seconds.map_or("-".into(), |spread| spread.text(1.0, 2));
    format!(
        "Two relays, {rate} transactions/s, both restarted with SIGTERM {rolls} times, the standby first; {rows} rows read \
         back: each once, in commit order.\n\n\
         | COMMIT -> received, of all rows | seconds |\n| --- | --- |\n\
         | median | {:.4} |\n| p99 | {:.3} |\n| longest | **{:.2}** |\n\n\
         Rows that waited for more than a second: {}. A leader drained and ended in {drains} s (median, min-max).\n\n\
         Longest of each roll: {}\n",
        result.median_seconds,
        result.p99_seconds,
        result.max_seconds,
        result.late_rows,
        each.join(", ")
    )
}
