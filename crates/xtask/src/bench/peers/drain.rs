//! A backlog through one lane, with or without a kill -9 on the way.
//!
//! ```text
//! CHECKPOINT -> start -> look every 20 ms (end offsets, CPU, memory) -> [a third visible: kill -9, start]
//!            -> quiet -> read back: all there? done : look on -> stop -> slot and topic dropped
//! ```
//! Loss is called loss only after [`LOST_AFTER`] without a movement. Must never time the reading back.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::arm::Arm;
use super::lane::{Lane, Running};
use crate::costs::{Costs, Watch};
use crate::destination::{Contents, EndOffsets, Progress};
use crate::servers::Servers;
use crate::{baseline, process};

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Nothing more arrives for now: time to read back. Longer than a last page that is not full waits in any arm, which is a
/// second: what comes while the topic is read is not timed.
const QUIET: Duration = Duration::from_secs(4);
/// Longer than any peer is known to pause by design, which is a minute.
const LOST_AFTER: Duration = Duration::from_secs(120);
const DRAIN_MAX: Duration = Duration::from_secs(1200);

/// One drain by one arm.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    pub(super) arm: Arm,
    pub(super) round: u32,
    /// Process start to the last event.
    pub(super) seconds: f64,
    /// Process start to the first event.
    pub(super) first_seconds: Option<f64>,
    /// Events a second from the process start on, from the first event on, and over the second half alone.
    pub(super) rate: f64,
    pub(super) rate_from_first: Option<f64>,
    pub(super) rate_second_half: Option<f64>,
    /// CPU, the start of the process included; none where a kill makes two processes of one.
    pub(super) costs: Option<PerEvent>,
    pub(super) memory_peak_bytes: Option<u64>,
    pub(super) restarts: u32,
    pub(super) kill: Option<Kill>,
    pub(super) contents: Option<Contents>,
    /// CPU of others during the run, in cores.
    pub(super) foreign_cores: f64,
}

/// CPU in microseconds an event.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct PerEvent {
    pub(super) client: f64,
    pub(super) walsender: f64,
    pub(super) broker: Option<f64>,
}

/// A kill -9 with an immediate restart.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Kill {
    /// The share of the backlog that was visible.
    pub(super) after_share: f64,
    pub(super) seconds_to_next: Option<f64>,
}

impl Run {
    /// The same figures of `pg_recvlogical`.
    pub(super) fn of_baseline(round: u32, run: &baseline::Run, rows: u64) -> Run {
        let us = |seconds: f64| seconds * 1e6 / rows as f64;
        Run {
            arm: Arm::PgRecvlogical,
            round,
            seconds: run.seconds,
            first_seconds: None,
            rate: run.rate,
            rate_from_first: None,
            rate_second_half: None,
            costs: Some(PerEvent {
                client: us(run.client_cpu_s),
                walsender: us(run.walsender_cpu_s),
                broker: None,
            }),
            memory_peak_bytes: None,
            restarts: 0,
            kill: None,
            contents: None,
            foreign_cores: run.foreign_cores,
        }
    }

    /// One line for who watches the bench.
    pub(super) fn summary(&self) -> String {
        let Run { arm, seconds, rate, .. } = self;
        let found = self.contents.as_ref().map_or_else(String::new, |contents| {
            let Contents { missing, duplicates, reordered, .. } = contents;
            format!(", {missing} lost, {duplicates} duplicates, {reordered} behind a later one")
        });
        format!("{arm}: {rate:.0} events/s, {seconds:.1} s{found}")
    }
}

/// What was seen of a run.
struct Seen<'a> {
    servers: &'a Servers,
    lane: &'a Lane,
    offsets: EndOffsets,
    progress: Progress,
    looks: Vec<(Instant, Costs)>,
    moved: Instant,
    memory_peak: Option<u64>,
}

impl Seen<'_> {
    /// One look; true if something arrived.
    fn look(&mut self, watch: &mut Watch<'_>, pid: u32) -> anyhow::Result<bool> {
        std::thread::sleep(LOOK_EVERY);
        let (at, costs) = (Instant::now(), watch.look());
        let moved = self.progress.add(at, self.offsets.get()?);
        if moved {
            self.moved = at;
        }
        self.looks.push((at, costs));
        self.memory_peak = self.memory_peak.max(process::memory_peak(pid));
        Ok(moved)
    }

    /// Watches until `enough` offsets are taken and nothing moves; starts again what ends.
    fn watch(&mut self, running: &mut Running<'_>, enough: i64, quiet: Duration) -> anyhow::Result<()> {
        let mut watch = Watch::start(self.servers, running.pid(), &self.lane.slot, running.started);
        while self.progress.total() < enough || self.moved.elapsed() < quiet {
            if running.tend()? {
                watch = Watch::start(self.servers, running.pid(), &self.lane.slot, running.started);
            }
            self.look(&mut watch, running.pid())?;
            let stuck = running.started.elapsed() > DRAIN_MAX
                || self.moved.max(running.started).elapsed() > LOST_AFTER;
            ensure!(!stuck, "{} does not get on:\n{}", self.lane.arm, self.lane.last_words());
        }
        Ok(())
    }
}

