//! Decoder of record batches, version 2 (<https://kafka.apache.org/documentation/#recordbatch>).
//!
//! The codec's own decoder drops the last offset delta (without which a compacted batch cannot be passed) and
//! repeated header names, hence this one. Every length is checked before it is used, and nothing is allocated by an
//! announced count.

use bytes::{Buf, Bytes};
use kafka_protocol::protocol::StrBytes;
use pillarbox_wire::record_batch::Compression;

use super::Record;
use super::visible::Corrupt;

/// Base offset and length.
const PREFIX_BYTES: usize = 12;

/// From the base offset to the first record.
const HEADER_BYTES: usize = 61;

/// Where the CRC stands, and where the bytes it covers begin.
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;

/// Records of a batch at most, decompressed: beyond the largest batch that a broker takes by default a hundred times.
const PLAIN_BYTES_MAX: usize = 128 << 20;

/// Headers that a record has room for at once; more are read all the same.
const HEADERS_EXPECTED: usize = 16;

/// One batch with its records still encoded.
pub(crate) struct Batch {
    base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) producer_id: i64,
    pub(crate) transactional: bool,
    pub(crate) control: bool,
    compression: u8,
    append_time: Option<i64>,
    base_timestamp: i64,
    count: i32,
    records: Bytes,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    Abort,
    Commit,
}

impl Batch {
    /// Takes the next batch off the front; none if what is left is not a whole one (a fetch cuts its tail).
    pub(crate) fn split_from(bytes: &mut Bytes) -> Result<Option<Self>, Corrupt> {
        let Some(mut prefix) = bytes.get(..PREFIX_BYTES) else { return Ok(None) };
        let base_offset = prefix.get_i64();
        let corrupt = |what| (base_offset, what);
        let length = usize::try_from(prefix.get_i32()).map_err(|_| corrupt("negative length"))?;
        if length < HEADER_BYTES - PREFIX_BYTES {
            return Err(corrupt("length below the header's"));
        }
        if bytes.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        let batch = bytes.split_to(PREFIX_BYTES + length);
        Self::parse(base_offset, batch).map(Some).map_err(corrupt)
    }

    fn parse(base_offset: i64, batch: Bytes) -> Result<Self, &'static str> {
        let mut head = &batch[PREFIX_BYTES..HEADER_BYTES];
        let _leader_epoch = head.get_i32();
        if head.get_i8() != 2 {
            return Err("message format older than version 2");
        }
        debug_assert_eq!(CRC_AT + 4, CRC_FROM);
        if head.get_u32() != crc32c::crc32c(&batch[CRC_FROM..]) {
            return Err("checksum differs");
        }
        let attributes = head.get_i16();
        let last_delta = head.get_i32();
        if last_delta < 0 {
            return Err("negative last offset delta");
        }
        let base_timestamp = head.get_i64();
        let max_timestamp = head.get_i64();
        let producer_id = head.get_i64();
        let _producer_epoch = head.get_i16();
        let _base_sequence = head.get_i32();
        let count = head.get_i32();
        Ok(Self {
            base_offset,
            last_offset: last_offset(base_offset, last_delta).ok_or("offset overflows")?,
            producer_id,
            transactional: attributes & (1 << 4) != 0,
            control: attributes & (1 << 5) != 0,
            compression: (attributes & 7) as u8,
            append_time: (attributes & (1 << 3) != 0).then_some(max_timestamp),
            base_timestamp,
            count,
            records: batch.slice(HEADER_BYTES..),
        })
    }

    /// Appends the records at or after `from`.
    pub(crate) fn records(&self, from: i64, into: &mut Vec<Record>) -> Result<(), Corrupt> {
        let corrupt = |what| (self.base_offset, what);
        let mut bytes = self.decompressed().ok_or(corrupt("records do not decompress"))?;
        for _ in 0..self.count {
            let record = self.record(&mut bytes).ok_or(corrupt("record does not decode"))?;
            if record.offset >= from {
                into.push(record);
            }
        }
        Ok(())
    }

    /// What a control batch says; none for kinds other than the end of a transaction.
    pub(crate) fn marker(&self) -> Result<Option<Marker>, Corrupt> {
        let corrupt = (self.base_offset, "control record does not decode");
        let record = self.record(&mut self.records.clone()).ok_or(corrupt)?;
        // Key: version, then type.
        let mut key = record.key.filter(|key| key.len() >= 4).ok_or(corrupt)?;
        let _version = key.get_i16();
        Ok(match key.get_i16() {
            0 => Some(Marker::Abort),
            1 => Some(Marker::Commit),
            _ => None,
        })
    }

    fn decompressed(&self) -> Option<Bytes> {
        match Compression::ALL.get(usize::from(self.compression))? {
            Compression::None => Some(self.records.clone()),
            codec => codec.decompress(&self.records, PLAIN_BYTES_MAX).map(Bytes::from),
        }
    }

    fn record(&self, bytes: &mut Bytes) -> Option<Record> {
        let length = usize::try_from(varint(bytes)?).ok()?;
        let mut body = take(bytes, length)?;
        take(&mut body, 1)?;
        let timestamp = self.base_timestamp.checked_add(varint(&mut body)?)?;
        let offset = self.base_offset.checked_add(varint(&mut body)?)?;
        let key = nullable(&mut body)?;
        let value = nullable(&mut body)?;
        let count = usize::try_from(varint(&mut body)?).ok()?;
        let mut headers = Vec::with_capacity(count.min(HEADERS_EXPECTED));
        for _ in 0..count {
            headers.push((text(nullable(&mut body)??), nullable(&mut body)?));
        }
        Some(Record { offset, timestamp_ms: self.append_time.unwrap_or(timestamp), key, value, headers })
    }
}

