//! Whether the database in front of us is the one the checkpoint speaks of.
//!
//! A checkpoint is only worth something for the history it was taken from. Each row of the table
//! below but the slot's is decided before anything is fenced, so that a clone of the database cannot
//! harm the production pipeline, and all of them after fencing, on what was read then. Until then
//! the newest checkpoint may be hidden: Kafka answers a commit before its markers are written, and
//! the slot may be confirmed by that answer. An older checkpoint changes no other verdict.
//!
//! | observed | meaning | verdict |
//! | --- | --- | --- |
//! | other system identifier | another cluster, a dump and restore | halt |
//! | same timeline, WAL ends before `resume_lsn` | an older copy of the storage | halt |
//! | nonce in the database older than the checkpoint's, or another of the same age | clone, restored copy | halt |
//! | slot confirmed beyond `resume_lsn` | somebody else moved the slot: a gap of known bounds | halt, after fencing |
//! | timeline grew, fork at or after `published_end_lsn` (and after a split's `commit_lsn`) | clean failover | epoch + 1 |
//! | timeline grew, fork before that | published events do not exist any more | halt |
//! | timeline went back | an older copy | halt |
//! | otherwise | the same history | go on |
//!
//! A verdict that halts must not rest on facts that are older than the checkpoint: a relay that was stopped for a while
//! would take what its successor has published for another history. Whoever is about to halt asks the server once more
//! ([`SourceFacts::renewed`]).
//!
//! The nonce is not compared across a timeline switch: its last value may lie in the lost tail. A new
//! epoch forgets it, so that the next start on the new timeline does not compare it either.
//! Pure: takes values, gives a verdict.

use pillarbox_wire::lsn::{Lsn, SystemId, TimelineId};

use super::checkpoint::PositionRecord;
use crate::error::{Code, Fault};

/// What the source says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFacts {
    /// `IDENTIFY_SYSTEM`.
    pub system_id: SystemId,
    /// `IDENTIFY_SYSTEM`.
    pub timeline: TimelineId,
    /// End of WAL, `IDENTIFY_SYSTEM`.
    pub wal_position: Lsn,
    /// Ends of former timelines: (timeline that ended, where).
    pub history: Vec<(TimelineId, Lsn)>,
    /// The slot's `confirmed_flush_lsn`, read before it was acquired.
    pub confirmed_flush_lsn: Lsn,
    /// The row of `pillarbox.lineage`, if there is one: (sequence, nonce).
    pub lineage: Option<(i64, String)>,
}

impl SourceFacts {
    /// What the server says `now`, for the stream that began when it said `self`: the slot's position stays that of the
    /// stream.
    ///
    /// # Errors
    /// It is another server or timeline by now: the stream has ended, and what was received of it is of another history.
    pub fn renewed(&self, now: SourceFacts) -> Result<SourceFacts, Fault> {
        if (self.system_id, self.timeline) == (now.system_id, now.timeline) {
            return Ok(Self { confirmed_flush_lsn: self.confirmed_flush_lsn, ..now });
        }
        let message = "another server answers than a moment ago";
        Err(Fault::new(Code::PgProtocol, message)
            .hint("it was promoted, or postgres.url leads to several servers"))
    }
}

/// The same history, perhaps a later branch of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continuation {
    /// The epoch to go on in.
    pub epoch: u32,
    /// The timeline to record.
    pub timeline: TimelineId,
    /// What may be confirmed from now on.
    pub resume_lsn: Lsn,
}

impl Continuation {
    /// The position to go on from, behind `before`.
    pub fn record(&self, before: &PositionRecord, slot: &str, generation: &str) -> PositionRecord {
        PositionRecord {
            epoch: self.epoch,
            timeline: self.timeline.0,
            resume_lsn: self.resume_lsn,
            slot: slot.to_owned(),
            generation: generation.to_owned(),
            // It may lie in the lost tail of the former timeline.
            lineage_nonce: before.lineage_nonce.clone().filter(|_| self.epoch == before.epoch),
            ..before.clone()
        }
    }
}

/// Compares the source with the checkpoint, which is the newest: every predecessor is fenced.
///
/// # Errors
/// A fault of class Halt that says what differs.
pub fn judge(facts: &SourceFacts, checkpoint: &PositionRecord) -> Result<Continuation, Fault> {
    let continuation = judge_unfenced(facts, checkpoint)?;
    slot_behind(facts, &continuation, checkpoint)?;
    Ok(continuation)
}

/// The same for a checkpoint that newer ones may follow: without the slot's position.
///
/// # Errors
/// A fault of class Halt that says what differs.
pub fn judge_unfenced(facts: &SourceFacts, checkpoint: &PositionRecord) -> Result<Continuation, Fault> {
    same_system(facts, checkpoint)?;
    if facts.timeline.0 == checkpoint.timeline {
        same_timeline(facts, checkpoint)
    } else {
        later_timeline(facts, checkpoint)
    }
}

