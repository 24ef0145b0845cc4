//! When to seal a set: one rule from idle to backlog, no knob.
//!
//! A Kafka commit costs the broker about 0.8 ms of CPU, an event almost nothing; and the walsender
//! pays for every wake-up of the reader. So:
//!
//! | stream | set is sealed | reader |
//! | --- | --- | --- |
//! | idle: nothing sealed for the spacing | at once | wakes for every message |
//! | busy | the spacing after the last one | sleeps until then, and reads what came ([`Rest::Gather`]) |
//! | busy, the sink is behind | once it is not | wakes for every message |
//! | backlog ([`Heat`]) | when full, after [`FILL_TIME_MAX`] at the latest | empties the socket, then pauses ([`HotPause`]) |
//!
//! The spacing is 1.5 times what a commit takes of late, from seal to answer, within [`SPACING_MIN`] and
//! [`SPACING_MAX`]: a broker that answers fast is asked often, one that is slow, far away or busy with others
//! is asked rarely, and gets more events each time. More than once, so that it rests between them: where a
//! commit is always under way it takes longer, on cores that it shares, and more so the slowest of a hundred.
//!
//! Always at a boundary of source transactions. Pure: time is an input. An empty read is not
//! idleness (a fast reader finds nothing after almost every message): only bytes over time count. A
//! rate alone depends on the machine, so age counts too: the server stamps each frame with its clock,
//! and a transaction that is sent long after it committed, by that same clock, is a backlog.

use std::collections::VecDeque;
use std::time::Duration;

use crate::source::{LOOPBACK_BUFFER, Way};

/// The least spacing, however fast the broker is: its CPU is not the relay's to burn.
pub const SPACING_MIN: Duration = Duration::from_micros(1500);
/// The greatest spacing, and so what pacing adds to the latency of an event at most.
pub const SPACING_MAX: Duration = Duration::from_millis(10);
/// The spacing, in what commits take of late.
const SPACING_COMMITS: f64 = 1.5;
/// How much the latest commit counts in what commits take of late.
const LATEST: f64 = 0.125;
/// In a backlog a set is sealed this long after its first event, full or not.
pub const FILL_TIME_MAX: Duration = Duration::from_millis(50);
/// A stream above this rate is a backlog, whatever its age.
pub const HOT_BYTES_PER_SECOND: u64 = 20_000_000;
/// A stream above this rate is a backlog if it is old: a trickle is never one.
pub const HOT_BYTES_PER_SECOND_BEHIND: u64 = 2_000_000;
/// A transaction sent this long after its commit is old.
pub const BEHIND_MIN: Duration = Duration::from_millis(100);
/// The rate is taken over at least this long.
const HOT_WINDOW: Duration = Duration::from_millis(5);
/// An old stream cools only over this long.
const COOL_WINDOW: Duration = Duration::from_millis(50);
/// The reader's pause in a backlog, once it has read all that was there.
const HOT_PAUSE: Duration = Duration::from_millis(4);
/// The same on a Unix socket, which is full after some 170 rows, whatever their size.
const HOT_PAUSE_UNIX: Duration = Duration::from_micros(250);
/// The shortest pause on loopback, where it follows the rate.
const HOT_PAUSE_MIN: Duration = Duration::from_micros(250);
/// The longest one: what a slow server fills both buffers in, and a fraction of [`FILL_TIME_MAX`].
const HOT_PAUSE_MAX: Duration = Duration::from_millis(10);
/// What a pause on loopback is to bring: more than the receiver's buffer holds, and less than both buffers do, since a
/// walsender that finds them full sleeps.
const HOT_READ: usize = LOOPBACK_BUFFER / 2 * 3;
/// Sealed sets beyond this many wait for the sink; more events join the filling one meanwhile.
pub const SEALED_AHEAD_MAX: usize = 2;

/// Tells a backlog from live traffic by bytes over time and by age.
#[derive(Debug, Default)]
pub struct Heat {
    since: Duration,
    bytes: u64,
    behind: bool,
    hot: bool,
}

