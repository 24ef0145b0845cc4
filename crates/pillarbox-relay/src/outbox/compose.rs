//! Values that are not just a column's bytes: JSON, and the envelope around the payload.
//!
//! ```text
//! payload "p", envelope [type: t]   ->   {"payload":"p","t":"made"}
//! ```
//!
//! Runs only for tables whose configuration asks for it, so it may allocate.

use super::json::write_string;
use super::value::{Kind, Plain, plain, write_json};
use super::{Event, OutboxError, unreadable};
use crate::config::{Format, Outbox};
use crate::decode::Row;

/// What is made of the values of a row.
#[derive(Debug)]
pub(super) struct Compose {
    payload: Kind,
    value_json: bool,
    /// Name, column and meaning of what stands beside the payload.
    envelope: Vec<(String, usize, Kind)>,
}

impl Compose {
    /// Whether the configuration asks for any of it.
    pub(super) fn is_needed(outbox: &Outbox) -> bool {
        outbox.value_format == Format::Json
    }

    pub(super) fn new(outbox: &Outbox, payload: Kind, envelope: Vec<(String, usize, Kind)>) -> Self {
        Self { payload, value_json: outbox.value_format == Format::Json, envelope }
    }

    /// The event with its value written into `out`.
    pub(super) fn apply<'a>(
        &self,
        mut event: Event<'a>,
        row: &Row<'a>,
        out: &'a mut Vec<u8>,
    ) -> Result<Event<'a>, OutboxError> {
        out.clear();
        if !self.value_json {
            return Ok(event);
        }
        self.write_value(&event, row, out)?;
        event.payload = Some(out);
        Ok(event)
    }

    fn write_value(&self, event: &Event<'_>, row: &Row<'_>, out: &mut Vec<u8>) -> Result<(), OutboxError> {
        if self.envelope.is_empty() {
            write_json(event.payload, self.payload, out);
            return Ok(());
        }
        out.extend_from_slice(b"{\"payload\":");
        write_json(event.payload, self.payload, out);
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
}
