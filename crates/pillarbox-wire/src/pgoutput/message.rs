//! The messages of protocol version 1, and the one function that reads them.
//!
//! Must never show a row or a message's content in `Debug`.

use std::fmt;

use super::error::DecodeError;
use super::reader::Reader;
use super::relation::{Relation, read_namespace};
use super::tuple::Tuple;
use crate::lsn::{Lsn, Oid, PgTimestamp, Xid};

/// One pgoutput message, the payload of one `XLogData`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// `B`: a transaction that will be committed follows.
    Begin {
        /// Start of the commit record: equals `commit_lsn` of the [`Message::Commit`] that follows.
        final_lsn: Lsn,
        /// When it was committed.
        commit_time: PgTimestamp,
        /// Its id.
        xid: Xid,
    },
    /// `C`: the transaction ends.
    Commit {
        /// Undefined so far, always 0.
        flags: u8,
        /// Start of the commit record; strictly increasing in the stream.
        commit_lsn: Lsn,
        /// End of the commit record: the position to confirm. It can equal the next transaction's `commit_lsn`.
        end_lsn: Lsn,
        /// When it was committed.
        commit_time: PgTimestamp,
    },
    /// `O`: the transaction came from another server.
    Origin {
        /// Its commit LSN there.
        commit_lsn: Lsn,
        /// Name of the replication origin.
        name: &'a str,
    },
    /// `R`: describes a relation, inside or outside of a transaction.
    Relation(Relation<'a>),
    /// `Y`: describes a type that is not built in.
    Type {
        /// The type.
        oid: Oid,
        /// Its schema; `pg_catalog` where Postgres sends it as empty.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
    },
    /// `I`: a new row.
    Insert {
        /// Its relation.
        relation: Oid,
        /// The row.
        new: Tuple<'a>,
    },
    /// `U`: a changed row.
    Update {
        /// Its relation.
        relation: Oid,
        /// What is sent of the row before: only where the replica identity is full, or the key changed.
        old: Option<Old<'a>>,
        /// The row after.
        new: Tuple<'a>,
    },
    /// `D`: a row that is gone.
    Delete {
        /// Its relation.
        relation: Oid,
        /// What is sent of it.
        old: Old<'a>,
    },
    /// `T`: relations that were emptied.
    Truncate {
        /// Bit 0: CASCADE; bit 1: RESTART IDENTITY.
        options: u8,
        /// Which.
        relations: TruncatedRelations<'a>,
    },
    /// `M`: written by `pg_logical_emit_message`.
    Message {
        /// Inside its transaction; otherwise it stands outside of any, and also when its transaction rolled back.
        transactional: bool,
        /// Where it stands in the WAL.
        lsn: Lsn,
        /// Says whom it is for.
        prefix: &'a str,
        /// Its bytes, as written.
        content: &'a [u8],
    },
}

/// What is sent of a row before its change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old<'a> {
    /// `K`: the replica identity's columns, all others null.
    Key(Tuple<'a>),
    /// `O`: the whole row (REPLICA IDENTITY FULL).
    Full(Tuple<'a>),
}

impl<'a> Message<'a> {
    /// Reads one whole message.
    ///
    /// # Errors
    /// [`DecodeError`]; see there.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (&tag, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
        let mut reader = Reader::new(tag, rest);
        let message = read(tag, &mut reader)?;
        reader.end()?;
        Ok(message)
    }
}

#[inline]
fn read<'a>(tag: u8, reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    match tag {
        b'I' => read_insert(reader),
        b'B' => read_begin(reader),
        b'C' => read_commit(reader),
        b'M' => read_message(reader),
        b'U' => read_update(reader),
        b'D' => read_delete(reader),
        b'R' => Relation::read(reader).map(Message::Relation),
        b'Y' => read_type(reader),
        b'T' => read_truncate(reader),
        b'O' => read_origin(reader),
        b'S' | b'E' | b'c' | b'A' | b'b' | b'P' | b'K' | b'r' | b'p' => Err(DecodeError::Unsupported { tag }),
        _ => Err(DecodeError::UnknownTag { tag }),
    }
}

#[inline]
fn read_begin<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    Ok(Message::Begin {
        final_lsn: reader.lsn("final LSN")?,
        commit_time: reader.timestamp("commit time")?,
        xid: reader.xid("transaction id")?,
    })
}

