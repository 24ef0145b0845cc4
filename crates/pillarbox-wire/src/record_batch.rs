//! Encoder of Kafka record batches, version 2 (magic 2), the unit that a Produce request carries per partition.
//!
//! ```text
//! append, append, ... -> finish -> (compress) -> (the same bytes, as often as it must be sent) stamp -> Produce
//! ```
//!
//! Batches are transactional, and compressed only after they are finished ([`Compressor`]). They are built before it is known which producer sends them: [`stamp`]
//! fills in the producer and the CRC, and is called again when a batch is replayed under another producer id, epoch or
//! base sequence. Nothing here applies a topic's limits; [`BatchBuilder::record_len`] lets the caller do so first.
//!
//! Layout: <https://kafka.apache.org/documentation/#recordbatch>.

mod compression;
mod content;
mod decompression;

use std::fmt;

use thiserror::Error;

pub use compression::{Compression, Compressor, UnknownCompression, compression_of};
pub use content::Content;
use content::{len_i64, put_varint, varint_len};

/// Bytes of a batch before its first record.
pub const BATCH_HEADER_LEN: usize = 61;

// Offsets of the header's fields. The base offset (0..8) stays 0: the broker assigns it.
const BATCH_LENGTH: usize = 8;
const PARTITION_LEADER_EPOCH: usize = 12;
const MAGIC: usize = 16;
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const LAST_OFFSET_DELTA: usize = 23;
const BASE_TIMESTAMP: usize = 27;
const MAX_TIMESTAMP: usize = 35;
const PRODUCER_ID: usize = 43;
const PRODUCER_EPOCH: usize = 51;
const BASE_SEQUENCE: usize = 53;
const RECORD_COUNT: usize = 57;

/// The batch length counts the bytes after the length field itself.
const BATCH_LENGTH_STARTS_AT: usize = PARTITION_LEADER_EPOCH;

/// Largest batch in bytes: its length is a signed 32-bit number. Brokers allow far less (`max.message.bytes`).
pub const BATCH_LEN_MAX: usize = i32::MAX as usize + BATCH_LENGTH_STARTS_AT;

/// Bit 4: transactional. Bits 0-2: the codec, 0 = not compressed; bit 3 zero: the timestamps are CreateTime; bit 5 zero: data.
const ATTRIBUTES_TRANSACTIONAL: i16 = 1 << 4;

/// One header of a record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its name; several headers may share one.
    pub name: &'a str,
    /// Its value; `None` is null, which consumers can tell from empty.
    pub value: Option<&'a [u8]>,
}

impl fmt::Debug for Header<'_> {
    /// Never the value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header({}, {:?} bytes)", self.name, self.value.map(<[u8]>::len))
    }
}

/// Who sends a batch, as `InitProducerId` or `EndTxn` answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProducerIdentity {
    /// Producer id.
    pub producer_id: i64,
    /// Producer epoch.
    pub producer_epoch: i16,
}

/// A record that the format cannot hold; the batch is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// The batch would grow beyond [`BATCH_LEN_MAX`].
    #[error(
        "record of {record_bytes} bytes does not fit: a record batch ends at {BATCH_LEN_MAX} bytes and has {batch_bytes}"
    )]
    TooLarge {
        /// Bytes the record would have added.
        record_bytes: usize,
        /// Bytes of the batch so far.
        batch_bytes: usize,
    },
    /// The distance between two timestamps of one batch does not fit in 64 bits.
    #[error("timestamp {timestamp_ms} is more than 2^63 ms away from the batch's first, {base_timestamp_ms}")]
    TimestampRange {
        /// The record's timestamp.
        timestamp_ms: i64,
        /// The first record's timestamp.
        base_timestamp_ms: i64,
    },
}

/// Builds one record batch in a buffer that is used again for the next.
#[derive(Default)]
pub struct BatchBuilder {
    /// Empty, or the header's place followed by `count` records.
    buffer: Vec<u8>,
    count: i32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
}

impl BatchBuilder {
    /// An empty batch; allocates with the first record.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch that grows in `buffer`, whose content is dropped and whose capacity is kept.
    #[must_use]
    pub fn with_buffer(buffer: Vec<u8>) -> Self {
        let mut builder = BatchBuilder { buffer, ..Self::default() };
        builder.clear();
        builder
    }

