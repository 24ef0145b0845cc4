//! The world of one seed: what it holds, and who is told of what happens.

use std::time::Duration;

use pillarbox_relay::pipeline::state::{Gone, Input};
use pillarbox_relay::position::lineage::SourceFacts;
use pillarbox_wire::lsn::Lsn;

use crate::agenda::Agenda;
use crate::checker::{Checker, History, Violation};
use crate::dice::Dice;
use crate::faults::Fault;
use crate::kafka::{Kafka, Reply, Request};
use crate::mistakes::Mistake;
use crate::postgres::{Piece, Postgres};
use crate::relay::reader::Command;
use crate::relay::sink::Job;
use crate::relay::{Era, Relay};
use crate::scenario::{Mode, Scenario};
use crate::trace::Trace;

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const S: Duration = Duration::from_secs(1);

/// A request on its way to a broker.
#[derive(Debug, Clone)]
pub(crate) struct Flight {
    pub(crate) era: Era,
    /// None: nobody waits for the answer.
    pub(crate) token: Option<u64>,
    pub(crate) broker: usize,
    pub(crate) request: Request,
    /// How often it has waited at the broker.
    pub(crate) tries: u32,
    pub(crate) answer_is_lost: bool,
    /// The broker refuses: before it has done anything, or after.
    pub(crate) refusal: Option<Refusal>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Before,
    After,
}

#[derive(Debug)]
pub(crate) enum Event {
    Write,
    Noise,
    Flush,
    Replicate(u32, Lsn),
    /// The standby's copy of the slot follows; the slot is written to disk.
    Slots,
    /// The transaction with this nonce becomes visible, and its writer is told.
    NonceVisible(Era, String),
    /// The walsender of this session looks after its client.
    Sender(u64),
    /// The server notices that a client is gone.
    SessionGone(u64),
    Status(u64, Lsn),

    Arrive(Flight),
    Marker(usize, i16, usize),
    TimeOut(usize, i16, Duration),
    Elect,
    BrokerUp(usize),

    Parcel(Era, u64, Vec<Piece>),
    Answer(Era, u64, Reply),
    Expire(Era, u64),
    Later(Era, Job),
    Look(Era),
    TakeSlot(Era, Box<SourceFacts>),
    Facts(Era, u64),
    Turn(Era),
    TopicFound(Era, String),
    Lineage(Era),
    LineageTold(Era, String),
    SinkStops(Era),
    ReaderGone(Era, Box<Gone>),
    Tick(usize, u64),
    Boot(usize),

    Fault,
    /// While a relay is stopped amid its start.
    Meanwhile(Fault),
    Accept,
    /// An operator ends a transaction whose outcome brokers have forgotten.
    Mend,
    Heal,
    Judge,
}

impl Event {
    /// The relay that takes it: not while it is stopped.
    fn taker(&self) -> Option<usize> {
        match self {
            Self::Parcel(era, ..)
            | Self::Answer(era, ..)
            | Self::Expire(era, ..)
            | Self::Later(era, ..)
            | Self::Look(era)
            | Self::TakeSlot(era, ..)
            | Self::Facts(era, ..)
            | Self::Turn(era)
            | Self::TopicFound(era, ..)
            | Self::Lineage(era)
            | Self::SinkStops(era)
            | Self::LineageTold(era, ..)
            | Self::ReaderGone(era, ..) => Some(era.relay),
            Self::Tick(relay, _) => Some(*relay),
            _ => None,
        }
    }
}

/// What a run counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Figures {
    pub(crate) steps: u64,
    pub(crate) batches: u64,
    pub(crate) commits: u64,
    pub(crate) faults: [u64; crate::faults::KINDS],
    pub(crate) starts: u64,
    pub(crate) halts: u64,
    pub(crate) simulated: Duration,
}

impl Figures {
    pub(crate) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.batches += other.batches;
        self.commits += other.commits;
        self.starts += other.starts;
        self.halts += other.halts;
        self.simulated += other.simulated;
        for (sum, count) in self.faults.iter_mut().zip(other.faults) {
            *sum += count;
        }
    }
}

pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) mistake: Option<Mistake>,
    pub(crate) dice: Dice,
    pub(crate) agenda: Agenda<Event>,
    pub(crate) trace: Trace,
    pub(crate) postgres: Postgres,
    pub(crate) kafka: Kafka,
    pub(crate) relays: Vec<Relay>,
    pub(crate) checker: Checker,
    /// Histories that were left, oldest first.
    pub(crate) former: Vec<History>,
    /// The history each era reads.
    pub(crate) reads: Vec<usize>,
    pub(crate) eras: u64,
    pub(crate) tokens: u64,
    pub(crate) written: u64,
    pub(crate) healed: Option<Duration>,
    pub(crate) violation: Option<Violation>,
    pub(crate) over: bool,
    pub(crate) figures: Figures,
    /// By relay, broker, and what the connection is for: when the last request arrives.
    pub(crate) lanes: Vec<[Duration; crate::kafka::BROKERS * 2]>,
}

