//! The life of a pipeline as a pure machine: `step(input) -> actions`.
//!
//! ```text
//!             SlotOwned          Recovered
//! Acquiring ------------> Recovering ------> Streaming ---+
//!   ^   | SlotBusy           |                  |  |      | Stop
//!   |   v (standing by)      |                  |  v      v
//!   |  the same              |                  | Paused  Draining --Drained--> Stopped
//!   |                        v                  v
//!   +---- Waiting <---- Closing(then) <---------+         (a fault, or the end of a thread)
//!         (back-off)         |
//!                            +--> Halted (a person must act)   or   Stopped
//! ```
//!
//! `Closing` waits until both threads are gone: the next start never overlaps with them.
//!
//! | input | in | leads to |
//! | --- | --- | --- |
//! | a fault of class Retry | any | Closing, then Waiting with back-off, then Acquiring |
//! | the same before the first streaming, after the deadline | any but standing by | Stopped with the fault (exit 69) |
//! | Halt | any | Closing, then Halted: the slot is released |
//! | Reject, the first time at this transaction | any | as Retry, but the reader then commits everything before the transaction on its own |
//! | Reject, again at the same transaction | any | Closing, then Halted: all that came before is published |
//! | Config or Permission before the first streaming | any | Stopped with the fault (78, 77) |
//! | the same afterwards | any | Halted: somebody changed a role or a setting |
//! | Halt or Reject | Draining | Closing, then Stopped with the fault (exit 65) |
//! | fenced | Streaming | as Retry: it decides anew whether we lead |
//! | Stop | Streaming, Paused | Draining, at the deadline Closing |
//! | Stop | elsewhere | Closing, Stopped |
//!
//! No clock, no thread, no socket: `now` is an input, whoever calls performs the actions in order.

use std::time::Duration;

use pillarbox_wire::lsn::Lsn;

use super::status::State;
use crate::error::{Class, Code, Fault};

/// The first wait after a fault.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait: an outage ends this much later for us at most.
const BACKOFF_MAX: Duration = Duration::from_secs(3);

/// What happens to the pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Begin.
    Start,
    /// Another client streams from the slot.
    SlotBusy,
    /// The slot is ours.
    SlotOwned,
    /// The checkpoint is read, predecessors are fenced, frames are being taken.
    Recovered,
    /// The committed pause state.
    Paused(bool),
    /// The reader thread is gone.
    ReaderGone(Gone),
    /// The sink thread is gone.
    SinkGone(Option<Fault>),
    /// Something else says that this cannot go on.
    Fault(Fault),
    /// An operator wants the process to end.
    Stop,
    /// Time has passed.
    Tick,
}

/// How a thread went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gone {
    /// As told.
    Released,
    /// Everything complete is committed and confirmed.
    Drained,
    /// With a fault of its own.
    Fault(Fault),
    /// At an event that cannot be published, in the transaction that commits at this LSN.
    Rejected(Fault, Lsn),
}

/// What the caller must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the reader thread. Everything before the transaction that commits at `settle_before`
    /// is committed on its own: an event in it could not be published.
    StartReader {
        /// Commit LSN of that transaction.
        settle_before: Option<Lsn>,
    },
    /// Start the sink thread with what the reader found.
    StartSink,
    /// Tell the reader to end at once; the sink ends with it.
    Release,
    /// Tell the reader to drain.
    Drain,
    /// Show this state.
    Show(State, Option<Fault>),
    /// Log the fault: it ends here.
    Log(Fault),
    /// The pipeline is over.
    End(Option<Fault>),
}

/// Limits that the caller sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Faults of unreachable servers end the run if it has not streamed by then. A standby's time begins when it takes
    /// over: nobody else is left to do so.
    pub start: Duration,
    /// A drain that takes longer is given up.
    pub drain: Duration,
    /// Whether a halt ends the run.
    pub exit_on_halt: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Idle,
    Acquiring,
    Recovering,
    Streaming,
    Draining { until: Duration },
    Closing { then: Then },
    Waiting { until: Duration },
    Halted,
    Over,
}

/// What comes after the threads are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Then {
    Retry,
    Halt(Fault),
    End(Option<Fault>),
}

