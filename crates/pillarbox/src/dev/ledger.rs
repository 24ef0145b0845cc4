//! What the sample shop committed and what a consumer saw: compared as it goes.
//!
//! ```text
//! shop: committed, rolled back  ->  ledger  <-  seen: consumer
//! ```
//! Finds loss, duplicates, ghosts (events of rolled-back transactions), gaps in the sequence and
//! order that is not commit order. Pure: clocks are inputs; bounded in memory.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use pillarbox_wire::header::PbPos;
use pillarbox_wire::position::Position;

/// Events committed and not yet seen, at most: beyond, the shop waits for the relay.
pub(super) const UNSEEN_MAX: usize = 100_000;

/// Ids remembered to recognise a second sighting or a rolled-back event.
const REMEMBERED_MAX: usize = 200_000;

/// Seconds over which rate and percentiles are taken: steady to read, quick to react.
const WINDOW_SECONDS: usize = 5;

/// A commit may return to the shop after the consumer saw the event; an id that stays unknown for
/// longer was written by somebody else.
const EARLY_MAX: Duration = Duration::from_secs(10);

/// Longest latency told apart, in microseconds.
const LATENCY_MICROS_MAX: u64 = 600_000_000;

/// An event id: the 16 bytes of its UUID.
pub(super) type Id = u128;

/// Sums since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) committed: u64,
    pub(super) rolled_back: u64,
    pub(super) seen: u64,
    /// Seen, but written by somebody else: psql, another program.
    pub(super) foreign: u64,
    pub(super) duplicated: u64,
    pub(super) ghosts: u64,
    pub(super) reordered: u64,
    pub(super) gaps: u64,
}

impl Totals {
    /// Violations of the guarantee, loss aside: that is known only at the end.
    pub(super) fn violations(&self) -> u64 {
        self.duplicated + self.ghosts + self.reordered + self.gaps
    }
}

/// Rate and latency of the last seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Pace {
    pub(super) events_per_second: f64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

/// A sighting, as far as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) position: String,
}

/// Both sides of the comparison.
pub(super) struct Ledger {
    totals: Totals,
    unseen: HashMap<Id, Instant>,
    early: HashMap<Id, Instant>,
    rolled_back: Remembered,
    seen: Remembered,
    last: BTreeMap<i32, (Position, u64)>,
    window: VecDeque<Second>,
    recent: VecDeque<Sighting>,
}

struct Second {
    events: u64,
    latency: Histogram<u32>,
}

impl Second {
    fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).expect("legal bounds");
        Self { events: 0, latency }
    }
}

/// The last ids, oldest out first.
#[derive(Default)]
struct Remembered {
    order: VecDeque<Id>,
    ids: HashSet<Id>,
}

