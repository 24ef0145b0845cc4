//! What has reached Kafka, for whoever waits for it: everything up to a place in WAL, or one event by its id.
//!
//! ```text
//! reader: id -> (slot, sequence) ------> ring of ids ------+
//! reader: nothing open or in flight, WAL ends at L --> through = L      ask by id: find it, wait until its
//! sink:   a set was committed: through, sequences,                      sequence is committed
//!         base offsets ----------------> ring of batches --+            ask by token: wait until through >= LSN
//! ```
//!
//! **By id.** The reader notes each event as it takes it; it is in Kafka once the committed sequence of its partition is
//! as large. Only a hash of the id is kept, of 64 bits with a key of this process: that another id has the same is as
//! likely as 1 in 10^14 per question.
//!
//! **By token.** `through` is a place in WAL such that every transaction that ends before it is in Kafka: the `resume_lsn`
//! of the last committed set; or, with nothing open, filling or in flight, the end of WAL that a keepalive tells, before
//! which everything was sent. An idle pipeline reaches a token without any event, and without a commit.
//!
//! **The receipt** names for each partition the sequence that a consumer must have applied: for a token, the last one that is
//! in Kafka when the question is answered. That may be later than the token's, never earlier, and is in Kafka already. A
//! partition that has never had an event is not in it; one that has been idle for years is, with its last event.
//!
//! | what happens | what follows |
//! | --- | --- |
//! | the id is older than the last 65,536 events | unknown: ask by token |
//! | the relay restarts, or another one leads | ids from before are unknown; tokens are answered by whoever leads |
//! | a set is lost and sent again | its ids are forgotten at the restart of the reader, and noted anew |
//! | the pipeline is paused, halted, stands by | nothing is reached; the caller waits to its own limit |
//! | failover, the token's timeline reached its LSN before the fork | as if nothing had happened |
//! | failover, it did not | refused: the write may be lost |
//! | a row went to dead letters, or to no outbox | its id stays unknown; a token is reached without it |
//! | a pin is moved (`repartition`) | sequences go on; an id from before keeps its partition |
//!
//! Written per commit, and per event three stores; whoever asks never delays a thread of the pipeline: what is shared is
//! cloned, and waiters are woken by a task of their own. Never read by a decision.

mod ring;
mod token;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use pillarbox_kafka::producer::Batch;
use pillarbox_wire::lsn::Lsn;
use tokio::sync::watch;

use self::ring::{Entry, Ring};
use self::token::History;
pub use self::token::Token;
use crate::error::{Code, Fault};
use crate::position::checkpoint::{Delta, Table, TopicRecord};
use crate::position::lineage::SourceFacts;

/// How many events can be asked for by id.
pub const EVENTS_REMEMBERED: usize = ring::LEN;

/// What the consumer's functions take: where events went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pipeline: String,
    /// The places, by topic and partition; of each partition the last one that matters.
    pub places: Vec<Place>,
}

/// An event in Kafka.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The sequence in its `pb-pos`.
    pub sequence: u64,
    /// Its offset, if the batch that it was in is still remembered.
    pub offset: Option<i64>,
}

impl Receipt {
    /// Of some events.
    pub fn new(pipeline: &str, mut places: Vec<Place>) -> Self {
        places.sort();
        // The last one of a partition stands for those before it.
        places.reverse();
        places.dedup_by(|later, kept| (&later.topic, later.partition) == (&kept.topic, kept.partition));
        places.reverse();
        Self { pipeline: pipeline.to_owned(), places }
    }
}

/// `<pipeline>:<topic>/<partition>=<sequence>,...`
impl std::fmt::Display for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:", self.pipeline)?;
        for (number, Place { topic, partition, sequence, .. }) in self.places.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{topic}/{partition}={sequence}")?;
        }
        Ok(())
    }
}

/// What is known, replaced as a whole.
#[derive(Debug, Clone, Default)]
struct Known {
    /// `None`: this process has never led.
    history: Option<History>,
    /// Grows with each start: slots that were not recorded then may have been given away anew.
    starts: u64,
    through: Lsn,
    /// As of the last committed set.
    table: Table,
    /// Slots of topics whose pin has moved.
    moved: Vec<(String, TopicRecord)>,
}

/// See the module.
pub struct Arrivals {
    pipeline: String,
    known: watch::Sender<Arc<Known>>,
    /// Tells those who wait; see [`Arrivals::forward`].
    ticks: watch::Sender<()>,
    ids: Ids,
    batches: Ring,
}

/// Where the reader notes what it takes.
struct Ids {
    ring: Ring,
    key: u64,
}

