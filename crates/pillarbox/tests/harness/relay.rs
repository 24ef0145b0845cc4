//! A relay as its user runs it: a child process, asked over HTTP, told by signals.
//!
//! It dies with the test, however that ends. A failing test prints the end of its log (which by rule holds no
//! payload). Must never share an address with another relay.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use pillarbox_lab::http::exchange;
use pillarbox_lab::process::{Launch, ServerProcess};
use rustix::process::Signal;
use serde_json::Value;

use super::until::until;

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_pillarbox");

/// How long one HTTP answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How long a pause or a resume may take: several commits to Kafka.
const COMMITTED_MAX: Duration = Duration::from_secs(30);

/// How often a relay is asked that does not answer.
const QUESTIONS: u32 = 4;

/// The pause between.
const QUESTION_PAUSE: Duration = Duration::from_millis(20);

/// Lines of the log that a failing test shows.
const TAIL_LINES: usize = 60;

/// A running `pillarbox run`. Dropping it kills it. `RUST_LOG` of the test is its own.
pub(crate) struct Relay {
    process: ServerProcess,
    file: PathBuf,
    port: u16,
    env: Env,
    log: PathBuf,
    shell: Option<&'static str>,
}

/// Variables that a configuration file refers to.
type Env = Vec<(&'static str, &'static str)>;

impl Relay {
    /// Starts it; `log` is appended to. Does not wait for anything.
    pub(super) fn start(file: PathBuf, port: u16, env: Env, log: PathBuf) -> Self {
        Self::start_by(file, port, env, log, None)
    }

    /// Starts it by a line of shell in which `exec "$@"` is the relay.
    pub(super) fn start_by(
        file: PathBuf,
        port: u16,
        env: Env,
        log: PathBuf,
        shell: Option<&'static str>,
    ) -> Self {
        Self { process: launch(&file, &env, &[], &log, shell), file, port, env, log, shell }
    }

    /// Starts it again after its end, as a supervisor would.
    pub(crate) fn start_again(&mut self) {
        self.start_again_with(&[]);
    }

    /// The same with more variables, for this start alone.
    pub(crate) fn start_again_with(&mut self, more: &[(&'static str, String)]) {
        assert!(!self.process.is_running(), "the relay runs");
        self.process = launch(&self.file, &self.env, more, &self.log, self.shell);
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Status code and body of `GET path`; `None` where nobody answers.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        exchange(self.port, "GET", path, "", ANSWER_MAX).ok()
    }

    /// Status code and body of `POST path`; `None` where nobody answers.
    pub(crate) fn post(&self, path: &str) -> Option<(u16, String)> {
        exchange(self.port, "POST", path, "", COMMITTED_MAX).ok()
    }

    /// `GET /api/v1/status`.
    pub(crate) fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.get("/api/v1/status")?.1).ok()
    }

    /// The state as the status has it: `streaming`, `standing_by`, `halted`, ...
    pub(crate) fn state(&self) -> Option<String> {
        Some(self.status()?["state"].as_str()?.to_owned())
    }

    /// The code of the fault the status shows, `PB-nnnn`.
    pub(crate) fn fault(&self) -> Option<String> {
        Some(self.status()?["fault"]["code"].as_str()?.to_owned())
    }

    /// A counter of the status, such as `events_total`; 0 where nobody answers.
    pub(crate) fn count(&self, name: &str) -> u64 {
        for _ in 0..QUESTIONS {
            if let Some(status) = self.status() {
                return status[name].as_u64().unwrap_or(0);
            }
            std::thread::sleep(QUESTION_PAUSE);
        }
        0
    }

    /// Waits until the status shows this state; gives the time it took.
    pub(crate) fn wait_state(&mut self, state: &str, limit: Duration) -> Duration {
        let mut last = String::new();
        let what = format!("the relay is {state}");
        let (_, took) = until(&what, limit, || {
            assert!(self.process.is_running(), "the relay ended; it was {last:?}, not yet {state}");
            last = self.state().unwrap_or(std::mem::take(&mut last));
            (last == state).then_some(())
        });
        took
    }

    /// Waits until the status shows a counter of at least this; gives the time it took.
    pub(crate) fn wait_count(&mut self, name: &str, least: u64, limit: Duration) -> Duration {
        until(&format!("{name} is {least}"), limit, || {
            assert!(self.process.is_running(), "the relay ended before {name} was {least}");
            (self.count(name) >= least).then_some(())
        })
        .1
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub(crate) fn kill9(&mut self) {
        self.process.kill().expect("the relay dies");
    }

    /// Sends a signal.
    pub(crate) fn signal(&mut self, signal: Signal) {
        self.process.signal(signal).expect("the relay takes the signal");
    }

    /// Sends SIGTERM, and waits for its end.
    pub(crate) fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.process.signal(Signal::TERM).expect("the relay takes the signal");
        self.wait_end(limit)
    }

    /// Waits for its end.
    pub(crate) fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let ended = self.process.wait(limit).expect("the relay is our child");
        ended.unwrap_or_else(|| panic!("the relay did not end within {limit:?}"))
    }

    /// Stops it where it stands (SIGSTOP).
    pub(crate) fn suspend(&mut self) {
        self.process.signal(Signal::STOP).expect("the relay takes the signal");
    }

    /// Lets it go on (SIGCONT).
    pub(crate) fn resume(&mut self) {
        self.process.signal(Signal::CONT).expect("the relay takes the signal");
    }

    /// The most memory it ever had resident, in KiB (`VmHWM`).
    pub(crate) fn rss_max_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the relay runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Lines of its log, all starts, that hold this text.
    pub(crate) fn log_count(&self, text: &str) -> usize {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(text)).count()
    }

    /// The bytes in its log, all starts.
    pub(crate) fn log_bytes(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |log| log.len())
    }

    /// Its log from a byte on.
    pub(crate) fn log_from(&self, byte: u64) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let from = usize::try_from(byte).expect("a log that was read").min(log.len());
        String::from_utf8_lossy(&log[from..]).into_owned()
    }

    /// The end of its log.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} (pid {}):\n{}", self.log.display(), self.pid(), self.log_tail());
        }
    }
}

fn launch(
    file: &Path,
    env: &Env,
    more: &[(&'static str, String)],
    log: &Path,
    shell: Option<&str>,
) -> ServerProcess {
    let mut command = Command::new(if shell.is_some() { "sh" } else { BINARY });
    if let Some(line) = shell {
        command.args(["-c", line, "sh", BINARY]);
    }
    command.arg("run").arg("-c").arg(file).envs(env.iter().copied()).envs(more.iter().cloned());
    let launch = Launch { name: "pillarbox run".into(), command, log: log.to_owned(), account: None };
    ServerProcess::start(launch).expect("the relay starts")
}
