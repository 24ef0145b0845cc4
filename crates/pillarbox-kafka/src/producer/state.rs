//! The decisions of the transactional producer. No socket, no clock (`now` is an input), no randomness.
//!
//! ```text
//!             Produce sent            all acks             EndTxn(commit) sent      answered 0
//!  Open ------------------> Producing ---------> Acked --------------------> Ending ----------> committed
//!   ^                          |                                             |  ^
//!   |                          | a failure                       no answer,  |  | repeat the same
//!   |                          v                                 51,14,15,16 v  | (id, epoch)
//!   |   nothing sent  <---- Settling: EndTxn(abort), or                    Unknown
//!   +---- or settled        InitProducerId of the same identity
//! ```
//! Order rules. Produce(n+1) starts when n is `Acked`; EndTxn(n+1) when n is committed. So of all transactions in
//! the machine at most one has written without being acknowledged, and a failure of Produce can only concern that
//! one: the earlier ones are complete and go on to commit, the later ones have sent nothing. It is settled (aborted
//! under its own identity), adopts the identity the coordinator returns, and is produced again, before anything
//! that stands behind it.
//!
//! An id belongs to its transaction until EndTxn was answered: an unanswered EndTxn is repeated, never followed by
//! an abort and never by other work under that id.
//!
//! A broken connection ends the producer, once it is known what became of the commit under way. The broker behind it
//! may have died between deciding a transaction and writing its markers, and a restarted one can forget them
//! ([`crate::markers`]). As long as nothing else happens under that id, its coordinator still knows the outcome. A
//! further transaction, an abort or an InitProducerId would erase that, and an abort would even drop what was
//! committed. So nothing of the kind is sent.
//!
//! The older protocol ("TV1", before Kafka 4.0) does not raise the epoch with every end of a transaction, so that a
//! delayed EndTxn could end a later transaction (KAFKA-17754). There the machine raises it itself: after each end the
//! id is renewed, beside everything else, and its next transaction waits for that. Where EndTxn had no answer, the
//! repeat was answered before the producer ended, and its successor renews every id.
//!
//! | answer | what it means here |
//! | --- | --- |
//! | Produce 47, 90; EndTxn, InitProducerId 47, 90 | `Lost(Fenced)` (another owner, or the coordinator's timeout) |
//! | EndTxn(commit) 48; abort 48 after an ack | `Lost(TimedOut)`: the coordinator ended it without us |
//! | EndTxn(abort) 48 without any ack | the coordinator never heard of it: renew the identity instead |
//! | EndTxn, InitProducerId: 51, 14, 15, 16 | repeat, at most `give_up` long, then `Lost(Unreachable)` |
//! | EndTxn(commit): no answer | the same, and `Lost(Disconnected)` right after the answer |
//! | Produce, abort, InitProducerId: no answer | `Lost(Disconnected)` |
//! | EndTxn: answered on a new connection in place of one that broke | adopt it, then `Lost(Disconnected)` |
//! | EndTxn, InitProducerId: anything else | proves nothing: `Lost(Undecidable)` |
//! | Produce, a [`Verdict::Replay`] | settle and produce again, at most `give_up` without a commit |
//! | Produce, a [`Verdict::Lose`] | settle, let the earlier ones commit, then `Lost` |

use std::collections::VecDeque;
use std::time::Duration;

use pillarbox_wire::record_batch::ProducerIdentity;

use crate::error::ErrorCode;
use kafka_protocol::messages::ApiKey;

use super::verdict::{Cause, Failure, LostReason, Verdict};

/// First pause after `CONCURRENT_TRANSACTIONS`: markers of a small transaction are out within a few milliseconds.
const MARKERS_PAUSE: Duration = Duration::from_millis(5);

/// First and longest pause before any other repetition.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A transaction in the machine; counts from 0 and grows by one with each submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxnKey(pub u64);

/// Which of the owned transactional ids, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdSlot(pub usize);

