//! Stage 2, decode: frames of the replication stream become changes that borrow from the frame.
//!
//! Counts every row change and transactional message of a transaction, emitted or not, so that a
//! change's index depends on the WAL alone (I4). Never allocates per row, never guesses at a
//! relation it has not seen, knows nothing of outboxes or topics.
//!
//! A row may have to be presented again (no free batch set, a topic still unknown), so decoding it
//! changes nothing; [`Decoder::advance`] counts it once it was taken.

use pillarbox_wire::lsn::{Lsn, Oid, PgTimestamp};
use pillarbox_wire::pgoutput::{self, Message, Tuple};

/// One step of the stream.
#[derive(Debug)]
pub enum Change<'a> {
    /// A committed transaction starts.
    Begin,
    /// A row was inserted.
    Insert(Row<'a>),
    /// A transactional logical message.
    Message(Note<'a>),
    /// A row was updated: counted, but it gives no event.
    Update {
        /// The transaction it belongs to.
        transaction: Transaction,
        /// Its ordinal in the transaction, from 0.
        index: u32,
        /// Its table, as described in the stream.
        relation: &'a Description,
    },
    /// A counted change that can give no event: delete, truncate.
    Passed,
    /// A logical message outside transactions: it may come from one that rolled back.
    Stray {
        /// The message's prefix.
        prefix: &'a str,
    },
    /// The transaction is complete.
    Commit(Committed),
    /// Descriptions and origins: nothing to do.
    Nothing,
}

/// An inserted row.
#[derive(Debug)]
pub struct Row<'a> {
    /// The transaction it belongs to.
    pub transaction: Transaction,
    /// Its ordinal in the transaction, from 0.
    pub index: u32,
    /// Its table, as described in the stream.
    pub relation: &'a Description,
    /// Its columns.
    pub tuple: Tuple<'a>,
}

/// A logical message.
#[derive(Debug)]
pub struct Note<'a> {
    /// The transaction it belongs to.
    pub transaction: Transaction,
    /// Its ordinal in the transaction, from 0.
    pub index: u32,
    /// What kind of message it is.
    pub prefix: &'a str,
    /// Its bytes.
    pub content: &'a [u8],
}

/// The transaction that the stream is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// Start of its commit record; rises strictly from transaction to transaction.
    pub commit_lsn: Lsn,
    /// When it committed, by the server's clock.
    pub commit_time: PgTimestamp,
}

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Start of the commit record.
    pub commit_lsn: Lsn,
    /// End of the commit record: what may be confirmed once the transaction is published.
    pub end_lsn: Lsn,
}

/// A table as the stream last described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Counts descriptions from 1: a changed table gets a new number. 0 is for rows that do not come
    /// from a table.
    pub number: usize,
    /// Schema name.
    pub schema: String,
    /// Table name.
    pub name: String,
    /// Columns in tuple order.
    pub columns: Vec<ColumnDescription>,
}

/// A column of a [`Description`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnDescription {
    /// Column name.
    pub name: String,
    /// The type's oid.
    pub type_oid: Oid,
    /// What the type takes in parentheses, such as the precision of a timestamp; -1 for none.
    pub type_modifier: i32,
}

