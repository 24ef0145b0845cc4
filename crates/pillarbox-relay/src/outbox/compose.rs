//! Keys and values that are not just a column's bytes: JSON, the envelope around the payload, the
//! expanded payload, the tombstone.
//!
//! ```text
//! payload "p", envelope [type: t]   ->   {"payload":"p","t":"made"}
//! ```
//!
//! Runs only for tables whose configuration asks for it, so it may allocate.

use super::json::write_string;
use super::value::{Kind, Plain, plain, write_json};
use super::{Event, OutboxError, expand, unreadable};
use crate::config::{EmptyPayload, Expand, Format, Outbox};
use crate::decode::Row;

/// What is made of the values of a row.
#[derive(Debug)]
pub(super) struct Compose {
    key_json: Option<Kind>,
    value_json: bool,
    payload: Kind,
    expand: Option<Expand>,
    tombstones: bool,
    /// Name, column and meaning of what stands beside the payload.
    envelope: Vec<(String, usize, Kind)>,
}

impl Compose {
    /// Whether the configuration asks for any of it.
    pub(super) fn is_needed(outbox: &Outbox) -> bool {
        outbox.value_format == Format::Json
            || outbox.key_format == Format::Json
            || outbox.empty_payload == EmptyPayload::Tombstone
    }

    pub(super) fn new(
        outbox: &Outbox,
        key: Kind,
        payload: Kind,
        envelope: Vec<(String, usize, Kind)>,
    ) -> Self {
        Self {
            key_json: (outbox.key_format == Format::Json).then_some(key),
            value_json: outbox.value_format == Format::Json,
            payload,
            expand: outbox.expand,
            tombstones: outbox.empty_payload == EmptyPayload::Tombstone,
            envelope,
        }
    }

    /// The event with its key and value written into `out`.
    pub(super) fn apply<'a>(
        &self,
        mut event: Event<'a>,
        row: &Row<'a>,
        out: &'a mut Vec<u8>,
    ) -> Result<Event<'a>, OutboxError> {
        out.clear();
        if let Some(kind) = self.key_json {
            write_json(event.key, kind, out);
        }
        let key_end = out.len();
        let tombstone = self.tombstones && self.is_empty(event.payload);
        if self.value_json && !tombstone {
            self.write_value(&event, row, out)?;
        }
        let (key, value) = out.split_at(key_end);
        if self.key_json.is_some() {
            event.key = Some(key);
        }
        if tombstone {
            event.payload = None;
        } else if self.value_json {
            event.payload = Some(value);
        }
        Ok(event)
    }

    /// As Java trims: up to and including the blank. Bytes are not text, only none are empty.
    fn is_empty(&self, payload: Option<&[u8]>) -> bool {
        payload.is_none_or(|payload| match self.payload {
            Kind::Bytea => payload.is_empty(),
            _ => payload.iter().all(|byte| *byte <= b' '),
        })
    }

    fn write_value(&self, event: &Event<'_>, row: &Row<'_>, out: &mut Vec<u8>) -> Result<(), OutboxError> {
        if self.envelope.is_empty() {
            self.write_payload(event.payload, out);
            return Ok(());
        }
        out.extend_from_slice(b"{\"payload\":");
        self.write_payload(event.payload, out);
        let columns: Vec<_> = row.tuple.columns().collect();
        let mut scratch = Vec::new();
        for (name, at, kind) in &self.envelope {
            out.push(b',');
            write_string(name.as_bytes(), out);
            out.push(b':');
            scratch.clear();
            let value = plain(columns[*at], *kind, &mut scratch);
            let value = match value.map_err(|reason| unreadable(row, *at, reason))? {
                None => None,
                Some(Plain::Input(bytes)) => Some(bytes),
                Some(Plain::Scratch(start)) => Some(&scratch[start..]),
            };
            write_json(value, *kind, out);
        }
        out.push(b'}');
        Ok(())
    }

    fn write_payload(&self, payload: Option<&[u8]>, out: &mut Vec<u8>) {
        match (payload, self.expand, self.payload) {
            (Some(payload), Some(expand), Kind::Text) => expand::write(payload, expand, out),
            _ => write_json(payload, self.payload, out),
        }
    }
}