/// The machine.
#[derive(Debug)]
pub struct Lifecycle {
    phase: Phase,
    deadlines: Deadlines,
    reader_runs: bool,
    sink_runs: bool,
    has_streamed: bool,
    /// Another client had the slot, and it was not ours since.
    stands_by: bool,
    paused: bool,
    /// The transaction with an event that could not be published.
    rejected_at: Option<Lsn>,
    started_at: Duration,
    backoff: Duration,
}

impl Lifecycle {
    /// A pipeline that has not begun.
    pub fn new(deadlines: Deadlines) -> Self {
        Self {
            phase: Phase::Idle,
            deadlines,
            reader_runs: false,
            sink_runs: false,
            has_streamed: false,
            stands_by: false,
            paused: false,
            rejected_at: None,
            started_at: Duration::ZERO,
            backoff: BACKOFF_MIN,
        }
    }

    /// Whether the pipeline is over.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// When a [`Input::Tick`] is due.
    pub fn due(&self) -> Option<Duration> {
        match self.phase {
            Phase::Draining { until } | Phase::Waiting { until } => Some(until),
            _ => None,
        }
    }

    /// Takes an input and says what to do.
    pub fn step(&mut self, input: Input, now: Duration) -> Vec<Action> {
        match input {
            Input::Start => {
                self.started_at = now;
                self.acquire()
            }
            Input::SlotBusy => self.busy(),
            Input::SlotOwned => self.owned(now),
            Input::Recovered => self.recovered(),
            Input::Paused(paused) => {
                self.paused = paused;
                self.show_if(&Phase::Streaming, self.leading())
            }
            Input::ReaderGone(gone) => self.reader_gone(gone, now),
            Input::SinkGone(fault) => self.sink_gone(fault, now),
            Input::Fault(fault) => self.fault(fault, now),
            Input::Stop => self.stop(now),
            Input::Tick => self.tick(now),
        }
    }

    fn acquire(&mut self) -> Vec<Action> {
        self.phase = Phase::Acquiring;
        self.reader_runs = true;
        vec![Action::StartReader { settle_before: self.rejected_at }]
    }

    fn leading(&self) -> State {
        if self.paused { State::Paused } else { State::Streaming }
    }

    fn show_if(&self, phase: &Phase, state: State) -> Vec<Action> {
        if self.phase == *phase { vec![Action::Show(state, None)] } else { Vec::new() }
    }

    fn busy(&mut self) -> Vec<Action> {
        self.stands_by = true;
        self.show_if(&Phase::Acquiring, State::StandingBy)
    }

    fn owned(&mut self, now: Duration) -> Vec<Action> {
        if self.phase != Phase::Acquiring {
            return Vec::new();
        }
        if std::mem::take(&mut self.stands_by) {
            self.started_at = now;
        }
        self.phase = Phase::Recovering;
        self.sink_runs = true;
        vec![Action::Show(State::Starting, None), Action::StartSink]
    }

    fn recovered(&mut self) -> Vec<Action> {
        if self.phase != Phase::Recovering {
            return Vec::new();
        }
        self.phase = Phase::Streaming;
        self.has_streamed = true;
        self.backoff = BACKOFF_MIN;
        vec![Action::Show(self.leading(), None)]
    }

    fn reader_gone(&mut self, gone: Gone, now: Duration) -> Vec<Action> {
        self.reader_runs = false;
        match gone {
            Gone::Fault(fault) => self.fault(fault, now),
            Gone::Rejected(fault, commit_lsn) if self.rejected_at == Some(commit_lsn) => {
                self.fault(fault, now)
            }
            Gone::Rejected(_, commit_lsn) if matches!(self.phase, Phase::Streaming) => {
                self.rejected_at = Some(commit_lsn);
                self.close(Then::Retry, now)
            }
            Gone::Rejected(fault, _) => self.fault(fault, now),
            Gone::Drained | Gone::Released => match self.phase {
                Phase::Draining { .. } => self.close(Then::End(None), now),
                Phase::Closing { .. } => self.closed(now),
                _ => self.close(Then::Retry, now),
            },
        }
    }

