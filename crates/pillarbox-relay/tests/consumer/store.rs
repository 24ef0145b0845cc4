//! A consumer's database and sessions in it.
//!
//! Must never share a database between tests.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use pillarbox_lab::postgres::{Postgres, PostgresOptions};
use pillarbox_relay::setup;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, NoTls};

static OLDEST: LazyLock<Server> = LazyLock::new(|| Server::start(15));
static NEWEST: LazyLock<Server> = LazyLock::new(|| Server::start(18));

/// How long a session may take to be seen waiting for another.
const WAIT_MAX: Duration = Duration::from_secs(30);

pub(crate) struct Server {
    pub(crate) postgres: Postgres,
    databases: AtomicU32,
}

impl Server {
    fn start(version: u32) -> Self {
        let postgres = Postgres::start(PostgresOptions::version(version)).expect("a server");
        postgres.execute("postgres", "CREATE DATABASE installed").expect("a template");
        postgres.execute("installed", &setup::print_consumer_sql()).expect("the printed SQL runs");
        Self { postgres, databases: AtomicU32::new(0) }
    }

    /// A database that is a copy of `template`.
    pub(crate) fn database(&self, template: &str) -> String {
        let name = format!("consumer{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.postgres
            .execute("postgres", &format!("CREATE DATABASE {name} TEMPLATE {template}"))
            .expect("a database");
        name
    }
}

/// The servers by their age.
pub(crate) fn servers() -> [&'static Server; 2] {
    [&*OLDEST, &*NEWEST]
}

/// A database with the consumer's side in it.
pub(crate) struct Store {
    pub(crate) server: &'static Server,
    pub(crate) database: String,
}

impl Store {
    /// One on each server.
    pub(crate) fn each() -> [Store; 2] {
        servers().map(|server| Store { server, database: server.database("installed") })
    }

    /// One on the newest server.
    pub(crate) fn newest() -> Store {
        let [_, newest] = Store::each();
        newest
    }

    pub(crate) async fn session(&self) -> Session {
        Session::connect(&self.server.postgres.superuser_url(&self.database)).await
    }

    pub(crate) async fn session_of(&self, role: &str) -> Session {
        Session::connect(&self.server.postgres.url(role, &self.database)).await
    }

    /// Waits until the session with this process id sleeps.
    pub(crate) async fn await_sleeping(&self, pid: i32) {
        let judge = self.session().await;
        let sql = "SELECT wait_event IS NOT DISTINCT FROM 'PgSleep' FROM pg_stat_activity WHERE pid = $1";
        let sleeping = async {
            while !judge.one::<bool>(sql, &[&pid]).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(WAIT_MAX, sleeping).await.expect("a session that sleeps");
    }

    /// Waits until the session with this process id waits for another.
    pub(crate) async fn await_blocked(&self, pid: i32) {
        let judge = self.session().await;
        let blocked = async {
            while judge.one::<i32>("SELECT cardinality(pg_blocking_pids($1))", &[&pid]).await == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(WAIT_MAX, blocked).await.expect("a session that waits");
    }
}

/// What the server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) sqlstate: String,
    pub(crate) message: String,
    pub(crate) detail: String,
    pub(crate) hint: String,
}

impl From<tokio_postgres::Error> for Refusal {
    fn from(error: tokio_postgres::Error) -> Self {
        let error = error.as_db_error().unwrap_or_else(|| panic!("the session broke: {error}"));
        Self {
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().unwrap_or_default().to_owned(),
            hint: error.hint().unwrap_or_default().to_owned(),
        }
    }
}

/// A connection; its warnings and what it is notified of are kept.
pub(crate) struct Session {
    pub(crate) client: Client,
    warnings: Arc<Mutex<Vec<String>>>,
    notified: mpsc::Receiver<String>,
    task: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Session {
    pub(crate) async fn connect(url: &str) -> Session {
        let (client, mut connection) = tokio_postgres::connect(url, NoTls).await.expect("a session");
        let warnings = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&warnings);
        let (notify, notified) = mpsc::channel(256);
        let task = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                match message {
                    AsyncMessage::Notice(notice) => {
                        let text = format!("{} {}", notice.code().code(), notice.message());
                        kept.lock().expect("no panic").push(text);
                    }
                    AsyncMessage::Notification(told) => {
                        notify.try_send(told.payload().to_owned()).expect("a test that looks");
                    }
                    _ => {}
                }
            }
        });
        Session { client, warnings, notified, task }
    }

    /// Runs statements that must succeed.
    pub(crate) async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Runs statements that the server may refuse.
    pub(crate) async fn try_run(&self, sql: &str) -> Result<(), Refusal> {
        Ok(self.client.batch_execute(sql).await?)
    }

    /// The first column of the only row.
    pub(crate) async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> T {
        let row = self.client.query_one(sql, parameters).await;
        row.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    pub(crate) async fn pid(&self) -> i32 {
        self.one("SELECT pg_backend_pid()", &[]).await
    }

    /// Warnings since the last call, each as SQLSTATE and message.
    pub(crate) fn warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock().expect("no panic"))
    }

    /// The payload of the next notification.
    pub(crate) async fn told(&mut self) -> String {
        let told = tokio::time::timeout(WAIT_MAX, self.notified.recv()).await;
        told.expect("a notification").expect("a session")
    }

    /// Notifications so far of which the session was not asked yet.
    pub(crate) async fn told_so_far(&mut self) -> usize {
        self.run("NOTIFY pillarbox_applied, 'so far'").await;
        let mut count = 0;
        while self.told().await != "so far" {
            count += 1;
        }
        count
    }

    /// Of consumer `billing` in orders-3.
    pub(crate) async fn accept(&self, pb_pos: &str) -> Result<bool, Refusal> {
        let sql = "SELECT pillarbox.accept('billing', 'orders', 3, $1)";
        Ok(self.client.query_one(sql, &[&pb_pos]).await?.get(0))
    }

    /// The same with every argument.
    pub(crate) async fn accept_with(
        &self,
        pb_pos: Option<&str>,
        offset: Option<i64>,
        on_gap: &str,
        strict: bool,
    ) -> Result<bool, Refusal> {
        let sql = "SELECT pillarbox.accept('billing', 'orders', 3, $1, $2, $3, $4)";
        Ok(self.client.query_one(sql, &[&pb_pos, &offset, &on_gap, &strict]).await?.get(0))
    }

    /// The batch form with every argument.
    pub(crate) async fn accept_batch(
        &self,
        pb_pos: &[String],
        offsets: Option<&[i64]>,
        on_gap: &str,
        strict: bool,
    ) -> Result<Vec<i32>, Refusal> {
        let sql = "SELECT pillarbox.accept_batch('billing', 'orders', 3, $1, $2, $3, $4)";
        Ok(self.client.query_one(sql, &[&pb_pos, &offsets, &on_gap, &strict]).await?.get(0))
    }

    /// What is stored of consumer `billing` in orders-3, pipeline `orders`.
    pub(crate) async fn stored(&self) -> Option<(String, i64, Option<i64>)> {
        let sql = "SELECT position, sequence, kafka_offset FROM pillarbox.consumer_positions \
            WHERE (consumer, source, topic, partition) = ('billing', 'orders', 'orders', 3)";
        let row = self.client.query_opt(sql, &[]).await.expect("the table");
        row.map(|row| (row.get(0), row.get(1), row.get(2)))
    }
}
