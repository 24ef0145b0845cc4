//! Slots, servers and checkpoints that do not belong together any more.

use std::time::Duration;

use pillarbox_lab::{KafkaOptions, Postgres, PostgresOptions};

use crate::harness::site::{Configuration, Site};
use crate::harness::until::until;
use crate::said::{CANARY_PAYLOAD, edited, pillarbox, run};

const PATIENCE: Duration = Duration::from_secs(180);

/// A pipeline that has relayed some rows and was stopped in order.
fn stopped(site: &Site, pipeline: &str) -> Configuration {
    let configuration = site.configure(pipeline, 1, &[]);
    site.setup(&configuration);
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", PATIENCE);
    insert(site, 10);
    site.caught_up(&configuration, PATIENCE);
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
    let free =
        format!("SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'pillarbox_{pipeline}'");
    until("the slot is free", PATIENCE, || {
        (site.postgres.query_one("postgres", &free).expect("the slot") == "t").then_some(())
    });
    configuration
}

fn insert(site: &Site, rows: u32) {
    let sql = format!(
        "INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload) SELECT gen_random_uuid(), \
         'order', 'k' || i, 'made', to_jsonb('{CANARY_PAYLOAD}'::text) FROM generate_series(1, {rows}) i"
    );
    site.postgres.execute("postgres", &sql).expect("rows");
}

fn resume_lsn(site: &Site, pipeline: &str) -> String {
    let sql = format!(
        "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'pillarbox_{pipeline}'"
    );
    site.postgres.query_one("postgres", &sql).expect("the slot")
}

/// fault: 13, 15 dropped, or advanced beyond what was relayed, while the relay is down
/// holds: it halts before it reads; the slot is never made anew by itself
/// told: PB-1013 or PB-3003 with both ends of the gap; `setup --adopt-slot` gives it up
#[test]
fn a_slot_that_is_gone_or_was_moved_halts_with_the_gap() {
    let site = Site::start(PostgresOptions::default(), KafkaOptions::default());

    let gone = stopped(&site, "gone");
    let resume = resume_lsn(&site, "gone");
    site.postgres.execute("postgres", "SELECT pg_drop_replication_slot('pillarbox_gone')").expect("dropped");
    run(&gone.file).expect(65, 1013, &["pillarbox_gone", &resume]);
    pillarbox(&["setup"], &gone.file).expect(65, 1013, &["pillarbox_gone", &resume, "bytes", "--adopt-slot"]);
    pillarbox(&["check"], &gone.file).expect(1, 1013, &["pillarbox_gone"]);

    let moved = stopped(&site, "moved");
    let resume = resume_lsn(&site, "moved");
    insert(&site, 10);
    let advance =
        "SELECT end_lsn FROM pg_replication_slot_advance('pillarbox_moved', pg_current_wal_flush_lsn())";
    let advanced = site.postgres.query_one("postgres", advance).expect("advanced");
    let words = ["pillarbox_moved", &resume, &advanced, "--adopt-slot"];
    run(&moved.file).expect(65, 3003, &words);
    pillarbox(&["setup"], &moved.file).expect(65, 3003, &words);
    pillarbox(&["check"], &moved.file).expect(1, 3003, &["pillarbox_moved"]);
}

/// fault: 19 the file names a server with another history
/// holds: it halts before it reads or fences
/// told: PB-3001, and the option `postgres.url`
#[test]
fn another_server_halts() {
    let site = Site::start(PostgresOptions::default(), KafkaOptions::default());
    let configuration = stopped(&site, "orders");
    let other = Postgres::start(PostgresOptions::default()).expect("another server");
    let sql = pillarbox(&["setup", "--print-sql"], &configuration.file).told();
    other.execute("postgres", &sql).expect("what setup would do");
    let slot = "SELECT pg_create_logical_replication_slot('pillarbox_orders', 'pgoutput') \
                WHERE NOT EXISTS (SELECT FROM pg_replication_slots)";
    other.execute("postgres", slot).expect("a slot");
    let moved = edited(&configuration, &site.url(), &other.superuser_url("postgres"));
    run(&moved.file).expect(65, 3001, &["postgres.url"]);
    pillarbox(&["setup"], &moved.file).expect(65, 3001, &["postgres.url"]);
    pillarbox(&["check"], &moved.file).expect(1, 3001, &["postgres.url"]);
}

/// fault: 14 max_slot_wal_keep_size is exceeded while the relay is down
/// holds: it halts before it reads
/// told: PB-1014 with the last position; `setup --adopt-slot` gives the gap up
#[test]
fn a_slot_that_lost_its_wal_halts_with_its_last_position() {
    let options = PostgresOptions::default().setting("max_slot_wal_keep_size", "1MB");
    let site = Site::start(
        options.setting("min_wal_size", "32MB").setting("max_wal_size", "64MB"),
        KafkaOptions::default(),
    );
    let configuration = stopped(&site, "orders");
    let resume = resume_lsn(&site, "orders");
    let sql = |text: &str| site.postgres.execute("postgres", text).expect("the statement");
    let lost = "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = 'pillarbox_orders'";
    until("the slot is lost", PATIENCE, || {
        sql("CREATE TABLE IF NOT EXISTS filler (x text)");
        sql("INSERT INTO filler SELECT repeat('x', 500) FROM generate_series(1, 20000)");
        sql("SELECT pg_switch_wal()");
        sql("CHECKPOINT");
        (site.postgres.query_one("postgres", lost).expect("the slot") == "t").then_some(())
    });
    run(&configuration.file).expect(65, 1014, &["pillarbox_orders", &resume]);
    pillarbox(&["setup"], &configuration.file).expect(65, 1014, &["pillarbox_orders", "--adopt-slot"]);
    pillarbox(&["check"], &configuration.file).expect(1, 1014, &["pillarbox_orders"]);
}
