//! The cluster's half: versions, limits, the checkpoint topic and the topics that hold events.

use std::time::{Duration, Instant};

use pillarbox_kafka::admin::{self, BrokerLimits, TopicDescription, TopicLimits};
use pillarbox_kafka::{Cluster, Error};

use super::Finding;
use crate::config::{Compression, Config, TopicPart};
use crate::error::Code;
use crate::position::checkpoint::{PositionRecord, Table, TopicRecord};
use crate::position::lineage::{SourceFacts, judge};
use crate::sink::{self, kafka_fault};

/// Below this version the relay raises the epoch of its transactional ids itself.
const TRANSACTION_VERSION_MIN: i16 = 2;
/// How long markers may take before a slot is said to be ahead, and how often that is looked at.
const MARKERS_MAX: Duration = Duration::from_secs(3);
const MARKERS_INTERVAL: Duration = Duration::from_millis(200);
/// Copies of a partition that outlive the loss of one while another is down.
const REPLICAS_SAFE: u32 = 3;
/// Copies that must have a record before it counts.
const IN_SYNC_SAFE: u32 = 2;

/// Findings, and the checkpoint's position if there is one.
pub(super) async fn look(config: &Config) -> (Vec<Finding>, Option<PositionRecord>) {
    let cluster = match sink::connect(config).await {
        Ok(cluster) => cluster,
        Err(fault) => return (vec![Finding::fault("Kafka", fault)], None),
    };
    let mut look = Look { config, cluster, findings: Vec::new() };
    look.findings.extend(judge_login(config));
    look.cluster_itself().await;
    look.checkpoint_topic().await;
    let table = look.checkpoint().await;
    if let Some(table) = &table {
        look.recorded_topics(table).await;
    }
    look.fixed_topics(table.as_ref()).await;
    (look.findings, table.and_then(|table| table.position))
}

/// Whether the database is the one that the checkpoint speaks of. Kafka says that a checkpoint is committed, and the relay
/// confirms the slot, a moment before anybody else can read it: a slot that seems ahead is looked at again.
pub(super) async fn lineage(
    config: &Config,
    source: &SourceFacts,
    mut checkpoint: PositionRecord,
) -> Finding {
    let subject = format!("checkpoint of pipeline {}", config.pipeline);
    let since = Instant::now();
    loop {
        match judge(source, &checkpoint) {
            Ok(_) => {
                let message = format!("fits this database, resumes at {}", checkpoint.resume_lsn);
                return Finding::ok(subject, message);
            }
            Err(fault) if fault.code == Code::SlotAhead && since.elapsed() < MARKERS_MAX => {
                tokio::time::sleep(MARKERS_INTERVAL).await;
                checkpoint = newest(config).await.unwrap_or(checkpoint);
            }
            Err(fault) => return Finding::fault(subject, fault),
        }
    }
}

/// The checkpoint as it can be read now.
async fn newest(config: &Config) -> Option<PositionRecord> {
    let cluster = sink::connect(config).await.ok()?;
    sink::read_checkpoint(&cluster, config).await.ok()??.position
}

struct Look<'a> {
    config: &'a Config,
    cluster: Cluster,
    findings: Vec<Finding>,
}

