//! The private Postgres and Kafka of `dev`: started together, with progress on stderr.
//!
//! Never touches a server it did not start; the lab sees to it that none outlives this process.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use pillarbox_lab::{Kafka, KafkaOptions, LabError, Postgres, PostgresOptions, Progress, ShutdownMode};
use pillarbox_relay::error::{Code, ExitCode, Fault};

use crate::report::Failure;

/// How often a spinner turns.
const SPIN_INTERVAL: Duration = Duration::from_millis(100);

/// How long Postgres may take to stop in order before it is ended by force.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What to start.
pub(super) struct Wanted {
    pub(super) postgres_version: u32,
    /// Ports of Postgres and Kafka; free ones where not given.
    pub(super) ports: Option<(u16, u16)>,
    pub(super) root: PathBuf,
}

/// Both servers. Dropping them ends them.
pub(super) struct Servers {
    pub(super) postgres: Postgres,
    pub(super) kafka: Kafka,
}

impl Servers {
    /// Starts both at once; blocks for seconds, the first time for as long as the downloads take.
    ///
    /// # Errors
    /// What is missing on this machine, and what to install.
    pub(super) fn start(wanted: &Wanted) -> Result<Self, Failure> {
        let bars = MultiProgress::new();
        let postgres = || {
            let line = Line::new(&bars, "Postgres");
            let options = PostgresOptions {
                version: wanted.postgres_version,
                port: wanted.ports.map(|(postgres, _)| postgres),
                data_dir: Some(wanted.root.join("postgres")),
                ..PostgresOptions::default()
            };
            Postgres::start_with(options, &|progress| line.show(&progress))
        };
        let kafka = || {
            let line = Line::new(&bars, "Kafka");
            let options = KafkaOptions {
                ports: wanted.ports.map(|(_, kafka)| vec![kafka]),
                data_dir: Some(wanted.root.join("kafka")),
                ..KafkaOptions::default()
            };
            Kafka::start_with(options, &|progress| line.show(&progress))
        };
        let (postgres, kafka) = super::task::both(postgres, kafka);
        let (postgres, kafka) = (postgres?, kafka?);
        let failed = |name| move |error: LabError| failure(name, &error);
        Ok(Self { postgres: postgres.map_err(failed("Postgres"))?, kafka: kafka.map_err(failed("Kafka"))? })
    }

    /// Stops both in order, so that their data can be used again.
    pub(super) fn stop(mut self) -> Result<(), Failure> {
        let postgres = self.postgres.stop(ShutdownMode::Fast, STOP_TIMEOUT);
        let kafka = self.kafka.stop();
        postgres.map_err(|error| failure("Postgres", &error))?;
        kafka.map_err(|error| failure("Kafka", &error))
    }
}

/// What is missing is a matter of the machine's configuration; all else is a server that is not there.
fn failure(name: &str, error: &LabError) -> Failure {
    let exit = match error {
        LabError::JavaMissing
        | LabError::MavenMissing { .. }
        | LabError::Platform { .. }
        | LabError::ProgramMissing { .. }
        | LabError::Option { .. } => ExitCode::Config,
        _ => ExitCode::Unavailable,
    };
    let text = error.to_string();
    let (cause, hint) = text.split_once("\nhint: ").unwrap_or((&text, ""));
    let fault =
        Fault::new(Code::PrivateServer, format!("the private {name} server did not start")).because(cause);
    let fault = if hint.is_empty() { fault } else { fault.hint(hint) };
    Failure::Exit(fault, exit)
}

/// One server's progress: a spinner on a terminal, a line a step elsewhere.
struct Line {
    name: &'static str,
    bar: Option<ProgressBar>,
}

impl Line {
    fn new(bars: &MultiProgress, name: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(ProgressStyle::default_spinner());
            bar.enable_steady_tick(SPIN_INTERVAL);
            bar
        });
        Self { name, bar }
    }

    fn show(&self, progress: &Progress) {
        let name = self.name;
        let (text, done) = match progress {
            Progress::Waiting(what) => (format!("{name}: another process fetches {what}"), false),
            Progress::Downloading(what) => (format!("{name}: fetching {what}"), false),
            Progress::Unpacking(what) => (format!("{name}: unpacking {what}"), false),
            Progress::Preparing(what) => (format!("{name}: preparing {what}"), false),
            Progress::Starting(what) => (format!("{name}: starting {what}"), false),
            Progress::Ready(what) => (format!("{name}: {what} is ready"), true),
        };
        match &self.bar {
            Some(bar) if done => bar.finish_with_message(text),
            Some(bar) => bar.set_message(text),
            None => eprintln!("{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_its_cure() {
        let Failure::Exit(fault, exit) = failure("Kafka", &LabError::JavaMissing) else {
            panic!("an exit code of its own")
        };
        assert_eq!(exit, ExitCode::Config);
        assert_eq!(fault.cause.as_deref(), Some("java does not run"));
        assert!(fault.hint.unwrap().contains("apt install openjdk"));
    }
}
