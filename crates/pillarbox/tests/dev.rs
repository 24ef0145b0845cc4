//! The README's first command, and the commands it tells its user to try, on the servers it starts.
//!
//! Needs what `dev` needs: Java and Maven. Must never leave a process behind.

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use pillarbox_lab::ports;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_pillarbox");

/// Downloads included; afterwards it is seconds.
const START_MAX: Duration = Duration::from_secs(600);

/// A running `pillarbox dev`; killed with the test.
struct Dev {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    folder: tempfile::TempDir,
    port: u16,
}

impl Dev {
    fn start(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // HTTP, Postgres and Kafka: three in a row. Another process may take one in between; then `dev` says so.
        let port = consecutive();
        let talk = std::fs::File::create(folder.path().join("talk")).expect("a file");
        let mut child = Command::new(BINARY)
            .args(["dev", "--port", &port.to_string()])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(talk)
            .spawn()
            .expect("dev starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines, folder, port }
    }

    /// What it said on stderr so far.
    fn talk(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("talk")).expect("text")
    }

    /// Reads a line a second until `field` is at least this; each line is a moment.
    fn wait(&mut self, field: &str, least: u64) {
        let started = Instant::now();
        while started.elapsed() < START_MAX {
            let Some(line) = self.lines.next() else { panic!("dev ended:\n{}", self.talk()) };
            let line = line.expect("text");
            let value = line.split(' ').find_map(|word| word.strip_prefix(field)?.strip_prefix('='));
            let value: u64 = value.unwrap_or_else(|| panic!("{field} in {line}")).parse().expect("a number");
            if value >= least {
                return;
            }
        }
        panic!("{field} stayed below {least}:\n{}", self.talk());
    }

    /// The configuration file it wrote, as its instructions say.
    fn file(&self) -> PathBuf {
        let talk = self.talk();
        let line = talk.lines().find(|line| line.starts_with("read events:")).expect("instructions");
        PathBuf::from(line.split(" -c ").nth(1).expect("a file"))
    }

    fn command(&self, words: &[&str]) -> Output {
        Command::new(BINARY).args(words).arg("-c").arg(self.file()).output().expect("the command runs")
    }

    /// The stdout of a command that must succeed.
    fn data(&self, words: &[&str]) -> String {
        let output = self.command(words);
        let talk = String::from_utf8_lossy(&output.stderr);
        let data = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success(), "{words:?}: {}\n{data}{talk}", output.status);
        data
    }

    /// Sends SIGINT, as Ctrl-C does, and waits for the end; gives the exit code.
    fn interrupt(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("dev takes the signal");
        self.end()
    }

    fn end(&mut self) -> Option<i32> {
        // Its last lines are read, so that it never waits for us.
        self.lines.by_ref().for_each(drop);
        self.child.wait().expect("dev is our child").code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Its servers die with it. It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first of three free ports in a row.
fn consecutive() -> u16 {
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..100)
        .map(|_| ports::free(1).expect("a free port")[0])
        .find(|port| *port < 65_000 && free(port + 1) && free(port + 2))
        .expect("three free ports in a row")
}

/// Processes whose command line names this folder.
fn processes_of(folder: &Path) -> usize {
    let folder = folder.to_str().expect("text");
    let names = |entry: std::io::Result<std::fs::DirEntry>| {
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(folder).then_some(())
    };
    std::fs::read_dir("/proc").expect("a list of processes").filter_map(names).count()
}

#[test]
fn everything_dev_promises() {
    let mut dev = Dev::start(&[]);
    dev.wait("seen", 300);
    let file = dev.file();
    let root = file.parent().expect("a folder").to_owned();
    assert!(processes_of(&root) >= 2, "both servers run");

    status_is(&dev, true, "streaming");
    tap_shows_events_in_order(&dev);
    // Under traffic: a check that compares what it read at different moments would see a gap.
    for _ in 0..5 {
        setup_and_check_are_content(&dev);
    }

    dev.data(&["pause"]);
    status_is(&dev, true, "paused");
    dev.data(&["resume"]);
    status_is(&dev, true, "streaming");
    an_event_of_our_own_arrives(&dev);

    assert_eq!(dev.interrupt(), Some(0), "{}", dev.talk());
    let talk = dev.talk();
    assert!(talk.contains("0 lost, 0 duplicated, 0 ghosts, 0 out of order, 0 sequence gaps"), "{talk}");
    assert_eq!(processes_of(&root), 0);
    assert!(!root.exists(), "nothing stays");
}