/// How far a transaction's requests got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reached {
    /// No byte left us.
    Nothing,
    /// Something may have been written; nothing was acknowledged.
    Unsure,
    /// At least one partition acknowledged.
    Acked,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// One more transaction, behind all others. Only while [`Machine::can_submit`].
    Submitted,
    /// The produce under way is over.
    Produced {
        /// The base offset of the last batch, or what the failure means.
        result: Result<i64, Verdict>,
        /// How far it got.
        reached: Reached,
    },
    /// EndTxn is over.
    Ended {
        /// Of this id.
        id: IdSlot,
        /// The identity for its next transaction.
        result: Result<ProducerIdentity, Failure>,
        /// A connection that carried transactions has broken since the start.
        broken: bool,
    },
    /// InitProducerId is over.
    Renewed {
        /// Of this id.
        id: IdSlot,
        /// The identity for its next transaction.
        result: Result<ProducerIdentity, Failure>,
    },
}

/// What to do. `pause` comes first, `refresh` second (metadata for Produce, the coordinator otherwise).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write all batches of a transaction under this identity; answer with [`Input::Produced`].
    Produce {
        /// Which transaction.
        txn: TxnKey,
        /// Under which id.
        id: IdSlot,
        /// And which identity of that id.
        identity: ProducerIdentity,
        /// Wait this long first.
        pause: Duration,
        /// Then ask for metadata again.
        refresh: bool,
    },
    /// End the transaction of this identity; answer with [`Input::Ended`].
    EndTxn {
        /// Under which id.
        id: IdSlot,
        /// Under exactly this identity.
        identity: ProducerIdentity,
        /// Commit, or else abort.
        commit: bool,
        /// Wait this long first.
        pause: Duration,
        /// Then ask for the coordinator again.
        refresh: bool,
    },
    /// InitProducerId with this identity as the expected one; answer with [`Input::Renewed`].
    Renew {
        /// Under which id.
        id: IdSlot,
        /// The identity it must still have.
        identity: ProducerIdentity,
        /// Wait this long first.
        pause: Duration,
        /// Then ask for the coordinator again.
        refresh: bool,
    },
    /// The oldest transaction is committed; hand it back.
    Committed {
        /// Which transaction.
        txn: TxnKey,
        /// As [`Input::Produced`] said.
        last_base_offset: i64,
    },
    /// Nothing more will happen; hand everything back.
    Lost {
        /// Why.
        reason: LostReason,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Txn {
    key: TxnKey,
    id: IdSlot,
    stage: Stage,
    /// Repetitions of the request under way.
    attempts: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Open {
        pause: Duration,
        refresh: bool,
    },
    Producing,
    Acked {
        last_base_offset: i64,
    },
    /// Also the state `Unknown`: `attempts` > 0 then.
    Ending {
        last_base_offset: i64,
        since: Duration,
    },
    Aborting {
        verdict: Verdict,
        reached: Reached,
        since: Duration,
    },
    Renewing {
        verdict: Verdict,
        since: Duration,
    },
    /// Settled, and it cannot be produced: lost once it is the oldest.
    Doomed {
        reason: LostReason,
    },
}

/// Which protocol the cluster speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `transaction.version` 0 and 1.
    Older,
    /// KIP-890, `transaction.version` 2: every end raises the epoch.
    Kip890,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Renewal {
    since: Duration,
    attempts: u32,
}

/// See the module's documentation. A value: two that are equal decide alike, so that a model can visit its states.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    identities: Vec<ProducerIdentity>,
    in_use: usize,
    next_id: usize,
    next_key: u64,
    queue: VecDeque<Txn>,
    /// Since when no commit succeeded although one was tried.
    failing_since: Option<Duration>,
    replays_in_a_row: u32,
    give_up: Duration,
    protocol: Protocol,
    /// Ids that are being renewed after an end, by slot.
    renewals: Vec<Option<Renewal>>,
    /// What was under way when a connection broke: nothing new is begun.
    disconnected: Option<Cause>,
    lost: bool,
}

impl Machine {
    /// `identities` of all owned ids; the first `in_use` are rotated through.
    ///
    /// # Panics
    /// Unless `in_use` is between one and the number of ids.
    pub fn new(
        identities: Vec<ProducerIdentity>,
        in_use: usize,
        give_up: Duration,
        protocol: Protocol,
    ) -> Self {
        assert!(in_use > 0 && in_use <= identities.len(), "at least one id, at most those owned");
        Self {
            renewals: vec![None; identities.len()],
            protocol,
            identities,
            in_use,
            next_id: 0,
            next_key: 0,
            queue: VecDeque::with_capacity(in_use),
            failing_since: None,
            replays_in_a_row: 0,
            give_up,
            disconnected: None,
            lost: false,
        }
    }

