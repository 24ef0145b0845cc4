//! Repairs what a restarted broker forgets: the markers of transactions whose outcome was decided before it died.
//!
//! ```text
//! killed between PREPARE_COMMIT and the markers -> started before its old session ran out:
//!   coordinator elected, sends markers -> fenced, the partitions have no leader -> "likely deleted": skipped
//!   -> COMPLETE_COMMIT without markers: an open transaction for ever, nothing behind it becomes visible
//! ```
//! Seen on Kafka 4.3.1, where the metadata cache answers "no such partition" for "no leader", about once in 6
//! kills under load of a single node (with other brokers alive, partitions keep a leader). The broker's log names
//! transaction and partitions; the markers are written as it decided. Must never write a marker that the broker's
//! log does not ask for.

use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{ProducerId, TopicName, WriteTxnMarkersRequest};
use kafka_protocol::protocol::StrBytes;

use crate::LabError;

/// A transaction with its outcome, and the partitions that never learned of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost {
    producer_id: i64,
    producer_epoch: i16,
    coordinator_epoch: i32,
    commit: bool,
    partitions: Vec<(String, i32)>,
}

/// All lost markers that a broker's log speaks of.
pub(super) fn lost(log: &str) -> Result<Vec<Lost>, LabError> {
    let mut decided: Vec<&str> = Vec::new();
    let mut lost = Vec::new();
    for line in log.lines() {
        if line.contains("Sending txn markers for ") {
            decided.push(line);
        } else if let Some((_, rest)) = line.split_once("Couldn't find leader endpoint for partitions ") {
            lost.push(one(rest, &decided).ok_or_else(|| LabError::Kafka {
                what: "the broker's log of lost markers is not understood".into(),
            })?);
        }
    }
    Ok(lost)
}

/// `Set(topic-0, topic-1) while trying to send transaction markers for ID, these ...`
fn one(rest: &str, decided: &[&str]) -> Option<Lost> {
    let (set, rest) = rest.split_once(") while trying to send transaction markers for ")?;
    let (_, list) = set.split_once('(')?;
    let (id, _) = rest.split_once(", these")?;
    let begin = format!("TransactionalIdCoordinatorEpochAndTransitMetadata({id},");
    let decision = decided.iter().rev().find_map(|line| line.split_once(begin.as_str()))?.1;
    let mut words = decision.split(',');
    let coordinator_epoch = words.next()?.parse().ok()?;
    let commit = words.next()? == "COMMIT";
    let field = |name: &str| decision.split_once(name)?.1.split([',', ')']).next();
    let partition = |text: &str| {
        let (topic, number) = text.rsplit_once('-')?;
        Some((topic.to_owned(), number.parse().ok()?))
    };
    Some(Lost {
        producer_id: field(" producerId=")?.parse().ok()?,
        producer_epoch: field(" producerEpoch=")?.parse().ok()?,
        coordinator_epoch,
        commit,
        partitions: list.split(", ").map(partition).collect::<Option<_>>()?,
    })
}

impl Lost {
    /// How many partitions lack the marker.
    pub(super) fn count(&self) -> usize {
        self.partitions.len()
    }

    /// The request the coordinator should have sent.
    pub(super) fn request(&self) -> WriteTxnMarkersRequest {
        let topic = |(topic, partition): &(String, i32)| {
            WritableTxnMarkerTopic::default()
                .with_name(TopicName(StrBytes::from_string(topic.clone())))
                .with_partition_indexes(vec![*partition])
        };
        let marker = WritableTxnMarker::default()
            .with_producer_id(ProducerId(self.producer_id))
            .with_producer_epoch(self.producer_epoch)
            .with_coordinator_epoch(self.coordinator_epoch)
            .with_transaction_result(self.commit)
            .with_topics(self.partitions.iter().map(topic).collect());
        WriteTxnMarkersRequest::default().with_markers(vec![marker])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECIDED: &str = "21:00:28.297 [x] INFO Sending txn markers for TransactionalIdCoordinatorEpochAndTransitMetadata(\
        p.orders.2,30,COMMIT,TransactionMetadata(transactionalId=p.orders.2, producerId=2, prevProducerId=5, \
        nextProducerId=-1, producerEpoch=217, lastProducerEpoch=-1, state=PREPARE_COMMIT))";
    const LOST: &str = "21:00:30.199 [x] INFO Couldn't find leader endpoint for partitions HashSet(outbox.a-b-0, \
        __p.orders-11) while trying to send transaction markers for p.orders.2, these partitions are likely deleted already";

    #[test]
    fn a_log_of_lost_markers() {
        let log = format!("{}\n{DECIDED}\n{LOST}\nother", DECIDED.replace("30,COMMIT", "28,ABORT"));
        let expected = Lost {
            producer_id: 2,
            producer_epoch: 217,
            coordinator_epoch: 30,
            commit: true,
            partitions: vec![("outbox.a-b".into(), 0), ("__p.orders".into(), 11)],
        };
        assert_eq!(lost(&log).expect("understood"), [expected]);
        assert_eq!(lost(DECIDED).expect("understood"), []);
        assert!(lost(LOST).is_err(), "an outcome is never guessed");
    }
}
