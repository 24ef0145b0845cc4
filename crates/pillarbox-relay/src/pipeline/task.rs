//! The one place that starts threads and tasks: each has a name, and says what its failure and its
//! cancellation do.
//!
//! | name | failure | cancellation |
//! | --- | --- | --- |
//! | `pillarbox-reader` | `Event::ReaderEnded` with the fault; a panic aborts the process | `Command::Release` |
//! | `pillarbox-sink` | `Event::SinkEnded` with the fault; a panic aborts the process | the reader's end closes its channel |
//! | supervisor | its panic aborts the process | `Handle::stop` |
//! | topic lookup | the fault goes to the reader | dropped with the runtime; changes nothing but a created topic |
//! | lineage | `Event::SqlLost` | dropped with the runtime; a statement is one transaction |
//! | arrivals | none | dropped with the runtime; those who wait time out |
//! | housekeeping | stands in the status; the next round tries again | the end of the supervisor; a step is one transaction, or goes on from the catalog |
//!
//! A panic on any of them is a broken invariant. It aborts: a restart recovers from the checkpoint,
//! a wrong confirm does not.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::arrivals::Arrivals;
use super::board::Board;
use super::messages::{Event, Outlet};
use super::{beside, reader};
use crate::config::Config;
use crate::error::{Code, Fault};
use crate::housekeeping::{self, Duty};
use crate::route::WantedTopic;
use crate::sink::recover;
use crate::sql::Lineage;

/// Ends the process if it is dropped by a panic.
struct AbortOnPanic(&'static str);

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(code = %Code::Internal, thread = self.0, "an invariant does not hold, ending the process");
            std::process::abort();
        }
    }
}

/// Starts the reader thread.
///
/// # Errors
/// The system gives no thread.
pub(super) fn reader(context: reader::Context) -> Result<(), Fault> {
    thread("pillarbox-reader", move || reader::run(context))
}

/// Starts the sink thread with a runtime of its own; `ended` is told when it is gone.
///
/// # Errors
/// The system gives no thread, or no file for what the runtime waits with.
pub(super) fn sink(context: recover::Context, ended: mpsc::Sender<Event>) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Fault::system_limit("cannot make the runtime of the sink", error))?;
    thread("pillarbox-sink", move || {
        let fault = runtime.block_on(recover::run(context));
        drop(runtime);
        let _ = ended.blocking_send(Event::SinkEnded(fault));
    })
}

fn thread(name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<(), Fault> {
    let guarded = move || {
        let _abort = AbortOnPanic(name);
        work();
    };
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(guarded);
    started.map(drop).map_err(|error| Fault::system_limit(format!("cannot start thread {name}"), error))
}

/// Starts the supervisor.
pub(super) fn supervisor<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(async move {
        let _abort = AbortOnPanic("supervisor");
        work.await
    })
}

/// Finds out about a topic for the reader.
pub(super) fn topic(config: Arc<Config>, wanted: WantedTopic, reader: Outlet) {
    tokio::spawn(beside::look_up_topic(config, wanted, reader));
}

/// Keeps the lineage nonce moving while we lead.
pub(super) fn lineage(config: Arc<Config>, events: mpsc::Sender<Event>) -> JoinHandle<()> {
    let name = format!("pillarbox/{}", config.pipeline);
    tokio::spawn(beside::advance_lineage(Lineage::new(&config.postgres, &name), config, events))
}

/// Wakes those who wait for events to arrive.
pub(super) fn arrivals(arrivals: Arc<Arrivals>) {
    tokio::spawn(arrivals.forward());
}

/// Keeps the outbox tables small, as far as the pipeline's state allows.
pub(super) fn housekeeping(config: Arc<Config>, duty: watch::Receiver<Duty>, board: Arc<Board>) {
    tokio::spawn(housekeeping::run(config, duty, board));
}
