//! A round in which an operator accepts a cut history, and the command dies on the way: a snapshot takes the place of the
//! database, so that what was published after it is in no database any more.
//!
//! Must never leave the pipeline between two epochs: either nothing has changed, or all has.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use pillarbox_failpoint::Step;
use pillarbox_lab::{Postgres, PostgresOptions, ShutdownMode};

use crate::cut::{STEP_MAX, agree, caught_up, on, refused, rows, streaming, write};
use crate::figures::Figures;
use crate::harness::site::{Configuration, Site};
use crate::harness::until::until;

/// Each needs servers of its own, and more of them show nothing more.
const ROUNDS_MAX: u64 = 5;

/// All rounds.
pub(crate) fn rounds(count: u64) -> Figures {
    let mut figures = Figures::default();
    (0..count.min(ROUNDS_MAX)).for_each(|_| round(&mut figures));
    figures
}

fn round(figures: &mut Figures) {
    let (mut site, _, mut relay) = streaming(18);
    write(&site.postgres, 20);
    caught_up(&site.postgres);
    let folder = tempfile::tempdir().expect("a folder");
    // The server's account must reach what is in it.
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
    let data = folder.path().join("copy");
    site.postgres.copy_data_dir_to(&data).expect("a storage snapshot");
    let before = rows(&site.postgres);
    // The mark that tells a copy from its original moves every ten seconds; the rows after it publish it.
    let mark =
        |site: &Site| site.postgres.query_one("postgres", "SELECT max(seq) FROM pillarbox.lineage").ok();
    let former = mark(&site);
    until("the lineage moves on", STEP_MAX, || (mark(&site) > former).then_some(()));
    write(&site.postgres, 5);
    caught_up(&site.postgres);
    let ghosts: BTreeSet<String> = rows(&site.postgres).difference(&before).cloned().collect();
    relay.kill9();
    site.postgres.stop(ShutdownMode::Immediate, STEP_MAX).expect("stopped");

    let copy =
        Postgres::start(PostgresOptions { data_dir: Some(data.clone()), ..PostgresOptions::default() })
            .expect("the copy starts");
    let log = fs::read_to_string(data.join("server.log")).expect("the server's log");
    let fork = ended_at(&log).unwrap_or_else(|| panic!("no end of recovery in {log}"));
    let at = on(&site, &copy);
    write(&copy, 10);
    die(&site, &at, &fork, Step::AcceptFenced, figures);
    // Nothing has changed.
    let answer = site.command(&["run", "--exit-on-halt"], &at);
    let halted = ["[PB-3004]", "[PB-3005]"].iter().any(|code| answer.stderr.contains(code));
    assert!(answer.code == Some(65) && halted, "{:?}: {}", answer.code, answer.stderr);
    die(&site, &at, &fork, Step::AcceptCommitted, figures);
    // All has: nobody needs to accept again.
    refused(&site, &at, &["lineage", "accept", "--fork", &fork], 1, "PB-3014");
    let mut relay = site.relay(&at);
    relay.wait_state("streaming", STEP_MAX);
    caught_up(&copy);
    agree(&site, &copy, &ghosts);
    assert_eq!(relay.terminate(STEP_MAX).code(), Some(0));
}

/// `lineage accept` dies at this step.
fn die(site: &Site, at: &Configuration, fork: &str, step: Step, figures: &mut Figures) {
    let chosen: &'static str = match step {
        Step::AcceptFenced => "accept_fenced:1",
        _ => "accept_committed:1",
    };
    let mut dying = at.clone();
    dying.env.push(("PILLARBOX_FAILPOINT", chosen));
    let answer = site.command(&["lineage", "accept", "--fork", fork], &dying);
    let died = answer.stderr.contains(&format!("failpoint: {}", step.name()));
    assert!(answer.code.is_none() && died, "it should have died at {}: {}", step.name(), answer.stderr);
    figures.died(step);
}

/// Where crash recovery found no more WAL.
fn ended_at(log: &str) -> Option<String> {
    let after = log.split("invalid record length at ").nth(1)?;
    let lsn = after.split([':', ' ', '\n']).next()?;
    lsn.contains('/').then(|| lsn.to_owned())
}
