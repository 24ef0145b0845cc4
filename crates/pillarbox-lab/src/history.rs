//! Compares what was committed with what Kafka holds.
//!
//! ```text
//! transactions in commit order (WAL) --+
//!                                      +--> check --> Report: lost, duplicated, ghost, reordered, ...
//! records in offset order (Kafka)   ---+
//! ```
//! Pure. Must never print a key or a value: examples name events by id and records by topic, partition, offset.

mod report;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use pillarbox_wire::Position;
use pillarbox_wire::header::PbPos;
use pillarbox_wire::partition::{partition_for_key, partition_for_lsn};

pub use self::report::{EXAMPLES_MAX, Finding, Report};

/// Stands for a value, so that a million of them can be compared in little memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ValueHash(u64);

impl ValueHash {
    /// The hash of a value; a null value (tombstone) differs from an empty one.
    pub fn of(value: Option<&[u8]>) -> Self {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// One event that was committed.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// The event id, as its text in the header `id`.
    pub id: String,
    /// The Kafka topic it belongs to.
    pub topic: String,
    /// Its key; `None`: partitioned by the commit LSN.
    pub key: Option<Vec<u8>>,
    /// What its value must be.
    pub value: ValueHash,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Event({} in {})", self.id, self.topic)
    }
}

/// The events of one source transaction, as they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// In the order in which they were written.
    pub events: Vec<Event>,
}

/// What must be in Kafka, and what must not.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Committed transactions, in commit order.
    pub transactions: Vec<Transaction>,
    /// Ids that were written and rolled back.
    pub rolled_back: HashSet<String>,
}

/// One record as a consumer saw it.
#[derive(Clone, PartialEq, Eq)]
pub struct Observed {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: u64,
    /// Header `id`, where there is one and it is text.
    pub id: Option<String>,
    /// Header `pb-pos`, where there is one and it is text.
    pub pb_pos: Option<String>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// Stands for the value.
    pub value: ValueHash,
}

impl std::fmt::Debug for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = self.id.as_deref().unwrap_or("no id");
        write!(f, "Observed({id} at {}[{}]@{})", self.topic, self.partition, self.offset)
    }
}

/// What to hold the records to.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Partition count of each topic; the partition of a key is not checked in topics that are missing here.
    pub partitions: HashMap<String, u32>,
    /// Check `pb-pos` (position and sequence). Other relays do not write it.
    pub positions: bool,
}

impl Rules {
    /// Everything, for topics of these partition counts.
    pub fn all<'a>(partitions: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let partitions = partitions.into_iter().map(|(topic, count)| (topic.to_owned(), count)).collect();
        Self { partitions, positions: true }
    }
}

/// Compares. Records may come in any order across partitions, but in offset order within each.
pub fn check(expected: &Expected, observed: &[Observed], rules: &Rules) -> Report {
    let mut checker = Checker::new(expected, rules);
    observed.iter().for_each(|record| checker.record(record));
    checker.finish()
}

/// What is expected of one event, and where it was seen.
struct Slot<'a> {
    event: &'a Event,
    transaction: usize,
    /// Position in its first record.
    position: Option<Position>,
    seen: u32,
}

/// State of a partition while its records pass.
#[derive(Default)]
struct PartitionState {
    /// Place in commit order of the latest event so far, and its id.
    place_max: Option<usize>,
    position_max: Option<Position>,
    /// Last sequence of each pipeline.
    sequences: BTreeMap<String, u64>,
    next_offset: u64,
}

/// The comparison under way.
struct Checker<'a> {
    expected: &'a Expected,
    rules: &'a Rules,
    /// All committed events in commit order.
    slots: Vec<Slot<'a>>,
    places: HashMap<&'a str, usize>,
    partitions: BTreeMap<(String, u32), PartitionState>,
    report: Report,
}

impl<'a> Checker<'a> {
    fn new(expected: &'a Expected, rules: &'a Rules) -> Self {
        let slot = |transaction| move |event| Slot { event, transaction, position: None, seen: 0 };
        let transactions = expected.transactions.iter().enumerate();
        let slots: Vec<_> = transactions.flat_map(|(n, t)| t.events.iter().map(slot(n))).collect();
        let places = slots.iter().enumerate().map(|(place, slot)| (slot.event.id.as_str(), place)).collect();
        let report = Report::new(expected.transactions.len(), slots.len());
        Self { expected, rules, slots, places, partitions: BTreeMap::new(), report }
    }

