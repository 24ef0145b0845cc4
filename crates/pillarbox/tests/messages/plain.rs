//! Messages that nobody wrapped: `pg_logical_emit_message(true, 'prefix', content)`.

use pillarbox_lab::KafkaOptions;

use super::*;

const CANARY: &str = "canary-content-31f7";

/// No table at all; the names of the fields are those of the writer, one part is fixed.
const FIELDS: &str = "messages:\n  prefix: shop\n  topic: \"shop.{aggregatetype}\"\n  \
    headers: [ { column: type, name: eventType } ]\n  plain:\n    id: { field: event_id }\n    \
    aggregatetype: { value: orders }\n    aggregateid: { field: aggregate_id }\n    type: { field: event_type }";

#[test]
fn plain_messages_are_events() {
    let site = Site::start(PostgresOptions::default(), KafkaOptions::default());
    let (configuration, mut relay) = streaming(&site, "shop", FIELDS);
    let answer = site.command(&["check"], &configuration);
    assert_eq!(answer.code, Some(0), "{}{}", answer.stdout, answer.stderr);
    let content = r#"{"event_id": "e-1",  "aggregate_id": 42, "event_type": "made", "total": 9.5}"#;
    let nameless = r#"{"aggregate_id": "42"}"#;
    let emit = |content: &str| format!("SELECT pg_logical_emit_message(true, 'shop', '{content}'); ");
    execute(&site, &format!("BEGIN; {} {} COMMIT", emit(content), emit(nameless)));
    // Other prefixes are nothing to us, exactly.
    for prefix in ["outbox", "Shop", "shop ", "shop.x"] {
        execute(&site, &format!("SELECT pg_logical_emit_message(true, '{prefix}', 'not even JSON')"));
    }
    execute(&site, &format!("BEGIN; {} ROLLBACK", emit(content)));
    site.caught_up(&configuration, STEP_MAX);
    let found = events(&site, "shop.orders");
    assert_eq!(values(&found), [content, nameless], "the payload is the content, byte for byte");
    assert!(found.iter().all(|event| event.key.as_deref() == Some("42")));
    assert_eq!(found[0].headers[0].1.as_deref(), Some("e-1"));
    assert_eq!(found[0].headers[1].1.as_deref(), Some("made"));
    let id = found[1].headers[0].1.as_deref().expect("its place in WAL");
    assert!(id.len() == 24 && id.ends_with("00000001"), "{id}");

    let bad = format!(r#"{{"aggregate_id": ["{CANARY}"]}}"#);
    execute(&site, &emit(&nameless.replace("42", "43")));
    execute(&site, &emit(&bad));
    execute(&site, &emit(content));
    relay.wait_state("halted", STEP_MAX);
    assert_eq!(relay.fault().as_deref(), Some("PB-4021"));
    let (_, status) = relay.get("/api/v1/status").expect("a status");
    assert!(status.contains("row 0 of the transaction at ") && status.contains("aggregate_id"), "{status}");
    assert!(!status.contains(CANARY) && !relay.log_tail().contains(CANARY), "content is shown");
    assert_eq!(events(&site, "shop.orders").len(), 3, "everything before it, and nothing of it or behind it");
    assert_eq!(relay.terminate(STEP_MAX).code(), Some(0));
}
