//! Waiting. Must never wait without a deadline.

use std::time::{Duration, Instant};

/// How often is looked: short beside everything that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until there is an answer; gives it with the time it took.
///
/// # Panics
/// Where there is none within the limit.
pub(crate) fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> (T, Duration) {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return (found, started.elapsed());
        }
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}
