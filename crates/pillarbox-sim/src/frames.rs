//! What a walsender sends of a transaction: the frames of pgoutput.

use pillarbox_wire::lsn::Lsn;

/// The outbox table.
const RELATION: u32 = 1;
/// A table of no interest, published all the same.
const OTHER: u32 = 2;

pub(crate) fn begin(commit_lsn: Lsn, commit_micros: i64) -> Vec<u8> {
    [&b"B"[..], &commit_lsn.0.to_be_bytes(), &commit_micros.to_be_bytes(), &7_u32.to_be_bytes()].concat()
}

pub(crate) fn commit(commit_lsn: Lsn, end_lsn: Lsn, commit_micros: i64) -> Vec<u8> {
    [&b"C\0"[..], &commit_lsn.0.to_be_bytes(), &end_lsn.0.to_be_bytes(), &commit_micros.to_be_bytes()]
        .concat()
}

pub(crate) fn outbox() -> Vec<u8> {
    let columns = [("id", 2950), ("aggregatetype", 25), ("aggregateid", 25), ("type", 25), ("payload", 3802)];
    relation(RELATION, "outbox", &columns)
}

pub(crate) fn other() -> Vec<u8> {
    relation(OTHER, "orders", &[("id", 25)])
}

fn relation(id: u32, name: &str, columns: &[(&str, u32)]) -> Vec<u8> {
    let mut frame = [&b"R"[..], &id.to_be_bytes(), b"public\0", name.as_bytes(), b"\0d"].concat();
    frame.extend((columns.len() as u16).to_be_bytes());
    for (name, type_oid) in columns {
        frame.extend([&b"\0"[..], name.as_bytes(), b"\0"].concat());
        frame.extend(u32::to_be_bytes(*type_oid));
        frame.extend((-1_i32).to_be_bytes());
    }
    frame
}

pub(crate) fn event(id: &str, aggregate: &str, key: &str, payload: &str) -> Vec<u8> {
    insert(RELATION, &[id, aggregate, key, "made", payload])
}

pub(crate) fn row() -> Vec<u8> {
    insert(OTHER, &["7"])
}

fn insert(relation: u32, values: &[&str]) -> Vec<u8> {
    let mut frame = [&b"I"[..], &relation.to_be_bytes(), b"N"].concat();
    frame.extend((values.len() as u16).to_be_bytes());
    for value in values {
        frame.push(b't');
        frame.extend((value.len() as u32).to_be_bytes());
        frame.extend(value.as_bytes());
    }
    frame
}

pub(crate) fn message(at: Lsn, prefix: &str, content: &str) -> Vec<u8> {
    let mut frame = [&b"M\x01"[..], &at.0.to_be_bytes(), prefix.as_bytes(), b"\0"].concat();
    frame.extend((content.len() as u32).to_be_bytes());
    frame.extend(content.as_bytes());
    frame
}
