//! The true commit order, read from the WAL by Postgres's own `test_decoding`: another decoder than ours, on a slot
//! of its own. Create the slot before the first event, read it after the last; while it exists it holds WAL back.
//! Must never use the relay's slot or decoder: the judge shares nothing with the accused.

use crate::history::{Event, Transaction, ValueHash};
use crate::sql::{self, literal};
use crate::{LabError, error};

/// Where events are written and what topics they belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbox {
    /// Qualified table name, as Postgres prints it.
    pub table: String,
    /// What stands before the aggregate type in a topic's name.
    pub topic_prefix: String,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { table: "public.outbox".to_owned(), topic_prefix: "outbox.event.".to_owned() }
    }
}

/// Creates the checker's slot in the database of this URL.
pub fn create_slot(url: &str, slot: &str) -> Result<(), LabError> {
    let call = format!("SELECT pg_create_logical_replication_slot({}, 'test_decoding')", literal(slot));
    sql::run(url, &call).map(|_| ())
}

/// Drops the checker's slot.
pub fn drop_slot(url: &str, slot: &str) -> Result<(), LabError> {
    sql::run(url, &format!("SELECT pg_drop_replication_slot({})", literal(slot))).map(|_| ())
}

/// All transactions since the slot was created that inserted into the outbox, in commit order. Does not move
/// the slot: the same call later gives these and more.
pub fn transactions(url: &str, slot: &str, outbox: &Outbox) -> Result<Vec<Transaction>, LabError> {
    let call = format!(
        "SELECT data FROM pg_logical_slot_peek_changes({}, NULL, NULL, 'include-xids', '0', \
         'skip-empty-xacts', '1')",
        literal(slot)
    );
    let rows = sql::run(url, &call)?;
    parse(rows.iter().filter_map(|row| row.first()?.as_deref()), outbox)
}

/// Groups the lines of `test_decoding`.
fn parse<'a>(lines: impl Iterator<Item = &'a str>, outbox: &Outbox) -> Result<Vec<Transaction>, LabError> {
    let insert = format!("table {}: INSERT: ", outbox.table);
    let mut transactions = Vec::new();
    let mut open = Transaction::default();
    for line in lines {
        if line == "COMMIT" {
            let done = std::mem::take(&mut open);
            if !done.events.is_empty() {
                transactions.push(done);
            }
        } else if let Some(row) = line.strip_prefix(&insert) {
            let event = event(row, outbox)
                .ok_or_else(|| error::disagreement("an outbox row in the WAL is malformed"))?;
            open.events.push(event);
        }
    }
    Ok(transactions)
}

/// One inserted outbox row.
fn event(row: &str, outbox: &Outbox) -> Option<Event> {
    let columns = columns(row)?;
    let get = |name: &str| columns.iter().find(|c| c.name == name);
    let value = get("payload")?.bytes()?;
    Some(Event {
        id: get("id")?.text.clone()?,
        topic: format!("{}{}", outbox.topic_prefix, get("aggregatetype")?.text.as_deref()?),
        key: get("aggregateid")?.text.clone().map(String::into_bytes),
        value: ValueHash::of(value.as_deref()),
    })
}

/// One column of a row as `test_decoding` prints it.
struct Column<'a> {
    name: &'a str,
    type_name: &'a str,
    text: Option<String>,
}

impl Column<'_> {
    /// The value as the bytes that a relay carries; `None` inside for NULL, outside for malformed hex.
    fn bytes(&self) -> Option<Option<Vec<u8>>> {
        let Some(text) = &self.text else { return Some(None) };
        if self.type_name != "bytea" {
            return Some(Some(text.clone().into_bytes()));
        }
        let hex = text.strip_prefix("\\x")?.as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        Some(Some(hex.chunks(2).map(byte).collect::<Option<_>>()?))
    }
}

/// Splits `name[type]:value name[type]:value ...`; strings are in quotes, doubled inside.
fn columns(mut rest: &str) -> Option<Vec<Column<'_>>> {
    let mut columns = Vec::new();
    while !rest.is_empty() {
        let (head, tail) = rest.split_once("]:")?;
        let (name, type_name) = head.split_once('[')?;
        let (text, after) = value(tail)?;
        columns.push(Column { name, type_name, text });
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    Some(columns)
}

/// Takes one value off the front.
fn value(text: &str) -> Option<(Option<String>, &str)> {
    let Some(mut rest) = text.strip_prefix('\'') else {
        let end = text.find(' ').unwrap_or(text.len());
        let (bare, rest) = text.split_at(end);
        return Some(((bare != "null").then(|| bare.to_owned()), rest));
    };
    let mut unquoted = String::new();
    loop {
        let (part, after) = rest.split_once('\'')?;
        unquoted.push_str(part);
        let Some(again) = after.strip_prefix('\'') else { return Some((Some(unquoted), after)) };
        unquoted.push('\'');
        rest = again;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_as_test_decoding_prints_them() {
        let lines = [
            "BEGIN",
            "table public.ledger: INSERT: writer[integer]:1 number[integer]:2",
            "table public.outbox: INSERT: id[uuid]:'a-1' aggregatetype[character varying]:'order' \
             aggregateid[character varying]:'it''s ]: ''' type[text]:null payload[jsonb]:'{\"a\": \"x''y\"}'",
            "table public.outbox: DELETE: id[uuid]:'a-1'",
            "COMMIT",
            "BEGIN",
            "table public.ledger: INSERT: writer[integer]:1 number[integer]:3",
            "COMMIT",
            "BEGIN",
            "table public.outbox: INSERT: id[uuid]:'a-2' tags[text[]]:'{}' aggregatetype[text]:'order' \
             aggregateid[text]:null n[bigint]:7 payload[bytea]:'\\x00ff'",
            "table public.outbox: INSERT: id[uuid]:'a-3' aggregatetype[text]:'bill' aggregateid[text]:'' \
             payload[jsonb]:null",
            "COMMIT",
        ];
        let event = |id: &str, topic: &str, key: Option<&str>, value: Option<&[u8]>| Event {
            id: id.into(),
            topic: format!("outbox.event.{topic}"),
            key: key.map(|k| k.as_bytes().to_vec()),
            value: ValueHash::of(value),
        };
        let expected = [
            vec![event("a-1", "order", Some("it's ]: '"), Some(br#"{"a": "x'y"}"#))],
            vec![event("a-2", "order", None, Some(&[0, 255])), event("a-3", "bill", Some(""), None)],
        ];
        let found = parse(lines.into_iter(), &Outbox::default()).expect("parsed");
        assert_eq!(found, expected.map(|events| Transaction { events }));
    }

    #[test]
    fn a_malformed_row_is_an_error_not_a_loss() {
        let lines = ["table public.outbox: INSERT: id[uuid]:'a-1", "COMMIT"];
        assert!(parse(lines.into_iter(), &Outbox::default()).is_err());
    }
}
