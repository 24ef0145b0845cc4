//! What a record says wherever it stands, and the varints that it is written with.

use super::Header;

/// Key, value and headers of a record. Measured once: limits ask for its bytes several times before it is written.
#[derive(Clone, Copy)]
pub struct Content<'a> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: &'a [Header<'a>],
    len: usize,
}

impl<'a> Content<'a> {
    /// Measures it.
    #[must_use]
    #[inline]
    pub fn new(key: Option<&'a [u8]>, value: Option<&'a [u8]>, headers: &'a [Header<'a>]) -> Self {
        let mut len = bytes_len(key) + bytes_len(value) + varint_len(len_i64(headers.len()));
        for header in headers {
            len += bytes_len(Some(header.name.as_bytes())) + bytes_len(header.value);
        }
        Self { key, value, headers, len }
    }

    /// Bytes that [`Content::put`] appends.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.key, out);
        put_bytes(self.value, out);
        put_varint(len_i64(self.headers.len()), out);
        for header in self.headers {
            put_bytes(Some(header.name.as_bytes()), out);
            put_bytes(header.value, out);
        }
    }
}

/// Lengths of slices always fit: a slice has at most `isize::MAX` bytes.
pub(super) const fn len_i64(len: usize) -> i64 {
    len as i64
}

#[inline]
const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

/// Bytes of the zigzag varint; the same for Kafka's 32-bit "varint" and 64-bit "varlong" where both hold the number.
#[inline]
pub(super) const fn varint_len(number: i64) -> usize {
    let bits = u64::BITS - (zigzag(number) | 1).leading_zeros();
    // ceil(bits / 7) for 1 to 64 bits, without the division: it is asked some ten times a record.
    ((bits * 9 + 64) / 64) as usize
}

#[inline]
pub(super) fn put_varint(number: i64, out: &mut Vec<u8>) {
    let mut rest = zigzag(number);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[inline]
fn bytes_len(bytes: Option<&[u8]>) -> usize {
    match bytes {
        Some(bytes) => varint_len(len_i64(bytes.len())) + bytes.len(),
        None => varint_len(NULL_LENGTH),
    }
}

#[inline]
fn put_bytes(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    match bytes {
        Some(bytes) => {
            put_varint(len_i64(bytes.len()), out);
            out.extend_from_slice(bytes);
        }
        None => put_varint(NULL_LENGTH, out),
    }
}

/// The length that says "null".
const NULL_LENGTH: i64 = -1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_as_long_as_predicted() {
        for bit in 0..u64::BITS {
            for number in [1_u64 << bit, (1 << bit) - 1, (1 << bit) + 1].map(u64::cast_signed) {
                for number in [number, number.wrapping_neg()] {
                    let mut out = vec![];
                    put_varint(number, &mut out);
                    assert_eq!(varint_len(number), out.len(), "{number}");
                }
            }
        }
    }

    #[test]
    fn varints_of_the_protocol() {
        for (number, bytes) in [
            (0, [0].as_slice()),
            (-1, &[1]),
            (1, &[2]),
            (63, &[126]),
            (-64, &[127]),
            (64, &[0x80, 1]),
            (-65, &[0x81, 1]),
            (8_191, &[0xfe, 0x7f]),
            (8_192, &[0x80, 0x80, 1]),
            (i64::from(i32::MAX), &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ] {
            let mut out = vec![];
            put_varint(number, &mut out);
            assert_eq!(out, bytes, "{number}");
        }
    }
}
