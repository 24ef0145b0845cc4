//! The one LSN that may be confirmed to Postgres, and when an idle position must be committed.
//!
//! ```text
//! committed(resume_lsn) ----> flush ----> standby status update
//! keepalive(wal_end) -------> idle candidate --(idle checkpoint committed)--^
//! ```
//!
//! Confirmed means: Postgres may forget the WAL before it. So only a `resume_lsn` that stands in a
//! committed checkpoint is ever confirmed (I2, I5). A keepalive proves that everything before its
//! `wal_end` was sent; that position is only worth something once nothing is open or in flight, and
//! only after it was committed as an idle checkpoint.
//!
//! | situation | what is confirmed |
//! | --- | --- |
//! | before the checkpoint was read | nothing (`0/0`) |
//! | the stream has not shown yet that it is of the history that was published ([`super::recognition`]) | nothing |
//! | a set is in flight | the `resume_lsn` of the last committed set |
//! | a transaction is half received | the same; a keepalive's `wal_end` is not used |
//! | idle, `wal_end` ahead by 16 MiB or 10 s old, or the server asks | an idle checkpoint first, then it |
//! | Kafka does not commit for 10 s while Postgres waits | the walsender is closed: a fast shutdown must not hang |

use std::time::Duration;

use pillarbox_wire::lsn::Lsn;

/// WAL behind an idle pipeline beyond this is worth an idle checkpoint: one default WAL segment.
pub const IDLE_WAL_BYTES_MAX: u64 = 16 << 20;
/// An idle position is committed at least this often.
pub const IDLE_INTERVAL: Duration = Duration::from_secs(10);
/// With work waiting and nothing committed for this long the walsender is closed.
pub const COMMIT_STALL_MAX: Duration = Duration::from_secs(10);

/// Remembers what was committed and what keepalives said. Time is an input: `now` counts from an
/// arbitrary origin.
#[derive(Debug)]
pub struct Ledger {
    confirmed: Lsn,
    wal_end: Lsn,
    asked: bool,
    idle_at: Duration,
}

impl Ledger {
    /// A ledger for a stream that resumes at the checkpoint's `resume_lsn`.
    pub fn new(resume_lsn: Lsn, now: Duration) -> Self {
        Self { confirmed: resume_lsn, wal_end: resume_lsn, asked: false, idle_at: now }
    }

    /// A set with this `resume_lsn` was committed. Panics if it goes backwards: a wrong confirm is
    /// data loss, a crash is not.
    pub fn committed(&mut self, resume_lsn: Lsn, now: Duration) {
        assert!(resume_lsn >= self.confirmed, "I2: {resume_lsn} committed after {}", self.confirmed);
        self.confirmed = resume_lsn;
        self.idle_at = now;
        if self.confirmed >= self.wal_end {
            self.asked = false;
        }
    }

    /// The server says where its WAL ends; with `asked` it waits for an answer.
    pub fn keepalive(&mut self, wal_end: Lsn, asked: bool) {
        self.wal_end = self.wal_end.max(wal_end);
        self.asked |= asked && self.wal_end > self.confirmed;
    }

    /// What may be confirmed.
    pub fn confirmed(&self) -> Lsn {
        self.confirmed
    }

    /// The furthest end of WAL that the server spoke of.
    pub fn wal_end(&self) -> Lsn {
        self.wal_end
    }

    /// With nothing open or in flight: the position that an idle checkpoint should now carry.
    pub fn idle_due(&self, now: Duration) -> Option<Lsn> {
        let ahead = self.wal_end.0.saturating_sub(self.confirmed.0);
        let due =
            self.asked || ahead >= IDLE_WAL_BYTES_MAX || now.saturating_sub(self.idle_at) >= IDLE_INTERVAL;
        (ahead > 0 && due).then_some(self.wal_end)
    }

    /// An idle checkpoint was sealed; the next is due an interval later.
    pub fn idle_sealed(&mut self, now: Duration) {
        self.idle_at = now;
        self.asked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn only_commits_move_the_confirmed_position() {
        let mut ledger = Ledger::new(Lsn(10), S);
        ledger.keepalive(Lsn(100), false);
        assert_eq!(ledger.confirmed(), Lsn(10));
        ledger.committed(Lsn(50), S);
        assert_eq!(ledger.confirmed(), Lsn(50));
    }

    #[test]
    #[should_panic(expected = "I2")]
    fn a_commit_that_goes_back_is_a_bug() {
        let mut ledger = Ledger::new(Lsn(10), S);
        ledger.committed(Lsn(9), S);
    }

    #[test]
    fn idle_is_due_when_asked_when_far_or_when_old() {
        let mut ledger = Ledger::new(Lsn(10), S);
        ledger.keepalive(Lsn(100), false);
        assert_eq!(ledger.idle_due(S), None);
        assert_eq!(ledger.idle_due(S + IDLE_INTERVAL), Some(Lsn(100)));
        ledger.keepalive(Lsn(100), true);
        assert_eq!(ledger.idle_due(S), Some(Lsn(100)));
        ledger.idle_sealed(S);
        assert_eq!(ledger.idle_due(S), None);
        ledger.keepalive(Lsn(10 + IDLE_WAL_BYTES_MAX), false);
        assert_eq!(ledger.idle_due(S), Some(Lsn(10 + IDLE_WAL_BYTES_MAX)));
    }

    #[test]
    fn nothing_is_due_when_everything_is_confirmed() {
        let mut ledger = Ledger::new(Lsn(100), S);
        ledger.keepalive(Lsn(100), true);
        assert_eq!(ledger.idle_due(S + IDLE_INTERVAL), None);
    }
}
