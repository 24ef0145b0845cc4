//! One row version: its columns in the order of its relation.
//!
//! Must never show a value in `Debug`: rows are payload.

use std::fmt;

use super::error::DecodeError;
use super::reader::Reader;

/// A row whose columns were all checked when its message was decoded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    count: u16,
    columns: &'a [u8],
}

/// The value of one column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Column<'a> {
    /// SQL null; also every column outside the key in an old row sent as key only.
    Null,
    /// An out-of-line value that an UPDATE left as it was, and that is therefore not sent.
    Unchanged,
    /// The type's text form, in the session's `client_encoding`.
    Text(&'a [u8]),
    /// The type's binary send form, where the session asked for `binary`.
    Binary(&'a [u8]),
}

impl<'a> Tuple<'a> {
    /// Reads and checks a whole tuple.
    #[inline]
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = reader.count16("column count")?;
        let start = reader.rest();
        for _ in 0..count {
            read_column(reader)?;
        }
        let columns = &start[..start.len() - reader.rest().len()];
        Ok(Tuple { count, columns })
    }

    /// A tuple that stands by itself, outside of a message; gives what follows it.
    ///
    /// # Errors
    /// [`DecodeError`] of the message `I`, whose last part a tuple is.
    pub fn decode(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), DecodeError> {
        let mut reader = Reader::new(b'I', bytes);
        let tuple = Self::read(&mut reader)?;
        Ok((tuple, reader.rest()))
    }

    /// The columns as they were sent, without their count in front.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.columns
    }

    /// Columns in the row.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// True for a row of a relation without columns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The columns in the order of the relation; walks the row, so read it once.
    #[must_use]
    pub fn columns(&self) -> Columns<'a> {
        Columns { left: self.count, reader: Reader::new(0, self.columns) }
    }
}

impl fmt::Debug for Tuple<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tuple({} columns, {} bytes)", self.count, self.columns.len())
    }
}

impl fmt::Debug for Column<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Column::Null => f.write_str("Null"),
            Column::Unchanged => f.write_str("Unchanged"),
            Column::Text(value) => write!(f, "Text({} bytes)", value.len()),
            Column::Binary(value) => write!(f, "Binary({} bytes)", value.len()),
        }
    }
}

/// The columns of a [`Tuple`].
#[derive(Clone)]
pub struct Columns<'a> {
    left: u16,
    reader: Reader<'a>,
}

impl<'a> Iterator for Columns<'a> {
    type Item = Column<'a>;

    #[inline]
    fn next(&mut self) -> Option<Column<'a>> {
        self.left = self.left.checked_sub(1)?;
        Some(read_column(&mut self.reader).expect("a tuple is checked when it is decoded"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Columns<'_> {}

#[inline]
fn read_column<'a>(reader: &mut Reader<'a>) -> Result<Column<'a>, DecodeError> {
    match reader.u8("column kind")? {
        b't' => reader.counted("column value").map(Column::Text),
        b'n' => Ok(Column::Null),
        b'u' => Ok(Column::Unchanged),
        b'b' => reader.counted("column value").map(Column::Binary),
        _ => Err(reader.invalid("column kind")),
    }
}
