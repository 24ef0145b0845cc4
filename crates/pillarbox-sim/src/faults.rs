//! What goes wrong, and what an operator does; how a run heals and is judged.

use std::time::Duration;

use pillarbox_relay::pipeline::State;
use pillarbox_relay::pipeline::state::Input;
use pillarbox_relay::position::acceptance::{History, accepted, compare};
use pillarbox_relay::position::checkpoint::{Delta, PositionRecord, encode};

use crate::checker::Violation;
use crate::kafka::coordinator::Phase;
use crate::kafka::log::Batch;
use crate::kafka::{BROKERS, CHECKPOINT};
use crate::world::{Event, MS, S, World};

/// Kinds of faults.
pub(crate) const KINDS: usize = FAULTS.len();

/// In the order of [`crate::world::Figures::faults`].
pub(crate) const FAULTS: [(Fault, &str); 13] = [
    (Fault::Kill, "relay killed"),
    (Fault::Stall, "relay stopped for a while"),
    (Fault::HalfOpen, "relay gone without the server's notice"),
    (Fault::Crash, "Postgres crashed"),
    (Fault::Restart, "Postgres restarted"),
    (Fault::Promote, "standby promoted"),
    (Fault::Terminate, "walsender ended"),
    (Fault::BrokerDies, "broker died"),
    (Fault::LeaderMoves, "leader moved"),
    (Fault::CoordinatorMoves, "coordinator moved"),
    (Fault::CommitsWait, "commits wait for a standby"),
    (Fault::Drain, "relay drained"),
    (Fault::Cut, "connections to a broker cut"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    Stall,
    HalfOpen,
    Crash,
    Restart,
    Promote,
    Terminate,
    BrokerDies,
    LeaderMoves,
    CoordinatorMoves,
    CommitsWait,
    Drain,
    Cut,
}

/// How long after healing everything must be out: a transaction's timeout, a silent leader, the longest wait between two
/// starts, and one start that is given up.
const PROGRESS_MAX: Duration = Duration::from_secs(90);
/// A run for safety alone goes on for this long after the last fault.
const AFTERMATH: Duration = Duration::from_secs(3);
const JUDGE_INTERVAL: Duration = Duration::from_secs(1);

impl World {
    pub(crate) fn fault(&mut self) {
        if self.is_healed() {
            return;
        }
        let pause = self.dice.between(self.scenario.fault_pause / 4, self.scenario.fault_pause * 2);
        self.agenda.after(pause, Event::Fault);
        let kind = self.dice.index(KINDS);
        if self.scenario.faults & (1 << kind) == 0 {
            return;
        }
        let (fault, name) = FAULTS[kind];
        self.figures.faults[kind] += 1;
        self.trace.line(self.agenda.now, format_args!("FAULT: {name}"));
        match fault {
            Fault::Kill | Fault::Stall | Fault::HalfOpen | Fault::Drain => self.relay_fault(fault),
            Fault::Crash | Fault::Restart | Fault::Promote | Fault::Terminate | Fault::CommitsWait => {
                self.postgres_fault(fault);
            }
            Fault::BrokerDies | Fault::LeaderMoves | Fault::CoordinatorMoves | Fault::Cut => {
                self.kafka_fault(fault)
            }
        }
    }

    fn relay_fault(&mut self, fault: Fault) {
        let now = self.agenda.now;
        let relay = self.dice.index(self.relays.len());
        match fault {
            Fault::Stall => {
                let length = self.dice.between(100 * MS, 15 * S);
                if self.dice.one_in(2) {
                    self.relays[relay].stall = Some(length);
                    return;
                }
                self.trace.line(now, format_args!("relay {relay} is stopped for {length:?}"));
                // One stop at a time: what waits for its end would change its order.
                let until = &mut self.relays[relay].stalled_until;
                if *until <= now {
                    *until = now + length;
                }
            }
            Fault::Drain => self.live(relay, Input::Stop),
            _ => {
                self.trace.line(now, format_args!("relay {relay} is killed"));
                if fault == Fault::HalfOpen
                    && let Some(reader) = &mut self.relays[relay].reader
                {
                    reader.session = None;
                }
                self.kill(relay);
                let pause = self.dice.between(50 * MS, 3 * S);
                self.agenda.after(pause, Event::Boot(relay));
            }
        }
    }

    pub(crate) fn postgres_fault(&mut self, fault: Fault) {
        let now = self.agenda.now;
        if !self.postgres.is_up(now) {
            return;
        }
        let up_at = now + self.dice.between(100 * MS, 3 * S);
        let session = self.postgres.slot.session.as_ref().map(|session| session.number);
        if fault == Fault::CommitsWait {
            self.postgres.stalled_until = now + self.dice.between(S, 20 * S);
            return;
        }
        if let Some(session) = session {
            self.close_session(session);
        }
        match fault {
            Fault::Crash => self.postgres.crash(up_at),
            Fault::Restart => self.postgres.restart(up_at),
            Fault::Promote => self.promote(up_at),
            _ => {}
        }
    }

    fn promote(&mut self, up_at: Duration) {
        let before = self.postgres.expected.clone();
        let fork = self.postgres.promote(up_at);
        self.trace.line(self.agenda.now, format_args!("history forks at {fork}"));
        self.former.push(before);
        self.checker.cut(&self.postgres.expected);
        if self.checker.has_ghosts() {
            self.trace.line(self.agenda.now, format_args!("what was published is in no database any more"));
        }
    }

    fn kafka_fault(&mut self, fault: Fault) {
        let now = self.agenda.now;
        let broker = self.dice.index(BROKERS);
        match fault {
            Fault::BrokerDies => {
                let down = self.dice.between(200 * MS, 8 * S);
                self.broker_down(broker, down);
            }
            Fault::LeaderMoves => {
                let partition = self.dice.index(self.kafka.leaders.len());
                if self.kafka.up[broker] {
                    self.kafka.leaders[partition] = Some(broker);
                }
            }
            Fault::CoordinatorMoves => {
                let id = self.dice.index(self.kafka.ids.len());
                self.kafka.homes[id] = broker;
                self.kafka.loading[id] = now + self.dice.between(5 * MS, 500 * MS);
            }
            _ => {
                let relay = self.dice.index(self.relays.len());
                self.break_connection(relay, broker);
            }
        }
    }

    /// An operator looks at a pipeline that has halted, and accepts what was cut.
    pub(crate) fn accept(&mut self) {
        if !self.checker.has_ghosts() {
            return self.revive();
        }
        let now = self.agenda.now;
        let busy = |phase: &Phase| matches!(phase, Phase::Ongoing { .. } | Phase::Prepare(_));
        for id in 0..self.kafka.ids.len() {
            if let Phase::Ongoing { .. } = self.kafka.ids[id].phase {
                self.kafka.time_out(id);
            }
        }
        self.decisions(0, &crate::kafka::Request::Metadata);
        let open = self.kafka.logs[CHECKPOINT].open().next().is_some();
        if open || self.kafka.ids.iter().any(|id| busy(&id.phase)) || !self.postgres.is_up(now) {
            return self.agenda.after(500 * MS, Event::Accept);
        }
        let facts = self.postgres.facts();
        let Ok(History::Cut(cut)) = compare(&facts, &self.checker.position, None) else { return };
        let Ok(position) = accepted(&cut, &facts, &self.checker.position) else { return };
        for id in &mut self.kafka.ids {
            id.init(None).expect("nothing is under way");
        }
        self.trace.line(now, format_args!("the operator accepts the cut at {}", cut.fork));
        self.declare(&position);
        self.checker.accepted(position);
        self.revive();
    }

    /// The checkpoint as the operator wants it.
    fn declare(&mut self, position: &PositionRecord) {
        let mut records = Vec::new();
        encode(&Delta::default(), position, |key, value| {
            records.push((key.as_bytes().to_vec(), value.to_vec()))
        });
        let identity = self.kafka.ids[0].identity;
        let batch = Batch::Checkpoint(records, Box::new(position.clone()));
        let log = &mut self.kafka.logs[CHECKPOINT];
        log.append(identity, 0, &batch.into()).expect("everybody else is fenced");
        log.end_transaction(identity, identity.producer_epoch + 1, true);
        self.kafka.ids[0].identity.producer_epoch += 1;
    }

    /// An operator compares what partitions hold with the outbox, and ends what is open as it was decided.
    pub(crate) fn mend(&mut self) {
        for (partition, open, commit) in std::mem::take(&mut self.kafka.lost) {
            if self.kafka.logs[partition].is_open(open) {
                self.trace.line(self.agenda.now, format_args!("the operator ends {open:?} in {partition}"));
                self.kafka.logs[partition].mark(open, commit);
                let verdict = self.checker.visible(partition, &self.kafka.logs[partition]);
                self.hold(verdict);
            }
        }
    }

    /// Relays that have halted are started anew.
    fn revive(&mut self) {
        for relay in 0..self.relays.len() {
            if self.relays[relay].state == State::Halted {
                self.kill(relay);
                self.agenda.after(100 * MS, Event::Boot(relay));
            }
        }
    }

    /// Nothing goes wrong any more.
    pub(crate) fn heal(&mut self) {
        let now = self.agenda.now;
        self.trace.line(now, format_args!("faults end"));
        self.healed = Some(now);
        self.written = self.scenario.transactions;
        for relay in 0..self.relays.len() {
            if self.relays[relay].lifecycle.is_none() {
                self.agenda.after(10 * MS, Event::Boot(relay));
            }
        }
        for broker in 0..BROKERS {
            self.agenda.after(100 * MS, Event::BrokerUp(broker));
        }
        self.agenda.after(200 * MS, Event::Elect);
        self.postgres.up_at = self.postgres.up_at.min(now + S);
        self.postgres.stalled_until = now;
        self.agenda.after(2 * S, Event::Flush);
        self.agenda.after(JUDGE_INTERVAL, Event::Judge);
    }

    /// Whether everything has come out, or the pipeline has stopped for a reason.
    pub(crate) fn judge(&mut self) {
        let since = self.agenda.now - self.healed.unwrap_or(self.agenda.now);
        if !self.is_liveness() {
            self.over = since >= AFTERMATH;
            return self.agenda.after(JUDGE_INTERVAL, Event::Judge);
        }
        let Some(missing) = self.unfinished() else {
            self.over = true;
            return;
        };
        if since >= PROGRESS_MAX {
            let violation = Violation {
                rule: "progress",
                what: format!("{PROGRESS_MAX:?} after the last fault: {missing}"),
            };
            self.hold(Err(violation));
        }
        self.agenda.after(JUDGE_INTERVAL, Event::Judge);
    }

    fn unfinished(&self) -> Option<String> {
        if self.checker.has_ghosts() {
            let halted = self.relays.iter().any(|relay| relay.state == State::Halted);
            return (!halted).then(|| "history was cut, and no relay halts".to_owned());
        }
        if let Some(missing) = self.checker.missing(&self.postgres.expected) {
            return Some(missing);
        }
        let last =
            self.postgres.expected.iter().filter_map(|events| events.last()).map(|event| event.end_lsn).max();
        let confirmed = self.postgres.slot.confirmed;
        let behind = last.filter(|last| *last > confirmed)?;
        Some(format!("the slot is at {confirmed}, the last event ends at {behind}"))
    }
}