    fn sink_gone(&mut self, fault: Option<Fault>, now: Duration) -> Vec<Action> {
        self.sink_runs = false;
        match fault {
            Some(fault) => self.fault(fault, now),
            None if matches!(self.phase, Phase::Closing { .. }) => self.closed(now),
            // It ends without a fault only because the reader has ended, who says why in a moment.
            None => Vec::new(),
        }
    }

    fn fault(&mut self, fault: Fault, now: Duration) -> Vec<Action> {
        if let Phase::Closing { .. } = self.phase {
            return self.closed(now);
        }
        let draining = matches!(self.phase, Phase::Draining { .. });
        let then = match fault.class() {
            // Whoever asked for the end gets it, with the reason why it is not a clean one.
            Class::Halt | Class::Reject | Class::Bug if draining => Then::End(Some(fault.clone())),
            Class::Halt | Class::Reject | Class::Bug => Then::Halt(fault.clone()),
            Class::Config | Class::Permission if self.has_streamed => Then::Halt(fault.clone()),
            Class::Config | Class::Permission => Then::End(Some(fault.clone())),
            Class::Retry if draining => Then::End(None),
            Class::Retry if self.start_is_over(&fault, now) => Then::End(Some(fault.clone())),
            Class::Retry => Then::Retry,
        };
        let mut actions = vec![Action::Log(fault.clone())];
        if then == Then::Retry {
            actions.push(Action::Show(State::Starting, Some(fault)));
        }
        actions.extend(self.close(then, now));
        actions
    }

    /// Before the first streaming an unreachable server is a wrong address until shown otherwise. A standby has seen the
    /// leader's slot, so its Postgres is the right one.
    fn start_is_over(&self, fault: &Fault, now: Duration) -> bool {
        let unreachable = matches!(
            fault.code,
            Code::PgUnreachable
                | Code::KafkaUnreachable
                // A dying broker cuts the handshake as a TLS listener does: only time can tell.
                | Code::KafkaTlsOrSasl
                | Code::KafkaTlsNotOffered
                | Code::KafkaTlsFailed
                | Code::KafkaToken
                | Code::PgTlsFailed
                | Code::PgProtocol
                | Code::KafkaProtocol
                | Code::CommitStalled
                | Code::PgLimit
                | Code::PgStandby
                | Code::SystemLimit
        );
        let proven = self.has_streamed || self.stands_by;
        !proven && unreachable && now.saturating_sub(self.started_at) >= self.deadlines.start
    }

    fn close(&mut self, then: Then, now: Duration) -> Vec<Action> {
        self.phase = Phase::Closing { then };
        let mut actions = if self.reader_runs { vec![Action::Release] } else { Vec::new() };
        actions.extend(self.closed(now));
        actions
    }

    /// Goes on once both threads are gone.
    fn closed(&mut self, now: Duration) -> Vec<Action> {
        if self.reader_runs || self.sink_runs {
            return Vec::new();
        }
        let Phase::Closing { then } = std::mem::replace(&mut self.phase, Phase::Over) else {
            unreachable!("only a closing pipeline is closed")
        };
        match then {
            Then::Retry => {
                self.phase = Phase::Waiting { until: now + self.backoff };
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
                Vec::new()
            }
            Then::Halt(fault) if self.deadlines.exit_on_halt => {
                vec![Action::Show(State::Halted, Some(fault.clone())), Action::End(Some(fault))]
            }
            Then::Halt(fault) => {
                self.phase = Phase::Halted;
                vec![Action::Show(State::Halted, Some(fault))]
            }
            Then::End(fault) => vec![Action::Show(State::Stopped, fault.clone()), Action::End(fault)],
        }
    }

    fn stop(&mut self, now: Duration) -> Vec<Action> {
        match self.phase {
            Phase::Streaming => {
                self.phase = Phase::Draining { until: now + self.deadlines.drain };
                vec![Action::Show(State::Draining, None), Action::Drain]
            }
            Phase::Draining { .. } | Phase::Over => Vec::new(),
            _ => self.close(Then::End(None), now),
        }
    }