impl Remembered {
    /// False if it was there already.
    fn insert(&mut self, id: Id) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

/// Sightings shown on the screen.
const RECENT_MAX: usize = 6;

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            totals: Totals::default(),
            unseen: HashMap::new(),
            early: HashMap::new(),
            rolled_back: Remembered::default(),
            seen: Remembered::default(),
            last: BTreeMap::new(),
            window: VecDeque::from([Second::new()]),
            recent: VecDeque::new(),
        }
    }

    /// COMMIT returned to the shop.
    pub(super) fn committed(&mut self, id: Id, at: Instant) {
        self.totals.committed += 1;
        match self.early.remove(&id) {
            // Seen before COMMIT returned: no time passed that anybody could have used.
            Some(_) => self.arrived(Duration::ZERO),
            None => drop(self.unseen.insert(id, at)),
        }
    }

    /// The shop is about to roll back, or did.
    pub(super) fn rolled_back(&mut self, id: Id) {
        self.totals.rolled_back += 1;
        self.rolled_back.insert(id);
        if self.early.remove(&id).is_some() {
            self.totals.ghosts += 1;
        }
    }

    /// The consumer got a record with this id and `pb-pos`.
    pub(super) fn seen(
        &mut self,
        partition: i32,
        offset: i64,
        id: Option<Id>,
        pos: Option<PbPos<'_>>,
        at: Instant,
    ) {
        self.window.back_mut().expect("a current second").events += 1;
        self.totals.seen += 1;
        if let Some(pos) = &pos {
            self.in_order(partition, pos);
        }
        self.recent.push_front(Sighting {
            partition,
            offset,
            position: pos.map_or_else(|| "-".to_owned(), |pos| pos.position.to_string()),
        });
        self.recent.truncate(RECENT_MAX);
        let Some(id) = id else {
            self.totals.foreign += 1;
            return;
        };
        if !self.seen.insert(id) {
            self.totals.duplicated += 1;
        } else if self.rolled_back.ids.contains(&id) {
            self.totals.ghosts += 1;
        } else if let Some(committed) = self.unseen.remove(&id) {
            self.arrived(at.saturating_duration_since(committed));
        } else {
            self.early.insert(id, at);
        }
    }

    fn in_order(&mut self, partition: i32, pos: &PbPos<'_>) {
        let sequence = pos.sequence.0;
        if let Some((last_position, last_sequence)) = self.last.insert(partition, (pos.position, sequence)) {
            if pos.position <= last_position {
                self.totals.reordered += 1;
            } else if sequence != last_sequence + 1 {
                self.totals.gaps += 1;
            }
        }
    }

    fn arrived(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).clamp(1, LATENCY_MICROS_MAX);
        self.window.back_mut().expect("a current second").latency.saturating_record(micros);
    }

    /// Begins a new second; gives the pace of the last ones.
    pub(super) fn tick(&mut self, now: Instant) -> Pace {
        let foreign = |seen: &Instant| now.saturating_duration_since(*seen) > EARLY_MAX;
        let before = self.early.len();
        self.early.retain(|_, seen| !foreign(seen));
        self.totals.foreign += (before - self.early.len()) as u64;
        let pace = self.pace();
        self.window.push_back(Second::new());
        if self.window.len() > WINDOW_SECONDS {
            self.window.pop_front();
        }
        pace
    }

    fn pace(&self) -> Pace {
        let mut all = Second::new();
        for second in &self.window {
            all.events += second.events;
            all.latency.add(&second.latency).expect("the same bounds");
        }
        let at = |quantile| Duration::from_micros(all.latency.value_at_quantile(quantile));
        let (p50, p99) = if all.latency.is_empty() { Default::default() } else { (at(0.5), at(0.99)) };
        Pace { events_per_second: all.events as f64 / self.window.len() as f64, p50, p99 }
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Committed and not yet seen.
    pub(super) fn unseen(&self) -> usize {
        self.unseen.len()
    }

    /// The last sightings, newest first.
    pub(super) fn recent(&self) -> Vec<Sighting> {
        self.recent.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        ledger: Ledger,
        start: Instant,
    }

    impl Case {
        fn new() -> Self {
            Self { ledger: Ledger::new(), start: Instant::now() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn see(&mut self, partition: i32, id: Id, commit: u32, sequence: u64, ms: u64) {
            let text = format!("dev:00000001{commit:016x}00000000:{sequence}");
            let at = self.at(ms);
            self.ledger.seen(partition, 0, Some(id), Some(PbPos::parse(&text).unwrap()), at);
        }
    }

    #[test]
    fn a_clean_history() {
        let mut case = Case::new();
        for n in 1..=100_u32 {
            case.ledger.committed(Id::from(n), case.at(0));
            case.see(0, Id::from(n), n, u64::from(n), if n == 100 { 9 } else { 2 });
        }
        let totals = case.ledger.totals();
        assert_eq!((totals.committed, totals.seen, totals.violations(), totals.foreign), (100, 100, 0, 0));
        assert_eq!(case.ledger.unseen(), 0);
        let pace = case.ledger.tick(case.at(1000));
        assert_eq!(pace.events_per_second as u64, 100);
        assert!(pace.p50.as_micros().abs_diff(2000) < 10 && pace.p99.as_micros() < 9100, "{pace:?}");
    }

    #[test]
    fn each_planted_fault_is_found() {
        let found = |plant: fn(&mut Case)| {
            let mut case = Case::new();
            case.see(0, 1, 1, 1, 0);
            plant(&mut case);
            let Totals { duplicated, ghosts, reordered, gaps, .. } = case.ledger.totals();
            (duplicated, ghosts, reordered, gaps)
        };
        assert_eq!(found(|_| {}), (0, 0, 0, 0));
        assert_eq!(found(|case| case.see(1, 2, 1, 5, 0)), (0, 0, 0, 0), "another partition");
        assert_eq!(found(|case| case.see(0, 1, 2, 2, 0)), (1, 0, 0, 0));
        assert_eq!(found(|case| case.see(0, 2, 1, 2, 0)), (0, 0, 1, 0));
        assert_eq!(found(|case| case.see(0, 2, 2, 3, 0)), (0, 0, 0, 1));
        let ghost_after = |case: &mut Case| {
            case.ledger.rolled_back(2);
            case.see(0, 2, 2, 2, 0);
        };
        assert_eq!(found(ghost_after), (0, 1, 0, 0));
        assert_eq!(found(|case| case.ledger.rolled_back(1)), (0, 1, 0, 0), "seen before the rollback");
    }

    #[test]
    fn what_was_never_seen_is_left() {
        let mut case = Case::new();
        case.ledger.committed(1, case.at(0));
        assert_eq!(case.ledger.unseen(), 1);
    }

    #[test]
    fn seen_before_commit_returned_or_written_by_somebody_else() {
        let mut case = Case::new();
        case.see(0, 1, 1, 1, 0);
        case.see(0, 2, 2, 2, 0);
        case.ledger.committed(1, case.at(1));
        case.ledger.tick(case.at(11_000));
        let totals = case.ledger.totals();
        assert_eq!((totals.foreign, totals.violations(), case.ledger.unseen()), (1, 0, 0));
    }
}
