//! The supervisor: hears what happens, asks the machine, performs what it says.
//!
//! Decides nothing itself. Runs on the caller's runtime, beside topic lookups and lineage updates.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pillarbox_failpoint::{Step, hit};
use pillarbox_wire::lsn::Lsn;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::arrivals::Arrivals;
use super::board::Board;
use super::messages::{Command, Event, HandedSet, Outlet, ReaderEnd, SETS_QUEUED_MAX, inbox};
use super::state::{Action, Deadlines, Gone, Input, Lifecycle};
use super::status::{State, Status};
use super::{acquire, reader, task};
use crate::config::{Config, TableName};
use crate::error::{Class, Code, Fault};
use crate::housekeeping::Duty;
use crate::position::lineage::SourceFacts;
use crate::route::WantedTopic;
use crate::sink::{self, recover};
use crate::sql::Lineage;

/// Events that may wait for the supervisor.
const EVENTS_MAX: usize = 64;
/// How often a leader gives the database a new nonce: a clone older than this is recognised.
const LINEAGE_INTERVAL: Duration = Duration::from_secs(10);
/// A topic lookup is tried this often before its fault reaches the reader.
const TOPIC_TRIES: u32 = 5;
/// The wait before the first repeated lookup; it doubles.
const TOPIC_BACKOFF: Duration = Duration::from_millis(200);
/// Looking up the checkpoint for a fault's message must not delay the halt.
const GAP_TIMEOUT: Duration = Duration::from_secs(5);

/// How a pipeline runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Unreachable servers before the first streaming end the run after this.
    pub start_deadline: Duration,
    /// A drain takes this long at most.
    pub drain_deadline: Duration,
    /// End instead of staying up when a person must act.
    pub exit_on_halt: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            start_deadline: Duration::from_secs(30),
            drain_deadline: Duration::from_secs(20),
            exit_on_halt: false,
        }
    }
}

/// How a pipeline ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop; what was complete is committed and confirmed.
    Stopped,
    /// A person must act (only with [`Options::exit_on_halt`]).
    Halted(Fault),
    /// It never streamed: a server is not there, or refuses.
    Unreachable(Fault),
}

/// A request from outside.
enum Request {
    Stop,
    Pause(bool, oneshot::Sender<Result<(), Fault>>),
}

/// A running pipeline.
pub struct Handle {
    requests: mpsc::Sender<Request>,
    board: Arc<Board>,
    supervisor: JoinHandle<Ended>,
}

impl Handle {
    /// The status, as it changes.
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.board.subscribe()
    }

    /// Its state, as it changes: [`Handle::status`] changes with every commit, too.
    pub fn state(&self) -> watch::Receiver<State> {
        self.board.subscribe_state()
    }

    /// What has reached Kafka.
    pub fn arrivals(&self) -> Arc<Arrivals> {
        Arc::clone(&self.board.arrivals)
    }

    /// Drains and ends; calling it again changes nothing.
    pub fn stop(&self) {
        let _ = self.requests.try_send(Request::Stop);
    }

    /// Commits what is open, then relays nothing until resumed, restarts included.
    ///
    /// # Errors
    /// When the pipeline does not stream.
    pub async fn pause(&self) -> Result<(), Fault> {
        self.controls().pause().await
    }

    /// Goes on.
    ///
    /// # Errors
    /// When the pipeline does not stream.
    pub async fn resume(&self) -> Result<(), Fault> {
        self.controls().resume().await
    }

    /// Pause and resume for whoever does not own the handle.
    pub fn controls(&self) -> Controls {
        Controls { requests: self.requests.clone() }
    }

    /// Waits for the end.
    pub async fn join(self) -> Ended {
        self.supervisor.await.expect("the supervisor's panic ends the process")
    }
}

/// Pause and resume.
#[derive(Clone)]
pub struct Controls {
    requests: mpsc::Sender<Request>,
}

impl Controls {
    /// See [`Handle::pause`].
    ///
    /// # Errors
    /// When the pipeline does not stream.
    pub async fn pause(&self) -> Result<(), Fault> {
        self.set_paused(true).await
    }

