//! What a run has to say: how often each step was struck, and how long the next life needed to stream.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use pillarbox_failpoint::Step;

/// Deaths at one step.
#[derive(Debug, Default)]
struct Deaths {
    count: u64,
    /// From the death until the next life streamed, where that life came so far.
    recoveries: Vec<Duration>,
}

/// What happened at each step.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    steps: BTreeMap<Step, Deaths>,
    /// Brokers that died with a relay.
    pub(crate) broker_kills: u64,
    /// Crashes of Postgres with a relay.
    pub(crate) postgres_crashes: u64,
    /// Events that were compared, one by one.
    pub(crate) events: u64,
}

impl Figures {
    /// A relay died at this step.
    pub(crate) fn died(&mut self, step: Step) {
        self.steps.entry(step).or_default().count += 1;
    }

    /// The next one streamed so long after that.
    pub(crate) fn recovered(&mut self, step: Step, took: Duration) {
        self.steps.entry(step).or_default().recoveries.push(took);
    }

    /// How often relays died at this step.
    pub(crate) fn count(&self, step: Step) -> u64 {
        self.steps.get(&step).map_or(0, |deaths| deaths.count)
    }

    /// How many relays died.
    pub(crate) fn total(&self) -> u64 {
        self.steps.values().map(|deaths| deaths.count).sum()
    }

    /// Adds those of another site.
    pub(crate) fn add(&mut self, other: Figures) {
        for (step, deaths) in other.steps {
            let mine = self.steps.entry(step).or_default();
            mine.count += deaths.count;
            mine.recoveries.extend(deaths.recoveries);
        }
        self.broker_kills += other.broker_kills;
        self.postgres_crashes += other.postgres_crashes;
        self.events += other.events;
    }
}

fn median(times: &[Duration]) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

fn milliseconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| time.as_millis().to_string())
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<22} {:>6} {:>20}", "died at", "times", "streams again, ms")?;
        let mut all = Vec::new();
        for (step, Deaths { count, recoveries }) in &self.steps {
            writeln!(f, "{:<22} {count:>6} {:>20}", step.name(), milliseconds(median(recoveries)))?;
            all.extend_from_slice(recoveries);
        }
        let total = self.total();
        let (middle, longest) = (milliseconds(median(&all)), milliseconds(all.iter().max().copied()));
        writeln!(f, "{:<22} {total:>6} {middle:>20} (longest {longest})", "all")?;
        let Self { broker_kills, postgres_crashes, events, .. } = self;
        writeln!(
            f,
            "{broker_kills} brokers and {postgres_crashes} Postgres servers died with a relay; {events} events compared"
        )
    }
}
