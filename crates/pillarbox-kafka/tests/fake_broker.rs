//! The producer against a broker that fails on demand: whatever it does, everything is committed once, in order, or
//! handed back as lost.

mod support;

use std::time::Duration;

use krafka::error::ErrorCode as FakeCode;
use krafka::testing::{ApiKey, Control, FakeBroker};
use pillarbox_kafka::admin::{self, OffsetOf};
use pillarbox_kafka::producer::{LostReason, Producer, ProducerConfig};
use pillarbox_kafka::reader::{Isolation, PartitionReader, ReaderOptions};
use pillarbox_kafka::{Cluster, Error, ErrorCode};
use support::{Topics, config, drive, next_committed, next_lost, try_drive};

const DATA: &str = "orders";
const CHECKPOINT: &str = "__pillarbox.orders";

struct Lab {
    broker: FakeBroker,
    cluster: Cluster,
    topics: Topics,
}

impl Lab {
    async fn start(brokers: usize) -> Self {
        Self::start_with(brokers, 2).await
    }

    async fn start_with(brokers: usize, transaction_version: i16) -> Self {
        let broker = FakeBroker::start_cluster(brokers).await.unwrap();
        broker.set_transaction_version(transaction_version);
        broker.create_topic(DATA, 3);
        broker.create_topic(CHECKPOINT, 1);
        let cluster = Cluster::connect(config(&broker.bootstrap_servers())).await.unwrap();
        let topics = Topics::find(&cluster, DATA, CHECKPOINT).await;
        Self { broker, cluster, topics }
    }

    async fn producer(&self) -> Producer<u64> {
        Producer::init(self.cluster.clone(), producer_config()).await.unwrap()
    }

    /// One that soon gives up waiting for an answer.
    async fn hasty_producer(&self) -> Producer<u64> {
        let config = ProducerConfig { request_timeout: Duration::from_millis(500), ..producer_config() };
        loop {
            if let Ok(producer) = Producer::init(self.cluster.clone(), config.clone()).await {
                return producer;
            }
        }
    }

    /// Every partition holds exactly transactions `0..count`, in order, for a `read_committed` reader.
    async fn check(&self, count: u64, batches: u32) {
        let expected = self.topics.expected(count, batches);
        for partition in 0..self.topics.partitions {
            assert_eq!(self.read(DATA, partition).await, expected, "partition {partition}");
        }
        let checkpoints: Vec<String> = (0..count).map(|n| n.to_string()).collect();
        assert_eq!(self.read(CHECKPOINT, 0).await, checkpoints);
        assert_eq!(self.theirs(CHECKPOINT), checkpoints, "the broker's own reader agrees");
    }

    async fn read(&self, topic: &str, partition: i32) -> Vec<String> {
        let end = admin::list_offset(&self.cluster, topic, partition, OffsetOf::Latest).await.unwrap();
        let options = ReaderOptions { max_wait: Duration::from_millis(50), ..ReaderOptions::default() };
        let mut reader = PartitionReader::new(self.cluster.clone(), topic, partition, 0, options);
        let records = reader.read_to(end, Duration::from_secs(10)).await.unwrap();
        records
            .iter()
            .map(|record| String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap())
            .collect()
    }

    /// As a relay goes on: whatever ends a producer, the next one begins where the checkpoint ends. Gives the last
    /// producer and how many were lost.
    async fn drive_through(
        &self,
        mut producer: Producer<u64>,
        range: std::ops::Range<u64>,
        batches: u32,
    ) -> (Producer<u64>, usize) {
        let mut losses = 0;
        let mut committed = range.start;
        while committed < range.end {
            match try_drive(&mut producer, &self.topics, committed..range.end, batches).await {
                Ok(()) => break,
                Err(reason) => {
                    assert!(matches!(reason, LostReason::Disconnected { .. }), "{reason:?}");
                    losses += 1;
                    producer = self.producer().await;
                    let last = self.read(CHECKPOINT, 0).await.pop();
                    committed = last.map_or(range.start, |last| last.parse::<u64>().unwrap() + 1);
                }
            }
        }
        (producer, losses)
    }

    fn theirs(&self, topic: &str) -> Vec<String> {
        let records = self.broker.committed_records(topic).unwrap();
        records
            .iter()
            .map(|record| String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap())
            .collect()
    }
}