impl Look<'_> {
    fn failed(&mut self, subject: impl Into<String>, attempt: &str, error: &Error) {
        self.findings.push(Finding::fault(subject, kafka_fault(error, attempt)));
    }

    async fn cluster_itself(&mut self) {
        let subject = format!("Kafka cluster {}", self.cluster.cluster_id());
        let version = self.cluster.transaction_version();
        self.findings.push(if version >= TRANSACTION_VERSION_MIN {
            let brokers = self.cluster.brokers().len();
            Finding::ok(&subject, format!("{brokers} broker(s), transaction.version {version}"))
        } else {
            Finding::warning(
                Code::KafkaTransactionVersion,
                &subject,
                format!("transaction.version {version}: served with the older protocol"),
            )
            .because("each transaction costs two more requests, and a topic that is re-created under load is noticed later")
            .fix("brokers 4.0 or later, then `kafka-features.sh --bootstrap-server HOST:PORT upgrade --feature transaction.version=2`")
        });
        match admin::broker_limits(&self.cluster).await {
            Ok(limits) => {
                self.findings.extend(judge_brokers(&subject, &limits, self.config.kafka.transaction.timeout))
            }
            // The relay itself does without.
            Err(error) if error.is_authorization() => self.findings.push(
                Finding::warning(Code::KafkaAuthorization, subject, "the brokers' settings may not be read")
                    .because("whether they keep acknowledged events was not looked at")
                    .fix("`pillarbox check --print-acls`: DescribeConfigs on the cluster, which is optional"),
            ),
            Err(error) => self.failed(subject, "cannot read the brokers' settings", &error),
        }
    }

    async fn checkpoint_topic(&mut self) {
        let name = self.config.checkpoint_topic();
        let subject = format!("checkpoint topic {name}");
        let topic = match admin::describe_topic(&self.cluster, &name).await {
            Ok(topic) => topic,
            Err(error) => return self.failed(subject, "cannot describe the checkpoint topic", &error),
        };
        let Some(topic) = topic else {
            let finding = Finding::error(Code::CheckpointTopicMissing, subject, "does not exist")
                .fix("run `pillarbox setup`");
            return self.findings.push(finding);
        };
        match admin::topic_limits(&self.cluster, &name).await {
            Ok(limits) => {
                self.findings.push(judge_checkpoint_topic(&subject, &topic, &limits));
                self.findings.extend(judge_durability(&subject, &topic, &limits));
            }
            Err(error) => self.failed(subject, "cannot read the checkpoint topic's settings", &error),
        }
    }

    async fn checkpoint(&mut self) -> Option<Table> {
        let subject = format!("checkpoint of pipeline {}", self.config.pipeline);
        match sink::read_checkpoint(&self.cluster, self.config).await {
            // Told with the topic.
            Err(fault) if matches!(fault.code, Code::CheckpointTopicMissing | Code::CheckpointTopicUnfit) => {
                None
            }
            Err(fault) => {
                self.findings.push(Finding::fault(subject, fault));
                None
            }
            Ok(Some(table)) if table.position.is_some() => Some(table),
            Ok(_) => {
                self.findings.push(
                    Finding::error(Code::CheckpointMissing, subject, "there is none")
                        .fix("run `pillarbox setup`"),
                );
                None
            }
        }
    }

    async fn recorded_topics(&mut self, table: &Table) {
        for (name, record) in &table.topics {
            let subject = format!("topic {name}");
            let topic = match admin::describe_topic(&self.cluster, name).await {
                Ok(topic) => topic,
                Err(error) => {
                    self.failed(subject, "cannot describe the topic", &error);
                    continue;
                }
            };
            self.findings.push(judge_recorded(&subject, record, topic.as_ref()));
            let Some(topic) = topic else { continue };
            match admin::topic_limits(&self.cluster, name).await {
                Ok(limits) => {
                    self.findings.extend(judge_durability(&subject, &topic, &limits));
                    self.findings.extend(judge_compression(
                        &subject,
                        self.config.kafka.compression,
                        &limits.compression_type,
                    ));
                }
                Err(error) => self.failed(subject, "cannot read the topic's settings", &error),
            }
        }
    }

    /// Topics that every row goes to, whatever its columns say. Others cannot be known beforehand.
    async fn fixed_topics(&mut self, table: Option<&Table>) {
        if self.config.kafka.topics.create {
            return;
        }
        let config = self.config;
        let letters = config.has_dead_letters().then(|| config.dead_letter_topic());
        let sources = config.sources();
        let fixed = sources.iter().filter_map(|outbox| fixed_name(outbox.topic.parts()));
        for name in fixed.chain(letters) {
            if table.is_some_and(|table| table.topics.contains_key(&name)) {
                continue;
            }
            let subject = format!("topic {name}");
            match admin::describe_topic(&self.cluster, &name).await {
                Ok(Some(_)) => self.findings.push(Finding::ok(subject, "exists")),
                Ok(None) => self.findings.push(
                    Finding::error(Code::TopicMissing, subject, "does not exist and may not be created")
                        .fix("create it, or set kafka.topics.create"),
                ),
                Err(error) => self.failed(subject, "cannot describe the topic", &error),
            }
        }
    }
}

