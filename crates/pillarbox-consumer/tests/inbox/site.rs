//! Databases with the consumer's tables and a table of effects, and both drivers behind one face, so that every check
//! runs on both.

use std::sync::{LazyLock, Mutex};

use pillarbox_consumer::inbox::{Event, Record, Transaction};
use pillarbox_lab::{Postgres, PostgresOptions};
use sqlx::Connection as _;
use tokio_postgres::NoTls;

const POSITIONS: &str = include_str!("../../../../sql/consumer/0001_consumer.up.sql");
pub(crate) const PARKED: &str = include_str!("../../../../sql/consumer/0002_parked.up.sql");
const WAIT: &str = include_str!("../../../../sql/consumer/0003_wait.up.sql");
const EFFECTS: &str = "CREATE TABLE effects (id bigint GENERATED ALWAYS AS IDENTITY, what text NOT NULL)";

/// The oldest and the newest server, for all tests that stop neither.
static OLDEST: LazyLock<Postgres> = LazyLock::new(|| start(15));
static NEWEST: LazyLock<Postgres> = LazyLock::new(|| start(18));
static DATABASES: Mutex<u32> = Mutex::new(0);

pub(crate) fn start(version: u32) -> Postgres {
    let options = PostgresOptions::version(version).setting("max_connections", "200");
    Postgres::start(options).expect("a server")
}

pub(crate) fn oldest() -> &'static Postgres {
    &OLDEST
}

pub(crate) fn newest() -> &'static Postgres {
    &NEWEST
}

/// A database of its own.
pub(crate) struct Site<'a> {
    pub(crate) postgres: &'a Postgres,
    pub(crate) database: String,
}

impl<'a> Site<'a> {
    pub(crate) fn new(postgres: &'a Postgres) -> Self {
        let database = {
            let mut number = DATABASES.lock().expect("no test holds it");
            *number += 1;
            format!("site_{number}")
        };
        postgres.execute("postgres", &format!("CREATE DATABASE {database}")).expect("a database");
        for sql in [POSITIONS, PARKED, EFFECTS] {
            postgres.execute(&database, sql).expect("tables");
        }
        Site { postgres, database }
    }

    /// The functions of those who wait. The crate's inbox must do without them, so no other test has them.
    pub(crate) fn with_waits(self) -> Self {
        self.run(WAIT);
        self
    }

    pub(crate) fn url(&self) -> String {
        self.postgres.superuser_url(&self.database)
    }

    pub(crate) fn one(&self, sql: &str) -> String {
        self.postgres.query_one(&self.database, sql).expect(sql)
    }

    pub(crate) fn run(&self, sql: &str) {
        self.postgres.execute(&self.database, sql).expect(sql);
    }

    /// Effects in the order in which they happened.
    pub(crate) fn effects(&self) -> Vec<String> {
        let rows =
            self.postgres.query(&self.database, "SELECT what FROM effects ORDER BY id").expect("effects");
        rows.into_iter().map(|mut row| row.remove(0).expect("not null")).collect()
    }

    pub(crate) fn parked(&self) -> String {
        self.one("SELECT coalesce(string_agg(sequence::text, ',' ORDER BY position), '') FROM pillarbox.consumer_parked")
    }
}

/// A connection of one of the drivers.
pub(crate) trait Driver: Sized {
    type Tx<'a>: Transaction<Error: std::fmt::Debug>
    where
        Self: 'a;

