//! `pillarbox.emit()`: an event equal to that of a table's row, in one order with it, or none at all.

use std::fs;

use pillarbox_lab::KafkaOptions;

use super::*;

const BOTH: &str = "outbox: { table: public.outbox, headers: [ { column: type, name: eventType } ] }\n\
    messages: { prefix: outbox, headers: [ { column: type, name: eventType } ] }";

#[test]
fn emitted_events_on_postgres_15() {
    emitted_events(15);
}

#[test]
fn emitted_events_on_postgres_18() {
    emitted_events(18);
}

fn emitted_events(version: u32) {
    let site = Site::start(PostgresOptions::version(version), KafkaOptions::default());
    let (configuration, mut relay) = streaming(&site, "orders", BOTH);
    mixed_with_rows(&site);
    what_rolls_back(&site);
    headers_and_nulls(&site);
    site.caught_up(&configuration, STEP_MAX);
    rows_and_messages_are_alike(&site);
    let gone = events(&site, "outbox.event.gone");
    assert_eq!(values(&gone), ["before", "after", "end"], "what was rolled back is nowhere");
    assert_eq!(gone.iter().map(|event| event.index).collect::<Vec<_>>(), [0, 1, 0]);
    let odd = events(&site, "outbox.event.odd");
    assert_eq!(values(&odd), ["grün", "", "(null)"]);
    assert_eq!(odd[2].key, None);
    let own = [("n", Some("5")), ("list", Some("[1]")), ("none", None), ("schlüssel", Some("größe"))];
    let own = own.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
    assert_eq!(odd[0].headers[2..], own);
    assert_eq!(odd[2].headers[1], ("eventType".to_owned(), None));
    strays_are_refused(&site, &configuration, &relay);
    assert_eq!(relay.terminate(STEP_MAX).code(), Some(0));
}

/// The same event, by each way, in one transaction.
fn mixed_with_rows(site: &Site) {
    let id = |n: u32| format!("'00000000-0000-4000-8000-00000000000{n}'");
    let payload = "'{\"b\":1,   \"a\":\"ä\"}'";
    execute(
        site,
        &format!(
            "BEGIN; \
             INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES ({}, 'alike', 'k-1', 'made', {payload}); \
             SELECT pillarbox.emit('alike', 'k-1', 'made', {payload}::jsonb, '{{}}', {}); \
             INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES ({}, 'alike', 'k-1', 'made', {payload}); \
             SELECT pillarbox.emit('alike', 'k-1', 'made', {payload}::text, '{{}}', {}); \
             SELECT pillarbox.emit('alike', 'k-1', 'made', convert_to({payload}, 'UTF8'), '{{}}', {}); \
             SELECT pillarbox.emit('alike', 'k-1', 'made', {payload}, id => {}); \
             SELECT pillarbox.emit('alike', 'k-1', 'made', {payload}::jsonb); \
             SELECT pillarbox.emit('alike', 'k-1', 'made', {payload}); \
             SELECT pillarbox.emit('alike', 'k-1', 'made', convert_to({payload}, 'UTF8')); \
             COMMIT",
            id(0),
            id(1),
            id(2),
            id(3),
            id(4),
            id(5)
        ),
    );
}

fn rows_and_messages_are_alike(site: &Site) {
    let alike = events(site, "outbox.event.alike");
    let jsonb = "{\"a\": \"ä\", \"b\": 1}";
    let text = "{\"b\":1,   \"a\":\"ä\"}";
    // An untyped literal is text.
    assert_eq!(values(&alike), [jsonb, jsonb, jsonb, text, text, text, jsonb, text, text]);
    // The last three were given no id.
    for (n, event) in alike.iter().enumerate().take(6) {
        let id = format!("00000000-0000-4000-8000-00000000000{n}");
        let expected = [("id".to_owned(), Some(id)), ("eventType".to_owned(), Some("made".to_owned()))];
        assert_eq!(event.headers, expected, "no header tells a message from a row");
        assert_eq!((event.key.as_deref(), event.index), (Some("k-1"), n as u32));
    }
}

/// Neither a transaction nor a savepoint that was rolled back gives an event, nor takes an index.
fn what_rolls_back(site: &Site) {
    let emit = |payload: &str| format!("SELECT pillarbox.emit('gone', 'k', 'made', '{payload}'::text); ");
    execute(site, &format!("BEGIN; {} ROLLBACK", emit("rolled back")));
    execute(
        site,
        &format!(
            "BEGIN; {} SAVEPOINT s; {} ROLLBACK TO SAVEPOINT s; {} COMMIT",
            emit("before"),
            emit("in a savepoint"),
            emit("after")
        ),
    );
    execute(site, &format!("BEGIN; {} {} ROLLBACK", emit("rolled back"), "SELECT txid_current();"));
    execute(site, &emit("end"));
}