fn fixed_name(parts: &[TopicPart]) -> Option<String> {
    parts
        .iter()
        .map(|part| match part {
            TopicPart::Literal(text) => Some(text.as_str()),
            TopicPart::Column(_) => None,
        })
        .collect()
}

fn judge_login(config: &Config) -> Option<Finding> {
    let sasl = config.kafka.sasl.as_ref().filter(|sasl| sasl.needs_tls() && config.kafka.tls.is_none())?;
    let message = format!("{} without kafka.tls sends its secret as it is", sasl.mechanism());
    Some(
        Finding::warning(Code::ConfigValue, "kafka.sasl", message)
            .because("whoever listens to the network can log in with what he hears")
            .fix("set kafka.tls and use a SASL_SSL listener, or a SCRAM mechanism"),
    )
}

fn judge_brokers(subject: &str, limits: &BrokerLimits, timeout: Duration) -> Vec<Finding> {
    let mut findings = Vec::new();
    if u128::from(limits.transaction_max_timeout_ms) < timeout.as_millis() {
        let message = format!("transaction.max.timeout.ms is {}", limits.transaction_max_timeout_ms);
        findings.push(
            Finding::error(Code::ConfigValue, subject, message)
                .because(format!("kafka.transaction.timeout is {} ms", timeout.as_millis()))
                .fix("lower kafka.transaction.timeout"),
        );
    }
    if limits.transaction_state_min_isr < IN_SYNC_SAFE {
        findings.push(
            Finding::warning(
                Code::KafkaDurability,
                subject,
                format!("transaction.state.log.min.isr is {}", limits.transaction_state_min_isr),
            )
            .because("the outcome of a transaction can be lost with one broker")
            .fix("at least three brokers with transaction.state.log.min.isr=2"),
        );
    }
    findings
}

fn judge_checkpoint_topic(subject: &str, topic: &TopicDescription, limits: &TopicLimits) -> Finding {
    let unfit = |message: String, cause: &str| {
        Finding::error(Code::CheckpointTopicUnfit, subject, message).because(cause)
    };
    if topic.partitions != 1 {
        unfit(
            format!("has {} partitions, not one", topic.partitions),
            "the order of checkpoints would be lost",
        )
        .fix("it was not created by `pillarbox setup`: ask for help before you delete anything")
    } else if !limits.compact || limits.delete {
        unfit("its cleanup.policy is not compact".to_owned(), "the checkpoint would expire").fix(format!(
            "kafka-configs.sh --bootstrap-server HOST:PORT --alter --topic {} --add-config cleanup.policy=compact",
            topic.name
        ))
    } else {
        Finding::ok(subject, format!("one partition, compacted, {} replica(s)", topic.replication_factor))
    }
}

fn judge_durability(subject: &str, topic: &TopicDescription, limits: &TopicLimits) -> Vec<Finding> {
    let warn = |message: String, cause: &str, fix: &str| {
        Finding::warning(Code::KafkaDurability, subject, message).because(cause).fix(fix)
    };
    let mut findings = Vec::new();
    if topic.replication_factor < REPLICAS_SAFE {
        findings.push(warn(
            format!("has {} replica(s)", topic.replication_factor),
            "committed events can be lost with the brokers that hold them",
            "three replicas: kafka-reassign-partitions.sh",
        ));
    }
    if limits.min_insync_replicas < IN_SYNC_SAFE {
        findings.push(warn(
            format!("min.insync.replicas is {}", limits.min_insync_replicas),
            "an event counts as committed when a single broker has it",
            "min.insync.replicas=2 with three replicas",
        ));
    }
    if limits.unclean_leader_election {
        findings.push(warn(
            "unclean.leader.election.enable is true".to_owned(),
            "a replica that lags may become leader and drop committed events",
            "unclean.leader.election.enable=false",
        ));
    }
    if topic.leaderless > 0 {
        findings.push(warn(
            format!("{} partition(s) have no leader", topic.leaderless),
            "nothing can be written to them at the moment",
            "start the brokers that hold them",
        ));
    }
    findings
}

