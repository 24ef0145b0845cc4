//! What a record carries beside key and payload: its headers and its time.

use pillarbox_wire::header;
use pillarbox_wire::position::{Position, Sequence};
use pillarbox_wire::record_batch::Header;

use crate::outbox::{Event, HEADERS_MAX, OwnHeaders};
use crate::route::TopicLimits;

/// Header values of the record at hand.
#[derive(Default)]
pub(super) struct Texts {
    pub(super) position: Vec<u8>,
    pub(super) part: Vec<u8>,
    pub(super) time: Vec<u8>,
    pub(super) origin: Vec<u8>,
}

impl Texts {
    /// Writes them for an event of part `part` (from 1) of its transaction.
    pub(super) fn write(
        &mut self,
        pipeline: &str,
        position: Position,
        sequence: Sequence,
        part: u32,
        time: RecordTime,
    ) {
        self.position.clear();
        header::PbPos { pipeline, position, sequence }.write_to(&mut self.position);
        self.part.clear();
        if part > 1 {
            header::write_decimal(u64::from(part), &mut self.part);
        }
        self.time.clear();
        if let Some(event_ms) = time.event_ms {
            self.time.extend_from_slice(event_ms.to_string().as_bytes());
        }
    }

    /// Where a replayed event stood first.
    pub(super) fn origin(&mut self, letter: Option<&str>) {
        self.origin.clear();
        self.origin.extend_from_slice(letter.unwrap_or_default().as_bytes());
    }
}

/// Where the headers of a record are gathered.
pub(super) type HeaderPlaces<'a> = [Header<'a>; HEADERS_MAX + 5];

/// No headers yet.
pub(super) const NO_HEADERS: HeaderPlaces<'static> = [Header { name: "", value: None }; HEADERS_MAX + 5];

/// Headers of one record: `id`, the configured columns, those that a message brings, then
/// Pillarbox's own.
pub(super) fn headers<'a, 'b>(
    headers: &'b mut HeaderPlaces<'a>,
    event: &Event<'a>,
    names: &'a [String],
    own: OwnHeaders<'a>,
    texts: &'a Texts,
) -> &'b [Header<'a>] {
    headers[0] = Header { name: header::ID, value: Some(event.id) };
    let mut count = 1;
    for (number, (name, value)) in names.iter().zip(&event.headers).enumerate() {
        if event.headers_absent & 1 << number != 0 {
            continue;
        }
        headers[count] = Header { name, value: *value };
        count += 1;
    }
    for (name, value) in own.iter() {
        headers[count] = Header { name, value };
        count += 1;
    }
    headers[count] = Header { name: header::PB_POS, value: Some(&texts.position) };
    count += 1;
    for (name, text) in
        [(header::PB_PART, &texts.part), (header::PB_TS, &texts.time), (header::PB_ORIG_POS, &texts.origin)]
    {
        if !text.is_empty() {
            headers[count] = Header { name, value: Some(text) };
            count += 1;
        }
    }
    &headers[..count]
}

/// The time on a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordTime {
    pub(super) record_ms: i64,
    /// The event's own time, where the record carries another.
    pub(super) event_ms: Option<i64>,
}

/// The event's time (its commit, or what its row says), unless the topic would refuse it or soon
/// delete a record that old.
pub(super) fn record_time(event_ms: i64, now_ms: i64, limits: &TopicLimits) -> RecordTime {
    let age = now_ms.saturating_sub(event_ms);
    let expiring = limits.retention_ms.is_some_and(|retention| age > retention / 2);
    let refused = age > limits.before_max_ms || age.saturating_neg() > limits.after_max_ms;
    if expiring || refused {
        RecordTime { record_ms: now_ms, event_ms: Some(event_ms) }
    } else {
        RecordTime { record_ms: event_ms, event_ms: None }
    }
}
