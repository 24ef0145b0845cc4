//! Reads record batches as a consumer would: written against Kafka's description of the format, not against the encoder.

use pillarbox_wire::header::PbPos;
use pillarbox_wire::position::Position;

use crate::postgres::EventId;

/// Bytes before the first record.
const HEADER_BYTES: usize = 61;

/// A record with an event.
#[derive(Debug, Clone)]
pub(crate) struct EventRecord {
    pub(crate) id: EventId,
    pub(crate) position: Position,
    pub(crate) sequence: u64,
    pub(crate) part: u32,
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn varint(&mut self) -> i64 {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let byte = self.take(1)[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return (value >> 1) as i64 ^ -((value & 1) as i64);
            }
            shift += 7;
        }
    }

    /// A field behind its length; none where that is -1.
    fn field(&mut self) -> Option<&'a [u8]> {
        let length = self.varint();
        usize::try_from(length).ok().map(|length| self.take(length))
    }
}

/// Calls `each(key, value, headers)` for every record.
fn records<'a>(
    batch: &'a [u8],
    mut each: impl FnMut(Option<&'a [u8]>, Option<&'a [u8]>, &[(&'a [u8], &'a [u8])]),
) {
    let count = u32::from_be_bytes(batch[57..HEADER_BYTES].try_into().expect("four bytes"));
    let mut cursor = Cursor(&batch[HEADER_BYTES..]);
    let mut headers = Vec::new();
    for _ in 0..count {
        cursor.varint();
        cursor.take(1);
        cursor.varint();
        cursor.varint();
        let (key, value) = (cursor.field(), cursor.field());
        headers.clear();
        for _ in 0..cursor.varint() {
            let name = cursor.field().unwrap_or_default();
            headers.push((name, cursor.field().unwrap_or_default()));
        }
        each(key, value, &headers);
    }
}

/// The events of a batch.
pub(crate) fn events(batch: &[u8]) -> Vec<EventRecord> {
    let mut events = Vec::new();
    records(batch, |_, value, headers| {
        let header =
            |name: &str| headers.iter().find(|(key, _)| *key == name.as_bytes()).map(|(_, value)| *value);
        let text = std::str::from_utf8(header("pb-pos").expect("every event has a position")).expect("text");
        let PbPos { position, sequence, .. } = PbPos::parse(text).expect("a position");
        let part = header("pb-part").map_or(1, |part| {
            std::str::from_utf8(part).ok().and_then(|part| part.parse().ok()).expect("a number")
        });
        let id = EventId::parse(value.unwrap_or_default()).expect("the payload as written");
        events.push(EventRecord { id, position, sequence: sequence.0, part });
    });
    events
}

/// Keys and values of a checkpoint batch.
pub(crate) fn checkpoint(batch: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut pairs = Vec::new();
    records(batch, |key, value, _| {
        pairs.push((key.unwrap_or_default().to_vec(), value.unwrap_or_default().to_vec()));
    });
    pairs
}
