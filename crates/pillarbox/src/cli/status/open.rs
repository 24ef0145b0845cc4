//! The oldest transaction that is still open: Postgres keeps WAL from its begin on, whatever is confirmed.
//!
//! Names sessions and prepared transactions, never a statement. Must never end one.

use std::fmt;

use pillarbox_relay::sql::Session;
use serde::Serialize;
use tokio_postgres::Error;

/// Younger ones are everyday.
const SECONDS_MIN: i64 = 10;

/// A transaction that has written.
#[derive(Debug, Serialize)]
pub(super) struct OpenTransaction {
    /// `process 4711 (psql)` or `prepared transaction 'gid'`.
    pub(super) name: String,
    /// What it does: `idle in transaction`, `active`, `prepared by OWNER`.
    pub(super) state: String,
    /// For how long it is open.
    pub(super) seconds: i64,
    /// The statement that ends it.
    pub(super) end: String,
}

/// In any database of the server. A role that may not read statistics sees prepared transactions only.
const OLDEST: &str = "SELECT name, state, seconds, ended FROM (
    SELECT concat('process ', pid, ' (' || nullif(application_name, '') || ')') AS name, coalesce(state, '-') AS state,
        extract(epoch FROM clock_timestamp() - xact_start)::bigint AS seconds,
        format('SELECT pg_terminate_backend(%s);', pid) AS ended
    FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT format('prepared transaction %L', gid), format('prepared by %s', owner),
        extract(epoch FROM clock_timestamp() - prepared)::bigint, format('ROLLBACK PREPARED %L;', gid)
    FROM pg_prepared_xacts) AS open
WHERE seconds >= $1 ORDER BY seconds DESC LIMIT 1";

/// The oldest one, if it is old.
pub(super) async fn oldest(session: &Session) -> Result<Option<OpenTransaction>, Error> {
    let Some(row) = session.query_opt(OLDEST, &[&SECONDS_MIN]).await? else { return Ok(None) };
    Ok(Some(OpenTransaction {
        name: row.try_get(0)?,
        state: row.try_get(1)?,
        seconds: row.try_get(2)?,
        end: row.try_get(3)?,
    }))
}

impl fmt::Display for OpenTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, state, seconds, end } = self;
        write!(f, "WAL is kept for {name}, {state}, open for {seconds} s; to end it: {end}")
    }
}
