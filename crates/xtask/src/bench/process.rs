//! What a process cost, from /proc: CPU seconds and peak memory.
//!
//! Linux scales utime + stime of /proc/PID/stat from the scheduler's exact run time, so their sum is right to one tick
//! (10 ms) although each alone is sampled. Must never be asked about a process after it was reaped.

use std::fs;
use std::time::Duration;

/// One tick of /proc/PID/stat. `sysconf(_SC_CLK_TCK)` is 100 on every Linux that Rust supports.
const TICK: Duration = Duration::from_millis(10);

/// CPU time a process has used, all its threads included, ended ones too. `None` once it is gone.
pub(crate) fn cpu(pid: u32) -> Option<Duration> {
    parse_cpu(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// CPU time that the children of a process had used when it reaped them.
pub(crate) fn cpu_of_children(pid: u32) -> Option<Duration> {
    parse_cpu_from(2, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The largest resident memory a process ever had, in bytes.
pub(crate) fn memory_peak(pid: u32) -> Option<u64> {
    parse_memory("VmHWM:", &fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// The resident memory of a process now, in bytes.
pub(crate) fn memory_now(pid: u32) -> Option<u64> {
    parse_memory("VmRSS:", &fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// CPU time that all of the machine has spent on anything but idling, as the kernel accounts it (by sampling: short
/// bursts are missed, so this is a lower bound).
pub(crate) fn machine_busy() -> Duration {
    fs::read_to_string("/proc/stat").ok().as_deref().and_then(parse_busy).unwrap_or_default()
}

/// Fields 14 and 15.
fn parse_cpu(stat: &str) -> Option<Duration> {
    parse_cpu_from(0, stat)
}

/// User and system time, from field 14 + `more` on; the name in field 2 may hold spaces and parentheses.
fn parse_cpu_from(more: usize, stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11 + more);
    let (user, system): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(TICK * (user + system))
}

fn parse_memory(name: &str, status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// user, nice, system, (idle, iowait,) irq, softirq, steal.
fn parse_busy(stat: &str) -> Option<Duration> {
    let fields: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).map_while(|f| f.parse().ok()).collect();
    let busy: u64 =
        fields.iter().enumerate().filter(|(i, _)| *i < 8 && *i != 3 && *i != 4).map(|(_, ticks)| ticks).sum();
    Some(TICK * u32::try_from(busy).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 5 0 100 1000 200";
        assert_eq!(parse_cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(parse_cpu_from(2, stat), Some(TICK * 18));
        assert_eq!(parse_memory("VmHWM:", "VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(parse_busy("cpu  100 1 200 5000 7 1 2 3 0 0\ncpu0 1"), Some(TICK * 307));
        assert_eq!(parse_cpu("7 (a"), None);
    }

    #[test]
    fn sees_this_process_work() {
        let pid = std::process::id();
        let before = cpu(pid).expect("we run");
        let mut x = 0_u64;
        while cpu(pid).expect("we run") < before + 3 * TICK {
            x = std::hint::black_box(x.wrapping_mul(3) + 1);
        }
        assert!(memory_peak(pid).expect("we run") > 1 << 20);
        assert!(machine_busy() > Duration::ZERO);
    }
}
