//! What the producer costs and reaches on a private Kafka: `cargo run --release -p pillarbox-kafka --example produce`.
//!
//! Prints, per shape of transaction, events per second, this process's CPU per event (the broker's is apart, in its own
//! process; encoding is not part of it) and the commit latency. Numbers mean something only beside the machine and
//! another client in the same run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pillarbox_kafka::admin::{self, TopicSpec};
use pillarbox_kafka::producer::{Batch, Outcome, Producer, ProducerConfig, TopicRef, Transaction};
use pillarbox_kafka::{Cluster, ClusterConfig};
use pillarbox_lab::kafka::Profile;
use pillarbox_lab::{Kafka, KafkaOptions};
use pillarbox_wire::record_batch::BatchBuilder;

const PARTITIONS: u32 = 8;
const VALUE_BYTES: usize = 200;

fn main() {
    let options = KafkaOptions { profile: Profile::Throughput, ..KafkaOptions::default() };
    let kafka = Kafka::start(options).expect("a private Kafka");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let cluster = Cluster::connect(ClusterConfig::new([kafka.bootstrap()])).await.expect("connected");
        let data = topic(&cluster, "bench", PARTITIONS).await;
        let checkpoint = topic(&cluster, "bench-checkpoint", 1).await;
        let shapes = [(1, 2_000, 1), (1, 2_000, 4), (100, 1_000, 4), (1_000, 500, 4), (10_000, 200, 4)];
        for (events, transactions, in_use) in shapes {
            let config = ProducerConfig { ids_in_use: in_use, ..ProducerConfig::new("bench.") };
            let mut producer = Producer::init(cluster.clone(), config).await.expect("identities");
            run(&mut producer, (&data, &checkpoint), 50, events).await;
            let report = run(&mut producer, (&data, &checkpoint), transactions, events).await;
            println!("{events:>6} events/tx, {in_use} in flight: {report}");
        }
    });
}

async fn topic(cluster: &Cluster, name: &str, partitions: u32) -> Arc<TopicRef> {
    let partitions = partitions as i32;
    let spec = TopicSpec { name: name.to_owned(), partitions, replication_factor: -1, configs: Vec::new() };
    admin::create_topic(cluster, &spec).await.expect("created");
    let found = admin::describe_topic(cluster, name).await.expect("described").expect("it exists");
    Arc::new(TopicRef { name: found.name, id: found.id })
}

fn batch(topic: &Arc<TopicRef>, partition: i32, events: u32) -> Batch {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let mut builder = BatchBuilder::new();
    for n in 0..events {
        let key = n.to_be_bytes();
        builder.append(now.as_millis() as i64, Some(&key), Some(&[b'v'; VALUE_BYTES]), &[]).expect("it fits");
    }
    builder.finish();
    Batch::from_vec(Arc::clone(topic), partition, builder.take(), events)
}

fn transaction(data: &Arc<TopicRef>, checkpoint: &Arc<TopicRef>, events: u32) -> Transaction<Instant> {
    let partitions = events.min(PARTITIONS);
    let data = (0..partitions).map(|partition| batch(data, partition as i32, events / partitions)).collect();
    Transaction { data, last: batch(checkpoint, 0, 1), tag: Instant::now() }
}

/// Produces the same buffers again and again, as many transactions in flight as there are ids.
async fn run(
    producer: &mut Producer<Instant>,
    topics: (&Arc<TopicRef>, &Arc<TopicRef>),
    transactions: usize,
    events: u32,
) -> String {
    let mut free: Vec<_> = (0..8).map(|_| transaction(topics.0, topics.1, events)).collect();
    let mut latencies = Vec::with_capacity(transactions);
    let (started, cpu, mut submitted) = (Instant::now(), cpu_time(), 0);
    while latencies.len() < transactions {
        while submitted < transactions && producer.can_submit() {
            let mut next = free.pop().expect("as many as there are ids");
            next.tag = Instant::now();
            producer.submit(next);
            submitted += 1;
        }
        match producer.next().await {
            Outcome::Committed(committed) => {
                latencies.push(committed.transaction.tag.elapsed());
                free.push(committed.transaction);
            }
            Outcome::Lost(lost) => panic!("{}", lost.reason),
        }
    }
    latencies.sort_unstable();
    let (took, spent) = (started.elapsed(), cpu_time() - cpu);
    let total = transactions as f64 * f64::from(events);
    format!(
        "{:>9.0} events/s, {:>6.0} tx/s, {:>7.0} ns CPU/event, commit p50 {:?} p99 {:?}",
        total / took.as_secs_f64(),
        transactions as f64 / took.as_secs_f64(),
        spent.as_nanos() as f64 / total,
        latencies[transactions / 2],
        latencies[transactions * 99 / 100],
    )
}

/// User and system time of this process, to a hundredth of a second.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let after_name = stat.rsplit(')').next().expect("a name in parentheses");
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}
