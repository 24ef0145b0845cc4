//! The receive buffer: whole backend messages out of a byte stream, without copying them.
//!
//! ```text
//! | taken | unread messages ... partial one | room |
//! 0     start                              end   len
//! ```
//!
//! Memory follows what was received, never what a length field promises. It must never interpret
//! the body of a message.

use std::ops::Range;

use super::error::SourceError;

/// Bytes of the buffer in normal times: at full stream several hundred rows a read, and it fits
/// the second-level cache.
pub(super) const BUFFER_BYTES: usize = 256 << 10;

/// The longest message that is accepted, in bytes: a row with a payload of this size would not
/// find a place in a Kafka transaction anyway, and a broken length must not take the machine.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// A grown buffer shrinks after it was empty this many times without need of its size, so that a
/// run of large rows does not grow it again for each.
const SHRINK_AFTER_DRAINS: u32 = 64;

/// Type byte and length, which counts itself but not the type.
const HEADER_BYTES: usize = 5;

/// See the module.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Length of the message at `start` when it is known and not wholly there, else 0.
    awaited: usize,
    drains: u32,
}

/// A whole message: its type and where its body is.
pub(super) struct Message {
    pub(super) tag: u8,
    pub(super) body: Range<usize>,
}

impl Buffer {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; BUFFER_BYTES], start: 0, end: 0, awaited: 0, drains: 0 }
    }

    /// Bytes received and not taken yet.
    pub(super) fn unread(&self) -> usize {
        self.end - self.start
    }

    /// The bytes of a message that was just taken.
    pub(super) fn get(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// Takes the next whole message. It stays in place until the next [`Buffer::room`].
    pub(super) fn take(&mut self) -> Result<Option<Message>, SourceError> {
        self.awaited = 0;
        let unread = &self.bytes[self.start..self.end];
        let Some((&[tag, a, b, c, d], _)) = unread.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let bytes = match usize::try_from(i32::from_be_bytes([a, b, c, d])) {
            Ok(bytes) if bytes >= HEADER_BYTES - 1 => bytes + 1,
            _ => return Err(SourceError::Malformed("a message with an impossible length")),
        };
        if bytes > FRAME_BYTES_MAX {
            return Err(SourceError::FrameTooLarge { bytes });
        }
        if unread.len() < bytes {
            self.awaited = bytes;
            return Ok(None);
        }
        let body = self.start + HEADER_BYTES..self.start + bytes;
        self.start += bytes;
        Ok(Some(Message { tag, body }))
    }

    /// Where the next bytes go; call [`Buffer::received`] with how many came. Empty while whole
    /// messages fill the buffer: take them first.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.shrink();
        } else if self.end == self.bytes.len() || self.start + self.awaited > self.bytes.len() {
            self.make_room();
        }
        &mut self.bytes[self.end..]
    }

    pub(super) fn received(&mut self, bytes: usize) {
        assert!(self.end + bytes <= self.bytes.len(), "more received than there was room for");
        self.end += bytes;
    }

    /// Moves the unread bytes to the front, or grows towards the awaited message. Each byte of a
    /// message is moved at most once, because afterwards the message begins at 0; whole messages
    /// are moved only when that frees half of the buffer.
    fn make_room(&mut self) {
        if self.awaited == 0 && self.unread() >= HEADER_BYTES && self.start < self.bytes.len() / 2 {
            return;
        }
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.bytes.len() {
            let grown = (self.bytes.len() * 2).min(self.awaited.max(self.bytes.len()));
            self.bytes.resize(grown, 0);
            self.drains = 0;
        }
    }

    fn shrink(&mut self) {
        if self.bytes.len() == BUFFER_BYTES {
            return;
        }
        self.drains += 1;
        if self.drains >= SHRINK_AFTER_DRAINS {
            self.bytes = vec![0; BUFFER_BYTES];
            self.drains = 0;
        }
    }

    #[cfg(test)]
    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&(body.len() as i32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    /// Feeds as much as fits; returns the rest.
    fn feed<'a>(buffer: &mut Buffer, bytes: &'a [u8]) -> &'a [u8] {
        let room = buffer.room();
        let taken = room.len().min(bytes.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        buffer.received(taken);
        &bytes[taken..]
    }

    #[test]
    fn a_large_message_grows_the_buffer_and_it_shrinks_again() {
        let body = vec![7; 3 * BUFFER_BYTES];
        let stream = [message(b'd', b"small"), message(b'd', &body), message(b'd', b"after")].concat();
        let mut buffer = Buffer::new();
        let mut rest = &stream[..];
        let mut seen = Vec::new();
        while seen.len() < 3 {
            rest = feed(&mut buffer, rest);
            while let Some(message) = buffer.take().expect("well formed") {
                seen.push(buffer.get(message.body).len());
            }
            assert!(buffer.capacity() <= 5 + body.len());
        }
        assert_eq!(seen, [5, body.len(), 5]);
        assert!(buffer.capacity() > BUFFER_BYTES);
        for _ in 0..SHRINK_AFTER_DRAINS {
            buffer.room();
        }
        assert_eq!(buffer.capacity(), BUFFER_BYTES);
    }

    #[test]
    fn memory_follows_the_bytes_received_not_the_length_promised() {
        let mut buffer = Buffer::new();
        let promised = [b'd', 0x03, 0xff, 0xff, 0xff];
        feed(&mut buffer, &promised);
        assert!(buffer.take().expect("well formed").is_none());
        buffer.room();
        assert_eq!(buffer.capacity(), BUFFER_BYTES);
    }

    #[test]
    fn a_message_beyond_the_limit_is_refused_with_its_size() {
        let mut buffer = Buffer::new();
        feed(&mut buffer, &[b'd', 0x40, 0, 0, 0]);
        let error = buffer.take().err().expect("an error");
        assert!(matches!(error, SourceError::FrameTooLarge { bytes } if bytes == 0x4000_0001));
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for length in [-1_i32, 0, 3] {
            let mut buffer = Buffer::new();
            feed(&mut buffer, &[&[b'd'][..], &length.to_be_bytes()].concat());
            assert!(matches!(buffer.take(), Err(SourceError::Malformed(_))), "{length}");
        }
    }

    #[test]
    fn whole_messages_are_not_moved_for_the_sake_of_a_few_bytes() {
        let stream = message(b'd', &[0; 59]).repeat(BUFFER_BYTES / 64);
        assert_eq!(stream.len(), BUFFER_BYTES);
        let mut buffer = Buffer::new();
        assert!(feed(&mut buffer, &stream).is_empty());
        buffer.take().expect("well formed").expect("a message");
        assert!(buffer.room().is_empty(), "no room, and nothing was moved");
        for _ in 0..BUFFER_BYTES / 64 / 2 {
            buffer.take().expect("well formed").expect("a message");
        }
        assert!(buffer.room().len() > BUFFER_BYTES / 2);
    }
}
