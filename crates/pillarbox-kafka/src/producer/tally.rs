//! What came of all requests of one Produce: a partition acknowledged, refused, or still waiting for markers. Pure.
//!
//! | answer for a batch | tallied as |
//! | --- | --- |
//! | 0 | acknowledged |
//! | `CONCURRENT_TRANSACTIONS`, nothing pipelined behind it, not for too long | waiting: sent once more |
//! | another code | what [`Verdict::of_produce`] says; of several verdicts the worst counts |
//! | none, though the request was answered | a slow replay |

use kafka_protocol::messages::ApiKey;
use pillarbox_failpoint::{Step, hit};

use crate::error::{Error, ErrorCode};

use super::state::Reached;
use super::verdict::{Cause, Verdict};

/// What came of all requests of a transaction.
#[derive(Debug)]
pub struct Tally {
    verdict: Option<Verdict>,
    reached: Reached,
    acked: usize,
    last_base_offset: i64,
    /// Acknowledged items.
    base_offsets: Vec<(usize, i64)>,
}

/// Which batch an answer is for.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Its index among all batches of the transaction.
    pub item: usize,
    /// How many they are; the last is the checkpoint.
    pub parts: usize,
    /// Its topic.
    pub topic: &'a str,
    /// Whether it may be sent once more on its own.
    pub may_repeat: bool,
}

/// What is to be done about a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Nothing more.
    Settled,
    /// It waits for markers: it is to be sent once more.
    Waiting,
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Tally {
    /// Nothing was sent yet.
    pub fn new() -> Self {
        Self {
            verdict: None,
            reached: Reached::Nothing,
            acked: 0,
            last_base_offset: -1,
            base_offsets: Vec::new(),
        }
    }

    /// It failed, beside whatever else did.
    pub fn fail(&mut self, verdict: Verdict) {
        self.verdict = Some(match self.verdict.take() {
            Some(earlier) => earlier.worse(verdict),
            None => verdict,
        });
    }

    /// A request, or what had to precede it, without an answer.
    pub fn fail_with(&mut self, error: &Error) {
        if error.possibly_sent() {
            self.reached = self.reached.max(Reached::Unsure);
        }
        self.fail(Verdict::of_error(error));
    }

    /// Takes what another lane came to.
    pub fn merge(&mut self, other: Tally) {
        self.reached = self.reached.max(other.reached);
        self.acked += other.acked;
        self.last_base_offset = self.last_base_offset.max(other.last_base_offset);
        self.base_offsets.extend(other.base_offsets);
        if let Some(verdict) = other.verdict {
            self.fail(verdict);
        }
    }

    /// Base offsets by item; -1 where there is none.
    pub fn base_offsets(&self, parts: usize) -> Vec<i64> {
        let mut offsets = vec![-1; parts];
        for (item, offset) in &self.base_offsets {
            offsets[*item] = *offset;
        }
        offsets
    }

    /// The input for the machine.
    ///
    /// # Panics
    /// Where nothing failed and yet a batch was not acknowledged.
    pub fn result(self, parts: usize) -> (Result<i64, Verdict>, Reached) {
        match self.verdict {
            Some(verdict) => (Err(verdict), self.reached),
            None => {
                assert_eq!(self.acked, parts, "success means that every batch was acknowledged");
                (Ok(self.last_base_offset), self.reached)
            }
        }
    }

    /// Whether anything failed: nothing further is to be sent.
    pub fn has_failed(&self) -> bool {
        self.verdict.is_some()
    }

    /// Whether all but the checkpoint are acknowledged.
    pub fn awaits_checkpoint(&self, parts: usize) -> bool {
        self.acked > 0 && self.acked + 1 == parts
    }

    /// A request was answered; for this batch with a code and a base offset, or with nothing.
    pub fn answered(&mut self, of: Answer<'_>, answer: Option<(ErrorCode, i64)>) -> Counted {
        self.reached = self.reached.max(Reached::Unsure);
        match answer {
            Some((ErrorCode::NONE, base_offset)) => {
                self.reached = Reached::Acked;
                self.acked += 1;
                self.base_offsets.push((of.item, base_offset));
                if of.item + 1 == of.parts {
                    hit(Step::CheckpointWritten);
                    self.last_base_offset = base_offset;
                }
            }
            Some((ErrorCode::CONCURRENT_TRANSACTIONS, _)) if of.may_repeat => return Counted::Waiting,
            Some((code, _)) => self.fail(Verdict::of_produce(code, of.topic)),
            None => {
                let cause = Cause { api: ApiKey::Produce, code: None };
                self.fail(Verdict::Replay { cause, slow: true });
            }
        }
        Counted::Settled
    }
}