fn same_system(facts: &SourceFacts, checkpoint: &PositionRecord) -> Result<(), Fault> {
    if facts.system_id.to_string() == checkpoint.system_id {
        return Ok(());
    }
    let message = format!(
        "the checkpoint belongs to system {}, this server is system {}",
        checkpoint.system_id, facts.system_id
    );
    Err(Fault::new(Code::SystemIdDiffers, message).hint(
        "point postgres.url at the server that this pipeline has been reading, or give the new one its own pipeline name",
    ))
}

fn same_timeline(facts: &SourceFacts, checkpoint: &PositionRecord) -> Result<Continuation, Fault> {
    if facts.wal_position < checkpoint.resume_lsn {
        let message = format!(
            "the server's WAL ends at {}, events were relayed up to {}",
            facts.wal_position, checkpoint.resume_lsn
        );
        return Err(Fault::new(Code::ServerBehind, message).hint(COPY_HINT));
    }
    if let Some(recorded) = &checkpoint.lineage_nonce {
        same_lineage(facts, recorded)?;
    }
    Ok(Continuation { epoch: checkpoint.epoch, timeline: facts.timeline, resume_lsn: checkpoint.resume_lsn })
}

pub(super) const COPY_HINT: &str = "this is an older copy of the database: give it a pipeline name of its own, or restore the original server; if it replaces the original, see `pillarbox lineage show`";

fn same_lineage(facts: &SourceFacts, recorded: &str) -> Result<(), Fault> {
    let recorded_seq = nonce_sequence(recorded);
    let agrees = facts.lineage.as_ref().is_some_and(|(seq, nonce)| match recorded_seq {
        Some(recorded_seq) => *seq > recorded_seq || (*seq == recorded_seq && nonce == recorded),
        None => false,
    });
    if agrees {
        return Ok(());
    }
    let found = facts.lineage.as_ref().map_or("none", |(_, nonce)| nonce);
    let message = format!("the checkpoint has seen lineage {recorded}, this database is at {found}");
    Err(Fault::new(Code::LineageDiffers, message).hint(COPY_HINT))
}

/// Whether a nonce of the same database came after the one that is recorded.
pub fn is_newer(nonce: &str, recorded: Option<&str>) -> bool {
    nonce_sequence(nonce) > recorded.and_then(nonce_sequence)
}

/// The sequence in `<seq>-<random>`.
fn nonce_sequence(nonce: &str) -> Option<i64> {
    nonce.split_once('-')?.0.parse().ok()
}

fn later_timeline(facts: &SourceFacts, checkpoint: &PositionRecord) -> Result<Continuation, Fault> {
    let fork = facts.history.iter().find(|(timeline, _)| timeline.0 == checkpoint.timeline);
    let Some(&(_, fork)) = fork else {
        let message = format!(
            "the checkpoint was taken on timeline {}, this server is on timeline {} and does not descend from it",
            checkpoint.timeline, facts.timeline.0
        );
        return Err(Fault::new(Code::TimelineDiverged, message).hint(COPY_HINT));
    };
    let inside_split = checkpoint.index.is_some() && fork <= checkpoint.commit_lsn;
    if fork < checkpoint.published_end_lsn || inside_split {
        let last = checkpoint.published_end_lsn.max(checkpoint.commit_lsn);
        let message = format!(
            "timeline {} ended at {fork}, but events were published up to {last}: those after the fork do not exist in this database",
            checkpoint.timeline
        );
        return Err(Fault::new(Code::TimelineDiverged, message)
            .hint("`pillarbox lineage show` lists those events; once you know what they mean for your consumers, `pillarbox lineage accept` goes on without them"));
    }
    Ok(Continuation {
        epoch: checkpoint.epoch + 1,
        timeline: facts.timeline,
        resume_lsn: checkpoint.resume_lsn.min(fork),
    })
}