impl Arrivals {
    /// Of a pipeline that has never led.
    pub fn new(pipeline: &str) -> Self {
        let ids = Ids { ring: Ring::new(), key: RandomState::new().build_hasher().finish() };
        Self {
            pipeline: pipeline.to_owned(),
            known: watch::Sender::default(),
            ticks: watch::Sender::new(()),
            ids,
            batches: Ring::new(),
        }
    }

    /// A checkpoint was read, and the reader has not taken anything yet.
    pub(crate) fn began(&self, facts: &SourceFacts, table: &Table) {
        let committed = |slot: u64| slot_sequence(table, slot);
        self.ids.ring.forget(|id| id.second > committed(id.first));
        self.change(|known| {
            known.history = Some(facts.into());
            known.starts += 1;
            known.through = table.position.as_ref().map_or(Lsn::ZERO, |position| position.resume_lsn);
            known.table = table.clone();
        });
    }

    /// The reader takes an event. Some nanoseconds: no allocation, no lock.
    pub(crate) fn takes(&self, id: &[u8], slot: usize, sequence: u64) {
        self.ids.ring.push(Entry { key: self.ids.hash(id), first: slot as u64, second: sequence });
    }

    /// A set was committed: its batches in order, the base offsets that they were given.
    pub(crate) fn committed(&self, through: Lsn, delta: &Delta, batches: &[Batch], base_offsets: &[i64]) {
        self.change(|known| {
            for (name, record) in &delta.topics {
                let former = known.table.topics.get(name).filter(|former| *former != record);
                known.moved.extend(former.map(|former| (name.clone(), former.clone())));
            }
            known.table.apply_delta(delta);
            known.through = known.through.max(through);
            self.note_batches(&known.table, batches, base_offsets);
        });
    }

    /// Backwards from the sequences that the set ends with.
    fn note_batches(&self, table: &Table, batches: &[Batch], base_offsets: &[i64]) {
        let mut behind: Vec<(u64, u64)> = Vec::new();
        for (batch, offset) in batches.iter().zip(base_offsets).rev() {
            let partition = u64::try_from(batch.partition).unwrap_or_default();
            let Some(topic) = table.topics.get(&batch.topic.name) else { continue };
            let slot = u64::from(topic.first_slot) + partition;
            let at = behind.iter().position(|(known, _)| *known == slot).unwrap_or_else(|| {
                behind.push((slot, slot_sequence(table, slot) + 1));
                behind.len() - 1
            });
            behind[at].1 = behind[at].1.saturating_sub(u64::from(batch.records));
            let key = slot << 32 | u64::from(batch.records);
            self.batches.push(Entry { key, first: behind[at].1, second: offset.cast_unsigned() });
        }
    }

    /// Nothing is open, filling or in flight, and everything before `wal_end` was received.
    pub(crate) fn caught_up(&self, wal_end: Lsn) {
        self.change(|known| known.through = known.through.max(wal_end));
    }

    /// The pipeline's state has changed: whoever waits looks whether to go on.
    pub(crate) fn nudge(&self) {
        self.change(|_| {});
    }

    /// Wakes nobody where nobody waits. Whoever begins to after that finds the change: it asks for ticks first, and then
    /// looks.
    fn change(&self, change: impl FnOnce(&mut Known)) {
        self.known.send_if_modified(|known| {
            change(Arc::make_mut(known));
            self.ticks.receiver_count() > 0
        });
    }

    /// Wakes those who wait, on a runtime that is not the pipeline's; ends never.
    pub(crate) fn forward(self: Arc<Self>) -> impl Future<Output = ()> + Send {
        let mut known = self.known.subscribe();
        async move {
            while known.changed().await.is_ok() {
                self.ticks.send_replace(());
            }
        }
    }

    /// Changes whenever something has arrived, or the pipeline's state has changed. To be asked for before a look, and
    /// dropped by whoever waits no longer.
    pub fn ticks(&self) -> watch::Receiver<()> {
        self.ticks.subscribe()
    }

    /// Up to where everything is in Kafka; `None` where this process has never led.
    pub fn through(&self) -> Option<Lsn> {
        let known = self.now();
        known.history.as_ref().map(|_| known.through)
    }

    fn now(&self) -> Arc<Known> {
        Arc::clone(&self.known.borrow())
    }

