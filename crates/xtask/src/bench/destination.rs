//! What arrived: an independent read_committed reader (librdkafka) of one topic.
//!
//! ```text
//! while a relay runs:  end offsets only (last stable offset, one small request)     -> when
//! afterwards:          every record, CRC checked                                    -> what, and in which order
//! ```
//! A full reader would take as much CPU as the relay it is to measure. Must never read uncommitted data.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde::Serialize;

use crate::clock::Times;

/// How long one request to the broker may take.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// How long a full read may go without a record.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long the tail reader waits for a record before it looks whether it should stop.
const TAIL_WAIT: Duration = Duration::from_millis(100);

/// Characters of a uuid.
const UUID_LENGTH: usize = 36;

/// A topic to be read.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    pub(crate) bootstrap: String,
    pub(crate) topic: String,
    pub(crate) partitions: u32,
}

/// What a topic held, in the order of each partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Contents {
    pub(crate) rows: u64,
    pub(crate) missing: u64,
    pub(crate) duplicates: u64,
    /// Rows that stand behind a row that was committed later.
    pub(crate) reordered: u64,
    /// Records without an id of ours.
    pub(crate) foreign: u64,
    /// Offsets of the first and last record of each partition.
    #[serde(skip)]
    pub(crate) ranges: Vec<Option<(i64, i64)>>,
}

impl Contents {
    /// An error unless every row is there once and in order.
    pub(crate) fn ensure_exact(&self) -> anyhow::Result<()> {
        let Contents { missing, duplicates, reordered, foreign, .. } = self;
        let wrong = missing + duplicates + reordered + foreign;
        ensure!(wrong == 0, "not exactly once in order: {self:?}");
        Ok(())
    }
}

/// Builds [`Contents`] record by record.
#[derive(Debug)]
struct Tally {
    seen: Vec<bool>,
    /// Largest row of each partition so far.
    newest: Vec<Option<u64>>,
    contents: Contents,
}

impl Tally {
    fn new(rows: u64, partitions: usize) -> anyhow::Result<Tally> {
        let contents = Contents { ranges: vec![None; partitions], ..Contents::default() };
        Ok(Tally { seen: vec![false; usize::try_from(rows)?], newest: vec![None; partitions], contents })
    }

    fn add(&mut self, partition: usize, offset: i64, row: Option<u64>) {
        let range = self.contents.ranges[partition].get_or_insert((offset, offset));
        range.1 = offset;
        self.contents.rows += 1;
        let index = row.and_then(|row| usize::try_from(row).ok()).filter(|row| *row < self.seen.len());
        let (Some(row), Some(index)) = (row, index) else {
            self.contents.foreign += 1;
            return;
        };
        self.contents.duplicates += u64::from(std::mem::replace(&mut self.seen[index], true));
        self.contents.reordered += u64::from(self.newest[partition] > Some(row));
        self.newest[partition] = self.newest[partition].max(Some(row));
    }

    fn finish(mut self) -> Contents {
        self.contents.missing = self.seen.iter().filter(|seen| !**seen).count() as u64;
        self.contents
    }
}

impl Destination {
    /// A reader of end offsets.
    pub(crate) fn watch(&self) -> anyhow::Result<EndOffsets> {
        Ok(EndOffsets { consumer: self.consumer(&[])?, destination: self.clone() })
    }

    /// Reads the topic from its beginning to its end. `rows` were committed: 0..rows, in this order.
    pub(crate) fn read(&self, rows: u64) -> anyhow::Result<Contents> {
        let consumer = self.consumer(&[("enable.partition.eof", "true")])?;
        consumer.assign(&self.all_at(Offset::Beginning)?)?;
        let mut tally = Tally::new(rows, self.partitions as usize)?;
        let mut open = self.partitions;
        while open > 0 {
            match consumer.poll(SILENCE_MAX) {
                Some(Ok(message)) => {
                    tally.add(usize::try_from(message.partition())?, message.offset(), row_of(&message));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
                Some(Err(error)) => return Err(error).context("cannot read the topic"),
                None => bail!("no record of {} for {SILENCE_MAX:?}", self.topic),
            }
        }
        Ok(tally.finish())
    }

    /// Notes in `receipts` when each row is received, as long as `reading`. Gives the number of rows received twice.
    pub(crate) fn tail(&self, receipts: &Times, reading: &AtomicBool) -> anyhow::Result<u64> {
        // Answer as soon as there is one byte. A fetch that holds nothing but a transaction marker counts as an error
        // to librdkafka, which then rests for half a second unless told otherwise.
        let now = [("fetch.min.bytes", "1"), ("fetch.wait.max.ms", "100"), ("fetch.error.backoff.ms", "1")];
        let consumer = self.consumer(&now)?;
        consumer.assign(&self.all_at(Offset::Beginning)?)?;
        let mut twice = 0;
        while reading.load(Ordering::Relaxed) {
            match consumer.poll(TAIL_WAIT) {
                Some(Ok(message)) => {
                    if let Some(row) = row_of(&message) {
                        twice += u64::from(!receipts.note(row));
                    }
                }
                Some(Err(error)) => return Err(error).context("cannot read the topic"),
                None => {}
            }
        }
        Ok(twice)
    }

    fn consumer(&self, settings: &[(&str, &str)]) -> anyhow::Result<BaseConsumer> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap).set("group.id", "bench");
        config.set("isolation.level", "read_committed").set("check.crcs", "true");
        config.set("enable.auto.commit", "false").set("auto.offset.reset", "error");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        config.create().context("cannot create the reader")
    }

    fn all_at(&self, offset: Offset) -> anyhow::Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            list.add_partition_offset(&self.topic, i32::try_from(partition)?, offset)?;
        }
        Ok(list)
    }
}

