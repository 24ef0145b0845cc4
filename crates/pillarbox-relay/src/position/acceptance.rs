//! What an operator accepts when history was cut: the place where the database's history left the one that was
//! published, and what follows from it for the checkpoint.
//!
//! ```text
//! published:  ----a----b----|----c----d            c, d: in Kafka, in no database any more ("ghosts")
//!                         fork
//! database:   ----a----b----|----e----f            e, f: to be relayed, in a new epoch, at LSNs that repeat
//! ```
//! | database | fork |
//! | --- | --- |
//! | the checkpoint's history goes on | nothing to accept |
//! | a later timeline that descends from the checkpoint's | the timeline history says where |
//! | the same timeline (a restored copy of the storage), or an earlier one | only the operator knows: `--fork` |
//! | the same timeline, and nothing but the stream tells (`recognition`) | the same |
//! | another system | not a cut: another history altogether |
//! | the slot is confirmed beyond the fork | not to be accepted: the new history would have a gap |
//!
//! From the accepted checkpoint on, what was published up to the fork counts as relayed, nothing behind it does. A fork
//! told too low relays events again, one told too high leaves events out: hence the timeline history wins.
//! Pure: takes values, gives a verdict.

use pillarbox_wire::lsn::Lsn;
use pillarbox_wire::position::{Epoch, Position};

use super::checkpoint::PositionRecord;
use super::lineage::{SourceFacts, judge_unfenced};
use crate::error::{Code, Fault};

/// How the database's history stands to what was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum History {
    /// It goes on; a relay that starts goes on, too.
    GoesOn,
    /// It was cut, and this can be accepted.
    Cut(Cut),
    /// It was cut, and nobody said where.
    CutSomewhere(Fault),
}

/// Where history was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Up to here both histories are the same.
    pub fork: Lsn,
    /// The epoch of what was published.
    pub epoch: Epoch,
    /// Why a relay halts.
    pub fault: Fault,
}

impl Cut {
    /// Whether an event was published whose transaction the database does not have.
    pub fn is_ghost(&self, position: Position) -> bool {
        position.epoch == self.epoch && position.commit_lsn >= self.fork
    }
}

/// Compares the source with the checkpoint; `told` is where the operator says that history was cut.
///
/// # Errors
/// It was not cut but is another history, or `told` contradicts what the server knows.
pub fn compare(
    facts: &SourceFacts,
    checkpoint: &PositionRecord,
    told: Option<Lsn>,
) -> Result<History, Fault> {
    let fault = match judge_unfenced(facts, checkpoint) {
        Ok(_) => {
            match told.filter(|told| facts.timeline.0 == checkpoint.timeline && is_cut(*told, checkpoint)) {
                // What the server says does not show it; the stream does, and the operator knows.
                Some(fork) => {
                    let message =
                        format!("by --fork {fork}, events that were published are not in this database");
                    Fault::new(Code::LineageDiffers, message)
                }
                None => return Ok(History::GoesOn),
            }
        }
        Err(fault) if fault.code == Code::SystemIdDiffers => return Err(fault),
        Err(fault) => fault,
    };
    let known =
        facts.history.iter().find(|(timeline, _)| timeline.0 == checkpoint.timeline).map(|(_, fork)| *fork);
    let fork = match (known, told) {
        (Some(known), Some(told)) if known != told => {
            let message = format!("--fork {told}: the timeline history says {known}");
            return Err(Fault::new(Code::ConfigValue, message).hint("leave --fork out"));
        }
        (Some(fork), _) | (None, Some(fork)) => fork,
        (None, None) => return Ok(History::CutSomewhere(fault)),
    };
    if fork > facts.wal_position {
        let message = format!("--fork {fork}: the server's WAL ends at {}, before that", facts.wal_position);
        return Err(Fault::new(Code::ConfigValue, message).hint(
            "it is where the server's crash recovery ended when it was restored: see its log, `invalid record length at`",
        ));
    }
    Ok(History::Cut(Cut { fork, epoch: Epoch(checkpoint.epoch), fault }))
}

/// Whether something behind the fork was published.
fn is_cut(fork: Lsn, checkpoint: &PositionRecord) -> bool {
    fork < checkpoint.published_end_lsn || checkpoint.index.is_some() && fork <= checkpoint.commit_lsn
}

