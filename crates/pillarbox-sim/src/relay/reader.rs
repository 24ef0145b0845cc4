//! The reader thread as turns: commands, frames, what is due, a status update; as `pipeline/reader.rs` does it.

use std::collections::VecDeque;
use std::time::Duration;

use pillarbox_relay::error::{Class, Code, Fault};
use pillarbox_relay::pipeline::intake::{CommittedSet, Intake, Now, Taken};
use pillarbox_relay::pipeline::pace::Due;
use pillarbox_relay::pipeline::standby::Watch;
use pillarbox_relay::pipeline::state::{Gone, Input};
use pillarbox_relay::position::checkpoint::Table;
use pillarbox_relay::position::confirm::COMMIT_STALL_MAX;
use pillarbox_relay::position::recognition::Recognition;
use pillarbox_relay::route::Topic;
use pillarbox_wire::lsn::{Lsn, PgTimestamp};
use pillarbox_wire::position::Epoch;

use crate::mistakes::Mistake;
use crate::postgres::Piece;
use crate::relay::Era;
use crate::relay::sink::{Sealed, Sink};
use crate::world::{Event, MS, World};

/// As the reader's own.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
const CONFIRM_INTERVAL: Duration = Duration::from_millis(200);
const DRAIN_READ_MAX: Duration = Duration::from_secs(5);
const FRAMES_PER_LOOK: usize = 64;

/// From where a stream goes on.
pub(crate) struct Plan {
    pub(crate) table: Table,
    pub(crate) epoch: u32,
    pub(crate) topics: Vec<Topic>,
    pub(crate) recognition: Recognition,
}

pub(crate) enum Command {
    Stream(Box<Plan>),
    Committed(CommittedSet),
    Topic(Box<Topic>),
    Lineage(String),
    Drain,
    Release,
}

pub(crate) enum Phase {
    /// For the slot to become free.
    Watching(Watch),
    /// With the slot, for the sink's plan.
    Holding {
        since: Duration,
        status_at: Duration,
    },
    Streaming(Box<Streaming>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    Reading,
    Draining {
        read_until: Duration,
    },
    /// What is sealed is committed before a person is called.
    Finishing(Fault),
}

pub(crate) struct Streaming {
    pub(crate) intake: Intake,
    mode: Mode,
    status_at: Duration,
    confirmed: Lsn,
    asked: bool,
    progress_at: Duration,
    /// The topic that was asked for.
    wanted: Option<String>,
    /// By mistake confirmed already.
    early: Lsn,
}

pub(crate) struct Reader {
    pub(crate) phase: Phase,
    pub(crate) session: Option<u64>,
    pub(crate) settle_before: Option<Lsn>,
    pub(crate) commands: VecDeque<Command>,
    /// Pieces, and whether each is the last of its parcel.
    buffer: VecDeque<(Piece, bool)>,
    turn_at: Option<Duration>,
}

impl Reader {
    pub(crate) fn new(settle_before: Option<Lsn>) -> Self {
        Self {
            phase: Phase::Watching(Watch::default()),
            session: None,
            settle_before,
            commands: VecDeque::new(),
            buffer: VecDeque::new(),
            turn_at: None,
        }
    }
}

fn stalled(what: &str) -> Fault {
    Fault::new(Code::CommitStalled, what)
}

impl World {
    /// The reader looks again then, or earlier.
    pub(crate) fn turn_at(&mut self, relay: usize, at: Duration) {
        let era = self.era(relay);
        let Some(reader) = &mut self.relays[relay].reader else { return };
        if reader.turn_at.is_none_or(|planned| at < planned) {
            reader.turn_at = Some(at);
            self.agenda.at(at, Event::Turn(era));
        }
    }

    pub(crate) fn parcel(&mut self, relay: usize, session: u64, pieces: Vec<Piece>) {
        let Some(reader) = &mut self.relays[relay].reader else { return };
        if reader.session != Some(session) {
            return;
        }
        let last = pieces.len() - 1;
        reader.buffer.extend(pieces.into_iter().enumerate().map(|(at, piece)| (piece, at == last)));
        self.turn_at(relay, self.agenda.now);
    }

