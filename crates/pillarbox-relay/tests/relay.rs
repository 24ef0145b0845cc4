//! The relay in this process, on a real Postgres and a real Kafka: rows in, records out.
//!
//! What must survive kills runs the binary instead; here the engine is driven through its API.

use std::time::Duration;

use pillarbox_kafka::Cluster;
use pillarbox_kafka::admin::{self, OffsetOf, TopicSpec};
use pillarbox_kafka::reader::{PartitionReader, ReaderOptions, Record};
use pillarbox_lab::{Kafka, KafkaOptions, Postgres, PostgresOptions};
use pillarbox_relay::config::{self, Config, Outbox, TableName, Topics, Transaction};
use pillarbox_relay::pipeline::{Ended, Handle, Options, State, start};
use pillarbox_relay::sink::{self, FirstCheckpoint, bootstrap};
use pillarbox_relay::source::Connection;

const MIGRATION: &str = include_str!("../../../sql/0001_pillarbox.up.sql");
const OUTBOX: &str = "CREATE TABLE outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), \
    aggregatetype text NOT NULL, aggregateid text, type text NOT NULL, payload jsonb)";

struct World {
    postgres: Postgres,
    kafka: Kafka,
    config: Config,
}

impl World {
    fn new(version: u32) -> Self {
        let postgres = Postgres::start(PostgresOptions::version(version)).expect("Postgres starts");
        let kafka = Kafka::start(KafkaOptions::default()).expect("Kafka starts");
        for sql in [MIGRATION, OUTBOX, "CREATE PUBLICATION p FOR TABLE outbox WITH (publish = 'insert')"] {
            postgres.execute("postgres", sql).expect("the database takes the statement");
        }
        postgres
            .query("postgres", "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
            .expect("a slot");
        let config = Config {
            pipeline: "orders".parse().expect("a legal name"),
            postgres: config::Postgres {
                host: "127.0.0.1".into(),
                port: postgres.port(),
                user: "postgres".into(),
                password: None,
                database: "postgres".into(),
                slot: "s".into(),
                publication: "p".into(),
                tls: Default::default(),
                sql: None,
            },
            kafka: config::Kafka {
                brokers: vec![kafka.bootstrap()],
                tls: None,
                sasl: None,
                compression: config::Compression::None,
                topics: Topics { create: true, partitions: 3, replication_factor: 1 },
                transaction: Transaction::default(),
            },
            outbox: vec![Outbox::debezium(TableName { schema: "public".into(), name: "outbox".into() })],
            messages: None,
        };
        Self { postgres, kafka, config }
    }

    async fn bootstrap(&self) -> Cluster {
        let cluster = sink::connect(&self.config).await.expect("Kafka answers");
        let spec = TopicSpec {
            name: self.config.checkpoint_topic(),
            partitions: 1,
            replication_factor: 1,
            configs: vec![("cleanup.policy".into(), "compact".into())],
        };
        admin::create_topic(&cluster, &spec).await.expect("the checkpoint topic");
        let settings = self.config.postgres.clone();
        let (system, slot) = std::thread::spawn(move || {
            let mut connection =
                Connection::connect(&settings, "test", Duration::from_secs(5)).expect("connects");
            let system = connection.identify_system().expect("identifies");
            (system, connection.slot("s").expect("looks").expect("a slot"))
        })
        .join()
        .expect("no panic");
        let first = FirstCheckpoint {
            system_id: system.system_id,
            timeline: system.timeline,
            resume_lsn: slot.confirmed_flush_lsn.expect("a logical slot has one"),
            replace: false,
        };
        assert!(bootstrap(&self.config, &cluster, &first).await.expect("writes"));
        assert!(!bootstrap(&self.config, &cluster, &first).await.expect("leaves alone"));
        cluster
    }

    fn insert(&self, rows: u32) {
        let sql = format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) \
             SELECT 'order', 'k' || i % 7, 'made', jsonb_build_object('n', i) FROM generate_series(1, {rows}) i"
        );
        self.postgres.execute("postgres", &sql).expect("inserts");
    }
}

async fn reached(handle: &Handle, state: State) {
    let mut status = handle.status();
    let waited =
        tokio::time::timeout(Duration::from_secs(20), status.wait_for(|status| status.state == state));
    waited.await.unwrap_or_else(|_| panic!("not {state:?}")).expect("the pipeline lives");
}

async fn events(handle: &Handle, events: u64) {
    let mut status = handle.status();
    let waited = tokio::time::timeout(
        Duration::from_secs(30),
        status.wait_for(|status| status.events_total >= events),
    );
    waited.await.unwrap_or_else(|_| panic!("not {events} events")).expect("the pipeline lives");
}

async fn records(cluster: &Cluster, topic: &str, partitions: i32) -> Vec<Record> {
    let mut records = Vec::new();
    for partition in 0..partitions {
        // What is committed may wait for its markers: the reader does, too.
        let end = admin::list_offset(cluster, topic, partition, OffsetOf::Latest).await.expect("an offset");
        let mut reader = PartitionReader::new(cluster.clone(), topic, partition, 0, ReaderOptions::default());
        records.extend(reader.read_to(end, Duration::from_secs(10)).await.expect("reads"));
    }
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_become_records_and_a_restart_goes_on() {
    let world = tokio::task::block_in_place(|| World::new(18));
    let cluster = world.bootstrap().await;
    tokio::task::block_in_place(|| world.insert(100));
    let handle = start(world.config.clone(), Options::default());
    reached(&handle, State::Streaming).await;
    events(&handle, 100).await;
    tokio::task::block_in_place(|| world.insert(50));
    events(&handle, 150).await;
    handle.stop();
    assert_eq!(handle.join().await, Ended::Stopped);

    let handle = start(world.config.clone(), Options::default());
    reached(&handle, State::Streaming).await;
    tokio::task::block_in_place(|| world.insert(25));
    events(&handle, 25).await;
    handle.pause().await.expect("pauses");
    tokio::task::block_in_place(|| world.insert(5));
    handle.stop();
    assert_eq!(handle.join().await, Ended::Stopped);

    let handle = start(world.config.clone(), Options::default());
    reached(&handle, State::Paused).await;
    assert_eq!(records(&cluster, "outbox.event.order", 3).await.len(), 175, "a pause survives a restart");
    handle.resume().await.expect("resumes");
    events(&handle, 5).await;
    handle.stop();
    assert_eq!(handle.join().await, Ended::Stopped);
    assert_eq!(records(&cluster, "outbox.event.order", 3).await.len(), 180);
    drop(world.kafka);
}
