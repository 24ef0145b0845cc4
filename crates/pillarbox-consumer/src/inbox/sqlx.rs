//! Transactions of `sqlx`, which caches the statements it prepares by their text.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Decode, Postgres, Row as _, Type};

use super::database::{Row, Sealed, Transaction, Value};

impl Sealed for sqlx::Transaction<'_, Postgres> {}

impl Transaction for sqlx::Transaction<'_, Postgres> {
    type Error = sqlx::Error;
    type Row = PgRow;

    async fn change(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<u64, Self::Error> {
        let done = bound(sql, values).execute(&mut **self).await?;
        Ok(done.rows_affected())
    }

    async fn rows(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<Vec<Self::Row>, Self::Error> {
        bound(sql, values).fetch_all(&mut **self).await
    }

    fn sqlstate(error: &Self::Error) -> Option<String> {
        error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
    }
}

fn bound<'q>(sql: &'static str, values: &[Value<'q>]) -> Query<'q, Postgres, PgArguments> {
    values.iter().fold(sqlx::query(sql), |query, value| match *value {
        Value::Text(text) => query.bind(text),
        Value::OptionalText(text) => query.bind(text),
        Value::Int(number) => query.bind(number),
        Value::Long(number) => query.bind(number),
        Value::Bytes(bytes) => query.bind(bytes),
        Value::ByteArrays(arrays) => query.bind(arrays),
        Value::Ints(numbers) => query.bind(numbers),
    })
}

fn get<'r, T: Decode<'r, Postgres> + Type<Postgres>>(
    row: &'r PgRow,
    column: usize,
) -> Result<T, sqlx::Error> {
    row.try_get(column)
}

impl Row for PgRow {
    type Error = sqlx::Error;

    fn text(&self, column: usize) -> Result<Option<String>, Self::Error> {
        get(self, column)
    }

    fn int(&self, column: usize) -> Result<i32, Self::Error> {
        get(self, column)
    }

    fn long(&self, column: usize) -> Result<Option<i64>, Self::Error> {
        get(self, column)
    }

    fn bytes(&self, column: usize) -> Result<Option<Vec<u8>>, Self::Error> {
        get(self, column)
    }

    fn byte_arrays(&self, column: usize) -> Result<Vec<Option<Vec<u8>>>, Self::Error> {
        get(self, column)
    }
}
