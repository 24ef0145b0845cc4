//! A real Debezium in Kafka Connect relays an outbox; Pillarbox takes its slot over; Debezium takes it back.
//!
//! ```text
//! before | stop, during, adopt, run | after | stop, away, resume | back | stop, again, adopt, run
//! Debezium                            Pillarbox                  Debezium                   Pillarbox
//! ```
//! Nothing may be lost anywhere, and nothing may come twice where Pillarbox takes over.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use pillarbox_lab::{Connect, KafkaOptions, PostgresOptions};
use serde_json::json;

use super::harness::records::{self, Isolation};
use super::harness::relay::{BINARY, Relay};
use super::harness::site::{Configuration, Site};
use super::harness::until::until;
use super::{STEP_MAX, execute};

const TOPIC: &str = "outbox.event.order";
/// Events of each phase.
const EVENTS: u32 = 20;
/// How long an orderly end may take.
const STOP_MAX: Duration = Duration::from_secs(30);

#[test]
fn pillarbox_takes_over_from_debezium_and_hands_back() {
    let site = Site::start(PostgresOptions::version(15), KafkaOptions::default());
    let connect = Connect::start(&site.kafka.bootstrap()).expect("Connect starts");
    // The table with another name than the judge's.
    execute(&site, "CREATE TABLE events (LIKE outbox INCLUDING ALL)");
    connector(&site, &connect);
    let last = write(&site, "before");
    complete(&site, &["before"]);
    let file = site.path("orders.yaml");
    import(&site, &connect, &file);
    let configuration = site.configured("orders", 1, file);
    let mut relay = take_over(&site, &connect, &configuration, &last, "during");
    write(&site, "after");
    complete(&site, &["before", "during", "after"]);
    once(&site, &["before", "during", "after"]);
    assert!(relay.terminate(STOP_MAX).success());
    free(&site);
    write(&site, "away");
    ask(&connect, "DELETE", "/connectors/orders/offsets", "");
    ask(&connect, "PUT", "/connectors/orders/resume", "");
    let last = write(&site, "back");
    // Debezium promises no more than that nothing is lost.
    complete(&site, &["before", "during", "after", "away", "back"]);
    println!("sent twice on the way back: {}", copies(&site).values().filter(|count| **count > 1).count());
    let _relay = take_over(&site, &connect, &configuration, &last, "again");
    complete(&site, &["again"]);
    once(&site, &["again"]);
}

/// Stops Debezium, writes this phase while nobody relays, and starts Pillarbox on the slot.
fn take_over(
    site: &Site,
    connect: &Connect,
    configuration: &Configuration,
    last: &str,
    phase: &str,
) -> Relay {
    // Without heartbeats Debezium would leave its last transaction unconfirmed, and it would come twice.
    confirmed(site, last);
    ask(connect, "PUT", "/connectors/orders/stop", "");
    free(site);
    write(site, phase);
    let adopted = site.command(&["setup", "--adopt-slot"], configuration);
    assert_eq!(adopted.code, Some(0), "{}{}", adopted.stdout, adopted.stderr);
    site.relay(configuration)
}

/// Every event of these phases is in the topic once.
fn once(site: &Site, phases: &[&str]) {
    let found = copies(site);
    for phase in phases {
        let counts: Vec<u32> = (0..EVENTS).filter_map(|n| found.get(&id(phase, n)).copied()).collect();
        assert_eq!(counts, [1; EVENTS as usize], "{phase}");
    }
}

/// Makes the connector and waits until it streams.
fn connector(site: &Site, connect: &Connect) {
    let body = json!({ "name": "orders", "config": {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "database.hostname": "127.0.0.1",
        "database.port": site.postgres.port().to_string(),
        "database.user": "postgres",
        "database.dbname": "postgres",
        "topic.prefix": "shop",
        "plugin.name": "pgoutput",
        "slot.name": "debezium_orders",
        "publication.name": "debezium_orders",
        "publication.autocreate.mode": "filtered",
        "table.include.list": "public.events",
        "snapshot.mode": "no_data",
        "heartbeat.interval.ms": "500",
        "poll.interval.ms": "50",
        "topic.creation.default.partitions": "1",
        "topic.creation.default.replication.factor": "1",
        "transforms": "outbox",
        "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        "transforms.outbox.table.fields.additional.placement": "type:header:eventType",
    }});
    ask(connect, "POST", "/connectors", &body.to_string());
    until("Debezium streams", STEP_MAX, || (active(site) == "t").then_some(()));
}