    pub(crate) fn topic_found(&mut self, relay: usize, name: &str) {
        let topic = self.topic(name, None);
        self.command(relay, Command::Topic(Box::new(topic)));
    }

    /// One look of the reader thread.
    pub(crate) fn turn(&mut self, relay: usize) {
        let now = self.agenda.now;
        let Some(mut reader) = self.relays[relay].reader.take() else { return };
        if reader.turn_at.is_some_and(|at| at > now) {
            self.relays[relay].reader = Some(reader);
            return;
        }
        reader.turn_at = None;
        let gone = match &mut reader.phase {
            Phase::Watching(_) => self.watch_commands(&mut reader),
            Phase::Holding { .. } => self.keep_slot(relay, &mut reader),
            Phase::Streaming(_) => self.stream(relay, &mut reader),
        };
        match gone {
            Ok(next) => {
                self.relays[relay].reader = Some(reader);
                if let Some(next) = next {
                    self.turn_at(relay, next.max(now + MS / 10));
                }
            }
            Err(gone) => {
                if let Some(session) = reader.session {
                    self.leave(session);
                }
                self.reader_ends(relay, *gone);
            }
        }
    }

    fn watch_commands(&mut self, reader: &mut Reader) -> Result<Option<Duration>, Box<Gone>> {
        match reader.commands.pop_front() {
            Some(Command::Release | Command::Drain) => Err(Box::new(Gone::Released)),
            _ => Ok(None),
        }
    }

    /// Keeps the slot while the sink recovers.
    fn keep_slot(&mut self, relay: usize, reader: &mut Reader) -> Result<Option<Duration>, Box<Gone>> {
        let now = self.agenda.now;
        while let Some(command) = reader.commands.pop_front() {
            match command {
                Command::Stream(plan) => {
                    let settle_before = reader.settle_before;
                    reader.phase = Phase::Streaming(Box::new(self.streaming(*plan, settle_before)));
                    self.live(relay, Input::Paused(false));
                    return Ok(Some(now));
                }
                Command::Release | Command::Drain => return Err(Box::new(Gone::Released)),
                _ => {}
            }
        }
        let Phase::Holding { since, status_at } = &mut reader.phase else {
            unreachable!("it holds the slot")
        };
        if now.saturating_sub(*since) >= COMMIT_STALL_MAX {
            return Err(Box::new(Gone::Fault(stalled("a start did not get beyond reading the checkpoint"))));
        }
        if now.saturating_sub(*status_at) >= STATUS_INTERVAL {
            *status_at = now;
            if reader.buffer.iter().any(|(piece, _)| matches!(piece, Piece::End)) {
                return Err(Box::new(Gone::Fault(Fault::new(Code::PgProtocol, "the stream broke"))));
            }
            self.send_lsn(reader.session, Lsn::ZERO)?;
        }
        Ok(Some(now + STATUS_INTERVAL))
    }

    fn streaming(&mut self, plan: Plan, settle_before: Option<Lsn>) -> Streaming {
        let now = self.intake_now();
        let Plan { mut table, epoch, topics, recognition } = plan;
        self.plant_in_table(&mut table);
        let mut intake = Intake::new(&self.scenario.config, Epoch(epoch), &table, topics, now);
        intake.recognise(recognition);
        if let Some(commit_lsn) = settle_before {
            intake.settle_before(commit_lsn);
        }
        Streaming {
            intake,
            mode: Mode::Reading,
            status_at: now.monotonic,
            confirmed: Lsn::ZERO,
            asked: true,
            progress_at: now.monotonic,
            wanted: None,
            early: Lsn::ZERO,
        }
    }

    /// What some mistakes make of the checkpoint.
    fn plant_in_table(&self, table: &mut Table) {
        if self.is(Mistake::SequencesForgotten) {
            table.sequences.fill(0);
        }
        if self.is(Mistake::NotFiltered)
            && let Some(position) = &mut table.position
        {
            (position.commit_lsn, position.index, position.part) = (Lsn::ZERO, None, None);
        }
    }

