//! Which changes of a re-sent stream a checkpoint already covers.
//!
//! Postgres re-sends from the slot's `confirmed_flush_lsn`, which lags behind the checkpoint (it is
//! persisted lazily and a status update may never have arrived). The filter alone makes the overlap
//! harmless. It ignores the epoch on purpose: a new epoch starts only where the old history ended.

use pillarbox_wire::lsn::Lsn;

/// The last change that the checkpoint covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covered {
    /// Commit LSN of the last transaction with published events; zero = none yet.
    pub commit_lsn: Lsn,
    /// Inside a split transaction the last published ordinal; otherwise the whole is covered.
    pub index: Option<u32>,
}

impl Covered {
    /// Whether the change at (`commit_lsn`, `index`) was published before.
    pub fn covers(&self, commit_lsn: Lsn, index: u32) -> bool {
        if commit_lsn < self.commit_lsn {
            return true;
        }
        commit_lsn == self.commit_lsn && self.index.is_none_or(|last| index <= last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_what_was_published_and_nothing_else() {
        let whole = Covered { commit_lsn: Lsn(100), index: None };
        let split = Covered { commit_lsn: Lsn(100), index: Some(7) };
        for (covered, commit_lsn, index, expected) in [
            (whole, 99, 0, true),
            (whole, 100, u32::MAX, true),
            (whole, 101, 0, false),
            (split, 99, u32::MAX, true),
            (split, 100, 7, true),
            (split, 100, 8, false),
            (split, 101, 0, false),
        ] {
            assert_eq!(covered.covers(Lsn(commit_lsn), index), expected, "{covered:?} {commit_lsn} {index}");
        }
    }

    #[test]
    fn a_first_checkpoint_covers_nothing() {
        let first = Covered { commit_lsn: Lsn::ZERO, index: None };
        assert!(!first.covers(Lsn(1), 0));
    }
}
