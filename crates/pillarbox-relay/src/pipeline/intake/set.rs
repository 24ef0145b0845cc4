//! A set on its way to the sink and back, and where it ends.

use std::time::Duration;

use pillarbox_kafka::producer::Batch;
use pillarbox_wire::lsn::Lsn;
use pillarbox_wire::position::Position;

use crate::position::checkpoint::{Delta, PositionRecord};

/// Where a sealed set ends: the position part of its checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetEnd {
    /// Commit LSN of the last transaction with events.
    pub commit_lsn: Lsn,
    /// When it committed, by the server's clock, milliseconds since 1970.
    pub commit_ms: Option<i64>,
    /// The last published ordinal, inside a split transaction.
    pub index: Option<u32>,
    /// The part's number, inside a split transaction.
    pub part: Option<u32>,
    /// What may be confirmed once the set is committed.
    pub resume_lsn: Lsn,
    /// End LSN of the last whole transaction with events.
    pub published_end_lsn: Lsn,
    /// The newest lineage nonce of the database.
    pub lineage_nonce: Option<String>,
    /// Whether an operator paused the pipeline.
    pub paused: bool,
    /// Position of the last event.
    pub last: Option<Position>,
    /// When the last event's transaction committed, by the server's clock, milliseconds since 1970.
    pub last_commit_ms: Option<i64>,
}

impl SetEnd {
    /// The position that the set's checkpoint carries, behind `before`; `at` is the wall clock in milliseconds.
    ///
    /// # Panics
    /// When it would confirm less than `before` did (I2).
    pub fn position(&self, before: &PositionRecord, at: i64) -> PositionRecord {
        assert!(self.resume_lsn >= before.resume_lsn, "I2: a checkpoint never goes back");
        PositionRecord {
            commit_lsn: self.commit_lsn,
            commit_ms: self.commit_ms,
            index: self.index,
            part: self.part,
            resume_lsn: self.resume_lsn,
            published_end_lsn: self.published_end_lsn,
            lineage_nonce: self.lineage_nonce.clone(),
            paused: self.paused,
            at,
            ..before.clone()
        }
    }
}

impl From<&PositionRecord> for SetEnd {
    fn from(position: &PositionRecord) -> Self {
        Self {
            commit_lsn: position.commit_lsn,
            commit_ms: position.commit_ms,
            index: position.index,
            part: position.part,
            resume_lsn: position.resume_lsn,
            published_end_lsn: position.published_end_lsn,
            lineage_nonce: position.lineage_nonce.clone(),
            paused: position.paused,
            last: None,
            last_commit_ms: None,
        }
    }
}

/// A set on its way to the sink: exactly one Kafka transaction.
pub struct SealedSet {
    /// Finished batches, those of one partition in order.
    pub batches: Vec<Batch>,
    /// The checkpoint's position.
    pub end: SetEnd,
    /// What the checkpoint's table gains.
    pub delta: Delta,
    /// Events in it.
    pub events: usize,
    /// Rows in it that went to dead letters.
    pub dead_letters: usize,
    /// Source transactions that ended in it with events.
    pub transactions: usize,
    /// Record bytes in it.
    pub bytes: usize,
    /// From its first event, or what else made it, until it was sealed.
    pub filled_for: Duration,
}

/// A committed set, on its way back.
pub struct CommittedSet {
    /// Its end.
    pub end: SetEnd,
    /// Its size, as sealed.
    pub bytes: usize,
    /// Buffers to use again.
    pub buffers: Vec<Vec<u8>>,
}
