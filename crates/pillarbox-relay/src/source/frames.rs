//! What a walsender says, as borrowed frames out of the receive buffer.
//!
//! Must never copy a row, skip a notice, or take the end of the stream for silence.

use pillarbox_wire::lsn::{Lsn, PgTimestamp};

pub use super::buffer::FRAME_BYTES_MAX;
use super::buffer::{Buffer, Message};
use super::error::SourceError;
use super::message::{Fields, Notice, take};

/// One message of the replication stream.
///
/// Source: Postgres documentation, "Streaming Replication Protocol".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A piece of output of the decoding plugin: exactly one pgoutput message.
    XLogData {
        /// Where in the WAL the change is; zero for a relation message.
        start: Lsn,
        /// The current end of WAL on the server, as this walsender knows it.
        wal_end: Lsn,
        /// The server's clock.
        sent_at: PgTimestamp,
        /// The pgoutput message.
        data: &'a [u8],
    },
    /// The server's sign of life.
    Keepalive {
        /// Everything before it was decoded and is ahead of this frame in the stream.
        wal_end: Lsn,
        /// The server will close the connection unless a status is sent soon.
        reply_requested: bool,
    },
    /// A warning; `routine == "LoadPublications"` means that rows are being skipped.
    Notice(Notice<'a>),
    /// The server ends the stream in good order: it shuts down.
    End,
}

/// The receive buffer of a stream and the frames in it.
#[derive(Debug)]
pub struct Frames {
    buffer: Buffer,
}

impl Frames {
    /// Nothing received yet.
    #[expect(clippy::new_without_default, reason = "a stream is opened, not defaulted")]
    pub fn new() -> Self {
        Self { buffer: Buffer::new() }
    }

    /// Receives from memory what a socket would bring; gives how much there was room for.
    #[cfg(feature = "fuzz")]
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let room = self.buffer.room();
        let count = bytes.len().min(room.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.buffer.received(count);
        count
    }

    /// The next whole frame; `None` when more must be read first.
    ///
    /// # Errors
    /// [`SourceError::Server`] when the server ended the stream with an error,
    /// [`SourceError::FrameTooLarge`], [`SourceError::Malformed`]. After an error the stream is over.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot lend")]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, SourceError> {
        while let Some(Message { tag, body }) = self.buffer.take()? {
            return match tag {
                b'd' => parse_copy_data(self.buffer.get(body)).map(Some),
                b'N' => Ok(Some(Frame::Notice(Fields::parse(self.buffer.get(body))?.notice()))),
                b'E' => Err(SourceError::Server(Fields::parse(self.buffer.get(body))?.error())),
                b'c' | b'C' => Ok(Some(Frame::End)),
                // A changed setting, a notification, ready for a query after the end.
                b'S' | b'A' | b'Z' => continue,
                _ => Err(SourceError::Malformed("a message that has no place in a replication stream")),
            };
        }
        Ok(None)
    }

    /// Bytes received and not returned as frames yet.
    pub fn buffered(&self) -> usize {
        self.buffer.unread()
    }

    pub(super) fn buffer(&mut self) -> &mut Buffer {
        &mut self.buffer
    }
}

