//! The SQL of setup as text: what a person can read, keep and run. Every statement can be run
//! twice.

use super::{migrations, roles};
use crate::config::{Config, Missing, Outbox, TableName, TopicPart};
use crate::source::{quote_identifier, quote_literal};

/// Everything that setup would run in an empty database, for an administrator who prefers to run
/// it. The slot is not in it: it belongs together with the first checkpoint.
pub fn print_sql(config: &Config) -> String {
    let role = quote_identifier(&config.postgres.user);
    let mut text = format!(
        "-- Pillarbox pipeline {}: run in database {} as its owner, then run `pillarbox setup`,\n\
         -- which creates the replication slot together with the first checkpoint.\n\n",
        config.pipeline,
        quote_identifier(&config.postgres.database),
    );
    let mut parts = vec![roles::create(&config.postgres), migrations::statements(0)];
    parts.push(roles::grants(&config.postgres));
    parts.push(STATISTICS_COMMENT.to_owned());
    parts.push(format!("GRANT pg_read_all_stats TO {role};"));
    for outbox in &config.outbox {
        if outbox.table.schema != "public" {
            parts.push(create_schema(&outbox.table.schema));
        }
        parts.push(create_table(outbox));
    }
    parts.push(create_publication(config));
    if config.messages.is_some() {
        parts.push(emit_comment(&config.postgres.user));
    }
    parts.extend(config.outbox.iter().map(|outbox| complete_publication(config, &outbox.table)));
    parts.push(roles::fences(&config.postgres));
    text.push_str(&parts.join("\n\n"));
    text.push('\n');
    text
}

const STATISTICS_COMMENT: &str = "-- Lets a standby relay see when the active one last replied; without it a relay that hangs is not\n\
     -- replaced before its connection breaks.";

/// Who may emit events: the grants are for the applications, the REVOKE is a superuser's.
fn emit_comment(role: &str) -> String {
    let revoke = revoke_messages_anywhere(role).replace('\n', "\n-- ");
    format!(
        "-- Each role that emits events needs:\n\
         --   GRANT USAGE ON SCHEMA pillarbox TO the_application;\n\
         --   GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pillarbox TO the_application;\n\
         -- Every role may write logical messages, and so events, until a superuser runs this:\n-- {revoke}"
    )
}

/// Takes the right to write logical messages from everybody but the relay and `pillarbox.emit()`,
/// whatever the server's version: the function has other arguments from 17 on.
fn revoke_messages_anywhere(role: &str) -> String {
    let body = format!(
        "\nDECLARE\n    f regprocedure;\nBEGIN\n    \
         FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = 'pg_logical_emit_message' LOOP\n        \
         EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);\n        \
         EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I, %I', f, {},\n            \
         (SELECT rolname FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner WHERE p.oid = 'pillarbox.emit(text,text,text,bytea,jsonb,uuid)'::regprocedure));\n    \
         END LOOP;\nEND\n",
        quote_literal(role)
    );
    format!("DO {};", dollar_quote(&body))
}

/// The same for a server whose version is known, in two statements.
pub(crate) fn revoke_messages(server_version: u32, role: &str) -> String {
    let flush = if server_version < 170_000 { "" } else { ", boolean" };
    let functions = ["text", "bytea"]
        .map(|content| format!("pg_catalog.pg_logical_emit_message(boolean, text, {content}{flush})"))
        .join(", ");
    format!(
        "REVOKE EXECUTE ON FUNCTION {functions} FROM PUBLIC; GRANT EXECUTE ON FUNCTION {functions} TO {};",
        quote_identifier(role)
    )
}

/// A text between dollar quotes that do not occur in it.
fn dollar_quote(text: &str) -> String {
    let mut tag = "$pillarbox$".to_owned();
    while text.contains(&tag) {
        tag.insert(1, '_');
    }
    format!("{tag}{text}{tag}")
}

/// Runs `statements` only if `condition` holds.
pub(super) fn guarded(condition: &str, statements: &str) -> String {
    let body = format!(
        "\nBEGIN\n    IF {condition} THEN\n        EXECUTE {};\n    END IF;\nEND\n",
        dollar_quote(statements)
    );
    format!("DO {};", dollar_quote(&body))
}

pub(super) fn create_schema(schema: &str) -> String {
    format!("CREATE SCHEMA IF NOT EXISTS {};", quote_identifier(schema))
}

/// A table with the configured columns; by default Debezium's outbox table.
pub(super) fn create_table(outbox: &Outbox) -> String {
    let columns: Vec<String> = columns(outbox)
        .into_iter()
        .map(|(name, kind)| format!("    {} {kind}", quote_identifier(&name)))
        .collect();
    format!("CREATE TABLE IF NOT EXISTS {} (\n{}\n);", qualified(&outbox.table), columns.join(",\n"))
}

const TEXT_REQUIRED: &str = "varchar(255) NOT NULL";

