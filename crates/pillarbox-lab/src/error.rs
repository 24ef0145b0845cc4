//! What can go wrong in the lab. Never carries a payload, a key or a password: server output appears only
//! from before a server was ready, when no client has spoken to it yet.

use std::path::PathBuf;
use std::time::Duration;

/// Any failure of the lab. Each message names the object; where a person can repair it, a `hint:` says how.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A file or process operation failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried, in the infinitive.
        action: &'static str,
        /// On which file, folder or program.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// No usable Java on this machine.
    #[error(
        "java does not run\nhint: install a Java runtime, version 17 or later (Debian: apt install openjdk-17-jre-headless)"
    )]
    JavaMissing,
    /// No usable Maven on this machine.
    #[error("mvn does not run\nhint: install Maven (Debian: apt install maven); it fetches {wanted}")]
    MavenMissing {
        /// What was to be fetched.
        wanted: String,
    },
    /// Maven ran and failed.
    #[error(
        "maven could not fetch {wanted}: {output}\nhint: check the network or the mirror in ~/.m2/settings.xml"
    )]
    Download {
        /// What was to be fetched.
        wanted: String,
        /// The last lines Maven printed.
        output: String,
    },
    /// No binaries are published for this processor.
    #[error("no {what} is published for {arch}\nhint: install it and set {variable}")]
    Platform {
        /// Which server.
        what: &'static str,
        /// The processor, as Rust names it.
        arch: &'static str,
        /// The variable that points at installed binaries.
        variable: &'static str,
    },
    /// A program the caller asked for is not there.
    #[error("{name} is not installed\nhint: {hint}")]
    ProgramMissing {
        /// The program.
        name: String,
        /// How to get it.
        hint: &'static str,
    },
    /// A program that prepares a server failed.
    #[error("{name} failed: {output}")]
    Setup {
        /// The program.
        name: &'static str,
        /// The last lines it printed.
        output: String,
    },
    /// A server ended before it was ready.
    #[error("{name} ended before it was ready: {output}")]
    Died {
        /// The server.
        name: String,
        /// The last lines of its log.
        output: String,
    },
    /// A server ended because somebody listens on a port that was to be its own.
    #[error("{name} found its port taken")]
    PortTaken {
        /// The server.
        name: String,
    },
    /// A server did not become ready, or did not stop, in time.
    #[error("{name} did not {what} within {after:?}: {output}")]
    Timeout {
        /// The server.
        name: String,
        /// What was awaited, in the infinitive.
        what: &'static str,
        /// The limit.
        after: Duration,
        /// The last lines of its log, where it was not ready yet.
        output: String,
    },
    /// The operation needs a server in another state.
    #[error("{name} is {state}")]
    State {
        /// The server.
        name: String,
        /// What it is instead.
        state: &'static str,
    },
    /// An option that cannot be served.
    #[error("{what}")]
    Option {
        /// What is wrong with which option.
        what: String,
    },
    /// Postgres refused a statement or a connection. The detail (which may hold row values) is left out.
    #[error("postgres: {message}")]
    Sql {
        /// SQLSTATE, where the server gave one.
        code: Option<String>,
        /// The primary message.
        message: String,
    },
    /// Kafka refused a request or answered nonsense.
    #[error("kafka: {what}")]
    Kafka {
        /// What was asked and what came back.
        what: String,
    },
    /// Two accounts of what was committed differ: the writers' and the WAL's.
    #[error("the writers and the wal disagree: {what}")]
    Disagreement {
        /// About what.
        what: String,
    },
}

/// An error about what the writers and the WAL say.
pub(crate) fn disagreement(what: impl Into<String>) -> LabError {
    LabError::Disagreement { what: what.into() }
}

impl LabError {
    /// Wraps an I/O error with what was tried and where.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

impl From<tokio_postgres::Error> for LabError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => {
                Self::Sql { code: Some(db.code().code().to_owned()), message: db.message().to_owned() }
            }
            None => Self::Sql { code: None, message: error.to_string() },
        }
    }
}

/// Lines of server or tool output shown in an error: enough for a Java exception with its cause.
const TAIL_LINES_MAX: usize = 20;

/// The last lines of a text.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES_MAX)..].join("\n")
}
