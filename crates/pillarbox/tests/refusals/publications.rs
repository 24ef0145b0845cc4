//! Publications that are gone, lack the table, or were not there when rows were written.

use std::time::Duration;

use pillarbox_lab::{KafkaOptions, PostgresOptions, consumer};

use crate::harness::site::{Configuration, Site};
use crate::said::{CANARY_PAYLOAD, pillarbox, run};

const PATIENCE: Duration = Duration::from_secs(180);

fn sql(site: &Site, text: &str) {
    site.postgres.execute("postgres", text).expect("the statement");
}

fn insert(site: &Site, rows: u32) {
    sql(
        site,
        &format!(
            "INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload) SELECT gen_random_uuid(), \
             'order', 'k' || i, 'made', to_jsonb('{CANARY_PAYLOAD}'::text) FROM generate_series(1, {rows}) i"
        ),
    );
}

fn stopped(site: &Site, pipeline: &str) -> Configuration {
    let configuration = site.configure(pipeline, 1, &[]);
    site.setup(&configuration);
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", PATIENCE);
    insert(site, 10);
    site.caught_up(&configuration, PATIENCE);
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
    configuration
}

fn confirmed_before(site: &Site, lsn: &str) -> bool {
    let ask = format!(
        "SELECT confirmed_flush_lsn <= '{lsn}' FROM pg_replication_slots WHERE slot_name = 'pillarbox_orders'"
    );
    site.postgres.query_one("postgres", &ask).expect("the slot") == "t"
}

/// fault: 28 dropped, or without the table, while the relay is down
/// holds: it halts before it reads
/// told: PB-1010 or PB-1011 with the statement that repairs it
#[test]
fn a_publication_that_is_gone_or_lacks_the_table_halts() {
    let site = Site::start(PostgresOptions::default(), KafkaOptions::default());
    let configuration = stopped(&site, "orders");
    sql(&site, "ALTER PUBLICATION pillarbox_orders DROP TABLE public.outbox");
    let words = ["pillarbox_orders", "public.outbox"];
    run(&configuration.file).expect(65, 1011, &[&words[..], &["ALTER PUBLICATION"]].concat());
    pillarbox(&["check"], &configuration.file).expect(1, 1011, &words);
    sql(&site, "DROP PUBLICATION pillarbox_orders");
    run(&configuration.file).expect(65, 1010, &["pillarbox_orders", "gap"]);
    pillarbox(&["check"], &configuration.file).expect(1, 1010, &["pillarbox_orders"]);
}

/// What it takes to see the gap differs: 18 warns in the stream, older ones refuse the stream.
fn a_publication_replaced_while_the_relay_was_down(version: u32, code: u16) {
    let site = Site::start(PostgresOptions::version(version), KafkaOptions::default());
    let configuration = stopped(&site, "orders");
    insert(&site, 5);
    let before = site.postgres.query_one("postgres", "SELECT pg_current_wal_insert_lsn()").expect("an LSN");
    sql(&site, "DROP PUBLICATION pillarbox_orders");
    insert(&site, 7);
    sql(&site, "CREATE PUBLICATION pillarbox_orders FOR TABLE public.outbox WITH (publish = 'insert')");
    insert(&site, 3);
    for _ in 0..2 {
        run(&configuration.file).expect(65, code, &["pillarbox_orders"]);
        assert!(confirmed_before(&site, &before), "something beyond the gap was confirmed");
        let topics = ["outbox.event.order".to_owned()];
        let records =
            consumer::read_to_end(&site.kafka.bootstrap(), &topics, PATIENCE).expect("Kafka is read");
        assert_eq!(records.len(), 10 + 5, "what was written while it existed, and nothing behind the gap");
    }
}

/// fault: 28 dropped and created anew, with rows written in between
/// holds: everything before the gap is out, nothing behind it is, nothing of it is confirmed
/// told: PB-1012
#[test]
fn a_publication_replaced_on_postgres_18_halts_at_the_gap() {
    a_publication_replaced_while_the_relay_was_down(18, 1012);
}

/// fault: 28 the same on Postgres 16, which refuses the stream
/// holds: everything before the gap is out, nothing behind it is, nothing of it is confirmed
/// told: PB-1010
#[test]
fn a_publication_replaced_on_postgres_16_halts_at_the_gap() {
    a_publication_replaced_while_the_relay_was_down(16, 1010);
}
