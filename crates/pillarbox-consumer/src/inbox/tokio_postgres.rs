//! Transactions of `tokio-postgres`. Statements carry the types of their parameters, which saves the round trip of
//! preparing them.

use tokio_postgres::types::{FromSql, ToSql, Type};

use super::database::{Row, Sealed, Transaction, Value};

impl Sealed for tokio_postgres::Transaction<'_> {}

impl Transaction for tokio_postgres::Transaction<'_> {
    type Error = tokio_postgres::Error;
    type Row = tokio_postgres::Row;

    async fn change(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<u64, Self::Error> {
        self.execute_typed(sql, &parameters(values)).await
    }

    async fn rows(&mut self, sql: &'static str, values: &[Value<'_>]) -> Result<Vec<Self::Row>, Self::Error> {
        self.query_typed(sql, &parameters(values)).await
    }

    fn sqlstate(error: &Self::Error) -> Option<String> {
        error.code().map(|code| code.code().to_owned())
    }
}

fn parameters<'a>(values: &'a [Value<'_>]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    let parameter = |value: &'a Value<'_>| -> (&'a (dyn ToSql + Sync), Type) {
        match value {
            Value::Text(text) => (text, Type::TEXT),
            Value::OptionalText(text) => (text, Type::TEXT),
            Value::Int(number) => (number, Type::INT4),
            Value::Long(number) => (number, Type::INT8),
            Value::Bytes(bytes) => (bytes, Type::BYTEA),
            Value::ByteArrays(arrays) => (arrays, Type::BYTEA_ARRAY),
            Value::Ints(numbers) => (numbers, Type::INT4_ARRAY),
        }
    };
    values.iter().map(parameter).collect()
}

fn get<'a, T: FromSql<'a>>(row: &'a tokio_postgres::Row, column: usize) -> Result<T, tokio_postgres::Error> {
    row.try_get(column)
}

impl Row for tokio_postgres::Row {
    type Error = tokio_postgres::Error;

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
