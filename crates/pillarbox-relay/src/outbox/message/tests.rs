//! Content by hand: what becomes a row, and what is refused without being repeated.

use pillarbox_wire::lsn::{Lsn, PgTimestamp};
use pillarbox_wire::pgoutput::Column;

use super::{MessageError, MessageReader};
use crate::config::{Messages, PlainPart};
use crate::decode::{Note, Transaction};

fn note(content: &[u8]) -> Note<'_> {
    let transaction = Transaction { commit_lsn: Lsn(0x16_B374_D848), commit_time: PgTimestamp(0) };
    Note { transaction, index: 2, prefix: "outbox", content }
}

/// A row as the stream writes it.
fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut bytes = (values.len() as u16).to_be_bytes().to_vec();
    for value in values {
        match value {
            None => bytes.push(b'n'),
            Some(value) => super::put(&mut bytes, value),
        }
    }
    bytes
}

/// A record as `record_send` writes it: id, three texts, headers, and a payload of this type.
fn emitted(headers: &[Option<&[u8]>], texts: [Option<&[u8]>; 3], payload: (u32, Option<&[u8]>)) -> Vec<u8> {
    let headers = row(headers);
    let mut bytes = vec![0, 0, 0, 6];
    let columns = [(2950, Some(&[0x11; 16][..])), (25, texts[0]), (25, texts[1]), (25, texts[2])];
    for (kind, value) in
        columns.into_iter().chain([(17, (headers.len() > 2).then_some(&headers[..])), payload])
    {
        bytes.extend(kind.to_be_bytes());
        bytes.extend(value.map_or(-1, |value| value.len() as i32).to_be_bytes());
        bytes.extend(value.unwrap_or_default());
    }
    bytes
}

const ID: &str = "11111111-1111-1111-1111-111111111111";
const TEXT: u32 = 25;
const BYTEA: u32 = 17;
const JSONB: u32 = 3802;

type Values = Vec<Option<Vec<u8>>>;
type Headers = Vec<(String, Option<Vec<u8>>)>;

fn read(config: Messages, content: &[u8]) -> Result<(Values, Headers), MessageError> {
    let mut reader = MessageReader::new(config);
    let note = note(content);
    let (row, headers) = reader.read(&note)?;
    assert_eq!((row.index, row.transaction, row.relation.number), (2, note.transaction, 0));
    assert_eq!(row.tuple.len(), row.relation.columns.len());
    let values = row.tuple.columns().map(|column| match column {
        Column::Text(value) => Some(value.to_vec()),
        _ => None,
    });
    let headers = headers.iter().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)));
    Ok((values.collect(), headers.collect()))
}

fn values(texts: [Option<&str>; 5]) -> Values {
    texts.iter().map(|text| text.map(|text| text.as_bytes().to_vec())).collect()
}

#[test]
fn what_emit_wrote_is_taken_as_it_is() {
    let payload: &[u8] = b"\x00\xff not even text";
    let texts = [Some(&b"order"[..]), None, Some(b"made")];
    let content = emitted(&[Some(b"trace"), Some(b"1"), Some(b"none"), None], texts, (BYTEA, Some(payload)));
    let (found, headers) = read(Messages::new("outbox"), &content).unwrap();
    assert_eq!(found[..4], values([Some(ID), Some("order"), None, Some("made"), None])[..4]);
    assert_eq!(found[4].as_deref(), Some(payload));
    assert!(content.ends_with(payload));
    assert_eq!(headers, [("trace".to_owned(), Some(b"1".to_vec())), ("none".to_owned(), None)]);
    for (payload, expected) in [
        ((TEXT, Some(&b"{}"[..])), Some("{}")),
        ((TEXT, Some(b"")), Some("")),
        ((JSONB, Some(b"\x01[1]")), Some("[1]")),
        ((JSONB, None), None),
    ] {
        let (found, headers) = read(Messages::new("outbox"), &emitted(&[], texts, payload)).unwrap();
        assert_eq!(found[4..], values([expected; 5])[4..]);
        assert_eq!(headers, []);
    }
}

#[test]
fn fields_of_plain_content_are_picked() {
    let content = r#"{"aggregatetype": "or\u0064er", "total": {"type": "no"}, "aggregateid": 42, "type": null, "x": [1]}"#;
    let (found, headers) = read(Messages::new("outbox"), content.as_bytes()).unwrap();
    // Without an id it has its place: commit LSN and index.
    let id = "00000016b374d84800000002";
    assert_eq!(found, values([Some(id), Some("order"), Some("42"), None, Some(content)]));
    assert!(headers.is_empty());
    let (found, _) =
        read(Messages::new("outbox"), br#"{"id": "a", "id": "b", "aggregateid": true, "type": ""}"#).unwrap();
    assert_eq!(found[..4], values([Some("b"), None, Some("true"), Some(""), None])[..4]);
}

#[test]
fn content_is_never_looked_into_without_a_field() {
    let mut config = Messages::new("outbox");
    let plain = &mut config.plain;
    for part in [&mut plain.id, &mut plain.aggregate_type, &mut plain.aggregate_id, &mut plain.event_type] {
        *part = PlainPart::Value("fixed".into());
    }
    for content in [&b""[..], b"\x00\xfe", b"{"] {
        let (found, _) = read(config.clone(), content).unwrap();
        assert_eq!(found[0].as_deref(), Some(&b"fixed"[..]));
        assert_eq!(found[4].as_deref(), Some(content));
    }
}

#[test]
fn what_cannot_be_an_event_is_refused_and_not_repeated() {
    let texts = [Some(&b"order"[..]), None, None];
    let with = |headers: &[Option<&[u8]>]| emitted(headers, texts, (TEXT, Some(b"secret")));
    let whole = with(&[]);
    let reserved = with(&[Some(b"pb-pos"), Some(b"secret")]);
    let odd = with(&[Some(b"secret")]);
    let nameless = with(&[None, Some(b"secret")]);
    let many = with(&[Some(&b"secret"[..]); 26]);
    let longer = [&whole[..], b"secret"].concat();
    let json = emitted(&[], texts, (JSONB, Some(b"\x02secret")));
    let (mut later, mut negative) = (whole.clone(), whole.clone());
    later[3] = 7;
    negative[32..36].copy_from_slice(&(-2_i32).to_be_bytes());
    for (content, expected) in [
        (&whole[..whole.len() - 1], "it ends early"),
        (&whole[..12], "it ends early"),
        (&negative, "it ends early"),
        (&later, "in a form that this version does not know"),
        (&json, "its jsonb has a form that this version does not know"),
        (&reserved, "a header's name is not allowed"),
        (&nameless, "a header's name is not allowed"),
        (&odd, "with too many headers"),
        (&many, "with too many headers"),
        (&longer, "goes on behind its payload"),
        (&whole[..11], "not a JSON object: line 1, column 1"),
        (b"", "not a JSON object: line 1, column 0"),
        (b"secret", "not a JSON object: line 1, column 1"),
        (b"\"secret\"", "not a JSON object: line 1, column 8"),
        (b"{\"id\": \"secret\"", "not a JSON object"),
        (b"{\"id\": \"1\"} secret", "not a JSON object: line 1, column 13"),
        (b"{\"id\": \"\xff\"}", "not a JSON object"),
        (b"{\"aggregateid\": {\"secret\": 1}}", "field `aggregateid` of its content is an object or a list"),
        (b"{\"type\": [1]}", "field `type` of its content is an object or a list"),
    ] {
        let error = read(Messages::new("outbox"), content).expect_err(expected).to_string();
        assert!(error.contains(expected) && !error.contains("secret"), "{error}");
    }
}