    async fn connect(url: &str) -> Self;
    async fn begin(&mut self) -> Self::Tx<'_>;
    async fn commit(tx: Self::Tx<'_>) -> bool;
    async fn rollback(tx: Self::Tx<'_>);
    /// Runs a statement whose only parameter, if there is one, is a text.
    async fn run(tx: &mut Self::Tx<'_>, sql: &'static str, text: Option<&str>) -> bool;
    async fn pid(tx: &mut Self::Tx<'_>) -> i32;

    async fn effect(tx: &mut Self::Tx<'_>, what: &str) -> bool {
        Self::run(tx, "INSERT INTO effects (what) VALUES ($1)", Some(what)).await
    }
}

pub(crate) struct TokioPostgres(tokio_postgres::Client);

impl Driver for TokioPostgres {
    type Tx<'a> = tokio_postgres::Transaction<'a>;

    async fn connect(url: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a connection");
        tokio::spawn(connection);
        TokioPostgres(client)
    }

    async fn begin(&mut self) -> Self::Tx<'_> {
        self.0.transaction().await.expect("begin")
    }

    async fn commit(tx: Self::Tx<'_>) -> bool {
        tx.commit().await.is_ok()
    }

    async fn rollback(tx: Self::Tx<'_>) {
        tx.rollback().await.expect("rollback");
    }

    async fn run(tx: &mut Self::Tx<'_>, sql: &'static str, text: Option<&str>) -> bool {
        match text {
            Some(text) => tx.execute(sql, &[&text]).await.is_ok(),
            None => tx.batch_execute(sql).await.is_ok(),
        }
    }

    async fn pid(tx: &mut Self::Tx<'_>) -> i32 {
        tx.query_one("SELECT pg_backend_pid()", &[]).await.expect("a pid").get(0)
    }
}

pub(crate) struct Sqlx(sqlx::PgConnection);

impl Driver for Sqlx {
    type Tx<'a> = sqlx::Transaction<'a, sqlx::Postgres>;

    async fn connect(url: &str) -> Self {
        Sqlx(sqlx::PgConnection::connect(url).await.expect("a connection"))
    }

    async fn begin(&mut self) -> Self::Tx<'_> {
        self.0.begin().await.expect("begin")
    }

    async fn commit(tx: Self::Tx<'_>) -> bool {
        tx.commit().await.is_ok()
    }

    async fn rollback(tx: Self::Tx<'_>) {
        tx.rollback().await.expect("rollback");
    }

    async fn run(tx: &mut Self::Tx<'_>, sql: &'static str, text: Option<&str>) -> bool {
        let query = sqlx::query(sql);
        let query = if let Some(text) = text { query.bind(text.to_owned()) } else { query };
        query.execute(&mut **tx).await.is_ok()
    }

    async fn pid(tx: &mut Self::Tx<'_>) -> i32 {
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut **tx).await.expect("a pid")
    }
}

/// An event of pipeline `orders` in partition 0 of topic `t`; its offset is its sequence and 100.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) pb_pos: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
}

const HEADERS: &[(&str, Option<&[u8]>)] = &[("id", Some(b"\xff\x00")), ("empty", None)];

impl Sent {
    pub(crate) fn new(epoch: u32, lsn: u64, sequence: u64) -> Self {
        let pb_pos = format!("orders:{epoch:08x}{lsn:016x}00000000:{sequence}");
        Sent { pb_pos, partition: 0, offset: 100 + sequence as i64, key: None }
    }

    pub(crate) fn in_order(sequence: u64) -> Self {
        Self::new(1, 1_000 + sequence, sequence)
    }

    pub(crate) fn key(self, key: &str) -> Self {
        Sent { key: Some(key.into()), ..self }
    }

    pub(crate) fn partition(self, partition: i32) -> Self {
        Sent { partition, ..self }
    }

    pub(crate) fn event(&self) -> Event<'_> {
        Event {
            topic: "t",
            partition: self.partition,
            pb_pos: Some(self.pb_pos.as_bytes()),
            offset: Some(self.offset),
        }
    }

    pub(crate) fn record(&self) -> Record<'_> {
        Record {
            event: self.event(),
            key: self.key.as_deref(),
            value: Some(self.pb_pos.as_bytes()),
            headers: HEADERS,
        }
    }

    pub(crate) fn sequence(&self) -> String {
        self.pb_pos.rsplit(':').next().expect("a sequence").to_owned()
    }
}
