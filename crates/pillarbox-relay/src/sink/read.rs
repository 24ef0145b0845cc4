//! Reads the checkpoint topic backwards, in growing steps, to a position; from there forwards.
//!
//! A checkpoint topic can hold a million commits. The last `position` record says where the whole
//! table was last rewritten, so the tail is all that is read. Control batches take offsets but
//! hold no records, hence steps that grow until a position turns up. How far is decided in [`tail`](super::tail).

use std::time::Duration;

use pillarbox_kafka::Cluster;
use pillarbox_kafka::admin::{self, OffsetOf};
use pillarbox_kafka::reader::{PartitionReader, ReaderOptions, Record};

use super::kafka_fault;
use super::tail::{Look, Tail};
use crate::config::Config;
use crate::error::{Code, Fault};
use crate::position::checkpoint::{CheckpointError, Table};

/// Reading a checkpoint takes milliseconds; beyond this something holds the partition's last
/// stable offset back. Shorter than the reader's patience, so that the fault says what.
const READ_TIMEOUT: Duration = Duration::from_secs(6);

/// How far a read goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// To what is committed now: others may be writing.
    Committed,
    /// To the high watermark: nobody else can write any more, so all of it must become readable.
    HighWatermark,
}

/// The pipeline's checkpoint as far as it is committed; for `status` and `check`.
///
/// # Errors
/// A fault when the topic is missing or unfit, Kafka does not answer, or a record is malformed. A
/// topic without any checkpoint is `Ok(None)`.
pub async fn read_checkpoint(cluster: &Cluster, config: &Config) -> Result<Option<Table>, Fault> {
    read(cluster, config, End::Committed).await
}

pub(crate) async fn read(cluster: &Cluster, config: &Config, end: End) -> Result<Option<Table>, Fault> {
    let topic = config.checkpoint_topic();
    exists(cluster, &topic).await?;
    let log = Log { cluster, topic: &topic };
    let to = match end {
        End::Committed => log.offset(OffsetOf::LatestCommitted).await?,
        End::HighWatermark => log.offset(OffsetOf::Latest).await?,
    };
    let mut tail = Tail::new(log.offset(OffsetOf::Earliest).await?, to);
    loop {
        let records = log.records(tail.from(), tail.to()).await?;
        match tail.look(&records).map_err(|error| unreadable(&error, &topic))? {
            Look::Table(table) => return Ok(Some(*table)),
            Look::Further => {}
            Look::Nothing => return Ok(None),
        }
    }
}

async fn exists(cluster: &Cluster, topic: &str) -> Result<(), Fault> {
    let described = admin::describe_topic(cluster, topic)
        .await
        .map_err(|error| kafka_fault(&error, &format!("cannot describe topic {topic}")))?;
    match described {
        Some(described) if described.partitions == 1 => Ok(()),
        Some(described) => Err(Fault::new(
            Code::CheckpointTopicUnfit,
            format!("checkpoint topic {topic} has {} partitions, it must have one", described.partitions),
        )
        .hint("a checkpoint is one order of records: restore the topic as it was")),
        None => Err(Fault::new(Code::CheckpointTopicMissing, format!("checkpoint topic {topic} does not exist"))
            .hint("run `pillarbox setup` if the pipeline is new; otherwise this is the wrong Kafka cluster, or the topic was deleted: see kafka.brokers")),
    }
}

fn unreadable(error: &CheckpointError, topic: &str) -> Fault {
    let hint = match error {
        CheckpointError::Version { .. } => "run the version of pillarbox that wrote it, or a later one",
        _ => "something else has written to this topic: find out what, before you go on",
    };
    Fault::new(Code::CheckpointUnreadable, format!("the checkpoint in topic {topic} cannot be understood"))
        .because(error)
        .hint(hint)
}

struct Log<'a> {
    cluster: &'a Cluster,
    topic: &'a str,
}

impl Log<'_> {
    async fn offset(&self, which: OffsetOf) -> Result<i64, Fault> {
        admin::list_offset(self.cluster, self.topic, 0, which).await.map_err(|error| self.fault(&error))
    }

    /// The committed records of `from..to`.
    async fn records(&self, from: i64, to: i64) -> Result<Vec<Record>, Fault> {
        let mut reader =
            PartitionReader::new(self.cluster.clone(), self.topic, 0, from, ReaderOptions::default());
        reader.read_to(to, READ_TIMEOUT).await.map_err(|error| self.fault(&error))
    }

    fn fault(&self, error: &pillarbox_kafka::Error) -> Fault {
        let fault = kafka_fault(error, &format!("cannot read the checkpoint topic {}", self.topic));
        match error {
            pillarbox_kafka::Error::Deadline { .. } => fault.hint(format!(
                "a transaction stays open in it: kafka-transactions.sh --bootstrap-server HOST:PORT find-hanging --topic {}; brokers lose its end when a partition has no leader at that moment",
                self.topic
            )),
            _ => fault,
        }
    }
}
