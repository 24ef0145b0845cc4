//! The decoder against a stream that Postgres itself wrote (`tests/data/pgoutput.sql`): the transcripts were compared
//! with that script line by line, and the LSNs must keep the promises that positions are built on.

use std::collections::BTreeMap;

use pillarbox_wire::pgoutput::{Column, Message, Old, Tuple};
use pillarbox_wire::{Lsn, Oid, PgTimestamp};

/// The same script on the oldest and the newest version that is served.
const CAPTURES: [&str; 2] =
    [include_str!("../data/pgoutput-15.txt"), include_str!("../data/pgoutput-18.txt")];

/// The messages of one kind, `text` or `binary`.
fn messages(capture: &str, kind: &str) -> Vec<(Lsn, Vec<u8>)> {
    let lines = capture.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let messages: Vec<_> = lines
        .filter(|fields| fields[0] == kind)
        .map(|fields| (fields[1].parse().expect("an LSN"), from_hex(fields[2])))
        .collect();
    assert_eq!(messages.len(), 53, "messages in the capture");
    messages
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).expect("ASCII"));
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("hex")).collect()
}

/// A message as a line, with relations by name; LSNs and times are checked elsewhere.
fn describe<'a>(message: &Message<'a>, names: &mut BTreeMap<Oid, &'a str>) -> String {
    match *message {
        Message::Begin { .. } => "begin".to_owned(),
        Message::Commit { flags, .. } => format!("commit {flags}"),
        Message::Origin { commit_lsn, name } => format!("origin {name} {commit_lsn}"),
        Message::Relation(relation) => {
            names.insert(relation.oid, relation.name);
            let star = |key| if key { "*" } else { "" };
            let columns = relation.columns();
            let columns: Vec<_> = columns
                .map(|c| format!("{}{}:{}:{}", c.name, star(c.key), c.type_oid, c.type_modifier))
                .collect();
            let identity = relation.replica_identity;
            format!("relation {}.{} {identity:?} {}", relation.namespace, relation.name, columns.join(" "))
        }
        Message::Type { namespace, name, .. } => format!("type {namespace}.{name}"),
        Message::Insert { relation, new } => format!("insert {} {}", names[&relation], row(new)),
        Message::Update { relation, old, new } => {
            let old = old.map(|old| format!("{} -> ", old_row(old))).unwrap_or_default();
            format!("update {} {old}{}", names[&relation], row(new))
        }
        Message::Delete { relation, old } => format!("delete {} {}", names[&relation], old_row(old)),
        Message::Truncate { options, relations } => {
            let relations: Vec<_> = relations.map(|oid| names[&oid]).collect();
            format!("truncate {options} {}", relations.join(" "))
        }
        Message::Message { transactional, prefix, content, .. } => {
            format!("message {transactional} {prefix} {}", content.escape_ascii())
        }
    }
}

fn old_row(old: Old<'_>) -> String {
    match old {
        Old::Key(tuple) => format!("key {}", row(tuple)),
        Old::Full(tuple) => format!("full {}", row(tuple)),
    }
}

fn row(tuple: Tuple<'_>) -> String {
    let columns = tuple.columns().map(|column| match column {
        Column::Null => "null".to_owned(),
        Column::Unchanged => "unchanged".to_owned(),
        Column::Text(value) | Column::Binary(value) if value.len() > 100 => format!("<{}>", value.len()),
        Column::Text(value) => format!("'{}'", value.escape_ascii()),
        Column::Binary(value) => format!("b'{}'", value.escape_ascii()),
    });
    format!("({})", columns.collect::<Vec<_>>().join(", "))
}

fn transcript(capture: &str, kind: &str) -> Vec<String> {
    let messages = messages(capture, kind);
    let mut names = BTreeMap::new();
    messages
        .iter()
        .map(|(_, bytes)| describe(&Message::decode(bytes).expect("Postgres wrote it"), &mut names))
        .collect()
}

#[test]
fn the_stream_says_what_the_script_did() {
    for (kind, expected) in [
        ("text", include_str!("../data/pgoutput-text.transcript")),
        ("binary", include_str!("../data/pgoutput-binary.transcript")),
    ] {
        let expected: Vec<_> = expected.lines().collect();
        for capture in CAPTURES {
            assert_eq!(transcript(capture, kind), expected, "{kind}");
        }
    }
}

#[test]
fn positions_keep_their_promises() {
    CAPTURES.iter().for_each(|capture| check_positions(&messages(capture, "text")));
}

fn check_positions(messages: &[(Lsn, Vec<u8>)]) {
    let (mut open, mut last_commit, mut transactions) = (None, Lsn::ZERO, 0);
    for (lsn, bytes) in messages {
        match Message::decode(bytes).expect("Postgres wrote it") {
            Message::Begin { final_lsn, commit_time, .. } => {
                assert_eq!(open.replace((final_lsn, commit_time)), None, "transactions do not nest");
                assert!(final_lsn > last_commit, "commit LSNs rise strictly");
            }
            Message::Commit { commit_lsn, end_lsn, commit_time, .. } => {
                assert_eq!(open.take(), Some((commit_lsn, commit_time)), "commit repeats begin");
                assert!(end_lsn > commit_lsn);
                assert_eq!(*lsn, end_lsn, "the frame of a commit carries its end");
                last_commit = commit_lsn;
                transactions += 1;
            }
            Message::Message { transactional, lsn: message_lsn, .. } => {
                assert_eq!(transactional, open.is_some());
                assert!(message_lsn > last_commit);
            }
            _ => assert!(open.is_some(), "rows stand inside a transaction"),
        }
    }
    assert_eq!((open, transactions), (None, 12));
}

/// The script gave this transaction the commit time 2024-02-29 12:00:00 UTC.
#[test]
fn commit_times_are_utc() {
    let messages = messages(CAPTURES[0], "text");
    let last = &messages.last().expect("messages").1;
    let Ok(Message::Commit { commit_time, .. }) = Message::decode(last) else { panic!("a commit") };
    assert_eq!(commit_time.to_unix_millis(), 1_709_208_000_000);
    assert_eq!(commit_time, PgTimestamp::from_unix_micros(1_709_208_000_000_000));
}

#[test]
fn rows_of_a_copy_share_their_lsn() {
    let rows = messages(CAPTURES[0], "text").into_iter().filter(
        |(_, bytes)| matches!(Message::decode(bytes), Ok(Message::Insert { new, .. }) if new.len() == 2),
    );
    let lsns: Vec<_> = rows.map(|(lsn, _)| lsn).take(3).collect();
    assert!(lsns[0] == lsns[1] && lsns[1] == lsns[2], "an event's LSN is no position: {lsns:?}");
}