fn headers_and_nulls(site: &Site) {
    execute(
        site,
        "SELECT pillarbox.emit('odd', 'k', 'made', 'grün'::text, \
         '{\"n\": 5, \"list\": [1], \"none\": null, \"schlüssel\": \"größe\"}')",
    );
    execute(site, "SELECT pillarbox.emit('odd', 'k', 'made', ''::bytea, NULL)");
    execute(site, "SELECT pillarbox.emit('odd', NULL, NULL, NULL::jsonb)");
    for (call, expected) in [
        ("NULL, 'k', 'made', 'x'::text", "must not be null"),
        ("'odd', 'k', 'made', 'x'::text, '{}', NULL", "must not be null"),
        ("'odd', 'k', 'made', 'x'::text, '[1]'", "must be a JSON object"),
        ("'odd', 'k', 'made', 'x'::text, '{\"pb-pos\": \"1\"}'", "that the relay writes itself"),
        ("NULL, 'k', 'made', '1'::jsonb, '{}', NULL", "must not be null"),
        ("'odd', 'k', 'made', to_jsonb(repeat('x', 64000001))", "at most 64000000 bytes"),
        (
            "'odd', 'k', 'made', 'x'::text, (SELECT jsonb_object_agg(n, n) FROM generate_series(1, 13) n)",
            "at most 12",
        ),
        ("'odd', 'k', 'made', repeat('x', 64000001)::text", "at most 64000000 bytes"),
    ] {
        let refused = site.postgres.execute("postgres", &format!("SELECT pillarbox.emit({call})"));
        let text = format!("{:?}", refused.expect_err(call));
        assert!(text.contains(expected), "{call}: {text}");
    }
}

/// Messages outside of transactions, of a transaction that rolls back, too: counted, warned of once, never relayed.
fn strays_are_refused(site: &Site, configuration: &Configuration, relay: &Relay) {
    let stray = "SELECT pg_logical_emit_message(false, 'outbox', '{\"aggregatetype\": \"stray\", \"aggregateid\": \"k\"}'); ";
    execute(site, &format!("BEGIN; {stray} ROLLBACK"));
    execute(site, stray);
    execute(site, &stray.replace("'outbox'", "'other'"));
    execute(site, "SELECT pillarbox.emit('stray', 'k', 'made', 'sent'::text)");
    site.caught_up(configuration, STEP_MAX);
    assert_eq!(values(&events(site, "outbox.event.stray")), ["sent"]);
    let counted = "pillarbox_messages_refused_total{pipeline=\"orders\"} 2";
    harness::until::until(counted, STEP_MAX, || {
        relay.get("/metrics").is_some_and(|(_, text)| text.contains(counted)).then_some(())
    });
    assert_eq!(relay.log_tail().matches("PB-4022").count(), 1, "{}", relay.log_tail());
}

/// A database or a session that is not UTF-8 gives the same bytes by every way.
#[test]
fn text_is_utf_8_whatever_the_database_has() {
    let site = Site::start(PostgresOptions::default(), KafkaOptions::default());
    execute(&site, "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
    let configuration = configured(&site, "latin", BOTH);
    let text = fs::read_to_string(&configuration.file).expect("the file");
    let text = text.replace(&site.url(), &site.postgres.superuser_url("latin"));
    fs::write(&configuration.file, text).expect("the file is written");
    site.setup(&configuration);
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", STEP_MAX);
    let both = "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) \
        VALUES (gen_random_uuid(), 'latin', 'schlüssel', 'größe', '{\"a\": \"ä\"}'); \
        SELECT pillarbox.emit('latin', 'schlüssel', 'größe', '{\"a\": \"ä\"}'::jsonb); \
        SET LOCAL client_encoding = 'LATIN1'; \
        SELECT pillarbox.emit('latin', 'schlüssel', 'größe', '{\"a\": \"ä\"}'::jsonb); \
        SELECT pillarbox.emit('latin', 'schlüssel', 'größe', '{\"a\": \"ä\"}'); \
        SELECT pillarbox.emit('latin', 'schlüssel', 'größe', convert_to('{\"a\": \"ä\"}', 'UTF8'))";
    site.postgres.execute("latin", both).expect("one transaction");
    relay.wait_count("events_total", 5, STEP_MAX);
    let mut events = events(&site, "outbox.event.latin");
    assert_eq!((events[1].key.as_deref(), values(&events)[1]), (Some("schlüssel"), "{\"a\": \"ä\"}"));
    for event in &mut events {
        event.index = 0;
        event.headers.remove(0);
    }
    assert!(events.iter().all(|event| *event == events[0]), "{events:?}");
    assert_eq!(events.len(), 5);
    assert_eq!(relay.terminate(STEP_MAX).code(), Some(0));
}