    pub(crate) fn intake_now(&self) -> Now {
        Now { monotonic: self.agenda.now, unix_ms: self.unix_ms() }
    }

    fn stream(&mut self, relay: usize, reader: &mut Reader) -> Result<Option<Duration>, Box<Gone>> {
        let now = self.agenda.now;
        let mut taken = self.attend(relay, reader)?;
        if taken.is_ok() {
            taken = self.take_frames(relay, reader);
        }
        if let Err(fault) = taken {
            let Phase::Streaming(streaming) = &mut reader.phase else { unreachable!("it streams") };
            if !matches!(fault.class(), Class::Halt | Class::Reject) {
                return Err(Box::new(Gone::Fault(fault)));
            }
            streaming.intake.flush(self.intake_now());
            streaming.mode = Mode::Finishing(fault);
        }
        let due = self.settle(relay, reader);
        self.finished(reader)?;
        let Phase::Streaming(streaming) = &mut reader.phase else { unreachable!("it streams") };
        let mut next = streaming.status_at + STATUS_INTERVAL;
        if streaming.intake.confirmed() > streaming.confirmed {
            next = next.min(streaming.status_at + CONFIRM_INTERVAL);
        }
        if let Due::At(at) = due {
            next = next.min(at);
        }
        Ok(Some(next.max(now)))
    }

    /// Commands, the stall rule, status updates. The inner error comes from the stream, the outer ends it.
    fn attend(&mut self, relay: usize, reader: &mut Reader) -> Result<Result<(), Fault>, Box<Gone>> {
        let now = self.intake_now();
        let Phase::Streaming(streaming) = &mut reader.phase else { unreachable!("it streams") };
        while let Some(command) = reader.commands.pop_front() {
            match command {
                Command::Committed(set) => {
                    streaming.progress_at = now.monotonic;
                    streaming.intake.committed(set, now);
                }
                Command::Topic(topic) => {
                    streaming.wanted = None;
                    streaming.intake.learn(*topic);
                }
                Command::Lineage(nonce) => streaming.intake.lineage(nonce, now),
                Command::Drain => {
                    streaming.mode = Mode::Draining { read_until: now.monotonic + DRAIN_READ_MAX }
                }
                Command::Release => return Err(Box::new(Gone::Released)),
                Command::Stream(_) => {}
            }
        }
        if streaming.intake.in_flight() == 0 {
            streaming.progress_at = now.monotonic;
        } else if now.monotonic.saturating_sub(streaming.progress_at) >= COMMIT_STALL_MAX {
            return Err(Box::new(Gone::Fault(stalled("nothing could be committed to Kafka"))));
        }
        let elapsed = now.monotonic.saturating_sub(streaming.status_at);
        let moved = streaming.intake.confirmed() > streaming.confirmed && elapsed >= CONFIRM_INTERVAL;
        if streaming.asked || moved || elapsed >= STATUS_INTERVAL {
            self.send_status(relay, reader)?;
        }
        Ok(Ok(()))
    }

    fn send_status(&mut self, _relay: usize, reader: &mut Reader) -> Result<(), Box<Gone>> {
        let now = self.agenda.now;
        let Phase::Streaming(streaming) = &mut reader.phase else { unreachable!("it streams") };
        let mut confirmed = streaming.intake.confirmed();
        assert!(confirmed >= streaming.confirmed, "I2: the confirmed position never goes back");
        streaming.confirmed = confirmed;
        streaming.status_at = now;
        streaming.asked = false;
        if self.mistake == Some(Mistake::ConfirmedEarly) {
            confirmed = confirmed.max(streaming.early);
        }
        if self.mistake == Some(Mistake::NeverConfirms) {
            confirmed = Lsn::ZERO;
        }
        self.send_lsn(reader.session, confirmed)
    }

    /// A standby status update on its way; one to a server that has closed the connection is refused.
    fn send_lsn(&mut self, session: Option<u64>, lsn: Lsn) -> Result<(), Box<Gone>> {
        let Some(session) = session else { return Ok(()) };
        let delay = self.dice.between(MS / 10, MS);
        self.agenda.after(delay, Event::Status(session, lsn));
        Ok(())
    }

