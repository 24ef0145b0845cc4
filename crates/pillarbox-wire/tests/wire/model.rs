//! A second, owned reading of pgoutput: messages as plain values, how they look on the wire, and arbitrary ones.
//!
//! The encoder follows the protocol's page, not the decoder: the two must agree without sharing code.

use pillarbox_wire::pgoutput::{Column, Message, Old, ReplicaIdentity, Tuple};
use proptest::collection::vec;
use proptest::prelude::*;

/// A message that owns its content.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Owned {
    Begin { final_lsn: u64, commit_time: i64, xid: u32 },
    Commit { flags: u8, commit_lsn: u64, end_lsn: u64, commit_time: i64 },
    Origin { commit_lsn: u64, name: String },
    Relation { oid: u32, namespace: String, name: String, identity: u8, columns: Vec<RelationColumn> },
    Type { oid: u32, namespace: String, name: String },
    Insert { relation: u32, new: Row },
    Update { relation: u32, old: Option<(u8, Row)>, new: Row },
    Delete { relation: u32, old: (u8, Row) },
    Truncate { options: u8, relations: Vec<u32> },
    Message { transactional: bool, lsn: u64, prefix: String, content: Vec<u8> },
}

pub(crate) type Row = Vec<Value>;

/// `key`, name, type, type modifier.
pub(crate) type RelationColumn = (bool, String, u32, i32);

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

/// The bytes Postgres would send.
pub(crate) fn encode(message: &Owned) -> Vec<u8> {
    match message {
        Owned::Begin { final_lsn, commit_time, xid } => {
            [b"B".as_slice(), &final_lsn.to_be_bytes(), &commit_time.to_be_bytes(), &xid.to_be_bytes()]
                .concat()
        }
        Owned::Commit { flags, commit_lsn, end_lsn, commit_time } => [
            b"C".as_slice(),
            &[*flags],
            &commit_lsn.to_be_bytes(),
            &end_lsn.to_be_bytes(),
            &commit_time.to_be_bytes(),
        ]
        .concat(),
        Owned::Origin { commit_lsn, name } => {
            [b"O".as_slice(), &commit_lsn.to_be_bytes(), &c_string(name)].concat()
        }
        Owned::Relation { oid, namespace, name, identity, columns } => {
            let mut bytes =
                [b"R".as_slice(), &oid.to_be_bytes(), &schema(namespace), &c_string(name)].concat();
            bytes.push(*identity);
            bytes.extend((columns.len() as i16).to_be_bytes());
            for (key, name, type_oid, modifier) in columns {
                bytes.push(u8::from(*key));
                bytes.extend(c_string(name));
                bytes.extend(type_oid.to_be_bytes());
                bytes.extend(modifier.to_be_bytes());
            }
            bytes
        }
        Owned::Type { oid, namespace, name } => {
            [b"Y".as_slice(), &oid.to_be_bytes(), &schema(namespace), &c_string(name)].concat()
        }
        Owned::Insert { relation, new } => {
            [b"I".as_slice(), &relation.to_be_bytes(), &row(b'N', new)].concat()
        }
        Owned::Update { relation, old, new } => {
            let old = old.as_ref().map(|(kind, values)| row(*kind, values)).unwrap_or_default();
            [b"U".as_slice(), &relation.to_be_bytes(), &old, &row(b'N', new)].concat()
        }
        Owned::Delete { relation, old: (kind, values) } => {
            [b"D".as_slice(), &relation.to_be_bytes(), &row(*kind, values)].concat()
        }
        Owned::Truncate { options, relations } => {
            let mut bytes = [b"T".as_slice(), &(relations.len() as i32).to_be_bytes(), &[*options]].concat();
            bytes.extend(relations.iter().flat_map(|oid| oid.to_be_bytes()));
            bytes
        }
        Owned::Message { transactional, lsn, prefix, content } => [
            b"M".as_slice(),
            &[u8::from(*transactional)],
            &lsn.to_be_bytes(),
            &c_string(prefix),
            &counted(content),
        ]
        .concat(),
    }
}

