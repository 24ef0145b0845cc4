//! The reader thread: owns the walsender socket and runs source, decode, outbox, route and batch in
//! place.
//!
//! ```text
//! acquire -> hold (answer keepalives, confirm nothing) -> stream -> drain -> end
//!                     | 10 s without a plan                  |
//!                     +-> give the slot back <---------------+ 10 s without a commit, or the server silent
//! ```
//!
//! | while | the socket | status updates |
//! | --- | --- | --- |
//! | holding | not read | every second, `0/0` |
//! | streaming | read; in a backlog with pauses, between commits of a busy stream once | every second, at once when asked, 5 a second while commits come in |
//! | waiting for room, a topic, or paused | not read: TCP is the back-pressure | the same |
//! | draining | read to the next boundary | a last one before the end |
//!
//! I/O and order only: what a frame means is decided by [`Intake`], what may be confirmed by the
//! ledger inside it. Never waits without sending status updates.

mod attend;
mod frames;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pillarbox_failpoint::{Step, hit};
use pillarbox_wire::lsn::Lsn;
use pillarbox_wire::position::Epoch;
use tokio::sync::mpsc;

use self::frames::Took;
use super::acquire::{Acquired, NotAcquired, acquire};
use super::board::Board;
use super::budget::{Budget, Stage};
use super::intake::{Intake, Now};
use super::messages::{Command, Event, HandedSet, Inbox, Plan, ReaderEnd};
use super::pace::{Due, HotPause, Rest};
use super::remarks::Remarks;
use super::silence::Silence;
use crate::config::Config;
use crate::error::{Class, Code, Fault};
use crate::position::confirm::COMMIT_STALL_MAX;
use crate::source::{Attempt, Frames, Link, SourceError};

/// Shows the server and the standbys that we live.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// While commits come in they are confirmed at most this often: each status wakes the walsender.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(200);
/// Frames taken before the clock is looked at again. All of one read where it is for a set that is due: none stays behind.
const FRAMES_PER_LOOK: usize = 64;

/// What the reader thread needs.
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) inbox: Inbox,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) sets: mpsc::Sender<HandedSet>,
    pub(crate) board: Arc<Board>,
    /// See [`Intake::settle_before`].
    pub(crate) settle_before: Option<Lsn>,
}

/// The thread's main function; its end is an [`Event::ReaderEnded`].
pub(crate) fn run(context: Context) {
    let events = context.events.clone();
    let end = match read(context) {
        Ok(end) => end,
        Err(fault) => ReaderEnd::Fault(fault),
    };
    tell(&events, Event::ReaderEnded(end));
}

/// The supervisor always listens; one that is gone needs no message.
fn tell(events: &mpsc::Sender<Event>, event: Event) {
    let _ = events.blocking_send(event);
}

fn read(context: Context) -> Result<ReaderEnd, Fault> {
    let Context { config, inbox, events, sets, board, settle_before } = context;
    let Acquired { stream, facts } = match acquire(&config, &inbox, |event| tell(&events, event)) {
        Ok(acquired) => acquired,
        Err(NotAcquired::Released) => return Ok(ReaderEnd::Released),
        Err(NotAcquired::Fault(fault)) => return Err(fault),
    };
    tell(&events, Event::SlotOwned(Box::new(facts)));
    let (mut link, mut frames) = (stream.link, stream.frames);
    let end = match hold(&mut link, &inbox, &config, &board)? {
        None => Ok(ReaderEnd::Released),
        Some(plan) => {
            let mut streaming = Streaming::new(config, inbox, events, sets, board, link, *plan);
            streaming.intake.note_ids(Arc::clone(&streaming.board.arrivals));
            if let Some(commit_lsn) = settle_before {
                streaming.intake.settle_before(commit_lsn);
            }
            return streaming.run(&mut frames);
        }
    };
    link.close();
    end
}

/// Keeps the slot while the sink recovers.
fn hold(link: &mut Link, inbox: &Inbox, config: &Config, board: &Board) -> Result<Option<Box<Plan>>, Fault> {
    let since = Instant::now();
    loop {
        match inbox.next() {
            Some(Command::Stream(plan)) => return Ok(Some(plan)),
            Some(Command::Release | Command::Drain) => return Ok(None),
            Some(_) => continue,
            None => {}
        }
        if since.elapsed() >= COMMIT_STALL_MAX {
            return Err(stalled(&format!("a start did not get beyond {}", board.step())));
        }
        link.send_status(Lsn::ZERO, false).map_err(|error| stream_fault(config, &error))?;
        link.wait(&inbox.wake, false, STATUS_INTERVAL).map_err(|error| {
            Fault::new(Code::Internal, "cannot wait for the replication socket").because(error)
        })?;
    }
}

