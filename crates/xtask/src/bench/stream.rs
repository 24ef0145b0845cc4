//! A load on schedule and a reader that notes receipts, both beside whatever a bench does meanwhile.
//!
//! ```text
//! writer threads --rows at their intended times--> Postgres -> relay -> Kafka --> reader thread
//!       └ commits: when COMMIT returned                             receipts: when received ┘
//! ```
//! Must never let one slow commit delay the rows after it by design: each is due at its own time, late or not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{ScopedJoinHandle, scope, sleep};
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::clock::{Lower, Times};
use crate::destination::Destination;
use crate::load::{Schedule, Writer};

/// How long the last rows may take to arrive.
const ARRIVE_MAX: Duration = Duration::from_secs(30);
/// How often arrival is looked at; the times themselves come from the reader.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What happened to the rows.
pub(crate) struct Stream {
    pub(crate) schedule: Schedule,
    pub(crate) commits: Times,
    pub(crate) receipts: Times,
    writing: AtomicBool,
}

impl Stream {
    pub(crate) fn new(schedule: Schedule) -> Stream {
        let times = || Times::new(schedule.start, schedule.count);
        Stream { schedule, commits: times(), receipts: times(), writing: AtomicBool::new(true) }
    }

    /// Runs the load and the reader while `meanwhile` runs, then waits for all that was committed to arrive. Gives what
    /// `meanwhile` gave.
    pub(crate) fn run<R>(
        &self,
        url: &str,
        writers: usize,
        destination: &Destination,
        meanwhile: impl FnOnce(&Stream) -> anyhow::Result<R>,
    ) -> anyhow::Result<R> {
        let connected = (0..writers).map(|_| Writer::connect(url)).collect::<anyhow::Result<Vec<_>>>()?;
        let reading = AtomicBool::new(true);
        scope(|scope| {
            let reader = scope.spawn(|| destination.tail(&self.receipts, &reading));
            let write = |(i, writer): (usize, Writer)| scope.spawn(move || self.follow(&writer, i, writers));
            let writing: Vec<_> = connected.into_iter().enumerate().map(write).collect();
            let (reading, write_on) = (Lower(&reading), Lower(&self.writing));
            let result = meanwhile(self);
            drop(write_on);
            let written = writing.into_iter().try_for_each(join);
            let arrived = if result.is_ok() { self.wait_arrived() } else { Ok(()) };
            drop(reading);
            let twice = join(reader);
            let value = result?;
            written?;
            arrived?;
            ensure!(twice? == 0, "rows were received twice");
            Ok(value)
        })
    }

    fn follow(&self, writer: &Writer, index: usize, step: usize) -> anyhow::Result<()> {
        for n in (index as u64..self.schedule.count).step_by(step) {
            sleep(self.schedule.intended(n).saturating_duration_since(Instant::now()));
            if !self.writing.load(Ordering::Relaxed) {
                break;
            }
            writer.write(n)?;
            self.commits.note(n);
        }
        Ok(())
    }

    fn wait_arrived(&self) -> anyhow::Result<()> {
        let waiting = Instant::now();
        for n in 0..self.schedule.count {
            while self.commits.get(n).is_some() && self.receipts.get(n).is_none() {
                ensure!(waiting.elapsed() < ARRIVE_MAX, "row {n} was committed, but has not arrived");
                sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }
}

fn join<T>(handle: ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
