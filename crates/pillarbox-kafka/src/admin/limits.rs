//! Limits a broker or a topic puts on what may be written, by DescribeConfigs.
//!
//! A value that is missing or does not parse becomes Kafka's default for it. It never writes a configuration.

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::{ApiKey, DescribeConfigsRequest};

use crate::admin::text;
use crate::cluster::Cluster;
use crate::error::{Error, ErrorCode};

/// Resource types of DescribeConfigs.
const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;

/// What timestamps a topic keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    /// As the producer wrote them.
    CreateTime,
    /// When the broker appended them.
    LogAppendTime,
}

/// What a topic accepts and how long it keeps it. Times in milliseconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicLimits {
    /// Largest record batch (compressed, header included).
    pub max_message_bytes: u64,
    /// `compression.type`: a codec, `uncompressed`, or `producer` to store batches as they come.
    pub compression_type: String,
    /// None = for ever.
    pub retention_ms: Option<u64>,
    /// None = no limit by size.
    pub retention_bytes: Option<u64>,
    /// `cleanup.policy` contains `compact`: records need a key.
    pub compact: bool,
    /// `cleanup.policy` contains `delete`.
    pub delete: bool,
    /// Whose clock a record's timestamp is.
    pub message_timestamp_type: TimestampType,
    /// How far a timestamp may lie behind the broker's clock; none = any.
    pub timestamp_before_max_ms: Option<u64>,
    /// How far it may lie ahead; none = any.
    pub timestamp_after_max_ms: Option<u64>,
    /// Replicas that must acknowledge.
    pub min_insync_replicas: u32,
    /// Whether an out-of-date replica may become leader, losing acknowledged records.
    pub unclean_leader_election: bool,
}

/// What brokers allow, from the settings of one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerLimits {
    /// `message.max.bytes`, the default of new topics.
    pub message_max_bytes: u64,
    /// `socket.request.max.bytes`: the largest request.
    pub socket_request_max_bytes: u64,
    /// `transaction.max.timeout.ms`.
    pub transaction_max_timeout_ms: u64,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `default.replication.factor`.
    pub default_replication_factor: u32,
    /// `transaction.state.log.min.isr`, of the topic that decides about commits.
    pub transaction_state_min_isr: u32,
}

/// Limits of one topic. An unknown topic is `UNKNOWN_TOPIC_OR_PARTITION`.
pub async fn topic_limits(cluster: &Cluster, name: &str) -> Result<TopicLimits, Error> {
    let request = describe(RESOURCE_TOPIC, name);
    let answer = cluster.call_any(&request).await?;
    let configs = first_result(name, answer.results)?;
    Ok(topic_limits_of(&configs))
}

/// Limits of the cluster, as the lowest-numbered broker sees them.
pub async fn broker_limits(cluster: &Cluster) -> Result<BrokerLimits, Error> {
    let broker = cluster.brokers().first().copied().unwrap_or_default();
    let name = broker.to_string();
    // A broker's settings are known to that broker alone.
    let answer = cluster.call_broker(broker, &describe(RESOURCE_BROKER, &name)).await?;
    let configs = first_result(&name, answer.results)?;
    Ok(BrokerLimits {
        message_max_bytes: configs.number("message.max.bytes", 1_048_588),
        socket_request_max_bytes: configs.number("socket.request.max.bytes", 104_857_600),
        transaction_max_timeout_ms: configs.number("transaction.max.timeout.ms", 900_000),
        auto_create_topics: configs.flag("auto.create.topics.enable", true),
        default_replication_factor: configs.small("default.replication.factor", 1),
        transaction_state_min_isr: configs.small("transaction.state.log.min.isr", 2),
    })
}

fn topic_limits_of(configs: &Configs) -> TopicLimits {
    let policy = configs.value("cleanup.policy").unwrap_or("delete");
    let append_time = configs.value("message.timestamp.type") == Some("LogAppendTime");
    TopicLimits {
        max_message_bytes: configs.number("max.message.bytes", 1_048_588),
        compression_type: configs.value("compression.type").unwrap_or("producer").to_owned(),
        retention_ms: configs.bounded("retention.ms", Some(604_800_000)),
        retention_bytes: configs.bounded("retention.bytes", None),
        compact: policy.split(',').any(|part| part.trim() == "compact"),
        delete: policy.split(',').any(|part| part.trim() == "delete"),
        message_timestamp_type: match append_time {
            true => TimestampType::LogAppendTime,
            false => TimestampType::CreateTime,
        },
        timestamp_before_max_ms: configs.bounded("message.timestamp.before.max.ms", None),
        timestamp_after_max_ms: configs.bounded("message.timestamp.after.max.ms", Some(3_600_000)),
        min_insync_replicas: configs.small("min.insync.replicas", 1),
        unclean_leader_election: configs.flag("unclean.leader.election.enable", false),
    }
}

fn describe(resource_type: i8, name: &str) -> DescribeConfigsRequest {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(resource_type)
        .with_resource_name(text(name))
        .with_configuration_keys(None);
    DescribeConfigsRequest::default().with_resources(vec![resource])
}

fn first_result(
    name: &str,
    results: Vec<kafka_protocol::messages::describe_configs_response::DescribeConfigsResult>,
) -> Result<Configs, Error> {
    let code = results.first().map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |result| ErrorCode(result.error_code));
    code.check(ApiKey::DescribeConfigs, || name.to_owned())?;
    let entries = results.into_iter().flat_map(|result| result.configs);
    Ok(Configs(
        entries.filter_map(|entry| Some((entry.name.to_string(), entry.value?.to_string()))).collect(),
    ))
}

/// Name and value as the broker reports them.
struct Configs(Vec<(String, String)>);

impl Configs {
    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.value(name).and_then(|value| value.parse().ok()).unwrap_or(default)
    }

    fn small(&self, name: &str, default: u32) -> u32 {
        self.value(name).and_then(|value| value.parse().ok()).unwrap_or(default)
    }

    fn flag(&self, name: &str, default: bool) -> bool {
        self.value(name).map_or(default, |value| value == "true")
    }

    /// -1 and `i64::MAX` both mean no bound.
    fn bounded(&self, name: &str, default: Option<u64>) -> Option<u64> {
        match self.value(name).and_then(|value| value.parse::<i64>().ok()) {
            Some(i64::MAX) => None,
            Some(bound) => u64::try_from(bound).ok(),
            None => default,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(entries: &[(&str, &str)]) -> Configs {
        Configs(entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn unset_values_are_kafkas_defaults() {
        let limits = topic_limits_of(&configs(&[]));
        assert_eq!(limits.max_message_bytes, 1_048_588);
        assert_eq!(limits.retention_ms, Some(604_800_000));
        assert!(limits.delete && !limits.compact);
        assert_eq!(limits.timestamp_before_max_ms, None);
        assert_eq!(limits.compression_type, "producer");
    }

    #[test]
    fn no_bound_is_written_in_two_ways() {
        let limits = topic_limits_of(&configs(&[
            ("retention.ms", "-1"),
            ("message.timestamp.after.max.ms", "9223372036854775807"),
            ("cleanup.policy", "compact, delete"),
            ("message.timestamp.type", "LogAppendTime"),
        ]));
        assert_eq!(limits.retention_ms, None);
        assert_eq!(limits.timestamp_after_max_ms, None);
        assert!(limits.compact && limits.delete);
        assert_eq!(limits.message_timestamp_type, TimestampType::LogAppendTime);
    }
}
