//! SIGINT and SIGTERM: the first asks to stop, the second ends the process at once.

use pillarbox_relay::error::{Code, Fault};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How the process ends at the second signal: 128 + SIGTERM.
const EXIT_AT_ONCE: i32 = 143;

/// Both signals.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Catches both from now on.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn catch() -> Result<Self, Fault> {
        let catch = |kind| {
            signal(kind).map_err(|error| Fault::new(Code::Internal, "cannot catch signals").because(error))
        };
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    /// Waits for one of them; gives its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// Runs `work`; a signal meanwhile ends the process at once.
    pub(crate) async fn or_exit<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            value = work => value,
            name = self.next() => {
                tracing::warn!(signal = name, "second signal: ending at once");
                std::process::exit(EXIT_AT_ONCE)
            }
        }
    }
}
