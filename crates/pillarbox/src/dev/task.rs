//! The one place of `dev` that starts threads and tasks.
//!
//! None of them outlives the process, and a panic in any of them ends `dev` with an error: the
//! servers go with it.

use pillarbox_relay::error::{Code, Fault};

use super::servers::{Servers, Wanted};
use crate::report::Failure;

/// Starts both servers on a blocking thread: it takes seconds, and signals must be heard meanwhile.
/// Dropped before it is done, the thread goes on until the process ends.
pub(super) async fn start(wanted: Wanted) -> Result<Servers, Failure> {
    tokio::task::spawn_blocking(move || Servers::start(&wanted)).await.map_err(|_| panicked("servers"))?
}

/// Stops both servers on a blocking thread, in order when their data is kept.
pub(super) async fn stop(servers: Servers, kept: bool) -> Result<(), Failure> {
    let work = move || {
        if kept {
            return servers.stop();
        }
        drop(servers);
        Ok(())
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| panicked("servers"))?
}

/// Runs both at once, each on a thread that ends with its work; a panic is an error of its side.
pub(super) fn both<A: Send, B: Send>(
    first: impl FnOnce() -> A + Send,
    second: impl FnOnce() -> B + Send,
) -> (Result<A, Failure>, Result<B, Failure>) {
    std::thread::scope(|scope| {
        let (first, second) = (scope.spawn(first), scope.spawn(second));
        (first.join().map_err(|_| panicked("Postgres")), second.join().map_err(|_| panicked("Kafka")))
    })
}

/// The consumer's thread: ends when told to, or with the fault it reported.
pub(super) fn watch(work: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>, Fault> {
    let thread = std::thread::Builder::new().name("pillarbox-watch".to_owned()).spawn(work);
    thread.map_err(|error| Fault::new(Code::Internal, "cannot start the consumer thread").because(error))
}

fn panicked(what: &str) -> Failure {
    Failure::Fault(Fault::new(Code::Internal, format!("the thread of {what} panicked")))
}
