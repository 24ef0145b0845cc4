//! `bench peers`: the same outbox through Pillarbox and through other programs that do its job, in turns.
//!
//! ```text
//! lane of each arm and round: topic, slot, configuration -> one backlog in the WAL -> per round, the arms in turn:
//!     start -> watch end offsets -> (kill -9, start again) -> read back -> stop, drop slot and topic
//! ```
//! Peers are fetched by package name into the lab's cache and configured by the files in `bench/peers`. Must never judge
//! an arm by what it says of itself: all are counted at the destination, by the same reader.

mod arm;
mod debezium;
mod drain;
mod faucet;
mod lane;
mod mq_bridge;
mod steady;
mod table;

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use clap::ValueEnum;
use serde::Serialize;

use self::arm::Arm;
use self::lane::Lane;
use crate::drain::open_dir;
use crate::load::{Events, Payload};
use crate::machine::wait_quiet;
use crate::servers::Servers;
use crate::{Common, baseline, load, picture, relay, report};

/// What the peers decode by; `pg_recvlogical` has a publication of its own, with the same content.
const PUBLICATION: &str = "bench_peers";

/// Options of `bench peers`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// What the arms have to do
    #[arg(long, value_enum, default_value = "drain")]
    workload: Workload,
    /// Who does it, in this order; the order turns from round to round
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Arm::value_variants().to_vec())]
    arms: Vec<Arm>,
    /// Events in the backlog of `drain` and `kill`; JVMs are warm after about a million
    #[arg(long, default_value_t = 1_500_000)]
    events: u64,
    /// Rows in each source transaction of the backlog
    #[arg(long, default_value_t = 10)]
    rows_per_transaction: u64,
    /// Type of the payload column
    #[arg(long, default_value = "jsonb")]
    payload: Payload,
    /// Orders in a payload: 1 is about 300 bytes, 10 about 3 kB
    #[arg(long, default_value_t = 1)]
    orders: u32,
    /// Transactions a second of `latency`; may be given several times
    #[arg(long, default_values_t = [100, 1000])]
    rate: Vec<u32>,
    /// Seconds of `latency` and `idle` that count
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Seconds before that
    #[arg(long, default_value_t = 10)]
    warm_up: u32,
    /// Runs of each arm
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

/// What the arms have to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Workload {
    /// A backlog, from process start to the last event
    Drain,
    /// The same with kill -9 after a third of it, and an immediate restart
    Kill,
    /// One event a transaction at a fixed rate
    Latency,
    /// Nothing: what doing nothing costs
    Idle,
}

/// Runs `bench peers`.
pub(crate) fn run(options: &Options, common: &Common) -> anyhow::Result<()> {
    ensure!(!options.arms.is_empty() && options.rounds > 0, "no arms or no rounds");
    let dir = open_dir()?;
    let mut servers = Servers::start(common.postgres)?;
    servers.sql(&format!("CREATE PUBLICATION {PUBLICATION} FOR TABLE outbox WITH (publish = 'insert')"))?;
    servers.sql(&load::payload_of(options.orders))?;
    options.payload.make(&servers)?;
    match options.workload {
        Workload::Drain | Workload::Kill => backlog(options, common, &mut servers, dir.path()),
        Workload::Latency => latency(options, common, &mut servers, dir.path()),
        Workload::Idle => idle(options, common, &mut servers, dir.path()),
    }
}

fn backlog(options: &Options, common: &Common, servers: &mut Servers, dir: &Path) -> anyhow::Result<()> {
    let kill = options.workload == Workload::Kill;
    let arms: Vec<Arm> =
        options.arms.iter().copied().filter(|arm| !kill || *arm != Arm::PgRecvlogical).collect();
    if arms.contains(&Arm::PgRecvlogical) {
        baseline::prepare(servers)?;
    }
    // Slots first: each holds the WAL of the one backlog until its turn has come.
    let mut lanes = Vec::new();
    for round in 1..=options.rounds {
        for arm in turn(&arms, round) {
            lanes.push((round, arm, lane(servers, arm, &format!("r{round}"), None, dir)?));
        }
    }
    let backlog = load::fill(servers, Events::Rows, options.events, options.rows_per_transaction)?;
    let mut runs = Vec::new();
    for (round, arm, lane) in &lanes {
        let others = wait_quiet(Duration::from_secs(common.quiet_wait));
        eprintln!("bench: round {round}, {arm:?}; others use {others:.2} cores");
        let run = match lane {
            None => drain::Run::of_baseline(
                *round,
                &baseline::run(servers, &backlog, baseline::Reading::Plain, *round, dir)?,
                backlog.rows,
            ),
            Some(lane) => drain::run(servers, lane, *round, backlog.rows, kill)?,
        };
        eprintln!("bench: {}", run.summary());
        runs.push(run);
    }
    let name = format!(
        "peers-{}-{}-per-transaction-{}-orders{}",
        if kill { "kill" } else { "drain" },
        options.rows_per_transaction,
        options.orders,
        options.payload.suffix()
    );
    report::write(
        common,
        &name,
        &servers.versions,
        &runs,
        &table::backlog(&runs, &arms, &backlog, options.payload, kill),
    )?;
    let drawn = if kill { "kill -9 -> next event, s" } else { "events/s, first to last event, thousands" };
    report::picture(common, &name, &picture::bars(drawn, &table::bars(&runs, &arms, kill)))
}

