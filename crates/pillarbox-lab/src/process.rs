//! Server processes that never outlive us and never run as root.
//!
//! ```text
//! caller --Command--> spawner thread --fork--> [uid dropped] [prctl: die with parent] exec server
//! ```
//! The kernel's "die with the parent" fires when the spawning *thread* ends, so one thread that lives as long
//! as this process spawns everything. Each server leads its own process group: a Ctrl-C in the terminal
//! reaches us, and we decide about the servers. Must never signal a process it did not start.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::account::Account;
use crate::{LabError, error};

/// How long a killed process may take to disappear: the kernel frees its memory meanwhile.
const KILL_WAIT_MAX: Duration = Duration::from_secs(20);
/// Spawn orders waiting for the spawner: each caller waits for its own answer, so the queue stays short.
const ORDERS_MAX: usize = 16;

/// How to start one process.
pub struct Launch {
    /// What errors call it, e.g. `postgres 18` or `kafka broker 2`.
    pub name: String,
    /// The program and its arguments; environment and folder may be set too.
    pub command: Command,
    /// Where standard output and error go; appended to.
    pub log: PathBuf,
    /// The account to drop to.
    pub account: Option<Account>,
}

/// A running or ended process that we started. Dropping it kills it.
#[derive(Debug)]
pub struct ServerProcess {
    name: String,
    log: PathBuf,
    child: Child,
    pid: Pid,
    exit: OwnedFd,
    ended: Option<ExitStatus>,
}

impl ServerProcess {
    /// Starts a process.
    pub fn start(launch: Launch) -> Result<Self, LabError> {
        let Launch { name, mut command, log, account } = launch;
        let open = || File::options().create(true).append(true).open(&log);
        let out = open().map_err(LabError::io("open", &log))?;
        let err = out.try_clone().map_err(LabError::io("open", &log))?;
        crate::account::give(&log, account)?;
        let program = PathBuf::from(command.get_program());
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        if let Some(account) = account {
            command.uid(account.uid).gid(account.gid);
        }
        die_with_us(&mut command);
        let child = spawn(command).map_err(LabError::io("start", program))?;
        let pid = Pid::from_child(&child);
        let exit = pidfd_open(pid, PidfdFlags::empty())
            .map_err(|e| LabError::io("watch", format!("/proc/{pid}"))(e.into()))?;
        Ok(Self { name, log, child, pid, exit, ended: None })
    }

    /// Runs a process to its end; its last words are in the error where it fails.
    pub fn run(launch: Launch, name: &'static str, timeout: Duration) -> Result<(), LabError> {
        let mut process = Self::start(launch)?;
        match process.wait(timeout)? {
            Some(status) if status.success() => Ok(()),
            Some(_) => Err(LabError::Setup { name, output: process.last_words() }),
            None => Err(process.timed_out("end", timeout)),
        }
    }