fn status_is(dev: &Dev, healthy: bool, state: &str) {
    let status: Value = serde_json::from_str(&dev.data(&["status", "-o", "json"])).expect("JSON");
    assert_eq!(status["healthy"], healthy, "{status:#}");
    assert_eq!(status["relay"]["found"]["state"], state, "{status:#}");
    assert_eq!(status["postgres"]["found"]["active"], true, "{status:#}");
    assert_eq!(status["kafka"]["found"]["paused"], state == "paused", "{status:#}");
}

fn tap_shows_events_in_order(dev: &Dev) {
    let text = dev.data(&["tap", "--from-beginning", "-n", "100"]);
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(events.len(), 100);
    let positions: Vec<&str> = events.iter().map(|event| event["pb_pos"].as_str().expect("text")).collect();
    let order = |pos: &str| pos.split(':').nth(1).expect("a position").to_owned();
    assert!(positions.windows(2).all(|pair| order(pair[0]) < order(pair[1])), "{positions:?}");
    let first = &events[0];
    assert_eq!(first["topic"], "outbox.event.order");
    assert!(first["key"].as_str().is_some_and(|key| key.starts_with("customer-")), "{first}");
    let value: Value = serde_json::from_str(first["value"].as_str().expect("text")).expect("JSON");
    assert_eq!(value["order"], first["id"]);
    // All of what is there now, to its end.
    assert!(dev.data(&["tap", "--from-beginning"]).lines().count() >= 300);
    assert_eq!(dev.data(&["tap", "-n", "2", "-o", "table"]).lines().count(), 3);
}

fn setup_and_check_are_content(dev: &Dev) {
    assert_eq!(dev.data(&["setup"]), "nothing to do: the pipeline is set up\n");
    let text = dev.data(&["check"]);
    assert!(text.contains("0 errors"), "{text}");
    let findings: Value = serde_json::from_str(&dev.data(&["check", "-o", "json"])).expect("JSON");
    assert!(findings.as_array().is_some_and(|list| list.len() > 5), "{findings:#}");
}

/// The statement of the instructions, sent as they say, without psql.
fn an_event_of_our_own_arrives(dev: &Dev) {
    let url = format!("postgres://postgres@127.0.0.1:{}/shop", dev.port + 1);
    assert!(dev.talk().contains(&url));
    let tap = Command::new(BINARY)
        .args(["tap", "--from-beginning", "--follow", "-o", "ndjson", "-c"])
        .arg(dev.file())
        .stdout(Stdio::piped())
        .spawn();
    let mut tap = tap.expect("tap starts");
    let sql = "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES (gen_random_uuid(), \
               'order', 'me', 'Hello', '{\"hello\": \"world\"}')";
    pillarbox_lab::sql::run(&url, sql).expect("Postgres takes it");
    let lines = BufReader::new(tap.stdout.take().expect("a pipe")).lines();
    let ours = lines.map(|line| line.expect("text")).find(|line| line.contains("\"key\":\"me\""));
    assert!(ours.expect("it arrives").contains("world"));
    tap.kill().and_then(|()| tap.wait().map(drop)).expect("tap ends");
}

#[test]
fn kept_data_is_found_again() {
    let keep = tempfile::tempdir().expect("a folder");
    let keep = keep.path().join("kept");
    let words = ["--keep", keep.to_str().expect("text"), "--duration", "3s", "--events-per-second", "50"];
    let mut first = Dev::start(&words);
    assert_eq!(first.end(), Some(0), "{}", first.talk());
    assert_eq!(processes_of(&keep), 0);
    let talk = first.talk();
    let committed = talk.lines().find_map(|line| line.split_once(" committed, ")).expect("a summary").0;
    let committed: usize = committed.parse().expect("a number");
    let mut second = Dev::start(&["--keep", keep.to_str().expect("text"), "--events-per-second", "50"]);
    second.wait("seen", 1);
    let events = second.data(&["tap", "--from-beginning"]).lines().count();
    assert!(committed > 0 && events > committed, "{committed} of the first start, {events} are there");
    assert_eq!(second.interrupt(), Some(0), "{}", second.talk());
    assert!(keep.join("pillarbox.yaml").exists());
}