/// The offset behind it exists, too.
fn last_offset(base: i64, delta: i32) -> Option<i64> {
    base.checked_add(i64::from(delta)).filter(|last| (0..i64::MAX).contains(last))
}

/// Header names are UTF-8 by definition; what is not is shown as far as it is.
fn text(name: Bytes) -> StrBytes {
    StrBytes::from_utf8(name.clone())
        .unwrap_or_else(|_| StrBytes::from_string(String::from_utf8_lossy(&name).into_owned()))
}

fn take(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (bytes.len() >= length).then(|| bytes.split_to(length))
}

/// Outer none: malformed. Inner none: null.
fn nullable(bytes: &mut Bytes) -> Option<Option<Bytes>> {
    match varint(bytes)? {
        -1 => Some(None),
        length => Some(Some(take(bytes, usize::try_from(length).ok()?)?)),
    }
}

/// Zigzag varint of up to 64 bits.
fn varint(bytes: &mut Bytes) -> Option<i64> {
    let mut raw = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.first()?;
        bytes.advance(1);
        raw |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((raw >> 1) as i64 ^ -((raw & 1) as i64));
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bytes::{BufMut, BytesMut};
    use proptest::prelude::*;

    fn zigzag(into: &mut BytesMut, value: i64) {
        let mut raw = ((value << 1) ^ (value >> 63)) as u64;
        while raw >= 0x80 {
            into.put_u8(raw as u8 | 0x80);
            raw >>= 7;
        }
        into.put_u8(raw as u8);
    }

    fn record(delta: i64, key: &[u8], headers: &[(&str, Option<&[u8]>)]) -> BytesMut {
        let mut body = BytesMut::new();
        body.put_u8(0);
        zigzag(&mut body, -delta);
        zigzag(&mut body, delta);
        zigzag(&mut body, key.len() as i64);
        body.put_slice(key);
        zigzag(&mut body, -1);
        zigzag(&mut body, headers.len() as i64);
        for (name, value) in headers {
            zigzag(&mut body, name.len() as i64);
            body.put_slice(name.as_bytes());
            zigzag(&mut body, value.map_or(-1, |value| value.len() as i64));
            body.put_slice(value.unwrap_or_default());
        }
        let mut framed = BytesMut::new();
        zigzag(&mut framed, body.len() as i64);
        framed.put_slice(&body);
        framed
    }

    fn batch(base: i64, last_delta: i32, producer: i64, attributes: i16, records: &[BytesMut]) -> Bytes {
        let mut covered = BytesMut::new();
        covered.put_i16(attributes);
        covered.put_i32(last_delta);
        covered.put_i64(1_000);
        covered.put_i64(2_000);
        covered.put_i64(producer);
        covered.put_i16(0);
        covered.put_i32(0);
        covered.put_i32(records.len() as i32);
        records.iter().for_each(|record| covered.put_slice(record));
        let mut whole = BytesMut::new();
        whole.put_i64(base);
        whole.put_i32(9 + covered.len() as i32);
        whole.put_i32(-1);
        whole.put_i8(2);
        whole.put_u32(crc32c::crc32c(&covered));
        whole.put_slice(&covered);
        whole.freeze()
    }

    /// `count` records by one producer.
    pub(crate) fn data(base: i64, count: i32, producer: i64, transactional: bool) -> Bytes {
        let records: Vec<_> = (0..count).map(|delta| record(delta.into(), b"k", &[])).collect();
        batch(base, count - 1, producer, i16::from(transactional) << 4, &records)
    }

    /// A commit or abort marker.
    pub(crate) fn control(base: i64, producer: i64, commit: bool) -> Bytes {
        batch(base, 0, producer, 0b11_0000, &[record(0, &[0, 0, 0, u8::from(commit)], &[])])
    }

    fn only(mut bytes: Bytes) -> Batch {
        Batch::split_from(&mut bytes).unwrap().unwrap()
    }

    #[test]
    fn null_values_and_repeated_headers_survive() {
        let headers: [(&str, Option<&[u8]>); 3] = [("a", Some(b"1")), ("a", None), ("", Some(b""))];
        let batch = only(batch(5, 9, 1, 0, &[record(2, b"", &headers)]));
        let mut records = Vec::new();
        batch.records(0, &mut records).unwrap();
        let record = &records[0];
        assert_eq!((record.offset, record.timestamp_ms, batch.last_offset), (7, 998, 14));
        assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&b""[..]), None));
        let seen: Vec<_> = record.headers.iter().map(|(name, value)| (&**name, value.as_deref())).collect();
        assert_eq!(seen, headers);
    }

    #[test]
    fn the_brokers_time_replaces_the_producers_where_the_topic_says_so() {
        let mut records = Vec::new();
        only(batch(0, 0, 1, 1 << 3, &[record(0, b"k", &[])])).records(0, &mut records).unwrap();
        assert_eq!(records[0].timestamp_ms, 2_000);
    }

    #[test]
    fn a_flipped_bit_is_a_checksum_error() {
        let mut bytes = BytesMut::from(&data(0, 1, 1, false)[..]);
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(Batch::split_from(&mut bytes.freeze()).err(), Some((0, "checksum differs")));
    }

    #[test]
    fn an_offset_that_nothing_can_follow_is_an_error() {
        for base in [i64::MAX, i64::MAX - 1, -3] {
            let mut bytes = batch(base, 1, 1, 0, &[record(0, b"k", &[])]);
            assert_eq!(Batch::split_from(&mut bytes).err(), Some((base, "offset overflows")));
        }
    }

    #[test]
    fn markers_are_told_apart() {
        assert_eq!(only(control(0, 1, true)).marker(), Ok(Some(Marker::Commit)));
        assert_eq!(only(control(0, 1, false)).marker(), Ok(Some(Marker::Abort)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200), count in any::<i32>(), compression in 0i16..8) {
            let mut covered = BytesMut::new();
            covered.put_i16(compression);
            covered.put_bytes(0, 34);
            covered.put_i32(count);
            covered.put_slice(&body);
            let mut whole = BytesMut::new();
            whole.put_i64(0);
            whole.put_i32(9 + covered.len() as i32);
            whole.put_i32(-1);
            whole.put_i8(2);
            whole.put_u32(crc32c::crc32c(&covered));
            whole.put_slice(&covered);
            let mut records = Vec::new();
            let batch = only(whole.freeze());
            let _ = batch.records(0, &mut records);
            let _ = batch.marker();
        }
    }
}
