//! Rows by hand: what the event is under each option.

use super::*;
use crate::config::{EnvelopeColumn, Format, HeaderColumn, Missing, Outbox, TableName};
use crate::decode::tests::{begin, insert, relation};
use crate::decode::{Change, Decoder};

const TEXT: u32 = 25;
const JSONB: u32 = 3802;

fn outbox() -> Outbox {
    Outbox::debezium(TableName { schema: "public".into(), name: "outbox".into() })
}

fn header(column: &str, name: &str) -> HeaderColumn {
    HeaderColumn { column: column.into(), name: name.into() }
}

fn field(column: &str, name: &str) -> EnvelopeColumn {
    EnvelopeColumn { column: column.into(), name: name.into() }
}

/// A row of a table with the columns of Debezium's and those of `more`: (name, type, value).
fn extract<R>(
    outbox: Outbox,
    payload: Option<&str>,
    more: &[(&str, u32, Option<&str>)],
    look: impl FnOnce(Result<Event<'_>, OutboxError>) -> R,
) -> R {
    let mut columns = vec![
        ("id", 2950),
        ("aggregatetype", TEXT),
        ("aggregateid", TEXT),
        ("type", TEXT),
        ("payload", JSONB),
    ];
    columns.extend(more.iter().map(|(name, oid, _)| (*name, *oid)));
    let mut values = vec![Some("1"), Some("order"), Some("key"), Some("made"), payload];
    values.extend(more.iter().map(|(_, _, value)| *value));
    let mut decoder = Decoder::new();
    decoder.decode(&relation(1, "outbox", &columns)).unwrap();
    decoder.decode(&begin(100)).unwrap();
    let frame = insert(1, &values);
    let Change::Insert(row) = decoder.decode(&frame).unwrap() else { panic!("an insert") };
    let mut extractor = Extractor::new(vec![outbox]);
    look(extractor.extract(&row).map(|event| event.expect("an outbox")))
}

/// The value of an event, as text.
fn value(outbox: Outbox, payload: Option<&str>, more: &[(&str, u32, Option<&str>)]) -> Option<String> {
    extract(outbox, payload, more, |event| {
        let event = event.unwrap_or_else(|error| panic!("{error}"));
        event.payload.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    })
}

#[test]
fn by_default_nothing_is_touched() {
    extract(outbox(), Some("{\"a\": 1}"), &[], |event| {
        let event = event.unwrap();
        assert_eq!(event.id, b"1");
        assert_eq!((event.key, event.payload), (Some(&b"key"[..]), Some(&b"{\"a\": 1}"[..])));
        assert_eq!((event.partition, event.time_ms, event.headers_absent), (None, None, 0));
    });
    assert_eq!(value(outbox(), None, &[]), None);
}

#[test]
fn columns_by_other_names() {
    let renamed = Outbox {
        id_column: "n".into(),
        key_column: "type".into(),
        payload_column: "body".into(),
        timestamp_column: Some("at".into()),
        version_column: Some("n".into()),
        ..outbox()
    };
    let more = [("n", 23, Some("7")), ("body", TEXT, Some("b")), ("at", 1114, Some("1970-01-01 00:00:01"))];
    extract(renamed.clone(), None, &more, |event| {
        let event = event.unwrap();
        assert_eq!((event.id, event.key, event.payload), (&b"7"[..], Some(&b"made"[..]), Some(&b"b"[..])));
        assert_eq!(event.time_ms, Some(1000));
    });
    let null = [("n", 23, Some("7")), ("body", TEXT, Some("b")), ("at", 1114, None)];
    extract(renamed.clone(), None, &null, |event| assert_eq!(event.unwrap().time_ms, None));
    for unfit in [&more[..2], &[more[0], more[1], ("at", TEXT, Some("1970-01-01 00:00:01"))]] {
        assert!(extract(renamed.clone(), None, unfit, |event| event.is_err()));
    }
}

#[test]
fn placed_columns_are_headers_and_partition() {
    let placed = Outbox {
        headers: vec![header("type", "eventType"), header("flag", "flag"), header("none", "none")],
        partition_column: Some("p".into()),
        ..outbox()
    };
    let more = [("flag", 16, Some("t")), ("none", TEXT, None), ("p", 23, Some("2"))];
    extract(placed.clone(), None, &more, |event| {
        let event = event.unwrap();
        assert_eq!(event.headers[..3], [Some(&b"made"[..]), Some(b"true"), None]);
        assert_eq!((event.partition, event.headers_absent), (Some(2), 0));
    });
    for bad in [("p", 23, Some("-1")), ("p", TEXT, Some("1"))] {
        let more = [more[0], more[1], bad];
        assert!(extract(placed.clone(), None, &more, |event| event.is_err()), "{bad:?}");
    }
}

#[test]
fn a_missing_placement_halts_or_is_left_out() {
    let missing = |missing| Outbox {
        headers: vec![header("gone", "gone"), header("type", "type")],
        envelope: vec![field("gone", "gone"), field("type", "type")],
        partition_column: Some("gone".into()),
        value_format: Format::Json,
        missing,
        ..outbox()
    };
    let error = extract(missing(Missing::Stop), None, &[], |event| event.err());
    assert!(matches!(error, Some(OutboxError::ColumnMissing { column, .. }) if column == "gone"));
    extract(missing(Missing::Ignore), None, &[], |event| {
        let event = event.unwrap();
        assert_eq!((event.headers_absent, event.partition), (0b01, None));
        assert_eq!(event.headers[1], Some(&b"made"[..]));
        assert_eq!(event.payload, Some(&br#"{"payload":null,"type":"made"}"#[..]));
    });
    let required = Outbox { key_column: "gone".into(), ..missing(Missing::Ignore) };
    assert!(extract(required, None, &[], |event| event.is_err()), "the key is no placement");
}

#[test]
fn an_envelope_holds_the_payload_and_what_is_placed() {
    let envelope = Outbox {
        envelope: vec![field("aggregateid", "aggregate_id"), field("deleted", "deleted"), field("n", "n")],
        value_format: Format::Json,
        ..outbox()
    };
    let more = [("deleted", 16, Some("f")), ("n", 20, None)];
    let expected = r#"{"payload":"{\"a\": 1}","aggregate_id":"key","deleted":false,"n":null}"#;
    assert_eq!(value(envelope.clone(), Some("{\"a\": 1}"), &more).as_deref(), Some(expected));
    let expected = r#"{"payload":null,"aggregate_id":"key","deleted":false,"n":null}"#;
    assert_eq!(value(envelope, None, &more).as_deref(), Some(expected));
}

#[test]
fn a_json_value_is_quoted_and_null_is_a_word() {
    let json = Outbox { value_format: Format::Json, ..outbox() };
    assert_eq!(value(json.clone(), Some("{\"a\": 1}"), &[]).as_deref(), Some(r#""{\"a\": 1}""#));
    assert_eq!(value(json, None, &[]).as_deref(), Some("null"));
}
