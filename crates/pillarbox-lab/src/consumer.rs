//! An independent reader of what the relay wrote: librdkafka, `read_committed`.
//!
//! Two forms: [`read_to_end`] for the checker, [`Tail`] with receipt times for latency. Must never share code
//! with the product's own Kafka client, and never commits offsets: it leaves no trace in the cluster.

use std::time::{Duration, Instant, SystemTime};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::LabError;
use crate::history::{Observed, ValueHash};

/// Longest wait for metadata or a watermark.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long one poll waits: only how often a deadline is looked at, records end it at once.
const POLL_MAX: Duration = Duration::from_millis(200);
/// Longest wait for markers. A transaction that nobody ends stays open for longer.
const MARKERS_MAX: Duration = Duration::from_secs(10);
/// How often they are looked for.
const MARKERS_INTERVAL: Duration = Duration::from_millis(20);

/// Reads all partitions of these topics from their begin to their current end (the last stable offset: an open
/// transaction hides what follows; those that are being ended are waited for). In offset order within each partition. Fails
/// if that takes longer than `timeout`, or a topic does not exist.
pub fn read_to_end(bootstrap: &str, topics: &[String], timeout: Duration) -> Result<Vec<Observed>, LabError> {
    let deadline = Instant::now() + timeout;
    let mut records = Vec::new();
    for topic in topics {
        await_markers(bootstrap, topic)?;
        read_topic(bootstrap, topic, deadline, &mut records)?;
    }
    Ok(records)
}

/// One topic at a time: librdkafka's end-of-partition event does not name the topic.
fn read_topic(
    bootstrap: &str,
    topic: &str,
    deadline: Instant,
    records: &mut Vec<Observed>,
) -> Result<(), LabError> {
    let consumer = consumer(bootstrap)?;
    let mut open = assign_from_begin(&consumer, topic)?;
    while !open.is_empty() {
        if Instant::now() > deadline {
            return Err(LabError::Kafka { what: format!("topic {topic} was not read to its end in time") });
        }
        match consumer.poll(POLL_MAX) {
            Some(Ok(message)) => records.push(observed(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => open.retain(|p| *p != partition),
            Some(Err(error)) if is_outage(&error) => {}
            Some(Err(error)) => return Err(failed("read", topic, &error)),
            None => {}
        }
    }
    Ok(())
}

/// Waits until all that a topic holds now is visible to `read_committed`, for ten seconds at most. Kafka says that a
/// transaction is committed before its markers are written: whoever reads at once may not see the last of it.
pub fn await_markers(bootstrap: &str, topic: &str) -> Result<(), LabError> {
    let deadline = Instant::now() + MARKERS_MAX;
    let (all, committed) = (reader(bootstrap, "read_uncommitted")?, consumer(bootstrap)?);
    let end = |consumer: &BaseConsumer, partition| {
        consumer.fetch_watermarks(topic, partition, MARKERS_MAX).map(|(_, end)| end)
    };
    for partition in partitions(&all, topic)? {
        // A leader that is away is the reader's business.
        let Ok(written) = end(&all, partition) else { continue };
        while Instant::now() < deadline && !end(&committed, partition).is_ok_and(|visible| visible >= written)
        {
            std::thread::sleep(MARKERS_INTERVAL);
        }
    }
    Ok(())
}

/// One record with the time it was received.
#[derive(Debug, Clone)]
pub struct Received {
    /// The record.
    pub record: Observed,
    /// When `Tail::next` got it from librdkafka.
    pub at: SystemTime,
}

/// Follows topics from their end at the time of `start`.
pub struct Tail {
    consumer: BaseConsumer,
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tail")
    }
}

impl Tail {
    /// Takes the end of each partition as it is now: whatever is written after this returns will be seen.
    pub fn start(bootstrap: &str, topics: &[String]) -> Result<Self, LabError> {
        let consumer = consumer(bootstrap)?;
        let mut all = TopicPartitionList::new();
        for topic in topics {
            for partition in partitions(&consumer, topic)? {
                let (_, end) = consumer
                    .fetch_watermarks(topic, partition, ANSWER_MAX)
                    .map_err(|e| failed("find the end of", topic, &e))?;
                all.add_partition_offset(topic, partition, Offset::Offset(end))
                    .map_err(|e| failed("assign", topic, &e))?;
            }
        }
        consumer.assign(&all).map_err(|e| failed("assign", "all", &e))?;
        Ok(Self { consumer })
    }

    /// The next record, or `None` where none comes in time.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Received>, LabError> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.consumer.poll(left.min(POLL_MAX)) {
                Some(Ok(message)) => {
                    return Ok(Some(Received { at: SystemTime::now(), record: observed(&message) }));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) if is_outage(&error) => {}
                Some(Err(error)) => return Err(failed("follow", "all", &error)),
                None => {}
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }
}

/// A consumer of committed records.
fn consumer(bootstrap: &str) -> Result<BaseConsumer, LabError> {
    reader(bootstrap, "read_committed")
}

/// A consumer without a group's life: it is assigned partitions, never subscribed.
fn reader(bootstrap: &str, isolation: &str) -> Result<BaseConsumer, LabError> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        // Required by librdkafka even so.
        .set("group.id", "pillarbox-lab")
        .set("enable.auto.commit", "false")
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .set("fetch.wait.max.ms", "100")
        // A crash test's broker comes back soon.
        .set("reconnect.backoff.max.ms", "500")
        .create()
        .map_err(|e| failed("connect for", "all", &e))
}

/// Assigns all partitions of a topic from their begin; gives their numbers.
fn assign_from_begin(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>, LabError> {
    let numbers = partitions(consumer, topic)?;
    let mut list = TopicPartitionList::new();
    for partition in &numbers {
        list.add_partition_offset(topic, *partition, Offset::Beginning)
            .map_err(|e| failed("assign", topic, &e))?;
    }
    consumer.assign(&list).map_err(|e| failed("assign", topic, &e))?;
    Ok(numbers)
}

/// The partitions of a topic that exists.
fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>, LabError> {
    let metadata =
        consumer.fetch_metadata(Some(topic), ANSWER_MAX).map_err(|e| failed("look up", topic, &e))?;
    let found = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none());
    let numbers: Vec<i32> = found.iter().flat_map(|t| t.partitions()).map(|p| p.id()).collect();
    if numbers.is_empty() {
        return Err(LabError::Kafka { what: format!("topic {topic} does not exist") });
    }
    Ok(numbers)
}

/// Takes what the checker needs out of a record.
fn observed(message: &BorrowedMessage<'_>) -> Observed {
    let header = |name: &str| {
        let headers = message.headers()?;
        let value = headers.iter().find(|h| h.key == name)?.value?;
        String::from_utf8(value.to_vec()).ok()
    };
    Observed {
        topic: message.topic().to_owned(),
        partition: message.partition().unsigned_abs(),
        offset: message.offset().unsigned_abs(),
        id: header(pillarbox_wire::header::ID),
        pb_pos: header(pillarbox_wire::header::PB_POS),
        key: message.key().map(<[u8]>::to_vec),
        value: ValueHash::of(message.payload()),
    }
}

/// True for errors that librdkafka reports and then repairs itself while brokers come and go.
fn is_outage(error: &KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    let transient =
        [Code::BrokerTransportFailure, Code::AllBrokersDown, Code::Resolve, Code::OperationTimedOut];
    error.rdkafka_error_code().is_some_and(|code| transient.contains(&code))
}

fn failed(action: &str, topic: &str, error: &KafkaError) -> LabError {
    LabError::Kafka { what: format!("cannot {action} topic {topic}: {error}") }
}