#[inline]
fn read_commit<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    Ok(Message::Commit {
        flags: reader.u8("flags")?,
        commit_lsn: reader.lsn("commit LSN")?,
        end_lsn: reader.lsn("end LSN")?,
        commit_time: reader.timestamp("commit time")?,
    })
}

fn read_origin<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    Ok(Message::Origin { commit_lsn: reader.lsn("commit LSN")?, name: reader.name("origin name")? })
}

fn read_type<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    Ok(Message::Type {
        oid: reader.oid("type oid")?,
        namespace: read_namespace(reader)?,
        name: reader.name("type name")?,
    })
}

#[inline]
fn read_insert<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let relation = reader.oid("relation oid")?;
    let new = read_new(reader)?;
    Ok(Message::Insert { relation, new })
}

fn read_update<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let relation = reader.oid("relation oid")?;
    let old = match reader.rest().first() {
        Some(b'N') => None,
        _ => Some(read_old(reader)?),
    };
    let new = read_new(reader)?;
    Ok(Message::Update { relation, old, new })
}

fn read_delete<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    Ok(Message::Delete { relation: reader.oid("relation oid")?, old: read_old(reader)? })
}

#[inline]
fn read_new<'a>(reader: &mut Reader<'a>) -> Result<Tuple<'a>, DecodeError> {
    match reader.u8("tuple kind")? {
        b'N' => Tuple::read(reader),
        _ => Err(reader.invalid("tuple kind")),
    }
}

fn read_old<'a>(reader: &mut Reader<'a>) -> Result<Old<'a>, DecodeError> {
    match reader.u8("tuple kind")? {
        b'K' => Tuple::read(reader).map(Old::Key),
        b'O' => Tuple::read(reader).map(Old::Full),
        _ => Err(reader.invalid("tuple kind")),
    }
}

fn read_truncate<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    const OPTIONS: u8 = 0b11;
    let count = reader.i32("relation count")?;
    let len = usize::try_from(count).ok().and_then(|count| count.checked_mul(4));
    let len = len.ok_or_else(|| reader.invalid("relation count"))?;
    let options = reader.u8("options")?;
    if options & !OPTIONS != 0 {
        return Err(reader.invalid("options"));
    }
    let (oids, _) = reader.bytes(len, "relation oid")?.as_chunks();
    Ok(Message::Truncate { options, relations: TruncatedRelations { oids } })
}

#[inline]
fn read_message<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    const TRANSACTIONAL: u8 = 1;
    let flags = reader.u8("flags")?;
    if flags & !TRANSACTIONAL != 0 {
        return Err(reader.invalid("flags"));
    }
    Ok(Message::Message {
        transactional: flags & TRANSACTIONAL != 0,
        lsn: reader.lsn("message LSN")?,
        prefix: reader.name("prefix")?,
        content: reader.counted("content")?,
    })
}

/// The relations of a TRUNCATE, as an iterator.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TruncatedRelations<'a> {
    oids: &'a [[u8; 4]],
}

impl Iterator for TruncatedRelations<'_> {
    type Item = Oid;

    fn next(&mut self) -> Option<Oid> {
        let (oid, rest) = self.oids.split_first()?;
        self.oids = rest;
        Some(Oid(u32::from_be_bytes(*oid)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.oids.len(), Some(self.oids.len()))
    }
}

impl ExactSizeIterator for TruncatedRelations<'_> {}

impl fmt::Debug for TruncatedRelations<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(*self).finish()
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Begin { final_lsn, xid, .. } => write!(f, "Begin({final_lsn}, xid {xid})"),
            Message::Commit { commit_lsn, end_lsn, .. } => write!(f, "Commit({commit_lsn}, end {end_lsn})"),
            Message::Origin { commit_lsn, name } => write!(f, "Origin({commit_lsn}, {name})"),
            Message::Relation(relation) => relation.fmt(f),
            Message::Type { oid, namespace, name } => write!(f, "Type({oid}, {namespace}.{name})"),
            Message::Insert { relation, new } => write!(f, "Insert({relation}, {new:?})"),
            Message::Update { relation, old, new } => write!(f, "Update({relation}, {old:?}, {new:?})"),
            Message::Delete { relation, old } => write!(f, "Delete({relation}, {old:?})"),
            Message::Truncate { options, relations } => write!(f, "Truncate({options:#04b}, {relations:?})"),
            Message::Message { transactional, lsn, prefix, content } => {
                let kind = if *transactional { "transactional" } else { "non-transactional" };
                write!(f, "Message({lsn}, {kind}, {prefix}, {} bytes)", content.len())
            }
        }
    }
}
