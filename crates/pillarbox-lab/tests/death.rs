//! Servers never outlive the process that started them, however it ends.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::Duration;

use pillarbox_lab::process::{is_alive, wait_gone};
use pillarbox_lab::{Kafka, KafkaOptions, LabError, Postgres, PostgresOptions};

const LIMIT: Duration = Duration::from_secs(30);
/// Before the process ids in the helper's output.
const MARK: &str = "servers:";

/// Runs in a process of its own: starts servers on a thread that ends, says their ids, and waits to be killed.
#[test]
#[ignore = "run by the other test in a process of its own"]
fn helper_that_holds_servers() -> Result<(), LabError> {
    let start = || -> Result<_, LabError> {
        Ok((Postgres::start(PostgresOptions::default())?, Kafka::start(KafkaOptions::default())?))
    };
    let (postgres, kafka) = std::thread::spawn(start).join().expect("no panic")?;
    let backend = postgres
        .query_one("postgres", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")?;
    println!("{MARK} {} {} {backend}", postgres.pid().expect("up"), kafka.pid(1).expect("up"));
    // Ends with an error if the other test ended without killing us.
    std::io::stdin().read_to_end(&mut Vec::new()).expect("a pipe");
    panic!("not killed");
}

#[test]
fn servers_die_with_a_killed_parent() {
    let program = std::env::current_exe().expect("a path");
    let mut helper = Command::new(program)
        .args(["--exact", "helper_that_holds_servers", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let output = BufReader::new(helper.stdout.take().expect("a pipe"));
    let line =
        output.lines().map_while(Result::ok).find(|line| line.contains(MARK)).expect("servers started");
    let (_, numbers) = line.split_once(MARK).expect("the mark");
    let pids: Vec<u32> = numbers.split_whitespace().map(|n| n.parse().expect("a pid")).collect();
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| is_alive(*pid)), "they outlive the thread that asked for them");
    assert!(pids.iter().all(|pid| owner(*pid) != 0), "none runs as root");

    helper.kill().expect("killed");
    helper.wait().expect("reaped");
    for pid in pids {
        assert!(wait_gone(pid, LIMIT), "process {pid} outlived its parent");
    }
}

/// The effective uid of a process.
fn owner(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).expect("a uid");
    line.split_whitespace().nth(1).expect("effective").parse().expect("a number")
}
