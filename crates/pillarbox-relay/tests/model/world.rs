//! The world of the model: one database, one cluster, relays, requests under way; and all that can happen next.
//!
//! Faults are spent from a budget, so that every order of steps is visited:
//!
//! | fault | what happens |
//! | --- | --- |
//! | crash | a relay is killed; its requests may arrive later, or never |
//! | takeover | another relay takes the slot from one that lives and goes on |
//! | fallback | Postgres crashes: the slot is where it was at first, whoever held it is closed |
//! | silence | an answer never comes: the connection broke; the request may arrive later, or never |
//! | copy | a request arrives twice |
//! | refusal | a broker refuses a request for now, and has done nothing |
//! | timeout | a coordinator aborts a transaction, because its relay was stopped for so long |
//!
//! Starts are bounded too: two relays could fence each other for ever.

use std::fmt;

use pillarbox_kafka::ErrorCode;
use pillarbox_wire::lsn::Lsn;

use crate::cluster::{CHECKPOINT, Cluster, Request};
use crate::relays::Relay;
use crate::wal::START;

/// How often what can happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) crashes: u8,
    pub(crate) takeovers: u8,
    pub(crate) fallbacks: u8,
    pub(crate) silences: u8,
    pub(crate) copies: u8,
    pub(crate) refusals: u8,
    pub(crate) timeouts: u8,
    /// Not a fault: how often relays start, at most.
    pub(crate) starts: u8,
}

