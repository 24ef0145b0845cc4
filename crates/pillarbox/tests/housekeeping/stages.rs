//! Whoever is killed, paused or halted, at whatever stage a partition is: the rule holds by itself, and the next relay
//! goes on from the catalog.

use std::time::Duration;

use pillarbox_relay::config::{Housekeeping, Partitions};
use tokio_postgres::error::SqlState;

use crate::harness::site::Site;
use crate::harness::until::until;
use crate::partitions::{OUTBOX, attach, insert_past, last, partitions, past, sealed};
use crate::world::*;

#[test]
fn every_stage_is_safe_on_postgres_15() {
    every_stage_is_safe(15);
}

#[test]
fn every_stage_is_safe_on_postgres_18() {
    every_stage_is_safe(18);
}

fn every_stage_is_safe(version: u32) {
    let site = site(version);
    let configuration = site.configure_outbox("stages", 1, &[], OUTBOX);
    site.setup(&configuration);
    a_detach_without_a_seal_would_lose_rows(&site);

    let mut relay = streaming(&site, &configuration);
    assert_eq!(site.command(&["pause"], &configuration).code, Some(0));
    past(&site, 2);
    execute(&site, &insert_past(2, 1));
    what_was_not_relayed_stays(&site);
    assert_eq!(site.command(&["resume"], &configuration).code, Some(0));
    answers(&site, "SELECT to_regclass('past2') IS NULL", "t");

    // A detach that a transaction is in the way of, and then the relay is killed.
    let open = Session::open(&site);
    open.run("BEGIN; LOCK TABLE ONLY events IN ROW EXCLUSIVE MODE").expect("locks");
    // In one transaction: a round must not find the partition before its row is in it.
    execute(&site, &format!("BEGIN; {}; {}; COMMIT", attach(3), insert_past(3, 1)));
    answers(&site, "SELECT count(*) FROM pg_inherits WHERE inhdetachpending", "1");
    relay.kill9();
    // Its session waits on for a while; left alone the detach is half done.
    answers(&site, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%/housekeeping'", "0");
    open.run("COMMIT").expect("commits");
    assert_eq!(one(&site, "SELECT count(*) FROM pg_inherits WHERE inhdetachpending"), "1");
    relay.start_again();
    answers(&site, "SELECT to_regclass('past3') IS NULL", "t");
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));

    a_halted_relay_keeps_what_is_there(&site, &configuration);
    assert_eq!(each_once(&values(&site, "outbox.event.order")), 2, "on {version}");
}

/// The rule alone, without the job that a pause stops: sealed, but not dropped; and no late row is accepted.
fn what_was_not_relayed_stays(site: &Site) {
    let days = Partitions {
        interval: Duration::from_secs(86_400),
        ahead: 3,
        keep: Duration::from_secs(60),
        ..Partitions::default()
    };
    let mut alone = Alone::new(site, "stages", "events", Housekeeping::Partitions(days));
    until("sealed", PATIENCE, || {
        alone.round();
        (sealed(site, "past2") == "1").then_some(())
    });
    for _ in 0..20 {
        alone.round();
    }
    assert_eq!(one(site, "SELECT count(*) FROM past2"), "1");
    assert_eq!(one(site, "SELECT count(*) FROM events WHERE created_at < now() - interval '1 day'"), "1");
    for late in [insert_past(2, 1), insert_past(2, 1).replace("INTO events", "INTO past2")] {
        let refused = Session::open(site).run(&late).expect_err("sealed");
        assert_eq!(refused.code(), Some(&SqlState::CHECK_VIOLATION), "{refused:?}");
    }
}

/// Its slot is gone: what is in the table may be the only copy. But writers need partitions.
fn a_halted_relay_keeps_what_is_there(site: &Site, configuration: &crate::harness::site::Configuration) {
    execute(site, "SELECT pg_drop_replication_slot('pillarbox_stages')");
    past(site, 2);
    execute(site, &insert_past(2, 1));
    execute(site, &format!("DROP TABLE {}", last(site)));
    let before: u32 = partitions(site).parse().expect("a number");
    let mut relay = site.relay(configuration);
    relay.wait_state("halted", PATIENCE);
    assert_eq!(relay.fault().as_deref(), Some("PB-1013"));
    wait_kept(&relay, "created_total", 1);
    // A round is every 5 s: one that did wrong has had its turn.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(partitions(site), (before + 1).to_string());
    assert_eq!(
        (sealed(site, "past2").as_str(), one(site, "SELECT count(*) FROM past2").as_str()),
        ("0", "1")
    );

    execute(site, "ALTER PUBLICATION pillarbox_stages DROP TABLE events");
    execute(site, &format!("DROP TABLE {}", last(site)));
    wait_kept(&relay, "created_total", 2);
    assert_eq!(kept(&relay)["fault"]["code"], "PB-1040", "what is not published is never relayed");
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
}

/// Why a partition is sealed before it is detached: a transaction with an older snapshot writes on to a partition that
/// is being detached, and Postgres decodes that as a table of its own, which no publication has.
fn a_detach_without_a_seal_would_lose_rows(site: &Site) {
    execute(site, "CREATE TABLE parted (id int, at int) PARTITION BY RANGE (at)");
    execute(
        site,
        "CREATE PUBLICATION parted FOR TABLE parted WITH (publish = 'insert', publish_via_partition_root)",
    );
    execute(site, "SELECT pg_create_logical_replication_slot('parted', 'pgoutput')");
    for (seal, decoded) in [(false, "1"), (true, "2")] {
        execute(site, "CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (10)");
        let open = Session::open(site);
        open.run("BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO parted VALUES (1, 1)").expect("inserts");
        let other = Session::open(site);
        let sql = if seal {
            "ALTER TABLE part ADD CONSTRAINT pillarbox_sealed CHECK (false) NOT VALID"
        } else {
            "ALTER TABLE parted DETACH PARTITION part CONCURRENTLY"
        };
        other.run("SET lock_timeout = '500ms'").expect("sets");
        let refused = other.run(sql).expect_err("the transaction is open");
        assert_eq!(refused.code(), Some(&SqlState::LOCK_NOT_AVAILABLE), "{refused:?}");
        open.run("INSERT INTO parted VALUES (2, 2); COMMIT").expect("inserts");
        let inserts = one(
            site,
            "SELECT count(*) FILTER (WHERE get_byte(data, 0) = ascii('I')) FROM pg_logical_slot_get_binary_changes('parted', NULL, NULL, \
             'proto_version', '1', 'publication_names', 'parted')",
        );
        assert_eq!(inserts, decoded, "of two rows");
        execute(site, "DROP TABLE part");
    }
    execute(site, "SELECT pg_drop_replication_slot('parted')");
}
