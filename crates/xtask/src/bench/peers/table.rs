//! The tables: one column an arm, median and range of its runs. Must never leave out an arm because it did badly.

use super::arm::Arm;
use super::drain::Run;
use super::steady::{Idle, Latency};
use crate::load::{Backlog, Payload};
use crate::picture::Bar;
use crate::statistics::{Spread, cell};

const MIB: f64 = 1048576.0;

/// A table with the arms as columns.
struct Table {
    text: String,
}

impl Table {
    fn new(first: &str, arms: &[Arm]) -> Table {
        let names: Vec<String> = arms.iter().map(|arm| arm.name()).collect();
        Table { text: format!("| {first} | {} |\n|{}\n", names.join(" | "), " --- |".repeat(arms.len() + 1)) }
    }

    fn row(&mut self, what: &str, cells: impl Iterator<Item = String>) {
        self.text += &format!("| {what} | {} |\n", cells.collect::<Vec<_>>().join(" | "));
    }
}

type Get<T> = fn(&T) -> Option<f64>;

/// What a run of `drain` and `kill` is told with: name, figure, unit, decimals.
const DRAIN: [(&str, Get<Run>, f64, usize); 10] = [
    ("events/s, process start to last event, thousands", |r| Some(r.rate), 1e3, 1),
    ("events/s, first to last event, thousands", |r| r.rate_from_first, 1e3, 1),
    ("events/s, second half, thousands", |r| r.rate_second_half, 1e3, 1),
    ("process start to first event, s", |r| r.first_seconds, 1.0, 2),
    ("process start to last event, s", |r| Some(r.seconds), 1.0, 1),
    ("relay CPU, us per event", |r| Some(r.costs?.client), 1.0, 2),
    ("walsender CPU, us per event", |r| Some(r.costs?.walsender), 1.0, 2),
    ("broker CPU, us per event", |r| r.costs?.broker, 1.0, 2),
    ("peak resident memory, MiB", |r| Some(r.memory_peak_bytes? as f64), MIB, 0),
    ("CPU of others, cores", |r| Some(r.foreign_cores), 1.0, 2),
];
/// What a kill adds.
const KILL: [(&str, Get<Run>, f64, usize); 3] = [
    ("killed after, % of the backlog", |r| Some(r.kill?.after_share), 0.01, 0),
    ("kill -9 -> next event, s", |r| r.kill?.seconds_to_next, 1.0, 2),
    ("starts that failed", |r| Some(f64::from(r.restarts)), 1.0, 0),
];
/// What was found at the destination.
const FOUND: [(&str, Get<Run>, f64, usize); 3] = [
    ("lost", |r| Some(r.contents.as_ref()?.missing as f64), 1.0, 0),
    ("duplicates", |r| Some(r.contents.as_ref()?.duplicates as f64), 1.0, 0),
    ("behind a later event of its partition", |r| Some(r.contents.as_ref()?.reordered as f64), 1.0, 0),
];

/// `drain` and `kill`.
pub(super) fn backlog(runs: &[Run], arms: &[Arm], backlog: &Backlog, payload: Payload, kill: bool) -> String {
    let mut table = Table::new("", arms);
    let rows = if kill { KILL.iter().chain(&DRAIN[4..5]) } else { DRAIN.iter().chain(&[]) };
    for (what, get, unit, decimals) in rows.chain(&FOUND) {
        let of = |arm: &Arm| cell(runs.iter().filter(|run| run.arm == *arm).map(get), *unit, *decimals);
        table.row(what, arms.iter().map(of));
    }
    let promised =
        |arm: &Arm| if arm.is_exactly_once() { "exactly once" } else { "at least once" }.to_owned();
    let promises = arms.iter().map(|arm| if *arm == Arm::PgRecvlogical { "-".into() } else { promised(arm) });
    table.row("promised", promises);
    format!(
        "Backlog of {} events, payload {}, {} MB of WAL; median (min-max), arms in turns. Every topic was read back after its run.\n\n{}",
        backlog.rows,
        payload.name(),
        backlog.wal_bytes >> 20,
        table.text
    )
}

