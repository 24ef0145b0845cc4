//! The rule as `sql/consumer/mysql.sql` has it, on a private MariaDB.
//!
//! ```text
//! mariadb-install-db -> mariadbd on a socket -> `mariadb` clients that are talked to line by line
//! ```

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use pillarbox_lab::account::{give_tree, server_account};
use pillarbox_lab::process::{Launch, ServerProcess};

use super::program::{converse, programs};
use super::{nth, pos};

const START_MAX: Duration = Duration::from_secs(120);
const WAIT_MAX: Duration = Duration::from_secs(30);
/// The server's list of transactions is refreshed only when nobody has asked for it for 100 ms.
const LOOK_EVERY: Duration = Duration::from_millis(120);

/// A server; dropping it ends it.
struct Maria {
    client: PathBuf,
    dir: tempfile::TempDir,
    _process: ServerProcess,
}

impl Maria {
    fn start() -> Option<Maria> {
        let [install, daemon, client] = programs(
            ["mariadb-install-db", "mariadbd", "mariadb"],
            "mariadb-server-core mariadb-client-core",
        )?;
        let account = server_account().expect("an account");
        let dir = tempfile::Builder::new().prefix("pillarbox-maria-").tempdir().expect("a folder");
        give_tree(dir.path(), account).expect("a folder of the server");
        let launch = |mut command: Command, log: &str| {
            command.current_dir(dir.path()).env("HOME", dir.path());
            Launch { name: "mariadb".into(), command, log: dir.path().join(log), account }
        };
        let data = format!("--datadir={}", dir.path().join("data").display());
        let mut command = Command::new(install);
        command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", &data]);
        ServerProcess::run(launch(command, "install.log"), "mariadb-install-db", START_MAX)
            .expect("a data folder");
        let mut command = Command::new(daemon);
        let socket = format!("--socket={}", dir.path().join("sock").display());
        command.args(["--no-defaults", "--skip-networking", "--innodb-buffer-pool-size=32M", &data, &socket]);
        let process = ServerProcess::start(launch(command, "server.log")).expect("a server");
        let maria = Maria { client, dir, _process: process };
        let deadline = Instant::now() + START_MAX;
        while let Err(refusal) = converse(&mut maria.command("mysql"), "SELECT 1;") {
            assert!(Instant::now() < deadline, "{refusal}");
            std::thread::sleep(Duration::from_millis(50));
        }
        let installed = format!(
            "CREATE DATABASE shop; USE shop;\n{}\nCREATE TABLE effect (sequence BIGINT);",
            include_str!("../../../../sql/consumer/mysql.sql")
        );
        converse(&mut maria.command("mysql"), &installed).expect("the file runs as it is");
        Some(maria)
    }

    fn command(&self, database: &str) -> Command {
        let mut command = Command::new(&self.client);
        command.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names", "--unbuffered"]);
        command.arg(format!("--socket={}", socket(self.dir.path()).display())).arg(database);
        command
    }

    fn talk(&self) -> Talk {
        let mut command = self.command("shop");
        let program = command.arg("--force").get_program().to_owned();
        // The shell makes one stream of answers and errors, so that their order is known.
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(program).args(command.get_args());
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a client");
        let (input, output) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Talk { child, input, output: BufReader::new(output) }
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("sock")
}

/// A client that stays; dropping it closes its session.
struct Talk {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Position and sequence.
type Mark = (u128, i64);
/// What came of a call.
type Answer = Result<bool, String>;

impl Talk {
    /// The lines that a statement gives.
    fn say(&mut self, sql: &str) -> Vec<String> {
        writeln!(self.input, "{sql};\nSELECT '--end';").expect("the client reads");
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).expect("the client answers") > 0, "{sql}: {lines:?}");
            match line.trim_end() {
                "--end" => return lines,
                line => lines.push(line.to_owned()),
            }
        }
    }

    /// Of consumer `billing` in orders-3; the SQLSTATE of a refusal.
    fn accept(&mut self, header: Option<&str>, on_gap: &str, strict: bool) -> Answer {
        let header = header.map_or("NULL".to_owned(), |header| format!("'{header}'"));
        let call =
            format!("CALL pillarbox_accept('billing', 'orders', 3, {header}, 70, '{on_gap}', {strict})");
        let lines = self.say(&call);
        // The client shows the statement before its error.
        match lines.last().map(String::as_str) {
            Some("1") => Ok(true),
            Some("0") => Ok(false),
            Some(line) if line.starts_with("ERROR ") => {
                Err(line.split(['(', ')']).nth(1).expect("a SQLSTATE").to_owned())
            }
            _ => panic!("{call}: {lines:?}"),
        }
    }
}

