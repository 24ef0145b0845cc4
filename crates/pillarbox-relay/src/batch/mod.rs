//! Stage 5, batch: events become Kafka record batches, one growing batch per touched partition.
//!
//! ```text
//! free -> filling (append) -> sealed (seal) -> committing (the sink) -> free (recycle)
//! ```
//!
//! A set becomes exactly one Kafka transaction. Buffers are used again. Never grows past its
//! limits: the caller asks [`BatchSet::record_bytes`] before it appends, and a batch ends before it
//! would exceed its topic's `max.message.bytes`.
//!
//! Kafka measures a batch as it arrives, compressed. Here the limit holds for the plain batch, and a
//! batch that a codec does not shrink goes out plain: no guess about a ratio can be wrong, a replay
//! splits as the first attempt did whatever the codec, and a topic that stores batches otherwise
//! than they were sent does not refuse them either.

use pillarbox_wire::position::PartitionId;
use pillarbox_wire::record_batch::{BATCH_HEADER_LEN, BatchBuilder, Compression, Compressor};

use crate::route::{Destination, TopicIndex};

pub use pillarbox_wire::record_batch::{BatchError, Content};

/// Bytes that all sets of a pipeline may hold together: the bound of the relay's memory. One of the largest sets and half
/// of the next, or six that are full, which is more than the default four ids commit at once. With all that it takes beside
/// them the relay needs some 41 MiB (a transaction of a million rows).
pub const POOL_BYTES_MAX: usize = 24 << 20;
/// A set is full at a transaction boundary beyond this many events: the broker's cost per commit
/// has long been spread thin by then.
pub const FILL_EVENTS: usize = 10_000;
/// A set is full at a transaction boundary beyond this many bytes.
pub const FILL_BYTES: usize = 4 << 20;
/// Empty buffers kept for the next set, in bytes of capacity: those of a large one, so that the next needs no new memory.
const SPARE_BYTES_MAX: usize = 16 << 20;
/// A batch is ended at this size even where the topic would take more: one request per broker
/// stays far below what a broker reads at once.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// A record before it is encoded.
pub struct Record<'a> {
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Key, value and headers.
    pub content: Content<'a>,
}

/// A finished, unstamped record batch.
pub struct SealedBatch {
    /// Its topic.
    pub topic: TopicIndex,
    /// Its partition.
    pub partition: PartitionId,
    /// The batch.
    pub bytes: Vec<u8>,
    /// Records in it.
    pub records: u32,
}

struct Part {
    topic: TopicIndex,
    partition: PartitionId,
    builder: BatchBuilder,
    touched: bool,
}

/// The set that is filling.
#[derive(Default)]
pub struct BatchSet {
    /// By slot.
    parts: Vec<Option<Part>>,
    touched: Vec<usize>,
    ended: Vec<SealedBatch>,
    bytes: usize,
    events: usize,
    buffers: Buffers,
}

impl BatchSet {
    /// An empty set whose batches are compressed when they end.
    pub fn new(compression: Compression) -> Self {
        let buffers = Buffers { compressor: Compressor::new(compression), ..Buffers::default() };
        Self { buffers, ..Self::default() }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Record bytes in it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Events in it.
    pub fn events(&self) -> usize {
        self.events
    }

    /// Whether a transaction boundary is the moment to seal it, whatever the clock says.
    pub fn is_full(&self) -> bool {
        self.events >= FILL_EVENTS || self.bytes >= FILL_BYTES
    }

    /// Slots that got events, in order of their first.
    pub fn touched(&self) -> &[usize] {
        &self.touched
    }

    /// Bytes that the record takes, and whether its topic takes a batch with it alone.
    pub fn record_bytes(record: &Record<'_>, batch_bytes_max: usize) -> Result<usize, usize> {
        let alone = BatchBuilder::new();
        let bytes = alone.content_len(record.timestamp_ms, &record.content);
        let batch = bytes + BATCH_HEADER_LEN;
        if batch > batch_bytes_max { Err(batch) } else { Ok(bytes) }
    }

    /// Appends a record that [`BatchSet::record_bytes`] let through.
    pub fn append(
        &mut self,
        to: Destination,
        record: &Record<'_>,
        batch_bytes_max: usize,
    ) -> Result<(), BatchError> {
        if self.parts.len() <= to.slot {
            self.parts.resize_with(to.slot + 1, || None);
        }
        let part = self.parts[to.slot].get_or_insert_with(|| Part {
            topic: to.topic,
            partition: to.partition,
            builder: BatchBuilder::new(),
            touched: false,
        });
        let Record { timestamp_ms, ref content } = *record;
        let bytes = part.builder.content_len(timestamp_ms, content);
        let limit = batch_bytes_max.min(BATCH_BYTES_MAX);
        let more = !part.builder.is_empty() && part.builder.len() + bytes > limit;
        if more {
            self.ended.push(self.buffers.end(part));
        }
        if part.builder.is_empty()
            && let Some(buffer) = self.buffers.spare().or_else(|| more.then(|| Vec::with_capacity(limit)))
        {
            // Where batches come to their limit a buffer has its size at once: growing leaves holes, and they add up.
            part.builder = BatchBuilder::with_buffer(buffer);
        }
        part.builder.append_content(timestamp_ms, content)?;
        if !part.touched {
            part.touched = true;
            self.touched.push(to.slot);
        }
        self.bytes += bytes;
        self.events += 1;
        Ok(())
    }

    /// Ends every batch and empties the set. Batches of one partition stand in order.
    pub fn seal(&mut self) -> Vec<SealedBatch> {
        let mut batches = std::mem::take(&mut self.ended);
        for slot in self.touched.drain(..) {
            let part = self.parts[slot].as_mut().expect("a touched slot has a part");
            part.touched = false;
            batches.push(self.buffers.end(part));
        }
        self.bytes = 0;
        self.events = 0;
        batches
    }

    /// Drops the empty buffers: a quiet pipeline needs none.
    pub fn drop_spare(&mut self) {
        self.buffers.spare = Vec::new();
        self.buffers.spare_bytes = 0;
    }

    #[cfg(test)]
    pub(crate) fn spare_bytes(&self) -> usize {
        self.buffers.spare_bytes
    }

    /// Takes back the buffers of a set that was committed.
    pub fn recycle(&mut self, buffers: impl IntoIterator<Item = Vec<u8>>) {
        buffers.into_iter().for_each(|buffer| self.buffers.keep(buffer));
    }
}

/// Buffers that are free, and the codec that moves a batch from one to another.
#[derive(Default)]
struct Buffers {
    spare: Vec<Vec<u8>>,
    spare_bytes: usize,
    compressor: Compressor,
}

impl Buffers {
    /// Ends the growing batch of a part.
    fn end(&mut self, part: &mut Part) -> SealedBatch {
        let records = part.builder.count();
        let plain = part.builder.take();
        let bytes = if self.compressor.is_none() { plain } else { self.compressed(plain) };
        SealedBatch { topic: part.topic, partition: part.partition, bytes, records }
    }

