//! Relays: the producer's own machine, and what stands around it.
//!
//! ```text
//! Down --own the slot--> Fencing --all ids--> Reading --judged--> Streaming --lost, or killed--> Down
//! ```
//! A relay whose slot was taken goes on all the same, as one that was stopped and wakes does: it has frames in its
//! buffers, identities, and requests under way. It only confirms nothing any more.

use std::time::Duration;

use pillarbox_kafka::producer::state::{Action, IdSlot, Input, Machine, Protocol, Reached};
use pillarbox_kafka::producer::{Cause, Failure, LostReason, Verdict};
use pillarbox_kafka::{ApiKey, ErrorCode};
use pillarbox_wire::lsn::Lsn;
use pillarbox_wire::record_batch::ProducerIdentity;

use crate::cluster::{Answer, CHECKPOINT, Parts, Request};
use crate::lives::{Life, LifeKey};
use crate::mistakes::Mistake;

const NOW: Duration = Duration::from_secs(100);
const GIVE_UP: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Relay {
    Down,
    /// The slot stood at `confirmed`; the epochs of the ids fenced so far. `read`: by mistake the checkpoint was read
    /// before.
    Fencing {
        confirmed: Lsn,
        epochs: Vec<i16>,
        read: Option<LifeKey>,
    },
    /// All ids are fenced.
    Reading {
        confirmed: Lsn,
        epochs: Vec<i16>,
    },
    Streaming(Box<Streaming>),
    /// A person must act.
    Halted,
}

/// A produce under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Producing {
    set: usize,
    id: usize,
    epoch: i16,
    stage: Stage,
    /// Unanswered.
    waiting: Parts,
    refused: Option<Verdict>,
    reached: Reached,
}

/// What is under way; the checkpoint comes after all else was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Joining,
    Events,
    Checkpoint,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Streaming {
    machine: Machine,
    pub(crate) life: LifeKey,
    submitted: usize,
    /// Sets whose commit was answered.
    pub(crate) committed: usize,
    /// Sets whose commit was asked for.
    pub(crate) ending: usize,
    producing: Option<Producing>,
}

/// What a relay knows besides its state.
pub(crate) struct Around<'a> {
    pub(crate) life: &'a Life,
    /// Partitions join a transaction with their first batch, not by a request.
    pub(crate) kip890: bool,
    pub(crate) mistake: Option<Mistake>,
}

/// What a step of a relay leads to.
#[derive(Default)]
pub(crate) struct Effects {
    pub(crate) requests: Vec<Request>,
    /// Requests whose answers do not matter.
    pub(crate) strays: Vec<Request>,
    pub(crate) lost: bool,
}

impl Streaming {
    pub(crate) fn new(life: LifeKey, epochs: &[i16], protocol: Protocol) -> Self {
        let identities = epochs.iter().enumerate().map(|(id, epoch)| identity(id, *epoch)).collect();
        let machine = Machine::new(identities, epochs.len(), GIVE_UP, protocol);
        Self { machine, life, submitted: 0, committed: 0, ending: 0, producing: None }
    }

    /// Submits what the intake has sealed, as far as ids are free.
    pub(crate) fn top_up(&mut self, around: &Around<'_>, effects: &mut Effects) {
        while !effects.lost && self.submitted < around.life.sets.len() && self.machine.can_submit() {
            self.submitted += 1;
            self.feed(Input::Submitted, around, effects);
        }
    }

    fn feed(&mut self, input: Input, around: &Around<'_>, effects: &mut Effects) {
        for action in self.machine.step(NOW, input) {
            match action {
                Action::Produce { txn, id, identity, .. } => {
                    self.produce(txn.0 as usize, id.0, identity.producer_epoch, around, effects);
                }
                Action::EndTxn { id, identity, commit, .. } => {
                    self.ending = self.ending.max(self.committed + usize::from(commit));
                    let epoch = identity.producer_epoch;
                    effects.requests.push(Request::EndTxn { id: id.0, epoch, commit });
                }
                Action::Renew { id, identity, .. } => {
                    effects.requests.push(Request::Renew { id: id.0, epoch: identity.producer_epoch });
                }
                Action::Committed { txn, .. } => {
                    assert_eq!(txn.0 as usize, self.committed, "commits come in submit order");
                    self.committed += 1;
                }
                Action::Lost { .. } => effects.lost = true,
            }
        }
    }

    fn produce(&mut self, set: usize, id: usize, epoch: i16, around: &Around<'_>, effects: &mut Effects) {
        let stage = if around.kip890 { Stage::Events } else { Stage::Joining };
        let (waiting, reached) = (Parts::default(), Reached::Nothing);
        self.producing = Some(Producing { set, id, epoch, stage, waiting, refused: None, reached });
        if stage == Stage::Joining {
            let partitions = around.life.sets[set].iter().map(|(partition, _)| *partition);
            return effects.requests.push(Request::Join { id, epoch, parts: Parts::of(partitions) });
        }
        self.send(around, effects);
        self.go_on(around, effects);
    }

