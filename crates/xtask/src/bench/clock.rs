//! Times of many events, noted by several threads without a lock, and a flag that lets a thread end. Must never note an
//! event twice: the first time counts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When each of the events 0..count happened, in nanoseconds after a common start.
#[derive(Debug)]
pub(crate) struct Times {
    start: Instant,
    nanoseconds: Vec<AtomicU64>,
}

/// An event that has not happened.
const NEVER: u64 = u64::MAX;

impl Times {
    pub(crate) fn new(start: Instant, count: u64) -> Times {
        Times { start, nanoseconds: (0..count).map(|_| AtomicU64::new(NEVER)).collect() }
    }

    /// Notes that an event happened now. False if it already had: it was seen twice.
    pub(crate) fn note(&self, n: u64) -> bool {
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(NEVER - 1);
        let Some(slot) = usize::try_from(n).ok().and_then(|n| self.nanoseconds.get(n)) else { return false };
        slot.compare_exchange(NEVER, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// When an event happened, after the common start.
    pub(crate) fn get(&self, n: u64) -> Option<Duration> {
        let slot = self.nanoseconds.get(usize::try_from(n).ok()?)?;
        Some(slot.load(Ordering::Relaxed)).filter(|at| *at != NEVER).map(Duration::from_nanos)
    }
}

/// Lowers a flag when dropped, by a panic too: whoever works as long as it is up then ends, and can be joined.
#[derive(Debug)]
pub(crate) struct Lower<'a>(pub(crate) &'a AtomicBool);

impl Drop for Lower<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_counts() {
        let times = Times::new(Instant::now(), 2);
        assert_eq!(times.get(1), None);
        assert!(times.note(1));
        let first = times.get(1);
        assert!(first.is_some());
        assert!(!times.note(1), "a duplicate is told");
        assert_eq!(times.get(1), first);
        assert!(!times.note(2), "out of range is not an event of ours");
    }
}
