//! A storage snapshot takes the place of the database: the same timeline, so that only the operator knows where.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use pillarbox_lab::{Postgres, PostgresOptions, ShutdownMode};

use crate::harness::site::{Configuration, Site};
use crate::harness::until::until;
use crate::world::{STEP_MAX, agree, caught_up, on, refused, rows, streaming, write};

/// fault: 19 a storage snapshot replaces the server
/// holds: it halts before it publishes; after `lineage accept` nothing the copy has is lost
/// told: PB-3004 or PB-3005; `lineage show --fork` lists what is in no database
#[test]
fn a_restored_snapshot_goes_on_from_where_the_operator_says() {
    restored(true);
}

/// System, timeline and lineage are the same, the WAL is longer: only the stream tells.
///
/// fault: 19 a snapshot that nothing but its stream tells from the original
/// holds: it halts at the first transaction of the stream
/// told: PB-3005; `lineage show --fork` lists what is in no database
#[test]
fn a_snapshot_restored_within_seconds_is_found_out_by_its_stream() {
    restored(false);
}

fn restored(mark_moves: bool) {
    let (mut site, _, mut relay) = streaming(18);
    write(&site.postgres, 100);
    caught_up(&site.postgres);
    let folder = tempfile::tempdir().expect("a folder");
    // The server's account must reach what is in it.
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
    let data = folder.path().join("copy");
    // What follows has most of the ten seconds.
    moves_on(&site.postgres);
    site.postgres.copy_data_dir_to(&data).expect("a storage snapshot");
    let before = rows(&site.postgres);
    let former = mark(&site.postgres);
    if mark_moves {
        moves_on(&site.postgres);
    }
    write(&site.postgres, 25);
    caught_up(&site.postgres);
    let ghosts: BTreeSet<String> = rows(&site.postgres).difference(&before).cloned().collect();
    relay.kill9();
    let has_moved = mark(&site.postgres) > former;
    assert!(has_moved || !mark_moves);
    site.postgres.stop(ShutdownMode::Immediate, STEP_MAX).expect("stopped");

    let copy =
        Postgres::start(PostgresOptions { data_dir: Some(data.clone()), ..PostgresOptions::default() })
            .expect("the copy starts");
    let log = fs::read_to_string(data.join("server.log")).expect("the server's log");
    let fork = ended_at(&log).unwrap_or_else(|| panic!("no end of recovery in {log}"));
    let configuration = on(&site, &copy);
    if mark_moves {
        halts_at_once(&site, &configuration);
    }
    // More WAL than the original had, so that its end tells nothing.
    let filler = "CREATE TABLE filler AS SELECT repeat('x', 500) FROM generate_series(1, 4000)";
    copy.execute("postgres", filler).expect("a table");
    write(&copy, 50);
    if has_moved {
        let shown = site.command(&["lineage", "show"], &configuration);
        assert_eq!(shown.code, Some(1), "{}{}", shown.stdout, shown.stderr);
        assert!(shown.stdout.contains("--fork"), "{}", shown.stdout);
        let answer = site.command(&["lineage", "accept"], &configuration);
        assert_eq!(answer.code, Some(65), "{}{}", answer.stdout, answer.stderr);
        assert!(answer.stderr.contains("--fork"), "{}", answer.stderr);
    } else {
        let behind = site.command(&["lineage", "show"], &configuration);
        assert_eq!(behind.code, Some(0), "the server shows nothing of it: {}", behind.stdout);
    }
    refused(&site, &configuration, &["run", "--exit-on-halt"], 65, "PB-3005");

    let shown = site.command(&["lineage", "show", "--fork", &fork], &configuration);
    assert_eq!(shown.code, Some(1), "{}{}", shown.stdout, shown.stderr);
    assert!(ghosts.iter().all(|ghost| shown.stdout.contains(ghost)), "{}", shown.stdout);
    assert!(before.iter().all(|id| !shown.stdout.contains(id)), "{}", shown.stdout);
    let accepted = site.command(&["lineage", "accept", "--fork", &fork], &configuration);
    assert_eq!(accepted.code, Some(0), "{}{}", accepted.stdout, accepted.stderr);
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", STEP_MAX);
    write(&copy, 10);
    caught_up(&copy);
    agree(&site, &copy, &ghosts);
    assert_eq!(relay.terminate(STEP_MAX).code(), Some(0));
}

/// The mark that tells a copy from its original. It moves every ten seconds; the rows after it publish it.
fn mark(server: &Postgres) -> u64 {
    let mark = server.query_one("postgres", "SELECT coalesce(max(seq), 0) FROM pillarbox.lineage");
    mark.expect("an answer").parse().expect("a number")
}

fn moves_on(server: &Postgres) {
    let from = mark(server);
    until("the lineage moves on", STEP_MAX, || (mark(server) > from).then_some(()));
}

/// Its WAL ends before the checkpoint, unless its own start wrote more than the rows were.
fn halts_at_once(site: &Site, configuration: &Configuration) {
    let answer = site.command(&["run", "--exit-on-halt"], configuration);
    assert_eq!(answer.code, Some(65), "{}", answer.stderr);
    assert!(["[PB-3004]", "[PB-3005]"].iter().any(|code| answer.stderr.contains(code)), "{}", answer.stderr);
}

/// Where crash recovery found no more WAL.
fn ended_at(log: &str) -> Option<String> {
    let after = log.split("invalid record length at ").nth(1)?;
    let lsn = after.split([':', ' ', '\n']).next()?;
    lsn.contains('/').then(|| lsn.to_owned())
}
