//! The binary as a user or a script meets it, without any server: exit codes, stdout, stderr.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SMALLEST: &str = "pipeline: orders\npostgres: { url: \"postgres://u:hunter2@127.0.0.1:1/shop\" }\n\
                        kafka: { brokers: [\"127.0.0.1:1\"] }\noutbox: { table: public.outbox }\n";

struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    fn run(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_pillarbox"))
            .args(words)
            .current_dir(self.folder.path())
            .env_clear()
            .output()
            .expect("the binary runs")
    }
}

fn exit(output: &Output) -> i32 {
    output.status.code().expect("no signal")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn file(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn help_and_version_are_data() {
    let desk = Desk::new();
    for words in [["--help"], ["--version"]] {
        let output = desk.run(&words);
        assert_eq!(exit(&output), 0);
        assert!(stdout(&output).contains("pillarbox") && output.stderr.is_empty());
    }
    let help = stdout(&desk.run(&["--help"]));
    for command in [
        "dev",
        "setup",
        "check",
        "run",
        "status",
        "tap",
        "dead-letters",
        "pause",
        "resume",
        "import",
        "config",
        "completions",
    ] {
        assert!(help.contains(&format!("  {command} ")), "{command}:\n{help}");
    }
}

#[test]
fn a_wrong_command_line_exits_2() {
    let desk = Desk::new();
    for words in [
        &["nonsense"][..],
        &["run", "--nonsense"],
        &["tap", "-n", "many"],
        &["dev", "--postgres-version", "9"],
        &["setup", "--print-sql", "--dry-run"],
        &["setup", "--consumer", "postgres://u@h/d", "-c", "pillarbox.yaml"],
        &["setup", "--consumer", "postgres://u@h/d", "--adopt-slot"],
        &[],
    ] {
        assert_eq!(exit(&desk.run(words)), 2, "{words:?}");
    }
}

#[test]
fn a_valid_file_is_told_so() {
    let desk = Desk::new();
    desk.write("pillarbox.yaml", SMALLEST);
    let output = desk.run(&["config", "validate"]);
    assert_eq!((exit(&output), stdout(&output).as_str()), (0, ""));
    assert_eq!(stderr(&output), "pillarbox.yaml is valid: pipeline orders, 1 outbox table\n");
}

#[test]
fn a_wrong_file_exits_78_with_every_problem() {
    let desk = Desk::new();
    let path = desk.write("p.yaml", &SMALLEST.replace("pipeline:", "pipelin:").replace("{ table", "{ tabel"));
    let output = desk.run(&["config", "validate", "-c", file(&path)]);
    assert_eq!(exit(&output), 78);
    let text = stderr(&output);
    for part in [
        "error[PB-0002]: unknown option `pipelin`",
        "hint: did you mean `pipeline`?",
        "error[PB-0002]: unknown option `tabel` in outbox",
        "error[PB-0003]: outbox.table is missing",
        "4 problems in",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert!(!text.contains("\x1b["), "no colour without a terminal");
    let output = desk.run(&["config", "validate", "-c", file(&path), "-o", "json"]);
    assert_eq!(exit(&output), 78);
    let lines: Vec<serde_json::Value> =
        stderr(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((lines.len(), &lines[0]["level"]), (4, &serde_json::json!("error")));
    assert!(lines.iter().any(|line| line["option"] == "outbox.tabel" && line["line"] == 4));
}

#[test]
fn every_command_reads_the_file_first() {
    let desk = Desk::new();
    for words in [
        &["run"][..],
        &["check"],
        &["setup"],
        &["setup", "--print-sql"],
        &["status"],
        &["tap"],
        &["dead-letters", "list"],
        &["dead-letters", "replay", "--all"],
        &["pause"],
        &["resume"],
        &["config", "show"],
    ] {
        let output = desk.run(words);
        assert_eq!(exit(&output), 78, "{words:?}");
        assert!(stderr(&output).starts_with("error[PB-0001]: cannot read pillarbox.yaml"), "{words:?}");
    }
}

/// The consumer's side needs no file, and its SQL no server; an address that cannot be used is not repeated.
#[test]
fn the_consumers_side_needs_no_file() {
    let desk = Desk::new();
    let output = desk.run(&["setup", "--consumer", "postgres://u:hunter2@127.0.0.1:1/d", "--print-sql"]);
    assert_eq!(exit(&output), 0, "{}", stderr(&output));
    for part in
        ["FUNCTION pillarbox.accept(", "CREATE TABLE pillarbox.consumer_positions", "TO the_consumer;"]
    {
        assert!(stdout(&output).contains(part), "{part}");
    }
    for (url, code, words) in [
        ("127.0.0.1:hunter2", 78, "error[PB-0003]: url: expected a URI such as postgres://"),
        ("postgres://127.0.0.1/hunter2", 78, "PGUSER is not set"),
        ("postgres://u:hunter2@127.0.0.1:1/d", 69, "error[PB-1001]: cannot connect to database"),
    ] {
        let output = desk.run(&["setup", "--consumer", url]);
        assert_eq!(exit(&output), code, "{url}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
        assert!(!stderr(&output).contains("hunter2"), "{}", stderr(&output));
    }
}

#[test]
fn show_blanks_secrets() {
    let desk = Desk::new();
    desk.write("pillarbox.yaml", SMALLEST);
    for format in ["yaml", "json"] {
        let output = desk.run(&["config", "show", "-o", format]);
        assert_eq!(exit(&output), 0);
        let text = stdout(&output);
        assert!(text.contains("***") && !text.contains("hunter2"), "{text}");
        assert!(text.contains("pillarbox_orders") && text.contains("127.0.0.1:8686"), "{text}");
    }
}

#[test]
fn print_sql_asks_no_server() {
    let desk = Desk::new();
    desk.write("pillarbox.yaml", SMALLEST);
    let output = desk.run(&["setup", "--print-sql"]);
    assert_eq!((exit(&output), stderr(&output).as_str()), (0, ""));
    assert!(stdout(&output).contains("CREATE PUBLICATION"), "{}", stdout(&output));
}

#[test]
fn servers_that_are_not_there_exit_69() {
    let desk = Desk::new();
    desk.write("pillarbox.yaml", &format!("{SMALLEST}http: {{ listen: off }}\n"));
    for words in [&["setup"][..], &["check"], &["tap", "--from-beginning"]] {
        let output = desk.run(words);
        assert_eq!(exit(&output), 69, "{words:?}: {}{}", stdout(&output), stderr(&output));
        assert!(!format!("{output:?}").contains("hunter2"));
    }
    // status is an answer, not an attempt.
    let output = desk.run(&["status", "-o", "json"]);
    assert_eq!(exit(&output), 0, "{}", stderr(&output));
    let status: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(status["healthy"], false);
    assert_eq!(status["postgres"]["error"]["code"], "PB-1001");
    assert_eq!(status["kafka"]["error"]["code"], "PB-2001");
    assert_eq!(exit(&desk.run(&["status", "--exit-code"])), 1);
}

#[test]
fn pause_without_a_relay_exits_69() {
    let desk = Desk::new();
    // A port that was just given back: nobody listens there.
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    desk.write("pillarbox.yaml", &format!("{SMALLEST}http: {{ listen: \"127.0.0.1:{port}\" }}\n"));
    let output = desk.run(&["pause"]);
    assert_eq!(exit(&output), 69);
    assert!(stderr(&output).contains("hint: start it with `pillarbox run`"), "{}", stderr(&output));
    let output = desk.run(&["resume", "--dry-run"]);
    assert_eq!(exit(&output), 0);
    assert!(stderr(&output).contains("would POST"), "{}", stderr(&output));
    desk.write("pillarbox.yaml", &format!("{SMALLEST}http: {{ listen: off }}\n"));
    assert_eq!(exit(&desk.run(&["pause"])), 78);
}

#[test]
fn a_port_in_use_ends_run_before_it_starts() {
    let desk = Desk::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    desk.write("pillarbox.yaml", &format!("{SMALLEST}http: {{ listen: \"{address}\" }}\n"));
    let output = desk.run(&["run"]);
    assert_eq!(exit(&output), 78);
    assert!(stderr(&output).contains("error[PB-0003]: http.listen: cannot listen on"), "{}", stderr(&output));
}

#[test]
fn completions_are_scripts() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = desk.run(&["completions", shell]);
        assert_eq!(exit(&output), 0);
        assert!(stdout(&output).contains("pillarbox"), "{shell}");
    }
}

const CONNECTOR: &str = include_str!("debezium/article.json");

#[test]
fn an_import_splits_data_from_talk() {
    let desk = Desk::new();
    let path = desk.write("connector.json", CONNECTOR);
    let output = desk.run(&["import", "debezium", file(&path), "--kafka", "k:9092"]);
    assert_eq!(exit(&output), 0);
    assert!(stdout(&output).contains("pipeline: orders_connector"), "YAML is data");
    assert!(stderr(&output).contains("15 keys: 12 mapped"), "the report is talk");
    assert!(!format!("{}{}", stdout(&output), stderr(&output)).contains("dbz\n"));
    let into = &["import", "debezium", "connector.json", "--kafka", "k:9092", "-o", "p.yaml"];
    let output = desk.run(into);
    assert_eq!((exit(&output), stderr(&output).as_str()), (0, ""));
    assert!(stdout(&output).contains("15 keys: 12 mapped"), "the report is data when the YAML has a file");
    let output = desk.run(into);
    assert_eq!(exit(&output), 78, "no file is overwritten unasked");
    assert!(stderr(&output).contains("hint: --force overwrites it"), "{}", stderr(&output));
    assert_eq!(exit(&desk.run(&[&into[..], &["--force"]].concat())), 0);
}

#[test]
fn an_import_that_falls_short_says_so() {
    let desk = Desk::new();
    desk.write(
        "short.json",
        &CONNECTOR.replace("\"database.port\"", "\"snapshot.mode\": \"always\", \"database.port\""),
    );
    let output = desk.run(&["import", "debezium", "short.json", "--kafka", "k:9092"]);
    assert_eq!(exit(&output), 1, "the YAML is there, but does not do all");
    assert!(stdout(&output).contains("pipeline:") && stderr(&output).contains("1 unsupported"));
    desk.write("unknown.json", &CONNECTOR.replace("database.port", "database.prot"));
    let output = desk.run(&["import", "debezium", "unknown.json"]);
    assert_eq!((exit(&output), stdout(&output).as_str()), (78, ""));
    assert!(stderr(&output).contains("hint: did you mean `database.port`?"), "{}", stderr(&output));
    let output = desk.run(&["import", "debezium", "unknown.json", "--lenient", "--kafka", "k:9092"]);
    assert_eq!(exit(&output), 0);
    for (words, code, part) in [
        (&["import", "debezium", "absent.json"][..], 78, "error[PB-0001]: cannot read absent.json"),
        (
            &["import", "debezium", "http://u:hunter2@127.0.0.1:1/connectors/c"],
            69,
            "cannot ask Kafka Connect at 127.0.0.1:1",
        ),
        (&["import", "debezium", "https://h/connectors/c"], 78, "curl -s URL"),
        (&["import", "debezium", "unknown.json", "--lenient", "--kafka", "nothing"], 78, "kafka.brokers"),
    ] {
        let output = desk.run(words);
        assert_eq!(exit(&output), code, "{words:?}: {}", stderr(&output));
        assert!(
            stderr(&output).contains(part) && !stderr(&output).contains("hunter2"),
            "{}",
            stderr(&output)
        );
    }
}
