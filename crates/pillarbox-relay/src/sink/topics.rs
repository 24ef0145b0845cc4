//! What a topic takes, and whether it is still the one that this pipeline has been writing to.
//!
//! | found | done |
//! | --- | --- |
//! | never recorded, exists | used as it is; its partition count is pinned with its first event |
//! | never recorded, missing | created, or halt where `kafka.topics.create` is off |
//! | recorded, missing | halt: its events are gone |
//! | recorded, other id | halt: it was deleted and re-created |
//! | recorded, more partitions | go on with the pinned count and warn |
//! | recorded, fewer partitions | halt: that cannot be the same topic |

use futures_util::stream::{self, StreamExt, TryStreamExt};
use pillarbox_failpoint::{Step, hit};
use pillarbox_kafka::admin::{self, TopicDescription, TopicSpec};
use pillarbox_kafka::{Cluster, ErrorCode};

use super::kafka_fault;
use crate::config::Config;
use crate::error::{Code, Fault};
use crate::position::checkpoint::{Table, TopicRecord};
use crate::route::{Topic, TopicLimits};

/// How many topics are looked at together: one after another, 25 of them 200 ms away take all the time that a start has.
const TOPICS_AT_ONCE: usize = 32;

/// The recorded topics, with their limits as of now.
pub(crate) async fn recorded(cluster: &Cluster, table: &Table) -> Result<Vec<Topic>, Fault> {
    let looks = table.topics.iter().map(|(name, record)| again(cluster, name, record));
    let found: Vec<Topic> = stream::iter(looks).buffered(TOPICS_AT_ONCE).try_collect().await?;
    let mut topics = Vec::with_capacity(found.len());
    for ((name, record), now) in table.topics.iter().zip(found) {
        if now.partitions > record.partitions {
            tracing::warn!(
                code = %Code::TopicGrew,
                topic = name,
                partitions = now.partitions,
                pinned = record.partitions,
                "the topic has more partitions than are pinned; going on with the pinned count to keep the order of keys"
            );
        }
        let TopicRecord { partitions, first_slot, .. } = *record;
        topics.push(Topic { partitions, first_slot, recorded: true, ..now });
    }
    Ok(topics)
}

/// A recorded topic as it is now, with all its partitions and no slots yet.
///
/// # Errors
/// It is gone, or another one.
pub(crate) async fn again(cluster: &Cluster, name: &str, record: &TopicRecord) -> Result<Topic, Fault> {
    let described = describe(cluster, name).await?;
    let TopicDescription { id, partitions, .. } = same(name, record, described)?;
    let limits = limits(cluster, name).await?;
    Ok(Topic { name: name.to_owned(), id, partitions, first_slot: 0, recorded: false, limits })
}

/// What was described, if it is still the recorded topic.
fn same(
    name: &str,
    record: &TopicRecord,
    described: Option<TopicDescription>,
) -> Result<TopicDescription, Fault> {
    let Some(described) = described else {
        return Err(Fault::new(Code::TopicGone, format!("topic {name} holds events of this pipeline, but does not exist"))
            .hint("restore the topic, or find out which consumers lost events before you let the pipeline start it anew"));
    };
    if described.id.to_string() != record.topic_id {
        let message = format!(
            "topic {name} was deleted and re-created: its id is {}, events went to {}",
            described.id, record.topic_id
        );
        return Err(Fault::new(Code::TopicReplaced, message)
            .hint("its earlier events are gone: find out which consumers still need them before you go on"));
    }
    if described.partitions < record.partitions {
        let message =
            format!("topic {name} has {} partitions, {} are pinned", described.partitions, record.partitions);
        return Err(
            Fault::new(Code::TopicShrank, message).hint("a topic cannot shrink: this is another topic")
        );
    }
    Ok(described)
}

/// A topic that no checkpoint records: as it is, or created.
pub(crate) async fn resolve(cluster: &Cluster, config: &Config, name: &str) -> Result<Topic, Fault> {
    let described = match describe(cluster, name).await? {
        Some(described) => described,
        None if config.kafka.topics.create => create(cluster, spec(config, name)).await?,
        None => {
            return Err(Fault::new(Code::TopicMissing, format!("topic {name} does not exist")).hint(
                format!(
                    "create it (kafka-topics.sh --create --topic {name}), or set kafka.topics.create: true"
                ),
            ));
        }
    };
    Ok(Topic {
        name: name.to_owned(),
        id: described.id,
        partitions: described.partitions,
        first_slot: 0,
        recorded: false,
        limits: limits(cluster, name).await?,
    })
}

/// How a missing topic is created. Dead letters are one order of records, and kept until a person
/// deletes them: some rows exist nowhere else.
pub(crate) fn spec(config: &Config, name: &str) -> TopicSpec {
    let letters = name == config.dead_letter_topic();
    let kept = [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")];
    let kept = kept.map(|(name, value)| (name.to_owned(), value.to_owned()));
    TopicSpec {
        name: name.to_owned(),
        partitions: if letters { 1 } else { config.kafka.topics.partitions },
        replication_factor: config.kafka.topics.replication_factor,
        configs: if letters { kept.into() } else { Vec::new() },
    }
}

async fn create(cluster: &Cluster, spec: TopicSpec) -> Result<TopicDescription, Fault> {
    let name = spec.name.as_str();
    let attempt = format!("cannot create topic {name}");
    let failed = |error: &pillarbox_kafka::Error| {
        let fault = kafka_fault(error, &attempt);
        match (fault.code, error.code()) {
            // Kafka counts no broker at all while they are out of touch with their controller.
            (Code::KafkaProtocol, Some(ErrorCode::INVALID_REPLICATION_FACTOR)) => Fault { code: Code::KafkaProduce, ..fault }
                .hint("there are fewer brokers than the topic is to have replicas: it is created once there are enough; if there never are, lower kafka.topics.replication_factor, or create the topic"),
            (Code::KafkaProtocol, _) if !error.is_retriable() => Fault { code: Code::TopicCreate, ..fault }
                .hint("correct kafka.topics, or create the topic yourself; of two names that differ by dots and underscores alone Kafka takes one"),
            _ => fault,
        }
    };
    admin::create_topic(cluster, &spec).await.map_err(|error| failed(&error))?;
    hit(Step::TopicCreated);
    tracing::info!(topic = name, "created a topic");
    describe(cluster, name).await?.ok_or_else(|| {
        Fault::new(Code::KafkaProtocol, format!("topic {name} was created, but Kafka does not show it yet"))
    })
}

async fn describe(cluster: &Cluster, name: &str) -> Result<Option<TopicDescription>, Fault> {
    admin::describe_topic(cluster, name)
        .await
        .map_err(|error| kafka_fault(&error, &format!("cannot describe topic {name}")))
}

async fn limits(cluster: &Cluster, name: &str) -> Result<TopicLimits, Fault> {
    let limits = admin::topic_limits(cluster, name)
        .await
        .map_err(|error| kafka_fault(&error, &format!("cannot read the settings of topic {name}")))?;
    Ok(TopicLimits {
        batch_bytes_max: usize::try_from(limits.max_message_bytes).unwrap_or(0),
        retention_ms: limits.retention_ms.map(milliseconds),
        before_max_ms: limits.timestamp_before_max_ms.map_or(i64::MAX, milliseconds),
        after_max_ms: limits.timestamp_after_max_ms.map_or(i64::MAX, milliseconds),
        compacted: limits.compact,
    })
}

fn milliseconds(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
