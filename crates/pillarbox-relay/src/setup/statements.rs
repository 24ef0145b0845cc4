//! The SQL of setup as text: what a person can read, keep and run. Every statement can be run
//! twice.

use super::{migrations, roles};
use crate::config::{Config, Housekeeping, Missing, Outbox, Partitions, Postgres, TableName, TopicPart};
use crate::source::{PublishedTable, quote_identifier, quote_literal};

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
        parts.extend(housekeeping(&config.postgres, outbox));
    }
    parts.push(create_publication(config));
    if config.messages.is_some() {
        parts.push(emit_comment(config.postgres.sql_user()));
    }
    parts.extend(config.outbox.iter().map(|outbox| complete_publication(config, outbox)));
    parts.push(roles::fences(&config.postgres));
    text.push_str(&parts.join("\n\n"));
    text.push('\n');
    text
}

/// What keeping a table small needs. Whose a table is stays a person's decision.
fn housekeeping(postgres: &Postgres, outbox: &Outbox) -> Option<String> {
    match &outbox.housekeeping {
        Housekeeping::None => None,
        Housekeeping::Delete(_) => Some(roles::delete_grants(postgres, &outbox.table, &outbox.id_column)),
        Housekeeping::Partitions(_) => Some(format!(
            "-- The relay makes and drops partitions as the owner of {}, who must be able to create tables in its\n\
             -- schema. If that is not {role}: GRANT the_owner TO {role};",
            qualified(&outbox.table),
            role = quote_identifier(postgres.sql_user())
        )),
    }
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

/// The same for a server whose version is known, in two statements. The lineage and orders are the SQL role's; whoever ran
/// `setup` owns `pillarbox.emit()`.
pub(crate) fn revoke_messages(server_version: u32, postgres: &Postgres) -> String {
    let mut roles = vec![quote_identifier(postgres.sql_user()), quote_identifier(&postgres.user)];
    roles.dedup();
    let flush = if server_version < 170_000 { "" } else { ", boolean" };
    let functions = ["text", "bytea"]
        .map(|content| format!("pg_catalog.pg_logical_emit_message(boolean, text, {content}{flush})"))
        .join(", ");
    format!(
        "REVOKE EXECUTE ON FUNCTION {functions} FROM PUBLIC; GRANT EXECUTE ON FUNCTION {functions} TO {};",
        roles.join(", ")
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
    let name = qualified(&outbox.table);
    let Housekeeping::Partitions(wanted) = &outbox.housekeeping else {
        return format!("CREATE TABLE IF NOT EXISTS {name} (\n{}\n);", columns.join(",\n"));
    };
    let (id, time) = (quote_identifier(&outbox.id_column), quote_identifier(&wanted.column));
    format!(
        "CREATE TABLE IF NOT EXISTS {name} (\n{},\n    PRIMARY KEY ({id}, {time})\n) PARTITION BY RANGE ({time});\n\n{}",
        columns.join(",\n"),
        first_partitions(&outbox.table, wanted)
    )
}

/// The partitions of now and of some intervals ahead, with the owner of the table: the relay goes on
/// from there.
fn first_partitions(table: &TableName, wanted: &Partitions) -> String {
    let (seconds, ahead) = (wanted.interval.as_secs().max(1), wanted.ahead);
    let format = if seconds.is_multiple_of(86_400) { "YYYYMMDD" } else { "YYYYMMDD\"t\"HH24MISS" };
    let (schema, root) = (quote_literal(&table.schema), quote_literal(&qualified(table)));
    // Postgres cuts names off at 63 bytes; the time of a partition must survive.
    let base = quote_literal(&table.name.chars().take(45).collect::<String>());
    let body = format!(
        "\nDECLARE\n    lower timestamptz;\n    part text;\nBEGIN\n    \
         IF EXISTS (SELECT FROM pg_inherits WHERE inhparent = {root}::regclass) THEN\n        RETURN;\n    END IF;\n    \
         FOR n IN 0..{ahead} LOOP\n        \
         lower := to_timestamp((floor(extract(epoch FROM now()) / {seconds}) + n) * {seconds});\n        \
         part := format('%I.%I', {schema}, {base} || '_p' || to_char(lower AT TIME ZONE 'UTC', '{format}'));\n        \
         EXECUTE format('CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',\n            \
         part, {root}, lower, lower + interval '{seconds} seconds');\n        \
         EXECUTE format('ALTER TABLE %s OWNER TO %I', part,\n            \
         (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = {root}::regclass));\n    \
         END LOOP;\nEND\n"
    );
    format!("DO {};", dollar_quote(&body))
}

const TEXT_REQUIRED: &str = "varchar(255) NOT NULL";

/// Every configured column once, in the order of Debezium's table.
fn columns(outbox: &Outbox) -> Vec<(String, &'static str)> {
    // The key of a partitioned table must hold the partition key, too.
    let (id, time) = match &outbox.housekeeping {
        Housekeeping::Partitions(wanted) => ("uuid NOT NULL", Some(wanted.column.clone())),
        Housekeeping::None | Housekeeping::Delete(_) => ("uuid PRIMARY KEY", None),
    };
    let mut columns = vec![(outbox.id_column.clone(), id)];
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
    // Not jsonb, which Postgres would render anew for each row that it sends.
    columns.push((outbox.payload_column.clone(), "json"));
    if let Some(time) = time {
        columns.retain(|(name, _)| *name != time);
        // The time of the insert, not that of a transaction which may have begun long ago.
        columns.push((time, "timestamptz NOT NULL DEFAULT clock_timestamp()"));
    }
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
    named_columns(outbox, outbox.missing == Missing::Stop)
}

/// Every column that the events of a table can have something of, each once.
pub(crate) fn used_columns(outbox: &Outbox) -> Vec<String> {
    let mut names = named_columns(outbox, true);
    // Nobody needs it, and whoever has it gets its headers.
    names.extend(outbox.trace_column.clone());
    names
}

fn named_columns(outbox: &Outbox, optional: bool) -> Vec<String> {
    let mut names = vec![outbox.id_column.clone(), outbox.key_column.clone(), outbox.payload_column.clone()];
    names.extend(topic_columns(outbox));
    names.extend(outbox.timestamp_column.clone());
    names.extend(outbox.version_column.clone());
    if optional {
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
    let tables: Vec<String> = config.outbox.iter().map(published).collect();
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

/// A table as a publication takes it: with the filter of its shard.
pub(super) fn published(outbox: &Outbox) -> String {
    let table = qualified(&outbox.table);
    match outbox.shard {
        Some(shard) => format!("{table} WHERE ({})", shard.filter(&quote_identifier(&outbox.key_column))),
        None => table,
    }
}

pub(crate) fn add_to_publication(publication: &str, outbox: &Outbox) -> String {
    format!("ALTER PUBLICATION {} ADD TABLE {};", quote_identifier(publication), published(outbox))
}

/// The table in the publication, with these columns and the filter that it has; other tables stay as they are.
pub(crate) fn republish(
    publication: &str,
    outbox: &Outbox,
    published: &PublishedTable,
    columns: &str,
) -> String {
    let (name, table) = (quote_identifier(publication), qualified(&outbox.table));
    let filter = published.row_filter.as_ref().map(|filter| format!(" WHERE ({filter})")).unwrap_or_default();
    format!(
        "BEGIN; ALTER PUBLICATION {name} DROP TABLE {table}; \
         ALTER PUBLICATION {name} ADD TABLE {table}{columns}{filter}; COMMIT;"
    )
}

/// For a publication that was there before: adds the table if it is not in it.
fn complete_publication(config: &Config, outbox: &Outbox) -> String {
    let table = &outbox.table;
    let name = &config.postgres.publication;
    let lacking = format!(
        "NOT EXISTS (SELECT FROM pg_publication_tables WHERE pubname = {} AND schemaname = {} AND tablename = {})",
        quote_literal(name),
        quote_literal(&table.schema),
        quote_literal(&table.name)
    );
    guarded(&lacking, &add_to_publication(name, outbox))
}

/// Returns the position from which the slot decodes. From 17 on standbys can have a copy of it, which outlives
/// a failover; without standbys that changes nothing.
pub(super) fn create_slot(slot: &str, server_version: u32) -> String {
    let failover = if server_version < 170_000 { "" } else { ", failover => true" };
    format!(
        "SELECT lsn FROM pg_create_logical_replication_slot({}, 'pgoutput'{failover});",
        quote_literal(slot)
    )
}

pub(crate) fn qualified(table: &TableName) -> String {
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
             \x20   \"payload\" json\n);"
        );
    }

    #[test]
    fn whoever_writes_messages_for_the_relay_keeps_the_right() {
        let mut postgres = postgres();
        assert!(revoke_messages(180_000, &postgres).ends_with(" TO \"relay\";"));
        postgres.sql = Some(crate::config::SqlRole { user: "sql".into(), password: None });
        let statement = revoke_messages(150_000, &postgres);
        assert!(statement.ends_with(" TO \"sql\", \"relay\";"), "{statement}");
    }

    #[test]
    fn a_partitioned_table_comes_with_its_first_partitions() {
        let housekeeping = Housekeeping::Partitions(Partitions::default());
        let timestamp_column = Some("created_at".to_owned());
        let sql = create_table(&Outbox { housekeeping, timestamp_column, ..outbox() });
        for part in [
            "\"id\" uuid NOT NULL,",
            "\"payload\" json,\n    \"created_at\" timestamptz NOT NULL DEFAULT clock_timestamp(),",
            "PRIMARY KEY (\"id\", \"created_at\")\n) PARTITION BY RANGE (\"created_at\");",
            "FOR n IN 0..7 LOOP",
            "'YYYYMMDD'",
        ] {
            assert!(sql.contains(part), "{part} in {sql}");
        }
        assert_eq!(sql.matches("created_at").count(), 3, "{sql}");
    }

    #[test]
    fn keeping_a_table_small_needs_grants_of_its_own() {
        let with = |housekeeping| housekeeping_of(Outbox { housekeeping, ..outbox() });
        assert_eq!(with(Housekeeping::None), None);
        let delete = with(Housekeeping::Delete(crate::config::Batches::default())).expect("grants");
        assert!(
            delete.contains("GRANT SELECT, DELETE, UPDATE (\"id\") ON \"public\".\"outbox\" TO \"relay\";")
        );
        let partitions = with(Housekeeping::Partitions(Partitions::default())).expect("a comment");
        assert!(partitions.contains("GRANT the_owner TO \"relay\";"));
        assert!(partitions.lines().all(|line| line.starts_with("--")), "{partitions}");
    }

    fn postgres() -> crate::config::Postgres {
        crate::config::Postgres {
            host: "db".into(),
            port: 5432,
            user: "relay".into(),
            password: None,
            database: "shop".into(),
            slot: "s".into(),
            publication: "p".into(),
            tls: Default::default(),
            sql: None,
        }
    }

    fn housekeeping_of(outbox: Outbox) -> Option<String> {
        housekeeping(&postgres(), &outbox)
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
