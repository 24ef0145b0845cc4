//! The supervisor: hears what happens, asks the machine, performs what it says.
//!
//! Decides nothing itself. Runs on the caller's runtime.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pillarbox_failpoint::{Step, hit};
use pillarbox_wire::lsn::Lsn;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::board::Board;
use super::handle::{Ended, Handle, Options, Request};
use super::messages::{Command, Event, HandedSet, Outlet, ReaderEnd, SETS_QUEUED_MAX, inbox};
use super::state::{Action, Deadlines, Gone, Input, Lifecycle};
use super::status::State;
use super::{reader, task};
use crate::config::Config;
use crate::error::{Class, Code, Fault};
use crate::housekeeping::Duty;
use crate::position::lineage::SourceFacts;
use crate::sink::{self, recover};

/// Events that may wait for the supervisor.
const EVENTS_MAX: usize = 64;
/// Looking up the checkpoint for a fault's message must not delay the halt.
const GAP_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts a pipeline on the current runtime.
pub fn start(config: Config, options: Options) -> Handle {
    let config = Arc::new(config);
    let board = Arc::new(Board::new(config.pipeline.as_str()));
    let (requests, incoming) = mpsc::channel(EVENTS_MAX);
    let deadlines = Deadlines {
        start: options.start_deadline,
        drain: options.drain_deadline,
        exit_on_halt: options.exit_on_halt,
    };
    let (events, heard) = mpsc::channel(EVENTS_MAX);
    let duty = watch::Sender::new(Duty::Ahead);
    task::arrivals(Arc::clone(&board.arrivals));
    task::housekeeping(Arc::clone(&config), duty.subscribe(), Arc::clone(&board));
    let supervisor = Supervisor {
        config,
        board: Arc::clone(&board),
        machine: Lifecycle::new(deadlines),
        origin: Instant::now(),
        events,
        reader: None,
        sink_side: None,
        facts: None,
        lineage: None,
        duty,
        waiting: Vec::new(),
        ended: None,
    };
    Handle { requests, board, supervisor: task::supervisor(supervisor.run(heard, incoming)) }
}

struct Supervisor {
    config: Arc<Config>,
    board: Arc<Board>,
    machine: Lifecycle,
    origin: Instant,
    events: mpsc::Sender<Event>,
    /// The running reader's inbox.
    reader: Option<Outlet>,
    /// The sink's end of the channel of sets, until the sink starts.
    sink_side: Option<mpsc::Receiver<HandedSet>>,
    facts: Option<SourceFacts>,
    lineage: Option<JoinHandle<()>>,
    /// What housekeeping may do; its job ends with this.
    duty: watch::Sender<Duty>,
    /// Who waits for a pause state to be reached.
    waiting: Vec<(bool, oneshot::Sender<Result<(), Fault>>)>,
    ended: Option<Ended>,
}

impl Supervisor {
    async fn run(mut self, mut heard: mpsc::Receiver<Event>, mut incoming: mpsc::Receiver<Request>) -> Ended {
        self.step(Input::Start);
        loop {
            if let Some(ended) = self.ended.take() {
                return ended;
            }
            let due =
                self.machine.due().map_or(Duration::from_secs(3600), |due| due.saturating_sub(self.now()));
            // Every branch is cancel-safe: channels keep what was not received, a sleep is made anew.
            tokio::select! {
                event = heard.recv() => {
                    let event = event.expect("the supervisor keeps a sender");
                    self.event(event).await;
                }
                request = incoming.recv() => match request {
                    Some(Request::Pause(paused, answer)) => self.pause(paused, answer),
                    // A dropped handle means stop.
                    Some(Request::Stop) | None => {
                        if request_is_final(&incoming) {
                            incoming.close();
                        }
                        self.step(Input::Stop);
                    }
                },
                () = tokio::time::sleep(due) => self.step(Input::Tick),
            }
        }
    }

    async fn event(&mut self, event: Event) {
        let input = match event {
            Event::SlotBusy => Input::SlotBusy,
            Event::SlotOwned(facts) => {
                self.facts = Some(*facts);
                Input::SlotOwned
            }
            // The reader may have ended before this was heard: then nobody leads.
            Event::Recovered if self.reader.is_none() => return,
            Event::Recovered => {
                self.lineage = Some(task::lineage(Arc::clone(&self.config), self.events.clone()));
                Input::Recovered
            }
            Event::NeedTopic(wanted) => {
                if let Some(reader) = &self.reader {
                    task::topic(Arc::clone(&self.config), wanted, reader.clone());
                }
                return;
            }
            Event::Lineage(nonce) => {
                self.tell_reader(Command::Lineage(nonce));
                return;
            }
            Event::Paused(paused) => {
                self.answer_waiting(paused);
                Input::Paused(paused)
            }
            Event::ReaderEnded(end) => {
                self.reader_ended();
                Input::ReaderGone(match end {
                    ReaderEnd::Released => Gone::Released,
                    ReaderEnd::Drained => Gone::Drained,
                    ReaderEnd::Fault(fault) => Gone::Fault(self.with_gap(fault).await),
                    ReaderEnd::Rejected(fault, commit_lsn) => Gone::Rejected(fault, commit_lsn),
                })
            }
            Event::SinkEnded(fault) => Input::SinkGone(fault),
            Event::SqlLost(fault) => Input::Fault(fault),
        };
        self.step(input);
    }

