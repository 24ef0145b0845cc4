//! What is there already, in the database and in the cluster. Reads only.

use std::time::Duration;

use pillarbox_wire::lsn::TimelineId;

use super::shard::SAMPLES;
use crate::config::{Config, Outbox, Postgres, TableName};
use crate::error::Fault;
use crate::position::checkpoint::PositionRecord;
use crate::source::{
    Attempt, Connection, KeyFacts, PublicationState, SlotInfo, SourceError, SystemInfo, TextRow,
    TimelineSwitch, quote_literal,
};

/// Look-ups in catalogs.
const FACT_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything that [`plan`](super::plan) looks at.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The database.
    pub postgres: PostgresFacts,
    /// The cluster.
    pub checkpoint: CheckpointFacts,
}

/// What the database has.
#[derive(Debug, Clone)]
pub struct PostgresFacts {
    /// As `server_version_num`.
    pub server_version: u32,
    /// Who it is, and where its WAL ends.
    pub system: SystemInfo,
    /// Where its former timelines ended.
    pub history: Vec<TimelineSwitch>,
    /// `wal_level`.
    pub wal_level: String,
    /// A standby.
    pub in_recovery: bool,
    /// Version of the schema `pillarbox`; 0 = none.
    pub schema_version: u32,
    /// The role may read and write the lineage.
    pub granted: bool,
    /// The role sees other sessions' statistics, `reply_time` among them.
    pub reads_statistics: bool,
    /// Every role may write logical messages, those of events among them.
    pub messages_public: bool,
    /// The outbox tables, in the order of the configuration.
    pub tables: Vec<TableFacts>,
    /// The publication.
    pub publication: PublicationState,
    /// The slot.
    pub slot: Option<SlotInfo>,
}

/// What the database has of an outbox table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFacts {
    /// The table.
    pub table: TableName,
    /// Its schema exists.
    pub schema_exists: bool,
    /// It exists.
    pub exists: bool,
    /// Its columns.
    pub columns: Vec<String>,
    /// Those of type jsonb.
    pub jsonb: Vec<String>,
    /// How its rows are told apart, where it is shared by key.
    pub key: Option<KeyFacts>,
}

/// What the cluster has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckpointFacts {
    /// Not even the topic.
    NoTopic,
    /// The topic, without a checkpoint.
    Empty,
    /// The pipeline's checkpoint.
    Position(Box<PositionRecord>),
}

/// Reads everything about the database over a replication connection.
pub(crate) fn read_postgres(connection: &mut Connection, config: &Config) -> Result<PostgresFacts, Fault> {
    Reader { connection, config }.read().map_err(|error| {
        let message = format!("cannot look at database \"{}\"", config.postgres.database);
        error.fault(&Attempt { message: &message, settings: &config.postgres })
    })
}

struct Reader<'a> {
    connection: &'a mut Connection,
    config: &'a Config,
}

impl Reader<'_> {
    fn read(mut self) -> Result<PostgresFacts, SourceError> {
        let config = self.config;
        let names: Vec<TableName> = config.outbox.iter().map(|outbox| outbox.table.clone()).collect();
        let server = self.row(SERVER)?;
        let system = self.connection.identify_system()?;
        let history = match system.timeline > TimelineId(1) {
            true => self.connection.timeline_history(system.timeline)?,
            false => Vec::new(),
        };
        let schema_exists = is_true(server.get(2));
        Ok(PostgresFacts {
            server_version: self.connection.server_version(),
            system,
            history,
            wal_level: server.get(0).unwrap_or_default().to_owned(),
            in_recovery: is_true(server.get(1)),
            schema_version: if schema_exists { self.schema_version()? } else { 0 },
            granted: schema_exists && is_true(self.row(&granted_query(&config.postgres))?.get(0)),
            reads_statistics: is_true(server.get(3)),
            messages_public: is_true(server.get(4)),
            tables: config.outbox.iter().map(|outbox| self.table(outbox)).collect::<Result<_, _>>()?,
            publication: self.connection.publication(&config.postgres.publication, &names)?,
            slot: self.connection.slot(&config.postgres.slot)?,
        })
    }

    fn row(&mut self, sql: &str) -> Result<TextRow, SourceError> {
        let rows = self.connection.query(sql, FACT_TIMEOUT)?;
        rows.into_iter().next().ok_or(SourceError::Malformed("no answer to a query"))
    }

    fn schema_version(&mut self) -> Result<u32, SourceError> {
        let row = self.row("SELECT coalesce(max(version), 0) FROM pillarbox.migrations")?;
        Ok(row.get(0).and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    fn table(&mut self, outbox: &Outbox) -> Result<TableFacts, SourceError> {
        let table = &outbox.table;
        let key = outbox.shard.map(|_| self.connection.key_facts(table, &outbox.key_column, &SAMPLES));
        let rows = self.connection.query(&table_query(table), FACT_TIMEOUT)?;
        Ok(TableFacts {
            table: table.clone(),
            schema_exists: !rows.is_empty(),
            exists: rows.first().is_some_and(|row| row.get(0).is_some()),
            columns: rows.iter().filter_map(|row| row.get(1)).map(str::to_owned).collect(),
            jsonb: rows
                .iter()
                .filter(|row| is_true(row.get(2)))
                .filter_map(|row| row.get(1))
                .map(str::to_owned)
                .collect(),
            key: key.transpose()?,
        })
    }
}

/// By the catalog, so that no privilege on the schema is needed to see that it is there.
const SERVER: &str = "SELECT current_setting('wal_level'), pg_is_in_recovery(), \
    EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE n.nspname = 'pillarbox' AND c.relname = 'migrations'), \
    pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), \
    EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace \
        AND p.proname = 'pg_logical_emit_message' AND (p.proacl IS NULL OR EXISTS ( \
            SELECT FROM aclexplode(p.proacl) a WHERE a.grantee = 0 AND a.privilege_type = 'EXECUTE')))";

/// Whether both roles may use what is ours. A role that does not exist may nothing.
fn granted_query(postgres: &Postgres) -> String {
    let sql_role = quote_literal(postgres.sql_user());
    let table = |privilege: &str| format!("has_table_privilege(r.oid, 'pillarbox.lineage', '{privilege}')");
    format!(
        "SELECT has_schema_privilege('pillarbox', 'USAGE') AND has_table_privilege('pillarbox.lineage', 'SELECT') \
         AND EXISTS (SELECT FROM pg_roles r WHERE r.rolname = {sql_role} \
             AND has_schema_privilege(r.oid, 'pillarbox', 'USAGE') AND {} AND {} AND {})",
        table("SELECT"),
        table("INSERT"),
        table("UPDATE")
    )
}

/// A row for each column; one with NULLs for a schema without the table; none without the schema.
fn table_query(table: &TableName) -> String {
    format!(
        "SELECT c.oid, a.attname, a.atttypid = 'jsonb'::regtype FROM pg_namespace n \
         LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = {} AND c.relkind IN ('r', 'p') \
         LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         WHERE n.nspname = {} ORDER BY a.attnum",
        quote_literal(&table.name),
        quote_literal(&table.schema)
    )
}

fn is_true(text: Option<&str>) -> bool {
    text == Some("t")
}
