//! `pillarbox setup --consumer` as a person or a script meets it, on a real server.

use std::process::{Command, Output};

use pillarbox_lab::{Postgres, PostgresOptions};

fn setup(url: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillarbox"));
    command.args(["setup", "--consumer", url]).args(more).env_clear().env("PGUSER", "postgres");
    command.output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// The output of a command that does what it was asked for.
fn done(url: &str, more: &[&str]) -> (String, String) {
    let output = setup(url, more);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{more:?}: {stderr}");
    (stdout.to_owned(), stderr.to_owned())
}

#[test]
fn installed_once_said_twice() {
    for version in [15, 18] {
        let postgres = Postgres::start(PostgresOptions::version(version)).expect("a server");
        postgres.execute("postgres", "CREATE DATABASE billing; ").expect("a database");
        let there = || {
            let sql = "SELECT count(*) FROM pg_proc WHERE pronamespace = to_regnamespace('pillarbox')";
            postgres.query_one("billing", sql).expect("a number")
        };
        // The role comes from PGUSER.
        let url = format!("postgres://127.0.0.1:{}/billing", postgres.port());

        let (stdout, _) = done(&url, &["--dry-run"]);
        let first = "would  schema            bring the consumer's side in schema pillarbox to version";
        assert!(
            stdout.starts_with(first) && stdout.contains("CREATE FUNCTION pillarbox.accept("),
            "{stdout}"
        );
        assert_eq!(there(), "0", "a dry run changes nothing");

        let (stdout, stderr) = done(&url, &[]);
        assert!(stdout.starts_with("done  schema") && stdout.lines().count() == 1, "{stdout}");
        let (_, grants) = stderr.split_once("each role that consumes needs:\n").expect("the grants");
        assert_ne!(there(), "0");

        let (stdout, stderr) = done(&url, &[]);
        assert_eq!(
            (stdout.as_str(), stderr.as_str()),
            ("nothing to do: the consumer's side is set up\n", "")
        );
        let (stdout, _) = done(&url, &["-o", "json"]);
        let json: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
        assert_eq!((&json["applied"], &json["steps"]), (&true.into(), &serde_json::json!([])));

        // What was said can be run, and is enough.
        postgres
            .execute(
                "billing",
                "CREATE ROLE the_consumer LOGIN; CREATE ROLE the_operator; CREATE ROLE the_reader",
            )
            .expect("roles");
        postgres.execute("billing", grants).expect("the grants run as they are");
        let accept = "SET SESSION AUTHORIZATION the_consumer; \
            SELECT pillarbox.accept('billing', 'orders', 0, 'orders:00000001000000000000000100000000:1')";
        assert_eq!(postgres.query_one("billing", accept).expect("an answer"), "t");
        assert_eq!(postgres.query_one("billing", accept).expect("an answer"), "f");
    }
}
