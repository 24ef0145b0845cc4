//! A round: look, decide, act, for each table that is kept.
//!
//! What is remembered between rounds (fences, horizons) belongs to one session and goes with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::act::{self, Outcome, SESSION, Sweep};
use super::horizon::Horizon;
use super::look::{Looker, TableShape, Watch};
use super::partitions::{self, Fences, Partition, Step};
use crate::config::{Batches, Config, Housekeeping, Partitions, TableName};
use crate::error::{Code, Fault};
use crate::pipeline::status::{FaultView, Kept, State};
use crate::source::quote_identifier;
use crate::sql::Session;

/// A sweep with much to delete lets the other tables have their turn after this.
const SWEEP_MAX: Duration = Duration::from_secs(5);
/// Looks of a round: what was sealed before goes through all stages at once, if nobody is in the way.
const LOOKS_MAX: u32 = 4;
/// A round that takes longer has lost its server.
const ROUND_MAX: Duration = Duration::from_secs(300);
/// The first half of an advisory lock's number: "pbhk". The second is the pipeline's.
const LOCK_SPACE: i32 = i32::from_be_bytes(*b"pbhk");

/// What may be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Only what writers need, partitions ahead: a relay that waits or halts must not stop them.
    Ahead,
    /// Everything.
    All,
}

impl Duty {
    /// Only a relay that streams removes anything: a pause keeps all rows, whatever was confirmed.
    pub(crate) fn of(state: State) -> Self {
        if state == State::Streaming { Self::All } else { Self::Ahead }
    }
}

/// Asks what may be done, before each step.
type Ask<'a> = &'a (dyn Fn() -> Duty + Send + Sync);

/// Keeps the tables of a pipeline, round by round.
#[derive(Debug)]
pub struct Keeper {
    config: Arc<Config>,
    /// `None` before the first round and after a failure.
    session: Option<Session>,
    tables: Vec<Table>,
}

#[derive(Debug)]
struct Table {
    name: TableName,
    how: Housekeeping,
    memory: Memory,
    kept: Kept,
}

/// What belongs to a session.
#[derive(Debug, Default)]
struct Memory {
    fences: Fences,
    horizon: Horizon,
    /// The sweep that is under way.
    sweep: Option<Sweep>,
}

impl Keeper {
    /// A keeper that has not connected yet.
    pub fn new(config: Arc<Config>) -> Self {
        let kept = config.outbox.iter().filter(|outbox| outbox.housekeeping != Housekeeping::None);
        let tables =
            kept.map(|outbox| Table::new(outbox.table.clone(), outbox.housekeeping.clone())).collect();
        Self { config, session: None, tables }
    }

    /// Whether there is nothing to keep.
    pub fn is_idle(&self) -> bool {
        self.tables.is_empty()
    }

    /// What was done so far.
    pub fn kept(&self) -> Vec<Kept> {
        self.tables.iter().map(|table| table.kept.clone()).collect()
    }

    /// Does what is due. What fails stands in [`Keeper::kept`] and is tried again in the next round.
    pub async fn round(&mut self, duty: Ask<'_>) {
        let session = match self.session.take() {
            Some(session) if !session.is_closed() => Ok(session),
            _ => self.open().await,
        };
        let done = match &session {
            Ok(session) => {
                let late = |_| Fault::new(Code::PgUnreachable, "the server does not answer housekeeping");
                let round = tokio::time::timeout(ROUND_MAX, self.locked_round(session, duty));
                round.await.map_err(late).and_then(|done| done)
            }
            Err(fault) => Err(fault.clone()),
        };
        match done {
            Ok(()) => self.session = session.ok(),
            Err(fault) => self.tables.iter_mut().for_each(|table| table.failed(&self.config, &fault)),
        }
    }

    /// A session of its own; nothing is remembered from the one before.
    async fn open(&mut self) -> Result<Session, Fault> {
        for table in &mut self.tables {
            table.memory = Memory::default();
        }
        let session = connect(&self.config).await?;
        let look = Looker { session: &session, config: &self.config };
        let set = session.batch_execute(SESSION).await;
        set.map_err(|error| look.failed(&error, "cannot begin housekeeping"))?;
        Ok(session)
    }

    /// The lock lasts for a round only: a standby that makes partitions must not keep the leader
    /// from dropping some.
    async fn locked_round(&mut self, session: &Session, duty: Ask<'_>) -> Result<(), Fault> {
        let config = Arc::clone(&self.config);
        let look = Looker { session, config: &config };
        let pipeline = config.pipeline.as_str();
        let lock = "SELECT pg_try_advisory_lock($1, hashtext($2))";
        let message = "cannot lock out housekeeping of other relays";
        let row = look.one(lock, &[&LOCK_SPACE, &pipeline], message).await?;
        if !look.get::<bool>(&row, 0)? {
            return Ok(());
        }
        for table in &mut self.tables {
            match table.round(&look, duty).await {
                Ok(()) => table.kept.fault = None,
                Err(fault) => table.failed(&config, &fault),
            }
        }
        let unlock = "SELECT pg_advisory_unlock($1, hashtext($2))";
        look.one(unlock, &[&LOCK_SPACE, &pipeline], message).await.map(drop)
    }
}