    /// True before the first record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Records so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.cast_unsigned()
    }

    /// Bytes so far, with the header's 61 even while there is no record.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len().max(BATCH_HEADER_LEN)
    }

    /// Bytes that [`BatchBuilder::append`] would add for this record at this place.
    #[must_use]
    pub fn record_len(
        &self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> usize {
        self.content_len(timestamp_ms, &Content::new(key, value, headers))
    }

    /// Bytes that [`BatchBuilder::append_content`] would add for this record at this place.
    #[must_use]
    #[inline]
    pub fn content_len(&self, timestamp_ms: i64, content: &Content<'_>) -> usize {
        let body = self.body_len(timestamp_ms, content);
        varint_len(len_i64(body)) + body
    }

    /// Appends a record; the first one's timestamp is the batch's base, later ones may be smaller.
    ///
    /// # Errors
    /// [`BatchError`] when the format cannot hold it; nothing is appended then.
    pub fn append(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> Result<(), BatchError> {
        self.append_content(timestamp_ms, &Content::new(key, value, headers))
    }

    /// Appends a record that was measured before.
    ///
    /// # Errors
    /// As [`BatchBuilder::append`].
    pub fn append_content(&mut self, timestamp_ms: i64, content: &Content<'_>) -> Result<(), BatchError> {
        let body = self.body_len(timestamp_ms, content);
        let record_bytes = varint_len(len_i64(body)) + body;
        self.check_fits(timestamp_ms, record_bytes)?;
        self.start_with(timestamp_ms);
        self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);

        let out = &mut self.buffer;
        out.reserve(record_bytes);
        put_varint(len_i64(body), out);
        out.push(0); // attributes of a record: none are defined
        put_varint(timestamp_ms - self.base_timestamp_ms, out);
        put_varint(i64::from(self.count), out);
        content.put(out);
        self.count += 1;
        Ok(())
    }

    /// Writes the header, with no producer and no CRC yet: [`stamp`] adds them. May be called again after more records.
    ///
    /// # Panics
    /// When there is no record: brokers refuse an empty batch.
    pub fn finish(&mut self) -> &mut [u8] {
        assert!(self.count > 0, "an empty batch is never sent");
        let batch_length = (self.buffer.len() - BATCH_LENGTH_STARTS_AT) as i32; // append keeps it in range
        let header = &mut self.buffer;
        put(header, 0, 0_i64.to_be_bytes());
        put(header, BATCH_LENGTH, batch_length.to_be_bytes());
        put(header, PARTITION_LEADER_EPOCH, (-1_i32).to_be_bytes());
        put(header, MAGIC, [2]);
        put(header, CRC, 0_u32.to_be_bytes());
        put(header, ATTRIBUTES, ATTRIBUTES_TRANSACTIONAL.to_be_bytes());
        put(header, LAST_OFFSET_DELTA, (self.count - 1).to_be_bytes());
        put(header, BASE_TIMESTAMP, self.base_timestamp_ms.to_be_bytes());
        put(header, MAX_TIMESTAMP, self.max_timestamp_ms.to_be_bytes());
        put(header, PRODUCER_ID, (-1_i64).to_be_bytes());
        put(header, PRODUCER_EPOCH, (-1_i16).to_be_bytes());
        put(header, BASE_SEQUENCE, (-1_i32).to_be_bytes());
        put(header, RECORD_COUNT, self.count.to_be_bytes());
        header
    }

    /// Finishes the batch and moves it out; the builder is empty and without a buffer afterwards.
    ///
    /// # Panics
    /// When there is no record.
    pub fn take(&mut self) -> Vec<u8> {
        self.finish();
        std::mem::take(self).buffer
    }

    /// Forgets the records and keeps the buffer.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.count = 0;
    }

    #[inline]
    fn body_len(&self, timestamp_ms: i64, content: &Content<'_>) -> usize {
        let timestamp_delta =
            if self.is_empty() { 0 } else { timestamp_ms.wrapping_sub(self.base_timestamp_ms) };
        1 + varint_len(timestamp_delta) + varint_len(i64::from(self.count)) + content.len()
    }

    /// The one limit of size also keeps every length and count within 32 bits: a record has at least 7 bytes.
    fn check_fits(&self, timestamp_ms: i64, record_bytes: usize) -> Result<(), BatchError> {
        if record_bytes > BATCH_LEN_MAX - self.len() {
            return Err(BatchError::TooLarge { record_bytes, batch_bytes: self.len() });
        }
        let base_timestamp_ms = self.base_timestamp_ms;
        if !self.is_empty() && timestamp_ms.checked_sub(base_timestamp_ms).is_none() {
            return Err(BatchError::TimestampRange { timestamp_ms, base_timestamp_ms });
        }
        Ok(())
    }

    fn start_with(&mut self, timestamp_ms: i64) {
        if self.is_empty() {
            self.buffer.clear();
            self.buffer.resize(BATCH_HEADER_LEN, 0);
            self.base_timestamp_ms = timestamp_ms;
            self.max_timestamp_ms = timestamp_ms;
        }
    }
}

impl fmt::Debug for BatchBuilder {
    /// Never the records.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BatchBuilder({} records, {} bytes)", self.count, self.len())
    }
}

/// Says who sends a finished batch, and seals it with its CRC-32C. May be called again: only the producer's fields and
/// the CRC change. `base_sequence` is the producer's sequence of the first record, from 0 per (id, epoch, partition).
///
/// # Panics
/// When `batch` is shorter than a batch's header: it was not made here.
pub fn stamp(batch: &mut [u8], identity: ProducerIdentity, base_sequence: i32) {
    assert!(batch.len() > BATCH_HEADER_LEN, "only a finished batch is stamped");
    put(batch, PRODUCER_ID, identity.producer_id.to_be_bytes());
    put(batch, PRODUCER_EPOCH, identity.producer_epoch.to_be_bytes());
    put(batch, BASE_SEQUENCE, base_sequence.to_be_bytes());
    let crc = crc32c::crc32c(&batch[ATTRIBUTES..]);
    put(batch, CRC, crc.to_be_bytes());
}

/// Records in a finished batch.
///
/// # Panics
/// When `batch` is shorter than a batch's header: it was not made here.
#[must_use]
pub fn record_count(batch: &[u8]) -> u32 {
    let count = batch.get(RECORD_COUNT..).and_then(<[u8]>::first_chunk);
    u32::from_be_bytes(*count.expect("only a finished batch is counted"))
}

fn put<const N: usize>(batch: &mut [u8], at: usize, field: [u8; N]) {
    batch[at..at + N].copy_from_slice(&field);
}
