//! Events without a table that can never be published: the letter holds the content as it was, and a replay
//! reads it as if it still stood in its place.

use std::fs;

use serde_json::{Value, json};

use crate::world::{LETTERS, PATIENCE, in_state, letters, records, site, write};

const GOOD: &str = "SELECT pillarbox.emit('order', 'k', 'made', '{\"n\": 1}'::jsonb)";
/// Its topic is not legal.
const ILLEGAL: &str = "SELECT pillarbox.emit('a/b', 'k', 'made', '{\"n\": 2}'::jsonb, '{\"tenant\": \"x\"}', \
    '00000000-0000-0000-0000-000000000002')";
/// Neither is this one's, and it has no id.
const PLAIN: &str =
    "SELECT pg_logical_emit_message(true, 'outbox', '{\"aggregatetype\": \"c/d\", \"aggregateid\": \"k\"}')";
const NOT_JSON: &str = "SELECT pg_logical_emit_message(true, 'outbox', 'not JSON')";

fn place(letter: &Value) -> &str {
    letter["position"].as_str().expect("a position")
}

#[test]
fn a_message_is_kept_shown_and_replayed_as_it_was() {
    let (site, at) = site(18);
    let mut relay = site.relay(&at);
    relay.wait_state("streaming", PATIENCE);
    write(&site, &[GOOD, ILLEGAL, PLAIN, NOT_JSON, GOOD].join("; "));
    site.caught_up(&at, PATIENCE);
    assert_eq!(records(&site, "outbox.event.order").len(), 2);

    let open = in_state(&site, &at, "open");
    let seen: Vec<(&str, &Value, &Value)> =
        open.iter().map(|(id, letter)| (id.as_str(), &letter["reason"], &letter["table"])).collect();
    let table = json!("message:outbox");
    assert_eq!(
        seen,
        [
            ("00000000-0000-0000-0000-000000000002", &json!("PB-4001"), &table),
            ("-", &json!("PB-4001"), &table),
            ("-", &json!("PB-4021"), &table)
        ]
    );
    let [illegal, plain, not_json] = [0, 1, 2].map(|at| open[at].1.clone());
    let row = |letter: &Value| letters(&site, &at, &["show", place(letter)]).1["row"].clone();
    assert_eq!(row(&not_json), json!({ "content": "not JSON" }));
    let shown = row(&illegal);
    assert_eq!(
        (&shown["aggregatetype"], &shown["payload"], &shown["header tenant"]),
        (&json!("a/b"), &json!("{\"n\": 2}"), &json!("x"))
    );

    // The topic's name comes from elsewhere now.
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
    let text = fs::read_to_string(&at.file).expect("the file");
    let text = text.replace("messages: { prefix: outbox,", "messages: { prefix: outbox, topic: shop.events,");
    fs::write(&at.file, text).expect("the file");
    relay.start_again();
    relay.wait_state("streaming", PATIENCE);
    let (answer, value) = letters(&site, &at, &["replay", "--all"]);
    assert_eq!(answer.code, Some(1), "{}", answer.stderr);
    let states: Vec<&Value> =
        value.as_array().expect("a list").iter().map(|letter| &letter["state"]).collect();
    assert_eq!(states, ["replayed", "replayed", "open"]);
    let events = records(&site, "shop.events");
    assert_eq!(events.len(), 2);
    assert_eq!(events[0].value.as_deref(), Some(&b"{\"n\": 2}"[..]));
    assert_eq!(events[0].headers["id"], "00000000-0000-0000-0000-000000000002");
    // The id is the place where the message stood, not the one of its replay.
    let (then, index) = place(&plain)[8..].split_at(16);
    assert_eq!(events[1].headers["id"], format!("{then}{index}"));
    for (event, letter) in events.iter().zip([&illegal, &plain]) {
        assert_eq!(event.key.as_deref(), Some(&b"k"[..]));
        assert_eq!(event.headers["pb-orig-pos"], letter["pb_pos"].as_str().expect("text"));
    }
    let (answer, _) = letters(&site, &at, &["discard", place(&not_json)]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert!(in_state(&site, &at, "open").is_empty());
    assert_eq!(records(&site, LETTERS).len(), 3 + 3 + 1, "letters, verdicts, the discard");
}