/// Whether the pipeline can go on at the fork.
///
/// # Errors
/// The slot begins behind it.
pub fn acceptable(cut: &Cut, facts: &SourceFacts, checkpoint: &PositionRecord) -> Result<(), Fault> {
    if facts.confirmed_flush_lsn <= cut.fork {
        return Ok(());
    }
    let message = format!(
        "slot {} is confirmed at {}, behind the fork at {}: what was committed in between is not relayed",
        checkpoint.slot, facts.confirmed_flush_lsn, cut.fork
    );
    Err(Fault::new(Code::SlotAhead, message).hint(
        "find out which outbox rows lie in the gap; `pillarbox setup --adopt-slot` gives it up and begins at the slot",
    ))
}

/// The checkpoint with which the pipeline goes on behind the fork.
///
/// # Errors
/// As [`acceptable`].
pub fn accepted(
    cut: &Cut,
    facts: &SourceFacts,
    checkpoint: &PositionRecord,
) -> Result<PositionRecord, Fault> {
    acceptable(cut, facts, checkpoint)?;
    // What was published before the fork stays covered as it is. No transaction commits exactly at the fork:
    // there a timeline or a recovery ends.
    let survives = checkpoint.commit_lsn < cut.fork;
    Ok(PositionRecord {
        epoch: checkpoint.epoch + 1,
        commit_lsn: checkpoint.commit_lsn.min(cut.fork),
        commit_ms: checkpoint.commit_ms.filter(|_| survives),
        index: checkpoint.index.filter(|_| survives),
        part: checkpoint.part.filter(|_| survives),
        resume_lsn: checkpoint.resume_lsn.min(cut.fork),
        published_end_lsn: checkpoint.published_end_lsn.min(cut.fork),
        timeline: facts.timeline.0,
        lineage_nonce: None,
        ..checkpoint.clone()
    })
}

#[cfg(test)]
mod tests {
    use pillarbox_wire::lsn::{SystemId, TimelineId};

    use super::*;
    use crate::position::checkpoint::VERSION;
    use crate::position::filter::Covered;
    use crate::position::lineage::judge;

    fn checkpoint() -> PositionRecord {
        PositionRecord {
            v: VERSION,
            epoch: 3,
            commit_lsn: Lsn(190),
            commit_ms: None,
            index: None,
            part: None,
            resume_lsn: Lsn(220),
            published_end_lsn: Lsn(200),
            system_id: "7".into(),
            timeline: 2,
            lineage_nonce: Some("5-abc".into()),
            slot: "s".into(),
            generation: String::new(),
            paused: true,
            snapshot_offset: None,
            at: 0,
        }
    }

    /// A standby promoted at 150, which has written up to 300 since.
    fn promoted() -> SourceFacts {
        SourceFacts {
            system_id: SystemId(7),
            timeline: TimelineId(3),
            wal_position: Lsn(300),
            history: vec![(TimelineId(1), Lsn(50)), (TimelineId(2), Lsn(150))],
            confirmed_flush_lsn: Lsn(140),
            lineage: Some((4, "4-x".into())),
        }
    }

    /// A copy of the storage on the same timeline.
    fn restored() -> SourceFacts {
        SourceFacts { timeline: TimelineId(2), history: vec![(TimelineId(1), Lsn(50))], ..promoted() }
    }

    fn code(compared: Result<History, Fault>) -> Code {
        compared.expect_err("refused").code
    }

    #[test]
    fn the_timeline_history_says_where_history_was_cut() {
        for told in [None, Some(Lsn(150))] {
            let History::Cut(cut) = compare(&promoted(), &checkpoint(), told).unwrap() else {
                panic!("{told:?}")
            };
            assert_eq!((cut.fork, cut.epoch, cut.fault.code), (Lsn(150), Epoch(3), Code::TimelineDiverged));
        }
        assert_eq!(code(compare(&promoted(), &checkpoint(), Some(Lsn(151)))), Code::ConfigValue);
    }

