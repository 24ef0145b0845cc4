//! The machine a number belongs to, and whether it is quiet enough to measure on.
//!
//! Must never name the host or its user.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::process::machine_busy;
use crate::tree;

/// More CPU than this spent by others, in cores, and a run would measure them too.
const QUIET_CORES: f64 = 0.25;
/// How long the machine is watched to call it quiet.
const WATCH: Duration = Duration::from_secs(1);

/// What a reader needs to know to compare.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// See [`Awake`].
    #[serde(default)]
    pub(crate) awake: bool,
    pub(crate) at: String,
    /// The commit that was measured; `+` where the tree held changes, other than results.
    pub(crate) commit: String,
}

impl Machine {
    pub(crate) fn look(awake: bool) -> Machine {
        Machine {
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            memory_mib: memory_mib(),
            kernel: first_line(Command::new("uname").args(["-srm"])),
            awake,
            at: first_line(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%MZ"])),
            commit: commit(),
        }
    }

    /// Its cores, in words.
    pub(crate) fn cores(&self) -> String {
        format!("{} cores{}", self.cores, if self.awake { ", kept awake," } else { "" })
    }
}

/// Keeps the cores from halting while it lives, by the kernel's own interface. A virtual machine leaves to its host what a
/// wake-up from a halt costs, and where that is tens of microseconds a bench of many short waits measures little else.
pub(crate) struct Awake {
    /// The wish is in force until this is closed.
    _request: File,
}

impl Awake {
    pub(crate) fn hold() -> anyhow::Result<Awake> {
        let driver = fs::read_to_string("/sys/devices/system/cpu/cpuidle/current_driver").unwrap_or_default();
        // Without one the kernel takes the wish and does not heed it.
        ensure!(!matches!(driver.trim(), "" | "none"), "--awake: the kernel has no driver for idle cores");
        let path = "/dev/cpu_dma_latency";
        let request = File::options().write(true).open(path).and_then(|mut request| {
            request.write_all(&0_i32.to_ne_bytes())?;
            Ok(request)
        });
        Ok(Awake { _request: request.with_context(|| format!("--awake: cannot write {path}"))? })
    }
}

fn commit() -> String {
    let commit = first_line(tree::command("git").args(["rev-parse", "--short=10", "HEAD"]));
    let changed = ["diff-index", "--quiet", "HEAD", "--", ".", ":(exclude)bench/results"];
    let as_committed = tree::command("git").args(changed).status().is_ok_and(|status| status.success());
    if as_committed { commit } else { commit + "+" }
}

/// Waits until others leave the machine alone, or until the time is up. Gives the foreign load last seen, in cores.
pub(crate) fn wait_quiet(at_most: Duration) -> f64 {
    let deadline = Instant::now() + at_most;
    loop {
        let before = machine_busy();
        sleep(WATCH);
        let load = machine_busy().saturating_sub(before).as_secs_f64() / WATCH.as_secs_f64();
        if load < QUIET_CORES || Instant::now() >= deadline {
            return load;
        }
    }
}

fn memory_mib() -> u64 {
    let text = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    text.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// The value of the first `name : value` line of a file.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn first_line(command: &mut Command) -> String {
    let text = tree::output(command).unwrap_or_else(|_| "unknown".into());
    text.lines().next().unwrap_or("unknown").to_owned()
}
