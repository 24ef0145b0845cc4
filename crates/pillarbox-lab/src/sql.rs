//! A blocking way to run SQL on a lab server, usable from any thread, also from within an async runtime.
//! Must never be used on a hot path: each call opens a connection and a runtime of its own.

use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::LabError;

/// One row as text, NULL as `None`.
pub type TextRow = Vec<Option<String>>;

/// Runs statements on a connection of its own and gives the rows of all of them as text.
pub fn run(url: &str, sql: &str) -> Result<Vec<TextRow>, LabError> {
    // A thread of its own: the caller may be inside a runtime, where blocking on another one panics.
    std::thread::scope(|scope| scope.spawn(|| run_here(url, sql)).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The same, on this thread.
fn run_here(url: &str, sql: &str) -> Result<Vec<TextRow>, LabError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LabError::io("start", "a runtime"))?;
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let io = tokio::spawn(connection);
        let answer = client.simple_query(sql).await;
        drop(client);
        // How the connection ended does not matter: the answer is in, or the error is.
        let _ = io.await;
        Ok(answer?.into_iter().filter_map(text_row).collect())
    })
}

/// Takes a row out of an answer.
fn text_row(message: SimpleQueryMessage) -> Option<TextRow> {
    match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
        _ => None,
    }
}

/// Quotes a string as an SQL literal.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A text as part of a URL: everything but letters and digits escaped.
pub(crate) fn percent(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(escape).collect()
}
