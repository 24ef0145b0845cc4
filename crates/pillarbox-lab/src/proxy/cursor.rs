//! Reads big-endian fields and Kafka's lengths from a message. Must never panic: `None` is the end, or nonsense.

/// A place in a message.
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    pub(super) fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// A length of seven bits a byte, at most 32.
    pub(super) fn uvarint(&mut self) -> Option<usize> {
        let mut value = 0_u64;
        for shift in (0..35).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(value).ok();
            }
        }
        None
    }

    /// Bytes behind a length that counts one more; none for zero, which is null.
    pub(super) fn compact(&mut self) -> Option<Option<&'a [u8]>> {
        match self.uvarint()? {
            0 => Some(None),
            length => self.take(length - 1).map(Some),
        }
    }

    /// A string behind two bytes of length, -1 for null.
    pub(super) fn string(&mut self) -> Option<Option<&'a [u8]>> {
        match self.i16()? {
            -1 => Some(None),
            length => self.take(usize::try_from(length).ok()?).map(Some),
        }
    }

    /// Tagged fields, skipped.
    pub(super) fn tags(&mut self) -> Option<()> {
        for _ in 0..self.uvarint()? {
            self.uvarint()?;
            let length = self.uvarint()?;
            self.take(length)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_end_with_the_message() {
        let mut cursor = Cursor(&[0, 5, 0xac, 0x02, 3, b'a', b'b', 0, 1, 9]);
        assert_eq!(cursor.i16(), Some(5));
        assert_eq!(cursor.uvarint(), Some(300));
        assert_eq!(cursor.compact(), Some(Some(b"ab".as_slice())));
        assert_eq!(cursor.compact(), Some(None));
        assert_eq!(cursor.i32(), None, "two bytes are left");
        assert_eq!(Cursor(&[0xff; 9]).uvarint(), None, "no end");
        assert_eq!(Cursor(&[200, 1, 0]).compact(), None, "longer than the message");
    }
}