fn stalled(what: &str) -> Fault {
    Fault::new(
        Code::CommitStalled,
        format!("{what} for {} s, giving the slot back", COMMIT_STALL_MAX.as_secs()),
    )
    .hint("see why Kafka does not answer: `pillarbox check`")
}

fn stream_fault(config: &Config, error: &SourceError) -> Fault {
    let message = format!("the stream from slot \"{}\" broke", config.postgres.slot);
    error.fault(&Attempt { message: &message, settings: &config.postgres })
}

/// Why frames are not taken right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Reading,
    /// Read to the boundary, then pause.
    Pausing,
    Paused,
    /// Read to the boundary, or to the deadline, then end.
    Draining {
        read_until: Instant,
    },
}

/// What a look at the inbox brought.
#[derive(Debug, PartialEq, Eq)]
enum Attention {
    GoOn,
    /// Something that a waiting frame may have waited for.
    Changed,
    /// A drain has no more time for the frame at hand: it is given up, and none follows.
    Late,
    Released,
}

struct Streaming {
    config: Arc<Config>,
    inbox: Inbox,
    events: mpsc::Sender<Event>,
    sets: mpsc::Sender<HandedSet>,
    board: Arc<Board>,
    link: Link,
    intake: Intake,
    pause: HotPause,
    mode: Mode,
    /// The committed pause state, as the supervisor knows it.
    paused_told: bool,
    origin: Instant,
    status_at: Instant,
    confirmed: Lsn,
    /// The end of WAL up to which everything was shown to have arrived.
    arrived: Lsn,
    asked: bool,
    /// How long Postgres has said nothing, and whether the next status asks it to.
    silence: Silence,
    asks: bool,
    /// When the sink last showed progress, or got work after having none.
    progress_at: Instant,
    remarks: Remarks,
    budget: Budget,
}

impl Streaming {
    fn new(
        config: Arc<Config>,
        inbox: Inbox,
        events: mpsc::Sender<Event>,
        sets: mpsc::Sender<HandedSet>,
        board: Arc<Board>,
        link: Link,
        plan: Plan,
    ) -> Self {
        let origin = Instant::now();
        let paused = plan.table.position.as_ref().is_some_and(|position| position.paused);
        let mut intake = Intake::new(&config, Epoch(plan.epoch), &plan.table, plan.topics, now_since(origin));
        intake.recognise(plan.recognition);
        let mode = if paused { Mode::Paused } else { Mode::Reading };
        tell(&events, Event::Paused(paused));
        Self {
            config,
            inbox,
            events,
            sets,
            board,
            pause: HotPause::new(link.way()),
            link,
            intake,
            mode,
            paused_told: paused,
            origin,
            status_at: origin,
            confirmed: Lsn::ZERO,
            arrived: Lsn::ZERO,
            asked: true,
            silence: Silence::new(Duration::ZERO),
            asks: false,
            progress_at: origin,
            remarks: Remarks::default(),
            budget: Budget::start(),
        }
    }

    fn run(mut self, frames: &mut Frames) -> Result<ReaderEnd, Fault> {
        let end = match self.stream(frames) {
            Err(fault) if matches!(fault.class(), Class::Halt | Class::Reject) => self.finish(fault),
            end => end,
        };
        if !matches!(end, Err(ref fault) if fault.code == Code::PgProtocol) {
            self.link.close();
        }
        end
    }

    fn stream(&mut self, frames: &mut Frames) -> Result<ReaderEnd, Fault> {
        let mut most = FRAMES_PER_LOOK;
        loop {
            if self.attend()? == Attention::Released {
                return Ok(ReaderEnd::Released);
            }
            self.budget.spent(Stage::Attend);
            let wants_frames = self.wants_frames() && !self.intake.is_full();
            let took = if wants_frames { self.take_frames(frames, most)? } else { Took::Nothing };
            most = FRAMES_PER_LOOK;
            if took == Took::Released {
                return Ok(ReaderEnd::Released);
            }
            // After `Took::Late` no frame is wanted any more: what is sealed is still committed.
            let due = self.settle();
            self.budget.spent(Stage::Seal);
            if self.drained() {
                self.send_status()?;
                hit(Step::Drained);
                return Ok(ReaderEnd::Drained);
            }
            if took == Took::Some {
                continue;
            }
            self.listen(wants_frames)?;
            match Rest::of(due, self.intake.is_hot(), wants_frames, self.link.way()) {
                Rest::Listen => self.wait(wants_frames, due)?,
                Rest::Gather => {
                    self.wait(false, due)?;
                    // Before the seal, which comes once these were taken.
                    self.read(frames)?;
                    most = usize::MAX;
                }
                Rest::Pause => {
                    // Not a wait for the socket, which the first row would end.
                    std::thread::sleep(self.pause.take());
                    self.budget.spent(Stage::Wait);
                }
            }
        }
    }