    /// An id is free. They come free in order, so the next one in rotation is.
    pub fn can_submit(&self) -> bool {
        !self.lost && self.queue.len() < self.in_use
    }

    /// The key and identity the next submitted transaction will get, unless its id is renewed before it is produced.
    pub fn next_identity(&self) -> (TxnKey, ProducerIdentity) {
        (TxnKey(self.next_key), self.identities[self.next_id])
    }

    /// The one entry: what happened, and what is to be done about it.
    pub fn step(&mut self, now: Duration, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.lost {
            return actions;
        }
        match input {
            Input::Submitted => self.submitted(),
            Input::Produced { result, reached } => self.produced(now, result, reached, &mut actions),
            Input::Ended { id, result, broken } => {
                if broken || result == Err(Failure::NoAnswer) {
                    self.disconnected.get_or_insert(Cause { api: ApiKey::EndTxn, code: None });
                }
                self.ended(now, id, result, &mut actions);
            }
            Input::Renewed { id, result } => self.renewed(now, id, result, &mut actions),
        }
        self.advance(now, &mut actions);
        actions
    }

    fn submitted(&mut self) {
        assert!(self.can_submit(), "submit without a free id");
        let id = IdSlot(self.next_id);
        assert!(self.queue.iter().all(|txn| txn.id != id), "an id in use came up in rotation");
        self.next_id = (self.next_id + 1) % self.in_use;
        let stage = Stage::Open { pause: Duration::ZERO, refresh: false };
        self.queue.push_back(Txn { key: TxnKey(self.next_key), id, stage, attempts: 0 });
        self.next_key += 1;
    }

    fn produced(
        &mut self,
        now: Duration,
        result: Result<i64, Verdict>,
        reached: Reached,
        actions: &mut Vec<Action>,
    ) {
        let at = self.queue.iter().position(|txn| txn.stage == Stage::Producing);
        let at = at.expect("an answer to Produce while none is under way");
        let verdict = match result {
            Ok(last_base_offset) => {
                self.queue[at].stage = Stage::Acked { last_base_offset };
                return;
            }
            Err(verdict) => self.bounded(now, verdict),
        };
        match (&verdict, reached) {
            (Verdict::Lose(reason), _) if reason.is_final() => self.lose(reason.clone(), actions),
            (_, Reached::Nothing) => self.settled(at, verdict),
            // No abort any more; the end comes with the answer to the commit before it.
            _ if let Some(cause) = self.disconnected => {
                self.queue[at].stage = Stage::Doomed { reason: LostReason::Disconnected { cause } };
            }
            _ => {
                self.queue[at].attempts = 0;
                self.queue[at].stage = Stage::Aborting { verdict, reached, since: now };
                actions.push(self.end_txn(at, false, Duration::ZERO, false));
            }
        }
    }

    /// A replay after too long without a commit is a loss.
    fn bounded(&mut self, now: Duration, verdict: Verdict) -> Verdict {
        let since = *self.failing_since.get_or_insert(now);
        match verdict {
            Verdict::Replay { cause, .. } if now.saturating_sub(since) >= self.give_up => {
                Verdict::Lose(LostReason::Unreachable { last: cause })
            }
            verdict => verdict,
        }
    }