/// One bar an arm.
pub(super) fn bars(runs: &[Run], arms: &[Arm], kill: bool) -> Vec<Bar> {
    let get = |run: &Run| match run.kill {
        Some(kill) => kill.seconds_to_next,
        None if kill => None,
        None => Some(run.rate_from_first.unwrap_or(run.rate) / 1e3),
    };
    spreads(arms, |arm| runs.iter().filter(|run| run.arm == arm).filter_map(get).collect())
}

/// `latency`.
pub(super) fn latency(runs: &[Latency], arms: &[Arm], rates: &[u32]) -> String {
    let figures: [(&str, Get<Latency>, usize); 8] = [
        ("COMMIT -> received p50, ms", |l| Some(l.run.commit_to_receipt.p50), 2),
        ("p90", |l| Some(l.run.commit_to_receipt.p90), 2),
        ("p99", |l| Some(l.run.commit_to_receipt.p99), 2),
        ("p99.9", |l| Some(l.run.commit_to_receipt.p999), 2),
        ("due -> received p99", |l| Some(l.run.due_to_receipt.p99), 2),
        ("relay CPU, cores", |l| Some(l.run.relay_cores), 3),
        ("broker CPU, cores", |l| Some(l.run.broker_cores), 3),
        ("peak resident memory, MiB", |l| Some(l.run.relay_memory_peak_bytes? as f64 / MIB), 0),
    ];
    let mut text = "One event a transaction at fixed times, late or not; median (min-max).\n".to_owned();
    for rate in rates {
        let mut table = Table::new(&format!("{rate} tx/s"), arms);
        for (what, get, decimals) in figures {
            let of = |arm: &Arm| {
                let of_arm = runs.iter().filter(|run| run.arm == *arm && run.run.rate == *rate);
                cell(of_arm.map(get), 1.0, decimals)
            };
            table.row(what, arms.iter().map(of));
        }
        text += &format!("\n{}", table.text);
    }
    text
}

/// One bar an arm and rate.
pub(super) fn latency_bars(runs: &[Latency], arms: &[Arm], rates: &[u32]) -> Vec<Bar> {
    let of_rate = |rate: u32| {
        let of_arm = move |arm: Arm| {
            let those = runs.iter().filter(|run| run.arm == arm && run.run.rate == rate);
            those.map(|run| run.run.commit_to_receipt.p99).collect()
        };
        spreads(arms, of_arm).into_iter().map(move |(name, spread)| (format!("{name}, {rate}/s"), spread))
    };
    rates.iter().copied().flat_map(of_rate).collect()
}

/// `idle`.
pub(super) fn idle(runs: &[Idle], arms: &[Arm], seconds: u32) -> String {
    let figures: [(&str, Get<Idle>, f64, usize); 5] = [
        ("start -> first event, which was waiting, s", |i| Some(i.first_seconds), 1.0, 2),
        ("relay CPU, % of a core", |i| Some(i.relay_cores), 0.01, 2),
        ("walsender CPU, % of a core", |i| Some(i.walsender_cores), 0.01, 2),
        ("broker CPU, % of a core", |i| Some(i.broker_cores), 0.01, 2),
        ("resident memory, MiB", |i| Some(i.memory_bytes? as f64), MIB, 1),
    ];
    let mut table = Table::new("", arms);
    for (what, get, unit, decimals) in figures {
        let of = |arm: &Arm| cell(runs.iter().filter(|run| run.arm == *arm).map(get), unit, decimals);
        table.row(what, arms.iter().map(of));
    }
    format!("Nothing to do for {seconds} s after one event; median (min-max).\n\n{}", table.text)
}

/// One bar an arm.
pub(super) fn idle_bars(runs: &[Idle], arms: &[Arm]) -> Vec<Bar> {
    spreads(arms, |arm| runs.iter().filter(|run| run.arm == arm).map(|run| run.relay_cores * 100.0).collect())
}

fn spreads(arms: &[Arm], of: impl Fn(Arm) -> Vec<f64>) -> Vec<Bar> {
    arms.iter().filter_map(|arm| Some((arm.name(), Spread::of(of(*arm))?))).collect()
}
