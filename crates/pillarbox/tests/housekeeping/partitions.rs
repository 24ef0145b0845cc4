//! Partitions come ahead of time and go when everything in them was relayed; writers do not notice.
//!
//! Partitions of the past are made by the test, so that no case waits for the clock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::site::{Configuration, Site};
use crate::harness::until::until;
use crate::world::*;

/// Days, so that a partition of the past is surely over, and hardly ever one ends meanwhile.
pub(crate) const OUTBOX: &str =
    "{ table: public.events, housekeeping: { mode: partitions, interval: 24h, ahead: 3, keep: 1m } }";

#[test]
fn partitions_come_and_go_on_postgres_15() {
    partitions_come_and_go(15);
}

#[test]
fn partitions_come_and_go_on_postgres_18() {
    partitions_come_and_go(18);
}

fn partitions_come_and_go(version: u32) {
    let site = site(version);
    let configuration = site.configure_outbox("parts", 1, &[], OUTBOX);
    site.setup(&configuration);
    assert_eq!(partitions(&site), "4", "setup makes the first ones");
    for days in 2..5 {
        past(&site, days);
        execute(&site, &insert_past(days, 100));
    }
    execute(&site, &format!("DROP TABLE {}", last(&site)));
    a_dry_run_changes_nothing(&site, &configuration);

    let stop = AtomicBool::new(false);
    let (rows, slowest, mut relay) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&site, &stop));
        let relay = streaming(&site, &configuration);
        wait_kept(&relay, "dropped_total", 3);
        // The writer goes on beside what the last step has left.
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        let (rows, slowest) = writer.join().expect("the writer wrote");
        (rows, slowest, relay)
    });
    assert_eq!(partitions(&site), "4", "the missing one was made, those of the past are gone");
    assert_eq!(one(&site, "SELECT count(*) FROM pg_class WHERE relname LIKE 'past%' AND relkind = 'r'"), "0");
    site.caught_up(&configuration, PATIENCE);
    assert_eq!(each_once(&values(&site, "outbox.event.order")), rows + 300, "on {version}");
    let metrics = relay.get("/metrics").expect("metrics").1;
    let dropped =
        "pillarbox_housekeeping_dropped_partitions_total{pipeline=\"parts\",table=\"public.events\"} 3";
    assert!(metrics.contains(dropped), "{metrics}");
    println!("Postgres {version}: {rows} inserts, the slowest took {slowest:?}; {}", kept(&relay));
    let status = site.command(&["status"], &configuration).stdout;
    assert!(status.contains("public.events: 4 partitions, 0 sealed, 3 dropped"), "{status}");

    what_is_open_stays(&site, &configuration, &relay);
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
}

fn a_dry_run_changes_nothing(site: &Site, configuration: &Configuration) {
    let catalog = || one(site, "SELECT string_agg(c.relname || c.xmin, ' ' ORDER BY c.oid) FROM pg_class c");
    let before = catalog();
    let answer = site.command(&["housekeeping", "-o", "json"], configuration);
    assert_eq!(answer.code, Some(0), "{}{}", answer.stdout, answer.stderr);
    let document: serde_json::Value = serde_json::from_str(&answer.stdout).expect("a document");
    let would = document[0]["would"].as_array().expect("steps");
    let text = would.iter().filter_map(|step| step.as_str()).collect::<Vec<_>>();
    assert_eq!(text.len(), 4, "{text:?}");
    assert!(text[0].starts_with("create partition public.events_p"), "{text:?}");
    assert!(text[1..].contains(&"let no more rows into partition public.past3"), "{text:?}");
    assert_eq!(document[0]["confirmed"], serde_json::Value::Null);
    let said = site.command(&["housekeeping"], configuration).stdout;
    assert!(said.contains("no relay streams: nothing is removed"), "{said}");
    assert_eq!(catalog(), before);
}

