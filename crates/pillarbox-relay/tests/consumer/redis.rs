//! The rule as `docs/consumers.md` has it for Redis: the script of the page, run by a private server.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use pillarbox_lab::account::{give_tree, server_account};
use pillarbox_lab::process::{Launch, ServerProcess};

use super::pos;
use super::program::{converse, programs};

const PAGE: &str = include_str!("../../../../docs/consumers.md");
const START_MAX: Duration = Duration::from_secs(60);

/// Position and sequence.
type Mark = (u128, i64);

/// A server; dropping it ends it.
struct Redis {
    client: PathBuf,
    dir: tempfile::TempDir,
    _process: ServerProcess,
}

impl Redis {
    fn start() -> Option<Redis> {
        let [daemon, client] = programs(["redis-server", "redis-cli"], "redis-server redis-tools")?;
        let account = server_account().expect("an account");
        let dir = tempfile::Builder::new().prefix("pillarbox-redis-").tempdir().expect("a folder");
        give_tree(dir.path(), account).expect("a folder of the server");
        let mut command = Command::new(daemon);
        command.current_dir(dir.path()).args(["--port", "0", "--save", "", "--unixsocket"]);
        command.arg(dir.path().join("sock"));
        let log = dir.path().join("server.log");
        let process =
            ServerProcess::start(Launch { name: "redis".into(), command, log, account }).expect("a server");
        let redis = Redis { client, dir, _process: process };
        let deadline = Instant::now() + START_MAX;
        while redis.say(&["PING"]) != "PONG" {
            assert!(Instant::now() < deadline, "no answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(redis)
    }

    /// What the server answers to a command; an error as its text.
    fn say(&self, words: &[&str]) -> String {
        let mut command = Command::new(&self.client);
        command.arg("-s").arg(self.dir.path().join("sock")).args(words);
        match converse(&mut command, "") {
            Ok(text) | Err(text) => text.trim_end().to_owned(),
        }
    }

    /// The first word of what the script answers.
    fn accept(&self, script: &str, header: &str, on_gap: &str, strict: &str) -> String {
        let keys = ["2", "pillarbox:billing", "balance"];
        let values = ["orders", "3", header, on_gap, strict, "5"];
        let answer = self.say(&[&["EVAL", script], &keys[..], &values[..]].concat());
        answer.split(' ').next().unwrap_or_default().to_owned()
    }
}

#[test]
fn the_rule_in_redis() {
    let Some(redis) = Redis::start() else { return };
    let (_, after) = PAGE.split_once("```lua\n").expect("the page has the script");
    let (script, _) = after.split_once("```").expect("its end");
    let rows: [(Option<Mark>, Mark, &str, &str, &str); 17] = [
        (None, (10, 7), "error", "0", "1"),
        (None, (10, 1), "error", "1", "1"),
        (None, (10, 7), "error", "1", "PB001"),
        (Some((10, 5)), (10, 5), "error", "0", "0"),
        (Some((10, 5)), (9, 4), "error", "0", "0"),
        (Some((10, 5)), (9, 5), "error", "0", "0"),
        (Some((10, 5)), (11, 6), "error", "1", "1"),
        (Some((10, 5)), (11, 7), "error", "0", "PB001"),
        (Some((10, 5)), (11, 7), "warn", "0", "1"),
        (Some((10, 5)), (11, 5), "error", "0", "PB002"),
        (Some((10, 5)), (11, 4), "error", "0", "PB002"),
        (Some((10, 5)), (10, 6), "error", "0", "PB002"),
        (Some((10, 5)), (9, 6), "warn", "0", "PB002"),
        (Some((10, 5)), (9, 7), "error", "0", "PB002"),
        (Some((9, 9)), (11, 10), "error", "0", "1"),
        (Some((0x9f, 1)), (0xa0, 2), "error", "0", "1"),
        (Some((0xa0, 1)), (0x9f, 2), "error", "0", "PB002"),
    ];
    for (stored, given, on_gap, strict, expected) in rows {
        redis.say(&["FLUSHALL"]);
        if let Some((position, sequence)) = stored {
            assert_eq!(redis.accept(script, &pos(position, sequence), "error", "0"), "1");
        }
        let before = redis.say(&["GET", "balance"]);
        let answer = redis.accept(script, &pos(given.0, given.1), on_gap, strict);
        assert_eq!(answer, expected, "{stored:?} {given:?}");
        let moved = redis.say(&["GET", "balance"]) != before;
        assert_eq!(moved, expected == "1", "the effect comes with the position: {stored:?} {given:?}");
    }
    let good = pos(1, 1);
    for header in [
        "canary".to_owned(),
        good.to_uppercase(),
        good.replace("orders", &"a".repeat(41)),
        good.replace(":1", ":01"),
        good.replace(":1", ":0"),
        good.replace(":1", ":1000000000000000"),
        format!("{good}\n"),
        good.replace("0000", "000"),
    ] {
        assert_eq!(redis.accept(script, &header, "error", "0"), "PB003", "{header:?}");
    }
}