    /// The process id, also after the end.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// What errors call this process.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True until the process has ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.wait(Duration::ZERO), Ok(None))
    }

    /// Waits for the end at most so long; `None` if it still runs.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<ExitStatus>, LabError> {
        if self.ended.is_none() && wait_readable(&self.exit, timeout) {
            let waited = self.child.wait().map_err(LabError::io("wait for", &self.log))?;
            self.ended = Some(waited);
        }
        Ok(self.ended)
    }

    /// Sends a signal; nothing happens where the process has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<(), LabError> {
        if !self.is_running() {
            return Ok(());
        }
        kill_process(self.pid, signal).map_err(|e| LabError::io("signal", &self.name)(e.into()))
    }

    /// Kills the process (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) -> Result<(), LabError> {
        self.signal(Signal::KILL)?;
        match self.wait(KILL_WAIT_MAX)? {
            Some(_) => Ok(()),
            None => Err(self.timed_out("die", KILL_WAIT_MAX)),
        }
    }

    /// Kills the process and all its children at one moment, and waits until all are gone. Children may lead
    /// groups of their own (every Postgres backend does), so they are found by their parent.
    pub fn kill_family(&mut self) -> Result<(), LabError> {
        self.signal(Signal::STOP)?;
        let family: Vec<OwnedFd> = self.children().into_iter().filter_map(kill_other).collect();
        self.kill()?;
        let deadline = Instant::now() + KILL_WAIT_MAX;
        let gone = |fd: &OwnedFd| wait_readable(fd, deadline.saturating_duration_since(Instant::now()));
        if family.iter().all(gone) { Ok(()) } else { Err(self.timed_out("die", KILL_WAIT_MAX)) }
    }

    /// Stops (SIGSTOP) or continues the process and its children. While stopped, no new child appears.
    pub fn freeze(&mut self, frozen: bool) -> Result<(), LabError> {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        if frozen {
            self.signal(signal)?;
        }
        for child in self.children() {
            // A child that has just ended needs no signal.
            let _ = kill_process(child, signal);
        }
        if frozen { Ok(()) } else { self.signal(signal) }
    }

    /// The children that run now.
    pub fn children(&self) -> Vec<Pid> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| parent_of(*pid) == Some(self.pid)).filter_map(Pid::from_raw).collect()
    }

    /// The end of the log. Only for errors from before clients were served: later lines may hold data.
    pub(crate) fn last_words(&self) -> String {
        error::tail(&fs::read_to_string(&self.log).unwrap_or_default())
    }

    /// The error for a process that did not do something in time, without its log.
    pub(crate) fn timed_out(&self, what: &'static str, after: Duration) -> LabError {
        LabError::Timeout { name: self.name.clone(), what, after, output: String::new() }
    }

    /// The error for a process that ended early or never answered, with its log.
    pub(crate) fn not_ready(&mut self, after: Duration) -> LabError {
        let name = self.name.clone();
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let output = error::tail(&log);
        if self.is_running() {
            return LabError::Timeout { name, what: "become ready", after, output };
        }
        // Looked for in the whole log: a broker goes on talking for a while before it ends.
        if log.contains("Address already in use") {
            return LabError::PortTaken { name };
        }
        LabError::Died { name, output }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Nobody is left to tell; the kernel kills what is left when we end.
        let _ = self.kill_family();
    }
}

/// True if the process with this id has not ended (a zombie has).
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !matches!(rest.trim_start().chars().next(), Some('Z' | 'X')))
}

/// Waits until a process that may be somebody else's child has ended; false after the timeout.
pub fn wait_gone(pid: u32, timeout: Duration) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return true };
    pidfd_open(pid, PidfdFlags::empty()).map_or(true, |fd| wait_readable(&fd, timeout))
}

/// True if this program is on the PATH.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file: &PathBuf| Path::is_file(file))
}

/// The parent of a process, from /proc.
fn parent_of(pid: i32) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Pid::from_raw(rest.split_whitespace().nth(1)?.parse().ok()?)
}

/// Kills one of our server's children; gives what to wait on for its end.
fn kill_other(pid: Pid) -> Option<OwnedFd> {
    let exit = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    kill_process(pid, Signal::KILL).ok()?;
    Some(exit)
}

/// Waits until a descriptor is readable (for a pidfd: the process has ended); false after the timeout.
fn wait_readable(fd: &OwnedFd, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else { return false };
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Arranges that the kernel kills the child when our spawner thread, that is our process, ends.
fn die_with_us(command: &mut Command) {
    let parent = rustix::process::getpid();
    let hook = move || {
        // After the uid was dropped: changing it would clear the setting again.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // We may have died between the fork and this line.
        if rustix::process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotConnected.into())
        }
    };
    // SAFETY: between fork and exec the hook makes system calls only; it neither allocates nor locks.
    unsafe { command.pre_exec(hook) };
}

/// One order to the spawner and where the answer goes.
type Order = (Command, SyncSender<io::Result<Child>>);

/// Has the spawner thread start a command.
fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<SyncSender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| Mutex::new(start_spawner()));
    let (answer, wait) = sync_channel(1);
    let gone = || io::Error::other("the spawner thread is gone");
    spawner.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer)).map_err(|_| gone())?;
    wait.recv().map_err(|_| gone())?
}

/// Starts the thread that is the parent of all servers; it ends with the process.
fn start_spawner() -> SyncSender<Order> {
    let (orders, queue) = sync_channel::<Order>(ORDERS_MAX);
    std::thread::spawn(move || {
        for (mut command, answer) in queue {
            // A caller that no longer waits drops the child handle; its server dies with us.
            let _ = answer.send(command.spawn());
        }
    });
    orders
}