    #[test]
    fn on_the_same_timeline_only_the_operator_knows() {
        let History::CutSomewhere(fault) = compare(&restored(), &checkpoint(), None).unwrap() else {
            panic!()
        };
        assert_eq!(fault.code, Code::LineageDiffers);
        let History::Cut(cut) = compare(&restored(), &checkpoint(), Some(Lsn(160))).unwrap() else {
            panic!()
        };
        assert_eq!(cut.fork, Lsn(160));
        assert_eq!(code(compare(&restored(), &checkpoint(), Some(Lsn(301)))), Code::ConfigValue);
    }

    #[test]
    fn where_only_the_stream_tells_the_operator_is_believed() {
        let same = SourceFacts { lineage: Some((5, "5-abc".into())), ..restored() };
        assert_eq!(compare(&same, &checkpoint(), None), Ok(History::GoesOn));
        assert_eq!(compare(&same, &checkpoint(), Some(Lsn(200))), Ok(History::GoesOn), "nothing behind it");
        let History::Cut(cut) = compare(&same, &checkpoint(), Some(Lsn(199))).unwrap() else { panic!() };
        assert_eq!((cut.fork, cut.fault.code), (Lsn(199), Code::LineageDiffers));
    }

    #[test]
    fn what_is_not_a_cut_cannot_be_accepted() {
        let clean = SourceFacts { history: vec![(TimelineId(2), Lsn(200))], ..promoted() };
        assert_eq!(compare(&clean, &checkpoint(), None), Ok(History::GoesOn));
        let other = SourceFacts { system_id: SystemId(8), ..promoted() };
        assert_eq!(code(compare(&other, &checkpoint(), Some(Lsn(150)))), Code::SystemIdDiffers);
        let ahead = SourceFacts { confirmed_flush_lsn: Lsn(151), ..promoted() };
        let History::Cut(cut) = compare(&ahead, &checkpoint(), None).unwrap() else { panic!() };
        let refused = accepted(&cut, &ahead, &checkpoint()).map_err(|fault| fault.code);
        assert_eq!(refused.err(), Some(Code::SlotAhead));
    }

    #[test]
    fn behind_the_fork_nothing_is_covered_and_before_it_everything() {
        let History::Cut(cut) = compare(&promoted(), &checkpoint(), None).unwrap() else { panic!() };
        let now = accepted(&cut, &promoted(), &checkpoint()).unwrap();
        let covered: Covered = now.covered();
        assert_eq!((covered.commit_lsn, covered.index), (Lsn(150), None));
        assert_eq!((now.epoch, now.resume_lsn, now.published_end_lsn), (4, Lsn(150), Lsn(150)));
        assert!(now.paused, "an operator's pause outlives it");
        assert_eq!(judge(&promoted(), &now).map(|now| now.epoch), Ok(4), "a relay goes on from it");
        let at = |epoch, lsn| Position { epoch: Epoch(epoch), commit_lsn: Lsn(lsn), index: 0 };
        assert!(cut.is_ghost(at(3, 150)) && cut.is_ghost(at(3, 190)));
        assert!(!cut.is_ghost(at(3, 149)) && !cut.is_ghost(at(2, 190)));
    }

    #[test]
    fn a_fork_behind_everything_that_was_published_changes_nothing_but_the_epoch() {
        let split = PositionRecord { index: Some(8), part: Some(2), commit_lsn: Lsn(230), ..checkpoint() };
        let History::Cut(cut) = compare(&restored(), &split, Some(Lsn(250))).unwrap() else { panic!() };
        let now = accepted(&cut, &restored(), &split).unwrap();
        assert_eq!(
            (now.covered(), now.part),
            (split.covered(), Some(2)),
            "what follows is still to be relayed"
        );
        assert_eq!((now.resume_lsn, now.epoch), (Lsn(220), 4));
    }

    #[test]
    fn half_of_a_transaction_behind_the_fork_is_forgotten() {
        let split = PositionRecord { index: Some(8), part: Some(2), commit_lsn: Lsn(210), ..checkpoint() };
        let History::Cut(cut) = compare(&promoted(), &split, None).unwrap() else { panic!() };
        let now = accepted(&cut, &promoted(), &split).unwrap();
        assert_eq!((now.index, now.part, now.commit_lsn), (None, None, Lsn(150)));
    }
}
