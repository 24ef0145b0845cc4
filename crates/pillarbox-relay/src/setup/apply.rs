//! Does what the plan says, step by step, and tells about it.
//!
//! The Postgres half runs on a blocking thread over a replication connection, under an advisory
//! lock that lasts until the end: a second setup waits and then finds everything done.

use std::time::Duration;

use pillarbox_kafka::Cluster;
use pillarbox_kafka::admin::{self, TopicSpec};
use pillarbox_wire::lsn::Lsn;

use super::facts::{CheckpointFacts, Facts, PostgresFacts, read_postgres};
use super::plan::{Start, Step, StepKind, plan};
use super::statements::revoke_messages;
use crate::config::Config;
use crate::error::{Code, Fault};
use crate::sink::read::{End, read};
use crate::sink::{self, FirstCheckpoint, kafka_fault};
use crate::source::{Attempt, Connection, SourceError};
use crate::sql::blocking;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Another setup needs seconds; a slot in creation may wait for a long transaction.
const LOCK_TIMEOUT: Duration = Duration::from_secs(90);
/// Data definition waits for locks on catalogs only.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// A slot can begin only when every transaction that was open at its creation has ended. The
/// server must give up first, or the half-made slot would outlive us.
const SLOT_TIMEOUT_SERVER: &str = "SET statement_timeout = '60s'";
const SLOT_TIMEOUT: Duration = Duration::from_secs(70);
/// SQLSTATE query_canceled.
const CANCELED: &str = "57014";
/// "pillarbox" in an advisory lock: the first eight letters.
pub(super) const LOCK_KEY: i64 = i64::from_be_bytes(*b"pillarbo");

/// How to do it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Begin at the position of a slot that exists already; gives up what lies before it.
    pub adopt_slot: bool,
}

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// About to do it.
    Doing(&'a Step),
    /// It is done.
    Done(&'a Step),
    /// Something to know that does not stop setup.
    Note(&'a str),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The steps that were missing; empty when everything was there.
    pub steps: Vec<Step>,
    /// They were done; false for a dry run.
    pub applied: bool,
    /// Where the pipeline begins, if this setup decided it.
    pub begins_at: Option<Lsn>,
}

/// Sets the pipeline up, or says what would be done.
///
/// # Errors
/// A fault; the steps told as done are done, and running setup again goes on from there.
pub async fn apply(
    config: &Config,
    options: Options,
    progress: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<Report, Fault> {
    let (database, postgres) = Database::open(config.clone()).await?;
    let cluster = sink::connect(config).await?;
    let checkpoint = read_checkpoint(&cluster, config).await?;
    let reads_statistics = postgres.reads_statistics;
    let revoke = (config.messages.is_some() && postgres.messages_public)
        .then(|| revoke_messages(postgres.server_version, &config.postgres));
    let facts = Facts { postgres, checkpoint };
    let (steps, start) = plan(config, &facts, options.adopt_slot)?;
    if options.dry_run {
        return Ok(Report { steps, applied: false, begins_at: None });
    }
    let mut work = Work { config, database, cluster, facts, begins_at: position(start) };
    for step in &steps {
        progress(Progress::Doing(step));
        work.perform(step, start).await?;
        progress(Progress::Done(step));
    }
    if !reads_statistics {
        let note = format!(
            "a standby relay cannot see a leader that hangs: GRANT pg_read_all_stats TO {};",
            crate::source::quote_identifier(&config.postgres.user)
        );
        progress(Progress::Note(&note));
    }
    if let Some(revoke) = revoke {
        progress(Progress::Note(&format!("every role may write events; as a superuser: {revoke}")));
    }
    Ok(Report { steps, applied: true, begins_at: work.begins_at })
}

fn position(start: Start) -> Option<Lsn> {
    match start {
        Start::AdoptedSlot { at, .. } => Some(at),
        Start::Begun | Start::NewSlot => None,
    }
}

async fn read_checkpoint(cluster: &Cluster, config: &Config) -> Result<CheckpointFacts, Fault> {
    match sink::read_checkpoint(cluster, config).await {
        Err(fault) if fault.code == Code::CheckpointTopicMissing => Ok(CheckpointFacts::NoTopic),
        Err(fault) => Err(fault),
        Ok(table) => Ok(match table.and_then(|table| table.position) {
            Some(position) => CheckpointFacts::Position(Box::new(position)),
            None => CheckpointFacts::Empty,
        }),
    }
}

struct Work<'a> {
    config: &'a Config,
    database: Database,
    cluster: Cluster,
    facts: Facts,
    begins_at: Option<Lsn>,
}

impl Work<'_> {
    async fn perform(&mut self, step: &Step, start: Start) -> Result<(), Fault> {
        match (step.kind, &step.sql) {
            (StepKind::Slot, Some(sql)) => {
                self.begins_at = Some(self.database.create_slot(sql.clone()).await?);
                Ok(())
            }
            (StepKind::CheckpointTopic, _) => create_topic(&self.cluster, self.config).await,
            (StepKind::FirstCheckpoint, _) => self.first_checkpoint(start).await,
            (_, Some(sql)) => self.database.run(&step.title, sql.clone()).await,
            (_, None) => Ok(()),
        }
    }

    async fn first_checkpoint(&self, start: Start) -> Result<(), Fault> {
        let resume_lsn = self
            .begins_at
            .ok_or_else(|| Fault::new(Code::Internal, "the first checkpoint has no position"))?;
        let system = &self.facts.postgres.system;
        let first = FirstCheckpoint {
            system_id: system.system_id,
            timeline: system.timeline,
            resume_lsn,
            replace: matches!(start, Start::AdoptedSlot { replace: true, .. }),
        };
        if sink::bootstrap(self.config, &self.cluster, &first).await? {
            return self.await_readable(resume_lsn).await;
        }
        let message = format!("pipeline {} got a checkpoint while setup ran", self.config.pipeline);
        Err(Fault::new(Code::PipelineBusy, message).hint("run `pillarbox check`: another setup was faster"))
    }
}

impl Work<'_> {
    /// A commit is answered before its marker is in the log: whoever looks after setup must find
    /// the checkpoint.
    async fn await_readable(&self, resume_lsn: Lsn) -> Result<(), Fault> {
        let table = read(&self.cluster, self.config, End::HighWatermark).await?;
        let found = table.and_then(|table| table.position).map(|position| position.resume_lsn);
        if found == Some(resume_lsn) {
            return Ok(());
        }
        Err(Fault::new(Code::CheckpointMissing, "the first checkpoint cannot be read back")
            .hint("run `pillarbox check`, then setup again"))
    }
}

