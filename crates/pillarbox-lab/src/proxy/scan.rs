//! Cuts what one side sends into messages. Decides by the first bytes of each; must never wait for more than one.

use bytes::{Bytes, BytesMut};

use super::Protocol;
use super::cursor::Cursor;
use super::kafka::{self, Request};
use super::postgres;
use super::weather::{Direction, Kind};

/// A longer message is none: some other protocol, read as a length.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// A startup packet is at most this long (Postgres' own limit).
const STARTUP_BYTES_MAX: usize = 10_000;

/// What a message is.
#[derive(Debug, Clone)]
pub(super) enum Sight {
    /// Bytes.
    Unknown,
    /// A Kafka request.
    Request(Request),
    /// The answer to the request with this correlation id.
    Answer(i32),
    /// A Postgres startup packet for such a connection.
    Opens(Kind),
    /// A standby status update.
    StandbyStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Bytes as they come.
    Plain,
    /// Four bytes of length, not counting themselves.
    Kafka(Direction),
    /// Four bytes of length, counting themselves, then a code.
    Startup,
    /// One byte, four bytes of length, counting themselves.
    Typed,
}

/// The bytes of one lane that make no whole message yet.
pub(super) struct Scan {
    form: Form,
    buffer: BytesMut,
}

impl Scan {
    pub(super) fn new(protocol: Protocol, direction: Direction) -> Self {
        let form = match (protocol, direction) {
            (Protocol::Kafka, _) => Form::Kafka(direction),
            (Protocol::Postgres, Direction::ToServer) => Form::Startup,
            (Protocol::Postgres, Direction::ToClient) | (Protocol::Opaque, _) => Form::Plain,
        };
        Self { form, buffer: BytesMut::new() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message.
    pub(super) fn next(&mut self) -> Option<(Bytes, Sight)> {
        let length = self.length()?;
        let bytes = self.buffer.split_to(length).freeze();
        let sight = match self.form {
            Form::Plain => Sight::Unknown,
            Form::Kafka(Direction::ToServer) => {
                Request::parse(bytes.clone()).map_or(Sight::Unknown, Sight::Request)
            }
            Form::Kafka(Direction::ToClient) => kafka::answered(&bytes).map_or(Sight::Unknown, Sight::Answer),
            Form::Startup => postgres::opens(&bytes).map_or(Sight::Unknown, Sight::Opens),
            Form::Typed if postgres::is_standby_status(&bytes) => Sight::StandbyStatus,
            Form::Typed => Sight::Unknown,
        };
        if matches!(sight, Sight::Opens(_)) {
            self.form = Form::Typed;
        }
        Some((bytes, sight))
    }

    /// The length of the message at the front, where all of it is there. What cannot be one makes all of it plain.
    fn length(&mut self) -> Option<usize> {
        let (before, own, most) = match self.form {
            Form::Plain => return Some(self.buffer.len()).filter(|length| *length > 0),
            Form::Kafka(_) => (0, kafka::LENGTH_BYTES, MESSAGE_BYTES_MAX),
            Form::Startup => (0, 0, STARTUP_BYTES_MAX),
            Form::Typed => (1, 1, MESSAGE_BYTES_MAX),
        };
        let said = Cursor(self.buffer.get(before..)?).i32()?;
        match usize::try_from(said) {
            Ok(said) if (4..=most).contains(&said) => {
                Some(own + said).filter(|length| *length <= self.buffer.len())
            }
            _ => {
                self.form = Form::Plain;
                Some(self.buffer.len())
            }
        }
    }

    /// What makes no message, at the end.
    pub(super) fn rest(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(protocol: Protocol, direction: Direction, chunks: &[&[u8]]) -> Vec<(usize, String)> {
        let mut scan = Scan::new(protocol, direction);
        let mut found = Vec::new();
        for chunk in chunks {
            scan.push(chunk);
            while let Some((bytes, sight)) = scan.next() {
                let name = format!("{sight:?}");
                found.push((bytes.len(), name.split([' ', '{']).next().unwrap_or_default().to_owned()));
            }
        }
        found
    }

    #[test]
    fn a_session_is_cut_whatever_the_chunks() {
        let session: Vec<u8> = [
            b"\0\0\0\x08\x04\xd2\x16\x2f".as_slice(),
            b"\0\0\0\x25\0\x03\0\0user\0u\0replication\0database\0\0".as_slice(),
            b"Q\0\0\0\x06a\0".as_slice(),
            b"d\0\0\0\x05r".as_slice(),
        ]
        .concat();
        let whole = messages(Protocol::Postgres, Direction::ToServer, &[&session]);
        let lengths: Vec<usize> = whole.iter().map(|(length, _)| *length).collect();
        assert_eq!(lengths, [8, 37, 7, 6]);
        assert_eq!(whole[1].1, "Opens(Stream)");
        assert_eq!(whole[3].1, "StandbyStatus");
        let single: Vec<&[u8]> = session.chunks(1).collect();
        assert_eq!(messages(Protocol::Postgres, Direction::ToServer, &single), whole);
    }

    #[test]
    fn what_is_no_message_passes_as_bytes() {
        let hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc";
        for protocol in [Protocol::Kafka, Protocol::Postgres] {
            let found = messages(protocol, Direction::ToServer, &[hello, b"more"]);
            assert_eq!(found, [(9, "Unknown".to_owned()), (4, "Unknown".to_owned())], "{protocol:?}");
        }
    }

    #[test]
    fn requests_and_answers_are_told() {
        let frame = b"\0\0\0\x0a\0\x1a\0\x05\0\0\0\x07\xff\xff";
        assert_eq!(
            messages(Protocol::Kafka, Direction::ToServer, &[frame])[0],
            (14, "Request(Request".to_owned())
        );
        let answer = b"\0\0\0\x04\0\0\0\x07";
        assert_eq!(messages(Protocol::Kafka, Direction::ToClient, &[answer]), [(8, "Answer(7)".to_owned())]);
    }
}