impl Heat {
    /// A transaction begins that was sent this long after its commit, both by the server's clock.
    pub fn begun(&mut self, age: Duration) {
        self.behind = age >= BEHIND_MIN;
    }

    /// `bytes` were read (0 for a look that found nothing).
    pub fn read(&mut self, bytes: usize, now: Duration) {
        self.bytes += bytes as u64;
        let window = now.saturating_sub(self.since);
        // A drain that Kafka or the server holds up for a moment is still one.
        if window < if self.hot && self.behind { COOL_WINDOW } else { HOT_WINDOW } {
            return;
        }
        let rate = if self.behind { HOT_BYTES_PER_SECOND_BEHIND } else { HOT_BYTES_PER_SECOND };
        self.hot = u128::from(self.bytes) * 1_000_000 > u128::from(rate) * window.as_micros();
        self.since = now;
        self.bytes = 0;
    }

    /// Whether the stream is a backlog.
    pub fn is_hot(&self) -> bool {
        self.hot
    }
}

/// The reader's pauses in a backlog: long enough that the socket fills up. What the walsender sends from then on the
/// kernel puts together into large segments; before, every row is one of its own, and costs both sides as much as the
/// row itself.
#[derive(Debug)]
pub struct HotPause {
    way: Way,
    read: usize,
    loopback: Duration,
}

impl HotPause {
    /// No pause was made yet.
    pub fn new(way: Way) -> Self {
        Self { way, read: 0, loopback: HOT_PAUSE_MIN }
    }

    /// So many bytes were read.
    pub fn read(&mut self, bytes: usize) {
        self.read = self.read.saturating_add(bytes);
    }

    /// How long to pause now, by what was read since the last pause.
    pub fn take(&mut self) -> Duration {
        let read = std::mem::take(&mut self.read);
        match self.way {
            Way::Unix => HOT_PAUSE_UNIX,
            Way::Network => HOT_PAUSE,
            Way::Loopback => {
                #[expect(clippy::cast_precision_loss, reason = "a ratio")]
                let ratio = HOT_READ as f64 / read.max(1) as f64;
                self.loopback =
                    self.loopback.mul_f64(ratio.clamp(0.5, 2.0)).clamp(HOT_PAUSE_MIN, HOT_PAUSE_MAX);
                self.loopback
            }
        }
    }
}

/// What is at hand when the pacer is asked.
#[derive(Debug, Clone, Copy)]
pub struct Filling {
    /// When the oldest unsealed thing came in; `None` = nothing to seal.
    pub since: Option<Duration>,
    /// Whether the set is full.
    pub full: bool,
    /// Sealed sets that are not committed yet.
    pub sealed: usize,
    /// Whether the stream is a backlog.
    pub hot: bool,
}

/// When to seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Now.
    Now,
    /// Not before this moment.
    At(Duration),
    /// After something else happens: an event, a commit.
    Later,
}

/// What the reader does once it has taken all that was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Sleeps until something comes or is due.
    Listen,
    /// Sleeps until something is due, then reads what came meanwhile: it goes out with what is there already. Not on a Unix
    /// socket, which is full long before.
    Gather,
    /// Pauses: [`HotPause`].
    Pause,
}

impl Rest {
    /// The rest of a reader that has nothing more at hand; `wants_frames` where it may take more.
    pub fn of(due: Due, hot: bool, wants_frames: bool, way: Way) -> Self {
        match due {
            _ if !wants_frames => Rest::Listen,
            _ if hot => Rest::Pause,
            Due::At(_) if way != Way::Unix => Rest::Gather,
            Due::At(_) | Due::Now | Due::Later => Rest::Listen,
        }
    }
}

/// Spaces the commits.
#[derive(Debug, Default)]
pub struct Pacer {
    last_seal: Option<Duration>,
    /// When the sets that are not committed yet were sealed, oldest first.
    sealed: VecDeque<Duration>,
    /// What commits take of late.
    commit: Option<Duration>,
}