    fn ended(
        &mut self,
        now: Duration,
        id: IdSlot,
        result: Result<ProducerIdentity, Failure>,
        actions: &mut Vec<Action>,
    ) {
        let at = self.holder(id);
        match (self.queue[at].stage.clone(), result) {
            (Stage::Ending { last_base_offset, .. }, Ok(identity)) => {
                assert_eq!(at, 0, "only the oldest transaction ends");
                self.adopt(id, identity);
                let txn = self.queue.pop_front().expect("the holder is in the queue");
                self.failing_since = None;
                self.replays_in_a_row = 0;
                actions.push(Action::Committed { txn: txn.key, last_base_offset });
                self.lose_if_disconnected(actions);
                if self.protocol == Protocol::Older && !self.lost {
                    self.renewals[id.0] = Some(Renewal { since: now, attempts: 0 });
                    actions.push(self.renew(id, Duration::ZERO, false));
                }
            }
            (Stage::Ending { since, .. }, Err(failure)) => {
                self.repeat_or_lose(now, at, since, failure, ApiKey::EndTxn, actions);
            }
            (Stage::Aborting { verdict, .. }, Ok(identity)) => {
                self.adopt(id, identity);
                match self.protocol {
                    Protocol::Kip890 => self.settled(at, verdict),
                    Protocol::Older => self.renew_to_settle(now, at, verdict, actions),
                }
                self.lose_if_disconnected(actions);
            }
            (Stage::Aborting { verdict, reached: Reached::Unsure, .. }, Err(failure))
                if failure.code() == Some(ErrorCode::INVALID_TXN_STATE) =>
            {
                self.renew_to_settle(now, at, verdict, actions);
            }
            (Stage::Aborting { since, .. }, Err(failure)) => {
                self.repeat_or_lose(now, at, since, failure, ApiKey::EndTxn, actions);
            }
            (stage, _) => panic!("an answer to EndTxn in {stage:?}"),
        }
    }

    fn renew_to_settle(&mut self, now: Duration, at: usize, verdict: Verdict, actions: &mut Vec<Action>) {
        self.queue[at].attempts = 0;
        self.queue[at].stage = Stage::Renewing { verdict, since: now };
        actions.push(self.renew(self.queue[at].id, Duration::ZERO, false));
    }

    /// InitProducerId of an id whose transaction has ended is over.
    fn renewed_beside(
        &mut self,
        now: Duration,
        id: IdSlot,
        renewal: Renewal,
        result: Result<ProducerIdentity, Failure>,
        actions: &mut Vec<Action>,
    ) {
        let api = ApiKey::InitProducerId;
        let failure = match result {
            Ok(identity) => {
                self.adopt(id, identity);
                self.renewals[id.0] = None;
                return;
            }
            Err(Failure::NoAnswer) => {
                return self.lose(LostReason::Disconnected { cause: Cause { api, code: None } }, actions);
            }
            Err(failure) => failure,
        };
        if let Some(reason) = failure.coordinator_loss(api) {
            return self.lose(reason, actions);
        }
        if now.saturating_sub(renewal.since) >= self.give_up {
            let last = Cause { api, code: failure.code() };
            return self.lose(LostReason::Unreachable { last }, actions);
        }
        let concurrent = failure.code() == Some(ErrorCode::CONCURRENT_TRANSACTIONS);
        let pause = if concurrent { markers_pause(renewal.attempts) } else { pause(renewal.attempts) };
        self.renewals[id.0] = Some(Renewal { attempts: renewal.attempts.saturating_add(1), ..renewal });
        actions.push(self.renew(id, pause, !concurrent));
    }

    fn renewed(
        &mut self,
        now: Duration,
        id: IdSlot,
        result: Result<ProducerIdentity, Failure>,
        actions: &mut Vec<Action>,
    ) {
        if let Some(renewal) = self.renewals[id.0] {
            return self.renewed_beside(now, id, renewal, result, actions);
        }
        let at = self.holder(id);
        let Stage::Renewing { verdict, since } = self.queue[at].stage.clone() else {
            panic!("an answer to InitProducerId in {:?}", self.queue[at].stage);
        };
        match result {
            Ok(identity) => {
                self.adopt(id, identity);
                self.settled(at, verdict);
            }
            Err(failure) => self.repeat_or_lose(now, at, since, failure, ApiKey::InitProducerId, actions),
        }
    }

