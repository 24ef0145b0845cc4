//! A fixed rate, and nothing at all, through one lane.
//!
//! A lane is ready when one event has gone through it: no peer is believed to stream because it says so. Must never
//! count what happened before that.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Serialize;

use super::arm::Arm;
use super::lane::{Lane, Running};
use crate::costs::Watch;
use crate::latency::{self, WRITERS, Window};
use crate::load::Schedule;
use crate::process;
use crate::servers::{DATABASE, Servers};
use crate::stream::Stream;

/// How long a lane may take to deliver its first event; the slowest is known to rest for a minute first.
const READY_MAX: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// An event whose id is not that of a row: it is not counted.
const FIRST: &str = "INSERT INTO outbox VALUES ('ffffffff-0000-0000-0000-000000000001', 'order', 'order-0', \
                     'OrderPlaced', '{}')";

/// One run at one rate.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Latency {
    pub(super) arm: Arm,
    pub(super) round: u32,
    pub(super) run: latency::Run,
}

/// One run with nothing to do.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Idle {
    pub(super) arm: Arm,
    pub(super) round: u32,
    /// Process start to the first event, which was waiting.
    pub(super) first_seconds: f64,
    pub(super) relay_cores: f64,
    pub(super) walsender_cores: f64,
    pub(super) broker_cores: f64,
    pub(super) memory_bytes: Option<u64>,
}

/// COMMIT to receipt at a fixed rate.
pub(super) fn latency(
    servers: &Servers,
    lane: &Lane,
    rate: u32,
    warm_up: u32,
    seconds: u32,
) -> anyhow::Result<latency::Run> {
    let (mut running, _) = ready(servers, lane)?;
    let warm_up = u64::from(rate * warm_up);
    let count = warm_up + u64::from(rate * seconds);
    let stream = Stream::new(Schedule { start: Instant::now(), rate: f64::from(rate), count });
    let url = servers.postgres.superuser_url(DATABASE);
    let mut watch = Watch::start(servers, running.pid(), &lane.slot, running.started);
    let window = stream.run(&url, WRITERS, &lane.destination, |stream| {
        let until = |n: u64| sleep(stream.schedule.intended(n).saturating_duration_since(Instant::now()));
        until(warm_up);
        let before = watch.look();
        until(stream.schedule.count);
        Ok(Window { costs: watch.look().since(before), commits: None })
    })?;
    let memory_peak = process::memory_peak(running.pid());
    let stayed = !running.tend()? && running.restarts == 0;
    ensure!(stayed, "{} ended during the run:\n{}", lane.arm, lane.last_words());
    let run = latency::evaluate(&stream, rate, warm_up, &window, memory_peak)?;
    running.stop()?;
    lane.clear(servers)?;
    Ok(run)
}

/// CPU and memory at rest.
pub(super) fn idle(
    servers: &Servers,
    lane: &Lane,
    round: u32,
    warm_up: u32,
    seconds: u32,
) -> anyhow::Result<Idle> {
    let (running, first) = ready(servers, lane)?;
    sleep(Duration::from_secs(warm_up.into()));
    let mut watch = Watch::start(servers, running.pid(), &lane.slot, running.started);
    let before = watch.look();
    sleep(Duration::from_secs(seconds.into()));
    let used = watch.look().since(before);
    let memory_bytes = process::memory_now(running.pid());
    running.stop()?;
    lane.clear(servers)?;
    Ok(Idle {
        arm: lane.arm,
        round,
        first_seconds: first.as_secs_f64(),
        relay_cores: used.cores(used.client),
        walsender_cores: used.cores(used.walsender),
        broker_cores: used.cores(used.broker),
        memory_bytes,
    })
}

/// Starts a lane with one event waiting, and waits until that has arrived; gives how long it took.
fn ready<'a>(servers: &Servers, lane: &'a Lane) -> anyhow::Result<(Running<'a>, Duration)> {
    servers.sql("TRUNCATE outbox")?;
    servers.sql(FIRST)?;
    servers.sql("CHECKPOINT")?;
    let offsets = lane.destination.watch()?;
    let mut running = lane.start()?;
    while offsets.get()?.iter().sum::<i64>() == 0 {
        running.tend()?;
        let taken = running.started.elapsed();
        ensure!(taken < READY_MAX, "{} delivers nothing:\n{}", lane.arm, lane.last_words());
        sleep(LOOK_EVERY);
    }
    let taken = running.started.elapsed();
    Ok((running, taken))
}
