//! At which message something is done, what, and the handle by which a test follows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use tokio::runtime::Handle;
use tokio::sync::watch;
use uuid::Uuid;

use super::scan::Sight;
use crate::LabError;

/// A message to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// A Kafka request, before the broker sees it.
    Request(ApiKey),
    /// The answer to one, after the broker has done it and before the client knows.
    Answer(ApiKey),
    /// An EndTxn that commits, or one that aborts.
    EndTxn {
        /// Which.
        commit: bool,
    },
    /// A Produce to a topic; newer brokers are told its id, older ones its name.
    ProduceTo {
        /// Topic name.
        name: String,
        /// Topic id.
        id: Uuid,
    },
    /// A standby status update to Postgres.
    StandbyStatus,
}

impl Trigger {
    /// `asked` is the api of the request that an answer belongs to.
    pub(super) fn matches(&self, sight: &Sight, asked: Option<i16>) -> bool {
        match (self, sight) {
            (Self::Request(api), Sight::Request(request)) => request.api == *api as i16,
            (Self::Answer(api), Sight::Answer(_)) => asked == Some(*api as i16),
            (Self::EndTxn { commit }, Sight::Request(request)) => request.commits() == Some(*commit),
            (Self::ProduceTo { name, id }, Sight::Request(request)) => request.produces_to(name, *id),
            (Self::StandbyStatus, Sight::StandbyStatus) => true,
            _ => false,
        }
    }
}

/// What is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It and all behind it wait for [`Caught::release`], whatever becomes of the sender.
    Hold,
    /// Its connection is reset; it goes no further.
    Reset,
    /// A byte is altered: 16 before its end, or in the middle of what is shorter than 64.
    Corrupt,
}

/// One armed trigger, as the lanes see it.
#[derive(Debug)]
pub(super) struct Catch {
    pub(super) trigger: Trigger,
    pub(super) action: Action,
    taken: AtomicBool,
    caught: watch::Sender<bool>,
    released: watch::Sender<bool>,
    answer: watch::Sender<Option<Vec<i16>>>,
}

impl Catch {
    pub(super) fn new(trigger: Trigger, action: Action) -> Self {
        let taken = AtomicBool::new(false);
        let (caught, released) = (watch::Sender::new(false), watch::Sender::new(false));
        Self { trigger, action, taken, caught, released, answer: watch::Sender::new(None) }
    }

    /// True for the first who asks.
    pub(super) fn take(&self) -> bool {
        !self.taken.swap(true, Ordering::AcqRel)
    }

    pub(super) fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }

    pub(super) fn caught(&self) {
        self.caught.send_replace(true);
    }

    pub(super) async fn released(&self) {
        // The sender is ours: it does not close.
        let _ = self.released.subscribe().wait_for(|released| *released).await;
    }

    pub(super) fn answered(&self, codes: Vec<i16>) {
        self.answer.send_replace(Some(codes));
    }
}

/// A trigger that was armed. Dropping it lets go of what it holds.
#[derive(Debug)]
pub struct Caught {
    pub(super) catch: Arc<Catch>,
    pub(super) runtime: Handle,
}

impl Caught {
    /// Whether the message has come.
    pub fn is_caught(&self) -> bool {
        *self.catch.caught.borrow()
    }

    /// Waits for the message.
    ///
    /// # Errors
    /// It did not come in time.
    pub fn wait(&self, limit: Duration) -> Result<(), LabError> {
        let mut caught = self.catch.caught.subscribe();
        self.until("meet its trigger", limit, async move { caught.wait_for(|caught| *caught).await.is_ok() })
    }

    /// Lets the message go, and what waits behind it.
    pub fn release(&self) {
        self.catch.released.send_replace(true);
    }

    /// Waits for the codes in Kafka's answer to the message, of those answers that are looked into
    /// ([`super::Proxy::answers`]).
    ///
    /// # Errors
    /// It was not answered in time.
    pub fn answer(&self, limit: Duration) -> Result<Vec<i16>, LabError> {
        let mut answer = self.catch.answer.subscribe();
        self.until("see the answer", limit, async move { answer.wait_for(Option::is_some).await.is_ok() })?;
        Ok(self.catch.answer.borrow().clone().unwrap_or_default())
    }

    fn until(
        &self,
        what: &'static str,
        limit: Duration,
        wait: impl Future<Output = bool>,
    ) -> Result<(), LabError> {
        let came = self.runtime.block_on(async { tokio::time::timeout(limit, wait).await });
        match came {
            Ok(true) => Ok(()),
            _ => Err(LabError::Timeout {
                name: format!("the proxy ({:?})", self.catch.trigger),
                what,
                after: limit,
                output: String::new(),
            }),
        }
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        // An armed one that nobody waits for must not hold a later message for ever.
        self.catch.take();
        self.release();
    }
}
