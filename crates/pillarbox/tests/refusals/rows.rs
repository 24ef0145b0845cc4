//! Rows that can never be published: the pipeline halts at them, with everything before them out, and names the
//! place, never what is in it.

use std::time::Duration;

use pillarbox_lab::{KafkaOptions, PostgresOptions, consumer};

use crate::harness::site::Site;
use crate::said::{CANARY_PAYLOAD, edited, run};

const PATIENCE: Duration = Duration::from_secs(180);

/// A pipeline with a table and topics of its own meets a bad row between good ones.
fn halts_at(site: &Site, pipeline: &str, row: &str, code: u16, words: &[&str]) {
    let table = format!("public.outbox_{pipeline}");
    let configuration = edited(&site.configure(pipeline, 1, &[]), "public.outbox", &table);
    site.setup(&configuration);
    let insert = |values: &str| {
        let sql = format!(
            "INSERT INTO {table} (id, aggregatetype, aggregateid, type, payload) \
             SELECT gen_random_uuid(), {values} FROM generate_series(1, 3) i"
        );
        site.postgres.execute("postgres", &sql).expect("the rows are written");
    };
    let good = format!("'{pipeline}', 'k' || i, 'made', to_jsonb('{CANARY_PAYLOAD}'::text)");
    (0..5).for_each(|_| insert(&good));
    let begins = site.postgres.query_one("postgres", "SELECT pg_current_wal_insert_lsn()").expect("an LSN");
    // Good rows in the same transaction must wait with it.
    insert(row);
    insert(&good);
    let said = run(&configuration.file);
    said.expect(65, code, words);
    assert!(said.told().contains("the transaction at "), "{}", said.told());
    let topics = [format!("outbox.event.{pipeline}")];
    let records = consumer::read_to_end(&site.kafka.bootstrap(), &topics, PATIENCE).expect("Kafka is read");
    assert_eq!(records.len(), 15, "{pipeline}: everything before, and nothing of it or behind it");
    let confirmed = format!(
        "SELECT confirmed_flush_lsn <= '{begins}' FROM pg_replication_slots WHERE slot_name = 'pillarbox_{pipeline}'"
    );
    let confirmed = site.postgres.query_one("postgres", &confirmed).expect("the slot");
    assert_eq!(confirmed, "t", "{pipeline}: the row was confirmed");
}

/// fault: 30, 31 an illegal topic, more than `max.message.bytes`, more than 64 MiB, between good rows
/// holds: everything before the transaction is out, nothing of it is confirmed; no payload in the log
/// told: PB-4001 or PB-4002 with the transaction and the row in it, and what would take it
#[test]
fn rows_that_cannot_be_published_halt_at_their_place() {
    let site = Site::start(PostgresOptions::default(), KafkaOptions::default());
    let payload = format!("to_jsonb('{CANARY_PAYLOAD}'::text)");
    let large = format!("to_jsonb(repeat('{CANARY_PAYLOAD}', 100000))");
    let cases = [
        (
            "illegal",
            format!("CASE i WHEN 2 THEN '{CANARY_PAYLOAD}/x' ELSE 'illegal' END, 'k', 'made', {payload}"),
            4001,
            vec!["row 1 of the transaction", "public.outbox_illegal", "topic names have"],
        ),
        (
            "large",
            format!("'large', 'k', 'made', CASE i WHEN 2 THEN {large} ELSE {payload} END"),
            4002,
            vec![
                "row 1 of the transaction",
                "public.outbox_large",
                "outbox.event.large",
                "max.message.bytes",
            ],
        ),
        (
            "huge",
            format!(
                "'huge', 'k', 'made', CASE i WHEN 2 THEN to_jsonb(repeat('x', 70000000)) ELSE {payload} END"
            ),
            4002,
            vec!["row 1 of the transaction", "67108864", "store the payload elsewhere"],
        ),
    ];
    for (pipeline, row, code, words) in &cases {
        halts_at(&site, pipeline, row, *code, words);
        println!("{pipeline}: PB-{code}");
    }
}
