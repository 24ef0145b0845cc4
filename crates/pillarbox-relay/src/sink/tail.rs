//! How far back the checkpoint topic must be read: in growing steps to a `position`, then from where that says that the
//! whole table was last rewritten. Pure: says where to read, takes what was read.
//!
//! ```text
//! earliest                 snapshot_offset                    position      to
//!    |----------------------------|-------------------------------|---------|
//!                                 ^ the table is read from here   ^ found by the first or a later look
//! ```
//! Must never make a table of less than what was written since the last rewrite.

use pillarbox_kafka::reader::Record;

use crate::position::checkpoint::{CheckpointError, Table, is_position_key, parse_position};

/// The first look: some transactions' checkpoints and their markers.
const FIRST_STEP: i64 = 256;
/// Each further look goes this much further back.
const STEP_GROWTH: i64 = 8;

/// A read under way.
#[derive(Debug, Clone)]
pub struct Tail {
    earliest: i64,
    to: i64,
    step: i64,
    from: i64,
}

/// What a look came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// All of the table.
    Table(Box<Table>),
    /// It begins before what was read: read again, from [`Tail::from`] on.
    Further,
    /// Nothing was ever written.
    Nothing,
}

impl Tail {
    /// The log begins at `earliest` and is read up to `to`.
    pub fn new(earliest: i64, to: i64) -> Self {
        Self { earliest, to, step: FIRST_STEP, from: earliest.max(to - FIRST_STEP) }
    }

    /// The offset to read from, up to [`Self::to`].
    pub fn from(&self) -> i64 {
        self.from
    }

    /// The offset to read to.
    pub fn to(&self) -> i64 {
        self.to
    }

    /// Takes the committed records from [`Self::from`] on.
    ///
    /// # Errors
    /// A record that the table cannot take.
    pub fn look(&mut self, records: &[Record]) -> Result<Look, CheckpointError> {
        let position = records.iter().rev().find(|record| record.key.as_deref().is_some_and(is_position_key));
        match position.map(snapshot_offset).transpose()? {
            // The table was rewritten within what we have.
            Some(Some(snapshot)) if snapshot.max(self.earliest) >= self.from => table(records, snapshot),
            Some(Some(snapshot)) => {
                self.from = snapshot.max(self.earliest);
                Ok(Look::Further)
            }
            _ if self.from > self.earliest => {
                self.step = self.step.saturating_mul(STEP_GROWTH);
                self.from = self.earliest.max(self.to.saturating_sub(self.step));
                Ok(Look::Further)
            }
            Some(None) => table(records, self.earliest),
            None => Ok(Look::Nothing),
        }
    }
}

/// Where the table was last rewritten, as the record of a position says.
fn snapshot_offset(record: &Record) -> Result<Option<i64>, CheckpointError> {
    let value = record.value.as_deref().unwrap_or_default();
    Ok(parse_position("position", value)?.snapshot_offset)
}

fn table(records: &[Record], from: i64) -> Result<Look, CheckpointError> {
    let mut table = Table::default();
    for record in records.iter().filter(|record| record.offset >= from) {
        let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
        table.apply(key, record.value.as_deref())?;
    }
    Ok(Look::Table(Box::new(table)))
}
