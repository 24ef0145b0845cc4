//! The decoder against a second, owned reading of the protocol, and against whatever else may arrive.

use pillarbox_wire::pgoutput::{DecodeError, Message};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::model::{Owned, Value, any_message, encode, own};

fn decode(bytes: &[u8]) -> Result<Owned, DecodeError> {
    Message::decode(bytes).map(|message| own(&message))
}

/// One message of each kind, with every kind of column.
fn one_of_each() -> Vec<Owned> {
    let row = || vec![Value::Text(b"a".to_vec()), Value::Null, Value::Unchanged, Value::Binary(vec![0, 255])];
    let columns = vec![(true, "id".to_owned(), 2950, -1), (false, "größe".to_owned(), 1043, 24)];
    let (namespace, name) = ("public".to_owned(), "outbox".to_owned());
    vec![
        Owned::Begin { final_lsn: 0x16_B374_D848, commit_time: 1, xid: 7 },
        Owned::Commit { flags: 0, commit_lsn: 8, end_lsn: 16, commit_time: -1 },
        Owned::Origin { commit_lsn: 9, name: "other".to_owned() },
        Owned::Relation { oid: 16_385, namespace: namespace.clone(), name, identity: b'd', columns },
        Owned::Type { oid: 16_400, namespace, name: "mood".to_owned() },
        Owned::Insert { relation: 16_385, new: row() },
        Owned::Update { relation: 16_385, old: None, new: row() },
        Owned::Update { relation: 16_385, old: Some((b'K', row())), new: row() },
        Owned::Update { relation: 16_385, old: Some((b'O', row())), new: row() },
        Owned::Delete { relation: 16_385, old: (b'K', row()) },
        Owned::Delete { relation: 16_385, old: (b'O', row()) },
        Owned::Truncate { options: 3, relations: vec![16_385, 16_386] },
        Owned::Message { transactional: true, lsn: 5, prefix: "outbox".to_owned(), content: vec![1, 2, 3] },
        Owned::Message { transactional: false, lsn: 5, prefix: String::new(), content: vec![] },
    ]
}

#[test]
fn each_kind_is_read_as_written() {
    for message in one_of_each() {
        assert_eq!(decode(&encode(&message)), Ok(message));
    }
}

#[test]
fn no_beginning_of_a_message_passes_for_it() {
    for message in one_of_each() {
        let bytes = encode(&message);
        assert_eq!(decode(&[]), Err(DecodeError::Empty));
        for len in 1..bytes.len() {
            let result = decode(&bytes[..len]);
            assert!(
                matches!(result, Err(DecodeError::Truncated { .. })),
                "{message:?} cut at {len}: {result:?}"
            );
        }
    }
}

#[test]
fn nothing_may_follow_a_message() {
    for message in one_of_each() {
        let bytes = [encode(&message), vec![0, 0]].concat();
        assert_eq!(decode(&bytes), Err(DecodeError::Trailing { tag: bytes[0], bytes: 2 }), "{message:?}");
    }
}

#[test]
fn streamed_and_two_phase_messages_are_refused_by_name() {
    for &tag in b"SEcAbPKrp" {
        assert_eq!(decode(&[tag, 0, 0, 0, 1]), Err(DecodeError::Unsupported { tag }));
    }
    for tag in (0..=u8::MAX).filter(|tag| !b"BCORYIUDTMSEcAbPKrp".contains(tag)) {
        assert_eq!(decode(&[tag]), Err(DecodeError::UnknownTag { tag }));
    }
}

#[test]
fn undefined_values_are_refused() {
    let invalid = |tag, field| DecodeError::Invalid { tag, field };
    let insert = |row: &[u8]| [b"I\0\0\0\x01N".as_slice(), row].concat();
    for (bytes, error) in [
        (b"I\0\0\0\x01K\0\0".to_vec(), invalid(b'I', "tuple kind")),
        (insert(b"\xff\xff"), invalid(b'I', "column count")),
        (insert(b"\x80\x00"), invalid(b'I', "column count")),
        (insert(b"\0\x01x"), invalid(b'I', "column kind")),
        (insert(b"\0\x01t\xff\xff\xff\xff"), invalid(b'I', "column value")),
        (insert(b"\0\x01b\x80\0\0\0"), invalid(b'I', "column value")),
        (b"U\0\0\0\x01X\0\0N\0\0".to_vec(), invalid(b'U', "tuple kind")),
        (b"U\0\0\0\x01K\0\0K\0\0".to_vec(), invalid(b'U', "tuple kind")),
        (b"D\0\0\0\x01N\0\0".to_vec(), invalid(b'D', "tuple kind")),
        (b"R\0\0\0\x01s\0t\0z\0\0".to_vec(), invalid(b'R', "replica identity")),
        (b"R\0\0\0\x01s\0t\0d\xff\xff".to_vec(), invalid(b'R', "column count")),
        (b"R\0\0\0\x01s\0t\0d\0\x01\x02c\0\0\0\0\0\0\0\0\0".to_vec(), invalid(b'R', "column flags")),
        (b"T\xff\xff\xff\xff\0".to_vec(), invalid(b'T', "relation count")),
        (b"T\0\0\0\0\x04".to_vec(), invalid(b'T', "options")),
        (b"M\x02\0\0\0\0\0\0\0\0p\0\0\0\0\0".to_vec(), invalid(b'M', "flags")),
        (b"M\x01\0\0\0\0\0\0\0\0p\0\xff\xff\xff\xff".to_vec(), invalid(b'M', "content")),
    ] {
        assert_eq!(decode(&bytes), Err(error), "{}", bytes.escape_ascii());
    }
}

