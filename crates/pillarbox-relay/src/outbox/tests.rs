//! Rows by hand: what the event is under each option.

use super::*;
use crate::config::{
    EmptyPayload, EnvelopeColumn, Expand, Format, HeaderColumn, Missing, OtherShard, Outbox, Shard, TableName,
};
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

/// By what Postgres 15 and 18 print for `SELECT (hashtext(key) & 2147483647) % 2`.
#[test]
fn rows_of_other_shards_are_left_to_their_pipelines() {
    const BPCHAR: u32 = 1042;
    let is_ours = |shard: &str, key_type: u32, key: Option<&str>| {
        let outbox = Outbox { shard: Shard::parse(shard).ok(), other_shard: OtherShard::Skip, ..outbox() };
        let columns = [("id", TEXT), ("aggregatetype", TEXT), ("aggregateid", key_type), ("payload", TEXT)];
        let mut decoder = Decoder::new();
        decoder.decode(&relation(1, "outbox", &columns)).unwrap();
        decoder.decode(&begin(100)).unwrap();
        let frame = insert(1, &[Some("1"), Some("order"), key, None]);
        let Change::Insert(row) = decoder.decode(&frame).unwrap() else { panic!("an insert") };
        let mut extractor = Extractor::new(vec![outbox.clone()]);
        let is_ours = !extractor.is_foreign(&row).unwrap();
        assert_eq!(extractor.foreign(), u64::from(!is_ours));
        let strict = Outbox { other_shard: OtherShard::Stop, ..outbox };
        let told = Extractor::new(vec![strict]).is_foreign(&row);
        let refused = matches!(told, Err(OutboxError::OtherShard { .. }));
        assert_eq!(refused, !is_ours, "{told:?}");
        is_ours
    };
    for (key_type, key, first) in [
        (TEXT, Some("key-2"), false),
        (TEXT, Some("key-2  "), true),
        (BPCHAR, Some("key-2  "), false),
        (TEXT, Some(""), false),
        (BPCHAR, Some("   "), false),
        (TEXT, None, false),
    ] {
        assert_eq!(is_ours("1/2", key_type, key), first, "{key:?}");
        assert_eq!(is_ours("2/2", key_type, key), !first, "{key:?}");
    }
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
        headers: vec![
            header("type", "eventType"),
            header("flag", "flag"),
            header("none", "none"),
            header("bytes", "bytes"),
        ],
        partition_column: Some("p".into()),
        ..outbox()
    };
    let bytes = ("bytes", 17, Some("\\x00ff41"));
    let more = [("flag", 16, Some("t")), ("none", TEXT, None), bytes, ("p", 23, Some("2"))];
    extract(placed.clone(), None, &more, |event| {
        let event = event.unwrap();
        assert_eq!(event.headers[..4], [Some(&b"made"[..]), Some(b"true"), None, Some(b"AP9B")]);
        assert_eq!((event.partition, event.headers_absent), (Some(2), 0));
    });
    for bad in [("p", 23, Some("-1")), ("p", TEXT, Some("1"))] {
        let more = [more[0], more[1], bytes, bad];
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

#[test]
fn json_keys_are_quoted_and_expanded_payloads_are_the_value() {
    let json = Outbox {
        key_format: Format::Json,
        value_format: Format::Json,
        expand: Some(Expand::default()),
        ..outbox()
    };
    extract(json.clone(), Some("{\"a\": null, \"b\": 1.50}"), &[], |event| {
        let event = event.unwrap();
        assert_eq!((event.key, event.payload), (Some(&b"\"key\""[..]), Some(&b"{\"b\":1.5}"[..])));
    });
    let enveloped = Outbox { envelope: vec![field("type", "type")], ..json.clone() };
    let expected = r#"{"payload":{"a":1},"type":"made"}"#;
    assert_eq!(value(enveloped, Some("{\"a\": 1}"), &[]).as_deref(), Some(expected));
    let by_number = Outbox { key_column: "n".into(), ..json };
    for (number, key) in [(Some("7"), "7"), (None, "null")] {
        extract(by_number.clone(), None, &[("n", 23, number)], |event| {
            assert_eq!(event.unwrap().key, Some(key.as_bytes()));
        });
    }
}

#[test]
fn an_empty_payload_may_be_a_tombstone() {
    let (keep, tombstone) = (EmptyPayload::Keep, EmptyPayload::Tombstone);
    for (format, empty_payload, payload, expected) in [
        (Format::Text, keep, Some("  "), Some("  ")),
        (Format::Text, keep, None, None),
        (Format::Text, tombstone, Some(" \n"), None),
        (Format::Text, tombstone, Some("x"), Some("x")),
        (Format::Json, keep, None, Some("null")),
        (Format::Json, keep, Some(""), Some("\"\"")),
        (Format::Json, tombstone, None, None),
        (Format::Json, tombstone, Some(""), None),
        (Format::Json, tombstone, Some("x"), Some("\"x\"")),
    ] {
        let outbox = Outbox { value_format: format, empty_payload, ..outbox() };
        assert_eq!(value(outbox, payload, &[]).as_deref(), expected, "{format:?} {payload:?}");
    }
    let flagged = Outbox {
        envelope: vec![field("deleted", "deleted")],
        value_format: Format::Json,
        empty_payload: tombstone,
        ..outbox()
    };
    let deleted = [("deleted", 16, Some("t"))];
    assert_eq!(value(flagged.clone(), Some(""), &deleted), None, "the envelope is gone with the payload");
    let expected = r#"{"payload":"x","deleted":true}"#;
    assert_eq!(value(flagged, Some("x"), &deleted).as_deref(), Some(expected));
}

#[test]
fn a_trace_becomes_headers_behind_the_others() {
    let traced = Outbox {
        headers: vec![header("type", "type")],
        trace_column: Some("tracingspancontext".into()),
        ..outbox()
    };
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let context = format!("#at\ntraceparent={parent}\nbaggage=a\n");
    for (column, absent) in [("tracingspancontext", 0b0100), ("another", 0b1110)] {
        extract(traced.clone(), None, &[(column, TEXT, Some(&context))], |event| {
            let event = event.unwrap();
            assert_eq!(event.headers_absent, absent);
            assert_eq!(event.headers[1], (absent == 0b0100).then_some(parent.as_bytes()));
            assert_eq!(event.headers[0], Some(&b"made"[..]));
        });
    }
    extract(traced, None, &[("tracingspancontext", TEXT, None)], |event| {
        assert_eq!(event.unwrap().headers_absent, 0b1110);
    });
}
