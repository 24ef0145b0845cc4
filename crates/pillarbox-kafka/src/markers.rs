//! Transaction markers that brokers have lost, written after all.
//!
//! A coordinator decides a transaction, then has a marker written to each of its partitions, then calls it complete.
//! Kafka 4.3.1 skips a partition that has no leader at that moment, as if it had been deleted. That happens to a
//! single node killed between the first two steps, and to a partition whose only replica is down:
//!
//! ```text
//! EndTxn(commit) -> PrepareCommit -> [marker to partition 0] [marker to partition 1: no leader, skipped]
//!                                    -> CompleteCommit: over for the coordinator, open for ever in partition 1
//! ```
//! Nothing behind it becomes visible there. The outcome can still be known, as long as the id has not been used for
//! anything else: the coordinator remembers its last transaction, and every end of one raises the epoch by one. So
//!
//! | the id's coordinator says | the partition has open, in epoch `e` | done |
//! | --- | --- | --- |
//! | `CompleteCommit`, epoch `e + 1` | exactly that transaction | the marker is written: commit |
//! | `CompleteAbort`, epoch `e + 1` | exactly that transaction | the marker is written: abort |
//! | `Prepare...`, epoch `e + 1` | exactly that transaction | waited for, then reported: decided, its markers are under way |
//! | `Ongoing`, epoch `e`; anything at epochs up to `e` | a transaction under way, or begun since we asked | nothing |
//! | anything else | a transaction whose outcome nobody remembers | reported, never guessed |
//!
//! Clusters without KIP-890 keep the epoch when a transaction ends; there the producer raises it before the id's next
//! transaction, and an ended one is open in the coordinator's own epoch `e`.
//!
//! The coordinator is asked first, the partitions afterwards, so that "complete" is older than "still open". The
//! marker carries the epoch of what it ends: if the id has gone on in that partition meanwhile, the broker refuses it.
//!
//! Must never end a transaction that its coordinator has not ended.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState};
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{
    ApiKey, DescribeProducersRequest, DescribeTransactionsRequest, ProducerId, TransactionalId,
    WriteTxnMarkersRequest,
};
use pillarbox_failpoint::{Step, hit};

use crate::admin::{leader_of, text, topic_name};
use crate::cluster::Cluster;
use crate::error::{Error, ErrorCode};

/// How long a transaction may be ending, and a partition without an answering leader. Markers of 500 new partitions took
/// 10 to 20 s on a busy disk (Kafka 4.3.1 writes them one after another); a relay that holds its slot has less patience,
/// and must be told before that ends.
const SETTLE_LIMIT: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_millis(50);

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its records become visible.
    Commit,
    /// Its records never become visible.
    Abort,
}

/// A transaction that stayed open in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Topic name.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// Offset of its first record there.
    pub first_offset: i64,
    /// Whose it is.
    pub transactional_id: String,
}

/// What [`restore`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Lost markers that are written now.
    pub written: Vec<(Open, Ending)>,
    /// Decided transactions whose markers the coordinator is still writing: they end by themselves. Never to be ended by
    /// anybody else.
    pub ending: Vec<Open>,
    /// Open transactions whose outcome nobody remembers.
    pub unknown: Vec<Open>,
    /// Topics that may not be looked at: Read is missing.
    pub hidden: Vec<String>,
}

/// Looks for lost markers of these transactional ids in all partitions of these topics (name, partitions), and writes
/// them. A topic that does not exist is passed over.
///
/// Errors: transport; no leader; [`Error::Api`] where the coordinator may not be asked (Describe on the id) or a
/// marker not be written (ClusterAction or Alter on the cluster); [`Error::UnsupportedVersion`] before Kafka 3.0.
pub async fn restore(cluster: &Cluster, ids: &[String], topics: &[(String, u32)]) -> Result<Report, Error> {
    let known = last_transactions(cluster, ids).await?;
    let raised = i32::from(cluster.transaction_version() >= 2);
    let mut report = Report::default();
    let mut lost = Vec::new();
    for (leader, partitions) in by_leader(cluster, topics, &mut report.hidden).await? {
        for (topic, partition, producer) in
            open_transactions(cluster, leader, &partitions, &mut report.hidden).await?
        {
            let Some(last) = known.get(&producer.producer_id.0) else { continue };
            let open = Open {
                topic,
                partition,
                first_offset: producer.current_txn_start_offset,
                transactional_id: last.transactional_id.clone(),
            };
            match judge(last.state, last.epoch, producer.producer_epoch, raised) {
                Verdict::UnderWay => {}
                Verdict::Ending => report.ending.push(open),
                Verdict::Unknown => report.unknown.push(open),
                Verdict::Lost(ending) => lost.push((open, ending, producer)),
            }
        }
    }
    for (open, ending, producer) in lost {
        if write(cluster, &open, ending, &producer).await? {
            hit(Step::MarkerWritten);
            report.written.push((open, ending));
        }
    }
    report.hidden.sort_unstable();
    report.hidden.dedup();
    Ok(report)
}