fn producer_config() -> ProducerConfig {
    ProducerConfig {
        transaction_timeout: Duration::from_secs(20),
        request_timeout: Duration::from_secs(10),
        ..ProducerConfig::new("pillarbox.orders.")
    }
}

fn disconnect() -> Control {
    Control::Disconnect
}

fn applied_then(control: Control) -> Control {
    Control::ApplyThen(Box::new(control))
}

#[tokio::test]
async fn nothing_fails() {
    let lab = Lab::start(1).await;
    let mut producer = lab.producer().await;
    drive(&mut producer, &lab.topics, 0..20, 1).await;
    lab.check(20, 1).await;
    let stats = producer.stats();
    assert_eq!((stats.commits, stats.aborts, stats.replays), (20, 0, 0));
    assert_eq!(lab.broker.request_count(ApiKey::Produce), 20, "one request a transaction");
    assert_eq!(lab.broker.request_count(ApiKey::EndTxn), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_brokers_and_several_batches_a_partition() {
    let lab = Lab::start(3).await;
    let mut producer = lab.producer().await;
    drive(&mut producer, &lab.topics, 0..10, 8).await;
    lab.check(10, 8).await;
}

/// Each fault hits one request in the middle of a run of 12 transactions; `lost` where the producer must end with it.
#[tokio::test]
async fn one_fault_in_the_middle() {
    let (goes_on, lost) = (0, 1);
    let cases: Vec<(&str, ApiKey, Control, usize)> = vec![
        ("EndTxn lost", ApiKey::EndTxn, disconnect(), lost),
        ("EndTxn applied, answer lost", ApiKey::EndTxn, applied_then(disconnect()), lost),
        ("EndTxn never answered", ApiKey::EndTxn, Control::Silence, lost),
        ("EndTxn applied, never answered", ApiKey::EndTxn, applied_then(Control::Silence), lost),
        ("EndTxn concurrent", ApiKey::EndTxn, Control::Error(FakeCode::ConcurrentTransactions), goes_on),
        ("EndTxn loading", ApiKey::EndTxn, Control::Error(FakeCode::CoordinatorLoadInProgress), goes_on),
        ("EndTxn elsewhere", ApiKey::EndTxn, Control::Error(FakeCode::NotCoordinator), goes_on),
        ("Produce lost", ApiKey::Produce, disconnect(), lost),
        ("Produce applied, answer lost", ApiKey::Produce, applied_then(disconnect()), lost),
        ("Produce never answered", ApiKey::Produce, Control::Silence, lost),
        ("Produce late", ApiKey::Produce, Control::Delay(Duration::from_millis(300)), goes_on),
        ("Produce not leader", ApiKey::Produce, Control::Error(FakeCode::NotLeaderForPartition), goes_on),
        (
            "Produce applied, then not leader",
            ApiKey::Produce,
            applied_then(Control::Error(FakeCode::NotLeaderForPartition)),
            goes_on,
        ),
        ("Produce concurrent", ApiKey::Produce, Control::Error(FakeCode::ConcurrentTransactions), goes_on),
        ("Produce abortable", ApiKey::Produce, Control::Error(FakeCode::TransactionAbortable), goes_on),
        (
            "Produce under-replicated",
            ApiKey::Produce,
            applied_then(Control::Error(FakeCode::NotEnoughReplicasAfterAppend)),
            goes_on,
        ),
        (
            "Produce timed out",
            ApiKey::Produce,
            applied_then(Control::Error(FakeCode::RequestTimedOut)),
            goes_on,
        ),
    ];
    for (name, api, control, losses) in cases {
        println!("{name}");
        let lab = Lab::start(1).await;
        let mut producer = lab.producer().await;
        drive(&mut producer, &lab.topics, 0..4, 2).await;
        if name.contains("never answered") {
            producer = lab.hasty_producer().await;
        }
        lab.broker.on_once(api, move |_| control.clone());
        let (_, found) = lab.drive_through(producer, 4..12, 2).await;
        assert_eq!(found, losses, "{name}");
        lab.check(12, 2).await;
    }
}

#[tokio::test]
async fn a_connection_that_broke_between_two_requests_ends_the_producer() {
    let lab = Lab::start(1).await;
    let mut producer = lab.producer().await;
    drive(&mut producer, &lab.topics, 0..4, 1).await;
    let produced = lab.broker.request_count(ApiKey::Produce);
    lab.broker.crash(lab.broker.request_nodes(ApiKey::Produce)[0]);
    lab.broker.restart(lab.broker.request_nodes(ApiKey::Produce)[0]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    producer.submit(lab.topics.transaction(4, 1));
    let lost = next_lost(&mut producer).await;
    assert!(matches!(lost.reason, LostReason::Disconnected { .. }), "{:?}", lost.reason);
    assert_eq!(lab.broker.request_count(ApiKey::Produce), produced, "nothing was written over it");
    drive(&mut lab.producer().await, &lab.topics, 4..8, 1).await;
    lab.check(8, 1).await;
}

#[tokio::test]
async fn nothing_is_written_after_the_first_refusal_and_the_checkpoint_comes_last() {
    let lab = Lab::start(1).await;
    let mut producer = lab.producer().await;
    lab.broker.on_once(ApiKey::Produce, |_| Control::Error(FakeCode::NotLeaderForPartition));
    drive(&mut producer, &lab.topics, 0..1, 2).await;
    let requests = lab.broker.requests();
    let order: Vec<ApiKey> = requests.iter().map(|request| request.api_key).collect();
    let order: Vec<ApiKey> =
        order.into_iter().filter(|api| matches!(api, ApiKey::Produce | ApiKey::EndTxn)).collect();
    let [refused, abort] = [ApiKey::Produce, ApiKey::EndTxn];
    let replay = [ApiKey::Produce, ApiKey::Produce, ApiKey::Produce, ApiKey::EndTxn];
    assert_eq!(order, [&[refused, abort], &replay[..]].concat());
    lab.check(1, 2).await;
}

#[tokio::test]
async fn faults_one_after_the_other() {
    let lab = Lab::start(1).await;
    let mut producer = lab.producer().await;
    for round in 0..3 {
        let fault = |n: u64| match n % 3 {
            0 => applied_then(Control::Disconnect),
            1 => Control::Disconnect,
            _ => Control::Pass,
        };
        lab.broker.on_times(ApiKey::Produce, 6, move |request| fault(request.api_call_index + round));
        lab.broker.on_times(ApiKey::EndTxn, 6, move |request| fault(request.api_call_index + round));
        let losses;
        (producer, losses) = lab.drive_through(producer, round * 10..round * 10 + 10, 3).await;
        assert!(losses > 0, "round {round} met no fault");
        lab.broker.clear_hooks();
    }
    lab.check(30, 3).await;
}

#[tokio::test]
async fn leaders_move_in_the_middle() {
    let lab = Lab::start(3).await;
    let mut producer = lab.producer().await;
    drive(&mut producer, &lab.topics, 0..5, 2).await;
    for round in 1..4u64 {
        let node = lab.broker.request_nodes(ApiKey::Produce)[0];
        let nodes: Vec<i32> = lab.cluster.brokers();
        let next = nodes[(nodes.iter().position(|id| *id == node).unwrap() + round as usize) % nodes.len()];
        for partition in 0..lab.topics.partitions {
            lab.broker.set_leader(DATA, partition, next);
        }
        lab.broker.set_txn_coordinator("pillarbox.orders.1", next);
        drive(&mut producer, &lab.topics, round * 5..round * 5 + 5, 2).await;
    }
    lab.check(20, 2).await;
}

#[tokio::test]
async fn a_broker_crashes_and_comes_back() {
    let lab = Lab::start(3).await;
    let mut producer = lab.producer().await;
    drive(&mut producer, &lab.topics, 0..5, 1).await;
    let node = lab.broker.request_nodes(ApiKey::EndTxn)[0];
    lab.broker.crash(node);
    for n in 5..8 {
        producer.submit(lab.topics.transaction(n, 1));
    }
    let lost = next_lost(&mut producer).await;
    assert!(matches!(lost.reason, LostReason::Disconnected { .. }), "{:?}", lost.reason);
    assert_eq!(lost.transactions.iter().map(|lost| lost.tag).collect::<Vec<_>>(), [5, 6, 7]);
    lab.broker.restart(node);
    drive(&mut lab.producer().await, &lab.topics, 5..8, 1).await;
    lab.check(8, 1).await;
}

#[tokio::test]
async fn markers_held_back_delay_only_their_own_id() {
    let lab = Lab::start(1).await;
    let mut producer = lab.producer().await;
    lab.broker.hold_transaction_markers(true);
    drive(&mut producer, &lab.topics, 0..4, 1).await;
    producer.submit(lab.topics.transaction(4, 1));
    let stalled = tokio::time::timeout(Duration::from_millis(200), producer.next()).await;
    assert!(stalled.is_err(), "the first id is still busy");
    lab.broker.hold_transaction_markers(false);
    assert_eq!(next_committed(&mut producer).await.transaction.tag, 4);
    lab.check(5, 1).await;
}

#[tokio::test]
async fn a_second_producer_fences_the_first() {
    let lab = Lab::start(1).await;
    let mut first = lab.producer().await;
    drive(&mut first, &lab.topics, 0..3, 1).await;
    let mut second = lab.producer().await;
    first.submit(lab.topics.transaction(77, 1));
    first.submit(lab.topics.transaction(78, 1));
    let lost = next_lost(&mut first).await;
    assert_eq!(lost.reason, LostReason::Fenced);
    assert_eq!(lost.transactions.iter().map(|lost| lost.tag).collect::<Vec<_>>(), [77, 78]);
    assert!(!first.can_submit());
    drive(&mut second, &lab.topics, 3..6, 1).await;
    lab.check(6, 1).await;
}

#[tokio::test]
async fn a_predecessors_open_transaction_is_finished_by_the_next() {
    let lab = Lab::start(1).await;
    let mut first = lab.producer().await;
    lab.broker.on_once(ApiKey::EndTxn, |_| Control::Silence);
    first.submit(lab.topics.transaction(99, 1));
    tokio::select! {
        _ = first.next() => panic!("its EndTxn is not answered"),
        asked = lab.broker.wait_for_requests(ApiKey::EndTxn, 1, Duration::from_secs(5)) => assert!(asked),
    }
    drop(first);
    // Another process: the first one's connection still waits for an answer.
    let cluster = Cluster::connect(config(&lab.broker.bootstrap_servers())).await.unwrap();
    let mut second = Producer::init(cluster, producer_config()).await.unwrap();
    drive(&mut second, &lab.topics, 0..3, 1).await;
    lab.check(3, 1).await;
}

#[tokio::test]
async fn a_timeout_on_the_coordinator_is_a_loss() {
    let lab = Lab::start(1).await;
    let mut producer = lab.producer().await;
    lab.broker.on_once(ApiKey::EndTxn, |_| Control::Disconnect);
    lab.broker.on(ApiKey::EndTxn, |_| Control::Delay(Duration::from_millis(200)));
    producer.submit(lab.topics.transaction(0, 1));
    let (lost, aborted) = tokio::join!(next_lost(&mut producer), async {
        assert!(lab.broker.wait_for_requests(ApiKey::EndTxn, 2, Duration::from_secs(5)).await);
        lab.broker.abort_transaction("pillarbox.orders.0")
    });
    assert!(aborted);
    assert!(matches!(lost.reason, LostReason::Fenced | LostReason::TimedOut), "{:?}", lost.reason);
    assert_eq!(lab.read(DATA, 0).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_recreated_topic_is_never_written() {
    let lab = Lab::start(1).await;
    let mut producer = lab.producer().await;
    drive(&mut producer, &lab.topics, 0..2, 1).await;
    lab.broker.delete_topic(DATA);
    producer.submit(lab.topics.transaction(2, 1));
    let lost = next_lost(&mut producer).await;
    assert_eq!(lost.reason, LostReason::TopicGone { name: DATA.to_owned() });
    lab.broker.create_topic(DATA, 3);
    let mut producer = lab.producer().await;
    producer.submit(lab.topics.transaction(2, 1));
    // Version 12 names topics: the new topic is found out only where metadata is asked for, here after an error.
    lab.broker.on_once(ApiKey::Produce, |_| Control::Error(FakeCode::UnknownTopicOrPartition));
    let lost = next_lost(&mut producer).await;
    assert_eq!(lost.reason, LostReason::TopicGone { name: DATA.to_owned() });
    assert_eq!(lab.read(DATA, 0).await, Vec::<String>::new());
}

#[tokio::test]
async fn refusals_are_typed() {
    let topic = || DATA.to_owned();
    let cases = [
        (FakeCode::MessageTooLarge, LostReason::TooLarge { topic: topic() }),
        (FakeCode::InvalidRecord, LostReason::Rejected { topic: topic(), code: ErrorCode::INVALID_RECORD }),
        (
            FakeCode::TopicAuthorizationFailed,
            LostReason::Authorization { object: topic(), code: ErrorCode::TOPIC_AUTHORIZATION_FAILED },
        ),
    ];
    for (code, reason) in cases {
        let lab = Lab::start(1).await;
        let mut producer = lab.producer().await;
        producer.submit(lab.topics.transaction(0, 1));
        producer.submit(lab.topics.transaction(1, 1));
        assert_eq!(next_committed(&mut producer).await.transaction.tag, 0);
        lab.broker.on(ApiKey::Produce, move |_| Control::Error(code));
        producer.submit(lab.topics.transaction(2, 1));
        let lost = next_lost(&mut producer).await;
        assert_eq!(lost.reason, reason);
        lab.broker.clear_hooks();
        drive(&mut lab.producer().await, &lab.topics, lost.transactions[0].tag..5, 1).await;
        lab.check(5, 1).await;
    }
}

#[tokio::test]
async fn buffers_come_back_as_they_were_given() {
    let lab = Lab::start(1).await;
    let mut producer = lab.producer().await;
    let transaction = lab.topics.transaction(0, 1);
    let given: Vec<*const u8> = transaction.data.iter().map(|batch| batch.bytes.as_ptr()).collect();
    producer.submit(transaction);
    let committed = next_committed(&mut producer).await;
    let back: Vec<*const u8> = committed.transaction.data.iter().map(|batch| batch.bytes.as_ptr()).collect();
    assert_eq!(given, back);
    assert_eq!(committed.last_base_offset, 0);
}

#[tokio::test]
async fn the_older_protocol_survives_faults_and_renews_each_id() {
    let lab = Lab::start_with(1, 1).await;
    let mut producer = lab.producer().await;
    drive(&mut producer, &lab.topics, 0..12, 2).await;
    assert_eq!(lab.broker.request_count(ApiKey::AddPartitionsToTxn), 12);
    let fault = |n: u64| match n % 4 {
        0 => applied_then(Control::Disconnect),
        1 => Control::Disconnect,
        2 => applied_then(Control::Error(FakeCode::NotLeaderForPartition)),
        _ => Control::Pass,
    };
    lab.broker.on_times(ApiKey::Produce, 6, move |request| fault(request.api_call_index));
    lab.broker.on_times(ApiKey::EndTxn, 3, move |request| match request.api_call_index % 2 {
        0 => applied_then(Control::Disconnect),
        _ => Control::Disconnect,
    });
    let (_, losses) = lab.drive_through(producer, 12..40, 2).await;
    assert!(losses > 0);
    lab.check(40, 2).await;
    assert!(lab.broker.request_count(ApiKey::InitProducerId) >= 40 + 8, "an epoch for every transaction");
}

#[tokio::test]
async fn a_broker_that_wants_sasl_is_named() {
    let broker = FakeBroker::start().await.unwrap();
    broker.require_sasl_plain("user", "password");
    let refused = Cluster::connect(config(&broker.bootstrap_servers())).await.err();
    assert!(matches!(refused, Some(Error::TlsOrSaslExpected { .. })), "{refused:?}");
}

#[tokio::test]
async fn an_uncommitted_reader_sees_the_aborted_and_both_positions_reach_the_end() {
    let lab = Lab::start(1).await;
    let producer = lab.producer().await;
    lab.broker.on_once(ApiKey::Produce, |_| Control::ApplyThen(Box::new(Control::Disconnect)));
    lab.drive_through(producer, 0..1, 1).await;
    let end = admin::list_offset(&lab.cluster, DATA, 0, OffsetOf::Latest).await.unwrap();
    assert_eq!(end, 4, "aborted, marker, committed, marker");
    for (isolation, seen) in [(Isolation::ReadUncommitted, 2), (Isolation::ReadCommitted, 1)] {
        let options = ReaderOptions { isolation, ..ReaderOptions::default() };
        let mut reader = PartitionReader::new(lab.cluster.clone(), DATA, 0, 0, options);
        let records = reader.read_to(end, Duration::from_secs(5)).await.unwrap();
        assert_eq!((records.len(), reader.position()), (seen, end), "{isolation:?}");
    }
}
