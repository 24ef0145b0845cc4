//! The examples, as their README says to run them: each in a copy of its folder, against a private Postgres, its event
//! read back from Kafka.
//!
//! An example whose runtime is not installed is left out, and the test says so. Must never write into the tree.

#[expect(dead_code, reason = "not every test needs all of the harness")]
mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::records::{Isolation, header, read};
use harness::site::Site;
use pillarbox_lab::{KafkaOptions, PostgresOptions};
use rdkafka::message::Message;

/// How long any step may take on a busy machine.
const STEP_MAX: Duration = Duration::from_secs(60);

/// An example: its folder, a command that only succeeds where its runtime is, then what its README says.
struct Example {
    folder: &'static str,
    runtime: &'static [&'static str],
    prepare: &'static [&'static str],
    run: &'static [&'static str],
}

const EXAMPLES: [Example; 5] = [
    Example {
        folder: "psql",
        runtime: &["psql", "--version"],
        prepare: &[],
        run: &["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "emit.sql"],
    },
    Example {
        folder: "jdbc",
        runtime: &["mvn", "--version"],
        prepare: &["mvn", "-q", "-B", "dependency:copy-dependencies"],
        run: &["java", "-cp", "target/dependency/*", "Emit.java"],
    },
    Example {
        folder: "psycopg",
        runtime: &["python3", "-m", "pip", "--version"],
        prepare: &[
            "python3",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--target",
            "packages",
            "-r",
            "requirements.txt",
        ],
        run: &["python3", "emit.py"],
    },
    Example {
        folder: "pgx",
        runtime: &["go", "version"],
        prepare: &["go", "build", "./..."],
        run: &["go", "run", "."],
    },
    Example {
        folder: "node-postgres",
        runtime: &["npm", "--version"],
        prepare: &["npm", "ci", "--silent", "--no-audit", "--no-fund"],
        run: &["node", "emit.mjs"],
    },
];

#[test]
fn events_emitted_in_five_languages() {
    let site = Site::start(PostgresOptions::default(), KafkaOptions::default());
    let configuration = site.configure("orders", 1, &[]);
    let text = fs::read_to_string(&configuration.file).expect("the file");
    fs::write(&configuration.file, text + "messages: { prefix: outbox }\n").expect("the file is written");
    site.setup(&configuration);
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", STEP_MAX);
    let table = "CREATE TABLE orders (id text PRIMARY KEY, state text NOT NULL)";
    site.postgres.execute("postgres", table).expect("the table");

    let copies = tempfile::tempdir().expect("a folder");
    let ran: Vec<(&str, String)> = std::thread::scope(|scope| {
        let threads = EXAMPLES.map(|example| {
            let (port, copies) = (site.postgres.port(), copies.path());
            scope.spawn(move || run(&example, port, copies).map(|said| (example.folder, said)))
        });
        threads.into_iter().filter_map(|thread| thread.join().expect("the example runs")).collect()
    });
    // Whoever runs these tests has Maven.
    assert!(ran.iter().any(|(folder, _)| *folder == "jdbc"), "{ran:?}");

    site.caught_up(&configuration, STEP_MAX);
    assert_eq!(relay.terminate(STEP_MAX).code(), Some(0));
    let mut seen = Vec::new();
    read(&site.kafka.bootstrap(), "outbox.event.order", Isolation::Committed, |message| {
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.expect("bytes").to_vec()).expect("text");
        let id = header(message, "id").expect("an id");
        seen.push((text(message.key()), text(message.payload()), id));
    });
    let event = |(folder, said): &(&str, String)| {
        let id = said.split_whitespace().next().expect("the id is printed").to_owned();
        (format!("{folder}-1"), format!("{{\"id\": \"{folder}-1\", \"state\": \"placed\"}}"), id)
    };
    let mut expected: Vec<_> = ran.iter().map(event).collect();
    expected.sort();
    seen.sort();
    assert_eq!(seen, expected, "one event each, and none of what was rolled back");
}

/// What the example printed; none where its runtime is missing.
fn run(example: &Example, port: u16, copies: &Path) -> Option<String> {
    let Example { folder, runtime, prepare, run } = example;
    let known = command(runtime, copies).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !known.is_ok_and(|status| status.success()) {
        println!("{folder}: left out, {} is not installed", runtime[0]);
        return None;
    }
    let started = Instant::now();
    let copy = copies.join(folder);
    copy_folder(&examples().join(folder), &copy);
    if !prepare.is_empty() {
        said(folder, &mut command(prepare, &copy));
    }
    let prepared = started.elapsed();
    let mut run = command(run, &copy);
    run.envs([("PGHOST", "127.0.0.1"), ("PGUSER", "postgres"), ("PGDATABASE", "postgres")]);
    run.env("PGPORT", port.to_string()).env("PYTHONPATH", "packages");
    let said = said(folder, &mut run);
    println!("{folder}: prepared in {prepared:.1?}, all in {:.1?}", started.elapsed());
    Some(said)
}

fn examples() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the root");
    root.join("examples/emit")
}

/// The files of a folder; what an earlier run by hand left in folders is not copied.
fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("the example").map(|entry| entry.expect("an entry")) {
        if entry.file_type().expect("a type").is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
        }
    }
}

fn command(words: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(folder).stdin(Stdio::null());
    command
}

fn said(folder: &str, command: &mut Command) -> String {
    let output = command.output().expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{folder}: {command:?}:\n{}{error}",
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stdout).expect("text")
}
