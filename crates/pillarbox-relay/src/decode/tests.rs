//! A transaction by hand, byte by byte: what the decoder gives, and what it refuses.

use pillarbox_wire::lsn::{Lsn, Oid};

use super::{Change, DecodeError, Decoder};

/// `B`: begin.
pub(crate) fn begin(commit_lsn: u64) -> Vec<u8> {
    let mut bytes = vec![b'B'];
    bytes.extend(commit_lsn.to_be_bytes());
    bytes.extend(0_i64.to_be_bytes());
    bytes.extend(7_u32.to_be_bytes());
    bytes
}

/// `C`: commit.
pub(crate) fn commit(commit_lsn: u64, end_lsn: u64) -> Vec<u8> {
    let mut bytes = vec![b'C', 0];
    bytes.extend(commit_lsn.to_be_bytes());
    bytes.extend(end_lsn.to_be_bytes());
    bytes.extend(0_i64.to_be_bytes());
    bytes
}

/// `R`: a relation with columns of (name, type oid).
pub(crate) fn relation(oid: u32, name: &str, columns: &[(&str, u32)]) -> Vec<u8> {
    let mut bytes = vec![b'R'];
    bytes.extend(oid.to_be_bytes());
    bytes.extend(b"public\0");
    bytes.extend(name.as_bytes());
    bytes.push(0);
    bytes.push(b'd');
    bytes.extend((columns.len() as u16).to_be_bytes());
    for (name, type_oid) in columns {
        bytes.push(0);
        bytes.extend(name.as_bytes());
        bytes.push(0);
        bytes.extend(type_oid.to_be_bytes());
        bytes.extend((-1_i32).to_be_bytes());
    }
    bytes
}

/// `I`: an insert of text values.
pub(crate) fn insert(oid: u32, values: &[Option<&str>]) -> Vec<u8> {
    let mut bytes = vec![b'I'];
    bytes.extend(oid.to_be_bytes());
    bytes.push(b'N');
    bytes.extend((values.len() as u16).to_be_bytes());
    for value in values {
        match value {
            None => bytes.push(b'n'),
            Some(text) => {
                bytes.push(b't');
                bytes.extend((text.len() as u32).to_be_bytes());
                bytes.extend(text.as_bytes());
            }
        }
    }
    bytes
}

/// `U`: an update to text values, without the old row.
pub(crate) fn update(oid: u32, values: &[Option<&str>]) -> Vec<u8> {
    let mut bytes = insert(oid, values);
    bytes[0] = b'U';
    bytes
}

/// `D`: a delete by a key of one text column.
pub(crate) fn delete(oid: u32, key: &str) -> Vec<u8> {
    let mut bytes = insert(oid, &[Some(key)]);
    (bytes[0], bytes[5]) = (b'D', b'K');
    bytes
}

/// `M`: a logical message.
pub(crate) fn message(transactional: bool, prefix: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![b'M', u8::from(transactional)];
    bytes.extend(0_u64.to_be_bytes());
    bytes.extend(prefix.as_bytes());
    bytes.push(0);
    bytes.extend((content.len() as u32).to_be_bytes());
    bytes.extend(content);
    bytes
}

#[test]
fn every_change_of_a_transaction_is_counted() {
    let mut decoder = Decoder::new();
    let mut indexes = Vec::new();
    for frame in [
        begin(100),
        relation(1, "outbox", &[("id", 25)]),
        insert(1, &[Some("a")]),
        message(true, "other", b""),
        message(false, "other", b""),
        insert(1, &[Some("b")]),
        update(1, &[Some("c")]),
        delete(1, "c"),
        insert(1, &[Some("d")]),
        commit(100, 108),
    ] {
        let counted = match decoder.decode(&frame).unwrap() {
            Change::Insert(row) => Some(row.index),
            Change::Message(note) => Some(note.index),
            Change::Update { index, .. } => Some(index),
            Change::Passed => Some(u32::MAX),
            _ => None,
        };
        if counted.is_some() {
            decoder.advance().unwrap();
        }
        indexes.extend(counted);
    }
    assert_eq!(indexes, [0, 1, 2, 3, u32::MAX, 5]);
    assert_eq!(decoder.transaction(), None);
}

#[test]
fn a_row_presented_again_has_the_same_index() {
    let mut decoder = Decoder::new();
    decoder.decode(&begin(100)).unwrap();
    decoder.decode(&relation(1, "outbox", &[("id", 25)])).unwrap();
    let row = insert(1, &[Some("a")]);
    for _ in 0..2 {
        let Change::Insert(row) = decoder.decode(&row).unwrap() else { panic!("an insert") };
        assert_eq!(row.index, 0);
    }
}

#[test]
fn streams_that_make_no_sense_are_errors() {
    let after = |frames: &[Vec<u8>], last: &[u8]| {
        let mut decoder = Decoder::new();
        for frame in frames {
            decoder.decode(frame).unwrap();
        }
        decoder.decode(last).unwrap_err()
    };
    assert_eq!(after(&[begin(9)], &insert(5, &[])), DecodeError::UnknownRelation(Oid(5)));
    assert_eq!(after(&[], &commit(9, 10)), DecodeError::Outside("commit"));
    assert_eq!(after(&[begin(9)], &begin(10)), DecodeError::Interleaved { open: Lsn(9), found: Lsn(10) });
    assert_eq!(
        after(&[begin(9), commit(9, 10)], &begin(9)),
        DecodeError::Backwards { last: Lsn(9), found: Lsn(9) }
    );
    assert!(matches!(after(&[], b"?"), DecodeError::Malformed(_)));
}