    /// Whether everything up to the token is in Kafka, and where the last events of these topics (none: of all) went.
    ///
    /// # Errors
    /// The token is of another history; everything has arrived, and one of the topics never had an event.
    pub fn reached(&self, token: &Token, topics: &[String]) -> Result<Option<Receipt>, Fault> {
        let known = self.now();
        let Some(history) = &known.history else { return Ok(None) };
        if token.lsn_in(history)?.is_none_or(|lsn| lsn > known.through) {
            return Ok(None);
        }
        if let Some(unknown) = topics.iter().find(|topic| !known.table.topics.contains_key(*topic)) {
            let message = format!("no event of pipeline {} went to topic {unknown}", self.pipeline);
            return Err(Fault::new(Code::TopicUnknown, message).hint("`pillarbox check` lists the topics"));
        }
        // Letters are no events: nobody applies them.
        let asked = |topic: &str| match topics {
            [] => !topic.starts_with("__pillarbox."),
            topics => topics.iter().any(|asked| asked == topic),
        };
        let mut places = Vec::new();
        for (topic, record) in known.table.topics.iter().filter(|(topic, _)| asked(topic)) {
            for partition in 0..record.partitions {
                let slot = u64::from(record.first_slot + partition);
                let sequence = slot_sequence(&known.table, slot);
                if sequence > 0 {
                    let offset = self.offset(slot, sequence);
                    places.push(Place { topic: topic.clone(), partition, sequence, offset });
                }
            }
        }
        Ok(Some(Receipt { pipeline: self.pipeline.clone(), places }))
    }

    /// Begins to look for an event.
    pub fn look(&self, id: &str) -> Look {
        Look { hash: self.ids.hash(id.as_bytes()), starts: 0, since: 0, taken: None }
    }

    /// Where an event went, once it is in Kafka.
    pub fn find(&self, look: &mut Look) -> Option<Place> {
        // First: what is taken later is judged by it as not committed, and a tick follows.
        let known = self.now();
        if look.starts != known.starts {
            *look = Look { starts: known.starts, since: 0, taken: None, ..*look };
        }
        let written = self.ids.ring.written();
        if let Some(found) = self.ids.ring.find(look.since, |id| id.key == look.hash) {
            look.taken = Some((found.first, found.second));
        }
        look.since = written;
        let (slot, sequence) = look.taken?;
        if slot_sequence(&known.table, slot) < sequence {
            return None;
        }
        let (topic, partition) = known.name(slot)?;
        Some(Place { topic, partition, sequence, offset: self.offset(slot, sequence) })
    }

    /// A receipt of this pipeline for some of its events.
    pub fn receipt(&self, places: Vec<Place>) -> Receipt {
        Receipt::new(&self.pipeline, places)
    }

    fn offset(&self, slot: u64, sequence: u64) -> Option<i64> {
        let holds = |batch: &Entry| {
            batch.key >> 32 == slot
                && (batch.first..batch.first + (batch.key & 0xFFFF_FFFF)).contains(&sequence)
        };
        let batch = self.batches.find(0, holds)?;
        let base = batch.second.cast_signed();
        let behind = i64::try_from(sequence - batch.first).ok()?;
        (base >= 0).then(|| base + behind)
    }
}

/// A search for an event.
#[derive(Debug, Clone)]
pub struct Look {
    hash: u64,
    /// Of which start the rest is.
    starts: u64,
    /// Entries before this one were looked at.
    since: u64,
    /// Slot and sequence, if the reader has taken it.
    taken: Option<(u64, u64)>,
}

impl Known {
    fn name(&self, slot: u64) -> Option<(String, u32)> {
        let moved = self.moved.iter().map(|(name, record)| (name, record));
        let mut topics = self.table.topics.iter().chain(moved);
        topics.find_map(|(name, record)| {
            let partition = u32::try_from(slot.checked_sub(u64::from(record.first_slot))?).ok()?;
            (partition < record.partitions).then(|| (name.clone(), partition))
        })
    }
}

/// The last sequence of a slot; 0 where it has none.
fn slot_sequence(table: &Table, slot: u64) -> u64 {
    usize::try_from(slot).ok().and_then(|slot| table.sequences.get(slot)).copied().unwrap_or(0)
}

impl Ids {
    /// Folded multiplication, eight bytes at a time: an id is a uuid in text nearly always. Never 0.
    fn hash(&self, id: &[u8]) -> u64 {
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            #[expect(clippy::cast_possible_truncation, reason = "the halves of the product")]
            let halves = (product as u64, (product >> 64) as u64);
            halves.0 ^ halves.1
        };
        let mut hash = self.key ^ id.len() as u64;
        let mut mix = |word: u64| hash = fold(hash ^ word, 0x9E37_79B9_7F4A_7C15).wrapping_add(self.key);
        let (words, rest) = id.as_chunks::<8>();
        words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
        mix(rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        fold(hash ^ 0xD6E8_FEB8_6659_FD93, 0xA076_1D64_78BD_642F).max(1)
    }
}

#[cfg(test)]
mod tests;