    /// The batch as it is sent; the buffer that is not needed for it is kept.
    fn compressed(&mut self, plain: Vec<u8>) -> Vec<u8> {
        let mut compressed = self.spare().unwrap_or_default();
        let (sent, left) = match self.compressor.compress(&plain, &mut compressed) {
            true => (compressed, plain),
            false => (plain, compressed),
        };
        self.keep(left);
        sent
    }

    fn spare(&mut self) -> Option<Vec<u8>> {
        let buffer = self.spare.pop()?;
        self.spare_bytes -= buffer.capacity();
        Some(buffer)
    }

    fn keep(&mut self, buffer: Vec<u8>) {
        if self.spare_bytes + buffer.capacity() <= SPARE_BYTES_MAX {
            self.spare_bytes += buffer.capacity();
            self.spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(slot: usize) -> Destination {
        Destination { topic: TopicIndex(0), partition: PartitionId(slot as u32), slot }
    }

    fn record(value: &[u8]) -> Record<'_> {
        Record { timestamp_ms: 1, content: Content::new(None, Some(value), &[]) }
    }

    #[test]
    fn a_batch_ends_before_its_topic_refuses_it() {
        let mut set = BatchSet::new(Compression::None);
        let value = [0; 100];
        for _ in 0..10 {
            set.append(to(3), &record(&value), 400).unwrap();
        }
        assert_eq!(set.events(), 10);
        assert_eq!(set.touched(), [3]);
        let batches = set.seal();
        assert!(batches.len() > 1);
        assert!(batches.iter().all(|batch| batch.bytes.len() <= 400));
        assert_eq!(batches.iter().map(|batch| batch.records).sum::<u32>(), 10);
        assert!(set.is_empty() && set.bytes() == 0 && set.touched().is_empty());
    }

    #[test]
    fn a_compressed_batch_ends_where_the_plain_one_would() {
        // It repeats itself: compressed, all of it would fit into one batch.
        let value = [0; 100];
        let split = |compression| {
            let mut set = BatchSet::new(compression);
            for _ in 0..10 {
                set.append(to(3), &record(&value), 400).unwrap();
            }
            set.seal()
        };
        let records = |batches: &[SealedBatch]| batches.iter().map(|batch| batch.records).collect::<Vec<_>>();
        let bytes = |batches: &[SealedBatch]| batches.iter().map(|batch| batch.bytes.len()).sum::<usize>();
        let plain = split(Compression::None);
        for compression in [Compression::Zstd, Compression::Lz4] {
            let compressed = split(compression);
            assert_eq!(records(&compressed), records(&plain));
            assert!(bytes(&compressed) < bytes(&plain) / 2, "{compression}");
        }
    }

    #[test]
    fn a_record_that_no_batch_takes_is_known_before() {
        assert!(BatchSet::record_bytes(&record(&[0; 100]), 400).is_ok());
        assert!(BatchSet::record_bytes(&record(&[0; 400]), 400).is_err());
    }

    #[test]
    fn buffers_come_back() {
        let mut set = BatchSet::new(Compression::None);
        set.append(to(0), &record(&[0; 100]), 1 << 20).unwrap();
        let capacity = {
            let batch = set.seal().remove(0);
            let capacity = batch.bytes.capacity();
            set.recycle([batch.bytes]);
            capacity
        };
        set.append(to(1), &record(&[1; 10]), 1 << 20).unwrap();
        assert_eq!(set.seal().remove(0).bytes.capacity(), capacity);
    }

    #[test]
    fn spare_buffers_can_be_dropped() {
        let mut set = BatchSet::new(Compression::None);
        let capacity = |set: &mut BatchSet, bytes| {
            set.append(to(0), &record(&vec![0; bytes]), 1 << 20).unwrap();
            let batch = set.seal().remove(0).bytes;
            let capacity = batch.capacity();
            set.recycle([batch]);
            capacity
        };
        let large = capacity(&mut set, 100_000);
        assert_eq!(capacity(&mut set, 10), large);
        set.drop_spare();
        assert!(capacity(&mut set, 10) < large);
    }
}
