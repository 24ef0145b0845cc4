//! A checkpoint topic with a long history: a start must not read it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pillarbox_kafka::producer::{Batch, Outcome, Producer, ProducerConfig, TopicRef, Transaction};
use pillarbox_kafka::{Cluster, ClusterConfig, admin};
use pillarbox_wire::record_batch::BatchBuilder;
use serde_json::Value;

use crate::harness::dice::{Dice, number};
use crate::harness::site::Site;
use crate::probe;
use crate::world::{PATIENCE, load, settle, site, streaming};

/// How long commits are written, one Kafka transaction each; `PILLARBOX_HISTORY_SECONDS` overrides it.
const COMMITS_SECONDS: u64 = 15;

/// Records of the whole topic in the end: what commits alone would need many minutes for.
const RECORDS: u64 = 1_000_000;

/// Records of a transaction that only lengthens the topic.
const BULK: u64 = 1_000;

/// The relay's own rule: the whole table again after so many commits.
const REWRITE_COMMITS: u64 = 1_000;

/// Writes as a relay does that has nothing to relay: the same position again and again.
struct Scribe {
    producer: Producer<bool>,
    topic: Arc<TopicRef>,
    table: Vec<(String, Value)>,
    position: Value,
    commits: u64,
    records: u64,
}

impl Scribe {
    async fn new(site: &Site) -> Self {
        let cluster = Cluster::connect(ClusterConfig {
            brokers: vec![site.kafka.bootstrap()],
            tls: None,
            sasl: None,
            client_id: "scribe".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
        })
        .await
        .expect("Kafka answers");
        let name = "__pillarbox.orders".to_owned();
        let described = admin::describe_topic(&cluster, &name).await.expect("an answer").expect("the topic");
        let ids = ProducerConfig { ids_in_use: 8, ..ProducerConfig::new("pillarbox.orders.") };
        let mut table: Vec<_> = probe::checkpoint(site, "orders").into_iter().collect();
        let at = table.iter().position(|(key, _)| key == "position").expect("a position");
        let (_, position) = table.remove(at);
        Self {
            producer: Producer::init(cluster, ids).await.expect("the ids are ours"),
            topic: Arc::new(TopicRef { name, id: described.id }),
            table,
            position,
            commits: 0,
            records: 0,
        }
    }

    /// Submits one more transaction with so many positions.
    async fn write(&mut self, positions: u64) {
        while !self.producer.can_submit() {
            self.settle().await;
        }
        let whole = self.commits.is_multiple_of(REWRITE_COMMITS);
        let mut builder = BatchBuilder::new();
        let mut append = |key: &str, value: &Value| {
            let value = value.to_string();
            builder.append(0, Some(key.as_bytes()), Some(value.as_bytes()), &[]).expect("a small record");
        };
        if whole {
            self.table.iter().for_each(|(key, value)| append(key, value));
        }
        (0..positions).for_each(|_| append("position", &self.position));
        let records = builder.count();
        let last = Batch::from_vec(Arc::clone(&self.topic), 0, builder.take(), records);
        self.producer.submit(Transaction { data: Vec::new(), last, tag: whole });
        self.commits += 1;
        self.records += u64::from(records);
    }

    async fn settle(&mut self) {
        match self.producer.next().await {
            Outcome::Committed(committed) if committed.transaction.tag => {
                self.position["snapshot_offset"] = committed.last_base_offset.into();
            }
            Outcome::Committed(_) => {}
            Outcome::Lost(lost) => panic!("{}", lost.reason),
        }
    }
}

async fn write_history(site: &Site) {
    let mut scribe = Scribe::new(site).await;
    let seconds = Duration::from_secs(number("PILLARBOX_HISTORY_SECONDS", COMMITS_SECONDS));
    let started = Instant::now();
    while started.elapsed() < seconds {
        scribe.write(1).await;
    }
    println!("{} checkpoint transactions in {:.1?}", scribe.commits, started.elapsed());
    while scribe.records < RECORDS {
        scribe.write(BULK).await;
    }
    // The last thousand commits look like a relay's again.
    for _ in 0..REWRITE_COMMITS + 1 {
        scribe.write(1).await;
    }
    while scribe.producer.in_flight() > 0 {
        scribe.settle().await;
    }
    println!("{} records in {:.1?}", scribe.records, started.elapsed());
}

#[test]
fn a_start_does_not_read_the_history_of_the_checkpoint() {
    let site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, options) = load(&site, Dice::new().seed(), 100.0);
    relay.wait_count("events_total", 500, PATIENCE);
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(write_history(&site));
    let started = Instant::now();
    let log = relay.log_bytes();
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", PATIENCE);
    let took = started.elapsed();
    println!("start to streaming: {took:.2?}");
    // The whole of it cannot be read within the 6 s that a start has for that: another one would follow, with a code.
    let log = relay.log_from(log);
    assert!(!log.contains("PB-"), "{log}");
    settle(&site, &configuration, load, &options);
}
