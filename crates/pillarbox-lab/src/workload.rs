//! Concurrent writers to an outbox that know exactly what they committed.
//!
//! ```text
//! seed -> plans -> writers -> Postgres          Log (what the writers know) --+
//!                                |                                            +--> Expected
//!                                +--> checker slot -> wal::transactions ------+
//! ```
//! Transactions of 1 to 50 events, some rolled back, some with savepoints rolled back inside, some by COPY, some whose rows
//! are deleted before the commit. Must never lose track of a transaction: one whose COMMIT was not answered is looked up.

mod plan;
mod writer;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crate::LabError;
use crate::error::disagreement;
use crate::history::{Expected, Transaction};
use crate::sql::{self, literal};
use crate::wal::Outbox;

/// Each transaction leaves a row here, so that it can be looked up after a lost COMMIT.
const LEDGER: &str = "public.pillarbox_lab_ledger";

/// What to write. The default is a mix of everything, 8 writers of 100 transactions each.
#[derive(Debug, Clone)]
pub struct WorkloadOptions {
    /// Writers at work at the same time, each on a connection of its own.
    pub writers: u32,
    /// Transactions of each writer; fewer where `Workload::stop` is called.
    pub transactions: u32,
    /// Most events in a transaction; each has at least one.
    pub events_max: u32,
    /// Of 100 transactions, how many are rolled back.
    pub rollback_percent: u8,
    /// Before how many of 100 statements a savepoint with rows is rolled back.
    pub savepoint_percent: u8,
    /// How many of 100 statements are a COPY of up to 20 rows.
    pub copy_percent: u8,
    /// In how many of 100 transactions the rows are deleted again before the end.
    pub delete_percent: u8,
    /// Of 100 events, how many have no key.
    pub keyless_percent: u8,
    /// Values of `aggregatetype`: each is a topic.
    pub aggregate_types: Vec<String>,
    /// Different keys of each type.
    pub keys: u32,
    /// Payload size in bytes, about.
    pub payload_bytes: usize,
    /// Transactions a second, of all writers together; as fast as they can where not given.
    pub rate: Option<f64>,
    /// The same seed writes the same events.
    pub seed: u64,
    /// The table, and the names of the topics.
    pub outbox: Outbox,
}

impl Default for WorkloadOptions {
    fn default() -> Self {
        Self {
            writers: 8,
            transactions: 100,
            events_max: 50,
            rollback_percent: 10,
            savepoint_percent: 3,
            copy_percent: 5,
            delete_percent: 20,
            keyless_percent: 5,
            aggregate_types: ["order", "invoice", "customer"].map(str::to_owned).to_vec(),
            keys: 40,
            payload_bytes: 200,
            rate: None,
            seed: 1,
            outbox: Outbox::default(),
        }
    }
}

impl WorkloadOptions {
    /// One event a transaction at a fixed rate, all committed and all with a key: for latency.
    pub fn steady(rate: f64, transactions: u32) -> Self {
        Self {
            writers: 1,
            transactions,
            events_max: 1,
            rollback_percent: 0,
            savepoint_percent: 0,
            copy_percent: 0,
            delete_percent: 0,
            keyless_percent: 0,
            rate: Some(rate),
            ..Self::default()
        }
    }

    /// The topics the events belong to.
    pub fn topics(&self) -> Vec<String> {
        self.aggregate_types.iter().map(|name| format!("{}{name}", self.outbox.topic_prefix)).collect()
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// COMMIT was answered, or the transaction was found afterwards.
    Committed,
    /// Rolled back, or the connection died before COMMIT was sent, or it was not found afterwards.
    RolledBack,
    /// COMMIT was sent and not answered; only while the workload runs.
    Unknown,
}

/// What a writer knows of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog {
    /// The event id.
    pub id: String,
    /// Names the topic.
    pub aggregatetype: String,
    /// The key.
    pub key: Option<String>,
}

/// What a writer knows of one transaction.
#[derive(Debug, Clone)]
pub struct TransactionLog {
    /// The writer, from 0.
    pub writer: u32,
    /// Its transaction, from 0.
    pub number: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// When the writer learned that.
    pub ended: SystemTime,
    /// Events that exist if it committed, in the order in which they were written.
    pub events: Vec<EventLog>,
    /// Ids rolled back to a savepoint in any case.
    pub discarded: Vec<String>,
}

/// What all writers know; complete: nothing is unknown any more.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// By writer, then in the order in which each wrote.
    pub transactions: Vec<TransactionLog>,
    /// How many of them had lost the answer to their COMMIT and were looked up.
    pub looked_up: usize,
}

/// What the writers share.
struct Shared {
    url: String,
    options: WorkloadOptions,
    /// Tells the ledger's rows of this run from those of others.
    run: String,
    stopped: AtomicBool,
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl std::fmt::Debug for Shared {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared {{ run: {} }}", self.run)
    }
}

