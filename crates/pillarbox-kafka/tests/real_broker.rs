//! The whole client against Apache Kafka itself; what was written is read back by another implementation.

mod support;

use std::time::{Duration, Instant};

use pillarbox_kafka::admin::{self, Creation, OffsetOf, TopicSpec};
use pillarbox_kafka::producer::{LostReason, Outcome, Producer, ProducerConfig};
use pillarbox_kafka::reader::{PartitionReader, ReaderOptions};
use pillarbox_kafka::{Cluster, Error, ErrorCode, markers};
use pillarbox_lab::{Kafka, KafkaOptions};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use support::{Topics, config, drive, next_committed, next_lost, try_drive};

const CHECKPOINT: &str = "__pillarbox.orders";

/// No read takes longer than this.
const READ_LIMIT: Duration = Duration::from_secs(60);
/// How long transactions may take to get through again: a broker restarts meanwhile.
const GO_ON_LIMIT: Duration = Duration::from_secs(180);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

fn spec(name: &str, partitions: i32, configs: &[(&str, &str)]) -> TopicSpec {
    let configs = configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    TopicSpec { name: name.to_owned(), partitions, replication_factor: -1, configs }
}

async fn topics(cluster: &Cluster, data: &str, partitions: i32, configs: &[(&str, &str)]) -> Topics {
    admin::create_topic(cluster, &spec(data, partitions, configs)).await.unwrap();
    admin::create_topic(cluster, &spec(CHECKPOINT, 1, &[("cleanup.policy", "compact")])).await.unwrap();
    Topics::find(cluster, data, CHECKPOINT).await
}

async fn producer(cluster: &Cluster) -> Producer<u64> {
    Producer::init(cluster.clone(), producer_config()).await.unwrap()
}

fn producer_config() -> ProducerConfig {
    ProducerConfig {
        transaction_timeout: Duration::from_secs(30),
        request_timeout: Duration::from_secs(10),
        ..ProducerConfig::new("pillarbox.orders.")
    }
}

/// Values of one partition as our own reader sees them.
async fn read(cluster: &Cluster, topic: &str, partition: i32) -> Vec<String> {
    try_read(cluster, topic, partition).await.unwrap()
}

/// Fails while a broker is away.
async fn try_read(cluster: &Cluster, topic: &str, partition: i32) -> Result<Vec<String>, Error> {
    let end = admin::list_offset(cluster, topic, partition, OffsetOf::Latest).await?;
    let mut reader = PartitionReader::new(cluster.clone(), topic, partition, 0, ReaderOptions::default());
    let records = reader.read_to(end, READ_LIMIT).await?;
    let value = |value: &Option<bytes::Bytes>| String::from_utf8(value.clone().unwrap().to_vec()).unwrap();
    Ok(records.iter().map(|record| value(&record.value)).collect())
}

/// Values of one partition as librdkafka sees them, `read_committed`.
fn read_independently(bootstrap: &str, topic: &str, partition: i32) -> Vec<String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "check")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    let mut values = Vec::new();
    loop {
        match consumer.poll(READ_LIMIT).expect("a record or the end in time") {
            Ok(record) => values.push(String::from_utf8(record.payload().unwrap().to_vec()).unwrap()),
            Err(rdkafka::error::KafkaError::PartitionEOF(_)) => return values,
            Err(error) => println!("while reading: {error}"),
        }
    }
}

