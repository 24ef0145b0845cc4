//! Reads the topic of dead letters, as far as it is committed.
//!
//! Keeps of a letter what its first record says, and of one letter at a time its row. Never writes.

use std::time::Duration;

use pillarbox_kafka::Cluster;
use pillarbox_kafka::admin::{self, OffsetOf};
use pillarbox_kafka::reader::{PartitionReader, ReaderOptions, Record};
use tokio::time::timeout;

use super::letter::{Letter, Letters, chunk};
use crate::config::Config;
use crate::error::{Code, Fault};
use crate::sink::kafka_fault;

/// No answer for this long, and reading ends with an error.
const POLL_TIMEOUT: Duration = Duration::from_secs(10);

/// All letters of the pipeline in order of position, closed ones included. None where the topic does
/// not exist.
///
/// # Errors
/// Kafka does not answer, or the topic has more than one partition.
pub async fn list(cluster: &Cluster, config: &Config) -> Result<Vec<Letter>, Fault> {
    let topic = config.dead_letter_topic();
    let described =
        admin::describe_topic(cluster, &topic).await.map_err(|error| unreadable(&error, &topic))?;
    match described {
        None => return Ok(Vec::new()),
        Some(described) if described.partitions != 1 => return Err(unfit(&topic, described.partitions)),
        Some(_) => {}
    }
    let mut letters = Letters::default();
    let from = offset(cluster, &topic, OffsetOf::Earliest).await?;
    read(cluster, &topic, from, |record| {
        letters.take(record);
        true
    })
    .await?;
    Ok(letters.into_vec())
}

/// The columns of a letter's row, as the stream wrote them.
///
/// # Errors
/// Kafka does not answer, or chunks of the letter are missing.
pub async fn row(cluster: &Cluster, config: &Config, letter: &Letter) -> Result<Vec<u8>, Fault> {
    let topic = config.dead_letter_topic();
    let mut row = Vec::with_capacity(usize::try_from(letter.size).unwrap_or(0));
    let mut next = 1;
    read(cluster, &topic, letter.offset, |record| {
        if chunk(record) != Some((next, letter.chunks)) {
            return false;
        }
        row.extend_from_slice(record.value.as_deref().unwrap_or_default());
        next += 1;
        next <= letter.chunks
    })
    .await?;
    if next <= letter.chunks || row.len() as u64 != letter.size {
        let message = format!("topic {topic} does not hold all of dead letter {}", letter.position);
        return Err(Fault::new(Code::DeadLetterTopicUnfit, message)
            .hint("see whether records of the topic were deleted, and by what"));
    }
    Ok(row)
}

/// Shows committed records from `from` on, until `take` has enough or there are no more.
async fn read(
    cluster: &Cluster,
    topic: &str,
    from: i64,
    mut take: impl FnMut(&Record) -> bool,
) -> Result<(), Fault> {
    let end = offset(cluster, topic, OffsetOf::LatestCommitted).await?;
    let mut reader = PartitionReader::new(cluster.clone(), topic, 0, from, ReaderOptions::default());
    while reader.position() < end {
        let fetched = match timeout(POLL_TIMEOUT, reader.poll()).await {
            Ok(fetched) => fetched.map_err(|error| unreadable(&error, topic))?,
            Err(_) => {
                let message = format!("cannot read topic {topic}");
                return Err(Fault::new(Code::KafkaUnreachable, message).because("no answer in time"));
            }
        };
        if !fetched.records.iter().all(&mut take) {
            return Ok(());
        }
    }
    Ok(())
}

async fn offset(cluster: &Cluster, topic: &str, which: OffsetOf) -> Result<i64, Fault> {
    admin::list_offset(cluster, topic, 0, which).await.map_err(|error| unreadable(&error, topic))
}

fn unreadable(error: &pillarbox_kafka::Error, topic: &str) -> Fault {
    kafka_fault(error, &format!("cannot read topic {topic}"))
}

fn unfit(topic: &str, partitions: u32) -> Fault {
    let message = format!("topic {topic} has {partitions} partitions, it must have one");
    Fault::new(Code::DeadLetterTopicUnfit, message)
        .hint("dead letters are one order of records: the relay writes to partition 0 alone; restore the topic as it was")
}