#[test]
fn the_rule_in_mysql() {
    let Some(maria) = Maria::start() else { return };
    let mut talk = maria.talk();
    every_row(&mut talk);
    headers(&mut talk);
    names(&mut talk);
    owners(&maria);
    first_contacts(&maria);
}

fn every_row(talk: &mut Talk) {
    const LAST: i64 = i64::MAX;
    let gap = || Err("PB001".to_owned());
    let foreign = || Err("PB002".to_owned());
    let rows: [(Option<Mark>, Mark, &str, bool, Answer); 25] = [
        (None, (10, 1), "error", false, Ok(true)),
        (None, (10, 7), "error", false, Ok(true)),
        (None, (10, 1), "error", true, Ok(true)),
        (None, (10, 7), "error", true, gap()),
        (None, (10, 7), "warn", true, Ok(true)),
        (Some((10, 5)), (10, 5), "error", false, Ok(false)),
        (Some((10, 5)), (9, 4), "error", false, Ok(false)),
        (Some((10, 5)), (9, 5), "error", false, Ok(false)),
        (Some((10, 5)), (10, 4), "error", false, Ok(false)),
        (Some((10, 5)), (11, 6), "error", true, Ok(true)),
        (Some((10, 5)), (11, 7), "error", false, gap()),
        (Some((10, 5)), (11, 7), "warn", false, Ok(true)),
        (Some((10, 5)), (11, LAST), "error", false, gap()),
        (Some((10, 5)), (11, 5), "error", false, foreign()),
        (Some((10, 5)), (11, 4), "error", false, foreign()),
        (Some((10, 5)), (11, 1), "error", true, foreign()),
        (Some((10, 5)), (10, 6), "error", false, foreign()),
        (Some((10, 5)), (9, 6), "error", false, foreign()),
        (Some((10, 5)), (10, 7), "warn", false, foreign()),
        (Some((10, 5)), (9, 7), "error", false, foreign()),
        (Some((10, LAST - 1)), (11, LAST), "error", false, Ok(true)),
        (Some((11, LAST)), (11, LAST), "error", false, Ok(false)),
        (Some((u128::MAX - 1, 1)), (u128::MAX, 2), "error", false, Ok(true)),
        (Some((0x9f, 1)), (0xa0, 2), "error", false, Ok(true)),
        (Some((0xa0, 1)), (0x9f, 2), "error", false, foreign()),
    ];
    for (stored, given, on_gap, strict, expected) in rows {
        talk.say("DELETE FROM pillarbox_consumer_positions");
        if let Some((position, sequence)) = stored {
            assert_eq!(talk.accept(Some(&pos(position, sequence)), "error", false), Ok(true));
        }
        let case = format!("{stored:?} {given:?} {on_gap} {strict}");
        talk.say("START TRANSACTION");
        let answer = talk.accept(Some(&pos(given.0, given.1)), on_gap, strict);
        talk.say(if answer.is_ok() { "COMMIT" } else { "ROLLBACK" });
        assert_eq!(answer, expected, "{case}");
        let found =
            talk.say("SELECT CONCAT(source, ':', position, ':', sequence) FROM pillarbox_consumer_positions");
        let expected = if expected == Ok(true) { Some(given) } else { stored };
        let expected: Vec<String> =
            expected.iter().map(|(position, sequence)| pos(*position, *sequence)).collect();
        assert_eq!(found, expected, "{case}");
    }
}