/// Asks for the end of what is committed.
pub(crate) struct EndOffsets {
    consumer: BaseConsumer,
    destination: Destination,
}

impl EndOffsets {
    /// The last stable offset of each partition: all before it is committed or aborted.
    pub(crate) fn get(&self) -> anyhow::Result<Vec<i64>> {
        let list = self.destination.all_at(Offset::End)?;
        let answer =
            self.consumer.offsets_for_times(list, REQUEST_MAX).context("cannot ask for end offsets")?;
        let mut ends = vec![0; self.destination.partitions as usize];
        for element in answer.elements() {
            element.error().context("cannot ask for end offsets")?;
            ends[usize::try_from(element.partition())?] = element.offset().to_raw().unwrap_or(0).max(0);
        }
        Ok(ends)
    }
}

/// How the ends moved while a relay worked.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    steps: Vec<(Instant, Vec<i64>)>,
}

impl Progress {
    /// Takes in what was seen; true if something moved.
    pub(crate) fn add(&mut self, at: Instant, ends: Vec<i64>) -> bool {
        let moved = self.steps.last().is_none_or(|(_, last)| *last != ends);
        if moved {
            self.steps.push((at, ends));
        }
        moved
    }

    /// Records and transaction markers up to now.
    pub(crate) fn total(&self) -> i64 {
        self.steps.last().map_or(0, |(_, ends)| ends.iter().sum())
    }

    /// When the first record was seen to be committed, and the number of offsets taken by then.
    pub(crate) fn first(&self) -> Option<(Instant, i64)> {
        self.when(1)
    }

    /// When so many offsets were first seen to be taken, and how many it were by then.
    pub(crate) fn when(&self, at_least: i64) -> Option<(Instant, i64)> {
        let total = |ends: &[i64]| ends.iter().sum::<i64>();
        self.steps.iter().map(|(at, ends)| (*at, total(ends))).find(|(_, total)| *total >= at_least)
    }

    /// When the last record of every partition was seen to be committed.
    pub(crate) fn complete(&self, ranges: &[Option<(i64, i64)>]) -> Option<Instant> {
        let past = |ends: &[i64]| {
            ends.iter().zip(ranges).all(|(end, range)| range.is_none_or(|(_, last)| *end > last))
        };
        self.steps.iter().find(|(_, ends)| past(ends)).map(|(at, _)| *at)
    }
}

/// The row a record carries: its `id` header, or the id in a row that was sent as JSON.
fn row_of(message: &BorrowedMessage<'_>) -> Option<u64> {
    let header =
        message.headers().and_then(|headers| headers.iter().find(|header| header.key == "id")?.value);
    let id = header.or_else(|| id_in(message.payload()?))?;
    parse_row(std::str::from_utf8(id).ok()?)
}

/// The first `"id"` whose value is a string as long as a uuid: not the numbers that payloads call so.
fn id_in(json: &[u8]) -> Option<&[u8]> {
    let start = |text: &[u8], part: &[u8]| text.windows(part.len()).position(|window| window == part);
    let mut rest = json;
    loop {
        rest = &rest[start(rest, b"\"id\"")? + 4..];
        let value = rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let text = value.strip_prefix(b"\"").and_then(|text| text.get(..=UUID_LENGTH));
        if let Some(id) = text.and_then(|text| text.strip_suffix(b"\"")) {
            return Some(id);
        }
    }
}

