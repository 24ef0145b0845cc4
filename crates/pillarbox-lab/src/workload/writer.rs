//! One writer: carries out its plans on one connection, and knows of each transaction how it ended. Survives
//! the server's death. Must never call a transaction rolled back once COMMIT was sent and not answered.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::SinkExt;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, NoTls, Statement};

use super::plan::{Plan, Rng, Row, Step};
use super::{EventLog, Outcome, Shared, TransactionLog};
use crate::LabError;

/// How long a writer tries to get a connection back: a crash test's restart, recovery included.
const RECONNECT_MAX: Duration = Duration::from_secs(120);
/// Pause between two tries to connect.
const RECONNECT_EVERY: Duration = Duration::from_millis(25);

/// A connection and its prepared statement.
struct Session {
    client: Client,
    insert: Statement,
}

/// Runs all transactions of writer number `writer`.
pub(super) async fn run(shared: Arc<Shared>, writer: u32) -> Result<Vec<TransactionLog>, LabError> {
    let mut rng = Rng::new(shared.options.seed, u64::from(writer));
    let mut pace = shared.options.rate.map(|rate| pace(rate, shared.options.writers));
    let mut session = None;
    let mut log = Vec::new();
    for number in 0..shared.options.transactions {
        if shared.is_stopped() {
            break;
        }
        if let Some(pace) = pace.as_mut() {
            pace.tick().await;
        }
        let open = match session.take() {
            Some(open) => open,
            None => connect(&shared).await?,
        };
        let plan = Plan::draw(&mut rng, &shared.options);
        let outcome = attempt(&open, &shared, &plan, writer, number).await?;
        if !open.client.is_closed() && outcome != Outcome::Unknown {
            session = Some(open);
        }
        if outcome == Outcome::Committed {
            shared.tell(|progress| progress.committed += 1);
        }
        log.push(record(&plan, writer, number, outcome));
    }
    Ok(log)
}

/// Ticks at a writer's share of the rate. A tick that was missed is made up for: the rate holds.
fn pace(rate: f64, writers: u32) -> Interval {
    let mut ticks = interval(Duration::from_secs_f64(f64::from(writers) / rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}

/// Connects, trying for a while: the server may be on its way back.
async fn connect(shared: &Shared) -> Result<Session, LabError> {
    let deadline = Instant::now() + RECONNECT_MAX;
    let table = &shared.options.outbox.table;
    let insert = format!(
        "INSERT INTO {table} (id, aggregatetype, aggregateid, type, payload) \
         VALUES ($1::text::uuid, $2, $3, 'happened', $4::text::jsonb)"
    );
    loop {
        match open(&shared.url, &insert).await {
            Ok(session) => return Ok(session),
            Err(error) if is_outage(&error) && Instant::now() < deadline => sleep(RECONNECT_EVERY).await,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn open(url: &str, insert: &str) -> Result<Session, Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Ends with the client; its error reaches the client's next call too.
    tokio::spawn(connection);
    let insert = client.prepare(insert).await?;
    Ok(Session { client, insert })
}

/// Carries out one plan. A failure of the server before COMMIT is a rollback; any failure of COMMIT is unknown.
async fn attempt(
    session: &Session,
    shared: &Shared,
    plan: &Plan,
    writer: u32,
    number: u32,
) -> Result<Outcome, LabError> {
    match body(session, shared, plan, writer, number).await {
        Ok(()) => {}
        Err(error) if is_outage(&error) => return Ok(Outcome::RolledBack),
        Err(error) => return Err(error.into()),
    }
    if !plan.commit {
        // Where ROLLBACK itself is lost, the transaction is rolled back all the same.
        let _ = session.client.batch_execute("ROLLBACK").await;
        return Ok(Outcome::RolledBack);
    }
    match session.client.batch_execute("COMMIT").await {
        Ok(()) => Ok(Outcome::Committed),
        Err(_) => Ok(Outcome::Unknown),
    }
}

/// Everything between BEGIN and the end.
async fn body(
    session: &Session,
    shared: &Shared,
    plan: &Plan,
    writer: u32,
    number: u32,
) -> Result<(), Error> {
    let client = &session.client;
    let table = &shared.options.outbox.table;
    let run = &shared.run;
    let ledger = format!("BEGIN; INSERT INTO {} VALUES ('{run}', {writer}, {number})", super::LEDGER);
    client.batch_execute(&ledger).await?;
    for step in &plan.steps {
        match step {
            Step::Insert(row) => insert(session, row).await?,
            Step::Copy(rows) => copy(client, table, rows).await?,
            Step::Discard(rows) => {
                client.batch_execute("SAVEPOINT odd").await?;
                for row in rows {
                    insert(session, row).await?;
                }
                client.batch_execute("ROLLBACK TO SAVEPOINT odd").await?;
            }
        }
    }
    if plan.delete {
        let ids: Vec<String> = plan.kept().map(|row| format!("'{}'", row.id)).collect();
        client.batch_execute(&format!("DELETE FROM {table} WHERE id IN ({})", ids.join(","))).await?;
    }
    Ok(())
}

async fn insert(session: &Session, row: &Row) -> Result<(), Error> {
    let id = row.id.to_string();
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
        [&id, &row.aggregatetype, &row.aggregateid, &row.payload];
    session.client.execute(&session.insert, &values).await.map(|_| ())
}

/// Writes rows by COPY in text format.
async fn copy(client: &Client, table: &str, rows: &[Row]) -> Result<(), Error> {
    let statement = format!("COPY {table} (id, aggregatetype, aggregateid, type, payload) FROM STDIN");
    let line = |row: &Row| {
        let key = row.aggregateid.as_deref().map_or_else(|| "\\N".to_owned(), escape);
        format!("{}\t{}\t{key}\thappened\t{}\n", row.id, escape(&row.aggregatetype), escape(&row.payload))
    };
    let text: String = rows.iter().map(line).collect();
    let sink = client.copy_in::<_, bytes::Bytes>(&statement).await?;
    let mut sink = std::pin::pin!(sink);
    sink.send(bytes::Bytes::from(text)).await?;
    sink.as_mut().finish().await.map(|_| ())
}

/// Text as COPY's text format wants it; there are no control characters to escape.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
}

/// True for errors of a server that is down, going down or coming up.
fn is_outage(error: &Error) -> bool {
    match error.code() {
        Some(code) => [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::CONNECTION_FAILURE,
        ]
        .contains(code),
        None => error.is_closed() || error.source().is_some_and(|cause| cause.is::<std::io::Error>()),
    }
}

/// What the log says of a transaction.
fn record(plan: &Plan, writer: u32, number: u32, outcome: Outcome) -> TransactionLog {
    let event = |row: &Row| EventLog {
        id: row.id.to_string(),
        aggregatetype: row.aggregatetype.clone(),
        key: row.aggregateid.clone(),
    };
    TransactionLog {
        writer,
        number,
        outcome,
        ended: SystemTime::now(),
        events: plan.kept().map(event).collect(),
        discarded: plan.discarded().map(|row| row.id.to_string()).collect(),
    }
}
