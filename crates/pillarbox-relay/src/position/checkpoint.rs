//! The checkpoint: a small table, key -> JSON value, kept in the compacted topic
//! `__pillarbox.<pipeline>` and written inside every Kafka transaction.
//!
//! | key | value |
//! | --- | --- |
//! | `position` | [`PositionRecord`] |
//! | `topic/<name>` | [`TopicRecord`]: pins the partition count, gives each partition a slot number |
//! | `sequences/<n>` | JSON array: the last sequence of the partitions with slot / 64 = n |
//!
//! Only touched buckets are written. From time to time the whole table is rewritten, and later
//! `position` records say at which offset (`snapshot_offset`), so that a reader needs no more than
//! the tail. Pure: knows JSON, no Kafka.

use std::collections::BTreeMap;

use pillarbox_wire::lsn::Lsn;
use serde::{Deserialize, Serialize};

use super::filter::Covered;

/// Partitions whose sequences share one record: 64 numbers are about one kilobyte.
pub const BUCKET_SLOTS: usize = 64;
/// Slots of one pipeline at most: a hundred thousand partitions are 1.5 MB of sequences. A record
/// that claims more is corrupt.
pub const SLOTS_MAX: usize = 100_000;
/// The version of the records below.
pub const VERSION: u32 = 1;

const POSITION_KEY: &str = "position";
const TOPIC_PREFIX: &str = "topic/";
const SEQUENCES_PREFIX: &str = "sequences/";

/// Where the pipeline is, as of one Kafka transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionRecord {
    /// Format version.
    pub v: u32,
    /// Changes only when history changes.
    pub epoch: u32,
    /// Commit LSN of the last transaction that gave events; `0/0` before the first.
    #[serde(with = "lsn_text")]
    pub commit_lsn: Lsn,
    /// The last ordinal published, only inside a split transaction.
    pub index: Option<u32>,
    /// The number of the part that was published last, only inside a split transaction.
    #[serde(default)]
    pub part: Option<u32>,
    /// End LSN of the last wholly published transaction, or an idle position: what may be confirmed.
    #[serde(with = "lsn_text")]
    pub resume_lsn: Lsn,
    /// End LSN of the last transaction that gave events; idle never moves it.
    #[serde(with = "lsn_text")]
    pub published_end_lsn: Lsn,
    /// `IDENTIFY_SYSTEM`'s system identifier, decimal.
    pub system_id: String,
    /// The timeline it was read on.
    pub timeline: u32,
    /// The newest lineage nonce of the database when this was written.
    pub lineage_nonce: Option<String>,
    /// The replication slot.
    pub slot: String,
    /// Fingerprint of everything that decides routing.
    pub generation: String,
    /// Whether an operator paused the pipeline.
    pub paused: bool,
    /// Offset of the last rewritten table; null = read from the start.
    pub snapshot_offset: Option<i64>,
    /// Wall clock of the writer, milliseconds since 1970.
    pub at: i64,
    /// When the transaction at `commit_lsn` committed, by the server's clock, milliseconds since 1970; absent where
    /// that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_ms: Option<i64>,
}

impl PositionRecord {
    /// What the filter must drop.
    pub fn covered(&self) -> Covered {
        Covered { commit_lsn: self.commit_lsn, index: self.index }
    }
}

/// A topic that holds events of this pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRecord {
    /// Kafka's topic id, as a hyphenated UUID.
    pub topic_id: String,
    /// The pinned partition count.
    pub partitions: u32,
    /// The slot of partition 0; the others follow.
    pub first_slot: u32,
}

/// What a transaction adds to the table, apart from the position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Topics that got their first event.
    pub topics: Vec<(String, TopicRecord)>,
    /// Touched buckets with all their sequences.
    pub buckets: Vec<(usize, Vec<u64>)>,
}

/// A record that the table cannot take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not JSON of the expected shape.
    #[error("record `{key}` is malformed: {reason}")]
    Malformed {
        /// The record's key.
        key: String,
        /// What the parser says; it quotes no values.
        reason: String,
    },
    /// Written by a newer version.
    #[error("the checkpoint has format version {found}, this program knows {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// A key of no known kind: a newer version, or another writer.
    #[error("unknown record key `{key}`")]
    UnknownKey {
        /// The record's key.
        key: String,
    },
}

/// The whole table, as read back or as about to be written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// The position; `None` = nothing was ever written.
    pub position: Option<PositionRecord>,
    /// Recorded topics by name.
    pub topics: BTreeMap<String, TopicRecord>,
    /// Last sequence by slot; 0 = no event yet.
    pub sequences: Vec<u64>,
}

impl Table {
    /// Takes one record, in offset order. A null value deletes.
    pub fn apply(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), CheckpointError> {
        if key == POSITION_KEY {
            self.position = value.map(|value| parse_position(key, value)).transpose()?;
        } else if let Some(name) = key.strip_prefix(TOPIC_PREFIX) {
            match value {
                Some(value) => {
                    let record = parse(key, value)?;
                    self.topics.insert(name.to_owned(), check_topic(key, record)?);
                }
                None => drop(self.topics.remove(name)),
            }
        } else if let Some(bucket) = key.strip_prefix(SEQUENCES_PREFIX) {
            let bucket = bucket
                .parse::<usize>()
                .ok()
                .filter(|bucket| *bucket < SLOTS_MAX / BUCKET_SLOTS)
                .ok_or_else(|| CheckpointError::UnknownKey { key: key.to_owned() })?;
            if let Some(value) = value {
                self.set_bucket(bucket, &parse::<Vec<u64>>(key, value)?);
            }
        } else {
            return Err(CheckpointError::UnknownKey { key: key.to_owned() });
        }
        Ok(())
    }

