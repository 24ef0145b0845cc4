//! The sink thread's loop: one Kafka transaction per sealed set, in order, several in rotation.
//!
//! ```text
//! sets --submit--> producer --next--> committed --> reader (confirm), board, recorder
//!                      |
//!                      +------------> lost ------> the pipeline goes to Start, or halts
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pillarbox_failpoint::{Step, hit};
use pillarbox_kafka::producer::{Committed, Lost, LostReason, Outcome, Producer, Transaction};
use tokio::sync::mpsc;

use super::record::Recorder;
use crate::error::{Code, Fault};
use crate::pipeline::board::{Board, Commit};
use crate::pipeline::intake::{CommittedSet, Now, SetEnd};
use crate::pipeline::messages::{Command, HandedSet, Outlet};
use crate::position::checkpoint::Delta;

/// What travels with a Kafka transaction.
pub(crate) struct Tag {
    end: SetEnd,
    delta: Delta,
    bytes: usize,
    events: usize,
    dead_letters: usize,
    transactions: usize,
    whole: bool,
    /// From handing over to submission.
    queued: Duration,
    submitted_at: Instant,
}

impl Tag {
    /// The tag of a checkpoint without events.
    pub(crate) fn alone(end: SetEnd, whole: bool) -> Self {
        Self {
            end,
            delta: Delta::default(),
            bytes: 0,
            events: 0,
            dead_letters: 0,
            transactions: 0,
            whole,
            queued: Duration::ZERO,
            submitted_at: Instant::now(),
        }
    }

    /// Whether the transaction rewrote the whole table.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }
}

/// Time as the recorder takes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Now {
        Now { monotonic: self.0.elapsed(), unix_ms: unix_ms() }
    }
}

/// The running sink.
pub(crate) struct Sink {
    pub(crate) producer: Producer<Tag>,
    pub(crate) recorder: Recorder,
    pub(crate) clock: Clock,
    pub(crate) sets: mpsc::Receiver<HandedSet>,
    pub(crate) reader: Outlet,
    pub(crate) board: Arc<Board>,
}

impl Sink {
    /// Runs until the reader is gone (`Ok`) or a transaction is lost (the fault).
    pub(crate) async fn run(mut self) -> Result<(), Fault> {
        let mut waiting = VecDeque::new();
        loop {
            while self.producer.can_submit()
                && let Some(set) = waiting.pop_front()
            {
                self.submit(set);
            }
            tokio::select! {
                biased;
                // Cancel-safe: outcomes stay in the producer until they are returned.
                outcome = self.producer.next() => self.outcome(outcome)?,
                // Cancel-safe: a message that was not returned stays in the channel.
                set = self.sets.recv() => match set {
                    Some(set) => waiting.push_back(set),
                    None => return Ok(()),
                },
            }
        }
    }

    fn submit(&mut self, HandedSet { set, at }: HandedSet) {
        let checkpoint = self.recorder.checkpoint(&set.end, &set.delta, self.clock.now());
        let tag = Tag {
            end: set.end,
            delta: set.delta,
            bytes: set.bytes,
            events: set.events,
            dead_letters: set.dead_letters,
            transactions: set.transactions,
            whole: checkpoint.whole,
            queued: at.elapsed(),
            submitted_at: Instant::now(),
        };
        self.producer.submit(Transaction { data: set.batches, last: checkpoint.batch, tag });
    }

    fn outcome(&mut self, outcome: Outcome<Tag>) -> Result<(), Fault> {
        match outcome {
            Outcome::Committed(committed) => {
                self.committed(committed);
                Ok(())
            }
            Outcome::Lost(Lost { reason, .. }) => Err(lost_fault(&reason)),
        }
    }

    fn committed(&mut self, committed: Committed<Tag>) {
        let Committed { transaction, base_offsets, last_base_offset, produce_wait, end_txn_wait } = committed;
        let Transaction { data, tag, .. } = transaction;
        hit(Step::CommitKnown);
        if tag.whole {
            hit(Step::TableRewritten);
            self.recorder.rewritten(last_base_offset);
        }
        self.board.committed(Commit {
            events: tag.events,
            dead_letters: tag.dead_letters,
            transactions: tag.transactions,
            last: tag.end.last.filter(|_| tag.events > 0),
            latency_ms: tag.end.last_commit_ms.filter(|_| tag.events > 0).map(|commit| unix_ms() - commit),
            queued: tag.queued,
            whole: tag.submitted_at.elapsed(),
            produce: produce_wait,
            end_txn: end_txn_wait,
        });
        self.board.arrivals.committed(tag.end.resume_lsn, &tag.delta, &data, &base_offsets);
        let buffers = data.into_iter().map(|batch| Vec::from(batch.bytes)).collect();
        self.reader.send(Command::Committed(CommittedSet { end: tag.end, bytes: tag.bytes, buffers }));
    }
}

/// What a lost transaction means for the pipeline.
pub fn lost_fault(reason: &LostReason) -> Fault {
    let (code, message, hint) = match reason {
        LostReason::Fenced => (
            Code::KafkaFenced,
            "the pipeline's transactional ids were taken over, or a transaction timed out".to_owned(),
            "if another relay of this pipeline has started, one of them will lead",
        ),
        LostReason::TimedOut => (
            Code::KafkaFenced,
            "a Kafka transaction was aborted by its timeout".to_owned(),
            "the relay or the broker was stopped for longer than kafka.transaction.timeout",
        ),
        LostReason::TopicGone { name } => (
            Code::TopicGone,
            format!("topic {name} is gone or was re-created while events went to it"),
            "find out which consumers lost events before you let the pipeline start it anew",
        ),
        LostReason::TooLarge { topic } => (
            Code::KafkaProduce,
            format!("topic {topic} refused a batch as too large"),
            "its max.message.bytes was lowered; the limits are read again",
        ),
        LostReason::Rejected { topic, .. } => (
            Code::KafkaRejected,
            format!("topic {topic} refuses a batch of events"),
            "compare the topic's settings with what the code says, then restart the relay",
        ),
        LostReason::Authorization { object, .. } => (
            Code::KafkaAuthorization,
            format!("Kafka denies writing to {object}"),
            "grant Write and Describe on the topics and on the transactional ids `pillarbox.<pipeline>.*`",
        ),
        LostReason::Disconnected { .. } => (
            Code::KafkaUnreachable,
            "a connection to Kafka broke with transactions under way".to_owned(),
            "the relay goes on once brokers answer; it looks first at what became of those transactions",
        ),
        LostReason::Unreachable { .. } => (
            Code::KafkaUnreachable,
            "nothing could be committed to Kafka for long".to_owned(),
            "the relay goes on once brokers answer",
        ),
        _ => (
            Code::KafkaProduce,
            "a Kafka transaction was lost".to_owned(),
            "the relay starts over from the checkpoint",
        ),
    };
    Fault::new(code, message).because(reason).hint(hint)
}

pub(crate) fn unix_ms() -> i64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(unix.as_millis()).unwrap_or(i64::MAX)
}