    /// Takes the next record.
    fn record(&mut self, record: &Observed) {
        self.report.observed += 1;
        self.offset(record);
        let position = if self.rules.positions { self.pb_pos(record) } else { None };
        let Some(id) = record.id.as_deref() else {
            return self.report.add(Finding::Malformed, || format!("{record:?} has no id"));
        };
        let Some(&place) = self.places.get(id) else {
            let finding =
                if self.expected.rolled_back.contains(id) { Finding::RolledBack } else { Finding::Unknown };
            return self.report.add(finding, || format!("{record:?}"));
        };
        self.slots[place].seen += 1;
        if self.slots[place].seen > 1 {
            return self.report.add(Finding::Duplicated, || format!("{record:?}"));
        }
        self.slots[place].position = position;
        self.order(record, place);
        self.content(record, place, position);
    }

    /// Offsets must rise: otherwise the reader, not the relay, is at fault.
    fn offset(&mut self, record: &Observed) {
        let state = self.partitions.entry((record.topic.clone(), record.partition)).or_default();
        if record.offset < state.next_offset {
            self.report.add(Finding::Malformed, || format!("{record:?} is not in offset order"));
        }
        state.next_offset = record.offset + 1;
    }

    /// Within a partition, events stand in commit order.
    fn order(&mut self, record: &Observed, place: usize) {
        let state = self.partitions.entry((record.topic.clone(), record.partition)).or_default();
        match state.place_max {
            Some(latest) if latest > place => {
                let after = &self.slots[latest].event.id;
                self.report.add(Finding::Reordered, || format!("{record:?} stands after {after}"));
            }
            _ => state.place_max = Some(place),
        }
    }

    /// Topic, key, value and partition are those of the event.
    fn content(&mut self, record: &Observed, place: usize, position: Option<Position>) {
        let event = self.slots[place].event;
        if record.topic != event.topic {
            self.report.add(Finding::WrongTopic, || format!("{record:?}, expected in {}", event.topic));
        }
        if record.key != event.key {
            self.report.add(Finding::WrongKey, || format!("{record:?}"));
        }
        if record.value != event.value {
            self.report.add(Finding::WrongValue, || format!("{record:?}"));
        }
        let Some(&count) = self.rules.partitions.get(&record.topic) else { return };
        let wanted = match (&event.key, position) {
            (Some(key), _) => partition_for_key(key, count),
            (None, Some(position)) => partition_for_lsn(position.commit_lsn, count),
            (None, None) => return,
        };
        if wanted.0 != record.partition {
            self.report.add(Finding::WrongPartition, || format!("{record:?}, expected in {}", wanted.0));
        }
    }

    /// What any consumer can check by itself: positions rise, sequences are dense from 1.
    fn pb_pos(&mut self, record: &Observed) -> Option<Position> {
        let Some(pb) = record.pb_pos.as_deref().and_then(|text| PbPos::parse(text).ok()) else {
            self.report.add(Finding::Malformed, || format!("{record:?} has no valid pb-pos"));
            return None;
        };
        let state = self.partitions.entry((record.topic.clone(), record.partition)).or_default();
        if state.position_max.is_some_and(|last| pb.position <= last) {
            self.report.add(Finding::PositionBack, || format!("{record:?}"));
        }
        state.position_max = state.position_max.max(Some(pb.position));
        let last = state.sequences.entry(pb.pipeline.to_owned()).or_default();
        let got = pb.sequence.0;
        if got > *last + 1 {
            self.report.add(Finding::SequenceGap, || format!("{record:?}: {got} after {last}"));
        } else if got <= *last {
            self.report.add(Finding::SequenceRepeated, || format!("{record:?}: {got} after {last}"));
        }
        *last = got.max(*last);
        Some(pb.position)
    }

    /// What can be said only when all records have passed.
    fn finish(mut self) -> Report {
        for slot in self.slots.iter().filter(|slot| slot.seen == 0) {
            self.report.add(Finding::Lost, || format!("{:?}", slot.event));
        }
        self.positions_follow_commits();
        self.report
    }

    /// Across all partitions, positions rise in commit order, and share their commit LSN exactly within
    /// a transaction. A failover inside of a transaction that is published in parts changes the epoch alone;
    /// after one, other transactions may commit at the same LSNs again.
    fn positions_follow_commits(&mut self) {
        let seen = self.slots.iter().filter_map(|slot| Some((slot, slot.position?)));
        let pairs: Vec<_> = seen.collect();
        for pair in pairs.windows(2) {
            let [(before, p), (after, q)] = pair else { continue };
            let torn = match before.transaction == after.transaction {
                true => p.commit_lsn != q.commit_lsn,
                false => (p.epoch, p.commit_lsn) == (q.epoch, q.commit_lsn),
            };
            if p >= q || torn {
                let example = || format!("{:?} at {p}, then {:?} at {q}", before.event, after.event);
                self.report.add(Finding::PositionWrong, example);
            }
        }
    }
}

#[cfg(test)]
mod tests;