    /// Takes what a sealed set adds.
    pub fn apply_delta(&mut self, delta: &Delta) {
        for (name, record) in &delta.topics {
            self.topics.insert(name.clone(), record.clone());
        }
        for (bucket, sequences) in &delta.buckets {
            self.set_bucket(*bucket, sequences);
        }
    }

    /// The slot after the last one in use.
    pub fn next_slot(&self) -> u32 {
        self.topics.values().map(|topic| topic.first_slot + topic.partitions).max().unwrap_or(0)
    }

    /// Every record but the position, to rewrite the table.
    pub fn whole(&self) -> Delta {
        let topics = self.topics.iter().map(|(name, record)| (name.clone(), record.clone())).collect();
        let buckets = self.sequences.chunks(BUCKET_SLOTS).map(<[u64]>::to_vec).enumerate().collect();
        Delta { topics, buckets }
    }

    fn set_bucket(&mut self, bucket: usize, sequences: &[u64]) {
        let first = bucket * BUCKET_SLOTS;
        let count = sequences.len().min(BUCKET_SLOTS);
        if self.sequences.len() < first + count {
            self.sequences.resize(first + count, 0);
        }
        self.sequences[first..first + count].copy_from_slice(&sequences[..count]);
    }
}

/// Calls `write(key, value)` for each record of a transaction's checkpoint, the position last.
pub fn encode(delta: &Delta, position: &PositionRecord, mut write: impl FnMut(&str, &[u8])) {
    for (name, record) in &delta.topics {
        write(&format!("{TOPIC_PREFIX}{name}"), &json(record));
    }
    for (bucket, sequences) in &delta.buckets {
        write(&format!("{SEQUENCES_PREFIX}{bucket}"), &json(sequences));
    }
    write(POSITION_KEY, &json(position));
}

/// Whether a record with this key is a position, for a reader that goes backwards.
pub fn is_position_key(key: &[u8]) -> bool {
    key == POSITION_KEY.as_bytes()
}

/// A position record on its own.
pub fn parse_position(key: &str, value: &[u8]) -> Result<PositionRecord, CheckpointError> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u32,
    }
    let Versioned { v } = parse(key, value)?;
    if v != VERSION {
        return Err(CheckpointError::Version { found: v });
    }
    parse(key, value)
}

fn check_topic(key: &str, record: TopicRecord) -> Result<TopicRecord, CheckpointError> {
    let slots = u64::from(record.first_slot) + u64::from(record.partitions);
    if record.partitions == 0 || slots > SLOTS_MAX as u64 {
        let reason = "its slots are out of range".to_owned();
        return Err(CheckpointError::Malformed { key: key.to_owned(), reason });
    }
    Ok(record)
}

fn parse<'a, T: Deserialize<'a>>(key: &str, value: &'a [u8]) -> Result<T, CheckpointError> {
    serde_json::from_slice(value)
        .map_err(|error| CheckpointError::Malformed { key: key.to_owned(), reason: error.to_string() })
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain records always serialise")
}

mod lsn_text {
    use pillarbox_wire::lsn::Lsn;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(lsn)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|_| de::Error::custom("not an LSN"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position() -> PositionRecord {
        PositionRecord {
            v: VERSION,
            epoch: 1,
            commit_lsn: Lsn(0x16_B374_D848),
            commit_ms: None,
            index: None,
            part: None,
            resume_lsn: Lsn(0x16_B374_D900),
            published_end_lsn: Lsn(0x16_B374_D878),
            system_id: "7234567890123456789".into(),
            timeline: 1,
            lineage_nonce: None,
            slot: "pillarbox_orders".into(),
            generation: "0123456789abcdef".into(),
            paused: false,
            snapshot_offset: Some(4),
            at: 1_700_000_000_000,
        }
    }

    fn written(delta: &Delta, position: &PositionRecord) -> Table {
        let mut table = Table::default();
        encode(delta, position, |key, value| table.apply(key, Some(value)).unwrap());
        table
    }

    #[test]
    fn a_position_reads_as_the_contract_says() {
        let mut text = String::new();
        encode(&Delta::default(), &position(), |_, value| text = String::from_utf8(value.to_vec()).unwrap());
        assert!(text.starts_with(r#"{"v":1,"epoch":1,"commit_lsn":"16/B374D848","index":null,"#), "{text}");
        assert!(text.contains(r#""paused":false,"snapshot_offset":4,"at":1700000000000"#), "{text}");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let topic = TopicRecord { topic_id: "t".into(), partitions: 100, first_slot: 0 };
        let delta = Delta {
            topics: vec![("a".into(), topic)],
            buckets: vec![(0, (0..64).collect()), (1, (64..100).collect())],
        };
        let table = written(&delta, &position());
        assert_eq!(table.position, Some(position()));
        assert_eq!(table.next_slot(), 100);
        assert_eq!(table.sequences, (0..100).collect::<Vec<u64>>());
        assert_eq!(written(&table.whole(), &position()), table);
    }

    #[test]
    fn records_that_make_no_sense_are_errors() {
        for (key, value) in [
            ("position", &b"{}"[..]),
            ("position", b"not json"),
            ("position", br#"{"v":2}"#),
            ("topic/a", br#"{"topic_id":"t","partitions":0,"first_slot":0}"#),
            ("topic/a", br#"{"topic_id":"t","partitions":1,"first_slot":4294967295}"#),
            ("sequences/x", b"[]"),
            ("sequences/999999999", b"[]"),
            ("sequences/0", b"[-1]"),
            ("other", b"{}"),
        ] {
            assert!(Table::default().apply(key, Some(value)).is_err(), "{key}");
        }
    }
}