impl Pacer {
    /// Whether a set at a transaction boundary is due.
    pub fn due(&self, filling: Filling, now: Duration) -> Due {
        let Some(since) = filling.since else { return Due::Later };
        if filling.full {
            return Due::Now;
        }
        if filling.sealed >= SEALED_AHEAD_MAX {
            return Due::Later;
        }
        let at = if filling.hot {
            since + FILL_TIME_MAX
        } else {
            self.last_seal.map_or(Duration::ZERO, |last| last + self.spacing())
        };
        if at <= now { Due::Now } else { Due::At(at) }
    }

    /// A set was sealed.
    pub fn sealed(&mut self, now: Duration) {
        self.last_seal = Some(now);
        self.sealed.push_back(now);
    }

    /// The oldest of the sealed sets was committed.
    pub fn committed(&mut self, now: Duration) {
        let Some(sealed) = self.sealed.pop_front() else { return };
        let took = now.saturating_sub(sealed);
        self.commit =
            Some(self.commit.map_or(took, |late| late.mul_f64(1.0 - LATEST) + took.mul_f64(LATEST)));
    }

    fn spacing(&self) -> Duration {
        self.commit.unwrap_or_default().mul_f64(SPACING_COMMITS).clamp(SPACING_MIN, SPACING_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn filling() -> Filling {
        Filling { since: Some(100 * MS), full: false, sealed: 0, hot: false }
    }

    #[test]
    fn the_rule_row_by_row() {
        let quiet = Pacer::default();
        let mut busy = Pacer::default();
        busy.sealed(100 * MS);
        for (name, pacer, filling, expected) in [
            ("nothing to seal", &quiet, Filling { since: None, ..filling() }, Due::Later),
            ("idle", &quiet, filling(), Due::Now),
            ("busy", &busy, filling(), Due::At(100 * MS + SPACING_MIN)),
            ("sink behind", &busy, Filling { sealed: SEALED_AHEAD_MAX, ..filling() }, Due::Later),
            ("full", &busy, Filling { full: true, sealed: 9, ..filling() }, Due::Now),
            ("backlog", &quiet, Filling { hot: true, ..filling() }, Due::At(100 * MS + FILL_TIME_MAX)),
        ] {
            assert_eq!(pacer.due(filling, 100 * MS), expected, "{name}");
        }
        assert_eq!(busy.due(filling(), 100 * MS + SPACING_MIN), Due::Now);
    }

    #[test]
    fn the_rest_row_by_row() {
        let (tcp, unix) = (Way::Loopback, Way::Unix);
        for (name, due, hot, wants_frames, way, expected) in [
            ("nothing is due", Due::Later, false, true, tcp, Rest::Listen),
            ("a set was sealed just now", Due::Now, false, true, tcp, Rest::Listen),
            ("busy", Due::At(MS), false, true, tcp, Rest::Gather),
            ("busy, over a network", Due::At(MS), false, true, Way::Network, Rest::Gather),
            ("busy, with little room", Due::At(MS), false, true, unix, Rest::Listen),
            ("backlog", Due::At(MS), true, true, tcp, Rest::Pause),
            ("backlog, inside a transaction", Due::Later, true, true, unix, Rest::Pause),
            ("paused", Due::At(MS), false, false, tcp, Rest::Listen),
            ("backlog, no room", Due::At(MS), true, false, tcp, Rest::Listen),
        ] {
            assert_eq!(Rest::of(due, hot, wants_frames, way), expected, "{name}");
        }
    }

    #[test]
    fn the_spacing_follows_what_commits_take() {
        let mut pacer = Pacer::default();
        let mut now = Duration::ZERO;
        let mut commits = |pacer: &mut Pacer, took: Duration| {
            for _ in 0..100 {
                pacer.sealed(now);
                now += took;
                pacer.committed(now);
            }
            pacer.spacing()
        };
        assert_eq!(commits(&mut pacer, MS / 2), SPACING_MIN);
        let spacing = commits(&mut pacer, 3 * MS);
        assert!(spacing > 4 * MS && 2 * spacing <= 9 * MS, "{spacing:?}");
        assert_eq!(commits(&mut pacer, 300 * MS), SPACING_MAX);
        assert_eq!(commits(&mut pacer, MS / 2), SPACING_MIN, "it recovers");
    }

    #[test]
    fn a_set_that_waits_behind_another_counts_from_its_own_seal() {
        let mut pacer = Pacer::default();
        pacer.sealed(Duration::ZERO);
        pacer.sealed(2 * MS);
        pacer.committed(4 * MS);
        pacer.committed(6 * MS);
        assert_eq!(pacer.spacing(), 6 * MS);
    }

    #[test]
    fn an_old_stream_is_a_backlog_at_a_lower_rate() {
        let mut heat = Heat::default();
        heat.read(0, 5 * MS);
        heat.begun(BEHIND_MIN);
        heat.read(50_000, 10 * MS);
        assert!(heat.is_hot(), "10 MB/s, behind");
        heat.read(0, 15 * MS);
        heat.read(0, 55 * MS);
        assert!(heat.is_hot(), "a stall of 45 ms does not cool it");
        heat.begun(MS);
        heat.read(50_000, 60 * MS);
        assert!(!heat.is_hot(), "1 MB/s, live");
        heat.begun(BEHIND_MIN);
        heat.read(5_000, 65 * MS);
        assert!(!heat.is_hot(), "1 MB/s, behind: a trickle");
    }

    /// What the pauses and the reads come to, where `rate` bytes a second come in and two buffers hold `room`.
    fn pauses(rate: f64, room: usize) -> (Duration, usize) {
        let mut pauses = HotPause::new(Way::Loopback);
        let (mut pause, mut read) = (Duration::ZERO, 0);
        for _ in 0..100 {
            pause = pauses.take();
            read = ((rate * pause.as_secs_f64()) as usize).min(room);
            pauses.read(read / 2);
            pauses.read(read - read / 2);
        }
        (pause, read)
    }

    #[test]
    fn a_pause_on_loopback_is_as_long_as_the_buffers_want_it() {
        for rate in [25e6, 100e6, 200e6, 400e6] {
            let (pause, read) = pauses(rate, 2 * HOT_READ);
            assert!(read.abs_diff(HOT_READ) < HOT_READ / 20, "{rate} B/s: {read} bytes after {pause:?}");
        }
        assert_eq!(pauses(2e6, 2 * HOT_READ).0, HOT_PAUSE_MAX, "a slow one");
        assert_eq!(pauses(4e9, 2 * HOT_READ).0, HOT_PAUSE_MIN, "a fast one");
        assert_eq!(pauses(4e9, 3 * HOT_READ / 2).0, HOT_PAUSE_MIN, "one that always finds the buffers full");
    }

    #[test]
    fn other_pauses_do_not_follow_the_rate() {
        for (way, expected) in [(Way::Unix, HOT_PAUSE_UNIX), (Way::Network, HOT_PAUSE)] {
            let mut pauses = HotPause::new(way);
            for read in [0, HOT_READ / 8, 8 * HOT_READ] {
                pauses.read(read);
                assert_eq!(pauses.take(), expected, "{way:?}");
            }
        }
    }

    #[test]
    fn heat_needs_bytes_over_time() {
        let mut heat = Heat::default();
        heat.read(1 << 20, MS);
        assert!(!heat.is_hot(), "too soon to tell");
        heat.read(0, 6 * MS);
        assert!(heat.is_hot(), "1 MiB in 6 ms");
        heat.read(0, 7 * MS);
        assert!(heat.is_hot(), "an empty read is not idleness");
        heat.read(1000, 12 * MS);
        assert!(!heat.is_hot(), "1 kB in 6 ms");
    }
}