/// What a coordinator remembers of an id.
#[derive(Clone, Debug)]
struct Last {
    transactional_id: String,
    state: State,
    epoch: i32,
}

/// How far a coordinator says an id's last transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Over.
    Ended(Ending),
    /// Decided, markers are being written.
    Ending,
    /// Under way, or there was none.
    Other,
}

impl State {
    fn of(name: &str) -> Self {
        match name {
            "CompleteCommit" => Self::Ended(Ending::Commit),
            "CompleteAbort" => Self::Ended(Ending::Abort),
            _ if name.starts_with("Prepare") => Self::Ending,
            _ => Self::Other,
        }
    }
}

/// What an open transaction in a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Under way.
    UnderWay,
    /// Decided, its marker is on its way.
    Ending,
    /// Over, and its marker is lost.
    Lost(Ending),
    /// Nobody remembers its outcome.
    Unknown,
}

/// The table above for an id whose coordinator says `state` and `epoch`, and a partition where it has a transaction open
/// in `open_epoch`; `raised`: by how much an end raises the epoch.
pub fn judge(state: State, epoch: i32, open_epoch: i32, raised: i32) -> Verdict {
    match state {
        State::Ended(ending) if open_epoch + raised == epoch => Verdict::Lost(ending),
        State::Ending if open_epoch + raised == epoch => Verdict::Ending,
        _ if open_epoch >= epoch => Verdict::UnderWay,
        _ => Verdict::Unknown,
    }
}

