//! Other servers than the usual pair: an older Postgres, three brokers of which one dies, and a source transaction
//! of a million rows.
//!
//! Must never pass on topics that have fewer replicas than the test is about.

#[expect(dead_code, reason = "not every test needs all of the harness")]
mod harness;

use std::time::{Duration, Instant};

use harness::records::{Isolation, header, read, replicas};
use harness::relay::Relay;
use harness::site::{Configuration, Site};
use harness::until::until;
use pillarbox_lab::workload::{Workload, WorkloadOptions};
use pillarbox_lab::{KafkaOptions, PostgresOptions};
use pillarbox_wire::header::{PB_PART, PB_POS, PbPos};
use rdkafka::message::{BorrowedMessage, Message};

const PARTITIONS: u32 = 4;
/// How long any step may take on a busy machine.
const STEP_MAX: Duration = Duration::from_secs(120);
/// Rows of the large transaction.
const ROWS: usize = 1_000_000;
/// The most memory a relay may have resident meanwhile.
const RSS_KIB_MAX: u64 = 100_000_000 / 1024;
/// Where its rows go.
const BULK_TOPIC: &str = "outbox.event.bulk";

fn streaming(postgres: u32, kafka: KafkaOptions) -> (Site, Configuration, Relay) {
    let site = Site::start(PostgresOptions::version(postgres), kafka);
    let configuration = site.configure("orders", PARTITIONS, &[]);
    site.setup(&configuration);
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", STEP_MAX);
    (site, configuration, relay)
}

#[test]
fn postgres_15_and_one_broker() {
    let begun = Instant::now();
    let (site, configuration, mut relay) = streaming(15, KafkaOptions::default());
    let options = WorkloadOptions { transactions: 50, ..WorkloadOptions::default() };
    let log =
        Workload::start(&site.url(), options.clone()).expect("writers start").finish().expect("all is known");
    site.caught_up(&configuration, STEP_MAX);
    assert_eq!(relay.terminate(STEP_MAX).code(), Some(0));
    site.judge(&log, &options, PARTITIONS).assert_clean();
    println!("postgres 15 and one broker: {:.0?}", begun.elapsed());
}

/// Brokers without `transaction.version` 2: the relay dies at random moments, the broker once.
#[test]
fn kafka_3_9_with_kills() {
    let begun = Instant::now();
    let older = KafkaOptions { version: "3.9.1".into(), ..KafkaOptions::default() };
    let (mut site, configuration, mut relay) = streaming(18, older);
    let options = WorkloadOptions { transactions: u32::MAX, rate: Some(100.0), ..WorkloadOptions::default() };
    let workload = Workload::start(&site.url(), options.clone()).expect("writers start");
    // A start gives up where Kafka does not answer for 30 s, which a broker may take to come back.
    let relays = |relay: &mut Relay, least: u64| {
        until(&format!("events_total is {least}"), STEP_MAX, || {
            if !relay.is_running() {
                relay.start_again();
            }
            (relay.count("events_total") >= least).then_some(())
        });
    };
    for kill in 1..=6 {
        let relayed = relay.count("events_total");
        relays(&mut relay, relayed + 700 + 130 * kill);
        relay.kill9();
        relay.start_again();
        if kill == 3 {
            site.kafka.kill9(1).expect("the broker dies");
            site.kafka.start_broker(1).expect("the broker starts again");
        }
    }
    relays(&mut relay, 500);
    workload.stop();
    let log = workload.finish().expect("all is known");
    site.caught_up(&configuration, STEP_MAX);
    assert_eq!(relay.terminate(STEP_MAX).code(), Some(0));
    site.judge(&log, &options, PARTITIONS).assert_clean();
    assert!(relay.log_count("PB-2003") > 0, "the log names the older protocol");
    println!("kafka 3.9: {} lost markers, {:.0?}", relay.log_count("PB-2020"), begun.elapsed());
}

/// fault: 32 each of three brokers is killed under load and comes back
/// holds: nothing lost; two of three go on without it
/// told: nothing halts
#[test]
fn three_brokers_of_which_each_dies_once() {
    let begun = Instant::now();
    let (mut site, configuration, mut relay) = streaming(18, KafkaOptions::brokers(3));
    let options = WorkloadOptions { transactions: u32::MAX, rate: Some(50.0), ..WorkloadOptions::default() };
    let workload = Workload::start(&site.url(), options.clone()).expect("writers start");
    for broker in 1..=3 {
        let relayed = relay.count("events_total");
        relay.wait_count("events_total", relayed + 500, STEP_MAX);
        let dies = Instant::now();
        site.kafka.kill9(broker).expect("the broker dies");
        // With two of three in sync, the relay goes on without it.
        let relayed = relay.count("events_total");
        relay.wait_count("events_total", relayed + 500, STEP_MAX);
        let without = dies.elapsed();
        site.kafka.start_broker(broker).expect("the broker starts again");
        println!(
            "broker {broker}: 500 events {without:.1?} after its death; it was back after {:.1?}",
            dies.elapsed()
        );
    }
    let relayed = relay.count("events_total");
    relay.wait_count("events_total", relayed + 500, STEP_MAX);
    workload.stop();
    let log = workload.finish().expect("all is known");
    site.caught_up(&configuration, STEP_MAX);
    assert_eq!(relay.terminate(STEP_MAX).code(), Some(0));
    for topic in options.topics().iter().chain(&["__pillarbox.orders".to_owned()]) {
        let replicas = replicas(&site.kafka.bootstrap(), topic);
        assert!(replicas.iter().all(|count| *count == 3), "{topic} has replicas {replicas:?}");
    }
    site.judge(&log, &options, PARTITIONS).assert_clean();
    println!("three brokers of which each dies once: {:.0?}", begun.elapsed());
}