fn parse_row(id: &str) -> Option<u64> {
    u64::from_str_radix(&id.replace('-', ""), 16).ok()
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{Header, OwnedHeaders};
    use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

    use super::*;
    use crate::clock::Lower;

    fn tally(rows: u64, records: &[(usize, u64)]) -> Contents {
        let mut tally = Tally::new(rows, 2).expect("small");
        for (offset, (partition, row)) in (0..).zip(records) {
            tally.add(*partition, offset, Some(*row));
        }
        tally.finish()
    }

    #[test]
    fn an_exact_history_is_exact() {
        let contents = tally(4, &[(0, 0), (1, 1), (1, 2), (0, 3)]);
        assert!(contents.ensure_exact().is_ok());
        assert_eq!(contents.ranges, [Some((0, 3)), Some((1, 2))]);
    }

    #[test]
    fn each_planted_fault_is_seen() {
        assert_eq!(tally(3, &[(0, 0), (0, 2)]).missing, 1);
        assert_eq!(tally(2, &[(0, 0), (0, 1), (1, 1)]).duplicates, 1);
        assert_eq!(tally(2, &[(0, 1), (0, 0)]).reordered, 1);
        assert_eq!(tally(1, &[(0, 0), (0, 7)]).foreign, 1);
        for records in
            [&[(0, 0)][..], &[(0, 1), (0, 0)], &[(0, 0), (0, 1), (0, 1)], &[(0, 0), (0, 1), (0, 7)]]
        {
            assert!(tally(2, records).ensure_exact().is_err(), "{records:?}");
        }
    }

    #[test]
    fn progress_knows_first_and_complete() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut progress = Progress::default();
        for (ms, ends) in [(0, [0, 0]), (10, [3, 0]), (20, [3, 0]), (30, [3, 5]), (40, [4, 6])] {
            progress.add(at(ms), ends.to_vec());
        }
        assert_eq!(progress.first(), Some((at(10), 3)));
        assert_eq!(progress.when(8), Some((at(30), 8)));
        assert_eq!(progress.when(11), None);
        assert_eq!(progress.complete(&[Some((0, 1)), Some((0, 4))]), Some(at(30)));
        assert_eq!(progress.complete(&[Some((0, 9)), None]), None);
        assert_eq!(progress.total(), 10);
    }

    #[test]
    fn an_id_is_a_row() {
        assert_eq!(parse_row("00000000-0000-0000-0000-0000000000ff"), Some(255));
        assert_eq!(parse_row("ffffffff-0000-0000-0000-000000000001"), None);
    }

    #[test]
    fn an_id_is_found_in_a_row_but_not_in_its_payload() {
        let id = "00000000-0000-0000-0000-0000000000ff";
        let row = format!(r#"{{"payload": {{"id": 7, "x": {{"id": "A"}}}}, "id" : "{id}"}}"#);
        assert_eq!(id_in(row.as_bytes()), Some(id.as_bytes()));
        assert_eq!(id_in(br#"{"id": 7}"#), None);
        assert_eq!(id_in(br#"{"id": "#), None);
    }

    type Writer = ThreadedProducer<DefaultProducerContext>;

    /// Writes rows in one Kafka transaction and commits or aborts it.
    fn write(producer: &Writer, topic: &str, rows: std::ops::Range<u64>, commit: bool) {
        producer.begin_transaction().expect("begin");
        for row in rows {
            let id = format!("{:08x}-0000-0000-0000-{row:012x}", 0);
            let headers = OwnedHeaders::new().insert(Header { key: "id", value: Some(&id) });
            let record =
                BaseRecord::<(), [u8]>::to(topic).partition((row % 2) as i32).payload(b"{}").headers(headers);
            producer.send(record).map_err(|(error, _)| error).expect("queued");
        }
        let end = if commit {
            producer.commit_transaction(REQUEST_MAX)
        } else {
            producer.abort_transaction(REQUEST_MAX)
        };
        end.expect("transaction ended");
    }

    fn producer(bootstrap: &str) -> Writer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap).set("transactional.id", "bench-test");
        let producer: Writer = config.create().expect("a legal configuration");
        producer.init_transactions(REQUEST_MAX).expect("a coordinator");
        producer
    }

    #[test]
    fn servers_reads_what_is_committed_and_nothing_else() {
        let mut kafka = pillarbox_lab::Kafka::start(pillarbox_lab::KafkaOptions::default()).expect("kafka");
        kafka.create_topic("t", 2, &[]).expect("topic");
        let destination = Destination { bootstrap: kafka.bootstrap(), topic: "t".into(), partitions: 2 };
        let producer = producer(&destination.bootstrap);
        let (times, reading) = (Times::new(Instant::now(), 20), AtomicBool::new(true));
        std::thread::scope(|scope| {
            let tail = scope.spawn(|| destination.tail(&times, &reading));
            let reading = Lower(&reading);
            write(&producer, "t", 0..10, true);
            write(&producer, "t", 10..20, false);
            write(&producer, "t", 10..14, true);
            while times.get(13).is_none() {
                std::thread::yield_now();
            }
            drop(reading);
            assert_eq!(tail.join().expect("no panic").expect("reads"), 0);
        });
        assert!(times.get(14).is_none(), "aborted");
        let contents = destination.read(14).expect("reads");
        assert!(contents.ensure_exact().is_ok(), "{contents:?}");
        assert_eq!(contents.rows, 14);
        let ends = destination.watch().expect("a client").get().expect("offsets");
        assert!(
            contents.ranges.iter().zip(&ends).all(|(range, end)| range.is_some_and(|(_, last)| last < *end))
        );
        assert_eq!(destination.read(15).expect("reads").missing, 1);
    }
}
