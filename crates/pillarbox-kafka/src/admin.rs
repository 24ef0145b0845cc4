//! Topics, their limits and offsets: what a relay must know before it writes.
//!
//! Every function is one question with one answer. It never creates a topic unless told to, and an absent topic is
//! `None`, not an error, only when the brokers agree about it.

use std::time::{Duration, Instant};

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{
    ApiKey, BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest, ListOffsetsRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::error::{Error, ErrorCode};

mod limits;

pub use limits::{BrokerLimits, TimestampType, TopicLimits, broker_limits, topic_limits};

/// How long a broker may take to carry out a change of topics.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Attempts for an answer that contradicts what was just done: a broker learns of a new topic, of its leader or of
/// its deletion a moment after the controller (measured: under 200 ms on three brokers).
const ATTEMPTS_MAX: u32 = 50;

/// Pause between those attempts.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(20);

/// Attempts before a topic that no broker knows is believed to be absent.
const ABSENCE_ATTEMPTS: u32 = 3;

/// A topic to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Topic name.
    pub name: String,
    /// Number of partitions; -1 = the broker's default.
    pub partitions: i32,
    /// Replicas of each; -1 = the broker's default.
    pub replication_factor: i16,
    /// Topic configuration, name and value.
    pub configs: Vec<(String, String)>,
}

/// What [`create_topic`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// It is new.
    Created,
    /// There was one of this name; its settings were not looked at.
    AlreadyExists,
}

/// A topic as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// Topic name.
    pub name: String,
    /// Changes when a topic is deleted and created again.
    pub id: Uuid,
    /// Number of partitions.
    pub partitions: u32,
    /// Replicas assigned to partition 0.
    pub replication_factor: u32,
    /// Fewest in-sync replicas over all partitions.
    pub in_sync_min: u32,
    /// Partitions without a leader at the moment.
    pub leaderless: u32,
}

/// Which offset [`list_offset`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetOf {
    /// First offset still in the log.
    Earliest,
    /// High watermark: the end of what is replicated, open transactions included.
    Latest,
    /// Last stable offset: the end of what a `read_committed` consumer may see.
    LatestCommitted,
}

/// Creates a topic and waits until a broker knows it.
pub async fn create_topic(cluster: &Cluster, spec: &TopicSpec) -> Result<Creation, Error> {
    let configs = spec.configs.iter().map(|(name, value)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    });
    let topic = CreatableTopic::default()
        .with_name(topic_name(&spec.name))
        .with_num_partitions(spec.partitions)
        .with_replication_factor(spec.replication_factor)
        .with_configs(configs.collect());
    let request =
        CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(millis(CHANGE_TIMEOUT));
    let answer = cluster.call_any(&request).await?;
    let code =
        answer.topics.first().map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |topic| ErrorCode(topic.error_code));
    if code == ErrorCode::TOPIC_ALREADY_EXISTS {
        return Ok(Creation::AlreadyExists);
    }
    code.check(ApiKey::CreateTopics, || spec.name.clone())?;
    await_leaders(cluster, &spec.name).await?;
    Ok(Creation::Created)
}

/// Waits until every broker that can be reached knows a leader for each partition.
async fn await_leaders(cluster: &Cluster, name: &str) -> Result<(), Error> {
    let led = |topic: &MetadataResponseTopic| {
        topic.error_code == 0 && topic.partitions.iter().all(|partition| partition.leader_id.0 >= 0)
    };
    let started = Instant::now();
    while started.elapsed() < CHANGE_TIMEOUT {
        if cluster.topic_everywhere(name).await?.iter().all(led) {
            return Ok(());
        }
        tokio::time::sleep(ATTEMPT_PAUSE).await;
    }
    let after = CHANGE_TIMEOUT;
    Err(Error::Deadline { what: "leader election", topic: name.to_owned(), partition: 0, after })
}