fn slot_behind(facts: &SourceFacts, now: &Continuation, checkpoint: &PositionRecord) -> Result<(), Fault> {
    if facts.confirmed_flush_lsn <= now.resume_lsn {
        return Ok(());
    }
    let gap = facts.confirmed_flush_lsn.0 - now.resume_lsn.0;
    let message = format!(
        "slot {} is confirmed at {}, the checkpoint is at {}: {gap} bytes of WAL in between were never relayed",
        checkpoint.slot, facts.confirmed_flush_lsn, now.resume_lsn
    );
    Err(Fault::new(Code::SlotAhead, message).hint(
        "find out what moved the slot (pg_replication_slot_advance, another client) and which outbox rows lie in the gap; then run `pillarbox setup --adopt-slot`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::checkpoint::VERSION;

    fn checkpoint() -> PositionRecord {
        PositionRecord {
            v: VERSION,
            epoch: 3,
            commit_lsn: Lsn(90),
            commit_ms: None,
            index: None,
            part: None,
            resume_lsn: Lsn(120),
            published_end_lsn: Lsn(100),
            system_id: "7".into(),
            timeline: 1,
            lineage_nonce: Some("5-abc".into()),
            slot: "s".into(),
            generation: String::new(),
            paused: false,
            snapshot_offset: None,
            at: 0,
        }
    }

    fn facts() -> SourceFacts {
        SourceFacts {
            system_id: SystemId(7),
            timeline: TimelineId(1),
            wal_position: Lsn(200),
            history: Vec::new(),
            confirmed_flush_lsn: Lsn(110),
            lineage: Some((5, "5-abc".into())),
        }
    }

    fn forked_at(fork: u64) -> SourceFacts {
        SourceFacts { timeline: TimelineId(2), history: vec![(TimelineId(1), Lsn(fork))], ..facts() }
    }

    fn code(facts: &SourceFacts, checkpoint: &PositionRecord) -> Option<Code> {
        judge(facts, checkpoint).err().map(|fault| fault.code)
    }

    #[test]
    fn every_row_of_the_table() {
        let c = checkpoint();
        let split = PositionRecord { index: Some(4), commit_lsn: Lsn(105), ..checkpoint() };
        for (name, facts, checkpoint, expected) in [
            ("same history", facts(), &c, None),
            (
                "other system",
                SourceFacts { system_id: SystemId(8), ..facts() },
                &c,
                Some(Code::SystemIdDiffers),
            ),
            ("older copy", SourceFacts { wal_position: Lsn(119), ..facts() }, &c, Some(Code::ServerBehind)),
            (
                "older nonce",
                SourceFacts { lineage: Some((4, "4-x".into())), ..facts() },
                &c,
                Some(Code::LineageDiffers),
            ),
            (
                "other nonce",
                SourceFacts { lineage: Some((5, "5-x".into())), ..facts() },
                &c,
                Some(Code::LineageDiffers),
            ),
            ("no nonce", SourceFacts { lineage: None, ..facts() }, &c, Some(Code::LineageDiffers)),
            ("newer nonce", SourceFacts { lineage: Some((6, "6-x".into())), ..facts() }, &c, None),
            (
                "slot ahead",
                SourceFacts { confirmed_flush_lsn: Lsn(121), ..facts() },
                &c,
                Some(Code::SlotAhead),
            ),
            ("clean failover", forked_at(115), &c, None),
            (
                "fork at the last event",
                SourceFacts { confirmed_flush_lsn: Lsn(90), ..forked_at(100) },
                &c,
                None,
            ),
            ("lost tail", forked_at(99), &c, Some(Code::TimelineDiverged)),
            ("fork inside a split", forked_at(105), &split, Some(Code::TimelineDiverged)),
            (
                "fork after a split",
                SourceFacts { confirmed_flush_lsn: Lsn(90), ..forked_at(106) },
                &split,
                None,
            ),
            (
                "unknown branch",
                SourceFacts { timeline: TimelineId(2), ..facts() },
                &c,
                Some(Code::TimelineDiverged),
            ),
        ] {
            assert_eq!(code(&facts, checkpoint), expected, "{name}");
        }
    }

    #[test]
    fn a_slot_ahead_is_no_verdict_while_newer_checkpoints_may_be_hidden() {
        let ahead = SourceFacts { confirmed_flush_lsn: Lsn(121), ..facts() };
        assert_eq!(judge_unfenced(&ahead, &checkpoint()).unwrap().resume_lsn, Lsn(120));
        let clone = SourceFacts { wal_position: Lsn(119), ..ahead };
        assert_eq!(judge_unfenced(&clone, &checkpoint()).unwrap_err().code, Code::ServerBehind);
    }

    #[test]
    fn a_clean_failover_opens_an_epoch_and_takes_back_what_the_fork_cut() {
        let now = judge(&forked_at(115), &checkpoint()).unwrap();
        assert_eq!(now, Continuation { epoch: 4, timeline: TimelineId(2), resume_lsn: Lsn(115) });
    }

    /// Another relay led while this one was stopped, and published up to 250.
    #[test]
    fn what_a_successor_published_is_no_other_history() {
        let newer =
            PositionRecord { resume_lsn: Lsn(250), lineage_nonce: Some("6-x".into()), ..checkpoint() };
        assert_eq!(code(&facts(), &newer), Some(Code::ServerBehind), "by facts that are too old");
        let lineage = Some((7, "7-y".into()));
        let now = SourceFacts { wal_position: Lsn(300), confirmed_flush_lsn: Lsn(250), lineage, ..facts() };
        let renewed = facts().renewed(now.clone()).expect("the same server");
        assert_eq!(renewed.confirmed_flush_lsn, Lsn(110), "where the stream began");
        assert_eq!(code(&renewed, &newer), None);
        let promoted = SourceFacts { timeline: TimelineId(2), ..now };
        assert_eq!(facts().renewed(promoted).expect_err("another history").code, Code::PgProtocol);
    }
}
