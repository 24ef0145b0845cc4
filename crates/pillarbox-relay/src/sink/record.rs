//! The checkpoint batch of a transaction: what the set adds to the table, or from time to time the
//! whole table, and the position last. Pure: time is an input.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pillarbox_kafka::producer::{Batch, TopicRef};
use pillarbox_wire::record_batch::BatchBuilder;

use crate::pipeline::intake::{Now, SetEnd};
use crate::position::checkpoint::{Delta, PositionRecord, Table, encode};

/// The table is rewritten after this many commits, so that a start reads about as many.
const REWRITE_COMMITS: u32 = 1_000;
/// And at least this often.
const REWRITE_INTERVAL: Duration = Duration::from_secs(10);

/// Writes checkpoints: knows the table as of the last submitted set.
pub struct Recorder {
    topic: Arc<TopicRef>,
    table: Table,
    position: PositionRecord,
    since_rewrite: u32,
    rewritten_at: Duration,
}

/// A checkpoint batch.
pub struct Checkpoint {
    /// For the checkpoint topic.
    pub batch: Batch,
    /// Whether it holds the whole table: its offset is then the next `snapshot_offset`.
    pub whole: bool,
}

impl Recorder {
    /// Goes on from a table with a position.
    pub fn new(topic: Arc<TopicRef>, table: Table, position: PositionRecord) -> Self {
        // The first commit of a start rewrites the table: a restart loop must not grow the tail.
        Self { topic, table, position, since_rewrite: REWRITE_COMMITS, rewritten_at: Duration::ZERO }
    }

    /// The checkpoint of a set.
    ///
    /// # Panics
    /// When it would confirm less than the last one did (I2).
    pub fn checkpoint(&mut self, end: &SetEnd, delta: &Delta, now: Now) -> Checkpoint {
        self.table.apply_delta(delta);
        self.position = end.position(&self.position, now.unix_ms);
        let age = now.monotonic.saturating_sub(self.rewritten_at);
        let whole = self.since_rewrite >= REWRITE_COMMITS || age >= REWRITE_INTERVAL;
        if whole {
            self.since_rewrite = 0;
            self.rewritten_at = now.monotonic;
            self.batch(&self.table.whole(), now.unix_ms, whole)
        } else {
            self.since_rewrite += 1;
            self.batch(delta, now.unix_ms, whole)
        }
    }

    /// A rewritten table was committed at this offset.
    pub fn rewritten(&mut self, offset: i64) {
        self.position.snapshot_offset = Some(offset);
    }

    fn batch(&self, delta: &Delta, at: i64, whole: bool) -> Checkpoint {
        let mut builder = BatchBuilder::new();
        encode(delta, &self.position, |key, value| {
            builder
                .append(at, Some(key.as_bytes()), Some(value), &[])
                .expect("a checkpoint is far below what a batch can hold");
        });
        let records = builder.count();
        let bytes = BytesMut::from(Bytes::from(builder.take()));
        let batch = Batch { topic: Arc::clone(&self.topic), partition: 0, bytes, records };
        Checkpoint { batch, whole }
    }
}
