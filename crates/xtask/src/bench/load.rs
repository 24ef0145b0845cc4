//! The load: an outbox row of ordinary size, written in bulk for a backlog or one by one on a schedule; or, in bulk, the
//! same event as a message.
//!
//! Row n carries n as its id, so that a reader can tell loss, duplication and order from ids alone. Must never reuse an
//! n within one run.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, Statement};

use crate::servers::Servers;

/// The outbox table: Debezium's columns, and a procedure that fills it, committing every so many rows.
///
/// A payload has about 300 bytes of text: nested, with numbers, as an order is.
pub(crate) const TABLE: &str = r#"
CREATE TABLE outbox (
    id uuid PRIMARY KEY,
    aggregatetype varchar(255) NOT NULL,
    aggregateid varchar(255) NOT NULL,
    type varchar(255) NOT NULL,
    payload jsonb NOT NULL
);
CREATE FUNCTION bench_id(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE
    AS $$ SELECT lpad(to_hex(n), 32, '0')::uuid $$;
CREATE FUNCTION bench_payload(n bigint) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT format('{"orderId": %s, "customer": {"id": %s, "name": "Customer number %s", "tier": "gold"}, '
        '"lines": [{"sku": "SKU-%s", "quantity": 2, "price": 19.95}, {"sku": "SKU-%s", "quantity": 1, "price": 249.00}], '
        '"total": 288.90, "currency": "EUR", "placedAt": "2026-01-01T12:00:00.000Z", "note": "leave at the door"}',
        n, n % 10000, n % 10000, n % 977, n % 991)::jsonb
$$;
CREATE PROCEDURE bench_fill(first bigint, rows bigint, per_transaction bigint) LANGUAGE plpgsql AS $$
DECLARE at bigint := first;
BEGIN
    WHILE at < first + rows LOOP
        INSERT INTO outbox SELECT bench_id(n), 'order', 'order-' || n % 10000, 'OrderPlaced', bench_payload(n)
            FROM generate_series(at, least(at + per_transaction, first + rows) - 1) n;
        COMMIT;
        at := at + per_transaction;
    END LOOP;
END
$$;
"#;

/// The procedure with `pillarbox.emit()` in place of the insert: the same ids, keys and payloads in the same order.
const EMIT: &str = "
CREATE OR REPLACE PROCEDURE bench_fill(first bigint, rows bigint, per_transaction bigint) LANGUAGE plpgsql AS $$
DECLARE at bigint := first;
BEGIN
    WHILE at < first + rows LOOP
        PERFORM pillarbox.emit('order', 'order-' || n % 10000, 'OrderPlaced', bench_payload(n), '{}', bench_id(n))
            FROM generate_series(at, least(at + per_transaction, first + rows) - 1) n;
        COMMIT;
        at := at + per_transaction;
    END LOOP;
END
$$";

/// What an event is in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Events {
    /// The insert of a row
    Rows,
    /// A logical message, by `pillarbox.emit()`
    Messages,
}

impl Events {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Events::Rows => "rows",
            Events::Messages => "messages",
        }
    }
}

/// A type of the payload column. What is in it is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Payload {
    /// As Debezium's documentation has it
    Jsonb,
    /// As `pillarbox setup` makes it
    Json,
    /// No JSON for Postgres
    Text,
}

impl Payload {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Payload::Jsonb => "jsonb",
            Payload::Json => "json",
            Payload::Text => "text",
        }
    }

    /// What the name of a run has of it.
    pub(crate) fn suffix(self) -> String {
        if self == Payload::Jsonb { String::new() } else { format!("-{}", self.name()) }
    }

    /// Gives the empty table this type.
    pub(crate) fn make(self, servers: &Servers) -> anyhow::Result<()> {
        let kind = self.name();
        servers.sql(&format!("ALTER TABLE outbox ALTER COLUMN payload TYPE {kind} USING payload::{kind}"))
    }
}

