//! Frames: read from the socket, and taken until one has to wait.
//!
//! A frame that needs room or a topic is held, and nothing behind it is looked at. Must never leave one half taken.

use std::time::Instant;

use pillarbox_wire::lsn::PgTimestamp;

use super::{Attention, Mode, Streaming, stream_fault, tell};
use crate::error::{Code, Fault};
use crate::pipeline::acquire::is_busy;
use crate::pipeline::budget::Stage;
use crate::pipeline::intake::{Now, Taken};
use crate::pipeline::messages::Event;
use crate::pipeline::pace::Due;
use crate::pipeline::silence::{self, Verdict};
use crate::source::{Frame, Frames, SourceError};

/// What [`Streaming::take_frames`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Took {
    /// Frames, or bytes that may hold some: look again at once.
    Some,
    /// Nothing, or bytes in a backlog: pause first.
    Nothing,
    /// See [`Attention::Late`].
    Late,
    Released,
}

impl Streaming {
    /// Takes what is buffered, `most` frames of it; reads once where nothing is.
    pub(super) fn take_frames(&mut self, frames: &mut Frames, most: usize) -> Result<Took, Fault> {
        let now = self.now();
        let mut taken = 0;
        while taken < most && !self.intake.is_full() {
            let Some(frame) = frames.next().map_err(|error| self.frame_fault(&error))? else { break };
            taken += 1;
            match self.take_frame(&frame, now)? {
                Attention::Released => return Ok(Took::Released),
                Attention::Late => return Ok(Took::Late),
                Attention::GoOn | Attention::Changed => {}
            }
            if self.mode != Mode::Reading && self.intake.at_boundary() {
                break;
            }
        }
        if taken > 0 {
            self.silence.heard(self.now().monotonic);
            self.budget.spent(Stage::Take);
            return Ok(Took::Some);
        }
        let read = self.read(frames)?;
        // In a backlog the pause comes once the socket is empty, so that it bounds no rate.
        let more = !self.intake.is_hot() || self.link.has_more();
        Ok(if read > 0 && more { Took::Some } else { Took::Nothing })
    }

    /// Reads once what is there.
    pub(super) fn read(&mut self, frames: &mut Frames) -> Result<usize, Fault> {
        let read = self.link.read_into(frames).map_err(|error| stream_fault(&self.config, &error))?;
        self.budget.spent(Stage::Read);
        let now = self.now();
        if read > 0 {
            self.silence.heard(now.monotonic);
        }
        self.intake.heat(read, now);
        self.pause.read(read);
        Ok(read)
    }

    /// Everything that came was read: whether somebody is there at all.
    pub(super) fn listen(&mut self, wants_frames: bool) -> Result<(), Fault> {
        if !wants_frames {
            self.silence.heard(self.now().monotonic);
        }
        match self.silence.look(self.now().monotonic) {
            Verdict::Fine => {}
            Verdict::Ask => (self.asks, self.asked) = (true, true),
            Verdict::Suspect if is_busy(&self.config) => self.silence.heard(self.now().monotonic),
            Verdict::Suspect => return Err(silence::fault(&self.config.postgres.slot)),
        }
        Ok(())
    }

    fn frame_fault(&self, error: &SourceError) -> Fault {
        let fault = stream_fault(&self.config, error);
        match self.intake.next_place() {
            Some(place) if fault.code == Code::EventTooLarge => {
                Fault { message: format!("{place} cannot be received"), ..fault }
            }
            _ => fault,
        }
    }

    /// Released or late when that came before the frame could be taken.
    fn take_frame(&mut self, frame: &Frame<'_>, now: Now) -> Result<Attention, Fault> {
        match frame {
            Frame::XLogData { data, sent_at, .. } => return self.take_data(data, *sent_at, now),
            Frame::Keepalive { wal_end, reply_requested } => {
                self.intake.keepalive(*wal_end, *reply_requested)?;
                self.asked |= *reply_requested;
            }
            Frame::Notice(notice) if notice.routine == "LoadPublications" => {
                let message =
                    format!("Postgres skipped publication \"{}\"", self.config.postgres.publication);
                return Err(Fault::new(Code::PublicationSkipped, message).because(notice.message).hint(
                    "the publication did not exist when these changes were made: rows are missing from the stream; nothing was confirmed beyond them",
                ));
            }
            Frame::Notice(notice) => {
                tracing::warn!(sqlstate = notice.sqlstate, routine = notice.routine, "notice from Postgres");
            }
            Frame::End => {
                return Err(Fault::new(Code::PgProtocol, "Postgres ended the stream: it shuts down"));
            }
        }
        Ok(Attention::GoOn)
    }

    fn take_data(&mut self, data: &[u8], sent_at: PgTimestamp, mut now: Now) -> Result<Attention, Fault> {
        loop {
            let waited = match self.intake.take(data, sent_at, now)? {
                Taken::Done => return Ok(Attention::GoOn),
                Taken::Again => {
                    self.settle();
                    Attention::GoOn
                }
                Taken::NeedsRoom => {
                    self.settle();
                    self.wait_for_change()?
                }
                Taken::NeedsTopic(wanted) => {
                    tell(&self.events, Event::NeedTopic(wanted.clone()));
                    self.wait_for_topic(&wanted.name)?
                }
            };
            if matches!(waited, Attention::Released | Attention::Late) {
                return Ok(waited);
            }
            now = self.now();
        }
    }

    fn wait_for_topic(&mut self, name: &str) -> Result<Attention, Fault> {
        while !self.intake.knows_topic(name) {
            let waited = self.wait_for_change()?;
            if waited != Attention::Changed {
                return Ok(waited);
            }
        }
        Ok(Attention::Changed)
    }

    /// Waits, with a frame at hand, until a command changes something. Never `GoOn`.
    fn wait_for_change(&mut self) -> Result<Attention, Fault> {
        self.budget.spent(Stage::Take);
        loop {
            match self.attend()? {
                Attention::GoOn => {}
                attention => return Ok(attention),
            }
            if matches!(self.mode, Mode::Draining { read_until } if Instant::now() >= read_until) {
                return Ok(Attention::Late);
            }
            self.wait(false, Due::Later)?;
        }
    }
}
