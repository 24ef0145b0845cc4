//! A real primary and its standby.

use std::collections::BTreeSet;

use pillarbox_lab::Postgres;
use serde_json::Value;

use crate::harness::site::{Configuration, Site};
use crate::harness::until::until;
use crate::world::{STEP_MAX, Writer, agree, caught_up, on, refused, seen, streaming, write};

const SLOT: &str = "standby_1";

#[test]
fn a_clean_failover_goes_on_by_itself_on_postgres_17() {
    clean(17);
}

/// fault: 16 the primary is killed under load, its slot is synchronised (17 and 18)
/// holds: nothing lost; positions go on in the next epoch
/// told: nothing halts; before, `check` asks for synchronized_standby_slots where it is missing
#[test]
fn a_clean_failover_goes_on_by_itself_on_postgres_18() {
    clean(18);
}

#[test]
fn a_lost_tail_halts_is_listed_and_accepted_on_postgres_17() {
    lost_tail(17);
}

/// fault: 17 300 events were published that the promoted standby never got (17 and 18)
/// holds: it halts before it publishes; after the operator accepts, everything the new primary has is there once
/// told: PB-3002; `lineage show` lists each event that is in no database
#[test]
fn a_lost_tail_halts_is_listed_and_accepted_on_postgres_18() {
    lost_tail(18);
}

/// The slot has a copy that a promotion would make usable.
fn synchronised(standby: &Postgres) {
    let sql = "SELECT count(*) FROM pg_replication_slots \
        WHERE slot_name = 'pillarbox_orders' AND synced AND NOT temporary";
    until("the standby has the slot", STEP_MAX, || {
        (standby.query_one("postgres", sql).expect("an answer") == "1").then_some(())
    });
}

/// With `synchronized_standby_slots` nothing is published that the standby lacks, whenever the primary dies.
fn clean(version: u32) {
    let (mut site, configuration, mut relay) = streaming(version);
    let standby = site.postgres.standby(SLOT, &[]).expect("a standby");
    until("the standby streams", STEP_MAX, || {
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name = 'standby_1'";
        (site.postgres.query_one("postgres", sql).expect("an answer") == "1").then_some(())
    });
    // `check` knows what is missing, and is content when it is there.
    let checked = site.command(&["check"], &configuration);
    assert!(checked.stdout.contains("synchronized_standby_slots"), "{}", checked.stdout);
    site.postgres.set("synchronized_standby_slots", SLOT).expect("set");
    let writer = Writer::start(&site.postgres);
    writer.wait(100);
    synchronised(&standby);
    writer.wait(400);
    let checked = site.command(&["check"], &configuration);
    assert!(!checked.stdout.contains("synchronized_standby_slots"), "{}", checked.stdout);
    site.postgres.kill9().expect("killed");
    writer.end();
    standby.promote().expect("promoted");
    relay.kill9();
    let configuration = on(&site, &standby);
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", STEP_MAX);
    write(&standby, 100);
    caught_up(&standby);
    agree(&site, &standby, &BTreeSet::new());
    let epochs: BTreeSet<u32> = seen(&site).iter().map(|seen| seen.position.epoch.0).collect();
    assert_eq!(epochs, BTreeSet::from([1, 2]));
    refused(&site, &configuration, &["lineage", "accept"], 75, "PB-1016");
    assert_eq!(relay.terminate(STEP_MAX).code(), Some(0));
    let shown = site.command(&["lineage", "show"], &configuration);
    assert_eq!(shown.code, Some(0), "{}{}", shown.stdout, shown.stderr);
    refused(&site, &configuration, &["lineage", "accept"], 1, "PB-3014");
}

/// Waits until the standby has replayed what the primary has flushed.
fn has_everything(primary: &Postgres, standby: &Postgres) {
    let now = primary.query_one("postgres", "SELECT pg_current_wal_flush_lsn()").expect("an LSN");
    until("the standby has everything so far", STEP_MAX, || {
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{now}'");
        (standby.query_one("postgres", &sql).expect("an answer") == "t").then_some(())
    });
}

/// From here on the standby receives nothing; so many rows are published meanwhile.
fn loses(primary: &Postgres, standby: &Postgres, rows: u64) -> BTreeSet<String> {
    has_everything(primary, standby);
    standby.set("primary_conninfo", "").expect("set");
    until("the standby is cut off", STEP_MAX, || {
        let sql = "SELECT count(*) FROM pg_stat_wal_receiver";
        (standby.query_one("postgres", sql).expect("an answer") == "0").then_some(())
    });
    let before: BTreeSet<String> = crate::world::rows(standby);
    write(primary, rows);
    caught_up(primary);
    let ghosts: BTreeSet<String> = crate::world::rows(primary).difference(&before).cloned().collect();
    assert_eq!(u64::try_from(ghosts.len()), Ok(rows));
    ghosts
}