/// A topic by name; `None` = it does not exist. A broker may lag behind the controller: absence is believed only when
/// every broker that can be reached says so, several times in a row.
pub async fn describe_topic(cluster: &Cluster, name: &str) -> Result<Option<TopicDescription>, Error> {
    for attempt in 1.. {
        let views = cluster.topic_everywhere(name).await?;
        if let Some(topic) = views.iter().find(|topic| topic.error_code == 0) {
            return Ok(Some(description(topic)));
        }
        let absent = |topic: &MetadataResponseTopic| {
            ErrorCode(topic.error_code) == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
        };
        match views.iter().find(|topic| !absent(topic)) {
            None if attempt >= ABSENCE_ATTEMPTS => return Ok(None),
            Some(topic) if attempt >= ATTEMPTS_MAX || !ErrorCode(topic.error_code).is_retriable() => {
                ErrorCode(topic.error_code).check(ApiKey::Metadata, || name.to_owned())?;
            }
            _ => {}
        }
        tokio::time::sleep(ATTEMPT_PAUSE).await;
    }
    Ok(None)
}

/// Topics by id, in the order asked; `None` = no topic has this id any more.
pub async fn describe_topics_by_id(
    cluster: &Cluster,
    ids: &[Uuid],
) -> Result<Vec<Option<TopicDescription>>, Error> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = ids.iter().map(|id| MetadataRequestTopic::default().with_topic_id(*id).with_name(None));
    let answer = cluster.metadata(Some(wanted.collect())).await?;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let topic = answer.topics.iter().find(|topic| topic.topic_id == *id);
        let code = topic.map_or(ErrorCode::UNKNOWN_TOPIC_ID, |topic| ErrorCode(topic.error_code));
        found.push(match (code, topic) {
            (ErrorCode::NONE, Some(topic)) => Some(description(topic)),
            (ErrorCode::UNKNOWN_TOPIC_ID | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, _) => None,
            (code, _) => {
                code.check(ApiKey::Metadata, || id.to_string())?;
                None
            }
        });
    }
    Ok(found)
}

/// Every topic of the cluster that we may see, internal ones left out.
pub async fn list_topics(cluster: &Cluster) -> Result<Vec<TopicDescription>, Error> {
    let answer = cluster.metadata(None).await?;
    let visible = answer.topics.iter().filter(|topic| topic.error_code == 0 && !topic.is_internal);
    Ok(visible.map(description).collect())
}

fn description(topic: &MetadataResponseTopic) -> TopicDescription {
    let first = topic.partitions.iter().find(|partition| partition.partition_index == 0);
    TopicDescription {
        name: topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default(),
        id: topic.topic_id,
        partitions: count(topic.partitions.len()),
        replication_factor: count(first.map_or(0, |partition| partition.replica_nodes.len())),
        in_sync_min: count(
            topic.partitions.iter().map(|partition| partition.isr_nodes.len()).min().unwrap_or(0),
        ),
        leaderless: count(topic.partitions.iter().filter(|partition| partition.leader_id.0 < 0).count()),
    }
}

/// Deletes a topic; `false` if there was none.
pub async fn delete_topic(cluster: &Cluster, name: &str) -> Result<bool, Error> {
    let state = DeleteTopicState::default().with_name(Some(topic_name(name)));
    // The field of version 6 and that of the older ones; the codec writes the one that fits.
    let connection = cluster.any_connection().await?;
    let by_state = connection.version_of::<DeleteTopicsRequest>()? >= 6;
    let request = DeleteTopicsRequest::default().with_timeout_ms(millis(CHANGE_TIMEOUT));
    let request = match by_state {
        true => request.with_topics(vec![state]),
        false => request.with_topic_names(vec![topic_name(name)]),
    };
    let answer = connection.call(&request).await?;
    let code =
        answer.responses.first().map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |topic| ErrorCode(topic.error_code));
    if code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION {
        return Ok(false);
    }
    code.check(ApiKey::DeleteTopics, || name.to_owned())?;
    Ok(true)
}

/// Raises the number of partitions of a topic to `partitions`.
pub async fn increase_partitions(cluster: &Cluster, name: &str, partitions: i32) -> Result<(), Error> {
    let topic = CreatePartitionsTopic::default()
        .with_name(topic_name(name))
        .with_count(partitions)
        .with_assignments(None);
    let request =
        CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(millis(CHANGE_TIMEOUT));
    let answer = cluster.call_any(&request).await?;
    let code =
        answer.results.first().map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |topic| ErrorCode(topic.error_code));
    code.check(ApiKey::CreatePartitions, || name.to_owned())
}