pub(super) async fn connect(config: &Config) -> Result<Session, Fault> {
    Session::connect(&config.postgres, &format!("pillarbox/{}/housekeeping", config.pipeline)).await
}

impl Table {
    fn new(name: TableName, how: Housekeeping) -> Self {
        let mode = if matches!(how, Housekeeping::Delete(_)) { "delete" } else { "partitions" };
        let kept = Kept::new(&name, mode);
        Self { name, how, memory: Memory::default(), kept }
    }

    fn labels(&self, config: &Config) -> [(&'static str, String); 2] {
        [("pipeline", config.pipeline.to_string()), ("table", self.kept.table.clone())]
    }

    /// Logged once, until it is another fault.
    fn failed(&mut self, config: &Config, fault: &Fault) {
        metrics::counter!("pillarbox_housekeeping_failures_total", &self.labels(config)).increment(1);
        let view = FaultView::from(fault);
        if self.kept.fault.as_ref() != Some(&view) {
            let Fault { code, message, cause, hint } = fault;
            tracing::warn!(%code, cause, hint, table = self.kept.table, "housekeeping: {message}");
        }
        self.kept.fault = Some(view);
    }

    async fn round(&mut self, look: &Looker<'_>, duty: Ask<'_>) -> Result<(), Fault> {
        match self.how.clone() {
            Housekeeping::None => Ok(()),
            Housekeeping::Partitions(wanted) => self.keep_partitions(look, &wanted, duty).await,
            Housekeeping::Delete(batches) => self.sweep(look, &batches, duty).await,
        }
    }

    async fn keep_partitions(
        &mut self,
        look: &Looker<'_>,
        wanted: &Partitions,
        duty: Ask<'_>,
    ) -> Result<(), Fault> {
        let shape = look.shape(&self.name).await?;
        suits_partitions(look.config, &self.name, wanted, &shape)?;
        // Writers need partitions whatever is published.
        let removable = published(look.config, &self.name, &shape);
        let duty: Ask<'_> = if removable.is_ok() { duty } else { &|| Duty::Ahead };
        for _ in 0..LOOKS_MAX {
            let partitions = look.partitions(&self.name, &shape).await?;
            // After the partitions: a fence must be younger than the look that saw the seal.
            let watch = look.watch().await?;
            self.take_stock(look, &partitions, &watch);
            let mut steps = partitions::missing(&self.name, wanted, &partitions, &watch);
            steps.extend(partitions::ageing(wanted, &partitions, &self.memory.fences, &watch));
            if !self.perform(look, &shape, &steps, duty).await? {
                break;
            }
        }
        removable
    }

    /// Tries every step; true if any was done, the first fault if none of the rest mattered.
    async fn perform(
        &mut self,
        look: &Looker<'_>,
        shape: &TableShape,
        steps: &[Step],
        duty: Ask<'_>,
    ) -> Result<bool, Fault> {
        let (mut done, mut fault) = (false, None);
        self.kept.waits_for = None;
        for step in steps {
            if duty() != Duty::All && !step.is_for_writers() {
                continue;
            }
            let (table, what) = (self.kept.table.clone(), act::describe(step));
            match act::perform(look, &self.name, shape, step).await {
                Ok(Outcome::Done) => {
                    tracing::info!(table, "housekeeping: {what}");
                    self.count(look, step);
                    done = true;
                }
                Ok(Outcome::Later) => {
                    tracing::debug!(table, "housekeeping: a lock was not free in time: {what}");
                    self.kept.waits_for.get_or_insert(what);
                }
                // A partition that cannot be dropped must not keep others from being made.
                Err(refused) => drop(fault.get_or_insert(refused)),
            }
        }
        fault.map_or(Ok(done), Err)
    }

    fn take_stock(&mut self, look: &Looker<'_>, partitions: &[Partition], watch: &Watch) {
        partitions::fence(&mut self.memory.fences, partitions, watch);
        let kept = &mut self.kept;
        kept.partitions = partitions.iter().filter(|partition| partitions::is_attached(partition)).count();
        kept.sealed = partitions.iter().filter(|partition| partitions::is_sealed(partition)).count();
        let until = partitions::covered_until(partitions, watch.now);
        kept.covered_seconds = until.map_or(0, |until| until.0.saturating_sub(watch.now.0).unsigned_abs());
        let (partitions, covered) = (self.kept.partitions, self.kept.covered_seconds);
        let labels = self.labels(look.config);
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        let (partitions, covered) = (partitions as f64, covered as f64);
        metrics::gauge!("pillarbox_outbox_partitions", &labels).set(partitions);
        metrics::gauge!("pillarbox_outbox_covered_seconds", &labels).set(covered);
    }

    fn count(&mut self, look: &Looker<'_>, step: &Step) {
        match step {
            Step::Create { .. } => self.kept.created_total += 1,
            Step::Drop(_) => {
                self.kept.dropped_total += 1;
                let labels = self.labels(look.config);
                metrics::counter!("pillarbox_housekeeping_dropped_partitions_total", &labels).increment(1);
            }
            Step::Seal(_) | Step::Unseal(_) | Step::Detach(_) | Step::Finalize(_) => {}
        }
    }

    async fn sweep(&mut self, look: &Looker<'_>, batches: &Batches, duty: Ask<'_>) -> Result<(), Fault> {
        let shape = look.shape(&self.name).await?;
        suits_delete(look.config, &self.name, &shape)?;
        published(look.config, &self.name, &shape)?;
        if self.memory.horizon.observe(&look.watch().await?) {
            self.memory.sweep.get_or_insert(Sweep::at_block(0));
        }
        let (Some(horizon), Some(mut sweep)) = (self.memory.horizon.confirmed(), self.memory.sweep.take())
        else {
            return Ok(());
        };
        let blocks = act::blocks(look, &shape).await?;
        let began = Instant::now();
        while !sweep.is_over(blocks) {
            if duty() != Duty::All || began.elapsed() >= SWEEP_MAX {
                self.memory.sweep = Some(sweep);
                break;
            }
            let rows = act::delete(look, &self.name, horizon, &mut sweep, batches.rows_max).await?;
            self.kept.deleted_total += rows;
            let labels = self.labels(look.config);
            metrics::counter!("pillarbox_housekeeping_deleted_rows_total", &labels).increment(rows);
            if rows > 0 {
                pillarbox_failpoint::hit(pillarbox_failpoint::Step::RowsDeleted);
                tokio::time::sleep(batches.pause).await;
            }
        }
        Ok(())
    }
}

/// Whether the table can be kept by partitions.
pub(super) fn suits_partitions(
    config: &Config,
    table: &TableName,
    wanted: &Partitions,
    shape: &TableShape,
) -> Result<(), Fault> {
    let column = &wanted.column;
    let because = if shape.kind != "p" {
        "it is not partitioned"
    } else if !shape.key_is_time || shape.key.as_ref() != Some(column) {
        "its partition key is another one"
    } else if shape.has_default {
        "it has a default partition, with which Postgres detaches no other one concurrently"
    } else if !shape.may_own {
        return Err(not_owner(config, table, shape));
    } else {
        return Ok(());
    };
    let message = format!("table {table} cannot be kept small by partitions of \"{column}\"");
    Err(Fault::new(Code::HousekeepingUnfit, message)
        .because(because)
        .hint("make it PARTITION BY RANGE of that timestamptz column, without a default partition, or set housekeeping: { mode: delete }"))
}

/// Whether rows of the table can be deleted.
pub(super) fn suits_delete(config: &Config, table: &TableName, shape: &TableShape) -> Result<(), Fault> {
    let role = quote_identifier(config.postgres.sql_user());
    if shape.kind != "r" {
        let message = format!("table {table} cannot be kept small by deleting rows");
        return Err(Fault::new(Code::HousekeepingUnfit, message)
            .because("it is not an ordinary table")
            .hint("for a partitioned table set housekeeping: { mode: partitions }"));
    }
    if shape.may_delete {
        return Ok(());
    }
    let outbox = config.outbox.iter().find(|outbox| outbox.table == *table);
    let column = outbox.map_or("id", |outbox| &outbox.id_column);
    let message = format!("role {role} may not delete relayed rows of {table}");
    Err(Fault::new(Code::PgPrivilege, message)
        .because("rows are locked before they are deleted, and for that Postgres wants UPDATE of a column")
        .hint(crate::setup::delete_grants(&config.postgres, table, column)))
}

fn not_owner(config: &Config, table: &TableName, shape: &TableShape) -> Fault {
    let (role, owner) = (quote_identifier(config.postgres.sql_user()), quote_identifier(&shape.owner));
    let schema = quote_identifier(&table.schema);
    let message = format!("role {role} may not make and drop partitions of {table}");
    Fault::new(Code::PgPrivilege, message)
        .because(format!("it must be able to act as the owner, {owner}, who must be able to create tables in schema {schema}"))
        .hint(format!("GRANT {owner} TO {role}; GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner};"))
}

/// Whether what comes through the slot is everything that is written to the table.
pub(super) fn published(config: &Config, table: &TableName, shape: &TableShape) -> Result<(), Fault> {
    if shape.published {
        return Ok(());
    }
    let publication = quote_identifier(&config.postgres.publication);
    let message = format!("nothing is removed from table {table}");
    Err(Fault::new(Code::HousekeepingUnfit, message)
        .because(format!(
            "publication {publication} does not publish all its inserts: what it leaves out is never relayed"
        ))
        .hint("run `pillarbox check`; with a row filter set housekeeping: { mode: none }"))
}