    /// See [`Handle::resume`].
    ///
    /// # Errors
    /// When the pipeline does not stream.
    pub async fn resume(&self) -> Result<(), Fault> {
        self.set_paused(false).await
    }

    async fn set_paused(&self, paused: bool) -> Result<(), Fault> {
        let (answer, answered) = oneshot::channel();
        let gone = || Fault::new(Code::PipelineBusy, "the pipeline has ended");
        self.requests.send(Request::Pause(paused, answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

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

fn log(fault: &Fault) {
    let Fault { code, message, cause, hint } = fault;
    match fault.class() {
        Class::Retry => tracing::warn!(%code, cause, hint, "{message}"),
        _ => tracing::error!(%code, cause, hint, "{message}"),
    }
}

/// Finds out about a topic, creates one that never held an event if need be, and tells the reader.
pub(super) async fn look_up_topic(config: Arc<Config>, wanted: WantedTopic, reader: Outlet) {
    let mut backoff = TOPIC_BACKOFF;
    let mut tries = 1;
    let found = loop {
        let found = match sink::connect(&config).await {
            Ok(cluster) => match &wanted.recorded {
                Some(record) => sink::topics::again(&cluster, &wanted.name, record).await,
                None => sink::topics::resolve(&cluster, &config, &wanted.name).await,
            },
            Err(fault) => Err(fault),
        };
        match found {
            Err(fault) if fault.class() == Class::Retry && tries < TOPIC_TRIES => {
                tracing::warn!(code = %fault.code, cause = fault.cause, "{}", fault.message);
                tokio::time::sleep(backoff).await;
                backoff *= 2;
                tries += 1;
            }
            found => break found,
        }
    };
    reader.send(Command::Topic(Box::new(found)));
}

/// Gives the database a new nonce at once and then every [`LINEAGE_INTERVAL`], and looks whether the
/// publication still publishes the outbox tables: where it does not, the stream is silent. A connection
/// that breaks is told: the server may be shutting down while the reader does not look at its socket.
pub(super) async fn advance_lineage(mut lineage: Lineage, config: Arc<Config>, events: mpsc::Sender<Event>) {
    let mut tick = tokio::time::interval(LINEAGE_INTERVAL);
    let mut looked_at = None;
    loop {
        tick.tick().await;
        let advanced = lineage.advance(config.pipeline.as_str()).await;
        let looked = match advanced {
            Ok(nonce) => {
                hit(Step::LineageAdvanced);
                let _ = events.send(Event::Lineage(nonce.to_string())).await;
                look_at_publication(&mut lineage, &config, &mut looked_at).await
            }
            Err(fault) => Err(fault),
        };
        match looked {
            Ok(()) => {}
            Err(fault) if fault.class() == Class::Halt => {
                let _ = events.send(Event::SqlLost(fault)).await;
                return;
            }
            Err(fault) if matches!(fault.code, Code::PgUnreachable | Code::PgProtocol) => {
                let _ = events.send(Event::SqlLost(fault)).await;
                return;
            }
            Err(fault) => log(&fault),
        }
    }
}

/// Halts where rows are written that the stream does not have. `looked_at` is where WAL ended at the last look.
async fn look_at_publication(
    lineage: &mut Lineage,
    config: &Config,
    looked_at: &mut Option<String>,
) -> Result<(), Fault> {
    let tables: Vec<TableName> = config.outbox.iter().map(|outbox| outbox.table.clone()).collect();
    let Some((state, end)) = lineage.publication(&tables).await? else { return Ok(()) };
    let since = looked_at.as_deref().unwrap_or("the start");
    acquire::serves(config, &state).map_err(|fault| {
        let found = fault.cause.as_ref().map(|cause| format!("{cause}; ")).unwrap_or_default();
        fault.because(format!("{found}seen at {end}: rows written since {since} may not have been relayed"))
    })?;
    *looked_at = Some(end);
    Ok(())
}