    /// The failure table of EndTxn and InitProducerId.
    fn repeat_or_lose(
        &mut self,
        now: Duration,
        at: usize,
        since: Duration,
        failure: Failure,
        api: ApiKey,
        actions: &mut Vec<Action>,
    ) {
        if let Some(reason) = failure.coordinator_loss(api) {
            return self.lose(reason, actions);
        }
        let commits = matches!(self.queue[at].stage, Stage::Ending { .. });
        if failure == Failure::NoAnswer && !commits {
            return self.lose(LostReason::Disconnected { cause: Cause { api, code: None } }, actions);
        }
        if now.saturating_sub(since) >= self.give_up {
            let last = Cause { api, code: failure.code() };
            return self.lose(LostReason::Unreachable { last }, actions);
        }
        let attempts = self.queue[at].attempts;
        self.queue[at].attempts = attempts.saturating_add(1);
        let concurrent = failure.code() == Some(ErrorCode::CONCURRENT_TRANSACTIONS);
        let pause = if concurrent { markers_pause(attempts) } else { pause(attempts) };
        let action = match self.queue[at].stage {
            Stage::Renewing { .. } => self.renew(self.queue[at].id, pause, !concurrent),
            Stage::Aborting { .. } => self.end_txn(at, false, pause, !concurrent),
            _ => self.end_txn(at, true, pause, !concurrent),
        };
        actions.push(action);
    }

    /// The id of a failed transaction is clean again.
    fn settled(&mut self, at: usize, verdict: Verdict) {
        self.queue[at].attempts = 0;
        self.queue[at].stage = match verdict {
            Verdict::Lose(reason) => Stage::Doomed { reason },
            Verdict::Replay { slow, .. } => {
                let replays = self.replays_in_a_row + u32::from(slow);
                self.replays_in_a_row = self.replays_in_a_row.saturating_add(1);
                let pause = if replays == 0 { Duration::ZERO } else { pause(replays) };
                Stage::Open { pause, refresh: true }
            }
        };
    }

    /// Starts whatever the order rules allow.
    fn advance(&mut self, now: Duration, actions: &mut Vec<Action>) {
        if self.lost {
            return;
        }
        if self.disconnected.is_some() {
            return;
        }
        match self.queue.front().map(|txn| txn.stage.clone()) {
            Some(Stage::Acked { last_base_offset }) => {
                self.queue[0].attempts = 0;
                self.queue[0].stage = Stage::Ending { last_base_offset, since: now };
                actions.push(self.end_txn(0, true, Duration::ZERO, false));
            }
            Some(Stage::Doomed { reason }) => return self.lose(reason, actions),
            _ => {}
        }
        let done = |txn: &Txn| matches!(txn.stage, Stage::Acked { .. } | Stage::Ending { .. });
        let Some(at) = self.queue.iter().position(|txn| !done(txn)) else { return };
        if let Stage::Open { pause, refresh } = self.queue[at].stage
            && self.renewals[self.queue[at].id.0].is_none()
        {
            self.queue[at].stage = Stage::Producing;
            let Txn { key, id, .. } = self.queue[at];
            let identity = self.identities[id.0];
            actions.push(Action::Produce { txn: key, id, identity, pause, refresh });
        }
    }

    fn lose_if_disconnected(&mut self, actions: &mut Vec<Action>) {
        if let Some(cause) = self.disconnected {
            self.lose(LostReason::Disconnected { cause }, actions);
        }
    }

    fn lose(&mut self, reason: LostReason, actions: &mut Vec<Action>) {
        self.lost = true;
        actions.push(Action::Lost { reason });
    }

    fn holder(&self, id: IdSlot) -> usize {
        let at = self.queue.iter().position(|txn| txn.id == id);
        at.expect("an answer for an id that no transaction holds")
    }

    fn adopt(&mut self, id: IdSlot, identity: ProducerIdentity) {
        self.identities[id.0] = identity;
    }

    fn end_txn(&self, at: usize, commit: bool, pause: Duration, refresh: bool) -> Action {
        let id = self.queue[at].id;
        Action::EndTxn { id, identity: self.identities[id.0], commit, pause, refresh }
    }

    fn renew(&self, id: IdSlot, pause: Duration, refresh: bool) -> Action {
        Action::Renew { id, identity: self.identities[id.0], pause, refresh }
    }
}

/// Doubles from [`PAUSE_MIN`] to [`PAUSE_MAX`].
pub(crate) fn pause(attempts: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << attempts.min(8)).min(PAUSE_MAX)
}

/// 5 ms, then 10.
pub(crate) fn markers_pause(attempts: u32) -> Duration {
    if attempts < 2 { MARKERS_PAUSE } else { 2 * MARKERS_PAUSE }
}

#[cfg(test)]
mod tests;