/// Deletes the records of a partition below `before`; gives the new first offset.
pub async fn delete_records(
    cluster: &Cluster,
    topic: &str,
    partition: i32,
    before: i64,
) -> Result<i64, Error> {
    let at = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(before);
    let topics = DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![at]);
    let request =
        DeleteRecordsRequest::default().with_topics(vec![topics]).with_timeout_ms(millis(CHANGE_TIMEOUT));
    for attempt in 1.. {
        let (leader, _) = leader_of(cluster, topic, partition, attempt > 1).await?;
        let answer = cluster.call_broker(leader, &request).await?;
        let result = answer.topics.first().and_then(|topic| topic.partitions.first());
        let code = result.map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |result| ErrorCode(result.error_code));
        if !retry(code, attempt).await {
            code.check(ApiKey::DeleteRecords, || topic.to_owned())?;
            return Ok(result.map_or(before, |result| result.low_watermark));
        }
    }
    Err(Error::NoLeader { topic: topic.to_owned(), partition })
}

/// One offset of one partition, asked from its leader; follows a leader change.
pub async fn list_offset(
    cluster: &Cluster,
    topic: &str,
    partition: i32,
    which: OffsetOf,
) -> Result<i64, Error> {
    for attempt in 1.. {
        let (leader, leader_epoch) = leader_of(cluster, topic, partition, attempt > 1).await?;
        let request = list_offsets(cluster, topic, partition, leader_epoch, which);
        let answer = match cluster.call_broker(leader, &request).await {
            Err(error) if error.is_unreachable() && attempt < ATTEMPTS_MAX => {
                tokio::time::sleep(ATTEMPT_PAUSE).await;
                continue;
            }
            answer => answer?,
        };
        let result = answer.topics.first().and_then(|topic| topic.partitions.first());
        let code = result.map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |result| ErrorCode(result.error_code));
        if !retry(code, attempt).await {
            code.check(ApiKey::ListOffsets, || topic.to_owned())?;
            return Ok(result.map_or(0, |result| result.offset));
        }
    }
    Err(Error::NoLeader { topic: topic.to_owned(), partition })
}

fn list_offsets(
    cluster: &Cluster,
    topic: &str,
    partition: i32,
    leader_epoch: i32,
    which: OffsetOf,
) -> ListOffsetsRequest {
    let at = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_current_leader_epoch(leader_epoch)
        .with_timestamp(if which == OffsetOf::Earliest { -2 } else { -1 });
    let topics = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![at]);
    ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(i8::from(which == OffsetOf::LatestCommitted))
        .with_topics(vec![topics])
        .with_timeout_ms(millis(cluster.config().request_timeout))
}

/// Pauses and says yes if the same question may get a better answer.
async fn retry(code: ErrorCode, attempt: u32) -> bool {
    let again = code.is_retriable() && attempt < ATTEMPTS_MAX;
    if again {
        tokio::time::sleep(ATTEMPT_PAUSE).await;
    }
    again
}

/// Leader and leader epoch of a partition, from memory unless `fresh`; waits a moment for an election.
pub(crate) async fn leader_of(
    cluster: &Cluster,
    topic: &str,
    partition: i32,
    fresh: bool,
) -> Result<(i32, i32), Error> {
    if !fresh && let Some(leader) = cluster.leadership(topic, partition) {
        return Ok(leader);
    }
    for attempt in 1.. {
        let answers = cluster.refresh(&[topic]).await?;
        if let Some(leader) = cluster.leadership(topic, partition) {
            return Ok(leader);
        }
        let code = answers.first().map_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, |answer| answer.code);
        let absent = code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION && attempt >= ABSENCE_ATTEMPTS;
        if absent || attempt >= ATTEMPTS_MAX || !(code.is_retriable() || code == ErrorCode::NONE) {
            code.check(ApiKey::Metadata, || topic.to_owned())?;
            break;
        }
        tokio::time::sleep(ATTEMPT_PAUSE).await;
    }
    Err(Error::NoLeader { topic: topic.to_owned(), partition })
}

pub(crate) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

pub(crate) fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
