//! A running recipe: killed, stopped, suspended as the machine it runs on may do it. It dies with the test.
//!
//! Must never tell a program anything but its environment and signals.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pillarbox_lab::process::{Launch, ServerProcess};
use rustix::process::Signal;

/// The exit code of a recipe that stops because events are missing, or are of another history.
pub(crate) const STOPPED: i32 = 65;
/// How often a member may end because Kafka or Postgres failed it.
const RESTARTS_MAX: u32 = 3;
/// How long a member may take to end in order.
const GRACE: Duration = Duration::from_secs(20);
/// Lines of its output that a failing test shows.
const TAIL_LINES: usize = 30;

/// Makes the command anew for each start.
type Recipe = Box<dyn Fn() -> Command>;

pub(crate) struct Member {
    process: ServerProcess,
    recipe: Recipe,
    restarts: u32,
    log: PathBuf,
}

impl Member {
    /// Starts it; its output goes to a file of its own.
    pub(crate) fn start(name: &str, recipe: Recipe, log: &Path) -> Self {
        Self { process: launch(name, &recipe, log), recipe, restarts: 0, log: log.to_owned() }
    }

    /// Starts it again where it has ended by itself, as its README asks of whoever runs it.
    ///
    /// # Panics
    /// Where it found that events are missing, or ends again and again.
    pub(crate) fn supervise(&mut self) {
        let Some(status) = self.process.wait(Duration::ZERO).expect("it is our child") else { return };
        let (name, said) = (self.process.name().to_owned(), self.said());
        self.restarts += 1;
        assert!(
            status.code() != Some(STOPPED) && self.restarts <= RESTARTS_MAX,
            "{name} ended, {status}:\n{said}"
        );
        println!("{name} ended, {status}, and is started again:\n{said}");
        self.process = launch(&name, &self.recipe, &self.log);
    }

    pub(crate) fn kill9(&mut self) {
        self.process.kill().expect("it dies");
    }

    /// Sends SIGTERM and, where that is not heard, SIGKILL, as whoever runs services does; gives its exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.process.signal(Signal::TERM).expect("it takes the signal");
        if self.process.wait(GRACE).expect("it is our child").is_none() {
            println!("{}: killed, {GRACE:?} after SIGTERM", self.process.name());
            self.kill9();
        }
        self.process.wait(Duration::ZERO).expect("it is our child")?.code()
    }

    /// Stops it where it stands.
    pub(crate) fn suspend(&mut self) {
        self.process.signal(Signal::STOP).expect("it takes the signal");
    }

    /// Lets it go on.
    pub(crate) fn resume(&mut self) {
        self.process.signal(Signal::CONT).expect("it takes the signal");
    }

    /// Waits for its end; none where a signal ended it.
    pub(crate) fn exit_code(&mut self, limit: Duration) -> Option<i32> {
        let status = self.process.wait(limit).expect("it is our child");
        status.unwrap_or_else(|| panic!("it did not end within {limit:?}:\n{}", self.said())).code()
    }

    /// The end of its output.
    pub(crate) fn said(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} (pid {}):\n{}", self.log.display(), self.process.pid(), self.said());
        }
    }
}

fn launch(name: &str, recipe: &Recipe, log: &Path) -> ServerProcess {
    let launch = Launch { name: name.to_owned(), command: recipe(), log: log.to_owned(), account: None };
    ServerProcess::start(launch).expect("the recipe starts")
}
