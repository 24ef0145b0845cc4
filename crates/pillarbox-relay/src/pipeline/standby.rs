//! When a standby ends the leader: it was unchanged for too long by the standby's own clock. Pure: time is an input.
//!
//! | the slot, as a look finds it | then |
//! | --- | --- |
//! | free | take it |
//! | in use by another than at the last look, or with a newer reply | it lives: wait |
//! | unchanged for [`STALE_LEADER`] | end exactly that walsender |
//! | unchanged, but our role sees no replies | it proves nothing: wait |
//!
//! Never compares a reply time with a clock: it is the leader's own.

use std::time::Duration;

/// A leader that says nothing for this long by the standby's own clock is stale. The leader sends
/// a status every second.
pub const STALE_LEADER: Duration = Duration::from_secs(5);

/// What shows that a leader lives: its connection, and the time in its last reply (its own clock,
/// so it is only compared with itself).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Of its walsender.
    pub pid: i32,
    /// When that started; none where our role does not see it.
    pub backend_start: Option<String>,
    /// The time in its last reply; none where our role does not see it.
    pub reply_time: Option<String>,
}

impl Leader {
    /// Without `pg_read_all_stats` a role sees no reply times, and an unchanged leader proves nothing.
    fn shows_replies(&self) -> bool {
        self.reply_time.is_some() && self.backend_start.is_some()
    }
}

/// What a look at the slot means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nobody has the slot.
    Free,
    /// Somebody has; `first`: nobody had at the last look.
    Busy {
        /// Somebody should be told.
        first: bool,
    },
    /// This leader has been silent for too long.
    Stale(Leader),
}

/// Watches the leader from one look to the next.
#[derive(Debug, Default)]
pub struct Watch {
    leader: Option<(Leader, Duration)>,
}

impl Watch {
    /// Who has the slot now.
    pub fn look(&mut self, leader: Option<Leader>, now: Duration) -> Seen {
        let Some(leader) = leader else { return Seen::Free };
        match &self.leader {
            Some((known, since)) if *known == leader => {
                if leader.shows_replies() && now.saturating_sub(*since) >= STALE_LEADER {
                    self.leader = None;
                    return Seen::Stale(leader);
                }
                Seen::Busy { first: false }
            }
            known => {
                let first = known.is_none();
                self.leader = Some((leader, now));
                Seen::Busy { first }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn leader(reply_time: Option<&str>) -> Option<Leader> {
        Some(Leader { pid: 1, backend_start: Some("b".into()), reply_time: reply_time.map(str::to_owned) })
    }

    #[test]
    fn a_leader_is_stale_once_it_has_not_changed_for_long() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(leader(Some("r")), S), Seen::Busy { first: true });
        assert_eq!(watch.look(leader(Some("r")), 5 * S), Seen::Busy { first: false });
        assert_eq!(watch.look(leader(Some("s")), 6 * S), Seen::Busy { first: false }, "it has replied");
        assert_eq!(watch.look(leader(Some("s")), 10 * S), Seen::Busy { first: false });
        assert!(matches!(watch.look(leader(Some("s")), 11 * S), Seen::Stale(_)));
        assert_eq!(watch.look(None, 12 * S), Seen::Free);
    }

    #[test]
    fn a_leader_whose_replies_are_hidden_is_never_stale() {
        let mut watch = Watch::default();
        watch.look(leader(None), S);
        assert_eq!(watch.look(leader(None), 60 * S), Seen::Busy { first: false });
    }
}
