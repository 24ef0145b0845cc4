//! Transactions whose content says what must come out, and a run that keeps the producer busy.

use std::sync::Arc;
use std::time::Duration;

use pillarbox_kafka::admin;
use pillarbox_kafka::producer::{
    Batch, Committed, Lost, LostReason, Outcome, Producer, TopicRef, Transaction,
};
use pillarbox_kafka::{Cluster, ClusterConfig};
use pillarbox_wire::record_batch::BatchBuilder;

/// No test waits longer than this for one outcome.
pub(crate) const OUTCOME_LIMIT: Duration = Duration::from_secs(60);

/// Data topic and checkpoint topic.
pub(crate) struct Topics {
    pub(crate) data: Arc<TopicRef>,
    pub(crate) partitions: i32,
    pub(crate) checkpoint: Arc<TopicRef>,
}

/// A cluster with short limits, so that faults show soon.
pub(crate) fn config(bootstrap: &str) -> ClusterConfig {
    ClusterConfig {
        connect_timeout: Duration::from_secs(10),
        request_timeout: Duration::from_secs(10),
        ..ClusterConfig::new(bootstrap.split(','))
    }
}

impl Topics {
    pub(crate) async fn find(cluster: &Cluster, data: &str, checkpoint: &str) -> Self {
        let (data, partitions) = Self::one(cluster, data).await;
        let (checkpoint, _) = Self::one(cluster, checkpoint).await;
        Self { data, partitions, checkpoint }
    }

    async fn one(cluster: &Cluster, name: &str) -> (Arc<TopicRef>, i32) {
        let found = admin::describe_topic(cluster, name).await.unwrap().expect("the topic exists");
        (Arc::new(TopicRef { name: found.name, id: found.id }), found.partitions as i32)
    }

    /// Transaction `n`: on every partition the values `n.0` and, in a second batch, `n.1`; checkpoint `n`.
    pub(crate) fn transaction(&self, n: u64, batches: u32) -> Transaction<u64> {
        let mut data = Vec::new();
        for partition in 0..self.partitions {
            for round in 0..batches {
                data.push(batch(&self.data, partition, &format!("{n}.{round}")));
            }
        }
        Transaction { data, last: batch(&self.checkpoint, 0, &n.to_string()), tag: n }
    }

    /// What each partition must hold after transactions `0..count`.
    pub(crate) fn expected(&self, count: u64, batches: u32) -> Vec<String> {
        (0..count).flat_map(|n| (0..batches).map(move |round| format!("{n}.{round}"))).collect()
    }
}

/// One record.
pub(crate) fn batch(topic: &Arc<TopicRef>, partition: i32, value: &str) -> Batch {
    let mut builder = BatchBuilder::new();
    builder.append(now_ms(), Some(b"key"), Some(value.as_bytes()), &[]).unwrap();
    builder.finish();
    Batch::from_vec(Arc::clone(topic), partition, builder.take(), 1)
}

/// The broker deletes what is older than a topic's retention, half a minute after its start.
fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_millis() as i64
}

pub(crate) async fn next(producer: &mut Producer<u64>) -> Outcome<u64> {
    tokio::time::timeout(OUTCOME_LIMIT, producer.next()).await.expect("an outcome in time")
}

pub(crate) async fn next_committed(producer: &mut Producer<u64>) -> Committed<u64> {
    match next(producer).await {
        Outcome::Committed(committed) => committed,
        Outcome::Lost(lost) => panic!("lost: {:?}", lost.reason),
    }
}

pub(crate) async fn next_lost(producer: &mut Producer<u64>) -> Lost<u64> {
    loop {
        if let Outcome::Lost(lost) = next(producer).await {
            return lost;
        }
    }
}

/// Keeps the producer full until transactions `range` are committed, in order.
pub(crate) async fn drive(
    producer: &mut Producer<u64>,
    topics: &Topics,
    range: std::ops::Range<u64>,
    batches: u32,
) {
    try_drive(producer, topics, range, batches).await.expect("nothing is lost");
    assert_eq!(producer.in_flight(), 0);
}

/// The same, until the producer is lost.
pub(crate) async fn try_drive(
    producer: &mut Producer<u64>,
    topics: &Topics,
    range: std::ops::Range<u64>,
    batches: u32,
) -> Result<(), LostReason> {
    let mut submitted = range.start;
    for expected in range.clone() {
        while submitted < range.end && producer.can_submit() {
            producer.submit(topics.transaction(submitted, batches));
            submitted += 1;
        }
        match next(producer).await {
            Outcome::Committed(committed) => {
                assert_eq!(committed.transaction.tag, expected, "commits come in submit order");
            }
            Outcome::Lost(lost) => return Err(lost.reason),
        }
    }
    Ok(())
}
