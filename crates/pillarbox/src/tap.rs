//! Watches events as a `read_committed` consumer sees them: where `pillarbox tap` gets its data.
//!
//! ```text
//! a reader a partition -> bounded channel -> in order of position -> whoever prints
//! ```
//! Reads only; commits no offsets and knows no consumer group. What it returns is payload: it goes
//! to stdout and never into a log.

pub(crate) mod event;
mod merge;

use std::collections::BTreeSet;
use std::time::Duration;

use pillarbox_kafka::admin::{self, OffsetOf};
use pillarbox_kafka::reader::{Isolation, PartitionReader, ReaderOptions};
use pillarbox_kafka::{Cluster, Error};
use pillarbox_relay::error::{Code, Fault};
use pillarbox_relay::sink::kafka_fault;
use tokio::sync::mpsc;

use event::Event;

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// The first record still there.
    Beginning,
    /// Only what is committed from now on.
    Now,
}

/// Bytes per fetch: small, because every partition has a fetch in memory.
const FETCH_BYTES_MAX: u32 = 256 << 10;

/// How long a broker holds a fetch that finds nothing.
const FETCH_WAIT: Duration = Duration::from_millis(500);

/// Fetched batches that wait for the printer, per channel.
const BATCHES_MAX: usize = 4;

/// Partitions watched at once: each has a connection.
const PARTITIONS_MAX: usize = 1_000;

type Batch = Result<Vec<Event>, Fault>;

/// Reads what `topics` hold now, in order of position over all partitions, and gives each event to
/// `take` until it says stop.
///
/// # Errors
/// A topic does not exist, or Kafka fails for longer than the reader bridges.
pub(crate) async fn read_all(
    cluster: &Cluster,
    topics: &BTreeSet<String>,
    take: impl FnMut(Event) -> Result<Go, Fault>,
) -> Result<(), Fault> {
    let mut lanes = Vec::new();
    for topic in topics {
        for partition in partitions(cluster, topic).await? {
            room(lanes.len())?;
            let begin = offset(cluster, topic, partition, OffsetOf::Earliest).await?;
            let end = offset(cluster, topic, partition, OffsetOf::LatestCommitted).await?;
            let (sender, receiver) = mpsc::channel(BATCHES_MAX);
            let lane = Lane { topic: topic.clone(), partition, sender, end: Some(end) };
            tokio::spawn(lane.read(reader(cluster, topic, partition, begin)));
            lanes.push(merge::Lane::new(receiver));
        }
    }
    merge::merged(lanes, take).await
}

/// Follows topics as they grow.
pub(crate) struct Follower {
    cluster: Cluster,
    known: BTreeSet<String>,
    partitions: usize,
    sender: mpsc::Sender<Batch>,
    receiver: mpsc::Receiver<Batch>,
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Go {
    On,
    Stop,
}

impl Follower {
    /// Follows nothing yet.
    pub(crate) fn new(cluster: Cluster) -> Self {
        let (sender, receiver) = mpsc::channel(BATCHES_MAX);
        Self { cluster, known: BTreeSet::new(), partitions: 0, sender, receiver }
    }

    /// Adds topics that are not followed yet.
    ///
    /// # Errors
    /// A topic does not exist, or there are too many partitions.
    pub(crate) async fn add(
        &mut self,
        topics: impl IntoIterator<Item = &String>,
        from: From,
    ) -> Result<(), Fault> {
        let which = match from {
            From::Beginning => OffsetOf::Earliest,
            From::Now => OffsetOf::LatestCommitted,
        };
        for topic in topics {
            if !self.known.insert(topic.clone()) {
                continue;
            }
            for partition in partitions(&self.cluster, topic).await? {
                room(self.partitions)?;
                self.partitions += 1;
                let begin = offset(&self.cluster, topic, partition, which).await?;
                let lane = Lane { topic: topic.clone(), partition, sender: self.sender.clone(), end: None };
                tokio::spawn(lane.read(reader(&self.cluster, topic, partition, begin)));
            }
        }
        Ok(())
    }

    /// What arrived, in order of position as far as it arrived together. Cancel-safe.
    ///
    /// # Errors
    /// A reader gave up.
    pub(crate) async fn next(&mut self) -> Result<Vec<Event>, Fault> {
        let mut events = match self.receiver.recv().await {
            Some(batch) => batch?,
            // Cannot be: this struct holds a sender.
            None => return Ok(Vec::new()),
        };
        while let Ok(batch) = self.receiver.try_recv() {
            events.extend(batch?);
        }
        events.sort_by_key(Event::order);
        Ok(events)
    }
}

/// One partition on its way to a channel. Its task ends when the other side is gone, at its end, or
/// with the error it sent.
struct Lane {
    topic: String,
    partition: i32,
    sender: mpsc::Sender<Batch>,
    /// Where to stop; `None` = never.
    end: Option<i64>,
}

impl Lane {
    async fn read(self, mut reader: PartitionReader) {
        while self.end.is_none_or(|end| reader.position() < end) {
            let polled = tokio::select! {
                polled = reader.poll() => polled,
                () = self.sender.closed() => return,
            };
            let batch = match polled {
                Ok(fetched) => {
                    let within = |offset| self.end.is_none_or(|end| offset < end);
                    let records = fetched.records.into_iter().filter(|record| within(record.offset));
                    Ok(records.map(|record| Event::new(&self.topic, self.partition, record)).collect())
                }
                Err(error) => Err(fault(&error, &self.topic)),
            };
            let failed = batch.is_err();
            let nothing = batch.as_ref().is_ok_and(Vec::is_empty);
            if !nothing && self.sender.send(batch).await.is_err() || failed {
                return;
            }
        }
    }
}

fn reader(cluster: &Cluster, topic: &str, partition: i32, begin: i64) -> PartitionReader {
    let options = ReaderOptions {
        isolation: Isolation::ReadCommitted,
        max_wait: FETCH_WAIT,
        max_bytes: FETCH_BYTES_MAX,
    };
    PartitionReader::new(cluster.clone(), topic, partition, begin, options)
}

async fn partitions(cluster: &Cluster, topic: &str) -> Result<std::ops::Range<i32>, Fault> {
    match admin::describe_topic(cluster, topic).await.map_err(|error| fault(&error, topic))? {
        Some(found) => Ok(0..i32::try_from(found.partitions).unwrap_or(i32::MAX)),
        None => Err(Fault::new(Code::TopicMissing, format!("topic {topic} does not exist"))
            .hint("leave out --topic to see the topics that this pipeline has written to")),
    }
}

async fn offset(cluster: &Cluster, topic: &str, partition: i32, which: OffsetOf) -> Result<i64, Fault> {
    admin::list_offset(cluster, topic, partition, which).await.map_err(|error| fault(&error, topic))
}

fn room(partitions: usize) -> Result<(), Fault> {
    if partitions < PARTITIONS_MAX {
        return Ok(());
    }
    Err(Fault::new(
        Code::ConfigValue,
        format!("more than {PARTITIONS_MAX} partitions cannot be watched at once"),
    )
    .hint("choose topics with --topic"))
}

fn fault(error: &Error, topic: &str) -> Fault {
    kafka_fault(error, &format!("cannot read topic {topic}"))
}