#[test]
fn a_transaction_of_a_million_rows() {
    let begun = Instant::now();
    let (site, configuration, mut relay) = streaming(18, KafkaOptions::default());
    let rows = format!(
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) SELECT gen_random_uuid(), 'bulk', \
         'key-' || n % 1000, 'made', jsonb_build_object('n', n) FROM generate_series(1, {ROWS}) n"
    );
    site.postgres.execute("postgres", &rows).expect("one transaction");
    let written = Instant::now();
    site.caught_up(&configuration, STEP_MAX);
    let relayed = written.elapsed();
    let rss_kib = relay.rss_max_kib();
    println!(
        "{ROWS} rows in one transaction: relayed {relayed:.1?} after its commit, {} MB at most",
        rss_kib * 1024 / 1_000_000
    );
    tells_where_its_time_went(&relay, begun);
    assert_eq!(relay.terminate(STEP_MAX).code(), Some(0));

    let mut seen = Vec::with_capacity(ROWS);
    read(&site.kafka.bootstrap(), BULK_TOPIC, Isolation::Committed, |message| seen.push(Seen::of(message)));
    assert_eq!(seen.len(), ROWS, "rows");
    in_order_per_partition(&seen);
    seen.sort_unstable_by_key(|row| row.index);
    whole_and_split_in_order(&seen);
    println!("{} parts; a transaction of a million rows: {:.0?}", seen[ROWS - 1].part, begun.elapsed());
    assert!(rss_kib < RSS_KIB_MAX, "{rss_kib} KiB");
}

/// Each stage of the reader has had time, each moment counts once; so has each wait of a Kafka transaction.
fn tells_where_its_time_went(relay: &Relay, begun: Instant) {
    let metrics = relay.get("/metrics").expect("an answer").1;
    let sum = |metric: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(metric));
        let line = line.unwrap_or_else(|| panic!("no {metric} in {metrics}"));
        let seconds = line.rsplit(' ').next().and_then(|text| text.parse().ok()).expect("a number");
        assert!(seconds > 0.0, "{line}");
        seconds
    };
    let reader =
        |stage| sum(&format!("pillarbox_reader_seconds_sum{{pipeline=\"orders\",stage=\"{stage}\"}}"));
    let all: f64 = ["wait", "read", "take", "seal", "attend"].map(reader).iter().sum();
    assert!(all <= begun.elapsed().as_secs_f64(), "{all} s of one thread");
    for wait in ["fill", "queue", "kafka_produce", "kafka_end_txn"] {
        sum(&format!("pillarbox_{wait}_seconds_sum"));
    }
}

/// What a record says of one row.
struct Seen {
    partition: i32,
    index: u32,
    sequence: u64,
    /// 1 where the header is absent.
    part: u32,
    /// The row's number in its payload.
    row: usize,
}

impl Seen {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let position = header(message, PB_POS).expect("every record has its position");
        let position = PbPos::parse(&position).expect("a position");
        let part = header(message, PB_PART).map(|part| part.parse().expect("a number"));
        assert_ne!(part, Some(1), "the first part does not say so");
        let payload = std::str::from_utf8(message.payload().expect("a payload")).expect("text");
        let row =
            payload.strip_prefix("{\"n\": ").and_then(|rest| rest.strip_suffix('}')).expect("the payload");
        Self {
            partition: message.partition(),
            index: position.position.index,
            sequence: position.sequence.0,
            part: part.unwrap_or(1),
            row: row.parse().expect("a number"),
        }
    }
}

/// Records came in offset order: in each partition sequences count from 1 and positions rise.
fn in_order_per_partition(seen: &[Seen]) {
    for partition in 0..i32::try_from(PARTITIONS).expect("few") {
        let mut sequence = 0;
        let mut index = None;
        for row in seen.iter().filter(|row| row.partition == partition) {
            assert_eq!(row.sequence, sequence + 1, "partition {partition}");
            assert!(index < Some(row.index), "partition {partition}: {} after {index:?}", row.index);
            (sequence, index) = (row.sequence, Some(row.index));
        }
    }
}

/// By position: every row once, in the order it was written, and part n + 1 after part n.
fn whole_and_split_in_order(seen: &[Seen]) {
    let mut part = 1;
    for (place, row) in seen.iter().enumerate() {
        assert_eq!((row.index as usize, row.row), (place, place + 1), "index and row");
        assert!(row.part == part || row.part == part + 1, "row {}: part {} after {part}", row.row, row.part);
        part = row.part;
    }
    assert!(part > 1, "a transaction this large is split");
}
