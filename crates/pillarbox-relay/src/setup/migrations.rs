//! The numbered migrations of the schema `pillarbox`, embedded. A released one is never edited.

use super::statements::guarded;

struct Migration {
    version: u32,
    up: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, up: include_str!("../../../../sql/0001_pillarbox.up.sql") },
    Migration { version: 2, up: include_str!("../../../../sql/0002_emit.up.sql") },
];

/// The version of the schema that this program works with.
pub(crate) const SCHEMA_VERSION: u32 = 2;

/// Brings the schema from version `from` (0 = nothing there) to [`SCHEMA_VERSION`]; each
/// migration looks whether it was applied, so that running it twice is harmless.
pub(super) fn statements(from: u32) -> String {
    let missing = MIGRATIONS.iter().filter(|migration| migration.version > from);
    missing.map(|migration| guarded(&unless(migration.version), migration.up)).collect::<Vec<_>>().join("\n")
}

/// The table itself comes with the first migration, so it cannot be asked before.
fn unless(version: u32) -> String {
    match version {
        1 => "to_regclass('pillarbox.migrations') IS NULL".to_owned(),
        _ => format!("NOT EXISTS (SELECT FROM pillarbox.migrations WHERE version = {version})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_dense_and_end_at_the_schema_version() {
        let versions: Vec<u32> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert_eq!(versions, (1..=SCHEMA_VERSION).collect::<Vec<_>>());
        for migration in MIGRATIONS {
            assert!(migration.up.contains("INSERT INTO pillarbox.migrations"), "{}", migration.version);
        }
    }

    #[test]
    fn nothing_is_left_to_do_at_the_newest_version() {
        assert_eq!(statements(SCHEMA_VERSION), "");
        assert!(statements(0).contains("CREATE TABLE pillarbox.lineage"));
        assert!(!statements(1).contains("CREATE TABLE") && statements(1).contains("pillarbox.emit("));
    }
}