    /// Before a person is called: what is sealed is committed, so that the events before the one
    /// that stops us are out, and no open Kafka transaction holds consumers back.
    fn finish(&mut self, fault: Fault) -> Result<ReaderEnd, Fault> {
        let now = self.now();
        self.intake.flush(now);
        self.hand_over();
        while self.intake.in_flight() > 0 {
            match self.attend() {
                Ok(Attention::Released) | Err(_) => break,
                Ok(_) => self.wait(false, Due::Later)?,
            }
        }
        if self.intake.in_flight() == 0 {
            self.send_status()?;
        }
        match self.intake.open_commit_lsn() {
            Some(commit_lsn) if fault.class() == Class::Reject => Ok(ReaderEnd::Rejected(fault, commit_lsn)),
            _ => Err(fault),
        }
    }

    fn wants_frames(&self) -> bool {
        match self.mode {
            Mode::Reading | Mode::Pausing => true,
            Mode::Paused => false,
            Mode::Draining { read_until } => !self.intake.at_boundary() && Instant::now() < read_until,
        }
    }

    /// Seals what is due and hands it to the sink.
    fn settle(&mut self) -> Due {
        let now = self.now();
        let due = match self.mode {
            Mode::Reading | Mode::Paused => self.intake.pace(now),
            Mode::Pausing if self.intake.at_boundary() => {
                self.intake.flush(now);
                self.intake.seal_paused(true, now);
                self.mode = Mode::Paused;
                Due::Later
            }
            Mode::Pausing => Due::Later,
            Mode::Draining { .. } => {
                self.intake.flush(now);
                Due::Later
            }
        };
        self.hand_over();
        self.show_arrived();
        due
    }

    /// With nothing open, filling or in flight, all that was sent is in Kafka or is no event: nobody should wait for the
    /// next commit to learn it.
    fn show_arrived(&mut self) {
        let wal_end = self.intake.server_lsn();
        if wal_end > self.arrived && self.intake.is_quiet() {
            self.board.arrivals.caught_up(wal_end);
            self.arrived = wal_end;
        }
    }

    fn hand_over(&mut self) {
        for set in self.intake.take_sealed() {
            hit(Step::SetHandedOver);
            let filled = set.filled_for;
            // A sink that is gone has told the supervisor, which will release us.
            let _ = self.sets.try_send(HandedSet { set, at: Instant::now() });
            self.board.handed_over(filled, self.budget.take());
        }
    }

    fn drained(&self) -> bool {
        let Mode::Draining { read_until } = self.mode else { return false };
        let complete = self.intake.at_boundary() || Instant::now() >= read_until;
        complete && self.intake.in_flight() == 0
    }

    /// Waits for the socket, the doorbell or the next thing that is due.
    fn wait(&mut self, want_read: bool, due: Due) -> Result<(), Fault> {
        let mut timeout = STATUS_INTERVAL.saturating_sub(self.status_at.elapsed());
        if self.intake.confirmed() > self.confirmed {
            timeout = timeout.min(CONFIRM_INTERVAL.saturating_sub(self.status_at.elapsed()));
        }
        if let Due::At(at) = due {
            timeout = timeout.min(at.saturating_sub(self.origin.elapsed()));
        }
        if let Mode::Draining { .. } = self.mode {
            timeout = timeout.min(CONFIRM_INTERVAL);
        }
        self.link.wait(&self.inbox.wake, want_read, timeout).map_err(|error| {
            Fault::new(Code::Internal, "cannot wait for the replication socket").because(error)
        })?;
        self.budget.spent(Stage::Wait);
        Ok(())
    }

    fn now(&self) -> Now {
        now_since(self.origin)
    }
}

fn now_since(origin: Instant) -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { monotonic: origin.elapsed(), unix_ms: i64::try_from(unix.as_millis()).unwrap_or(i64::MAX) }
}