    fn reader_ended(&mut self) {
        self.reader = None;
        self.sink_side = None;
        if let Some(lineage) = self.lineage.take() {
            lineage.abort();
        }
        for (_, answer) in self.waiting.drain(..) {
            let _ = answer.send(Err(not_streaming()));
        }
    }

    /// A lost slot is worth the exact gap.
    async fn with_gap(&self, fault: Fault) -> Fault {
        if !matches!(fault.code, Code::SlotMissing | Code::SlotLost) {
            return fault;
        }
        let checkpoint = tokio::time::timeout(GAP_TIMEOUT, async {
            let cluster = sink::connect(&self.config).await.ok()?;
            sink::read_checkpoint(&cluster, &self.config).await.ok()?
        });
        let position = checkpoint.await.ok().flatten().and_then(|table| table.position);
        match position {
            Some(position) => Fault {
                message: format!(
                    "{}; the checkpoint is at {}: transactions that committed after it were not relayed",
                    fault.message, position.resume_lsn
                ),
                ..fault
            },
            None => fault,
        }
    }

    fn step(&mut self, input: Input) {
        let mut actions: VecDeque<Action> = self.machine.step(input, self.now()).into();
        while let Some(action) = actions.pop_front() {
            match action {
                Action::StartReader { settle_before } => {
                    if let Err(fault) = self.start_reader(settle_before) {
                        actions.extend(self.machine.step(Input::ReaderGone(Gone::Fault(fault)), self.now()));
                    }
                }
                Action::StartSink => {
                    if let Err(fault) = self.start_sink() {
                        actions.extend(self.machine.step(Input::SinkGone(Some(fault)), self.now()));
                    }
                }
                Action::Release => self.tell_reader(Command::Release),
                Action::Drain => self.tell_reader(Command::Drain),
                Action::Show(state, fault) => {
                    if self.board.state(state, fault.as_ref()) {
                        tracing::info!(state = ?state, "pipeline");
                    }
                    self.duty.send_replace(Duty::of(state));
                }
                Action::Log(fault) => log(&fault),
                Action::End(fault) => {
                    hit(Step::Ended);
                    self.ended = Some(ended(fault));
                }
            }
        }
    }

    fn start_reader(&mut self, settle_before: Option<Lsn>) -> Result<(), Fault> {
        let (outlet, inbox) =
            inbox().map_err(|error| Fault::system_limit("cannot make an event descriptor", error))?;
        let (sets, sink_side) = mpsc::channel(SETS_QUEUED_MAX);
        self.reader = Some(outlet);
        self.sink_side = Some(sink_side);
        task::reader(reader::Context {
            config: Arc::clone(&self.config),
            inbox,
            events: self.events.clone(),
            sets,
            board: Arc::clone(&self.board),
            settle_before,
        })
    }

    fn start_sink(&mut self) -> Result<(), Fault> {
        let reader = self.reader.clone().expect("the reader runs");
        let context = recover::Context {
            config: Arc::clone(&self.config),
            facts: self.facts.take().expect("the slot is owned"),
            sets: self.sink_side.take().expect("one sink for each reader"),
            reader,
            events: self.events.clone(),
            board: Arc::clone(&self.board),
        };
        task::sink(context, self.events.clone())
    }

    fn tell_reader(&self, command: Command) {
        if let Some(reader) = &self.reader {
            reader.send(command);
        }
    }

    fn pause(&mut self, paused: bool, answer: oneshot::Sender<Result<(), Fault>>) {
        let state = self.board.subscribe().borrow().state;
        match state {
            State::Paused if paused => drop(answer.send(Ok(()))),
            State::Streaming if !paused && self.waiting.is_empty() => drop(answer.send(Ok(()))),
            State::Streaming | State::Paused => {
                self.waiting.push((paused, answer));
                self.tell_reader(Command::Pause(paused));
            }
            _ => drop(answer.send(Err(not_streaming()))),
        }
    }

    /// Requests behind the last one that is now fulfilled wait on; those before it that wanted the
    /// other state were overtaken.
    fn answer_waiting(&mut self, paused: bool) {
        let Some(last) = self.waiting.iter().rposition(|(wanted, _)| *wanted == paused) else { return };
        for (wanted, answer) in self.waiting.drain(..=last) {
            let _ = answer.send(if wanted == paused { Ok(()) } else { Err(overtaken()) });
        }
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }
}

fn request_is_final(incoming: &mpsc::Receiver<Request>) -> bool {
    incoming.sender_strong_count() == 0
}

fn overtaken() -> Fault {
    Fault::new(Code::PipelineBusy, "a later request to pause or resume overtook this one")
        .hint("see `pillarbox status` for what holds now")
}

fn not_streaming() -> Fault {
    Fault::new(Code::PipelineBusy, "the pipeline is not streaming")
        .hint("see `pillarbox status`, then try again")
}

fn ended(fault: Option<Fault>) -> Ended {
    match fault {
        None => Ended::Stopped,
        Some(fault) if matches!(fault.class(), Class::Halt | Class::Reject | Class::Bug) => {
            Ended::Halted(fault)
        }
        Some(fault) => Ended::Unreachable(fault),
    }
}

pub(super) fn log(fault: &Fault) {
    let Fault { code, message, cause, hint } = fault;
    match fault.class() {
        Class::Retry => tracing::warn!(%code, cause, hint, "{message}"),
        _ => tracing::error!(%code, cause, hint, "{message}"),
    }
}