/// Every partition holds exactly transactions `0..count`, in order, for both readers.
async fn check(cluster: &Cluster, bootstrap: &str, topics: &Topics, count: u64, batches: u32) {
    let expected = topics.expected(count, batches);
    for partition in 0..topics.partitions {
        assert_eq!(read(cluster, &topics.data.name, partition).await, expected, "partition {partition}");
        let name = topics.data.name.clone();
        let bootstrap = bootstrap.to_owned();
        let theirs = tokio::task::spawn_blocking(move || read_independently(&bootstrap, &name, partition));
        assert_eq!(theirs.await.unwrap(), expected, "partition {partition}, read independently");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn one_broker() {
    // Timed-out transactions are looked for every 10 s by default.
    let options =
        KafkaOptions::default().setting("transaction.abort.timed.out.transaction.cleanup.interval.ms", "200");
    let mut kafka = Kafka::start(options).unwrap();
    let bootstrap = kafka.bootstrap();
    runtime().block_on(async {
        let cluster = Cluster::connect(config(&bootstrap)).await.unwrap();
        assert_eq!(cluster.transaction_version(), 2);
        assert!(!cluster.cluster_id().is_empty());
        topics_are_managed(&cluster).await;
        transactions_are_read_by_others(&cluster, &bootstrap).await;
        every_compression_is_read(&cluster).await;
        a_second_producer_fences_the_first(&cluster).await;
        too_large_is_typed_and_leaves_nothing(&cluster).await;
        a_recreated_topic_is_never_written(&cluster).await;
        a_stalled_relay_loses_its_transaction(&cluster).await;
        a_frozen_broker_ends_the_producer(&cluster, &mut kafka).await;
        a_killed_broker_ends_the_producer(&cluster, &bootstrap, &mut kafka).await;
    });
}

async fn topics_are_managed(cluster: &Cluster) {
    println!("topics are managed");
    let wanted = spec("managed", 3, &[("retention.ms", "1000"), ("max.message.bytes", "5000")]);
    assert_eq!(admin::describe_topic(cluster, "managed").await.unwrap(), None);
    assert_eq!(admin::create_topic(cluster, &wanted).await.unwrap(), Creation::Created);
    assert_eq!(admin::create_topic(cluster, &wanted).await.unwrap(), Creation::AlreadyExists);
    let found = admin::describe_topic(cluster, "managed").await.unwrap().unwrap();
    assert_eq!((found.partitions, found.replication_factor, found.leaderless), (3, 1, 0));
    let by_id = admin::describe_topics_by_id(cluster, &[found.id, uuid::Uuid::from_u128(1)]).await.unwrap();
    assert_eq!(by_id, [Some(found.clone()), None]);
    let limits = admin::topic_limits(cluster, "managed").await.unwrap();
    assert_eq!((limits.max_message_bytes, limits.retention_ms), (5000, Some(1000)));
    assert!(limits.delete && !limits.compact && limits.min_insync_replicas == 1);
    assert_eq!((limits.timestamp_before_max_ms, limits.timestamp_after_max_ms), (None, Some(3_600_000)));
    let broker = admin::broker_limits(cluster).await.unwrap();
    assert_eq!((broker.transaction_max_timeout_ms, broker.auto_create_topics), (900_000, false));
    admin::increase_partitions(cluster, "managed", 5).await.unwrap();
    for which in [OffsetOf::Earliest, OffsetOf::Latest, OffsetOf::LatestCommitted] {
        assert_eq!(admin::list_offset(cluster, "managed", 0, which).await.unwrap(), 0);
    }
    assert!(admin::list_topics(cluster).await.unwrap().iter().any(|topic| topic.name == "managed"));
    assert!(admin::delete_topic(cluster, "managed").await.unwrap());
    let unknown = admin::topic_limits(cluster, "never-there").await.err().and_then(|error| error.code());
    assert_eq!(unknown, Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
}

async fn transactions_are_read_by_others(cluster: &Cluster, bootstrap: &str) {
    println!("transactions are read by others");
    let topics = topics(cluster, "plain", 8, &[]).await;
    let mut producer = producer(cluster).await;
    let started = std::time::Instant::now();
    drive(&mut producer, &topics, 0..200, 1).await;
    println!("200 small transactions in {:?}: {:?}", started.elapsed(), producer.stats());
    assert_eq!((producer.stats().aborts, producer.stats().replays), (0, 0));
    drive(&mut producer, &topics, 200..210, 1).await;
    check(cluster, bootstrap, &topics, 210, 1).await;
    let before = admin::list_offset(cluster, "plain", 0, OffsetOf::Earliest).await.unwrap();
    let after = admin::delete_records(cluster, "plain", 0, 10).await.unwrap();
    assert_eq!((before, after), (0, 10));
    let mut gone = PartitionReader::new(cluster.clone(), "plain", 0, 0, ReaderOptions::default());
    let code = gone.poll().await.err().and_then(|error| error.code());
    assert_eq!(code, Some(ErrorCode::OFFSET_OUT_OF_RANGE));
}

/// The broker compresses what we write, so that the reader meets every codec.
async fn every_compression_is_read(cluster: &Cluster) {
    println!("every compression is read");
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        let topics = topics(cluster, codec, 1, &[("compression.type", codec)]).await;
        drive(&mut producer(cluster).await, &topics, 0..3, 2).await;
        assert_eq!(read(cluster, codec, 0).await, topics.expected(3, 2), "{codec}");
    }
}

async fn a_second_producer_fences_the_first(cluster: &Cluster) {
    println!("a second producer fences the first");
    let topics = topics(cluster, "fenced", 2, &[]).await;
    let mut first = producer(cluster).await;
    drive(&mut first, &topics, 0..3, 1).await;
    let mut second = producer(cluster).await;
    first.submit(topics.transaction(99, 1));
    let lost = next_lost(&mut first).await;
    assert_eq!((lost.reason, lost.transactions.len()), (LostReason::Fenced, 1));
    drive(&mut second, &topics, 3..6, 1).await;
    assert_eq!(read(cluster, "fenced", 1).await, topics.expected(6, 1));
}

async fn too_large_is_typed_and_leaves_nothing(cluster: &Cluster) {
    println!("too large is typed and leaves nothing");
    // Not below the 78 bytes of an abort marker: a broker that cannot write one never finishes the transaction.
    let small = topics(cluster, "small", 1, &[("max.message.bytes", "200")]).await;
    let plain = topics(cluster, "beside", 1, &[]).await;
    let mut producer = producer(cluster).await;
    let mut mixed = plain.transaction(0, 1);
    mixed.data.push(support::batch(&small.data, 0, &"x".repeat(500)));
    producer.submit(plain.transaction(0, 1));
    producer.submit(mixed);
    assert_eq!(next_committed(&mut producer).await.transaction.tag, 0);
    let lost = next_lost(&mut producer).await;
    assert_eq!(lost.reason, LostReason::TooLarge { topic: "small".to_owned() });
    // The abort was sent, so nobody waits for a timeout to read on.
    let end = admin::list_offset(cluster, "beside", 0, OffsetOf::Latest).await.unwrap();
    let mut reader = PartitionReader::new(cluster.clone(), "beside", 0, 0, ReaderOptions::default());
    assert_eq!(reader.read_to(end, Duration::from_secs(20)).await.unwrap().len(), 1);
}

async fn a_recreated_topic_is_never_written(cluster: &Cluster) {
    println!("a recreated topic is never written");
    let topics = topics(cluster, "again", 1, &[]).await;
    let mut producer = producer(cluster).await;
    drive(&mut producer, &topics, 0..2, 1).await;
    assert!(admin::delete_topic(cluster, "again").await.unwrap());
    while admin::create_topic(cluster, &spec("again", 1, &[])).await.unwrap() != Creation::Created {}
    producer.submit(topics.transaction(2, 1));
    let lost = next_lost(&mut producer).await;
    assert_eq!(lost.reason, LostReason::TopicGone { name: "again".to_owned() });
    assert_eq!(read(cluster, "again", 0).await, Vec::<String>::new());
}

async fn a_stalled_relay_loses_its_transaction(cluster: &Cluster) {
    println!("a stalled relay loses its transaction");
    let topics = topics(cluster, "stalled", 1, &[]).await;
    drive(&mut producer(cluster).await, &topics, 0..2, 1).await;
    let config = ProducerConfig { transaction_timeout: Duration::from_millis(500), ..producer_config() };
    let mut producer = Producer::init(cluster.clone(), config).await.unwrap();
    // Many batches, so that the first ones are in the log long before the transaction is whole.
    producer.submit(topics.transaction(2, 500));
    let offset = async |which| admin::list_offset(cluster, "stalled", 0, which).await.unwrap();
    let written = async { while offset(OffsetOf::Latest).await < 5 {} };
    tokio::select! {
        () = written => {}
        _ = producer.next() => panic!("the transaction was over before the first look"),
    }
    // Nobody drives the producer until the coordinator gave up on it.
    while offset(OffsetOf::LatestCommitted).await < offset(OffsetOf::Latest).await {}
    let lost = next_lost(&mut producer).await;
    assert!(matches!(lost.reason, LostReason::Fenced | LostReason::TimedOut), "{:?}", lost.reason);
    println!("a stalled relay is told: {:?}", lost.reason);
    assert_eq!(read(cluster, "stalled", 0).await, topics.expected(2, 1));
}

async fn a_frozen_broker_ends_the_producer(cluster: &Cluster, kafka: &mut Kafka) {
    println!("a frozen broker ends the producer");
    let topics = topics(cluster, "frozen", 4, &[]).await;
    drive(&mut producer(cluster).await, &topics, 0..5, 2).await;
    let config = ProducerConfig { request_timeout: Duration::from_millis(300), ..producer_config() };
    let mut producer = loop {
        if let Ok(producer) = Producer::init(cluster.clone(), config.clone()).await {
            break producer;
        }
    };
    kafka.suspend(1).unwrap();
    for n in 5..8 {
        producer.submit(topics.transaction(n, 2));
    }
    let lost = next_lost(&mut producer).await;
    assert!(matches!(lost.reason, LostReason::Disconnected { .. }), "{:?}", lost.reason);
    kafka.resume(1).unwrap();
    go_on(cluster, &topics, 8, 2).await;
    assert_eq!(read(cluster, "frozen", 3).await, topics.expected(8, 2));
}

async fn a_killed_broker_ends_the_producer(cluster: &Cluster, bootstrap: &str, kafka: &mut Kafka) {
    println!("a killed broker ends the producer");
    let topics = topics(cluster, "killed", 4, &[]).await;
    let mut producer = producer(cluster).await;
    drive(&mut producer, &topics, 0..5, 3).await;
    for n in 5..8 {
        producer.submit(topics.transaction(n, 3));
    }
    assert_eq!(next_committed(&mut producer).await.transaction.tag, 5);
    kafka.kill9(1).unwrap();
    let unreachable = Cluster::connect(config(bootstrap)).await.err();
    assert!(unreachable.is_some_and(|error| error.is_unreachable()));
    kafka.start_broker(1).unwrap();
    next_lost(&mut producer).await;
    go_on(cluster, &topics, 12, 3).await;
    check(cluster, bootstrap, &topics, 12, 3).await;
}

/// What a relay does after a loss: looks for lost markers, fences, reads the checkpoint, and goes on from there to
/// `end`. Gives how many producers that took.
async fn go_on(cluster: &Cluster, topics: &Topics, end: u64, batches: u32) -> u32 {
    let started = std::time::Instant::now();
    let ids: Vec<String> = (0..8).map(|n| format!("pillarbox.orders.{n}")).collect();
    let watched = [(topics.data.name.clone(), topics.partitions as u32), (CHECKPOINT.to_owned(), 1)];
    for producers in 1.. {
        assert!(started.elapsed() < GO_ON_LIMIT, "transactions do not get through again");
        let report = match markers::restore(cluster, &ids, &watched).await {
            Ok(report) => report,
            Err(error) => {
                println!("while looking for markers: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        println!("lost markers: {:?}", report.written);
        assert_eq!(report.unknown, []);
        let Ok(mut producer) = Producer::init(cluster.clone(), producer_config()).await else { continue };
        let Ok(mut checkpoint) = try_read(cluster, CHECKPOINT, 0).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let last = checkpoint.pop();
        let next = last.map_or(0, |last| last.parse::<u64>().unwrap() + 1);
        if try_drive(&mut producer, topics, next..end, batches).await.is_ok() {
            return producers;
        }
    }
    unreachable!()
}

#[test]
fn three_brokers_and_one_of_them_dies_under_load() {
    let mut kafka = Kafka::start(KafkaOptions::brokers(3)).unwrap();
    let bootstrap = kafka.bootstrap();
    runtime().block_on(async {
        let cluster = Cluster::connect(config(&bootstrap)).await.unwrap();
        let topics = topics(&cluster, "orders", 6, &[]).await;
        let limits = admin::topic_limits(&cluster, "orders").await.unwrap();
        assert_eq!(limits.min_insync_replicas, 2);
        let mut end = 0;
        for victim in 1..=3 {
            end += 40;
            go_on(&cluster, &topics, end, 2).await;
            // Under load: the kill comes with transactions in every stage.
            end += 40;
            let (producers, ()) = tokio::join!(go_on(&cluster, &topics, end, 2), async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                kafka.kill9(victim).unwrap();
            });
            println!("broker {victim} killed: {producers} producers");
            end += 40;
            go_on(&cluster, &topics, end, 2).await;
            kafka.start_broker(victim).unwrap();
        }
        check(&cluster, &bootstrap, &topics, end, 2).await;
    });
}

/// Markers are lost on purpose: the only replica of a partition dies between its acknowledgement and EndTxn.
///
/// fault: 32 a broker dies between a decision and its markers
/// holds: the markers are written as decided; where nobody knows the decision any more, the relay waits
/// told: PB-2020
#[test]
fn a_lost_marker_is_written_unless_its_outcome_is_forgotten() {
    let mut kafka = Kafka::start(KafkaOptions::brokers(3)).unwrap();
    let bootstrap = kafka.bootstrap();
    runtime().block_on(async {
        let cluster = Cluster::connect(config(&bootstrap)).await.unwrap();
        for (name, partitions) in [("orders", 3), (CHECKPOINT, 1)] {
            let spec = TopicSpec { replication_factor: 1, ..spec(name, partitions, &[]) };
            admin::create_topic(&cluster, &spec).await.unwrap();
        }
        // Partitions of one replica are spread: two of three are not where the checkpoint is.
        let keeper = holder(&kafka, CHECKPOINT, 0).await;
        let lost = partition_elsewhere(&kafka, keeper).await;
        let watched = [("orders".to_owned(), 3), (CHECKPOINT.to_owned(), 1)];
        let ids: Vec<String> = (0..8).map(|n| format!("pillarbox.orders.{n}")).collect();

        let at = lose_a_marker(&mut kafka, lost, "kept").await;
        let cluster = Cluster::connect(config(&bootstrap)).await.unwrap();
        let report = restored(&cluster, &ids, &watched).await;
        let found: Vec<_> = report
            .written
            .iter()
            .map(|(open, ending)| (open.partition, open.first_offset, *ending))
            .collect();
        assert_eq!((found, report.unknown), (vec![(lost, at, markers::Ending::Commit)], vec![]));
        assert_eq!(read(&cluster, "orders", lost).await, ["kept"]);
        let nothing = restored(&cluster, &ids, &watched).await;
        assert_eq!(nothing, markers::Report::default(), "a second look finds nothing");

        // Whoever fences first can tell no more: it is reported, and left as it is.
        let at = lose_a_marker(&mut kafka, lost, "forgotten").await;
        let cluster = Cluster::connect(config(&bootstrap)).await.unwrap();
        producer(&cluster).await;
        let report = restored(&cluster, &ids, &watched).await;
        let found: Vec<_> = report.unknown.iter().map(|open| (open.partition, open.first_offset)).collect();
        assert_eq!((found, report.written), (vec![(lost, at)], vec![]));
        let stable = admin::list_offset(&cluster, "orders", lost, OffsetOf::LatestCommitted).await.unwrap();
        assert_eq!(stable, at);
    });
}

/// A broker that has just started may not lead its partitions yet, though others say so.
async fn restored(cluster: &Cluster, ids: &[String], watched: &[(String, u32)]) -> markers::Report {
    let deadline = Instant::now() + READ_LIMIT;
    loop {
        match markers::restore(cluster, ids, watched).await {
            Ok(report) => return report,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Commits a transaction with one record for a partition whose only replica is down by then; it is up again after.
/// Gives the record's offset.
async fn lose_a_marker(kafka: &mut Kafka, lost: i32, value: &str) -> i64 {
    for _ in 0..5 {
        if let Some(offset) = try_to_lose_a_marker(kafka, lost, value).await {
            return offset;
        }
    }
    panic!("no acknowledgement came before the broker died");
}

/// `None` if the broker died before its acknowledgement was here: nothing is committed then.
async fn try_to_lose_a_marker(kafka: &mut Kafka, lost: i32, value: &str) -> Option<i64> {
    let cluster = Cluster::connect(config(&kafka.bootstrap())).await.unwrap();
    let topics = Topics::find(&cluster, "orders", CHECKPOINT).await;
    let victim = holder(kafka, "orders", lost).await;
    let safe = partition_elsewhere(kafka, victim).await;
    let mut producer = producer(&cluster).await;
    // Much behind the one record, so that the transaction is far from whole when the record is there.
    let mut transaction = topics.transaction(0, 0);
    transaction.data.push(support::batch(&topics.data, lost, value));
    transaction.data.extend((0..500).map(|n| support::batch(&topics.data, safe, &n.to_string())));
    let offset = async || admin::list_offset(&cluster, "orders", lost, OffsetOf::Latest).await.unwrap();
    let before = offset().await;
    producer.submit(transaction);
    let written = async { while offset().await == before {} };
    tokio::select! {
        () = written => {}
        _ = producer.next() => panic!("the transaction was over before the first look"),
    }
    // Its acknowledgement is here a moment later.
    tokio::time::sleep(Duration::from_millis(100)).await;
    kafka.kill9(victim).unwrap();
    while admin::describe_topic(&cluster, "orders").await.unwrap().unwrap().leaderless == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let outcome = support::next(&mut producer).await;
    kafka.start_broker(victim).unwrap();
    matches!(outcome, Outcome::Committed(_)).then_some(before)
}

/// The first of the three partitions of "orders" that this broker does not hold.
async fn partition_elsewhere(kafka: &Kafka, broker: usize) -> i32 {
    for partition in 0..3 {
        if holder(kafka, "orders", partition).await != broker {
            return partition;
        }
    }
    panic!("broker {broker} holds every partition");
}

/// The broker that holds a replica of this partition. It makes the log a moment after the topic is there.
async fn holder(kafka: &Kafka, topic: &str, partition: i32) -> usize {
    let holds =
        |broker: &usize| kafka.log_dir(*broker).unwrap().join(format!("{topic}-{partition}")).exists();
    let deadline = Instant::now() + READ_LIMIT;
    loop {
        if let Some(broker) = (1..=kafka.broker_count()).find(holds) {
            return broker;
        }
        assert!(Instant::now() < deadline, "no broker holds {topic}-{partition}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Kafka 3.9: no KIP-890, a transaction has to be told its partitions, ids are renewed by us.
#[test]
fn an_older_cluster_is_served_with_the_older_protocol() {
    let mut kafka =
        Kafka::start(KafkaOptions { version: "3.9.1".into(), ..KafkaOptions::default() }).unwrap();
    let bootstrap = kafka.bootstrap();
    runtime().block_on(async {
        let cluster = Cluster::connect(config(&bootstrap)).await.unwrap();
        assert!(cluster.transaction_version() < 2);
        transactions_are_read_by_others(&cluster, &bootstrap).await;
        a_second_producer_fences_the_first(&cluster).await;
        too_large_is_typed_and_leaves_nothing(&cluster).await;
        a_stalled_relay_loses_its_transaction(&cluster).await;
        a_frozen_broker_ends_the_producer(&cluster, &mut kafka).await;
        a_killed_broker_ends_the_producer(&cluster, &bootstrap, &mut kafka).await;
    });
}
