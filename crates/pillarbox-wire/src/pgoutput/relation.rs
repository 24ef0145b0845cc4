//! The description of a relation, sent before its first row in a session and again after it changed.
//!
//! Columns outside a publication's column list are absent: map by name, and never keep an older description.

use std::fmt;

use super::error::DecodeError;
use super::reader::Reader;
use crate::lsn::Oid;

/// Which old columns UPDATE and DELETE send (`pg_class.relreplident`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// `d`: the primary key, if there is one.
    Default,
    /// `n`: nothing.
    Nothing,
    /// `f`: the whole row.
    Full,
    /// `i`: the columns of one index.
    Index,
}

/// A relation and its published columns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The oid that rows refer to.
    pub oid: Oid,
    /// The schema; `pg_catalog` where Postgres sends it as empty.
    pub namespace: &'a str,
    /// The name inside the schema.
    pub name: &'a str,
    /// What UPDATE and DELETE send of the old row.
    pub replica_identity: ReplicaIdentity,
    /// Published columns, as many as every row of this relation has.
    pub column_count: u16,
    columns: &'a [u8],
}

/// One published column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Part of the replica identity.
    pub key: bool,
    /// Its name.
    pub name: &'a str,
    /// Its type.
    pub type_oid: Oid,
    /// `pg_attribute.atttypmod`, -1 for none.
    pub type_modifier: i32,
}

impl<'a> Relation<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let oid = reader.oid("relation oid")?;
        let namespace = read_namespace(reader)?;
        let name = reader.name("relation name")?;
        let replica_identity = match reader.u8("replica identity")? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            _ => return Err(reader.invalid("replica identity")),
        };
        let column_count = reader.count16("column count")?;
        let start = reader.rest();
        for _ in 0..column_count {
            read_column(reader)?;
        }
        let columns = &start[..start.len() - reader.rest().len()];
        Ok(Relation { oid, namespace, name, replica_identity, column_count, columns })
    }

    /// The columns in the order of every row.
    #[must_use]
    pub fn columns(&self) -> RelationColumns<'a> {
        RelationColumns { left: self.column_count, reader: Reader::new(b'R', self.columns) }
    }
}

impl fmt::Debug for Relation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relation")
            .field("oid", &self.oid)
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .field("replica_identity", &self.replica_identity)
            .field("columns", &format_args!("{}", self.column_count))
            .finish()
    }
}

/// The columns of a [`Relation`].
#[derive(Clone)]
pub struct RelationColumns<'a> {
    left: u16,
    reader: Reader<'a>,
}

impl<'a> Iterator for RelationColumns<'a> {
    type Item = RelationColumn<'a>;

    fn next(&mut self) -> Option<RelationColumn<'a>> {
        self.left = self.left.checked_sub(1)?;
        Some(read_column(&mut self.reader).expect("a relation is checked when it is decoded"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for RelationColumns<'_> {}

/// Postgres sends `pg_catalog`, the most frequent schema of types, as an empty name.
pub(super) fn read_namespace<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    match reader.name("namespace")? {
        "" => Ok("pg_catalog"),
        namespace => Ok(namespace),
    }
}

fn read_column<'a>(reader: &mut Reader<'a>) -> Result<RelationColumn<'a>, DecodeError> {
    const KEY: u8 = 1;
    let flags = reader.u8("column flags")?;
    if flags & !KEY != 0 {
        return Err(reader.invalid("column flags"));
    }
    Ok(RelationColumn {
        key: flags & KEY != 0,
        name: reader.name("column name")?,
        type_oid: reader.oid("column type")?,
        type_modifier: reader.i32("type modifier")?,
    })
}
