//! The roles of a pipeline: what each needs, and what keeps it from more.
//!
//! | role | connects as | needs | must not |
//! | --- | --- | --- | --- |
//! | replication (`postgres.url`) | walsender | REPLICATION, to see that the schema is ours | other databases, base backups |
//! | SQL (`postgres.sql`, else the same) | ordinary | one small table, one function | anything else |
//!
//! REPLICATION cannot be narrowed by grants: whoever has it reads every table of a database that it may connect to,
//! through a slot of its own, and the whole cluster by a base backup. Only `pg_hba.conf` is a fence. Text only: nothing
//! here runs.

use super::statements::{guarded, qualified};
use crate::config::{Postgres, TableName};
use crate::source::{quote_identifier, quote_literal};

/// Creates what is missing. Passwords are not for a script.
pub(super) fn create(postgres: &Postgres) -> String {
    let role = quote_identifier(&postgres.user);
    let mut text = format!(
        "-- The role that replicates; give it a password: \\password {role}\n{}\n\
         -- If it was there already, it needs: ALTER ROLE {role} LOGIN REPLICATION;",
        create_role(&postgres.user, "LOGIN REPLICATION")
    );
    if let Some(sql) = &postgres.sql {
        let role = quote_identifier(&sql.user);
        text.push_str(&format!(
            "\n\n-- The role that runs SQL; give it a password: \\password {role}\n{}",
            create_role(&sql.user, "LOGIN NOREPLICATION")
        ));
    }
    text
}

fn create_role(name: &str, attributes: &str) -> String {
    let missing = format!("NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {})", quote_literal(name));
    guarded(&missing, &format!("CREATE ROLE {} {attributes}", quote_identifier(name)))
}

/// What the roles need on what is ours.
pub(crate) fn grants(postgres: &Postgres) -> String {
    let sql = quote_identifier(postgres.sql_user());
    let mut lines = vec![
        format!("GRANT USAGE ON SCHEMA pillarbox TO {sql};"),
        format!("GRANT SELECT, INSERT, UPDATE ON pillarbox.lineage TO {sql};"),
        format!("GRANT SELECT ON pillarbox.migrations TO {sql};"),
    ];
    if postgres.sql.is_some() {
        let replication = quote_identifier(&postgres.user);
        lines.push(format!("GRANT USAGE ON SCHEMA pillarbox TO {replication};"));
        lines.push(format!("GRANT SELECT ON pillarbox.lineage, pillarbox.migrations TO {replication};"));
    }
    lines.join("\n")
}

/// What deleting relayed rows needs: they are locked first, for which any column will do.
pub(crate) fn delete_grants(postgres: &Postgres, table: &TableName, column: &str) -> String {
    let (role, schema) = (quote_identifier(postgres.sql_user()), quote_identifier(&table.schema));
    let column = quote_identifier(column);
    format!(
        "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT, DELETE, UPDATE ({column}) ON {} TO {role};",
        qualified(table)
    )
}

/// What an administrator adds so that the roles cannot do more: for eyes, not for psql.
pub(super) fn fences(postgres: &Postgres) -> String {
    let (role, database) = (quote_identifier(&postgres.user), quote_identifier(&postgres.database));
    let sql = quote_identifier(postgres.sql_user());
    let mut lines = vec![
        "-- A role with REPLICATION can read every table of every database that it may connect to, and copy the".to_owned(),
        "-- whole cluster. Only pg_hba.conf fences it. Put these lines before wider ones, then reload:".to_owned(),
        format!("--   hostssl {database} {role} <address of the relay> scram-sha-256"),
    ];
    if postgres.sql.is_some() {
        lines.push(format!("--   hostssl {database} {sql} <address of the relay> scram-sha-256"));
        lines.push(format!("--   host all {sql} all reject"));
    }
    lines.extend([
        format!("--   host replication {role} all reject"),
        format!("--   host all {role} all reject"),
        "-- Any role can write logical messages into WAL. To leave that to those who need it, as superuser:"
            .to_owned(),
    ]);
    let signatures = ["boolean, text, text", "boolean, text, bytea"];
    for signature in signatures {
        // Postgres 17 added a parameter.
        for flush in ["", ", boolean"] {
            let version = if flush.is_empty() { "Postgres 15 and 16" } else { "Postgres 17 and later" };
            let function = format!("FUNCTION pg_logical_emit_message({signature}{flush})");
            lines.push(format!(
                "--   REVOKE EXECUTE ON {function} FROM PUBLIC; GRANT EXECUTE ON {function} TO {sql}; -- {version}"
            ));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SqlRole;

    fn postgres(sql: Option<&str>) -> Postgres {
        Postgres {
            host: "db".into(),
            port: 5432,
            user: "pillarbox".into(),
            password: None,
            database: "shop".into(),
            slot: "s".into(),
            publication: "p".into(),
            tls: Default::default(),
            sql: sql.map(|user| SqlRole { user: user.into(), password: None }),
        }
    }

    #[test]
    fn one_role_or_two() {
        let one = postgres(None);
        assert!(grants(&one).contains("UPDATE ON pillarbox.lineage TO \"pillarbox\";"));
        assert_eq!(fences(&one).matches("reject").count(), 2);
        assert_eq!(create(&one).matches("CREATE ROLE").count(), 1);
        let two = postgres(Some("pillarbox_sql"));
        assert!(grants(&two).contains("UPDATE ON pillarbox.lineage TO \"pillarbox_sql\";"));
        assert!(!grants(&two).contains("UPDATE ON pillarbox.lineage TO \"pillarbox\";"));
        assert_eq!(fences(&two).matches("reject").count(), 3);
        assert!(create(&two).contains("CREATE ROLE \"pillarbox_sql\" LOGIN NOREPLICATION"));
        assert!(fences(&two).lines().all(|line| line.starts_with("--")));
    }
}
