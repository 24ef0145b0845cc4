//! Commands from the supervisor and the sink, and status updates to Postgres meanwhile.
//!
//! Must never confirm what is not committed: the ledger inside the intake says what is.

use std::time::{Duration, Instant};

use pillarbox_failpoint::{Step, hit};

use super::{Attention, CONFIRM_INTERVAL, Mode, STATUS_INTERVAL, Streaming, stalled, stream_fault, tell};
use crate::error::Fault;
use crate::pipeline::intake::CommittedSet;
use crate::pipeline::messages::{Command, Event};
use crate::position::confirm::COMMIT_STALL_MAX;

/// A drain reads on to the end of the open transaction for this long.
const DRAIN_READ_MAX: Duration = Duration::from_secs(5);

impl Streaming {
    /// Commands, status updates, the stall rule.
    pub(super) fn attend(&mut self) -> Result<Attention, Fault> {
        let mut attention = Attention::GoOn;
        while let Some(command) = self.inbox.next() {
            match command {
                Command::Committed(set) => {
                    self.committed(set);
                    attention = Attention::Changed;
                }
                Command::Topic(topic) => {
                    self.intake.learn((*topic)?);
                    attention = Attention::Changed;
                }
                Command::Pause(true) if self.mode == Mode::Reading => self.mode = Mode::Pausing,
                Command::Pause(false) if matches!(self.mode, Mode::Pausing | Mode::Paused) => self.resume(),
                Command::Lineage(nonce) => {
                    let now = self.now();
                    self.intake.lineage(nonce, now);
                }
                Command::Drain => {
                    hit(Step::DrainBegun);
                    self.mode = Mode::Draining { read_until: Instant::now() + DRAIN_READ_MAX };
                }
                Command::Release => return Ok(Attention::Released),
                Command::Pause(_) | Command::Stream(_) => {}
            }
        }
        if self.intake.in_flight() == 0 {
            self.progress_at = Instant::now();
        } else if self.progress_at.elapsed() >= COMMIT_STALL_MAX {
            return Err(stalled("nothing could be committed to Kafka"));
        }
        if self.status_due() {
            self.send_status()?;
        }
        Ok(attention)
    }

    fn committed(&mut self, set: CommittedSet) {
        self.progress_at = Instant::now();
        let (paused, now) = (set.end.paused, self.now());
        self.intake.committed(set, now);
        // Only now: whoever is told that the pipeline is paused relies on a restart to keep it so.
        if std::mem::replace(&mut self.paused_told, paused) != paused {
            hit(Step::PauseCommitted);
            tell(&self.events, Event::Paused(paused));
        }
    }

    fn resume(&mut self) {
        let was_paused = self.mode == Mode::Paused;
        self.mode = Mode::Reading;
        if was_paused {
            let now = self.now();
            self.intake.seal_paused(false, now);
        } else {
            // No checkpoint has said that it is paused.
            tell(&self.events, Event::Paused(false));
        }
    }

    fn status_due(&self) -> bool {
        let elapsed = self.status_at.elapsed();
        let moved = self.intake.confirmed() > self.confirmed && elapsed >= CONFIRM_INTERVAL;
        self.asked || moved || elapsed >= STATUS_INTERVAL
    }

    pub(super) fn send_status(&mut self) -> Result<(), Fault> {
        let confirmed = self.intake.confirmed();
        assert!(confirmed >= self.confirmed, "I2: the confirmed position never goes back");
        let moved = confirmed > self.confirmed;
        if moved {
            hit(Step::ConfirmReady);
        }
        let asks = std::mem::take(&mut self.asks);
        self.link.send_status(confirmed, asks).map_err(|error| stream_fault(&self.config, &error))?;
        if moved {
            hit(Step::Confirmed);
        }
        self.confirmed = confirmed;
        self.status_at = Instant::now();
        self.asked = false;
        self.board.confirmed(confirmed, self.intake.server_lsn());
        self.remarks.look(&self.intake, &self.board);
        Ok(())
    }
}
