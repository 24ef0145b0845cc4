//! A connection for the test's own questions, kept open: they are asked many times a second.
//!
//! Must never be handed to a recipe.

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

pub(crate) struct Sql {
    runtime: Runtime,
    client: Client,
}

impl Sql {
    pub(crate) fn connect(url: &str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (client, connection) =
            runtime.block_on(tokio_postgres::connect(url, NoTls)).expect("Postgres takes us");
        // It ends with the client; what ends it early shows in the next answer.
        runtime.spawn(connection);
        Self { runtime, client }
    }

    /// The first column of all rows.
    pub(crate) fn column(&self, sql: &str) -> Vec<String> {
        let answer = self.runtime.block_on(self.client.simple_query(sql)).expect("Postgres answers");
        let first = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        };
        answer.iter().filter_map(first).collect()
    }

    /// The same as numbers.
    pub(crate) fn numbers(&self, sql: &str) -> Vec<i64> {
        self.column(sql).iter().map(|text| text.parse().expect("a number")).collect()
    }

    /// One number.
    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.numbers(sql)[0]
    }
}