/// Drains the backlog of rows 0..rows and the one behind it through a lane, then clears the lane.
pub(super) fn run(servers: &Servers, lane: &Lane, round: u32, rows: u64, kill: bool) -> anyhow::Result<Run> {
    servers.sql("CHECKPOINT")?;
    let offsets = lane.destination.watch()?;
    let mut progress = Progress::default();
    progress.add(Instant::now(), offsets.get()?);
    let mut running = lane.start()?;
    let started = running.started;
    let mut seen =
        Seen { servers, lane, offsets, progress, looks: Vec::new(), moved: started, memory_peak: None };
    let all = i64::try_from(rows + 1)?;
    let killed = if kill { Some(kill_at(&mut seen, &mut running, all / 3)?) } else { None };
    seen.watch(&mut running, all, QUIET)?;
    let contents = read_back(&mut seen, &mut running, rows + 1)?;
    let restarts = running.restarts;
    running.stop()?;
    lane.clear(servers)?;
    if lane.arm.is_pillarbox() {
        contents.ensure_exact()?;
    }
    let mut run = evaluate(lane.arm, round, rows, started, &seen, contents)?;
    (run.kill, run.restarts) = (killed.map(|killed| killed.evaluate(&seen.progress, rows)), restarts);
    if kill || restarts > 0 {
        run.costs = None;
    }
    Ok(run)
}

/// Reads the topic; while events are missing and still arrive, watches on and reads again.
fn read_back(seen: &mut Seen<'_>, running: &mut Running<'_>, rows: u64) -> anyhow::Result<Contents> {
    loop {
        let contents = seen.lane.destination.read(rows)?;
        if contents.missing == 0 {
            return Ok(contents);
        }
        let mut watch = Watch::start(seen.servers, running.pid(), &seen.lane.slot, running.started);
        let waiting = Instant::now();
        let mut moved = false;
        while !moved && waiting.elapsed() < LOST_AFTER {
            running.tend()?;
            moved = seen.look(&mut watch, running.pid())?;
        }
        if !moved {
            return Ok(contents);
        }
        seen.watch(running, 0, QUIET)?;
    }
}

/// A kill, and what was there when it happened.
struct Killed {
    at: Instant,
    visible: i64,
}

fn kill_at(seen: &mut Seen<'_>, running: &mut Running<'_>, share: i64) -> anyhow::Result<Killed> {
    seen.watch(running, share.max(1), Duration::ZERO)?;
    let at = running.kill_and_start()?;
    // What the broker took before the kill may become visible only now.
    seen.progress.add(Instant::now(), seen.offsets.get()?);
    Ok(Killed { at, visible: seen.progress.total() })
}

impl Killed {
    fn evaluate(&self, progress: &Progress, rows: u64) -> Kill {
        let next = progress.when(self.visible + 1);
        Kill {
            after_share: self.visible as f64 / rows as f64,
            seconds_to_next: next.map(|(at, _)| (at - self.at).as_secs_f64()),
        }
    }
}

fn evaluate(
    arm: Arm,
    round: u32,
    rows: u64,
    started: Instant,
    seen: &Seen<'_>,
    contents: Contents,
) -> anyhow::Result<Run> {
    let progress = &seen.progress;
    let complete = progress.complete(&contents.ranges).context("the end was not seen")?;
    let (first, visible) = progress.first().context("the first event was not seen")?;
    let (_, costs) = *seen.looks.iter().find(|(at, _)| *at >= complete).context("no look at the end")?;
    // Offsets hold transaction markers too: events are counted as their share, taken to be even.
    let total = progress.total();
    let after = |(from, before): (Instant, i64)| {
        let seconds = complete.saturating_duration_since(from).as_secs_f64();
        (seconds > 0.0).then(|| rows as f64 * (total - before) as f64 / total as f64 / seconds)
    };
    let us = |part: Duration| part.as_secs_f64() * 1e6 / rows as f64;
    let seconds = (complete - started).as_secs_f64();
    Ok(Run {
        arm,
        round,
        seconds,
        first_seconds: Some((first - started).as_secs_f64()),
        rate: rows as f64 / seconds,
        rate_from_first: after((first, visible)),
        rate_second_half: progress.when(total / 2).and_then(after),
        costs: Some(PerEvent {
            client: us(costs.client),
            walsender: us(costs.walsender),
            broker: Some(us(costs.broker)),
        }),
        memory_peak_bytes: seen.memory_peak,
        restarts: 0,
        kill: None,
        contents: Some(contents),
        foreign_cores: costs.cores(costs.foreign),
    })
}