#[test]
fn lengths_beyond_the_message_are_refused_without_reading() {
    for (bytes, field) in [
        (b"I\0\0\0\x01N\0\x01t\x7f\xff\xff\xff".as_slice(), "column value"),
        (b"I\0\0\0\x01N\x7f\xff", "column kind"),
        (b"R\0\0\0\x01s\0t\0d\x7f\xff", "column flags"),
        (b"T\x7f\xff\xff\xff\0", "relation oid"),
        (b"M\0\0\0\0\0\0\0\0\0p\0\x7f\xff\xff\xff", "content"),
    ] {
        assert_eq!(decode(bytes), Err(DecodeError::Truncated { tag: bytes[0], field }));
    }
}

#[test]
fn names_must_be_utf8_and_contents_need_not() {
    for (bytes, field) in [
        (b"R\0\0\0\x01\xff\0t\0d\0\0".as_slice(), "namespace"),
        (b"R\0\0\0\x01s\0\xff\0d\0\0", "relation name"),
        (b"R\0\0\0\x01s\0t\0d\0\x01\0\xff\0\0\0\0\0\0\0\0\0", "column name"),
        (b"Y\0\0\0\x01s\0\xff\0", "type name"),
        (b"O\0\0\0\0\0\0\0\0\xff\0", "origin name"),
        (b"M\0\0\0\0\0\0\0\0\0\xff\0\0\0\0\0", "prefix"),
    ] {
        assert_eq!(decode(bytes), Err(DecodeError::NotUtf8 { tag: bytes[0], field }));
    }
    assert!(decode(b"M\0\0\0\0\0\0\0\0\0p\0\0\0\0\x01\xff").is_ok());
    assert!(decode(b"I\0\0\0\x01N\0\x01t\0\0\0\x01\xff").is_ok());
}

#[test]
fn an_empty_namespace_is_pg_catalog() {
    let Ok(Message::Type { namespace, .. }) = Message::decode(b"Y\0\0\0\x01\0int4\0") else {
        panic!("a type");
    };
    assert_eq!(namespace, "pg_catalog");
}

#[test]
fn debug_and_errors_show_no_row() {
    let secret = b"4111-1111";
    let row = || vec![Value::Text(secret.to_vec()), Value::Binary(secret.to_vec())];
    let mut texts = vec![];
    for message in [
        Owned::Insert { relation: 1, new: row() },
        Owned::Update { relation: 1, old: Some((b'O', row())), new: row() },
        Owned::Delete { relation: 1, old: (b'K', row()) },
        Owned::Message { transactional: true, lsn: 0, prefix: "p".to_owned(), content: secret.to_vec() },
    ] {
        let bytes = encode(&message);
        let decoded = Message::decode(&bytes).expect("a valid message");
        texts.push(format!("{decoded:?} {decoded:#?}"));
        if let Message::Insert { new, .. } = decoded {
            texts.extend(new.columns().map(|column| format!("{column:?}")));
        }
        texts.extend(
            (0..bytes.len()).filter_map(|len| decode(&bytes[..len]).err()).map(|e| format!("{e} {e:?}")),
        );
    }
    for text in texts {
        assert!(!text.contains("4111") && !text.contains("52, 49"), "{text}");
    }
}

proptest! {
    #[test]
    fn any_message_is_read_as_written(message in any_message()) {
        prop_assert_eq!(decode(&encode(&message)), Ok(message));
    }

    #[test]
    fn a_mutated_message_is_an_error_or_means_its_bytes(
        message in any_message(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..4),
    ) {
        let mut bytes = encode(&message);
        for (at, byte, kind) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => bytes.truncate(at),
                _ => bytes[at] ^= 1 << (byte % 8),
            }
        }
        check_any(&bytes);
    }

    #[test]
    fn arbitrary_bytes_are_an_error_or_mean_themselves(
        tag in prop::sample::select(b"BCORYIUDTMSEcAbPKrp\0".to_vec()),
        rest in vec(prop_oneof![any::<u8>(), 0..4_u8, prop::sample::select(b"NKOntub".to_vec())], 0..80),
    ) {
        check_any(&[vec![tag], rest].concat());
    }
}

/// Whatever is accepted was read to its last byte: written again it gives the same bytes.
fn check_any(bytes: &[u8]) {
    if let Ok(message) = decode(bytes) {
        // the one pair of texts with one meaning
        if !bytes.windows(10).any(|text| text == b"pg_catalog") {
            assert_eq!(encode(&message), bytes, "{message:?}");
        }
    }
}