fn parse_copy_data(body: &[u8]) -> Result<Frame<'_>, SourceError> {
    let Some((&kind, mut rest)) = body.split_first() else {
        return Err(SourceError::Malformed("an empty replication message"));
    };
    match kind {
        b'w' => {
            let start = Lsn(u64::from_be_bytes(take(&mut rest)?));
            let wal_end = Lsn(u64::from_be_bytes(take(&mut rest)?));
            let sent_at = PgTimestamp(i64::from_be_bytes(take(&mut rest)?));
            Ok(Frame::XLogData { start, wal_end, sent_at, data: rest })
        }
        b'k' => {
            let wal_end = Lsn(u64::from_be_bytes(take(&mut rest)?));
            let _sent_at: [u8; 8] = take(&mut rest)?;
            let [reply] = take(&mut rest)?;
            Ok(Frame::Keepalive { wal_end, reply_requested: reply != 0 })
        }
        _ => Err(SourceError::Malformed("an unknown kind of replication message")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&(body.len() as i32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn xlog(start: u64, data: &[u8]) -> Vec<u8> {
        let mut body = vec![b'w'];
        for number in [start, start + 8, 1_000] {
            body.extend_from_slice(&number.to_be_bytes());
        }
        body.extend_from_slice(data);
        message(b'd', &body)
    }

    fn keepalive(wal_end: u64, reply: u8) -> Vec<u8> {
        let mut body = vec![b'k'];
        body.extend_from_slice(&wal_end.to_be_bytes());
        body.extend_from_slice(&1_000_u64.to_be_bytes());
        body.push(reply);
        message(b'd', &body)
    }

    /// A stream with one of each kind.
    fn sample() -> Vec<u8> {
        [
            xlog(16, b"B"),
            keepalive(64, 1),
            message(b'S', b"TimeZone\0UTC\0"),
            message(b'N', b"SWARNUNG\0VWARNING\0C55000\0Mskipped\0RLoadPublications\0\0"),
            xlog(24, b""),
            keepalive(72, 0),
            message(b'c', b""),
            message(b'C', b"COPY 0\0"),
        ]
        .concat()
    }

    /// Feeds `stream` in pieces of the given sizes (the last repeats); returns all frames as text.
    fn read(stream: &[u8], sizes: &[usize]) -> Vec<String> {
        let mut frames = Frames::new();
        let mut seen = Vec::new();
        let mut rest = stream;
        let mut turn = 0;
        while !rest.is_empty() {
            let size = sizes.get(turn).or(sizes.last()).copied().unwrap_or(1).max(1);
            turn += 1;
            let room = frames.buffer().room();
            let bytes = size.min(rest.len()).min(room.len());
            room[..bytes].copy_from_slice(&rest[..bytes]);
            frames.buffer().received(bytes);
            rest = &rest[bytes..];
            while let Some(frame) = frames.next().expect("well formed") {
                seen.push(format!("{frame:?}"));
            }
        }
        assert_eq!(frames.buffered(), 0);
        seen
    }

    #[test]
    fn every_kind_of_frame() {
        let seen = read(&sample(), &[usize::MAX]);
        assert_eq!(seen.len(), 7);
        assert!(seen[0].contains("start: 0/10") && seen[0].contains("data: [66]"), "{}", seen[0]);
        assert_eq!(seen[1], "Keepalive { wal_end: 0/40, reply_requested: true }");
        assert!(seen[2].contains("WARNING") && seen[2].contains("LoadPublications"), "{}", seen[2]);
        assert_eq!(seen[4], "Keepalive { wal_end: 0/48, reply_requested: false }");
        assert_eq!(&seen[5..], ["End", "End"]);
    }

    #[test]
    fn a_cut_at_every_byte_changes_nothing() {
        let stream = sample();
        let whole = read(&stream, &[usize::MAX]);
        for cut in 1..stream.len() {
            assert_eq!(read(&stream, &[cut, usize::MAX]), whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_server_error_ends_the_stream() {
        let mut frames = Frames::new();
        let bytes = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating\0RProcessInterrupts\0\0");
        frames.buffer().room()[..bytes.len()].copy_from_slice(&bytes);
        frames.buffer().received(bytes.len());
        let error = frames.next().expect_err("an error");
        assert!(matches!(error, SourceError::Server(server) if server.sqlstate == "57P01"));
    }

    #[test]
    fn cut_replication_messages_are_errors() {
        for body in [&b""[..], b"w", b"k", b"k12345678", b"w1234567812345678", b"x"] {
            assert!(parse_copy_data(body).is_err(), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same_frames(
            rows in proptest::collection::vec((any::<u32>(), proptest::collection::vec(any::<u8>(), 0..2_000)), 1..40),
            sizes in proptest::collection::vec(1_usize..5_000, 1..50),
        ) {
            let stream: Vec<u8> = rows.iter().flat_map(|(start, data)| xlog(u64::from(*start), data)).collect();
            let seen = read(&stream, &sizes);
            prop_assert_eq!(seen.len(), rows.len());
            for (text, (start, data)) in seen.iter().zip(&rows) {
                let expected = Frame::XLogData {
                    start: Lsn(u64::from(*start)),
                    wal_end: Lsn(u64::from(*start) + 8),
                    sent_at: PgTimestamp(1_000),
                    data,
                };
                prop_assert_eq!(text, &format!("{expected:?}"));
            }
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..3_000)) {
            let mut frames = Frames::new();
            frames.buffer().room()[..bytes.len()].copy_from_slice(&bytes);
            frames.buffer().received(bytes.len());
            while let Ok(Some(_)) = frames.next() {}
        }
    }
}
