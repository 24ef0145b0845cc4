//! What `check` says beforehand, on a real pair: each warning is there while its setting is missing, and gone once it is
//! set as the warning says.

use std::process::Command;

use pillarbox_lab::Postgres;

use crate::harness::site::{Configuration, Site};
use crate::harness::until::until;
use crate::world::{STEP_MAX, caught_up, streaming, write};

const SLOT: &str = "standby_1";
const NO_FAILOVER: &str = "is not copied to the standbys";
const NO_COPY: &str = "has no copy on any standby yet";
const AHEAD: &str = "is empty, and standbys follow this server";
const AWAITED: &str = "names nowhere, from which no standby streams";
const ALL: [&str; 4] = [NO_FAILOVER, NO_COPY, AHEAD, AWAITED];

#[test]
fn what_a_failover_lacks_is_told_until_it_is_set_on_postgres_17() {
    each_warning_comes_and_goes(17);
}

/// fault: 16 a standby follows, but not all that a clean failover needs is set (17 and 18)
/// holds: what each setting is for: the standby gets a copy of the slot, events wait for the standby
/// told: `check` warns of each one that is missing, and no longer once it is set
#[test]
fn what_a_failover_lacks_is_told_until_it_is_set_on_postgres_18() {
    each_warning_comes_and_goes(18);
}

fn each_warning_comes_and_goes(version: u32) {
    let (mut site, configuration, mut relay) = streaming(version);
    assert_eq!(warnings(&site, &configuration), [""; 0], "nobody follows");

    let off = [("sync_replication_slots", "off"), ("hot_standby_feedback", "off")];
    let standby = site.postgres.standby(SLOT, &off).expect("a standby");
    told(&site, &configuration, &[NO_COPY, AHEAD]);

    // Events wait for a standby that is not there, and only for that.
    site.postgres.set("synchronized_standby_slots", "nowhere").expect("set");
    told(&site, &configuration, &[NO_COPY, AWAITED]);
    write(&site.postgres, 1);
    assert!(!is_caught_up(&site.postgres), "events did not wait for the standby");
    site.postgres.set("synchronized_standby_slots", SLOT).expect("set");
    told(&site, &configuration, &[NO_COPY]);
    caught_up(&site.postgres);

    // One of the two is not enough; the other makes it whole.
    standby.set("sync_replication_slots", "on").expect("set");
    until("the setting is there", STEP_MAX, || {
        (standby.query_one("postgres", "SHOW sync_replication_slots").expect("an answer") == "on")
            .then_some(())
    });
    assert_eq!(warnings(&site, &configuration), [NO_COPY]);
    assert_eq!(copies(&standby), "0");
    standby.set("hot_standby_feedback", "on").expect("set");
    told(&site, &configuration, &[]);
    assert_eq!(copies(&standby), "1");

    // The slot of an older setup, repaired by the command that is told.
    assert_eq!(relay.terminate(STEP_MAX).code(), Some(0));
    alter_slot(&site.postgres, "ALTER_REPLICATION_SLOT pillarbox_orders (FAILOVER false)");
    told(&site, &configuration, &[NO_FAILOVER]);
    let text = site.command(&["check"], &configuration).stdout;
    let at = text.find("ALTER_REPLICATION_SLOT").expect("the command that repairs it");
    alter_slot(&site.postgres, text[at..].lines().next().expect("a line").trim());
    told(&site, &configuration, &[]);
}

/// Which of [`ALL`] `check` says.
fn warnings(site: &Site, configuration: &Configuration) -> Vec<&'static str> {
    let checked = site.command(&["check"], configuration);
    assert_eq!(checked.code, Some(0), "warnings are no errors: {}{}", checked.stdout, checked.stderr);
    ALL.into_iter().filter(|warning| checked.stdout.contains(warning)).collect()
}

/// Waits until `check` says exactly these: a standby speaks up every few seconds.
fn told(site: &Site, configuration: &Configuration, expected: &[&str]) {
    until(&format!("`check` warns of {expected:?}"), STEP_MAX, || {
        (warnings(site, configuration) == expected).then_some(())
    });
}

fn copies(standby: &Postgres) -> String {
    let sql = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'pillarbox_orders' AND synced";
    standby.query_one("postgres", sql).expect("an answer")
}

/// Whether the slot gets to where WAL ends now within the time that a relay needs many times over.
fn is_caught_up(server: &Postgres) -> bool {
    let now = server.query_one("postgres", "SELECT pg_current_wal_flush_lsn()").expect("an LSN");
    let sql = format!(
        "SELECT confirmed_flush_lsn >= '{now}' FROM pg_replication_slots WHERE slot_name = 'pillarbox_orders'"
    );
    let started = std::time::Instant::now();
    while started.elapsed() < std::time::Duration::from_secs(2) {
        if server.query_one("postgres", &sql).expect("a slot") == "t" {
            return true;
        }
    }
    false
}

/// A command of the replication protocol, as an operator gives it.
fn alter_slot(server: &Postgres, command: &str) {
    let url = server.superuser_url("postgres");
    let separator = if url.contains('?') { '&' } else { '?' };
    let mut psql = Command::new("psql");
    psql.args(["-X", "-d", &format!("{url}{separator}replication=database"), "-c", command]);
    let output = psql.output().expect("psql runs");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}
