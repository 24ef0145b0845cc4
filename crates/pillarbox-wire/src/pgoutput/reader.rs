//! A cursor over one message: big-endian numbers, C strings, counted bytes.
//!
//! Every step checks its range; this is the only place that cuts the input.

use std::str;

use super::error::DecodeError;
use crate::lsn::{Lsn, Oid, PgTimestamp, Xid};

/// What is left of a message, and the message's tag for errors.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    tag: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(tag: u8, rest: &'a [u8]) -> Self {
        Reader { tag, rest }
    }

    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let Some((array, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.truncated(field));
        };
        self.rest = rest;
        Ok(*array)
    }

    #[inline]
    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    #[inline]
    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        self.array(field).map(i32::from_be_bytes)
    }

    #[inline]
    pub(super) fn oid(&mut self, field: &'static str) -> Result<Oid, DecodeError> {
        self.u32(field).map(Oid)
    }

    #[inline]
    pub(super) fn xid(&mut self, field: &'static str) -> Result<Xid, DecodeError> {
        self.u32(field).map(Xid)
    }

    #[inline]
    pub(super) fn lsn(&mut self, field: &'static str) -> Result<Lsn, DecodeError> {
        self.array(field).map(u64::from_be_bytes).map(Lsn)
    }

    #[inline]
    pub(super) fn timestamp(&mut self, field: &'static str) -> Result<PgTimestamp, DecodeError> {
        self.array(field).map(i64::from_be_bytes).map(PgTimestamp)
    }

    /// A signed 16-bit count of columns.
    #[inline]
    pub(super) fn count16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        let count = i16::from_be_bytes(self.array(field)?);
        u16::try_from(count).map_err(|_| self.invalid(field))
    }

    /// Bytes behind their signed 32-bit length.
    #[inline]
    pub(super) fn counted(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.i32(field)?;
        let len = usize::try_from(len).map_err(|_| self.invalid(field))?;
        self.bytes(len, field)
    }

    #[inline]
    pub(super) fn bytes(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let Some((bytes, rest)) = self.rest.split_at_checked(len) else {
            return Err(self.truncated(field));
        };
        self.rest = rest;
        Ok(bytes)
    }

    /// Text up to a zero byte.
    pub(super) fn name(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let Some(len) = self.rest.iter().position(|&byte| byte == 0) else {
            return Err(self.truncated(field));
        };
        let name = self.bytes(len, field)?;
        self.u8(field)?;
        str::from_utf8(name).map_err(|_| DecodeError::NotUtf8 { tag: self.tag, field })
    }

    /// The message must end here.
    #[inline]
    pub(super) fn end(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { tag: self.tag, bytes }),
        }
    }

    #[cold]
    fn truncated(&self, field: &'static str) -> DecodeError {
        DecodeError::Truncated { tag: self.tag, field }
    }

    #[cold]
    pub(super) fn invalid(&self, field: &'static str) -> DecodeError {
        DecodeError::Invalid { tag: self.tag, field }
    }
}
