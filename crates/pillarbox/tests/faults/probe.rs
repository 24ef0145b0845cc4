//! What Kafka holds, seen with librdkafka: offsets, the checkpoint, records with their parts.
//!
//! Must never write.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pillarbox_lab::consumer::await_markers;
use pillarbox_wire::header::{self, PbPos};
use pillarbox_wire::position::Position;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::harness::site::Site;

/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How long markers may take to be written: well below the timeout of a transaction.
const MARKERS_MAX: Duration = Duration::from_secs(10);

/// A record as far as these tests look at it.
pub(crate) struct Seen {
    pub(crate) position: Position,
    /// Header `pb-part`; 1 where it is absent.
    pub(crate) part: u32,
}

fn consumer(site: &Site, isolation: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", site.kafka.bootstrap())
        .set("group.id", "probe")
        .set("enable.auto.commit", "false")
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "20")
        .create()
        .expect("a consumer")
}

/// Looks for records that are written but neither committed nor aborted.
pub(crate) struct OpenTransactions {
    topics: Vec<String>,
    partitions: u32,
    checkpoint: String,
    written: BaseConsumer,
    stable: BaseConsumer,
}

impl OpenTransactions {
    pub(crate) fn watch(site: &Site, topics: &[String], partitions: u32) -> Self {
        let [written, stable] = ["read_uncommitted", "read_committed"].map(|level| consumer(site, level));
        let checkpoint = "__pillarbox.orders".to_owned();
        Self { topics: topics.to_vec(), partitions, checkpoint, written, stable }
    }

    /// Whether all transactions come to an end by themselves. Kafka answers a commit before its markers are written,
    /// which takes a moment; one that was left open stays so for its timeout, 30 s.
    pub(crate) fn end(&self) -> bool {
        let deadline = Instant::now() + MARKERS_MAX;
        while self.exist() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// Whether one of the partitions holds an open transaction now.
    pub(crate) fn exist(&self) -> bool {
        let end = |consumer: &BaseConsumer, topic: &str, partition| {
            let partition = i32::try_from(partition).expect("a few partitions");
            consumer.fetch_watermarks(topic, partition, ANSWER_MAX).expect("the broker answers").1
        };
        let open = |topic: &str, partition| {
            end(&self.stable, topic, partition) < end(&self.written, topic, partition)
        };
        open(&self.checkpoint, 0)
            || self.topics.iter().any(|topic| (0..self.partitions).any(|partition| open(topic, partition)))
    }
}

/// Names of all topics.
pub(crate) fn topics(site: &Site) -> Vec<String> {
    let metadata = consumer(site, "read_committed").fetch_metadata(None, ANSWER_MAX).expect("metadata");
    metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
}

/// The pipeline's checkpoint: the last value of each key.
pub(crate) fn checkpoint(site: &Site, pipeline: &str) -> BTreeMap<String, Value> {
    let mut table = BTreeMap::new();
    read(site, &format!("__pillarbox.{pipeline}"), 1, |message| {
        let key = String::from_utf8(message.key().expect("a key").to_vec()).expect("text");
        let value = serde_json::from_slice(message.payload().expect("a value")).expect("JSON");
        table.insert(key, value);
    });
    table
}

/// All records of a topic that are committed now, in position order.
pub(crate) fn records(site: &Site, topic: &str, partitions: i32) -> Vec<Seen> {
    let mut seen = Vec::new();
    read(site, topic, partitions, |message| {
        let text = |name| {
            let headers = message.headers().expect("headers");
            let value = headers.iter().find(|header| header.key == name)?.value?;
            Some(std::str::from_utf8(value).expect("text").to_owned())
        };
        let pb_pos = text(header::PB_POS).expect("pb-pos");
        let position = PbPos::parse(&pb_pos).expect("a position").position;
        let part = text(header::PB_PART).map_or(1, |part| part.parse().expect("a number"));
        seen.push(Seen { position, part });
    });
    seen.sort_unstable_by_key(|seen| seen.position);
    seen
}

/// Shows every record from the begin to the end of the committed part.
fn read(site: &Site, topic: &str, partitions: i32, mut show: impl FnMut(&BorrowedMessage<'_>)) {
    await_markers(&site.kafka.bootstrap(), topic).expect("Kafka answers");
    let consumer = consumer(site, "read_committed");
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&list).expect("an assignment");
    let deadline = Instant::now() + 2 * ANSWER_MAX;
    let mut open: BTreeSet<i32> = (0..partitions).collect();
    while !open.is_empty() {
        assert!(Instant::now() < deadline, "{topic} was not read to its end in time");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => show(&message),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.remove(&partition);
            }
            Some(Err(error)) => println!("reading {topic}: {error}"),
            None => {}
        }
    }
}
