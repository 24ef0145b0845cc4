//! Looks at a history that was cut, and goes on behind the cut once an operator has accepted it.
//!
//! ```text
//!            database lost a tail      operator reads the ghosts          `lineage accept`
//! [streams] ----------------------> [halted] ------------------> [known] -----------------> [streams, epoch + 1]
//!             PB-3002, 3004, 3005            `lineage show`                fence, decide again, commit
//! ```
//! | failure | then |
//! | --- | --- |
//! | a relay still streams from this database | refused: history goes on, there is nothing to accept |
//! | a relay of the former database still publishes | it is fenced first; what it published until then counts |
//! | the command dies before its commit | nothing has changed |
//! | it dies after its commit | the next relay goes on in the new epoch; accepting again finds nothing |
//! | the fork lies before what the slot still has | shown; refused: PB-3003, the new history would have a gap |
//!
//! Ghosts stay in the topics: consumers may have applied them, and only the application knows what undoes them.
//! Never removes or changes an event.

use std::time::Duration;

use pillarbox_kafka::Cluster;
use pillarbox_kafka::admin::{self, OffsetOf};
use pillarbox_kafka::reader::{PartitionReader, ReaderOptions, Record};
use pillarbox_wire::header::{ID, PB_POS, PbPos};
use pillarbox_wire::lsn::Lsn;
use pillarbox_wire::position::Position;

use crate::config::Config;
use crate::error::{Code, Fault};
use crate::pipeline::acquire;
use crate::position::acceptance::{Cut, History, acceptable, accepted, compare};
use crate::position::checkpoint::{PositionRecord, Table};
use crate::position::lineage::SourceFacts;
use crate::sink::{self, kafka_fault};
use crate::sql::blocking;

/// The first look back from a partition's end; each further one goes so many times further.
const FIRST_STEP: i64 = 1_024;
const STEP_GROWTH: i64 = 4;
/// Between two records of a partition that can be read at once.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Records in memory at a time.
const CHUNK: i64 = 4_096;

/// What both sides say.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The database, now.
    pub source: SourceFacts,
    /// The checkpoint, now.
    pub checkpoint: PositionRecord,
    /// How they stand to each other.
    pub history: History,
    table: Table,
}

/// An event that was published and whose transaction is in no database any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ghost {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// Where it stood in the lost history.
    pub position: Position,
    /// The event id, where it is text.
    pub id: Option<String>,
}

/// Looks at the database and at the checkpoint.
///
/// # Errors
/// Either cannot be looked at, the checkpoint is of another system, or `fork` contradicts the server.
pub async fn look(config: &Config, cluster: &Cluster, fork: Option<Lsn>) -> Result<Comparison, Fault> {
    let (source, _) = source(config).await?;
    let missing = || {
        Fault::new(
            Code::CheckpointMissing,
            format!("topic {} holds no checkpoint", config.checkpoint_topic()),
        )
        .hint("run `pillarbox setup` if the pipeline is new")
    };
    let table = sink::read_checkpoint(cluster, config).await?.ok_or_else(missing)?;
    let checkpoint = table.position.clone().ok_or_else(missing)?;
    let history = compare(&source, &checkpoint, fork)?;
    Ok(Comparison { source, checkpoint, history, table })
}

/// What the server says of itself, and who has the slot.
pub(crate) async fn source(config: &Config) -> Result<(SourceFacts, Option<i32>), Fault> {
    let config = config.clone();
    blocking(move || acquire::look(&config)).await.and_then(|looked| looked)
}

/// Gives each ghost to `take`, partition by partition; returns how many there are.
///
/// # Errors
/// Kafka cannot be read, or what `take` says.
pub async fn ghosts(
    cluster: &Cluster,
    found: &Comparison,
    cut: &Cut,
    mut take: impl FnMut(Ghost) -> Result<(), Fault>,
) -> Result<u64, Fault> {
    let mut count = 0;
    for topic in found.table.topics.keys() {
        for partition in partitions(cluster, topic).await? {
            let log = Log { cluster, topic, partition };
            let end = log.offset(OffsetOf::LatestCommitted).await?;
            let mut from = log.before_the_first(cut, end).await?;
            while from < end {
                let to = end.min(from + CHUNK);
                for ghost in log.records(from, to).await?.iter().filter_map(|record| log.ghost(record, cut)) {
                    count += 1;
                    take(ghost)?;
                }
                from = to;
            }
        }
    }
    Ok(count)
}