/// A request under way. Without a sender nobody waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Message {
    pub(crate) from: Option<usize>,
    pub(crate) request: Request,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// A relay gets the slot.
    Start(usize),
    /// It does InitProducerId for its next id.
    Fence(usize),
    /// It reads the checkpoint and begins to stream.
    Read(usize),
    /// It confirms to Postgres what it may.
    Confirm(usize),
    Deliver(Message),
    /// A coordinator writes a marker: id, partition.
    Mark(usize, usize),
    Crash(usize),
    TakeOver(usize),
    FallBack,
    Silence(Message),
    Copy(Message),
    Refuse(Message),
    /// Of the transaction of this id.
    TimeOut(usize),
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Budget { crashes, takeovers, fallbacks, silences, copies, refusals, timeouts, .. } = self;
        for (count, what) in [
            (crashes, "crash"),
            (takeovers, "takeover"),
            (fallbacks, "fallback"),
            (silences, "silence"),
            (copies, "copy"),
            (refusals, "refusal"),
            (timeouts, "timeout"),
        ] {
            if *count > 0 {
                write!(f, "{count} {what} ")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, epoch) = self.request.identity();
        match self.request {
            Request::Join { .. } => write!(f, "AddPartitionsToTxn({id}:{epoch})"),
            Request::Produce { partition, .. } => write!(f, "Produce({id}:{epoch} to {partition})"),
            Request::EndTxn { commit: true, .. } => write!(f, "EndTxn({id}:{epoch} commit)"),
            Request::EndTxn { commit: false, .. } => write!(f, "EndTxn({id}:{epoch} abort)"),
            Request::Renew { .. } => write!(f, "InitProducerId({id}:{epoch})"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Start(at) => write!(f, "relay {at} owns the slot"),
            Step::Fence(at) => write!(f, "relay {at} fences"),
            Step::Read(at) => write!(f, "relay {at} reads the checkpoint"),
            Step::Confirm(at) => write!(f, "relay {at} confirms"),
            Step::Deliver(message) if message.from.is_none() => write!(f, "{message}, late"),
            Step::Deliver(message) => write!(f, "{message}"),
            Step::Mark(id, partition) => write!(f, "marker of {id} in {partition}"),
            Step::Crash(at) => write!(f, "RELAY {at} IS KILLED"),
            Step::TakeOver(at) => write!(f, "RELAY {at} TAKES THE SLOT"),
            Step::FallBack => write!(f, "THE SLOT FALLS BACK"),
            Step::Silence(message) => write!(f, "NO ANSWER TO {message}"),
            Step::Copy(message) => write!(f, "A COPY OF {message}"),
            Step::Refuse(message) => write!(f, "{message} IS REFUSED"),
            Step::TimeOut(id) => write!(f, "THE TRANSACTION OF {id} TIMES OUT"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// The slot.
    pub(crate) confirmed: Lsn,
    pub(crate) owner: Option<usize>,
    pub(crate) cluster: Cluster,
    pub(crate) relays: Vec<Relay>,
    /// Sorted: their order means nothing.
    pub(crate) net: Vec<Message>,
    pub(crate) left: Budget,
}

impl World {
    pub(crate) fn new(cluster: Cluster, relays: usize, left: Budget) -> Self {
        let relays = vec![Relay::Down; relays];
        Self { confirmed: START, owner: None, cluster, relays, net: Vec::new(), left }
    }

    /// What can happen without a fault. A checkpoint is read to the high watermark, unless `hastily`.
    pub(crate) fn progress(&self, steps: &mut Vec<Step>, hastily: bool, may_confirm: impl Fn(usize) -> Lsn) {
        steps.extend(self.startable().filter(|_| self.owner.is_none()).map(Step::Start));
        for (at, relay) in self.relays.iter().enumerate() {
            match relay {
                Relay::Fencing { epochs, .. } if !self.cluster.is_ending(epochs.len()) => {
                    steps.push(Step::Fence(at));
                }
                Relay::Reading { .. } if hastily || self.cluster.is_stable(CHECKPOINT) => {
                    steps.push(Step::Read(at));
                }
                Relay::Streaming(_) if self.owner == Some(at) && may_confirm(at) > self.confirmed => {
                    steps.push(Step::Confirm(at));
                }
                _ => {}
            }
        }
        // One that waits at a broker changes nothing.
        let arrives = |message: &&Message| !self.cluster.holds_back(&message.request);
        steps.extend(self.net.iter().filter(arrives).map(|message| Step::Deliver(*message)));
        steps.extend(self.cluster.markers().map(|(id, partition)| Step::Mark(id, partition)));
        if steps.is_empty() {
            steps.extend(self.cluster.ongoing().map(Step::TimeOut));
        }
    }

    /// Those that are down are alike.
    fn startable(&self) -> Option<usize> {
        self.relays.iter().position(|relay| *relay == Relay::Down).filter(|_| self.left.starts > 0)
    }

    /// What else can happen.
    pub(crate) fn faults(&self, steps: &mut Vec<Step>) {
        let Budget { crashes, takeovers, fallbacks, silences, copies, refusals, timeouts, .. } = self.left;
        let lives = |relay: &Relay| !matches!(relay, Relay::Down | Relay::Halted);
        let alive = (0..self.relays.len()).filter(|at| lives(&self.relays[*at]));
        steps.extend(alive.filter(|_| crashes > 0).map(Step::Crash));
        let taken = |_: &usize| takeovers > 0 && self.owner.is_some();
        steps.extend(self.startable().filter(taken).map(Step::TakeOver));
        steps.extend((fallbacks > 0 && self.confirmed > START).then_some(Step::FallBack));
        steps.extend(self.cluster.ongoing().filter(|_| timeouts > 0).map(Step::TimeOut));
        for message in self.net.iter().filter(|message| message.from.is_some()) {
            steps.extend((silences > 0).then_some(Step::Silence(*message)));
            steps.extend((copies > 0).then_some(Step::Copy(*message)));
            steps.extend((refusals > 0).then_some(Step::Refuse(*message)));
        }
    }

    /// What a broker says that cannot do a request now.
    pub(crate) fn refusal(request: &Request) -> ErrorCode {
        match request {
            Request::Produce { .. } => ErrorCode::NOT_LEADER_OR_FOLLOWER,
            Request::Join { .. } | Request::EndTxn { .. } | Request::Renew { .. } => {
                ErrorCode::NOT_COORDINATOR
            }
        }
    }

    pub(crate) fn remove(&mut self, message: &Message) {
        let at = self.net.iter().position(|other| other == message);
        self.net.remove(at.expect("it is under way"));
    }

    pub(crate) fn send(&mut self, from: Option<usize>, requests: Vec<Request>) {
        self.net.extend(requests.into_iter().map(|request| Message { from, request }));
    }

    /// A relay is gone, and with it everybody who waits for its requests.
    pub(crate) fn bring_down(&mut self, at: usize) {
        self.relays[at] = Relay::Down;
        if self.owner == Some(at) {
            self.owner = None;
        }
        for message in &mut self.net {
            message.from = message.from.filter(|from| *from != at);
        }
    }

    /// The same world, the same value.
    pub(crate) fn tidy(&mut self) {
        let cluster = &self.cluster;
        self.net.retain(|message| message.from.is_some() || !cluster.is_spent(&message.request));
        self.net.sort_unstable();
    }
}
