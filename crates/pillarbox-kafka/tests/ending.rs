//! A transaction that is decided and cannot be ended yet: a partition has too few replicas in sync for its marker.
//!
//! Must never be taken for one whose outcome is forgotten: whoever ends that by hand would tear it.

#[expect(dead_code, reason = "each test uses a part of it")]
mod support;

use std::time::Duration;

use pillarbox_kafka::Cluster;
use pillarbox_kafka::admin::{self, OffsetOf, TopicSpec};
use pillarbox_kafka::markers::{self, Report};
use pillarbox_kafka::producer::{Producer, ProducerConfig, Transaction};
use pillarbox_lab::{Kafka, KafkaOptions};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord};
use support::{Topics, batch, config, next_committed};

const TOPIC: &str = "orders";
const PLENTY: &str = "plenty";
const CHECKPOINT: &str = "__pillarbox.orders";
/// Batches behind the first, so that the transaction is far from whole when that one is there.
const MORE: u32 = 500;
const LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// fault: 32 a transaction is decided, and one of its partitions has too few replicas in sync for the marker
/// holds: it is waited for and nothing is ended by hand; with the replicas back its coordinator ends it as decided
/// told: PB-2022 where it takes long
#[test]
fn a_decided_transaction_is_waited_for_where_its_marker_cannot_be_written() {
    let mut kafka = Kafka::start(KafkaOptions::brokers(3)).unwrap();
    let bootstrap = kafka.bootstrap();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let cluster = Cluster::connect(config(&bootstrap)).await.unwrap();
        for (name, replication_factor) in [(TOPIC, 2), (PLENTY, 3), (CHECKPOINT, 3)] {
            let configs = vec![("min.insync.replicas".to_owned(), "1".to_owned())];
            let spec = TopicSpec { name: name.to_owned(), partitions: 1, replication_factor, configs };
            admin::create_topic(&cluster, &spec).await.unwrap();
        }
        kafka.kill9(follower(&rdkafka(&bootstrap))).unwrap();
        until("one replica is in sync", async || {
            matches!(admin::describe_topic(&cluster, TOPIC).await, Ok(Some(topic)) if topic.in_sync_min == 1)
        })
        .await;

        let cluster = Cluster::connect(config(&bootstrap)).await.unwrap();
        // Not before the kill: librdkafka sends to the controller it saw first, were it gone or not.
        let rdkafka = rdkafka(&bootstrap);
        let before = commit_with_a_marker_that_is_refused(&cluster, &rdkafka, &bootstrap).await;
        let ids: Vec<String> = (0..8).map(|n| format!("pillarbox.orders.{n}")).collect();
        let watched = [TOPIC, PLENTY, CHECKPOINT].map(|name| (name.to_owned(), 1));
        let report = markers::restore(&cluster, &ids, &watched).await.unwrap();
        let found: Vec<_> =
            report.ending.iter().map(|open| (open.topic.as_str(), open.first_offset)).collect();
        assert_eq!(found, [(TOPIC, before)], "{report:?}");
        assert_eq!((report.written, report.unknown), (vec![], vec![]));
        assert_eq!(offset(&cluster, OffsetOf::LatestCommitted).await, before, "nothing is visible yet");

        in_sync_min(&rdkafka, 1).await;
        until("its coordinator ends it", async || offset(&cluster, OffsetOf::LatestCommitted).await > before)
            .await;
        let nothing = markers::restore(&cluster, &ids, &watched).await.unwrap();
        assert_eq!(nothing, Report::default(), "a second look finds nothing");
    });
}

/// Commits, while the first partition stops taking what too few replicas would hold. Gives its offset.
async fn commit_with_a_marker_that_is_refused(
    cluster: &Cluster,
    rdkafka: &AdminClient<DefaultClientContext>,
    bootstrap: &str,
) -> i64 {
    let topics = Topics::find(cluster, TOPIC, CHECKPOINT).await;
    let plenty = Topics::find(cluster, PLENTY, CHECKPOINT).await;
    let mut producer: Producer<u64> =
        Producer::init(cluster.clone(), ProducerConfig::new("pillarbox.orders.")).await.unwrap();
    let first = batch(&topics.data, 0, "first");
    let more = (0..MORE).map(|n| batch(&plenty.data, 0, &n.to_string()));
    let data = std::iter::once(first).chain(more).collect();
    let before = offset(cluster, OffsetOf::Latest).await;
    producer.submit(Transaction { data, last: batch(&topics.checkpoint, 0, "checkpoint"), tag: 0 });
    tokio::select! {
        () = async { while offset(cluster, OffsetOf::Latest).await == before {} } => {}
        _ = producer.next() => panic!("the transaction was over before the first look"),
    }
    // Nobody drives the producer meanwhile.
    in_sync_min(rdkafka, 2).await;
    until_refused(bootstrap).await;
    next_committed(&mut producer).await;
    before
}

fn rdkafka(bootstrap: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap()
}

async fn offset(cluster: &Cluster, which: OffsetOf) -> i64 {
    admin::list_offset(cluster, TOPIC, 0, which).await.unwrap()
}

/// The broker with the replica that does not lead.
fn follower(rdkafka: &AdminClient<DefaultClientContext>) -> usize {
    let metadata = rdkafka.inner().fetch_metadata(Some(TOPIC), LIMIT).unwrap();
    let partition = &metadata.topics()[0].partitions()[0];
    let follower =
        partition.replicas().iter().find(|id| **id != partition.leader()).expect("a second replica");
    usize::try_from(*follower).unwrap()
}

/// Sets `min.insync.replicas` of the topic: the controller has it, its leader follows.
async fn in_sync_min(rdkafka: &AdminClient<DefaultClientContext>, replicas: u32) {
    let replicas = replicas.to_string();
    let change = AlterConfig::new(ResourceSpecifier::Topic(TOPIC)).set("min.insync.replicas", &replicas);
    let changed = rdkafka.alter_configs([&change], &AdminOptions::new()).await.unwrap();
    assert!(changed.iter().all(Result::is_ok), "{changed:?}");
}

/// Writes records of nobody's until the leader refuses one.
async fn until_refused(bootstrap: &str) {
    let client: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("retries", "0").create().unwrap();
    until("its leader goes by what is set", async || {
        let sent = client.send(FutureRecord::<(), [u8]>::to(TOPIC).payload(&[]), LIMIT).await;
        matches!(sent, Err((KafkaError::MessageProduction(RDKafkaErrorCode::NotEnoughReplicas), _)))
    })
    .await;
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !is_so().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}: not within {LIMIT:?}");
}