/// A stream that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not pgoutput, or a message kind that was not asked for.
    #[error(transparent)]
    Malformed(#[from] pgoutput::DecodeError),
    /// A row of a table that the stream has not described.
    #[error("row of relation {} which the stream has not described", .0.0)]
    UnknownRelation(Oid),
    /// A row or commit without begin.
    #[error("{0} outside of a transaction")]
    Outside(&'static str),
    /// Begin inside a transaction, or a commit of another one.
    #[error("transaction {open} is open, but the stream says {found}")]
    Interleaved {
        /// The open transaction's commit LSN.
        open: Lsn,
        /// What came instead.
        found: Lsn,
    },
    /// Commit LSNs must rise.
    #[error("commit LSN {found} does not follow {last}")]
    Backwards {
        /// The last transaction's.
        last: Lsn,
        /// The new one's.
        found: Lsn,
    },
    /// More changes in a transaction than an index can count.
    #[error("transaction {0} has more than 4294967295 changes")]
    TooManyChanges(Lsn),
}

#[derive(Debug, Clone, Copy)]
struct Open {
    transaction: Transaction,
    next_index: u32,
}

/// The decoder of one stream.
#[derive(Debug, Default)]
pub struct Decoder {
    /// By oid.
    relations: Vec<(Oid, Description)>,
    /// Where the last row's was found: most rows are of the table of the one before.
    recent: usize,
    described: usize,
    open: Option<Open>,
    last_commit_lsn: Lsn,
}

impl Decoder {
    /// The decoder of a fresh stream: it has seen no relation.
    pub fn new() -> Self {
        Self::default()
    }

    /// The transaction that the stream is in.
    pub fn transaction(&self) -> Option<Transaction> {
        self.open.map(|open| open.transaction)
    }

    /// The transaction that the stream is in, and the index of its next change.
    pub fn next_change(&self) -> Option<(Transaction, u32)> {
        self.open.map(|open| (open.transaction, open.next_index))
    }

    /// Decodes the payload of one XLogData frame.
    pub fn decode<'a>(&'a mut self, data: &'a [u8]) -> Result<Change<'a>, DecodeError> {
        Ok(match Message::decode(data)? {
            Message::Insert { relation, new } => self.insert(relation, new)?,
            Message::Begin { final_lsn, commit_time, .. } => self.begin(final_lsn, commit_time)?,
            Message::Commit { commit_lsn, end_lsn, .. } => self.commit(commit_lsn, end_lsn)?,
            Message::Message { transactional: true, prefix, content, .. } => {
                let Open { transaction, next_index } = self.open("message")?;
                Change::Message(Note { transaction, index: next_index, prefix, content })
            }
            Message::Message { transactional: false, prefix, .. } => Change::Stray { prefix },
            Message::Update { relation, .. } => {
                let Open { transaction, next_index: index } = self.open("update")?;
                Change::Update { transaction, index, relation: self.described(relation)? }
            }
            Message::Delete { .. } | Message::Truncate { .. } => {
                self.open("change")?;
                Change::Passed
            }
            Message::Relation(relation) => {
                self.describe(&relation);
                Change::Nothing
            }
            Message::Type { .. } | Message::Origin { .. } => Change::Nothing,
        })
    }

    /// The last counted change was taken: the next one has the next index.
    pub fn advance(&mut self) -> Result<(), DecodeError> {
        if let Some(open) = &mut self.open {
            let overflow = DecodeError::TooManyChanges(open.transaction.commit_lsn);
            open.next_index = open.next_index.checked_add(1).ok_or(overflow)?;
        }
        Ok(())
    }

    fn insert<'a>(&'a mut self, relation: Oid, tuple: Tuple<'a>) -> Result<Change<'a>, DecodeError> {
        let Open { transaction, next_index } = self.open("insert")?;
        let relation = self.described(relation)?;
        Ok(Change::Insert(Row { transaction, index: next_index, relation, tuple }))
    }

    fn described(&mut self, relation: Oid) -> Result<&Description, DecodeError> {
        if self.relations.get(self.recent).is_none_or(|(oid, _)| *oid != relation) {
            let found = self.relations.binary_search_by_key(&relation, |(oid, _)| *oid);
            self.recent = found.map_err(|_| DecodeError::UnknownRelation(relation))?;
        }
        Ok(&self.relations[self.recent].1)
    }

    fn begin(&mut self, commit_lsn: Lsn, commit_time: PgTimestamp) -> Result<Change<'static>, DecodeError> {
        if let Some(open) = self.open {
            return Err(DecodeError::Interleaved { open: open.transaction.commit_lsn, found: commit_lsn });
        }
        if commit_lsn <= self.last_commit_lsn {
            return Err(DecodeError::Backwards { last: self.last_commit_lsn, found: commit_lsn });
        }
        let transaction = Transaction { commit_lsn, commit_time };
        self.open = Some(Open { transaction, next_index: 0 });
        Ok(Change::Begin)
    }

    fn commit(&mut self, commit_lsn: Lsn, end_lsn: Lsn) -> Result<Change<'static>, DecodeError> {
        let open = self.open("commit")?.transaction.commit_lsn;
        if open != commit_lsn {
            return Err(DecodeError::Interleaved { open, found: commit_lsn });
        }
        self.open = None;
        self.last_commit_lsn = commit_lsn;
        Ok(Change::Commit(Committed { commit_lsn, end_lsn }))
    }

    fn describe(&mut self, relation: &pgoutput::Relation<'_>) {
        let columns = relation
            .columns()
            .map(|column| ColumnDescription {
                name: column.name.to_owned(),
                type_oid: column.type_oid,
                type_modifier: column.type_modifier,
            })
            .collect();
        self.described += 1;
        let description = Description {
            number: self.described,
            schema: relation.namespace.to_owned(),
            name: relation.name.to_owned(),
            columns,
        };
        match self.relations.binary_search_by_key(&relation.oid, |(oid, _)| *oid) {
            Ok(at) => self.relations[at].1 = description,
            Err(at) => self.relations.insert(at, (relation.oid, description)),
        }
    }

    fn open(&self, what: &'static str) -> Result<Open, DecodeError> {
        self.open.ok_or(DecodeError::Outside(what))
    }
}

#[cfg(test)]
pub(crate) mod tests;
