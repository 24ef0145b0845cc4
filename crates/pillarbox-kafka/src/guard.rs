//! A buffer under the codec that refuses lengths that what is left cannot hold.
//!
//! The codec makes room for as many elements as an array announces before it reads the first: four bytes of a broken or
//! hostile answer would end the process for want of memory. Here the lengths pass as they are read, and one that is
//! beyond all reason ends the decoding:
//!
//! | an answer's form | lengths are | refused beyond |
//! | --- | --- | --- |
//! | flexible (tagged fields) | unsigned varints, and nothing else is | the bytes left and [`TAGS_MAX`]: tags are varints too |
//! | older | 32-bit numbers, as other fields are | the bytes left and [`NUMBERS_MAX`] |
//!
//! Must never refuse what a sound broker says, and never change a byte.

use bytes::{Buf, Bytes, TryGetError};
use kafka_protocol::protocol::buf::ByteBuf;

/// Numbers of tagged fields in use are below ten.
const TAGS_MAX: usize = 4 << 10;

/// Numbers of brokers, times in milliseconds: a broker that speaks only older forms and counts itself beyond this
/// would not be understood.
const NUMBERS_MAX: usize = 1 << 20;

/// How an answer writes lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Flexible,
    Older,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Guarded {
    bytes: Bytes,
    form: Form,
    /// The varint that is being read, and how many bits of it are known.
    varint: u64,
    bits: u32,
}

impl Guarded {
    pub(crate) fn new(bytes: Bytes, form: Form) -> Self {
        Self { bytes, form, varint: 0, bits: 0 }
    }

    fn hold(&self, length: u64, reason_max: usize) -> Result<(), TryGetError> {
        let available = self.bytes.len();
        let requested = usize::try_from(length).unwrap_or(usize::MAX);
        if requested > available.saturating_add(reason_max) {
            return Err(TryGetError { requested, available });
        }
        Ok(())
    }
}

impl Buf for Guarded {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.bytes.copy_to_bytes(length)
    }

    /// Part of a varint, or a flag, which looks like a short one.
    fn try_get_u8(&mut self) -> Result<u8, TryGetError> {
        let byte = self.bytes.try_get_u8()?;
        self.varint |= u64::from(byte & 0x7f) << self.bits;
        self.bits += 7;
        if byte < 0x80 || self.bits >= 35 {
            let length = std::mem::take(&mut self.varint);
            self.bits = 0;
            self.hold(length, TAGS_MAX)?;
        }
        Ok(byte)
    }

    fn try_get_i32(&mut self) -> Result<i32, TryGetError> {
        let number = self.bytes.try_get_i32()?;
        if self.form == Form::Older {
            self.hold(u64::try_from(number).unwrap_or(0), NUMBERS_MAX)?;
        }
        Ok(number)
    }
}

impl ByteBuf for Guarded {
    fn peek_bytes(&mut self, range: std::ops::Range<usize>) -> Bytes {
        self.bytes.slice(range)
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        self.bytes.split_to(size)
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::messages::MetadataResponse;
    use kafka_protocol::protocol::Decodable;

    use super::*;

    /// An answer to Metadata, version 12, with one broker and 300 topics without partitions. Its largest numbers are no
    /// lengths: a throttling of an hour, the broker's number.
    fn flexible() -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.put_i32(3_600_000);
        bytes.put_u8(2);
        bytes.put_i32(i32::MAX);
        bytes.put_slice(b"\x02h");
        bytes.put_i32(9092);
        bytes.put_slice(b"\0\0");
        // Cluster, controller, 300 topics as 301 in two bytes.
        bytes.put_u8(0);
        bytes.put_i32(i32::MAX);
        bytes.put_slice(b"\xad\x02");
        for _ in 0..300 {
            bytes.put_i16(0);
            bytes.put_slice(b"\x02t");
            bytes.put_bytes(7, 16);
            bytes.put_slice(b"\0\x01");
            bytes.put_i32(i32::MIN);
            bytes.put_u8(0);
        }
        bytes.put_u8(0);
        bytes
    }

    /// The same in version 8, with numbers that older brokers have.
    fn older() -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.put_i32(30_000);
        bytes.put_i32(1);
        bytes.put_i32(1_001);
        bytes.put_slice(b"\0\x01h");
        bytes.put_i32(9092);
        bytes.put_slice(b"\xff\xff\xff\xff");
        bytes.put_i32(1_001);
        bytes.put_i32(300);
        for _ in 0..300 {
            bytes.put_slice(b"\0\0\0\x01t\0\0\0\0\0");
            bytes.put_i32(i32::MIN);
        }
        bytes.put_i32(i32::MIN);
        bytes
    }

    fn topics(bytes: BytesMut, form: Form) -> Option<usize> {
        let version = if form == Form::Flexible { 12 } else { 8 };
        let plain = MetadataResponse::decode(&mut bytes.clone().freeze(), version).ok();
        let guarded = MetadataResponse::decode(&mut Guarded::new(bytes.freeze(), form), version).ok();
        assert_eq!(guarded, plain, "it decodes as it does without a guard");
        guarded.map(|answer| answer.topics.len())
    }

    #[test]
    fn sound_answers_pass_unchanged() {
        assert_eq!(topics(flexible(), Form::Flexible), Some(300));
        assert_eq!(topics(older(), Form::Older), Some(300));
    }

    #[test]
    fn a_length_bomb_ends_in_an_error() {
        let decode = |bytes: BytesMut, form, version| {
            MetadataResponse::decode(&mut Guarded::new(bytes.freeze(), form), version).is_ok()
        };
        let mut flexible = BytesMut::new();
        flexible.put_i32(0);
        flexible.put_slice(b"\xff\xff\xff\xff\x0f");
        flexible.put_bytes(0, 100);
        assert!(!decode(flexible, Form::Flexible, 12));
        let mut older = BytesMut::new();
        older.put_i32(0);
        older.put_i32(i32::MAX);
        older.put_bytes(0, 100);
        assert!(!decode(older, Form::Older, 8));
    }
}
