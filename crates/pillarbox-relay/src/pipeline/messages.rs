//! What the threads of a pipeline say to each other, and the bounded ways it travels.
//!
//! ```text
//!              Event                       Command
//!  reader ---------------> supervisor ---------------> reader
//!     |                        ^                          ^
//!     | HandedSet              | Event      CommittedSet  |
//!     +--------> sink ---------+--------------------------+
//! ```
//!
//! Never carries a decision: whoever receives a message decides.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Instant;

use pillarbox_wire::lsn::Lsn;

use super::intake::{CommittedSet, SETS_MAX, SealedSet};
use crate::error::Fault;
use crate::position::checkpoint::Table;
use crate::position::lineage::SourceFacts;
use crate::position::recognition::Recognition;
use crate::route::{Topic, WantedTopic};
use crate::source::Wake;

/// Messages that may wait for the reader: every set in flight can come back while it sleeps, and
/// a few commands.
const INBOX_MAX: usize = SETS_MAX + 24;

/// What the reader is told.
pub(crate) enum Command {
    /// The checkpoint is read and the predecessors are fenced: stream.
    Stream(Box<Plan>),
    /// A set was committed.
    Committed(CommittedSet),
    /// The topic that was asked for, or why it cannot be used.
    Topic(Box<Result<Topic, Fault>>),
    /// Pause, or go on.
    Pause(bool),
    /// The database has a new lineage nonce.
    Lineage(String),
    /// Commit and confirm what is complete, then end.
    Drain,
    /// End at once.
    Release,
}

/// Where to stream from.
pub(crate) struct Plan {
    /// The checkpoint.
    pub(crate) table: Table,
    /// The epoch to write.
    pub(crate) epoch: u32,
    /// The recorded topics.
    pub(crate) topics: Vec<Topic>,
    /// What the stream must show.
    pub(crate) recognition: Recognition,
}

/// A set on its way to the sink.
pub(crate) struct HandedSet {
    pub(crate) set: SealedSet,
    /// When it was handed over.
    pub(crate) at: Instant,
}

/// Sets that the channel to the sink takes: all in flight, and one beyond before a settled
/// transaction.
pub(crate) const SETS_QUEUED_MAX: usize = SETS_MAX + 2;

/// What the supervisor hears.
pub(crate) enum Event {
    /// Another client streams from the slot.
    SlotBusy,
    /// The slot is ours.
    SlotOwned(Box<SourceFacts>),
    /// The sink has recovered; `Command::Stream` went to the reader.
    Recovered,
    /// The reader asks for a topic.
    NeedTopic(WantedTopic),
    /// The pause state that is now committed.
    Paused(bool),
    /// The reader has ended.
    ReaderEnded(ReaderEnd),
    /// The sink thread is gone, perhaps with a fault.
    SinkEnded(Option<Fault>),
    /// The database has a new lineage nonce.
    Lineage(String),
    /// The SQL connection does not answer, or says why this cannot go on.
    SqlLost(Fault),
}

/// How the reader ended.
#[derive(Debug)]
pub(crate) enum ReaderEnd {
    /// As it was told to.
    Released,
    /// Everything complete is committed and confirmed.
    Drained,
    /// By itself.
    Fault(Fault),
    /// At an event that cannot be published, in the transaction that commits at this LSN; every
    /// sealed set is committed.
    Rejected(Fault, Lsn),
}

/// The supervisor's and the sink's way to the reader.
#[derive(Clone)]
pub(crate) struct Outlet {
    sender: SyncSender<Command>,
    wake: Wake,
}

impl Outlet {
    /// Leaves a message and wakes the reader. Never blocks; a reader that has ended is no error.
    pub(crate) fn send(&self, command: Command) {
        match self.sender.try_send(command) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => self.wake.wake(),
            Err(TrySendError::Full(_)) => panic!("the reader's inbox has room for every set and command"),
        }
    }
}

/// The reader's inbox.
pub(crate) struct Inbox {
    receiver: Receiver<Command>,
    /// Rings when something is left here.
    pub(crate) wake: Wake,
}

impl Inbox {
    /// The next message, if there is one. A supervisor that is gone means release.
    pub(crate) fn next(&self) -> Option<Command> {
        match self.receiver.try_recv() {
            Ok(command) => Some(command),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Command::Release),
        }
    }
}

/// A fresh inbox.
pub(crate) fn inbox() -> std::io::Result<(Outlet, Inbox)> {
    let (sender, receiver) = sync_channel(INBOX_MAX);
    let wake = Wake::new()?;
    Ok((Outlet { sender, wake: wake.clone() }, Inbox { receiver, wake }))
}
