//! Reads topics with librdkafka, for what the judge does not look at: parts, replicas, aborted records.
//!
//! Must never commit an offset.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// How long metadata may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long reading everything may take.
const READ_MAX: Duration = Duration::from_secs(900);
/// How often the deadline is looked at.
const POLL_MAX: Duration = Duration::from_millis(200);

/// Which records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// Those of committed transactions.
    Committed,
    /// Those of aborted and open ones too.
    Uncommitted,
}

/// Reads a topic from begin to end, in offset order within each partition; gives how many records there are.
///
/// # Panics
/// Where Kafka does not answer in time.
pub(crate) fn read(
    bootstrap: &str,
    topic: &str,
    isolation: Isolation,
    mut take: impl FnMut(&BorrowedMessage<'_>),
) -> u64 {
    settle(bootstrap, topic, isolation);
    let consumer = consumer(bootstrap, isolation);
    let mut open = partitions(&consumer, topic);
    let mut all = TopicPartitionList::new();
    for (partition, _) in &open {
        all.add_partition_offset(topic, *partition, Offset::Beginning).expect("a partition");
    }
    consumer.assign(&all).expect("assigned");
    let started = Instant::now();
    let mut count = 0;
    while !open.is_empty() {
        assert!(started.elapsed() < READ_MAX, "{topic} was not read within {READ_MAX:?}");
        match consumer.poll(POLL_MAX) {
            Some(Ok(message)) => {
                count += 1;
                take(&message);
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => open.retain(|(id, _)| *id != partition),
            // Outages are repaired by librdkafka; what it cannot repair meets the deadline.
            Some(Err(_)) | None => {}
        }
    }
    count
}

/// Reads several topics at once, each partition in offset order. They must be at rest: librdkafka tells the end of a
/// partition without its topic, so the ends are counted.
///
/// # Panics
/// Where Kafka does not answer in time.
pub(crate) fn read_all(
    bootstrap: &str,
    topics: &[&str],
    isolation: Isolation,
    mut take: impl FnMut(&BorrowedMessage<'_>),
) {
    topics.iter().for_each(|topic| settle(bootstrap, topic, isolation));
    let consumer = consumer(bootstrap, isolation);
    let mut all = TopicPartitionList::new();
    for topic in topics {
        for (partition, _) in partitions(&consumer, topic) {
            all.add_partition_offset(topic, partition, Offset::Beginning).expect("a partition");
        }
    }
    consumer.assign(&all).expect("assigned");
    let started = Instant::now();
    let mut ends = 0;
    while ends < all.count() {
        assert!(started.elapsed() < READ_MAX, "{topics:?} were not read within {READ_MAX:?}");
        match consumer.poll(POLL_MAX) {
            Some(Ok(message)) => take(&message),
            Some(Err(KafkaError::PartitionEOF(_))) => ends += 1,
            Some(Err(_)) | None => {}
        }
    }
}

/// What was committed just now is to be seen.
fn settle(bootstrap: &str, topic: &str, isolation: Isolation) {
    if isolation == Isolation::Committed {
        pillarbox_lab::consumer::await_markers(bootstrap, topic).expect("Kafka answers");
    }
}

/// Whether a topic is there.
pub(crate) fn exists(bootstrap: &str, topic: &str) -> bool {
    let metadata =
        consumer(bootstrap, Isolation::Committed).fetch_metadata(None, ANSWER_MAX).expect("metadata");
    metadata.topics().iter().any(|found| found.name() == topic)
}

/// Replicas of each partition of a topic.
pub(crate) fn replicas(bootstrap: &str, topic: &str) -> Vec<usize> {
    partitions(&consumer(bootstrap, Isolation::Committed), topic)
        .into_iter()
        .map(|(_, count)| count)
        .collect()
}

/// A header as text.
pub(crate) fn header(message: &BorrowedMessage<'_>, name: &str) -> Option<String> {
    let value = message.headers()?.iter().find(|header| header.key == name)?.value?;
    String::from_utf8(value.to_vec()).ok()
}

fn consumer(bootstrap: &str, isolation: Isolation) -> BaseConsumer {
    let isolation = match isolation {
        Isolation::Committed => "read_committed",
        Isolation::Uncommitted => "read_uncommitted",
    };
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        // Required by librdkafka even without a group.
        .set("group.id", "pillarbox-test")
        .set("enable.auto.commit", "false")
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer")
}

/// Partition and number of replicas.
fn partitions(consumer: &BaseConsumer, topic: &str) -> Vec<(i32, usize)> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_MAX).expect("metadata");
    let found = metadata.topics().iter().find(|found| found.name() == topic).expect("the topic");
    assert!(!found.partitions().is_empty(), "topic {topic} does not exist");
    found.partitions().iter().map(|partition| (partition.id(), partition.replicas().len())).collect()
}