    /// Sends the batches of the stage.
    fn send(&mut self, around: &Around<'_>, effects: &mut Effects) {
        let Some(producing) = &mut self.producing else { return };
        let Producing { id, epoch, set, stage, .. } = *producing;
        let of_stage =
            |(partition, _): &&(usize, _)| (*partition == CHECKPOINT) == (stage == Stage::Checkpoint);
        let batches = around.life.sets[set].iter().filter(of_stage);
        producing.waiting = Parts::of(batches.clone().map(|(partition, _)| *partition));
        let request = |&(partition, batch): &(usize, _)| Request::Produce { id, epoch, partition, batch };
        effects.requests.extend(batches.map(request));
    }

    /// A request of this relay was answered.
    pub(crate) fn answered(
        &mut self,
        request: &Request,
        answer: Answer,
        around: &Around<'_>,
        effects: &mut Effects,
    ) {
        match *request {
            Request::Join { .. } => match answer {
                Ok(_) => {
                    self.producing.as_mut().expect("it asked to join").stage = Stage::Events;
                    self.send(around, effects);
                    self.go_on(around, effects);
                }
                Err(code) => self.refused(None, code, around, effects),
            },
            Request::Produce { partition, .. } => match answer {
                Ok(_) => {
                    let producing = self.producing.as_mut().expect("it produced");
                    producing.waiting = producing.waiting.without(Parts::only(partition));
                    producing.reached = Reached::Acked;
                    self.go_on(around, effects);
                }
                Err(code) => self.refused(Some(partition), code, around, effects),
            },
            Request::EndTxn { id, .. } => {
                let (id, result) = (IdSlot(id), result(id, answer));
                self.feed(Input::Ended { id, result, broken: false }, around, effects);
            }
            Request::Renew { id, .. } => {
                let (id, result) = (IdSlot(id), result(id, answer));
                self.feed(Input::Renewed { id, result }, around, effects);
            }
        }
        self.top_up(around, effects);
    }

    /// Nobody waits for the answer to a request of this relay any more; what it does is done later, if at all.
    pub(crate) fn unanswered(&mut self, request: &Request, around: &Around<'_>, effects: &mut Effects) {
        let failure = Err(Failure::NoAnswer);
        let input = match *request {
            Request::Join { .. } | Request::Produce { .. } => {
                let cause = Cause { api: ApiKey::Produce, code: None };
                let result = Err(Verdict::Lose(LostReason::Disconnected { cause }));
                self.producing = None;
                Input::Produced { result, reached: Reached::Unsure }
            }
            Request::EndTxn { id, .. } => Input::Ended { id: IdSlot(id), result: failure, broken: true },
            Request::Renew { id, .. } => Input::Renewed { id: IdSlot(id), result: failure },
        };
        self.feed(input, around, effects);
    }

    fn refused(
        &mut self,
        partition: Option<usize>,
        code: ErrorCode,
        around: &Around<'_>,
        effects: &mut Effects,
    ) {
        let producing = self.producing.as_mut().expect("it produced");
        let answered = partition.map(Parts::only).unwrap_or_default();
        producing.waiting = producing.waiting.without(answered);
        producing.reached = producing.reached.max(Reached::Unsure);
        producing.refused = Some(Verdict::of_produce(code, "topic"));
        self.go_on(around, effects);
    }

    /// Once nothing of a stage is outstanding: the next stage, or the end.
    fn go_on(&mut self, around: &Around<'_>, effects: &mut Effects) {
        let Some(producing) = self.producing.as_mut().filter(|producing| producing.waiting.is_empty()) else {
            return;
        };
        if producing.refused.is_none() && producing.stage == Stage::Events {
            producing.stage = Stage::Checkpoint;
            return self.send(around, effects);
        }
        let Producing { set, id, epoch, refused, reached, .. } =
            self.producing.take().expect("looked at above");
        let early = around.mistake == Some(Mistake::EndsOutOfOrder) && set > self.committed;
        if refused.is_none() && early {
            effects.strays.push(Request::EndTxn { id, epoch, commit: true });
        }
        let result = refused.map_or(Ok(0), Err);
        self.feed(Input::Produced { result, reached }, around, effects);
    }
}

fn identity(id: usize, epoch: i16) -> ProducerIdentity {
    ProducerIdentity { producer_id: id as i64, producer_epoch: epoch }
}

fn result(id: usize, answer: Answer) -> Result<ProducerIdentity, Failure> {
    let failure = |code| Failure::Answered { code, object: String::new() };
    answer.map(|epoch| identity(id, epoch)).map_err(failure)
}
