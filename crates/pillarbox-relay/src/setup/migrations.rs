//! The numbered migrations of the schema `pillarbox`, embedded. A released one is never edited.
//!
//! Two series, each with a table that says what was applied: the outbox's side, and the consumer's,
//! whose database may be another one.

use super::statements::guarded;

struct Migration {
    version: u32,
    up: &'static str,
}

const OUTBOX: &[Migration] = &[
    Migration { version: 1, up: include_str!("../../../../sql/0001_pillarbox.up.sql") },
    Migration { version: 2, up: include_str!("../../../../sql/0002_emit.up.sql") },
    Migration { version: 3, up: include_str!("../../../../sql/0003_token.up.sql") },
];
const OUTBOX_TABLE: &str = "pillarbox.migrations";

/// The version of the schema that this program works with.
pub(crate) const SCHEMA_VERSION: u32 = 3;

const CONSUMER: &[Migration] = &[
    Migration { version: 1, up: include_str!("../../../../sql/consumer/0001_consumer.up.sql") },
    Migration { version: 2, up: include_str!("../../../../sql/consumer/0002_parked.up.sql") },
    Migration { version: 3, up: include_str!("../../../../sql/consumer/0003_wait.up.sql") },
];
/// Which migrations of the consumer's side have been applied.
pub(super) const CONSUMER_TABLE: &str = "pillarbox.consumer_migrations";

/// The version of the consumer's side that this program installs.
pub(super) const CONSUMER_VERSION: u32 = 3;

/// Brings the schema from version `from` (0 = nothing there) to [`SCHEMA_VERSION`]; each
/// migration looks whether it was applied, so that running it twice is harmless.
pub(super) fn statements(from: u32) -> String {
    missing(OUTBOX, OUTBOX_TABLE, from)
}

/// The same for the consumer's side, to [`CONSUMER_VERSION`].
pub(super) fn consumer_statements(from: u32) -> String {
    missing(CONSUMER, CONSUMER_TABLE, from)
}

fn missing(series: &[Migration], table: &str, from: u32) -> String {
    let missing = series.iter().filter(|migration| migration.version > from);
    let guarded = missing.map(|migration| guarded(&unless(table, migration.version), migration.up));
    guarded.collect::<Vec<_>>().join("\n")
}

/// The table itself comes with the first migration, so it cannot be asked before.
fn unless(table: &str, version: u32) -> String {
    match version {
        1 => format!("to_regclass('{table}') IS NULL"),
        _ => format!("NOT EXISTS (SELECT FROM {table} WHERE version = {version})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_dense_and_end_at_the_newest() {
        for (series, table, newest) in
            [(OUTBOX, OUTBOX_TABLE, SCHEMA_VERSION), (CONSUMER, CONSUMER_TABLE, CONSUMER_VERSION)]
        {
            let versions: Vec<u32> = series.iter().map(|migration| migration.version).collect();
            assert_eq!(versions, (1..=newest).collect::<Vec<_>>());
            for Migration { version, up } in series {
                assert!(up.contains(&format!("INSERT INTO {table} (version, name) VALUES ({version},")));
            }
        }
    }

    #[test]
    fn nothing_is_left_to_do_at_the_newest_version() {
        assert_eq!(statements(SCHEMA_VERSION), "");
        assert!(statements(0).contains("CREATE TABLE pillarbox.lineage"));
        assert!(!statements(1).contains("CREATE TABLE") && statements(1).contains("pillarbox.emit("));
        assert_eq!(consumer_statements(CONSUMER_VERSION), "");
        assert!(consumer_statements(0).contains("CREATE TABLE pillarbox.consumer_positions"));
        assert!(!consumer_statements(1).contains("CREATE TABLE pillarbox.consumer_positions"));
        assert!(consumer_statements(1).contains("CREATE TABLE pillarbox.consumer_parked"));
        assert!(statements(2).contains("pillarbox.token()") && !statements(2).contains("pillarbox.emit("));
        assert!(consumer_statements(2).contains("pillarbox.wait("));
    }
}
