//! What Postgres does for nothing: advice, never a warning. The walsender is what a backlog waits for.
//!
//! Measured in `docs/performance.md`. Must never advise what would take a column from an event.

use crate::check::Finding;
use crate::config::{Config, Outbox};
use crate::setup::{PostgresFacts, TableFacts, qualified, republish, used_columns};
use crate::source::{PublicationState, PublishedTable, quote_identifier};

/// Advice for each table that is there and published.
pub(super) fn judge(config: &Config, facts: &PostgresFacts) -> Vec<Finding> {
    let PublicationState::Present(publication) = &facts.publication else { return Vec::new() };
    let tables = config.outbox.iter().zip(&facts.tables).zip(&publication.tables);
    let sound = tables.filter(|((_, found), published)| found.exists && published.published);
    sound
        .flat_map(|((outbox, found), published)| {
            // Of updates and deletes Postgres demands that a column list has the replica identity; and a list
            // belongs to a table that the publication names.
            let takes_list = !publication.changes && published.named;
            let idle = takes_list.then(|| idle_columns(&config.postgres.publication, outbox, published));
            [rendered(outbox, found), idle.flatten()]
        })
        .flatten()
        .collect()
}

/// A payload that Postgres renders anew for each row that it sends.
fn rendered(outbox: &Outbox, found: &TableFacts) -> Option<Finding> {
    let payload = &outbox.payload_column;
    found.jsonb.contains(payload).then(|| {
        let message = format!("\"{payload}\" is jsonb, json would be sent as it was written");
        Finding::advice(format!("table {}", outbox.table), message)
            .because(
                "Postgres renders jsonb as text for each row, which is about half of its work on an event; json goes out byte for byte as it was written, and has no comparison and no GIN index",
            )
            .fix(format!(
                "ALTER TABLE {} ALTER COLUMN {} TYPE json; -- rewrites the table, writers wait: best while it is small",
                qualified(&outbox.table),
                quote_identifier(payload)
            ))
    })
}

/// Columns that are sent and that no event has anything of. That of the event's type is everybody's.
fn idle_columns(publication: &str, outbox: &Outbox, published: &PublishedTable) -> Option<Finding> {
    let used = used_columns(outbox);
    let serves = |name: &&String| used.contains(name) || **name == outbox.type_column;
    let (needed, idle): (Vec<&String>, Vec<&String>) = published.columns.iter().partition(serves);
    (!idle.is_empty()).then(|| {
        let list = |names: &[&String]| {
            let quoted: Vec<String> = names.iter().map(|name| quote_identifier(name)).collect();
            quoted.join(", ")
        };
        let name = quote_identifier(publication);
        let message = format!("sends {} of {}, which no event has anything of", list(&idle), outbox.table);
        Finding::advice(format!("publication {name}"), message)
            .because("every published column of every row is written to the stream and read from it")
            .fix(republish(publication, outbox, published, &format!(" ({})", list(&needed))))
    })
}