/// The last transaction of each id, by producer id; ids nobody has used are left out.
async fn last_transactions(cluster: &Cluster, ids: &[String]) -> Result<HashMap<i64, Last>, Error> {
    let limit = Instant::now() + SETTLE_LIMIT;
    // All at once: far from the brokers, one after another would take a good part of what a start has.
    let asked = join_all(ids.iter().map(|id| settled_transaction(cluster, id, limit))).await;
    Ok(asked.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// The last transaction of an id, ended if it does so until `limit`.
async fn settled_transaction(
    cluster: &Cluster,
    id: &str,
    limit: Instant,
) -> Result<Option<(i64, Last)>, Error> {
    loop {
        match last_transaction(cluster, id).await {
            Ok(Some((_, last))) if last.state == State::Ending && Instant::now() < limit => {}
            Err(Error::Api { code, .. }) if code.is_retriable() && Instant::now() < limit => {}
            found => return found,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn last_transaction(cluster: &Cluster, id: &str) -> Result<Option<(i64, Last)>, Error> {
    let request =
        DescribeTransactionsRequest::default().with_transactional_ids(vec![TransactionalId(text(id))]);
    let coordinator = cluster.find_coordinator(id).await?;
    let answer = cluster.call_broker(coordinator, &request).await?;
    let Some(found) = answer.transaction_states.first() else { return Ok(None) };
    let code = ErrorCode(found.error_code);
    if code == ErrorCode::TRANSACTIONAL_ID_NOT_FOUND {
        return Ok(None);
    }
    code.check(ApiKey::DescribeTransactions, || id.to_owned())?;
    let last = Last {
        transactional_id: id.to_owned(),
        state: State::of(&found.transaction_state),
        epoch: i32::from(found.producer_epoch),
    };
    Ok(Some((found.producer_id.0, last)))
}

/// Partitions by leader and topic.
type Led = BTreeMap<i32, BTreeMap<String, Vec<i32>>>;

async fn by_leader(
    cluster: &Cluster,
    topics: &[(String, u32)],
    hidden: &mut Vec<String>,
) -> Result<Led, Error> {
    let names: Vec<&str> = topics.iter().map(|(name, _)| name.as_str()).collect();
    let answers = cluster.refresh(&names).await?;
    let mut led = Led::new();
    for (topic, partitions) in topics {
        let code = answers.iter().find(|answer| answer.name == *topic).map(|answer| answer.code);
        match code {
            Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => continue,
            Some(code) if code.is_authorization() => {
                hidden.push(topic.clone());
                continue;
            }
            _ => {}
        }
        for partition in 0..i32::try_from(*partitions).unwrap_or(i32::MAX) {
            let (leader, _) = leader_of(cluster, topic, partition, false).await?;
            led.entry(leader).or_default().entry(topic.clone()).or_default().push(partition);
        }
    }
    Ok(led)
}

/// All open transactions in the given partitions of one leader.
async fn open_transactions(
    cluster: &Cluster,
    leader: i32,
    partitions: &BTreeMap<String, Vec<i32>>,
    hidden: &mut Vec<String>,
) -> Result<Vec<(String, i32, ProducerState)>, Error> {
    let topics = partitions.iter().map(|(topic, partitions)| {
        TopicRequest::default().with_name(topic_name(topic)).with_partition_indexes(partitions.clone())
    });
    let request = DescribeProducersRequest::default().with_topics(topics.collect());
    let answer = cluster.call_broker(leader, &request).await?;
    let mut open = Vec::new();
    for topic in answer.topics {
        let name = topic.name.0.to_string();
        for PartitionResponse { partition_index, error_code, active_producers, .. } in topic.partitions {
            let code = ErrorCode(error_code);
            if code.is_authorization() {
                hidden.push(name.clone());
                continue;
            }
            code.check(ApiKey::DescribeProducers, || name.clone())?;
            let begun =
                active_producers.into_iter().filter(|producer| producer.current_txn_start_offset >= 0);
            open.extend(begun.map(|producer| (name.clone(), partition_index, producer)));
        }
    }
    Ok(open)
}

/// Writes one marker; false if the partition has gone on without it.
async fn write(
    cluster: &Cluster,
    open: &Open,
    ending: Ending,
    producer: &ProducerState,
) -> Result<bool, Error> {
    let topic = WritableTxnMarkerTopic::default()
        .with_name(topic_name(&open.topic))
        .with_partition_indexes(vec![open.partition]);
    let marker = WritableTxnMarker::default()
        .with_producer_id(ProducerId(producer.producer_id.0))
        .with_producer_epoch(i16::try_from(producer.producer_epoch).unwrap_or(i16::MAX))
        // Below zero: no marker of this producer has been written there yet.
        .with_coordinator_epoch(producer.coordinator_epoch.max(0))
        .with_transaction_result(ending == Ending::Commit)
        .with_topics(vec![topic]);
    let request = WriteTxnMarkersRequest::default().with_markers(vec![marker]);
    let started = Instant::now();
    loop {
        let (leader, _) = leader_of(cluster, &open.topic, open.partition, started.elapsed() >= PAUSE).await?;
        let answer = cluster.call_broker(leader, &request).await?;
        let topics = answer.markers.iter().flat_map(|marker| &marker.topics);
        let code = topics.flat_map(|topic| &topic.partitions).map(|partition| partition.error_code).next();
        match ErrorCode(code.unwrap_or(ErrorCode::UNKNOWN_SERVER_ERROR.0)) {
            ErrorCode::NONE => return Ok(true),
            ErrorCode::INVALID_PRODUCER_EPOCH | ErrorCode::TRANSACTION_COORDINATOR_FENCED => {
                return Ok(false);
            }
            code if code.is_retriable() && started.elapsed() < SETTLE_LIMIT => {}
            code => code.check(ApiKey::WriteTxnMarkers, || open.topic.clone())?,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pillarbox_wire::record_batch::BatchBuilder;

    use super::*;
    use crate::admin::{self, OffsetOf, TopicSpec};
    use crate::cluster::ClusterConfig;
    use crate::producer::{Batch, Outcome, Producer, ProducerConfig, TopicRef, Transaction};

    #[test]
    fn only_what_the_coordinator_ended_last_is_ended() {
        let cases = [
            ("CompleteCommit", 8, 7, Verdict::Lost(Ending::Commit)),
            ("CompleteAbort", 8, 7, Verdict::Lost(Ending::Abort)),
            // Begun since the coordinator was asked.
            ("CompleteCommit", 8, 8, Verdict::UnderWay),
            ("CompleteCommit", 8, 9, Verdict::UnderWay),
            ("Ongoing", 7, 7, Verdict::UnderWay),
            // Decided, and being written: an operator who aborts it tears it.
            ("PrepareCommit", 8, 7, Verdict::Ending),
            ("PrepareAbort", 8, 7, Verdict::Ending),
            ("PrepareEpochFence", 8, 7, Verdict::Ending),
            ("PrepareCommit", 8, 8, Verdict::UnderWay),
            ("PrepareCommit", 9, 7, Verdict::Unknown),
            // Another transaction has ended since.
            ("CompleteCommit", 9, 7, Verdict::Unknown),
            ("CompleteAbort", 9, 7, Verdict::Unknown),
            ("Ongoing", 8, 7, Verdict::Unknown),
            ("Empty", 8, 7, Verdict::Unknown),
            ("Empty", 7, 7, Verdict::UnderWay),
            ("Dead", 8, 7, Verdict::Unknown),
        ];
        for (state, epoch, open, expected) in cases {
            assert_eq!(judge(State::of(state), epoch, open, 1), expected, "{state} {epoch}, open {open}");
        }
        let older = [
            ("CompleteCommit", 8, 8, Verdict::Lost(Ending::Commit)),
            ("CompleteCommit", 8, 9, Verdict::UnderWay),
            ("CompleteAbort", 9, 8, Verdict::Unknown),
            ("PrepareCommit", 8, 8, Verdict::Ending),
            ("PrepareCommit", 9, 8, Verdict::Unknown),
            ("Ongoing", 8, 8, Verdict::UnderWay),
            ("Empty", 9, 8, Verdict::Unknown),
        ];
        for (state, epoch, open, expected) in older {
            assert_eq!(
                judge(State::of(state), epoch, open, 0),
                expected,
                "{state} {epoch}, open {open}, older"
            );
        }
    }

    /// The partition has gone on: a marker of an earlier epoch must not end what is open there now.
    #[test]
    fn a_late_marker_is_refused() {
        let kafka = pillarbox_lab::Kafka::start(pillarbox_lab::KafkaOptions::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let cluster = Cluster::connect(ClusterConfig::new([kafka.bootstrap()])).await.unwrap();
            let spec = TopicSpec {
                name: "orders".to_owned(),
                partitions: 1,
                replication_factor: -1,
                configs: Vec::new(),
            };
            admin::create_topic(&cluster, &spec).await.unwrap();
            let id = admin::describe_topic(&cluster, "orders").await.unwrap().unwrap().id;
            let topic = Arc::new(TopicRef { name: "orders".to_owned(), id });
            let config = ProducerConfig { ids_owned: 1, ..ProducerConfig::new("pillarbox.orders.") };
            let mut producer = Producer::init(cluster.clone(), config).await.unwrap();
            for n in 0..3 {
                let mut batch = BatchBuilder::new();
                batch.append(n, None, Some(b"value"), &[]).unwrap();
                batch.finish();
                let last = Batch::from_vec(Arc::clone(&topic), 0, batch.take(), 1);
                producer.submit(Transaction { data: Vec::new(), last, tag: n });
                assert!(matches!(producer.next().await, Outcome::Committed(_)));
            }
            let end =
                async || admin::list_offset(&cluster, "orders", 0, OffsetOf::LatestCommitted).await.unwrap();
            while end().await < 6 {}

            let known = describe_producers(&cluster, "orders").await;
            let open = Open {
                topic: "orders".to_owned(),
                partition: 0,
                first_offset: 2,
                transactional_id: "pillarbox.orders.0".to_owned(),
            };
            let epoch = known.producer_epoch - 1;
            let late = known.with_producer_epoch(epoch);
            assert_eq!(write(&cluster, &open, Ending::Abort, &late).await, Ok(false));
            assert_eq!(end().await, 6, "three records, three markers");
        });
    }

    /// The one producer that has written to partition 0.
    async fn describe_producers(cluster: &Cluster, topic: &str) -> ProducerState {
        let topics =
            vec![TopicRequest::default().with_name(topic_name(topic)).with_partition_indexes(vec![0])];
        let request = DescribeProducersRequest::default().with_topics(topics);
        let (leader, _) = leader_of(cluster, topic, 0, true).await.unwrap();
        let answer = cluster.call_broker(leader, &request).await.unwrap();
        answer.topics[0].partitions[0].active_producers[0].clone()
    }
}
