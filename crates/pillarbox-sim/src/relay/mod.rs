//! The relays: processes whose decisions are the product's own code, driven by events instead of threads.
//!
//! | here | decides |
//! | --- | --- |
//! | [`Lifecycle`] | what a start, a fault, a stop lead to |
//! | [`start`] | nothing: looks at the slot ([`Watch`]), reads the checkpoint ([`Tail`]), judges, fences, in the relay's order |
//! | [`reader`] | nothing: hands frames to [`Intake`], seals when it says so |
//! | [`sink`] | nothing: does what [`Machine`] says, tallies answers with [`Tally`] |
//!
//! [`Watch`]: pillarbox_relay::pipeline::standby::Watch
//! [`Tail`]: pillarbox_relay::sink::tail::Tail
//! [`Intake`]: pillarbox_relay::pipeline::intake::Intake
//! [`Machine`]: pillarbox_kafka::producer::state::Machine
//! [`Tally`]: pillarbox_kafka::producer::tally::Tally

pub(crate) mod produce;
pub(crate) mod reader;
pub(crate) mod sink;
pub(crate) mod start;

use std::time::Duration;

use pillarbox_relay::error::Fault as Reason;
use pillarbox_relay::pipeline::State;
use pillarbox_relay::pipeline::state::{Action, Deadlines, Gone, Input, Lifecycle};

use crate::faults::Fault;
use crate::world::{Event, MS, S, World};
use reader::{Command, Reader};
use sink::Sink;

/// One start of one relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Era {
    pub(crate) relay: usize,
    pub(crate) number: u64,
}

pub(crate) struct Relay {
    /// Counts processes.
    pub(crate) process: u64,
    /// None: no process runs.
    pub(crate) lifecycle: Option<Lifecycle>,
    pub(crate) stalled_until: Duration,
    /// The start that goes on; what is of another one is void.
    pub(crate) era: u64,
    pub(crate) reader: Option<Reader>,
    pub(crate) sink: Option<Sink>,
    /// What the reader found, for the sink.
    pub(crate) facts: Option<pillarbox_relay::position::lineage::SourceFacts>,
    /// How often the server had gone down when the slot was seen free.
    pub(crate) downs_seen: u64,
    pub(crate) state: State,
    /// Stopped for so long at some step of its next start.
    pub(crate) stall: Option<Duration>,
}

impl Relay {
    pub(crate) fn new() -> Self {
        Self {
            process: 0,
            lifecycle: None,
            stalled_until: Duration::ZERO,
            era: 0,
            reader: None,
            sink: None,
            facts: None,
            downs_seen: 0,
            state: State::Stopped,
            stall: None,
        }
    }
}

impl World {
    pub(crate) fn era(&self, relay: usize) -> Era {
        Era { relay, number: self.relays[relay].era }
    }

    /// A process starts.
    pub(crate) fn boot(&mut self, relay: usize) {
        if self.relays[relay].lifecycle.is_some() {
            return;
        }
        self.trace.line(self.agenda.now, format_args!("relay {relay} boots"));
        let deadlines = Deadlines { start: 30 * S, drain: 20 * S, exit_on_halt: false };
        self.relays[relay].process += 1;
        self.relays[relay].lifecycle = Some(Lifecycle::new(deadlines));
        self.live(relay, Input::Start);
    }

    /// A step of a start: some relays are stopped at one, and the world goes on without them.
    pub(crate) fn start_step(&mut self, relay: usize, one_in: u64) {
        let now = self.agenda.now;
        let Some(length) = self.relays[relay].stall.filter(|_| !self.is_healed()) else { return };
        if !self.dice.one_in(one_in) {
            return;
        }
        self.relays[relay].stall = None;
        self.trace.line(now, format_args!("relay {relay} is stopped for {length:?}, amid its start"));
        self.relays[relay].stalled_until = self.relays[relay].stalled_until.max(now + length);
        match self.dice.below(4) {
            0 => self.agenda.after(length / 4, Event::Meanwhile(Fault::Promote)),
            // Just before it wakes: it finds the slot free.
            1 => self.agenda.after(length - 10 * MS, Event::Meanwhile(Fault::Terminate)),
            _ => {}
        }
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, relay: usize) {
        let session = self.relays[relay].reader.as_ref().and_then(|reader| reader.session);
        let process = self.relays[relay].process;
        self.relays[relay] = Relay { process, ..Relay::new() };
        self.eras += 1;
        self.relays[relay].era = self.eras;
        self.reads.push(self.former.len());
        if let Some(session) = session {
            self.leave(session);
        }
    }