fn c_string(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn schema(namespace: &str) -> Vec<u8> {
    c_string(if namespace == "pg_catalog" { "" } else { namespace })
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    [(bytes.len() as i32).to_be_bytes().as_slice(), bytes].concat()
}

fn row(kind: u8, values: &[Value]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((values.len() as i16).to_be_bytes());
    for value in values {
        match value {
            Value::Null => bytes.push(b'n'),
            Value::Unchanged => bytes.push(b'u'),
            Value::Text(value) => bytes.extend([b"t".as_slice(), &counted(value)].concat()),
            Value::Binary(value) => bytes.extend([b"b".as_slice(), &counted(value)].concat()),
        }
    }
    bytes
}

/// What the decoder understood, walked to its end.
pub(crate) fn own(message: &Message<'_>) -> Owned {
    match *message {
        Message::Begin { final_lsn, commit_time, xid } => {
            Owned::Begin { final_lsn: final_lsn.0, commit_time: commit_time.0, xid: xid.0 }
        }
        Message::Commit { flags, commit_lsn, end_lsn, commit_time } => {
            Owned::Commit { flags, commit_lsn: commit_lsn.0, end_lsn: end_lsn.0, commit_time: commit_time.0 }
        }
        Message::Origin { commit_lsn, name } => {
            Owned::Origin { commit_lsn: commit_lsn.0, name: name.to_owned() }
        }
        Message::Relation(relation) => {
            let columns = relation.columns();
            assert_eq!(columns.len(), usize::from(relation.column_count));
            Owned::Relation {
                oid: relation.oid.0,
                namespace: relation.namespace.to_owned(),
                name: relation.name.to_owned(),
                identity: match relation.replica_identity {
                    ReplicaIdentity::Default => b'd',
                    ReplicaIdentity::Nothing => b'n',
                    ReplicaIdentity::Full => b'f',
                    ReplicaIdentity::Index => b'i',
                },
                columns: columns.map(|c| (c.key, c.name.to_owned(), c.type_oid.0, c.type_modifier)).collect(),
            }
        }
        Message::Type { oid, namespace, name } => {
            Owned::Type { oid: oid.0, namespace: namespace.to_owned(), name: name.to_owned() }
        }
        Message::Insert { relation, new } => Owned::Insert { relation: relation.0, new: own_row(new) },
        Message::Update { relation, old, new } => {
            Owned::Update { relation: relation.0, old: old.map(own_old), new: own_row(new) }
        }
        Message::Delete { relation, old } => Owned::Delete { relation: relation.0, old: own_old(old) },
        Message::Truncate { options, relations } => {
            Owned::Truncate { options, relations: relations.map(|oid| oid.0).collect() }
        }
        Message::Message { transactional, lsn, prefix, content } => {
            Owned::Message { transactional, lsn: lsn.0, prefix: prefix.to_owned(), content: content.to_vec() }
        }
    }
}

fn own_old(old: Old<'_>) -> (u8, Row) {
    match old {
        Old::Key(tuple) => (b'K', own_row(tuple)),
        Old::Full(tuple) => (b'O', own_row(tuple)),
    }
}

fn own_row(tuple: Tuple<'_>) -> Row {
    let row: Row = tuple
        .columns()
        .map(|column| match column {
            Column::Null => Value::Null,
            Column::Unchanged => Value::Unchanged,
            Column::Text(value) => Value::Text(value.to_vec()),
            Column::Binary(value) => Value::Binary(value.to_vec()),
        })
        .collect();
    assert_eq!((row.len(), row.is_empty()), (tuple.len(), tuple.is_empty()));
    row
}

/// Any message that Postgres could send.
pub(crate) fn any_message() -> impl Strategy<Value = Owned> {
    prop_oneof![
        any::<(u64, i64, u32)>().prop_map(|(final_lsn, commit_time, xid)| Owned::Begin {
            final_lsn,
            commit_time,
            xid
        }),
        any::<(u8, u64, u64, i64)>().prop_map(|(flags, commit_lsn, end_lsn, commit_time)| Owned::Commit {
            flags,
            commit_lsn,
            end_lsn,
            commit_time
        }),
        (any::<u64>(), any_name()).prop_map(|(commit_lsn, name)| Owned::Origin { commit_lsn, name }),
        any_relation(),
        (any::<u32>(), any_schema(), any_name()).prop_map(|(oid, namespace, name)| Owned::Type {
            oid,
            namespace,
            name
        }),
        (any::<u32>(), any_row()).prop_map(|(relation, new)| Owned::Insert { relation, new }),
        (any::<u32>(), prop::option::of(any_old()), any_row())
            .prop_map(|(relation, old, new)| Owned::Update { relation, old, new }),
        (any::<u32>(), any_old()).prop_map(|(relation, old)| Owned::Delete { relation, old }),
        (0_u8..4, vec(any::<u32>(), 0..4))
            .prop_map(|(options, relations)| Owned::Truncate { options, relations }),
        (any::<bool>(), any::<u64>(), any_name(), vec(any::<u8>(), 0..60)).prop_map(
            |(transactional, lsn, prefix, content)| Owned::Message { transactional, lsn, prefix, content }
        ),
    ]
}

fn any_relation() -> impl Strategy<Value = Owned> {
    let identity = prop::sample::select(b"dnfi".to_vec());
    let columns = vec(
        any::<(bool, u32, i32)>().prop_flat_map(|(key, oid, modifier)| {
            any_name().prop_map(move |name| (key, name, oid, modifier))
        }),
        0..6,
    );
    (any::<u32>(), any_schema(), any_name(), identity, columns).prop_map(
        |(oid, namespace, name, identity, columns)| Owned::Relation {
            oid,
            namespace,
            name,
            identity,
            columns,
        },
    )
}

fn any_name() -> impl Strategy<Value = String> {
    "[^\0]{0,12}"
}

fn any_schema() -> impl Strategy<Value = String> {
    prop_oneof![Just("pg_catalog".to_owned()), "[a-zé_]{1,8}"]
}

fn any_old() -> impl Strategy<Value = (u8, Row)> {
    (prop::sample::select(b"KO".to_vec()), any_row())
}

fn any_row() -> impl Strategy<Value = Row> {
    let bytes = || vec(any::<u8>(), 0..40);
    vec(
        prop_oneof![
            Just(Value::Null),
            Just(Value::Unchanged),
            bytes().prop_map(Value::Text),
            bytes().prop_map(Value::Binary)
        ],
        0..7,
    )
}