/// A standby that lags is promoted: what it never got was published.
fn lost_tail(version: u32) {
    let (mut site, _, mut relay) = streaming(version);
    let standby = site.postgres.standby(SLOT, &[]).expect("a standby");
    write(&site.postgres, 200);
    synchronised(&standby);
    write(&site.postgres, 20);
    caught_up(&site.postgres);
    let ghosts = loses(&site.postgres, &standby, 300);
    site.postgres.kill9().expect("killed");
    relay.kill9();
    standby.promote().expect("promoted");
    // The new history uses the LSNs of the lost one again: the tail is longer than the pages that Postgres copies
    // into WAL after a promotion.
    write(&standby, 60);

    let configuration = on(&site, &standby);
    refused(&site, &configuration, &["run", "--exit-on-halt"], 65, "PB-3002");
    let shown = site.command(&["lineage", "show", "-o", "json"], &configuration);
    assert_eq!(shown.code, Some(1), "{}{}", shown.stdout, shown.stderr);
    let lines: Vec<Value> =
        shown.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["code"], "PB-3002");
    let listed: BTreeSet<String> =
        lines[1..].iter().map(|line| line["id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(listed, ghosts);
    let table = site.command(&["lineage", "show"], &configuration).stdout;
    let places: Vec<_> = seen(&site).into_iter().filter(|seen| ghosts.contains(&seen.id)).collect();
    assert!(places.iter().all(|ghost| table.contains(&ghost.place) && table.contains(&ghost.id)), "{table}");
    let told = ["lineage", "accept", "--fork", "0/1"];
    refused(&site, &configuration, &told, 78, "PB-0003");

    let accepted = site.command(&["lineage", "accept"], &configuration);
    assert_eq!(accepted.code, Some(0), "{}{}", accepted.stdout, accepted.stderr);
    print!("{table}{}", accepted.stdout);
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", STEP_MAX);
    write(&standby, 40);
    caught_up(&standby);
    agree(&site, &standby, &ghosts);
    let newer = seen(&site).into_iter().filter(|seen| seen.position.epoch.0 == 2).count();
    assert_eq!(newer, 100);
    assert_eq!(relay.terminate(STEP_MAX).code(), Some(0));
}

/// fault: 18 Postgres 16 copies no slots: the promoted standby has everything but the slot
/// holds: it halts before it reads; with a slot that is made and adopted everything the standby has is there once
/// told: `check` warns beforehand; then PB-1013 with the position of the checkpoint
#[test]
fn a_standby_without_the_slot_halts_until_one_is_adopted() {
    let (mut site, configuration, mut relay) = streaming(16);
    let standby = site.postgres.standby(SLOT, &[]).expect("a standby");
    write(&site.postgres, 100);
    caught_up(&site.postgres);
    until("the standby streams, and check says what it lacks", STEP_MAX, || {
        let checked = site.command(&["check"], &configuration);
        checked.stdout.contains("does not exist on the standbys").then_some(())
    });
    has_everything(&site.postgres, &standby);
    site.postgres.kill9().expect("killed");
    relay.kill9();
    standby.promote().expect("promoted");
    let configuration = on(&site, &standby);
    let answer = refused(&site, &configuration, &["run", "--exit-on-halt"], 65, "PB-1013");
    assert!(answer.stderr.contains("the checkpoint is at "), "{}", answer.stderr);
    refused(&site, &configuration, &["setup"], 65, "PB-1013");
    let made = "SELECT pg_create_logical_replication_slot('pillarbox_orders', 'pgoutput')";
    standby.execute("postgres", made).expect("a slot");
    refused(&site, &configuration, &["run", "--exit-on-halt"], 65, "PB-3003");
    adopts(&site, &configuration, &standby, &BTreeSet::new());
}

/// fault: 17, 18 3,000 events were published that the promoted standby never got, and it has no slot (15 and 16)
/// holds: it halts; with a slot that is made and adopted, everything that comes after the slot is there once
/// told: PB-1013; once there is a slot PB-3002, `lineage show` lists each event that is in no database; PB-3003 where the cut
/// is accepted or setup runs: the slot begins behind the cut
#[test]
fn a_lost_tail_without_the_slot_goes_on_from_one_that_is_adopted() {
    let (mut site, _, mut relay) = streaming(16);
    let standby = site.postgres.standby(SLOT, &[]).expect("a standby");
    write(&site.postgres, 100);
    caught_up(&site.postgres);
    let ghosts = loses(&site.postgres, &standby, 3_000);
    site.postgres.kill9().expect("killed");
    relay.kill9();
    standby.promote().expect("promoted");
    let configuration = on(&site, &standby);
    refused(&site, &configuration, &["run", "--exit-on-halt"], 65, "PB-1013");
    let made = "SELECT pg_create_logical_replication_slot('pillarbox_orders', 'pgoutput')";
    standby.execute("postgres", made).expect("a slot");
    refused(&site, &configuration, &["run", "--exit-on-halt"], 65, "PB-3002");
    let shown = site.command(&["lineage", "show"], &configuration);
    assert_eq!(shown.code, Some(1), "{}{}", shown.stdout, shown.stderr);
    assert!(ghosts.iter().all(|ghost| shown.stdout.contains(ghost)), "{}", shown.stdout);
    assert!(
        shown.stdout.contains("3000 published") && shown.stdout.contains("--adopt-slot"),
        "{}",
        shown.stdout
    );
    let accept = refused(&site, &configuration, &["lineage", "accept"], 65, "PB-3003");
    assert!(accept.stderr.contains("--adopt-slot"), "{}", accept.stderr);
    refused(&site, &configuration, &["setup"], 65, "PB-3003");
    adopts(&site, &configuration, &standby, &ghosts);
}

/// Goes on from the slot that was made on the promoted standby; `ghosts` are in no database.
fn adopts(site: &Site, configuration: &Configuration, standby: &Postgres, ghosts: &BTreeSet<String>) {
    let adopted = site.command(&["setup", "--adopt-slot"], configuration);
    assert_eq!(adopted.code, Some(0), "{}{}", adopted.stdout, adopted.stderr);
    let mut relay = site.relay(configuration);
    relay.wait_state("streaming", STEP_MAX);
    write(standby, 50);
    caught_up(standby);
    agree(site, standby, ghosts);
    assert_eq!(relay.terminate(STEP_MAX).code(), Some(0));
}