/// Small, compacted, kept for ever.
async fn create_topic(cluster: &Cluster, config: &Config) -> Result<(), Fault> {
    let name = config.checkpoint_topic();
    let configs = [
        ("cleanup.policy", "compact"),
        // Small segments are compacted soon: a reader must get through what is not.
        ("segment.bytes", "16777216"),
        ("min.cleanable.dirty.ratio", "0.1"),
    ];
    let spec = TopicSpec {
        name: name.clone(),
        partitions: 1,
        replication_factor: config.kafka.topics.replication_factor,
        configs: configs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
    };
    match admin::create_topic(cluster, &spec).await {
        Ok(_) => Ok(()),
        Err(error) => Err(kafka_fault(&error, &format!("cannot create topic {name}"))),
    }
}

/// The replication connection, moved to a blocking thread for each use. Closing it frees the lock.
struct Database {
    connection: Option<Connection>,
    config: Config,
}

impl Database {
    /// Connects, takes the lock, looks around.
    async fn open(config: Config) -> Result<(Self, PostgresFacts), Fault> {
        let task = move || -> Result<_, Fault> {
            let mut connection = connect(&config)?;
            lock(&mut connection, &config)?;
            let facts = read_postgres(&mut connection, &config)?;
            Ok((Self { connection: Some(connection), config }, facts))
        };
        blocking(task).await?
    }

    async fn run(&mut self, title: &str, sql: String) -> Result<(), Fault> {
        let message = format!("cannot {title}");
        self.query(message, sql, STATEMENT_TIMEOUT).await.map(drop)
    }

    async fn create_slot(&mut self, sql: String) -> Result<Lsn, Fault> {
        let message = format!("cannot create replication slot \"{}\"", self.config.postgres.slot);
        self.query(message.clone(), SLOT_TIMEOUT_SERVER.to_owned(), STATEMENT_TIMEOUT).await?;
        let answer = self.query(message.clone(), sql, SLOT_TIMEOUT).await?;
        answer
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Fault::new(Code::PgProtocol, message).because("the server named no position"))
    }

    /// Runs `sql`; the first column of its first row.
    async fn query(
        &mut self,
        message: String,
        sql: String,
        timeout: Duration,
    ) -> Result<Option<String>, Fault> {
        let mut connection = self
            .connection
            .take()
            .ok_or_else(|| Fault::new(Code::Internal, "an earlier step left no connection"))?;
        let (connection, answer) = blocking(move || {
            let answer = connection.query(&sql, timeout);
            (connection, answer)
        })
        .await?;
        self.connection = Some(connection);
        let rows = answer.map_err(|error| refusal(&error, message, &self.config))?;
        Ok(rows.first().and_then(|row| row.get(0)).map(str::to_owned))
    }
}

fn refusal(error: &SourceError, message: String, config: &Config) -> Fault {
    match error {
        SourceError::Server(server) if server.sqlstate == CANCELED => Fault::new(Code::PipelineBusy, message)
            .because("a transaction that was open before has not ended for a minute")
            .hint("SELECT pid, xact_start FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start; end it, then run setup again"),
        error => error.fault(&Attempt { message: &message, settings: &config.postgres }),
    }
}

fn connect(config: &Config) -> Result<Connection, Fault> {
    let name = format!("pillarbox/{}/setup", config.pipeline);
    let settings = &config.postgres;
    Connection::connect(settings, &name, CONNECT_TIMEOUT).map_err(|error| {
        let message = format!("cannot connect to database \"{}\" on {}", settings.database, settings.host);
        error.fault(&Attempt { message: &message, settings })
    })
}

fn lock(connection: &mut Connection, config: &Config) -> Result<(), Fault> {
    let busy = "another setup is at work in this database";
    match connection.query(&format!("SELECT pg_advisory_lock({LOCK_KEY})"), LOCK_TIMEOUT) {
        Ok(_) => Ok(()),
        Err(SourceError::TimedOut) => {
            Err(Fault::new(Code::PipelineBusy, busy).hint("wait for it and run setup again"))
        }
        Err(error) => {
            Err(error.fault(&Attempt { message: "cannot lock out other setups", settings: &config.postgres }))
        }
    }
}