/// How far the writers are.
#[derive(Debug, Default)]
struct Progress {
    /// Transactions whose COMMIT was answered.
    committed: u64,
    /// All writers have ended.
    ended: bool,
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn tell(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

/// Writers at work on a thread of their own. Dropping it tells them to stop.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Log, LabError>>>,
}

/// Creates the outbox table (columns as Debezium's) and the ledger where they do not exist.
pub fn prepare(url: &str, outbox: &Outbox) -> Result<(), LabError> {
    let create = format!(
        "CREATE TABLE IF NOT EXISTS {} (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, \
         aggregateid varchar(255), type varchar(255), payload jsonb); \
         CREATE TABLE IF NOT EXISTS {LEDGER} (run uuid, writer int, number int, \
         PRIMARY KEY (run, writer, number))",
        outbox.table
    );
    sql::run(url, &create).map(|_| ())
}

impl Workload {
    /// Starts the writers on a database that `prepare` has seen.
    pub fn start(url: &str, options: WorkloadOptions) -> Result<Self, LabError> {
        if options.writers == 0 || options.aggregate_types.is_empty() {
            return Err(LabError::Option { what: "a workload needs a writer and an aggregate type".into() });
        }
        let shared = Arc::new(Shared {
            url: url.to_owned(),
            options,
            run: uuid::Uuid::new_v4().to_string(),
            stopped: AtomicBool::new(false),
            progress: Mutex::default(),
            changed: Condvar::new(),
        });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || run(shared)
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Waits until so many transactions are committed; false if the writers ended or the time is over before.
    pub fn wait_committed(&self, transactions: u64, timeout: Duration) -> bool {
        let progress = self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = |p: &mut Progress| p.committed < transactions && !p.ended;
        let wait = self.shared.changed.wait_timeout_while(progress, timeout, under_way);
        wait.unwrap_or_else(PoisonError::into_inner).0.committed >= transactions
    }

    /// Tells the writers to end after the transaction they are at.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }

    /// Waits for the writers, looks up what is unknown, and gives what they know. The server must be up.
    pub fn finish(mut self) -> Result<Log, LabError> {
        let Some(thread) = self.thread.take() else { return Ok(Log::default()) };
        let mut log = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        resolve(&mut log, &self.shared)?;
        Ok(log)
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs all writers to their end on a runtime of their own.
fn run(shared: Arc<Shared>) -> Result<Log, LabError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LabError::io("start", "a runtime"))?;
    let log = runtime.block_on(async {
        let spawn = |writer| tokio::spawn(writer::run(Arc::clone(&shared), writer));
        let writers: Vec<_> = (0..shared.options.writers).map(spawn).collect();
        let mut log = Log::default();
        for writer in writers {
            let done = writer.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
            log.transactions.extend(done?);
        }
        Ok(log)
    });
    shared.tell(|progress| progress.ended = true);
    log
}

/// Looks up in the ledger how the transactions ended whose COMMIT was not answered.
fn resolve(log: &mut Log, shared: &Shared) -> Result<(), LabError> {
    let find = format!("SELECT writer, number FROM {LEDGER} WHERE run = {}", literal(&shared.run));
    let unknown: Vec<_> = log.transactions.iter_mut().filter(|t| t.outcome == Outcome::Unknown).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let pair = |row: &sql::TextRow| -> Option<(u32, u32)> {
        Some((row.first()?.as_ref()?.parse().ok()?, row.get(1)?.as_ref()?.parse().ok()?))
    };
    let found: HashSet<_> = sql::run(&shared.url, &find)?.iter().filter_map(pair).collect();
    log.looked_up = unknown.len();
    for t in unknown {
        let exists = found.contains(&(t.writer, t.number));
        t.outcome = if exists { Outcome::Committed } else { Outcome::RolledBack };
    }
    Ok(())
}

impl Log {
    /// Transactions that committed, by writer.
    pub fn committed(&self) -> impl Iterator<Item = &TransactionLog> {
        self.transactions.iter().filter(|t| t.outcome == Outcome::Committed)
    }

    /// Ids that must be in no record.
    pub fn rolled_back(&self) -> HashSet<String> {
        let ids = |t: &TransactionLog| {
            let lost = (t.outcome != Outcome::Committed).then(|| t.events.iter().map(|e| e.id.clone()));
            t.discarded.iter().cloned().chain(lost.into_iter().flatten()).collect::<Vec<_>>()
        };
        self.transactions.iter().flat_map(ids).collect()
    }

    /// Puts what the writers know and the commit order from the WAL together. The two must agree in every
    /// transaction, event, order, topic and key; else neither can judge a relay.
    pub fn expected(&self, wal: Vec<Transaction>, outbox: &Outbox) -> Result<Expected, LabError> {
        let first = |t: &'_ TransactionLog| t.events.first().map(|e| e.id.clone());
        let mut known: HashMap<String, &TransactionLog> =
            self.committed().filter_map(|t| Some((first(t)?, t))).collect();
        for transaction in &wal {
            let id = transaction.events.first().map_or("", |e| e.id.as_str());
            let Some(log) = known.remove(id) else {
                return Err(disagreement(format!(
                    "the transaction that begins with {id} is in the wal only"
                )));
            };
            if !same(log, transaction, outbox) {
                let TransactionLog { writer, number, .. } = log;
                return Err(disagreement(format!(
                    "transaction {number} of writer {writer} has other events"
                )));
            }
        }
        if let Some((id, _)) = known.into_iter().next() {
            return Err(disagreement(format!("the transaction that begins with {id} is not in the wal")));
        }
        Ok(Expected { transactions: wal, rolled_back: self.rolled_back() })
    }
}

/// True if a writer's and the WAL's account of a transaction are the same.
fn same(log: &TransactionLog, wal: &Transaction, outbox: &Outbox) -> bool {
    log.events.len() == wal.events.len()
        && log.events.iter().zip(&wal.events).all(|(l, w)| {
            let topic = w.topic.strip_prefix(&outbox.topic_prefix);
            l.id == w.id
                && topic == Some(&l.aggregatetype)
                && l.key.as_deref().map(str::as_bytes) == w.key.as_deref()
        })
}
