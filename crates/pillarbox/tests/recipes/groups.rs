//! Offsets of consumer groups, read and set with librdkafka as an operator would.
//!
//! Must never join a group.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The committed offsets of a group, by partition; none where it has committed none.
pub(crate) fn offsets(bootstrap: &str, group: &str, topic: &str) -> BTreeMap<i32, i64> {
    let consumer = consumer(bootstrap, group);
    let list = consumer.committed_offsets(partitions(&consumer, topic), ANSWER_MAX).expect("Kafka answers");
    let elements = list.elements();
    let committed = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
        let Offset::Offset(offset) = element.offset() else { return None };
        Some((element.partition(), offset))
    };
    elements.iter().filter_map(committed).collect()
}

/// Sets the offsets of a group without members to the begin of the topic.
pub(crate) fn rewind(bootstrap: &str, group: &str, topic: &str) {
    let consumer = consumer(bootstrap, group);
    let mut list = partitions(&consumer, topic);
    list.set_all_offsets(Offset::Offset(0)).expect("offsets");
    consumer.commit(&list, CommitMode::Sync).expect("Kafka takes the offsets");
}

fn consumer(bootstrap: &str, group: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("group.id", group).set("enable.auto.commit", "false");
    config.create().expect("a consumer")
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> TopicPartitionList {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_MAX).expect("metadata");
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        list.add_partition(topic, partition.id());
    }
    list
}