    fn tick(&mut self, now: Duration) -> Vec<Action> {
        match self.phase {
            Phase::Waiting { until } if now >= until => self.acquire(),
            Phase::Draining { until } if now >= until => {
                let fault = Fault::new(Code::DrainDeadline, "the drain did not finish in time")
                    .hint("what was in flight is not lost: the next start reads the checkpoint and goes on");
                let mut actions = vec![Action::Log(fault)];
                actions.extend(self.close(Then::End(None), now));
                actions
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn machine() -> Lifecycle {
        Lifecycle::new(Deadlines { start: 30 * S, drain: 20 * S, exit_on_halt: false })
    }

    fn streaming() -> Lifecycle {
        let mut machine = machine();
        for input in [Input::Start, Input::SlotOwned, Input::Recovered] {
            machine.step(input, S);
        }
        machine
    }

    fn halt() -> Fault {
        Fault::new(Code::SlotAhead, "x")
    }

    fn retry() -> Fault {
        Fault::new(Code::KafkaUnreachable, "x")
    }

    #[test]
    fn the_usual_life() {
        let mut m = machine();
        assert_eq!(m.step(Input::Start, S), [Action::StartReader { settle_before: None }]);
        assert_eq!(m.step(Input::SlotBusy, S), [Action::Show(State::StandingBy, None)]);
        assert_eq!(m.step(Input::SlotOwned, S), [Action::Show(State::Starting, None), Action::StartSink]);
        assert_eq!(m.step(Input::Recovered, S), [Action::Show(State::Streaming, None)]);
        assert_eq!(m.step(Input::Stop, S), [Action::Show(State::Draining, None), Action::Drain]);
        assert_eq!(m.step(Input::ReaderGone(Gone::Drained), S), []);
        assert_eq!(m.step(Input::SinkGone(None), S), [Action::Show(State::Stopped, None), Action::End(None)]);
        assert!(m.is_over());
    }

    #[test]
    fn the_reader_says_how_it_ended_even_where_the_sink_is_heard_first() {
        let mut m = streaming();
        m.step(Input::Stop, S);
        assert_eq!(m.step(Input::SinkGone(None), S), []);
        let actions = m.step(Input::ReaderGone(Gone::Drained), S);
        assert_eq!(actions, [Action::Show(State::Stopped, None), Action::End(None)]);

        let mut m = streaming();
        assert_eq!(m.step(Input::SinkGone(None), S), []);
        let actions = m.step(Input::ReaderGone(Gone::Fault(halt())), S);
        assert_eq!(actions, [Action::Log(halt()), Action::Show(State::Halted, Some(halt()))]);
    }

    #[test]
    fn a_restart_waits_for_both_threads_and_backs_off() {
        let mut m = streaming();
        let actions = m.step(Input::SinkGone(Some(retry())), S);
        assert!(actions.contains(&Action::Release), "{actions:?}");
        assert_eq!(m.due(), None, "the reader still runs");
        m.step(Input::ReaderGone(Gone::Released), S);
        let until = m.due().expect("waiting");
        assert_eq!(m.step(Input::Tick, until - Duration::from_millis(1)), []);
        assert_eq!(m.step(Input::Tick, until), [Action::StartReader { settle_before: None }]);
    }

    #[test]
    fn a_rejected_event_halts_after_everything_before_it_is_published() {
        let mut m = streaming();
        let rejected = || Gone::Rejected(Fault::new(Code::EventTooLarge, "x"), Lsn(7));
        m.step(Input::ReaderGone(rejected()), S);
        m.step(Input::SinkGone(None), S);
        assert_eq!(m.step(Input::Tick, 2 * S), [Action::StartReader { settle_before: Some(Lsn(7)) }]);
        m.step(Input::SlotOwned, 2 * S);
        m.step(Input::Recovered, 2 * S);
        m.step(Input::ReaderGone(rejected()), 2 * S);
        let actions = m.step(Input::SinkGone(None), 2 * S);
        assert!(matches!(&actions[..], [Action::Show(State::Halted, Some(_))]), "{actions:?}");
    }

    #[test]
    fn a_pause_is_shown_whichever_thread_speaks_first() {
        let mut m = machine();
        m.step(Input::Start, S);
        m.step(Input::SlotOwned, S);
        m.step(Input::Paused(true), S);
        assert_eq!(m.step(Input::Recovered, S), [Action::Show(State::Paused, None)]);
        assert_eq!(m.step(Input::Paused(false), S), [Action::Show(State::Streaming, None)]);
    }

    #[test]
    fn a_halt_releases_the_slot_and_stays() {
        let mut m = streaming();
        m.step(Input::ReaderGone(Gone::Fault(halt())), S);
        let actions = m.step(Input::SinkGone(None), S);
        assert_eq!(actions, [Action::Show(State::Halted, Some(halt()))]);
        assert!(!m.is_over());
        assert_eq!(m.step(Input::Stop, S), [Action::Show(State::Stopped, None), Action::End(None)]);
    }

    #[test]
    fn unreachable_servers_end_only_a_run_that_never_streamed() {
        let mut fresh = machine();
        fresh.step(Input::Start, S);
        fresh.step(Input::ReaderGone(Gone::Fault(retry())), 2 * S);
        assert!(!fresh.is_over(), "before the deadline");
        fresh.step(Input::Tick, 30 * S);
        let actions = fresh.step(Input::ReaderGone(Gone::Fault(retry())), 31 * S);
        assert!(actions.contains(&Action::End(Some(retry()))), "{actions:?}");

        for code in [Code::KafkaTlsNotOffered, Code::KafkaTlsFailed, Code::KafkaToken, Code::PgTlsFailed] {
            let fault = Fault::new(code, "no");
            let mut fresh = machine();
            fresh.step(Input::Start, S);
            let actions = fresh.step(Input::ReaderGone(Gone::Fault(fault.clone())), 31 * S);
            assert!(actions.contains(&Action::End(Some(fault))), "{code}: its page says so");
        }

        let mut seasoned = streaming();
        seasoned.step(Input::SinkGone(Some(retry())), 100 * S);
        seasoned.step(Input::ReaderGone(Gone::Released), 100 * S);
        assert!(!seasoned.is_over());
    }

    /// It may have stood by for days: that is no time in which a server could not be reached.
    #[test]
    fn a_standby_outlives_a_fault_and_has_its_deadline_from_the_takeover_on() {
        let mut m = machine();
        m.step(Input::Start, S);
        m.step(Input::SlotBusy, S);
        m.step(Input::ReaderGone(Gone::Fault(retry())), 1000 * S);
        assert!(!m.is_over(), "Postgres restarts while it stands by");
        assert_eq!(m.step(Input::Tick, 1001 * S), [Action::StartReader { settle_before: None }]);
        for (owned, over) in [(1001, false), (1020, false), (1040, true)] {
            m.step(Input::SlotOwned, owned * S);
            m.step(Input::SinkGone(Some(Fault::new(Code::CommitStalled, "x"))), (owned + 1) * S);
            m.step(Input::ReaderGone(Gone::Released), (owned + 1) * S);
            assert_eq!(m.is_over(), over, "{owned} s");
            m.step(Input::Tick, (owned + 10) * S);
        }
    }

    #[test]
    fn the_first_fault_decides_while_closing() {
        let mut m = streaming();
        m.step(Input::ReaderGone(Gone::Fault(halt())), S);
        let actions = m.step(Input::SinkGone(Some(retry())), S);
        assert_eq!(actions, [Action::Show(State::Halted, Some(halt()))]);
    }

    #[test]
    fn a_halt_while_draining_ends_the_run_and_says_why() {
        let mut m = streaming();
        m.step(Input::Stop, S);
        m.step(Input::ReaderGone(Gone::Fault(halt())), S);
        let actions = m.step(Input::SinkGone(None), S);
        assert!(actions.contains(&Action::End(Some(halt()))), "{actions:?}");
        assert!(m.is_over());
    }

    #[test]
    fn a_drain_has_a_deadline() {
        let mut m = streaming();
        m.step(Input::Stop, S);
        let actions = m.step(Input::Tick, 21 * S);
        assert!(actions.contains(&Action::Release), "{actions:?}");
    }
}