/// Imports from the running connector.
fn import(site: &Site, connect: &Connect, file: &std::path::Path) {
    // Connect stores offsets now and then.
    until("Connect has stored an offset", STEP_MAX, || {
        let (_, answer) = connect.ask("GET", "/connectors/orders/offsets", "").expect("Connect answers");
        answer.contains("\"lsn\"").then_some(())
    });
    let output = Command::new(BINARY)
        .args(["import", "debezium", &connect.url("orders"), "--kafka", &site.kafka.bootstrap(), "-o"])
        .arg(file)
        .output()
        .expect("the binary runs");
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{report}{}", String::from_utf8_lossy(&output.stderr));
    for part in ["0 unsupported", "the connector is RUNNING (tasks: RUNNING); stop it", "offset is at 0/"] {
        assert!(report.contains(part), "{part}:\n{report}");
    }
}

fn ask(connect: &Connect, method: &str, path: &str, body: &str) {
    let (code, answer) = connect.ask(method, path, body).expect("Connect answers");
    assert!((200..300).contains(&code), "{method} {path}: {code} {answer}");
}

fn active(site: &Site) -> String {
    let sql = "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE slot_name = 'debezium_orders'";
    site.postgres.query_one("postgres", sql).expect("Postgres answers")
}

fn free(site: &Site) {
    until("the slot is free", STEP_MAX, || (active(site) == "f").then_some(()));
}

/// Waits until the slot is confirmed beyond this.
fn confirmed(site: &Site, lsn: &str) {
    let reached = format!(
        "SELECT confirmed_flush_lsn >= '{lsn}'::pg_lsn FROM pg_replication_slots WHERE slot_name = 'debezium_orders'"
    );
    until("Debezium confirms the last transaction", STEP_MAX, || {
        (site.postgres.query_one("postgres", &reached).expect("Postgres answers") == "t").then_some(())
    });
}

fn id(phase: &str, n: u32) -> String {
    let phases = ["before", "during", "after", "away", "back", "again"];
    let phase = phases.iter().position(|known| *known == phase).expect("a phase");
    format!("00000000-0000-0000-{phase:04}-{n:012}")
}

/// A transaction for each event; gives a position inside the last one.
fn write(site: &Site, phase: &str) -> String {
    let insert = |n: u32| {
        let (id, key) = (id(phase, n), n % 5);
        let sql = format!(
            "WITH written AS (INSERT INTO events (id, aggregatetype, aggregateid, type, payload) \
             VALUES ('{id}', 'order', '{key}', 'Placed', '{{}}') RETURNING 1) \
             SELECT pg_current_wal_insert_lsn() FROM written"
        );
        site.postgres.query_one("postgres", &sql).expect("the row is written")
    };
    (1..EVENTS).fold(insert(0), |_, n| insert(n))
}

/// How often each event is in the topic.
fn copies(site: &Site) -> HashMap<String, u32> {
    let mut found = HashMap::new();
    records::read(&site.kafka.bootstrap(), TOPIC, Isolation::Committed, |message| {
        *found.entry(records::header(message, "id").expect("an id")).or_insert(0) += 1;
    });
    found
}

/// Waits until all events of these phases are in the topic.
fn complete(site: &Site, phases: &[&str]) {
    let wanted: Vec<String> = phases.iter().flat_map(|phase| (0..EVENTS).map(|n| id(phase, n))).collect();
    until(&format!("all of {phases:?} are in the topic"), STEP_MAX, || {
        // The topic comes with its first event.
        let there = records::exists(&site.kafka.bootstrap(), TOPIC);
        let found = if there { copies(site) } else { HashMap::new() };
        if wanted.iter().all(|id| found.contains_key(id)) {
            return Some(());
        }
        std::thread::sleep(Duration::from_millis(200));
        None
    });
}