/// Every configured column once, in the order of Debezium's table.
fn columns(outbox: &Outbox) -> Vec<(String, &'static str)> {
    let mut columns = vec![(outbox.id_column.clone(), "uuid PRIMARY KEY")];
    columns.extend(topic_columns(outbox).map(|column| (column, TEXT_REQUIRED)));
    columns.push((outbox.key_column.clone(), TEXT_REQUIRED));
    // Debezium's table has it whether it is relayed or not; applications written for it insert it.
    if outbox.id_column == "id" && outbox.key_column == "aggregateid" && outbox.payload_column == "payload" {
        columns.push((outbox.type_column.clone(), TEXT_REQUIRED));
    }
    let typed = [
        (&outbox.timestamp_column, "timestamp"),
        (&outbox.version_column, "integer"),
        (&outbox.partition_column, "integer"),
    ];
    columns.extend(typed.into_iter().filter_map(|(column, kind)| Some((column.clone()?, kind))));
    columns.extend(outbox.headers.iter().map(|header| (header.column.clone(), "varchar(255)")));
    columns.extend(outbox.envelope.iter().map(|field| (field.column.clone(), "varchar(255)")));
    columns.push((outbox.payload_column.clone(), "jsonb"));
    let mut seen = std::collections::HashSet::new();
    columns.retain(|(name, _)| seen.insert(name.clone()));
    columns
}

fn topic_columns(outbox: &Outbox) -> impl Iterator<Item = String> {
    outbox.topic.parts().iter().filter_map(|part| match part {
        TopicPart::Column(column) => Some(column.clone()),
        TopicPart::Literal(_) => None,
    })
}

/// Every column that the events of a table need, each once.
pub(crate) fn column_names(outbox: &Outbox) -> Vec<String> {
    let mut names = vec![outbox.id_column.clone(), outbox.key_column.clone(), outbox.payload_column.clone()];
    names.extend(topic_columns(outbox));
    names.extend(outbox.timestamp_column.clone());
    names.extend(outbox.version_column.clone());
    if outbox.missing == Missing::Stop {
        names.extend(outbox.headers.iter().map(|header| header.column.clone()));
        names.extend(outbox.envelope.iter().map(|field| field.column.clone()));
        names.extend(outbox.partition_column.clone());
    }
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// Only inserts: a relayed row may be deleted at any time. Under the root's name: daily partitions
/// may be dropped at any time.
pub(super) fn create_publication(config: &Config) -> String {
    let tables: Vec<String> = config.outbox.iter().map(|outbox| qualified(&outbox.table)).collect();
    let name = &config.postgres.publication;
    // Without tables it publishes messages alone, which no publication filters.
    let tables = if tables.is_empty() { String::new() } else { format!(" FOR TABLE {}", tables.join(", ")) };
    let create = format!(
        "CREATE PUBLICATION {}{tables} WITH (publish = 'insert', publish_via_partition_root = true)",
        quote_identifier(name)
    );
    guarded(
        &format!("NOT EXISTS (SELECT FROM pg_publication WHERE pubname = {})", quote_literal(name)),
        &create,
    )
}

pub(super) fn add_to_publication(publication: &str, table: &TableName) -> String {
    format!("ALTER PUBLICATION {} ADD TABLE {};", quote_identifier(publication), qualified(table))
}

/// For a publication that was there before: adds the table if it is not in it.
fn complete_publication(config: &Config, table: &TableName) -> String {
    let name = &config.postgres.publication;
    let lacking = format!(
        "NOT EXISTS (SELECT FROM pg_publication_tables WHERE pubname = {} AND schemaname = {} AND tablename = {})",
        quote_literal(name),
        quote_literal(&table.schema),
        quote_literal(&table.name)
    );
    guarded(&lacking, &add_to_publication(name, table))
}

/// Returns the position from which the slot decodes.
pub(super) fn create_slot(slot: &str) -> String {
    format!("SELECT lsn FROM pg_create_logical_replication_slot({}, 'pgoutput');", quote_literal(slot))
}

pub(super) fn qualified(table: &TableName) -> String {
    format!("{}.{}", quote_identifier(&table.schema), quote_identifier(&table.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HeaderColumn, TopicTemplate};

    fn outbox() -> Outbox {
        Outbox::debezium(TableName { schema: "public".into(), name: "outbox".into() })
    }

    #[test]
    fn the_default_table_is_debeziums() {
        assert_eq!(
            create_table(&outbox()),
            "CREATE TABLE IF NOT EXISTS \"public\".\"outbox\" (\n\
             \x20   \"id\" uuid PRIMARY KEY,\n\
             \x20   \"aggregatetype\" varchar(255) NOT NULL,\n\
             \x20   \"aggregateid\" varchar(255) NOT NULL,\n\
             \x20   \"type\" varchar(255) NOT NULL,\n\
             \x20   \"payload\" jsonb\n);"
        );
    }

    #[test]
    fn configured_columns_are_created_once_each() {
        let outbox = Outbox {
            id_column: "event_id".into(),
            key_column: "order_id".into(),
            topic: TopicTemplate::parse("shop.{kind}").expect("a template"),
            headers: vec![
                HeaderColumn { column: "kind".into(), name: "kind".into() },
                HeaderColumn { column: "tenant".into(), name: "tenant".into() },
            ],
            ..outbox()
        };
        let names: Vec<String> = columns(&outbox).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["event_id", "kind", "order_id", "tenant", "payload"]);
        assert_eq!(column_names(&outbox), ["event_id", "order_id", "payload", "kind", "tenant"]);
    }

    #[test]
    fn dollar_quotes_never_end_early() {
        assert_eq!(dollar_quote("x"), "$pillarbox$x$pillarbox$");
        assert_eq!(dollar_quote("$pillarbox$"), "$_pillarbox$$pillarbox$$_pillarbox$");
        let outer = guarded("true", "SELECT '$pillarbox$'");
        assert!(outer.starts_with("DO $__pillarbox$"), "{outer}");
    }
}