    fn take_frames(&mut self, relay: usize, reader: &mut Reader) -> Result<(), Fault> {
        let now = self.intake_now();
        let Phase::Streaming(streaming) = &mut reader.phase else { unreachable!("it streams") };
        for _ in 0..FRAMES_PER_LOOK {
            let wants = match streaming.mode {
                Mode::Reading => !streaming.intake.is_full(),
                Mode::Draining { read_until } => {
                    !streaming.intake.at_boundary() && now.monotonic < read_until
                }
                Mode::Finishing(_) => false,
            };
            if !wants || streaming.wanted.is_some() {
                return Ok(());
            }
            let Some((piece, _)) = reader.buffer.front() else { return Ok(()) };
            match piece {
                Piece::End => return Err(Fault::new(Code::PgProtocol, "the stream ended")),
                Piece::Keepalive { wal_end, asked } => {
                    streaming.intake.keepalive(*wal_end, *asked)?;
                    streaming.asked |= *asked;
                }
                Piece::Data(data, sent_at) => {
                    match streaming.intake.take(data, PgTimestamp(*sent_at), now)? {
                        Taken::Done => {}
                        Taken::Again => {
                            hand_over(streaming, &mut self.relays[relay].sink);
                            continue;
                        }
                        Taken::NeedsRoom => return Ok(()),
                        Taken::NeedsTopic(wanted) => {
                            streaming.wanted = Some(wanted.name.clone());
                            let delay = self.dice.between(2 * MS, 50 * MS);
                            let era = Era { relay, number: self.relays[relay].era };
                            self.agenda.after(delay, Event::TopicFound(era, wanted.name));
                            return Ok(());
                        }
                    }
                }
            }
            let (_, last) = reader.buffer.pop_front().expect("it was looked at");
            if last && let Some(session) = reader.session.and_then(|session| self.postgres.session(session)) {
                session.outstanding = session.outstanding.saturating_sub(1);
            }
        }
        reader.turn_at = Some(self.agenda.now);
        let era = Era { relay, number: self.relays[relay].era };
        self.agenda.after(MS / 10, Event::Turn(era));
        Ok(())
    }

    /// Seals what is due and hands it to the sink.
    fn settle(&mut self, relay: usize, reader: &mut Reader) -> Due {
        let now = self.intake_now();
        let Phase::Streaming(streaming) = &mut reader.phase else { unreachable!("it streams") };
        let due = match streaming.mode {
            Mode::Reading => streaming.intake.pace(now),
            Mode::Draining { .. } | Mode::Finishing(_) => {
                streaming.intake.flush(now);
                Due::Later
            }
        };
        hand_over(streaming, &mut self.relays[relay].sink);
        self.submit(relay);
        due
    }

    /// Whether a drain, or what comes before a halt, is over.
    fn finished(&mut self, reader: &mut Reader) -> Result<(), Box<Gone>> {
        let now = self.agenda.now;
        let Phase::Streaming(streaming) = &mut reader.phase else { unreachable!("it streams") };
        let quiet = streaming.intake.in_flight() == 0;
        let gone = match &streaming.mode {
            Mode::Draining { read_until }
                if quiet && (streaming.intake.at_boundary() || now >= *read_until) =>
            {
                Gone::Drained
            }
            Mode::Finishing(fault) if quiet => match streaming.intake.open_commit_lsn() {
                Some(commit_lsn) if fault.class() == Class::Reject => {
                    Gone::Rejected(fault.clone(), commit_lsn)
                }
                _ => Gone::Fault(fault.clone()),
            },
            _ => return Ok(()),
        };
        self.send_status(0, reader)?;
        Err(Box::new(gone))
    }
}

fn hand_over(streaming: &mut Streaming, sink: &mut Option<Sink>) {
    for set in streaming.intake.take_sealed() {
        streaming.early = streaming.early.max(set.end.resume_lsn);
        if let Some(sink) = sink {
            sink.waiting.push_back(Sealed::from(set));
        }
    }
}
