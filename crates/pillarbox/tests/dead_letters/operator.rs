//! What somebody sees and can do: the topic, the commands, health, metrics, and what must never be shown.

use std::fs;

use serde_json::{Value, json};

use crate::harness::site::{Configuration, Site};
use crate::harness::until::until;
use crate::world::{LETTERS, PATIENCE, in_state, letters, limit, records, site, write};

/// Whatever holds it is payload, and has no place in a log.
const CANARY: &str = "canary-4711";
const TOPIC: &str = "outbox.event.order";

/// Good rows around bad ones, in one transaction, in tables of two shapes.
fn rows() -> String {
    let outbox = |id: u32, kind: &str, payload: &str| {
        format!(
            "INSERT INTO outbox VALUES ('00000000-0000-0000-0000-{id:012}', '{kind}', 'k', 'made', {payload});"
        )
    };
    let small = format!("to_jsonb('{CANARY} good'::text)");
    let large = format!("to_jsonb(repeat('{CANARY} large ', 150000))");
    [
        outbox(1, "order", &small),
        outbox(2, &format!("{CANARY}/not/a/topic"), &small),
        outbox(3, "order", &large),
        "INSERT INTO facts VALUES ('seen', '\\x00ff41', 7, 's', NULL);".to_owned(),
        format!("INSERT INTO facts VALUES (NULL, '{CANARY} \\x00fe', 8, 's', '{CANARY} note');")
            .replace(" \\x00fe", ""),
        outbox(4, "order", &small),
    ]
    .concat()
}

fn place(letters: &[(String, Value)], id: &str) -> String {
    let letter = &letters.iter().find(|(found, _)| found == id).expect("the letter").1;
    letter["position"].as_str().expect("a position").to_owned()
}

#[test]
fn an_operator_finds_repairs_replays_and_discards() {
    let (site, at) = site(18);
    let mut relay = site.relay(&at);
    relay.wait_state("streaming", PATIENCE);
    write(&site, &rows());
    site.caught_up(&at, PATIENCE);

    everything_else_flows(&site);
    what_an_operator_sees(&site, &at, &relay);
    let open = in_state(&site, &at, "open");
    let (illegal, large, null) = (
        place(&open, "00000000-0000-0000-0000-000000000002"),
        place(&open, "00000000-0000-0000-0000-000000000003"),
        place(&open, "8"),
    );

    // Nothing is repaired yet: a replay is refused, and halts nothing.
    let (answer, value) = letters(&site, &at, &["replay", "--all", "--dry-run"]);
    assert_eq!((answer.code, value.as_array().map(Vec::len)), (Some(0), Some(3)));
    let (answer, value) = letters(&site, &at, &["replay", "--all"]);
    assert_eq!(answer.code, Some(1), "{}", answer.stderr);
    assert!(value.as_array().expect("a list").iter().all(|letter| letter["refusals"] == 1), "{value}");
    assert_eq!(relay.state().as_deref(), Some("streaming"));

    // The topic's limit is raised, and a start reads it.
    limit(&site, TOPIC, 8 << 20);
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
    relay.start_again();
    relay.wait_state("streaming", PATIENCE);
    write(&site, "INSERT INTO outbox VALUES (gen_random_uuid(), 'order', 'k', 'later', '{}')");
    let (answer, value) = letters(&site, &at, &["replay", &large]);
    assert_eq!((answer.code, &value[0]["state"]), (Some(0), &json!("replayed")), "{}", answer.stderr);
    let events = records(&site, TOPIC);
    let last = events.last().expect("an event");
    assert_eq!((events.len(), &last.headers["id"][35..], last.key.as_deref()), (4, "3", Some(&b"k"[..])));
    assert!(last.value.as_ref().is_some_and(|value| value.len() > 2_000_000), "the payload is whole");
    assert!(last.headers["pb-orig-pos"].contains(&large), "{:?}", last.headers);
    assert_eq!(value[0]["closed_at"].as_str(), last.headers["pb-pos"].split(':').nth(1));

    // Closed is closed.
    for words in [&["replay", large.as_str()][..], &["discard", large.as_str()]] {
        let (answer, _) = letters(&site, &at, words);
        assert_eq!(answer.code, Some(1), "{}", answer.stderr);
        assert!(
            answer.stderr.contains("PB-4031") && answer.stderr.contains("was replayed at"),
            "{}",
            answer.stderr
        );
    }
    let (answer, value) = letters(&site, &at, &["discard", &illegal, &null]);
    assert_eq!((answer.code, &value[1]["state"]), (Some(0), &json!("discarded")), "{}", answer.stderr);
    assert!(in_state(&site, &at, "open").is_empty());
    assert_eq!(records(&site, TOPIC).len(), 4);
    records(&site, LETTERS);

    // A table that stops still stops.
    write(&site, "INSERT INTO strict VALUES (gen_random_uuid(), 'a/b', 'k', 'made', '{}')");
    relay.wait_state("halted", PATIENCE);
    assert_eq!(relay.fault().as_deref(), Some("PB-4001"));
    let log = fs::read_to_string(at.file.with_extension("log")).expect("the log");
    assert!(log.contains("PB-4030") && !log.contains(CANARY), "{log}");
}

