//! What the inbox needs of a driver: run a statement inside of an open transaction.
//!
//! Two drivers implement it, and nobody else can: a connection outside of a transaction would lose the bond between
//! state and effect. Must never begin, commit or roll back; that is the caller's.

use std::error;
use std::future::Future;

/// Keeps [`Transaction`] to the drivers of this crate.
pub trait Sealed {}

/// A parameter of a statement.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// `text`
    Text(&'a str),
    /// `text`, or NULL
    OptionalText(Option<&'a str>),
    /// `integer`
    Int(i32),
    /// `bigint`
    Long(Option<i64>),
    /// `bytea`
    Bytes(Option<&'a [u8]>),
    /// `bytea[]`
    ByteArrays(&'a [Option<&'a [u8]>]),
    /// `integer[]`
    Ints(&'a [i32]),
}

/// A column of an answer, by its index.
pub trait Row {
    /// The driver's error.
    type Error;
    /// `text`
    fn text(&self, column: usize) -> Result<Option<String>, Self::Error>;
    /// `integer`
    fn int(&self, column: usize) -> Result<i32, Self::Error>;
    /// `bigint`
    fn long(&self, column: usize) -> Result<Option<i64>, Self::Error>;
    /// `bytea`
    fn bytes(&self, column: usize) -> Result<Option<Vec<u8>>, Self::Error>;
    /// `bytea[]`
    fn byte_arrays(&self, column: usize) -> Result<Vec<Option<Vec<u8>>>, Self::Error>;
}

/// An open transaction of one of the supported drivers: `tokio_postgres::Transaction` or
/// `sqlx::Transaction<Postgres>`.
pub trait Transaction: Sealed + Send {
    /// The driver's error.
    type Error: error::Error + Send + Sync + 'static;
    /// The driver's row.
    #[doc(hidden)]
    type Row: Row<Error = Self::Error> + Send;

    /// Gives the number of rows that changed. Not called `execute`: it would come before the driver's own.
    #[doc(hidden)]
    fn change(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<u64, Self::Error>> + Send;

    /// Gives the rows.
    #[doc(hidden)]
    fn rows(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<Self::Row>, Self::Error>> + Send;

    /// The SQLSTATE of an error of the server.
    #[doc(hidden)]
    fn sqlstate(error: &Self::Error) -> Option<String>;
}