/// A broker that stores batches in another way than they come has to unpack and pack each of them.
fn judge_compression(subject: &str, ours: Compression, stored: &str) -> Option<Finding> {
    let as_it_comes = match stored {
        "producer" => true,
        "uncompressed" => ours == Compression::None,
        codec => codec == ours.name(),
    };
    (!as_it_comes).then(|| {
        Finding::warning(Code::KafkaSetting, subject, format!("compression.type is {stored}"))
            .because(format!(
                "kafka.compression is {ours}: the broker packs every batch anew, which costs it CPU"
            ))
            .fix("compression.type=producer on the topic, or the same codec in kafka.compression")
    })
}

fn judge_recorded(subject: &str, record: &TopicRecord, found: Option<&TopicDescription>) -> Finding {
    let Some(found) = found else {
        return Finding::error(Code::TopicGone, subject, "holds events of this pipeline and is gone")
            .because("re-creating it would start its sequence anew without a word")
            .fix("restore it, or begin anew with another pipeline name");
    };
    if found.id.to_string() != record.topic_id {
        return Finding::error(Code::TopicReplaced, subject, "was deleted and created again")
            .because(format!("topic id {} is recorded, found {}", record.topic_id, found.id))
            .fix("begin anew with another pipeline name: the events in the former topic are lost");
    }
    let (pinned, partitions) = (record.partitions, found.partitions);
    match partitions.cmp(&pinned) {
        std::cmp::Ordering::Less => Finding::error(
            Code::TopicShrank,
            subject,
            format!("has {partitions} partitions, {pinned} are pinned"),
        ),
        std::cmp::Ordering::Greater => Finding::warning(
            Code::TopicGrew,
            subject,
            format!("has {partitions} partitions, {pinned} are in use"),
        )
        .because("keys stay where they are: the new partitions get nothing")
        .fix("nothing, or `pillarbox repartition`: its --dry-run says what happens to keys"),
        std::cmp::Ordering::Equal => {
            Finding::ok(subject, format!("{partitions} partition(s), the recorded topic"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillarbox_kafka::Uuid;

    fn topic(id: u128, partitions: u32) -> TopicDescription {
        TopicDescription {
            name: "t".into(),
            id: Uuid::from_u128(id),
            partitions,
            replication_factor: 3,
            in_sync_min: 3,
            leaderless: 0,
        }
    }

    #[test]
    fn recorded_topics() {
        let record = TopicRecord { topic_id: Uuid::from_u128(1).to_string(), partitions: 4, first_slot: 0 };
        for (found, code) in [
            (Some(topic(1, 4)), None),
            (Some(topic(2, 4)), Some(Code::TopicReplaced)),
            (Some(topic(1, 3)), Some(Code::TopicShrank)),
            (Some(topic(1, 5)), Some(Code::TopicGrew)),
            (None, Some(Code::TopicGone)),
        ] {
            assert_eq!(judge_recorded("topic t", &record, found.as_ref()).code, code, "{found:?}");
        }
    }

    #[test]
    fn a_topic_that_packs_anew_is_a_warning() {
        use crate::config::Compression::{Gzip, None, Zstd};
        for (ours, stored, warned) in [
            (None, "producer", false),
            (Zstd, "producer", false),
            (Zstd, "zstd", false),
            (None, "uncompressed", false),
            (Zstd, "uncompressed", true),
            (None, "zstd", true),
            (Gzip, "zstd", true),
        ] {
            let finding = judge_compression("topic t", ours, stored);
            assert_eq!(
                finding.and_then(|found| found.code),
                warned.then_some(Code::KafkaSetting),
                "{ours} {stored}"
            );
        }
    }

    #[test]
    fn a_name_is_fixed_without_columns() {
        use crate::config::TopicTemplate;
        let name = |text: &str| fixed_name(TopicTemplate::parse(text).expect("a template").parts());
        assert_eq!(name("orders.events").as_deref(), Some("orders.events"));
        assert_eq!(name("orders.{kind}"), None);
    }
}
