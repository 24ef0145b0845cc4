//! What fuzzing feeds: the readers of everything that Postgres says, and of what stands in the checkpoint topic.
//! Arbitrary bytes are a value or an error.
//!
//! Only with the feature `fuzz`. Must never do anything that the relay does not do with what it receives.

use crate::decode::{Change, Decoder};
use crate::position::checkpoint::Table;
use crate::source::{Frame, Frames};

/// A replication stream as it comes from the socket, each row decoded. True if it has no error in it.
pub fn stream(bytes: &[u8]) -> bool {
    let mut frames = Frames::new();
    frames.receive(bytes);
    let mut decoder = Decoder::new();
    loop {
        match frames.next() {
            Ok(Some(Frame::XLogData { data, .. })) if take(&mut decoder, data) => {}
            Ok(Some(Frame::XLogData { .. })) | Err(_) => return false,
            Ok(Some(_)) => {}
            Ok(None) => return true,
        }
    }
}

/// The output of the plugin alone: messages, each behind two bytes of length.
pub fn changes(mut bytes: &[u8]) -> bool {
    let mut decoder = Decoder::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let Some((message, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))) else {
            return false;
        };
        if !take(&mut decoder, message) {
            return false;
        }
        bytes = rest;
    }
    true
}

/// As the intake does: only what can be an event has a number.
fn take(decoder: &mut Decoder, message: &[u8]) -> bool {
    match decoder.decode(message) {
        Ok(Change::Begin | Change::Commit(_) | Change::Stray { .. } | Change::Nothing) => true,
        Ok(_) => decoder.advance().is_ok(),
        Err(_) => false,
    }
}

/// A record of the checkpoint topic: key, a line feed, value; several behind NUL bytes. True if all are understood, and
/// then the table can be written again.
pub fn checkpoint(bytes: &[u8]) -> bool {
    let mut table = Table::default();
    for record in bytes.split(|byte| *byte == 0) {
        let mut parts = record.splitn(2, |byte| *byte == b'\n');
        let key = parts.next().and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
        if table.apply(key, parts.next()).is_err() {
            return false;
        }
    }
    let whole = table.whole();
    let position = table.position.as_ref().map(crate::position::checkpoint::PositionRecord::covered);
    whole.topics.len() == table.topics.len()
        && position.is_none_or(|covered| covered.covers(covered.commit_lsn, 0))
}