/// A backlog in the WAL.
#[derive(Debug, Clone)]
pub(crate) struct Backlog {
    pub(crate) events: Events,
    /// Rows 0..rows, and one more after `end_lsn`.
    pub(crate) rows: u64,
    /// Between the last commit of the backlog and the marker row behind it.
    pub(crate) end_lsn: String,
    pub(crate) wal_bytes: u64,
}

/// Writes rows 0..rows, then one row that stops whoever reads up to `end_lsn`. Messages need the schema `pillarbox`.
pub(crate) fn fill(
    servers: &Servers,
    events: Events,
    rows: u64,
    per_transaction: u64,
) -> anyhow::Result<Backlog> {
    let postgres = &servers.postgres;
    if events == Events::Messages {
        servers.sql(EMIT)?;
    }
    let lsn = || postgres.query_one(crate::servers::DATABASE, "SELECT pg_current_wal_insert_lsn()");
    let start = lsn()?;
    let filling = Instant::now();
    // Only the filling, which is not measured, does not wait for the disk.
    let url =
        format!("{}?options=-c%20synchronous_commit%3Doff", postgres.superuser_url(crate::servers::DATABASE));
    let call = format!("CALL bench_fill(0, {rows}, {per_transaction})");
    pillarbox_lab::sql::run(&url, &call).context("cannot fill the outbox")?;
    let end_lsn = lsn()?;
    servers.sql(&format!("CALL bench_fill({rows}, 1, 1)"))?;
    let size = format!("SELECT '{end_lsn}'::pg_lsn - '{start}'::pg_lsn");
    let wal_bytes = postgres.query_one(crate::servers::DATABASE, &size)?.parse()?;
    eprintln!(
        "bench: filled {rows} {} in {:.1} s, {} MB of WAL",
        events.name(),
        filling.elapsed().as_secs_f64(),
        wal_bytes >> 20
    );
    Ok(Backlog { events, rows, end_lsn, wal_bytes })
}

/// SQL that gives a payload so many orders of about 300 bytes each.
pub(crate) fn payload_of(orders: u32) -> String {
    format!(
        "ALTER FUNCTION bench_payload(bigint) RENAME TO bench_order; \
         CREATE FUNCTION bench_payload(n bigint) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ \
         SELECT CASE {orders} WHEN 1 THEN bench_order(n) ELSE \
         (SELECT jsonb_build_object('orders', jsonb_agg(bench_order(n + i))) FROM generate_series(1, {orders}) i) END $$"
    )
}

/// A stream of single-row transactions at intended times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    pub(crate) start: Instant,
    /// Transactions a second.
    pub(crate) rate: f64,
    /// Rows 0..count.
    pub(crate) count: u64,
}

impl Schedule {
    /// When row n was to be written, whatever came between.
    pub(crate) fn intended(&self, n: u64) -> Instant {
        self.start + Duration::from_secs_f64(n as f64 / self.rate)
    }
}

/// One connection that writes rows on schedule; blocking, on the caller's thread.
pub(crate) struct Writer {
    runtime: Runtime,
    client: Client,
    insert: Statement,
}

impl Writer {
    pub(crate) fn connect(url: &str) -> anyhow::Result<Writer> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (client, connection) = runtime.block_on(tokio_postgres::connect(url, NoTls))?;
        runtime.spawn(connection);
        let sql = "INSERT INTO outbox SELECT bench_id($1), 'order', 'order-' || $1 % 10000, 'OrderPlaced', bench_payload($1)";
        let insert = runtime.block_on(client.prepare(sql)).context("cannot prepare the insert")?;
        Ok(Writer { runtime, client, insert })
    }

    /// Writes one row and returns when COMMIT has returned.
    pub(crate) fn write(&self, n: u64) -> anyhow::Result<()> {
        let n = i64::try_from(n)?;
        self.runtime.block_on(self.client.execute(&self.insert, &[&n]))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intended_times_do_not_depend_on_what_happened() {
        let start = Instant::now();
        let schedule = Schedule { start, rate: 100.0, count: 10 };
        assert_eq!(schedule.intended(0), start);
        assert_eq!(schedule.intended(100), start + Duration::from_secs(1));
    }
}