fn headers(talk: &mut Talk) {
    talk.say("DELETE FROM pillarbox_consumer_positions");
    let good = pos(1, 1);
    let bad = [
        String::new(),
        "canary".to_owned(),
        good.to_uppercase(),
        good.replace("orders", "Orders"),
        good.replace("orders", "or-ders"),
        good.replace("orders", &"a".repeat(41)),
        good.replace("0:", "00:").replace("0000", "000"),
        good.replace("00000001:", "0000000F:"),
        format!("{good}:"),
        format!("{good}\\n"),
        format!(" {good}"),
        format!("{good} "),
        pos(1, 0),
        pos(1, -1),
        good.replace(":1", ":01"),
        good.replace(":1", ":+1"),
        good.replace(":1", ":9223372036854775808"),
        good.replace(":1", ":99999999999999999999"),
    ];
    for header in bad.iter().map(|header| Some(header.as_str())).chain([None]) {
        assert_eq!(talk.accept(header, "error", false), Err("PB003".to_owned()), "{header:?}");
    }
    assert_eq!(talk.accept(Some(&good), "never", false), Err("22023".to_owned()));
    assert_eq!(talk.say("SELECT COUNT(*) FROM pillarbox_consumer_positions"), ["0"]);
}

/// Topics and consumers differ by case, as Kafka's names do.
fn names(talk: &mut Talk) {
    for (consumer, topic, partition) in [
        ("billing", "orders", 3),
        ("Billing", "orders", 3),
        ("billing", "Orders", 3),
        ("billing", "orders", 4),
    ] {
        let call = format!(
            "CALL pillarbox_accept('{consumer}', '{topic}', {partition}, '{}', NULL, 'error', FALSE)",
            pos(1, 1)
        );
        assert_eq!(
            (talk.say(&call), talk.say(&call)),
            (vec!["1".to_owned()], vec!["0".to_owned()]),
            "{call}"
        );
    }
}

/// Waits until so many transactions wait for a lock.
fn await_blocked(judge: &mut Talk, count: usize) {
    let deadline = Instant::now() + WAIT_MAX;
    let sql = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'";
    while judge.say(sql) != [count.to_string()] {
        assert!(Instant::now() < deadline, "nobody waits");
        std::thread::sleep(LOOK_EVERY);
    }
}

fn owners(maria: &Maria) {
    let mut judge = maria.talk();
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        for (n, end, expected) in
            [(1, "ROLLBACK", true), (1, "COMMIT", false), (2, "ROLLBACK", true), (2, "COMMIT", false)]
        {
            let header = nth(n);
            judge.say("DELETE FROM pillarbox_consumer_positions");
            if n == 2 {
                assert_eq!(judge.accept(Some(&pos(1, 1)), "error", true), Ok(true));
            }
            let (mut one, mut two) = (maria.talk(), maria.talk());
            for talk in [&mut one, &mut two] {
                talk.say(&format!("SET SESSION TRANSACTION ISOLATION LEVEL {level}"));
                talk.say("START TRANSACTION");
            }
            assert_eq!(one.accept(Some(&header), "error", false), Ok(true));
            let answer = std::thread::scope(|scope| {
                let waiting = scope.spawn(|| two.accept(Some(&header), "error", false));
                await_blocked(&mut judge, 1);
                one.say(end);
                waiting.join().expect("no panic")
            });
            assert_eq!(answer, Ok(expected), "{level}, event {n}, {end}");
            two.say("COMMIT");
            assert_eq!(judge.say("SELECT COUNT(*) FROM pillarbox_consumer_positions"), ["1"]);
        }
    }
}

/// New consumers of neighbouring partitions do not wait for each other, or one of them would be a deadlock.
fn first_contacts(maria: &Maria) {
    let mut talks: Vec<Talk> = (0..4).map(|_| maria.talk()).collect();
    talks[0].say("DELETE FROM pillarbox_consumer_positions");
    for (partition, talk) in talks.iter_mut().enumerate() {
        let call = format!(
            "CALL pillarbox_accept('billing', 'orders', {partition}, '{}', NULL, 'error', TRUE)",
            pos(1, 1)
        );
        talk.say("START TRANSACTION");
        assert_eq!(talk.say(&call), ["1"], "partition {partition}");
    }
    for talk in &mut talks {
        talk.say("COMMIT");
    }
    assert_eq!(talks[0].say("SELECT COUNT(*) FROM pillarbox_consumer_positions"), ["4"]);
}
