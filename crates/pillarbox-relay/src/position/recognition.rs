//! Whether the stream still holds the transaction that was published last.
//!
//! A copy of the storage that was taken a moment ago, and has written more WAL than the original had, differs in
//! nothing that the server can be asked for: same system, same timeline, the same lineage until that moves. But it has
//! not confirmed what was published after the copy was taken, so its stream starts before the last published
//! transaction, and where that stood there is none, or another one.
//!
//! ```text
//!                 confirmed        last published
//! original  ----------|----a----b----c                     the stream from there: a b c, known
//! copy      ----------|----a--|--x----y---z                the stream from there: a x y z: no c, halt
//! ```
//! | the stream | then |
//! | --- | --- |
//! | begins behind the last published transaction | it was confirmed here: nothing to look for |
//! | has a transaction there that committed when it did | the same history |
//! | has one that committed at another time, or goes on without | another history: halt |
//! | settings that decide what is sent have changed since | nothing is looked for |
//!
//! Nothing is confirmed before: in the copy that would be a gap of its own.
//!
//! Pure: takes values, gives a verdict.

use pillarbox_wire::lsn::Lsn;

use super::checkpoint::PositionRecord;
use super::lineage::COPY_HINT;
use crate::error::{Code, Fault};

/// What is looked for; `None` once it was found, or where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recognition(Option<Landmark>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Landmark {
    commit_lsn: Lsn,
    commit_ms: i64,
}

impl Recognition {
    /// Looks for nothing.
    pub const NOTHING: Self = Self(None);

    /// Looks for the checkpoint's last transaction in a stream that begins where the slot is confirmed.
    pub fn of(checkpoint: &PositionRecord, confirmed_flush_lsn: Lsn, generation: &str) -> Self {
        let sent = checkpoint.commit_lsn > Lsn::ZERO && confirmed_flush_lsn <= checkpoint.commit_lsn;
        let commit_ms = checkpoint.commit_ms.filter(|_| sent && checkpoint.generation == generation);
        Self(commit_ms.map(|commit_ms| Landmark { commit_lsn: checkpoint.commit_lsn, commit_ms }))
    }

    /// Whether it is not known yet that the stream is of the same history: until then nothing may be confirmed.
    pub fn is_pending(&self) -> bool {
        self.0.is_some()
    }

    /// A transaction begins that commits at `commit_lsn`.
    ///
    /// # Errors
    /// It stands where another one stood, or behind it.
    pub fn transaction(&mut self, commit_lsn: Lsn, commit_ms: i64) -> Result<(), Fault> {
        match self.0 {
            Some(landmark) if landmark.commit_lsn == commit_lsn && landmark.commit_ms == commit_ms => {
                self.0 = None;
                Ok(())
            }
            Some(landmark) if landmark.commit_lsn <= commit_lsn => Err(fault(landmark)),
            _ => Ok(()),
        }
    }

    /// Everything that commits before `lsn` was sent.
    ///
    /// # Errors
    /// It should have been there.
    pub fn reached(&self, lsn: Lsn) -> Result<(), Fault> {
        match self.0 {
            Some(landmark) if landmark.commit_lsn < lsn => Err(fault(landmark)),
            _ => Ok(()),
        }
    }
}

fn fault(landmark: Landmark) -> Fault {
    let message = format!(
        "the transaction that was published last, committed at {}, is not in this database's history",
        landmark.commit_lsn
    );
    Fault::new(Code::LineageDiffers, message).hint(COPY_HINT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::checkpoint::VERSION;

    fn checkpoint() -> PositionRecord {
        PositionRecord {
            v: VERSION,
            epoch: 1,
            commit_lsn: Lsn(100),
            commit_ms: Some(7),
            index: None,
            part: None,
            resume_lsn: Lsn(120),
            published_end_lsn: Lsn(110),
            system_id: "7".into(),
            timeline: 1,
            lineage_nonce: None,
            slot: "s".into(),
            generation: "g".into(),
            paused: false,
            snapshot_offset: None,
            at: 0,
        }
    }

    fn looking() -> Recognition {
        Recognition::of(&checkpoint(), Lsn(100), "g")
    }

    #[test]
    fn the_same_transaction_is_recognised_and_never_looked_for_again() {
        let mut recognition = looking();
        recognition.transaction(Lsn(90), 1).expect("one before");
        recognition.reached(Lsn(100)).expect("not there yet");
        assert!(recognition.is_pending());
        recognition.transaction(Lsn(100), 7).expect("it");
        assert!(!recognition.is_pending());
        recognition.transaction(Lsn(130), 9).expect("one behind");
        recognition.reached(Lsn(200)).expect("found");
    }

    #[test]
    fn another_history_halts() {
        let code = |fault: Result<(), Fault>| fault.expect_err("another history").code;
        assert_eq!(code(looking().transaction(Lsn(100), 8)), Code::LineageDiffers, "another time");
        assert_eq!(code(looking().transaction(Lsn(101), 7)), Code::LineageDiffers, "another place");
        assert_eq!(code(looking().reached(Lsn(101))), Code::LineageDiffers, "nothing at all");
    }

    #[test]
    fn what_is_not_sent_is_not_looked_for() {
        let unknown = PositionRecord { commit_ms: None, ..checkpoint() };
        let first = PositionRecord { commit_lsn: Lsn::ZERO, ..checkpoint() };
        for (name, recognition) in [
            ("confirmed", Recognition::of(&checkpoint(), Lsn(101), "g")),
            ("other settings", Recognition::of(&checkpoint(), Lsn(100), "h")),
            ("a checkpoint of an older version", Recognition::of(&unknown, Lsn(100), "g")),
            ("nothing published", Recognition::of(&first, Lsn::ZERO, "g")),
        ] {
            assert_eq!(recognition, Recognition::NOTHING, "{name}");
        }
    }
}
