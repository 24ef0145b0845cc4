//! Rows that are large or wide.

use std::fmt::Write as _;

use serde_json::Value;

use crate::arrived::count;
use crate::figures::{Figures, size};
use crate::harness::records::{Isolation, read};
use crate::harness::relay::Relay;
use crate::harness::site::{Configuration, Site};
use crate::world::{DATABASE, PATIENCE, World, arrival_max, site};

/// Columns of a table at most.
const COLUMNS: usize = 1_600;
/// What the relay may hold resident when it receives rows of 64 MiB: the buffer they are received into grows to twice
/// that, and nothing beyond.
const RSS_MAX_KIB: u64 = 512 << 10;

/// A pipeline with a table of its own, whose payload is of this type, and a good row before a bad one.
fn halts(site: &Site, name: &str, on_error: &str, kind: &str, payload: &str) -> (Relay, Configuration) {
    let table = format!("public.{name}");
    let ddl = format!(
        "CREATE TABLE {table} (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload {kind})"
    );
    site.postgres.execute(DATABASE, &ddl).expect("a table");
    let outbox = format!("{{ table: {table}, on_error: {on_error} }}");
    let at = site.configure_outbox(name, 1, &[], &outbox);
    site.setup(&at);
    let row = |n: u64, payload: &str| {
        let sql = format!(
            "INSERT INTO {table} VALUES (lpad('{n:x}', 32, '0')::uuid, '{name}', 'k', 'made', {payload})"
        );
        site.postgres.execute(DATABASE, &sql).expect("the row is written");
    };
    row(1, "'good'");
    row(2, payload);
    row(3, "'good'");
    (site.relay(&at), at)
}

/// fault: 30 a field that Kafka, the relay or Postgres itself cannot carry
/// holds: what is before it is published, it is not skipped, nothing behind it is published, memory stays bounded
/// told: halts with PB-4002 at the row; where Postgres cannot send it, too
#[test]
fn fields_beyond_each_limit_halt_at_their_row() {
    let site = site();
    let text = |bytes: u64| format!("repeat('x', {bytes})");
    let bytea = |bytes: u64| format!("convert_to(repeat('x', {bytes}), 'UTF8')");
    for (name, on_error, kind, payload, words) in [
        // Beyond the topic's limit.
        ("topic", "stop", "text", text(20_000_000), "max.message.bytes"),
        // Beyond what is received at all, also where smaller ones become dead letters.
        ("frame", "stop", "text", text(70_000_000), "67108864"),
        ("letter", "dead_letter", "text", text(70_000_000), "67108864"),
        // Received as hexadecimal digits.
        ("digits", "stop", "bytea", bytea(size(40_000_000, 500_000_000)), "67108864"),
        // Postgres keeps it, and cannot send it: its text is longer than 1 GB.
        ("postgres", "dead_letter", "bytea", bytea(600_000_000), "Postgres cannot send"),
    ] {
        let (mut relay, at) = halts(&site, name, on_error, kind, &payload);
        relay.wait_state("halted", PATIENCE);
        assert_eq!(relay.fault().as_deref(), Some("PB-4002"), "{name}");
        let fault = relay.status().expect("an answer")["fault"].to_string();
        assert!(fault.contains(words), "{name}: {fault}");
        count(&site, &[format!("outbox.event.{name}")], 1);
        let kib = relay.rss_max_kib();
        println!("{name}: PB-4002, peak {} MiB", kib >> 10);
        assert!(kib < RSS_MAX_KIB, "{name}: {kib} KiB");
        if name == "postgres" {
            gives_up(&site, relay, &at);
        }
    }
}

/// What the page of PB-4002 says: the operator gives up the one transaction, and what is behind it arrives.
fn gives_up(site: &Site, mut relay: Relay, at: &Configuration) {
    let message = relay.status().expect("an answer")["fault"]["message"].to_string();
    let place = message.split("the transaction at ").nth(1).expect("the place");
    let end = |c: char| !(c.is_ascii_hexdigit() || c == '/');
    let lsn = place.split(end).next().expect("an LSN");
    relay.terminate(PATIENCE);
    let advance = format!("SELECT pg_replication_slot_advance('pillarbox_postgres', '{lsn}'::pg_lsn + 1)");
    site.postgres.query_one(DATABASE, &advance).expect("the slot advances");
    let adopted = site.command(&["setup", "--adopt-slot"], at);
    assert_eq!(adopted.code, Some(0), "{}{}", adopted.stdout, adopted.stderr);
    let mut relay = site.relay(at);
    relay.wait_state("streaming", PATIENCE);
    site.caught_up(at, PATIENCE);
    let arrived = read(&site.kafka.bootstrap(), "outbox.event.postgres", Isolation::Committed, |_| ());
    assert_eq!(arrived, 2, "the row before it and the row behind it");
}

/// fault: 31 a field beyond the topic's limit in a table with dead letters
/// holds: the row is in the dead letters, whole, the rows around it are published
/// told: PB-4030 in the log and in `dead-letters list`
#[test]
fn fields_that_can_be_received_become_dead_letters() {
    let site = site();
    let (mut relay, at) = halts(&site, "large", "dead_letter", "text", "repeat('x', 60000000)");
    relay.wait_state("streaming", PATIENCE);
    let took = site.caught_up(&at, arrival_max());
    let listed = site.command(&["dead-letters", "list", "-o", "json"], &at);
    let letters: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(letters.as_array().map(Vec::len), Some(1), "{letters}");
    let bootstrap = site.kafka.bootstrap();
    let around = read(&bootstrap, "outbox.event.large", Isolation::Committed, |_| ());
    assert_eq!(around, 2, "the rows around it");
    let kib = relay.rss_max_kib();
    let figures = Figures {
        case: "letter",
        what: "a field of 60 MB, as a dead letter".to_owned(),
        events: 2,
        took,
        rss_kib: kib,
        silence: None,
        note: "the row is in the dead letters".to_owned(),
    };
    figures.tell();
    assert!(kib < RSS_MAX_KIB, "{kib} KiB");
}

/// fault: 25 a table of 1,600 columns
/// holds: its rows arrive once and in order, with columns at both ends as headers
/// told: nothing
#[test]
fn tables_of_1600_columns_are_relayed() {
    let rows = size(2_000, 100_000);
    let site = site();
    let mut ddl =
        "CREATE TABLE public.wide (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, \
                   payload text"
            .to_owned();
    for n in 6..=COLUMNS {
        write!(ddl, ", c{n} smallint DEFAULT {}", n % 10).expect("a string");
    }
    site.postgres.execute(DATABASE, &(ddl + ")")).expect("a table");
    let headers =
        format!("{{ table: public.wide, headers: [{{ column: type }}, {{ column: c{COLUMNS} }}] }}");
    let at = site.configure_outbox("wide", 4, &[], &headers);
    let world = World::on(site, at);
    world.execute(&format!(
        "INSERT INTO public.wide SELECT lpad(to_hex(n), 32, '0')::uuid, 'wide', 'k' || n % 97, 'made', 'x' \
         FROM generate_series(1, {rows}) n"
    ));
    let took = world.site.caught_up(&world.at, arrival_max());
    let what = format!("{rows} rows of {COLUMNS} columns");
    let (figures, site) = world.figures("columns", what, rows, took);
    count(&site, &["outbox.event.wide".to_owned()], rows);
    figures.tell();
    assert!(figures.rss_kib < (64 << 10), "{} KiB", figures.rss_kib);
}