    /// The server notices that nobody is there any more: at once, mostly.
    pub(crate) fn leave(&mut self, session: u64) {
        let delay = self.dice.between(MS, 30 * MS);
        self.agenda.after(delay, Event::SessionGone(session));
    }

    /// Tells the machine, and does what it says.
    pub(crate) fn live(&mut self, relay: usize, input: Input) {
        let now = self.agenda.now;
        let Some(lifecycle) = &mut self.relays[relay].lifecycle else { return };
        let actions = lifecycle.step(input, now);
        for action in actions {
            self.act(relay, action);
        }
        let process = self.relays[relay].process;
        if let Some(due) = self.relays[relay].lifecycle.as_ref().and_then(Lifecycle::due) {
            self.agenda.at(due, Event::Tick(relay, process));
        }
    }

    fn act(&mut self, relay: usize, action: Action) {
        let now = self.agenda.now;
        match action {
            Action::StartReader { settle_before } => {
                self.figures.starts += 1;
                self.eras += 1;
                self.relays[relay].era = self.eras;
                self.reads.push(self.former.len());
                self.relays[relay].reader = Some(Reader::new(settle_before));
                let delay = self.dice.between(MS, 20 * MS);
                self.agenda.after(delay, Event::Look(self.era(relay)));
            }
            Action::StartSink => self.start_sink(relay),
            Action::Release => self.command(relay, Command::Release),
            Action::Drain => self.command(relay, Command::Drain),
            Action::Show(state, fault) => {
                self.trace.line(now, format_args!("relay {relay} is {state:?}"));
                self.relays[relay].state = state;
                if let (State::Halted, Some(fault)) = (state, fault) {
                    self.halted(relay, &fault);
                }
            }
            Action::Log(fault) => {
                self.trace.line(now, format_args!("relay {relay}: {} {}", fault.code, fault.message));
            }
            Action::End(_) => {
                self.trace.line(now, format_args!("relay {relay} ends"));
                self.kill(relay);
                let pause = self.dice.between(100 * MS, 2 * S);
                self.agenda.after(pause, Event::Boot(relay));
            }
        }
    }

    fn halted(&mut self, relay: usize, fault: &Reason) {
        self.figures.halts += 1;
        self.trace
            .line(self.agenda.now, format_args!("relay {relay} HALTS: {} {}", fault.code, fault.message));
        let verdict = self.checker.halted(fault);
        self.hold(verdict);
        if self.scenario.operator {
            let pause = self.dice.between(S, 5 * S);
            self.agenda.after(pause, Event::Accept);
        }
    }

    pub(crate) fn command(&mut self, relay: usize, command: Command) {
        if let Some(reader) = &mut self.relays[relay].reader {
            reader.commands.push_back(command);
            self.turn_at(relay, self.agenda.now);
        }
    }

    /// The reader thread has ended; the sink's does so a moment later.
    pub(crate) fn reader_ends(&mut self, relay: usize, gone: Gone) {
        let era = self.era(relay);
        self.agenda.after(Duration::ZERO, Event::ReaderGone(era, Box::new(gone)));
        let delay = self.dice.between(Duration::ZERO, 3 * MS);
        self.agenda.after(delay, Event::SinkStops(era));
    }

    pub(crate) fn reader_gone(&mut self, relay: usize, gone: Gone) {
        self.live(relay, Input::ReaderGone(gone));
    }

    pub(crate) fn sink_stops(&mut self, relay: usize) {
        if self.relays[relay].sink.take().is_some() {
            self.live(relay, Input::SinkGone(None));
        }
    }

    /// The sink has met a fault.
    pub(crate) fn sink_fails(&mut self, relay: usize, fault: Reason) {
        if self.relays[relay].sink.take().is_some() {
            self.live(relay, Input::SinkGone(Some(fault)));
        }
    }
}
