//! What a seed decides before anything happens: sizes, settings, and which faults are to come how often.

use std::time::Duration;

use pillarbox_relay::config::{Compression, Config, Kafka, Outbox, Postgres, TableName, Topics, Transaction};
use pillarbox_wire::partition::partition_for_key;

use crate::dice::Dice;

pub(crate) const PIPELINE: &str = "sim";
/// Where routing puts an aggregate type.
const TOPIC_PREFIX: &str = "outbox.event.";

/// Safety: faults until the end. Liveness: they end, and everything must come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    Safety,
    Liveness,
}

/// See the module. Rates are means: one in so much time.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) mode: Mode,
    /// Partitions of each topic.
    pub(crate) topics: Vec<u32>,
    pub(crate) relays: usize,
    pub(crate) kip890: bool,
    pub(crate) aborts_nothing: bool,
    pub(crate) loses_markers: bool,
    pub(crate) holds_for_standby: bool,
    /// A walsender gives its client up after this long without a reply, and asks for one after half of it: `wal_sender_timeout`.
    pub(crate) sender_timeout: Option<Duration>,
    pub(crate) config: Config,
    /// Source transactions, and the mean time between two.
    pub(crate) transactions: u64,
    pub(crate) pause: Duration,
    /// Most changes in one.
    pub(crate) changes_max: u64,
    /// Until then there are faults, unless the mode is safety.
    pub(crate) heals_at: Duration,
    pub(crate) fault_pause: Duration,
    /// One request in so many is lost, late, twice.
    pub(crate) request_fault: u64,
    /// Which kinds of faults, a bit each.
    pub(crate) faults: u64,
    /// A relay drains and starts anew now and then; an operator accepts a cut history.
    pub(crate) operator: bool,
    /// Longest delay of a marker.
    pub(crate) marker_delay: Duration,
    /// The longest a commit waits for a standby before it is visible.
    pub(crate) visible_delay: Duration,
    /// One flush in so many reaches the standby late.
    pub(crate) standby_lags: u64,
}

/// Postgres' default.
const SENDER_TIMEOUT: Duration = Duration::from_secs(60);
const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

impl Scenario {
    pub(crate) fn new(dice: &mut Dice, mode: Mode) -> Self {
        let topics = (0..1 + dice.below(2)).map(|_| 1 + dice.below(3) as u32).collect();
        let timeout = dice.pick(&[5 * S, 10 * S, 30 * S]);
        let events_max = dice.pick(&[2, 3, 5, 100_000, 100_000, 100_000]);
        let ids = dice.pick(&[1, 2, 3, 4, 4, 8]);
        let long = dice.one_in(20);
        let mut scenario = Self {
            mode,
            topics,
            relays: dice.pick(&[1, 2, 2, 2, 3]),
            kip890: !dice.one_in(3),
            aborts_nothing: dice.one_in(2),
            loses_markers: dice.one_in(2),
            holds_for_standby: dice.one_in(2),
            sender_timeout: Some(SENDER_TIMEOUT),
            config: config(Transaction { events_max, ids, timeout, ..Transaction::default() }),
            transactions: if long { 300 } else { 10 + dice.below(50) },
            pause: dice.pick(&[2 * MS, 20 * MS, 100 * MS, 400 * MS]),
            changes_max: dice.pick(&[1, 4, 4, 12, 40]),
            heals_at: dice.between(5 * S, 25 * S),
            fault_pause: dice.pick(&[300 * MS, S, 3 * S, 10 * S]),
            request_fault: dice.pick(&[15, 60, 300, 100_000]),
            faults: dice.below(u64::MAX),
            operator: dice.one_in(2),
            marker_delay: dice.pick(&[3 * MS, 30 * MS, 400 * MS, 2 * S]),
            visible_delay: dice.pick(&[MS, 10 * MS, 500 * MS]),
            standby_lags: dice.pick(&[3, 20, 1000]),
        };
        // By bits that no kind of fault has: seeds mean what they meant before.
        if scenario.faults >> 62 == 0 {
            scenario.sender_timeout = None;
        }
        scenario
    }

    /// Partitions of all topics, the checkpoint's included.
    pub(crate) fn partitions(&self) -> usize {
        1 + self.topics.iter().sum::<u32>() as usize
    }

    /// The first partition of a topic.
    fn first(&self, topic: usize) -> usize {
        1 + self.topics[..topic].iter().sum::<u32>() as usize
    }

    pub(crate) fn key(&self, key: u32) -> String {
        format!("k{key}")
    }

    pub(crate) fn aggregate(&self, topic: usize) -> String {
        format!("t{topic}")
    }

    pub(crate) fn partition(&self, topic: usize, key: &str) -> usize {
        self.first(topic) + partition_for_key(key.as_bytes(), self.topics[topic]).0 as usize
    }

    /// The topic of this name.
    pub(crate) fn topic_named(&self, name: &str) -> Option<usize> {
        name.strip_prefix(TOPIC_PREFIX)?.strip_prefix('t')?.parse().ok()
    }

    /// The partition, as a producer addresses it.
    pub(crate) fn partition_of(&self, topic: &str, partition: i32) -> usize {
        self.topic_named(topic).map_or(0, |topic| self.first(topic) + partition as usize)
    }
}

fn config(transaction: Transaction) -> Config {
    let table = TableName { schema: "public".into(), name: "outbox".into() };
    Config {
        pipeline: PIPELINE.parse().expect("a legal name"),
        postgres: Postgres {
            host: "h".into(),
            port: 5432,
            user: "u".into(),
            password: None,
            database: "d".into(),
            slot: "s".into(),
            publication: "p".into(),
            tls: Default::default(),
            sql: None,
        },
        kafka: Kafka {
            brokers: vec![],
            compression: Compression::None,
            tls: None,
            sasl: None,
            topics: Topics::default(),
            transaction,
        },
        outbox: vec![Outbox::debezium(table)],
        messages: None,
    }
}