fn latency(options: &Options, common: &Common, servers: &mut Servers, dir: &Path) -> anyhow::Result<()> {
    let arms: Vec<Arm> = options.arms.iter().copied().filter(|arm| *arm != Arm::PgRecvlogical).collect();
    let mut runs = Vec::new();
    for round in 1..=options.rounds {
        for &rate in &options.rate {
            for arm in turn(&arms, round) {
                let Some(lane) = lane(servers, arm, &format!("r{round}_{rate}"), Some(rate), dir)? else {
                    continue;
                };
                let others = wait_quiet(Duration::from_secs(common.quiet_wait));
                eprintln!("bench: round {round}, {arm:?}, {rate}/s; others use {others:.2} cores");
                let run = steady::latency(servers, &lane, rate, options.warm_up, options.seconds)?;
                runs.push(steady::Latency { arm, round, run });
            }
        }
    }
    let text = table::latency(&runs, &arms, &options.rate);
    let name = format!("peers-latency{}", options.payload.suffix());
    report::write(common, &name, &servers.versions, &runs, &text)?;
    let bars = table::latency_bars(&runs, &arms, &options.rate);
    report::picture(common, &name, &picture::bars("COMMIT -> received, p99, ms", &bars))
}

fn idle(options: &Options, common: &Common, servers: &mut Servers, dir: &Path) -> anyhow::Result<()> {
    let arms: Vec<Arm> = options.arms.iter().copied().filter(|arm| *arm != Arm::PgRecvlogical).collect();
    let mut runs = Vec::new();
    for round in 1..=options.rounds {
        for arm in turn(&arms, round) {
            let Some(lane) = lane(servers, arm, &format!("r{round}"), None, dir)? else { continue };
            let others = wait_quiet(Duration::from_secs(common.quiet_wait));
            eprintln!("bench: round {round}, {arm:?}; others use {others:.2} cores");
            runs.push(steady::idle(servers, &lane, round, options.warm_up, options.seconds)?);
        }
    }
    let text = table::idle(&runs, &arms, options.seconds);
    let name = format!("peers-idle{}", options.payload.suffix());
    report::write(common, &name, &servers.versions, &runs, &text)?;
    let bars = table::idle_bars(&runs, &arms);
    report::picture(common, &name, &picture::bars("CPU at rest, % of a core", &bars))
}

/// The lane of an arm, set up; none for `pg_recvlogical`.
fn lane(
    servers: &mut Servers,
    arm: Arm,
    run: &str,
    rate: Option<u32>,
    dir: &Path,
) -> anyhow::Result<Option<Lane>> {
    if arm == Arm::PgRecvlogical {
        return Ok(None);
    }
    let binary = if arm.is_pillarbox() { Some(relay::build()?) } else { None };
    Lane::setup(servers, arm, run, binary.as_deref(), rate, dir).map(Some)
}

/// The arms take turns in going first.
fn turn(arms: &[Arm], round: u32) -> Vec<Arm> {
    let mut arms = arms.to_vec();
    let first = (round as usize - 1) % arms.len().max(1);
    arms.rotate_left(first);
    arms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_arm_goes_first_once() {
        let arms = [Arm::Pillarbox, Arm::MqBridge, Arm::DebeziumTuned];
        let first: Vec<Arm> = (1..=3).map(|round| turn(&arms, round)[0]).collect();
        assert_eq!(first, arms);
        assert_eq!(turn(&arms, 4), arms);
        assert!(turn(&[], 1).is_empty());
    }
}