/// In its order, and the letters are in their topic alone.
fn everything_else_flows(site: &Site) {
    let events = records(site, TOPIC);
    let ids: Vec<&str> = events.iter().map(|event| &event.headers["id"][35..]).collect();
    assert_eq!(ids, ["1", "4"]);
    let facts = records(site, "facts.seen");
    assert_eq!((facts.len(), facts[0].value.as_deref()), (1, Some(&b"\x00\xffA"[..])));
    assert_eq!((facts[0].headers["id"].as_str(), facts[0].headers["kind"].as_str()), ("7", "seen"));
    let found = records(site, LETTERS);
    assert!(found.iter().all(|record| record.key.is_none()));
    let reasons: Vec<(&str, &str)> = found
        .iter()
        .filter_map(|record| {
            Some((record.headers.get("pb-reason")?.as_str(), record.headers["pb-table"].as_str()))
        })
        .collect();
    assert_eq!(
        reasons,
        [("PB-4001", "public.outbox"), ("PB-4002", "public.outbox"), ("PB-4003", "public.facts")]
    );
    let large: Vec<_> = found.iter().filter(|record| record.headers["pb-chunk"].ends_with("/3")).collect();
    assert_eq!(large.len(), 3, "2.8 MB in a topic that takes 1 MiB");
    let bytes: usize = large.iter().map(|record| record.value.as_ref().map_or(0, Vec::len)).sum();
    assert_eq!(bytes.to_string(), large[0].headers["pb-size"]);
}

fn what_an_operator_sees(site: &Site, at: &Configuration, relay: &crate::harness::relay::Relay) {
    let (status, text) = relay.get("/readyz").expect("an answer");
    assert_eq!(status, 200);
    assert!(text.starts_with("streaming\nnote: PB-4030") && text.contains("since the start: 3;"), "{text}");
    let metrics = relay.get("/metrics").expect("an answer").1;
    assert!(metrics.contains("pillarbox_dead_letters_total{pipeline=\"orders\"} 3\n"), "{metrics}");
    assert_eq!((relay.count("dead_letters_total"), relay.count("events_total")), (3, 3));

    let open = in_state(site, at, "open");
    assert_eq!(open.len(), 3);
    let listed = site.command(&["dead-letters", "list"], at);
    assert_eq!((listed.code, listed.stdout.lines().count()), (Some(0), 4), "{}", listed.stdout);
    assert!(!listed.stdout.contains(CANARY) && !listed.stderr.contains(CANARY), "{}", listed.stdout);
    // What was asked for is shown, byte for byte.
    let null = place(&open, "8");
    let (_, shown) = letters(site, at, &["show", &null]);
    assert_eq!(
        (&shown["row"]["kind"], &shown["row"]["note"], &shown["row"]["number"]),
        (&Value::Null, &json!(format!("{CANARY} note")), &json!("8"))
    );
    let large = place(&open, "00000000-0000-0000-0000-000000000003");
    let payload = site.command(&["dead-letters", "show", &large, "--column", "payload"], at);
    assert_eq!(payload.stdout, format!("\"{}\"", format!("{CANARY} large ").repeat(150_000)));
    let tapped = site.command(&["tap", "--from-beginning"], at);
    assert_eq!((tapped.code, tapped.stdout.lines().count()), (Some(0), 3), "dead letters are no events");
}

#[test]
fn an_order_that_was_given_before_is_carried_out_first() {
    let (site, at) = site(15);
    let mut relay = site.relay(&at);
    relay.wait_state("streaming", PATIENCE);
    write(&site, "INSERT INTO facts VALUES (NULL, '\\x00', 1, 's', NULL)");
    site.caught_up(&at, PATIENCE);
    let (_, letter) = in_state(&site, &at, "open").remove(0);
    let position = letter["position"].as_str().expect("a position");

    // Somebody else is at it.
    let lock = "SELECT pg_advisory_lock(hashtextextended('pillarbox.dead-letters orders', 0)), pg_sleep(60)";
    std::thread::scope(|scope| {
        scope.spawn(|| site.postgres.execute("postgres", lock));
        let locked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid IN \
            (SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep')";
        until("the lock is held", PATIENCE, || {
            (site.postgres.query_one("postgres", locked).expect("Postgres answers") == "1").then_some(())
        });
        let (answer, _) = letters(&site, &at, &["replay", position]);
        assert_eq!(answer.code, Some(75), "{}", answer.stderr);
        assert!(answer.stderr.contains("PB-3009"), "{}", answer.stderr);
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        site.postgres.execute("postgres", end).expect("the sleeper ends");
    });

    // A command that died behind its order, while no relay ran.
    relay.kill9();
    let order = format!(
        "SELECT pg_logical_emit_message(true, 'pillarbox.dead-letters', \
         '{{\"pipeline\":\"orders\",\"verb\":\"discard\",\"letter\":\"{}\"}}' || chr(10))",
        letter["pb_pos"].as_str().expect("text")
    );
    write(&site, &order);
    let answer = std::thread::scope(|scope| {
        let replay = scope.spawn(|| letters(&site, &at, &["replay", position]).0);
        relay.start_again();
        replay.join().expect("the command ends")
    });
    assert_eq!(answer.code, Some(1), "{}", answer.stderr);
    assert!(answer.stderr.contains("was discarded at"), "{}", answer.stderr);
    let found = records(&site, LETTERS);
    assert_eq!(found.len(), 2, "the letter and one verdict: {found:?}");
    assert_eq!(found[1].headers["pb-verdict"], "discarded");
}
