//! The coordinator of one transactional id.
//!
//! ```text
//!                Produce, or Join            EndTxn                 all markers written
//! Empty ------------------------> Ongoing ---------> Prepare(commit) ------------------> Complete(commit)
//!   ^  InitProducerId                |  EndTxn, InitProducerId,  Prepare(abort)           Complete(abort)
//!   |                                |  timeout                      ^                        |
//!   |                                +-------------------------------+                        |
//!   +------------------------------------ InitProducerId -------------------------------------+
//! ```
//! With KIP-890 each end raises the epoch. With the older protocol only InitProducerId and timeouts do, so that a late
//! EndTxn can end a later transaction (KAFKA-17754).

use std::collections::BTreeSet;
use std::time::Duration;

use pillarbox_kafka::ErrorCode;
use pillarbox_wire::record_batch::ProducerIdentity;

/// A transaction that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) commit: bool,
    /// Under which it was written.
    pub(crate) identity: ProducerIdentity,
    pub(crate) parts: BTreeSet<usize>,
    /// Those without a marker.
    pub(crate) waiting: BTreeSet<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    Empty,
    Ongoing { parts: BTreeSet<usize>, since: Duration },
    Prepare(Ended),
    Complete { commit: bool },
}

#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) identity: ProducerIdentity,
    pub(crate) phase: Phase,
}

type Answer = Result<ProducerIdentity, ErrorCode>;

impl Coordinator {
    pub(crate) fn new(producer_id: i64) -> Self {
        Self { identity: ProducerIdentity { producer_id, producer_epoch: 0 }, phase: Phase::Empty }
    }

    /// Since when a transaction is under way.
    pub(crate) fn since(&self) -> Option<Duration> {
        match self.phase {
            Phase::Ongoing { since, .. } => Some(since),
            _ => None,
        }
    }

    pub(crate) fn has(&self, identity: ProducerIdentity, partition: usize) -> bool {
        self.identity == identity
            && matches!(&self.phase, Phase::Ongoing { parts, .. } if parts.contains(&partition))
    }

    pub(crate) fn join(
        &mut self,
        identity: ProducerIdentity,
        joining: &[usize],
        now: Duration,
    ) -> Result<(), ErrorCode> {
        if self.identity != identity {
            return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        match &mut self.phase {
            Phase::Ongoing { parts, .. } => parts.extend(joining),
            Phase::Prepare(_) => return Err(ErrorCode::CONCURRENT_TRANSACTIONS),
            Phase::Empty | Phase::Complete { .. } => {
                self.phase = Phase::Ongoing { parts: joining.iter().copied().collect(), since: now };
            }
        }
        Ok(())
    }

    pub(crate) fn end(
        &mut self,
        identity: ProducerIdentity,
        commit: bool,
        raised: i16,
        aborts_nothing: bool,
    ) -> Answer {
        let epoch = identity.producer_epoch;
        let current = self.identity.producer_epoch;
        match &self.phase {
            Phase::Prepare(ended) if epoch + raised == current => match ended.commit == commit {
                true => Err(ErrorCode::CONCURRENT_TRANSACTIONS),
                false => Err(ErrorCode::INVALID_TXN_STATE),
            },
            Phase::Complete { commit: was } if epoch + raised == current => match *was == commit {
                true => Ok(self.identity),
                false => Err(ErrorCode::INVALID_TXN_STATE),
            },
            _ if epoch != current => Err(ErrorCode::PRODUCER_FENCED),
            Phase::Ongoing { .. } => {
                self.decide(commit, raised);
                Ok(self.identity)
            }
            Phase::Empty | Phase::Complete { .. } if raised > 0 && !commit && aborts_nothing => {
                self.identity.producer_epoch += 1;
                self.phase = Phase::Complete { commit: false };
                Ok(self.identity)
            }
            _ => Err(ErrorCode::INVALID_TXN_STATE),
        }
    }

    pub(crate) fn init(&mut self, expected: Option<ProducerIdentity>) -> Answer {
        if expected.is_some_and(|expected| expected != self.identity) {
            return Err(ErrorCode::PRODUCER_FENCED);
        }
        match self.phase {
            Phase::Prepare(_) => Err(ErrorCode::CONCURRENT_TRANSACTIONS),
            Phase::Ongoing { .. } => {
                self.decide(false, 1);
                Err(ErrorCode::CONCURRENT_TRANSACTIONS)
            }
            Phase::Empty | Phase::Complete { .. } => {
                self.identity.producer_epoch += 1;
                self.phase = Phase::Empty;
                Ok(self.identity)
            }
        }
    }

    pub(crate) fn time_out(&mut self) {
        if matches!(self.phase, Phase::Ongoing { .. }) {
            self.decide(false, 1);
        }
    }

    fn decide(&mut self, commit: bool, raised: i16) {
        let Phase::Ongoing { parts, .. } = std::mem::replace(&mut self.phase, Phase::Empty) else {
            unreachable!("only what is under way is decided")
        };
        let ended = Ended { commit, identity: self.identity, waiting: parts.clone(), parts };
        self.identity.producer_epoch += raised;
        self.phase = Phase::Prepare(ended);
    }

    /// A partition has its marker.
    pub(crate) fn marked(&mut self, partition: usize) {
        if let Phase::Prepare(ended) = &mut self.phase {
            ended.waiting.remove(&partition);
            if ended.waiting.is_empty() {
                self.phase = Phase::Complete { commit: ended.commit };
            }
        }
    }
}
