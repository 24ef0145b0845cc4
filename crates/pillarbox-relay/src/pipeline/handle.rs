//! A running pipeline, as whoever started it holds it: what it does, and stop, pause and resume.
//!
//! What changes it is a message to the supervisor, what looks at it reads the board. Must never touch the pipeline itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::arrivals::Arrivals;
use super::board::Board;
use super::status::{State, Status};
use crate::error::{Code, Fault};

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
pub(super) enum Request {
    Stop,
    Pause(bool, oneshot::Sender<Result<(), Fault>>),
}

/// A running pipeline.
pub struct Handle {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) board: Arc<Board>,
    pub(super) supervisor: JoinHandle<Ended>,
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