/// Two partitions are over; in one of them a transaction is open, then prepared: only the other one goes.
fn what_is_open_stays(site: &Site, configuration: &Configuration, relay: &crate::harness::relay::Relay) {
    let relayed = each_once(&values(site, "outbox.event.order"));
    let open = Session::open(site);
    // While it is paused no partition is sealed before the row is in it.
    assert_eq!(site.command(&["pause"], configuration).code, Some(0));
    past(site, 2);
    open.run(&format!("BEGIN; {}", insert_past(2, 1))).expect("inserts");
    past(site, 3);
    execute(site, &insert_past(3, 1));
    assert_eq!(site.command(&["resume"], configuration).code, Some(0));
    wait_kept(relay, "dropped_total", 4);
    assert_eq!(one(site, "SELECT to_regclass('past3') IS NULL"), "t");
    until("it says what it waits for", PATIENCE, || {
        (kept(relay)["waits_for"] == "let no more rows into partition public.past2").then_some(())
    });
    open.run("PREPARE TRANSACTION 'slow'").expect("prepares");
    site.caught_up(configuration, PATIENCE);
    // Rounds are every 5 s: two that did wrong have had their turn.
    std::thread::sleep(Duration::from_secs(11));
    assert_eq!(sealed(site, "past2"), "0", "its row may still be committed");
    execute(site, "COMMIT PREPARED 'slow'");
    answers(site, "SELECT to_regclass('past2') IS NULL", "t");
    assert_eq!(each_once(&values(site, "outbox.event.order")), relayed + 2);
}

/// Inserts until told to stop; says how many, and how long the slowest took.
fn write(site: &Site, stop: &AtomicBool) -> (usize, Duration) {
    let session = Session::open(site);
    // Housekeeping gives up a lock that it waits for after 200 ms: nobody waits behind it for longer.
    session.run("SET lock_timeout = '1s'").expect("a setting");
    let (mut rows, mut slowest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let sql = format!(
            "INSERT INTO events (id, aggregatetype, aggregateid, type, payload) \
             VALUES (gen_random_uuid(), 'order', 'k', 'made', to_jsonb('w{rows}'::text))"
        );
        session.run(&sql).expect("there is always a partition");
        slowest = slowest.max(began.elapsed());
        rows += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    (rows, slowest)
}

/// Makes the partition that ended `days - 1` days ago or less.
pub(crate) fn past(site: &Site, days: u32) {
    execute(site, &format!("BEGIN; {}; COMMIT", attach(days)));
}

/// Created in place it would wait for writers.
pub(crate) fn attach(days: u32) -> String {
    let from = format!("date_trunc('day', now()) - interval '{days} days'");
    format!(
        "CREATE TABLE past{days} (LIKE events INCLUDING DEFAULTS); \
         ALTER TABLE events ATTACH PARTITION past{days} FOR VALUES FROM ({from}) TO ({from} + interval '1 day')"
    )
}

/// Rows of that partition.
pub(crate) fn insert_past(days: u32, rows: u32) -> String {
    format!(
        "INSERT INTO events (id, aggregatetype, aggregateid, type, payload, created_at) \
         SELECT gen_random_uuid(), 'order', 'k', 'made', to_jsonb(gen_random_uuid()), \
         date_trunc('day', now()) - interval '{days} days' FROM generate_series(1, {rows})"
    )
}

pub(crate) fn sealed(site: &Site, partition: &str) -> String {
    one(
        site,
        &format!(
            "SELECT count(*) FROM pg_constraint WHERE conrelid = to_regclass('{partition}') AND conname = 'pillarbox_sealed'"
        ),
    )
}

pub(crate) fn partitions(site: &Site) -> String {
    one(site, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass")
}

/// The partition furthest ahead.
pub(crate) fn last(site: &Site) -> String {
    one(
        site,
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass AND inhrelid::regclass::text LIKE 'events_p%' ORDER BY inhrelid::regclass::text DESC LIMIT 1",
    )
}