impl World {
    pub(crate) fn now(&self) -> Duration {
        self.agenda.now
    }

    pub(crate) fn unix_ms(&self) -> i64 {
        crate::postgres::EPOCH_MS + self.now().as_millis() as i64
    }

    pub(crate) fn is(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    pub(crate) fn is_healed(&self) -> bool {
        self.healed.is_some()
    }

    pub(crate) fn hold(&mut self, verdict: Result<(), Violation>) {
        if let Err(violation) = verdict {
            self.trace.line(
                self.agenda.now,
                format_args!("VIOLATION of \"{}\": {}", violation.rule, violation.what),
            );
            self.violation.get_or_insert(violation);
        }
    }

    /// Runs to the end, or to the first violation.
    pub(crate) fn run(&mut self) {
        while !self.over && self.violation.is_none() {
            let Some(event) = self.agenda.pop() else { break };
            if let Some(taker) = event.taker() {
                let until = self.relays[taker].stalled_until;
                if until > self.now() {
                    self.agenda.at(until, event);
                    continue;
                }
            }
            self.figures.steps += 1;
            self.trace.note(self.agenda.now.as_micros() as u64);
            self.step(event);
            self.after_step();
        }
        self.figures.simulated = self.agenda.now;
    }

    /// Decisions and markers are looked at where they happen; this is what they lead to.
    fn after_step(&mut self) {
        self.pump();
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Write => self.write(),
            Event::Noise => self.noise(),
            Event::Flush => self.flush(),
            Event::Replicate(timeline, lsn) => {
                if timeline == self.postgres.timeline {
                    self.postgres.replicate(lsn);
                }
            }
            Event::Slots => self.slots(),
            Event::NonceVisible(era, nonce) => self.nonce_visible(era, nonce),
            Event::Sender(session) => self.look_after(session),
            Event::SessionGone(session) => self.close_session(session),
            Event::Status(session, lsn) => self.status(session, lsn),
            Event::Arrive(flight) => self.arrive(flight),
            Event::Marker(id, epoch, partition) => self.marker(id, epoch, partition),
            Event::TimeOut(id, epoch, since) => self.time_out(id, epoch, since),
            Event::Elect => self.elect(),
            Event::BrokerUp(broker) => self.broker_up(broker),
            Event::Boot(relay) => self.boot(relay),
            Event::Tick(relay, process) => {
                if self.relays[relay].process == process {
                    self.live(relay, Input::Tick);
                }
            }
            Event::Fault => self.fault(),
            Event::Meanwhile(fault) => self.postgres_fault(fault),
            Event::Accept => self.accept(),
            Event::Mend => self.mend(),
            Event::Heal => self.heal(),
            Event::Judge => self.judge(),
            event => self.relay_step(event),
        }
    }

    /// Events of a start that is still going on.
    fn relay_step(&mut self, event: Event) {
        let (Event::Parcel(era, ..)
        | Event::Answer(era, ..)
        | Event::Expire(era, ..)
        | Event::Later(era, ..)
        | Event::Look(era)
        | Event::TakeSlot(era, ..)
        | Event::Facts(era, ..)
        | Event::Turn(era)
        | Event::TopicFound(era, ..)
        | Event::Lineage(era)
        | Event::SinkStops(era)
        | Event::LineageTold(era, ..)
        | Event::ReaderGone(era, ..)) = &event
        else {
            unreachable!("the others are handled")
        };
        let era = *era;
        if self.relays[era.relay].era != era.number {
            return;
        }
        let relay = era.relay;
        match event {
            Event::Parcel(_, session, pieces) => self.parcel(relay, session, pieces),
            Event::Answer(_, token, reply) => self.answer(relay, token, reply),
            Event::Expire(_, token) => self.answer(relay, token, Reply::Broken),
            Event::Later(_, job) => self.job(relay, job),
            Event::Look(_) => self.look(relay),
            Event::TakeSlot(_, facts) => self.take_slot(relay, *facts),
            Event::Facts(_, session) => self.own(relay, session),
            Event::Turn(_) => self.turn(relay),
            Event::TopicFound(_, name) => self.topic_found(relay, &name),
            Event::Lineage(_) => self.advance_lineage(relay),
            Event::SinkStops(_) => self.sink_stops(relay),
            Event::LineageTold(_, nonce) => self.command(relay, Command::Lineage(nonce)),
            Event::ReaderGone(_, gone) => self.reader_gone(relay, *gone),
            _ => unreachable!("the others are handled"),
        }
    }

    pub(crate) fn is_liveness(&self) -> bool {
        self.scenario.mode == Mode::Liveness
    }
}