/// Accepts the cut: from now on what the database has behind it is relayed, in a new epoch.
///
/// # Errors
/// There is nothing to accept, a client holds the slot, or a server does not answer; nothing has changed then.
pub async fn accept(config: &Config, cluster: &Cluster, fork: Option<Lsn>) -> Result<PositionRecord, Fault> {
    let (source, active) = source(config).await?;
    if let Some(pid) = active {
        let message = format!("slot \"{}\" is in use by process {pid}", config.postgres.slot);
        return Err(Fault::new(Code::SlotActive, message)
            .hint("stop that client first: a relay that can stream has nothing to accept"));
    }
    // Before anybody is fenced, and again on what was published until then.
    sink::read_checkpoint(cluster, config)
        .await?
        .and_then(|table| table.position)
        .map_or(Ok(()), |checkpoint| acceptable(&cut(&source, &checkpoint, fork)?, &source, &checkpoint))?;
    sink::declare(config, cluster, |checkpoint| {
        accepted(&cut(&source, checkpoint, fork)?, &source, checkpoint)
    })
    .await
}

fn cut(source: &SourceFacts, checkpoint: &PositionRecord, fork: Option<Lsn>) -> Result<Cut, Fault> {
    match compare(source, checkpoint, fork)? {
        History::Cut(cut) => Ok(cut),
        History::GoesOn => Err(Fault::new(
            Code::NothingToAccept,
            "the database continues the history that was published: there is nothing to accept",
        )
        .hint("start the relay")),
        History::CutSomewhere(fault) => Err(fault.hint(
            "say where by --fork LSN: where the server's crash recovery ended when it was restored (`invalid record length at` in its log)",
        )),
    }
}

async fn partitions(cluster: &Cluster, topic: &str) -> Result<std::ops::Range<i32>, Fault> {
    let described = admin::describe_topic(cluster, topic)
        .await
        .map_err(|error| kafka_fault(&error, &format!("cannot describe topic {topic}")))?;
    // A topic that is gone has no ghosts; that it is gone is for the next start to say.
    Ok(0..described.map_or(0, |found| i32::try_from(found.partitions).unwrap_or(i32::MAX)))
}

struct Log<'a> {
    cluster: &'a Cluster,
    topic: &'a str,
    partition: i32,
}

impl Log<'_> {
    /// An offset before the first ghost: positions only grow within a partition.
    async fn before_the_first(&self, cut: &Cut, end: i64) -> Result<i64, Fault> {
        let earliest = self.offset(OffsetOf::Earliest).await?;
        let mut step = FIRST_STEP;
        loop {
            let from = earliest.max(end - step);
            if from == earliest {
                return Ok(earliest);
            }
            let first = self.records(from, end.min(from + CHUNK)).await?;
            let first = first.iter().find_map(position);
            if first.is_some_and(|position| !cut.is_ghost(position)) {
                return Ok(from);
            }
            step = step.saturating_mul(STEP_GROWTH);
        }
    }

    fn ghost(&self, record: &Record, cut: &Cut) -> Option<Ghost> {
        let position = position(record).filter(|position| cut.is_ghost(*position))?;
        let id = record.header(ID).and_then(|id| std::str::from_utf8(id).ok()).map(str::to_owned);
        let (topic, partition, offset) = (self.topic.to_owned(), self.partition, record.offset);
        Some(Ghost { topic, partition, offset, position, id })
    }

    async fn offset(&self, which: OffsetOf) -> Result<i64, Fault> {
        admin::list_offset(self.cluster, self.topic, self.partition, which)
            .await
            .map_err(|error| self.fault(&error))
    }

    /// The committed records of `from..to`.
    async fn records(&self, from: i64, to: i64) -> Result<Vec<Record>, Fault> {
        let mut reader = PartitionReader::new(
            self.cluster.clone(),
            self.topic,
            self.partition,
            from,
            ReaderOptions::default(),
        );
        let mut records = reader.read_to(to, READ_TIMEOUT).await.map_err(|error| self.fault(&error))?;
        // A fetch ends with a batch, which may go further.
        records.retain(|record| (from..to).contains(&record.offset));
        Ok(records)
    }

    fn fault(&self, error: &pillarbox_kafka::Error) -> Fault {
        kafka_fault(error, &format!("cannot read topic {}", self.topic))
    }
}

fn position(record: &Record) -> Option<Position> {
    let text = std::str::from_utf8(record.header(PB_POS)?).ok()?;
    PbPos::parse(text).ok().map(|pos| pos.position)
}
