//! `bench takeover`: two relays of one pipeline; the leader is killed (SIGKILL) again and again. How long until the other
//! one's first event is received?
//!
//! Counted from the kill to the receipt of the first row that was committed after it, so decoding from the slot's
//! restart point is in the figure. Must never accept a run in which a row is lost, doubled or out of order.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::load::Schedule;
use crate::relay::{self, Pipeline, Relay};
use crate::servers::{DATABASE, Servers};
use crate::statistics::Spread;
use crate::stream::Stream;
use crate::{Common, drain, report};

/// A takeover that lasts longer is a failure.
const TAKEOVER_MAX: Duration = Duration::from_secs(60);
/// How often the times are looked at; they themselves come from the reader.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// The new leader works so long before it is killed: it must have committed something.
const LEAD: Duration = Duration::from_millis(500);

/// Options of `bench takeover`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// How often the leader is killed
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Transactions a second meanwhile
    #[arg(long, default_value_t = 200)]
    rate: u32,
}

/// All takeovers.
#[derive(Debug, Serialize)]
struct Result {
    kills: u32,
    rate: u32,
    rows: u64,
    /// Seconds from each kill to the first row received that was committed after it.
    seconds: Vec<f64>,
    spread: Option<Spread>,
    /// Seconds from start to standing by.
    standby_seconds: Option<Spread>,
}

/// Runs `bench takeover`.
pub(crate) fn run(options: &Options, common: &Common) -> anyhow::Result<()> {
    let binary = relay::build()?;
    let dir = drain::open_dir()?;
    let mut servers = Servers::start(common.postgres)?;
    let instances = instances(&servers, &binary, dir.path())?;
    instances[0].setup(&mut servers)?;
    let result = measure(&servers, &instances, options)?;
    report::write(common, "takeover", &servers.versions, &result, &markdown(&result))
}

fn instances(servers: &Servers, binary: &Path, dir: &Path) -> anyhow::Result<[Pipeline; 2]> {
    let pipeline = |instance: u32| Pipeline::new(servers, binary, dir, "bench", instance);
    Ok([pipeline(1)?, pipeline(2)?])
}

fn measure(servers: &Servers, instances: &[Pipeline; 2], options: &Options) -> anyhow::Result<Result> {
    let mut leader = instances[0].start()?;
    leader.wait_state("streaming")?;
    let mut standby = instances[1].start()?;
    let mut standing_by = vec![standby.wait_state("standing_by")?.as_secs_f64()];
    let count = u64::from(options.rate) * TAKEOVER_MAX.as_secs() * u64::from(options.kills.max(1));
    let schedule = Schedule { start: Instant::now(), rate: f64::from(options.rate), count };
    let stream = Stream::new(schedule);
    let url = servers.postgres.superuser_url(DATABASE);
    let destination = &instances[0].destination;
    // One writer: rows then commit in the order of their numbers, and every reordering shows.
    let seconds = stream.run(&url, 1, destination, |stream| {
        let mut seconds = Vec::new();
        for kill in 0..options.kills {
            sleep(LEAD);
            let (dead, heir) = (kill as usize % 2, (kill as usize + 1) % 2);
            let taken = kill_leader(stream, leader, &mut standby)?;
            eprintln!("bench: takeover {} by relay {} after {taken:?}", kill + 1, heir + 1);
            seconds.push(taken.as_secs_f64());
            leader = std::mem::replace(&mut standby, instances[dead].start()?);
            standing_by.push(standby.wait_state("standing_by")?.as_secs_f64());
        }
        leader.stop()?;
        Ok(seconds)
    })?;
    standby.stop()?;
    let rows = (0..count).take_while(|n| stream.commits.get(*n).is_some()).count() as u64;
    destination.read(rows)?.ensure_exact()?;
    let spread = Spread::of(seconds.iter().copied());
    let standby_seconds = Spread::of(standing_by);
    Ok(Result { kills: options.kills, rate: options.rate, rows, seconds, spread, standby_seconds })
}

/// Kills the leader and waits for the first row that was written afterwards. The first COMMIT answered after the kill
/// may have been flushed, and sent on by the dead relay, before it; the row after that was begun later.
fn kill_leader(stream: &Stream, leader: Relay, standby: &mut Relay) -> anyhow::Result<Duration> {
    let killed = leader.kill()? - stream.schedule.start;
    let waiting = Instant::now();
    let mut n = 0;
    loop {
        standby.ensure_running()?;
        ensure!(
            waiting.elapsed() < TAKEOVER_MAX,
            "no takeover in {TAKEOVER_MAX:?}; the standby is {:?}",
            standby.state()
        );
        while stream.commits.get(n).is_some_and(|committed| committed <= killed) {
            n += 1;
        }
        let written = n + 1;
        if let Some(received) = stream.commits.get(written).and(stream.receipts.get(written)) {
            return received.checked_sub(killed).context("received before the kill");
        }
        sleep(LOOK_EVERY);
    }
}

fn markdown(result: &Result) -> String {
    let Result { kills, rate, rows, seconds, spread, standby_seconds } = result;
    let text = |spread: &Option<Spread>| spread.map_or("-".into(), |spread| spread.text(1.0, 2));
    let all: Vec<String> = seconds.iter().map(|seconds| format!("{seconds:.2}")).collect();
    format!(
        "Two relays, {rate} transactions/s, the leader killed with SIGKILL {kills} times; {rows} rows read back: each once, in \
         commit order.\n\n\
         | seconds | median (min-max) |\n| --- | --- |\n\
         | kill -> first row received that was written after it | **{}** |\n\
         | start -> standing by | {} |\n\nEach: {}\n",
        text(spread),
        text(standby_seconds),
        all.join(", ")
    )
}
