//! Questions about the server: who it is, its history, its slot, its publication.
//!
//! Asked over the replication connection, so that answer and stream come from the same server.
//! The SQL works on 15 to 18. Never changes anything, but for [`Connection::terminate`].

use std::time::Duration;

use pillarbox_wire::lsn::{Lsn, SystemId, TimelineId};

use super::connection::{Connection, TextRow};
use super::error::SourceError;
use super::quote::quote_literal;
use crate::config::TableName;

/// Catalog look-ups take microseconds; a server that needs longer is not well.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(10);

/// The answer to IDENTIFY_SYSTEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemInfo {
    /// Same for a cluster and all its physical copies.
    pub system_id: SystemId,
    /// Grows with each promotion.
    pub timeline: TimelineId,
    /// The current flushed end of WAL.
    pub wal_position: Lsn,
    /// The database of this connection.
    pub database: String,
}

/// A line of a timeline's history: where `timeline` ended because another one forked off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimelineSwitch {
    /// The timeline that was left.
    pub timeline: TimelineId,
    /// The first position that is not on it any more.
    pub fork_lsn: Lsn,
}

/// A replication slot and the walsender that uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Output plugin; empty for a physical slot.
    pub plugin: String,
    /// Its database; empty for a physical slot.
    pub database: String,
    /// Decodes at PREPARE: unfit for us.
    pub two_phase: bool,
    /// Copied to standbys, so that it outlives a failover (17 and later).
    pub failover: bool,
    /// Some client streams from it.
    pub active: bool,
    /// That client's walsender.
    pub active_pid: Option<i32>,
    /// Everything before it was confirmed.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// Decoding begins here; WAL is kept from here on.
    pub restart_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Why it was invalidated (17 and later).
    pub invalidation_reason: Option<String>,
    /// Invalidated by a conflict with recovery (16 and later).
    pub conflicting: bool,
    /// When the walsender process began; visible to its own role.
    pub backend_start: Option<String>,
    /// When the client last sent a status, by the client's clock. Visible only to superusers and
    /// members of `pg_read_all_stats`: `None` means unknown, not silent.
    pub reply_time: Option<String>,
}

impl SlotInfo {
    /// WAL that the consumer still needs is gone: the slot can never be read again.
    pub fn is_lost(&self) -> bool {
        self.wal_status.as_deref() == Some("lost") || self.invalidation_reason.is_some() || self.conflicting
    }
}

/// What a publication does for the outbox tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicationState {
    /// No publication of this name.
    Missing,
    /// It is there; whether it serves is another question.
    Present(Publication),
}

/// A publication as seen from the outbox tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Publishes INSERT.
    pub inserts: bool,
    /// Publishes UPDATE or DELETE: then Postgres refuses both on a table of which a filter or a column list does not go with
    /// the replica identity.
    pub changes: bool,
    /// Rows of partitions come under the name of the root.
    pub via_root: bool,
    /// One entry for each table asked for, in that order.
    pub tables: Vec<PublishedTable>,
}

/// How a publication treats one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedTable {
    /// The table asked for.
    pub table: TableName,
    /// Its rows are published under this very name.
    pub published: bool,
    /// The publication names it, not only its schema or all tables.
    pub named: bool,
    /// Partitions of it are published, but under their own names: set `publish_via_partition_root`.
    pub under_partition_names: bool,
    /// Rows that do not fulfil it are not published.
    pub row_filter: Option<String>,
    /// The columns published; empty when the table is not.
    pub columns: Vec<String>,
}

/// How a server tells rows of a table apart by their key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFacts {
    /// Of the database.
    pub encoding: String,
    /// It is text, varchar or char(n) with a collation of Postgres' own, or is not there yet. All of these hash by bytes.
    pub fits: bool,
    /// What `hashtext` gives for the texts that were asked for.
    pub hashes: Vec<i32>,
}

impl Publication {
    /// The tables whose inserts do not come under their own name.
    pub fn lacking(&self) -> impl Iterator<Item = &PublishedTable> {
        self.tables.iter().filter(|table| !self.inserts || !table.published)
    }
}

impl Connection {
    /// Who the server is and where its WAL ends.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn identify_system(&mut self) -> Result<SystemInfo, SourceError> {
        let rows = self.exchange("IDENTIFY_SYSTEM", CATALOG_TIMEOUT)?;
        let row = rows.first().ok_or(SourceError::Malformed("no answer to IDENTIFY_SYSTEM"))?;
        Ok(SystemInfo {
            system_id: SystemId(parse(row.require(0)?)?),
            timeline: TimelineId(parse(row.require(1)?)?),
            wal_position: parse(row.require(2)?)?,
            database: row.get(3).unwrap_or_default().to_owned(),
        })
    }

    /// The forks on the way to `timeline`, oldest first; empty for the first one, which has none.
    ///
    /// # Errors
    /// [`SourceError`]; the server does not have the history of a timeline it does not know.
    pub fn timeline_history(&mut self, timeline: TimelineId) -> Result<Vec<TimelineSwitch>, SourceError> {
        if timeline <= TimelineId(1) {
            return Ok(Vec::new());
        }
        let rows = self.exchange(&format!("TIMELINE_HISTORY {timeline}"), CATALOG_TIMEOUT)?;
        let row = rows.first().ok_or(SourceError::Malformed("no answer to TIMELINE_HISTORY"))?;
        parse_history(row.require(1)?)
    }

    /// The slot of that name, with its walsender.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn slot(&mut self, name: &str) -> Result<Option<SlotInfo>, SourceError> {
        let rows = self.query(&slot_query(name), CATALOG_TIMEOUT)?;
        rows.first().map(parse_slot).transpose()
    }

    /// Whether the walsender of a slot works: it is there, and waits neither for its client nor for WAL.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn is_decoding(&mut self, slot: &str) -> Result<bool, SourceError> {
        let sql = format!(
            "SELECT coalesce(a.wait_event_type, '') NOT IN ('Client', 'Activity') \
             FROM pg_catalog.pg_replication_slots s \
             JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = {}",
            quote_literal(slot)
        );
        let rows = self.query(&sql, CATALOG_TIMEOUT)?;
        Ok(rows.first().is_some_and(|row| row.get(0) == Some("t")))
    }

    /// Ends exactly the walsender `pid` that began at `backend_start`; false when it is gone.
    ///
    /// # Errors
    /// [`SourceError`]; 42501 when it belongs to another role.
    pub fn terminate(&mut self, pid: i32, backend_start: &str) -> Result<bool, SourceError> {
        let sql = format!(
            "SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a \
             WHERE a.pid = {pid} AND a.backend_type = 'walsender' AND a.backend_start = {}::timestamptz",
            quote_literal(backend_start)
        );
        let rows = self.query(&sql, CATALOG_TIMEOUT)?;
        Ok(rows.first().is_some_and(|row| row.get(0) == Some("t")))
    }

    /// What publication `name` does for `tables`, whether it names them, their schema or all tables.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn publication(&mut self, name: &str, tables: &[TableName]) -> Result<PublicationState, SourceError> {
        let rows = self.query(&publication_query(name), CATALOG_TIMEOUT)?;
        let Some(row) = rows.first() else {
            return Ok(PublicationState::Missing);
        };
        let [inserts, via_root, changes] = [0, 1, 2].map(|column| row.get(column) == Some("t"));
        let tables =
            tables.iter().map(|table| self.published_table(name, table)).collect::<Result<_, _>>()?;
        Ok(PublicationState::Present(Publication { inserts, changes, via_root, tables }))
    }

    fn published_table(
        &mut self,
        publication: &str,
        table: &TableName,
    ) -> Result<PublishedTable, SourceError> {
        let rows = self.query(&published_table_query(publication, table), CATALOG_TIMEOUT)?;
        let own = rows.iter().find(|row| row.get(0) == Some("t"));
        Ok(PublishedTable {
            table: table.clone(),
            published: own.is_some(),
            named: own.is_some_and(|row| row.get(3) == Some("t")),
            under_partition_names: own.is_none() && !rows.is_empty(),
            row_filter: own.and_then(|row| row.get(1)).map(str::to_owned),
            columns: rows.iter().filter_map(|row| row.get(2)).map(str::to_owned).collect(),
        })
    }

    /// How this server hashes texts, and whether a column of a table can tell shards apart.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn key_facts(
        &mut self,
        table: &TableName,
        column: &str,
        texts: &[&str],
    ) -> Result<KeyFacts, SourceError> {
        let rows = self.query(&key_query(table, column, texts), CATALOG_TIMEOUT)?;
        let row = rows.first().ok_or(SourceError::Malformed("no answer to a query"))?;
        let hashes =
            (0..texts.len()).map(|at| parse::<i32>(row.require(at + 2)?)).collect::<Result<_, _>>()?;
        Ok(KeyFacts { encoding: row.require(0)?.to_owned(), fits: row.require(1)? == "t", hashes })
    }

    /// The lineage of `pipeline` as the database has it: how often it was advanced, and the nonce
    /// of the last time. `None` before the first advance.
    ///
    /// # Errors
    /// [`SourceError`]; 42P01 or 3F000 when the database is not set up.
    pub fn lineage_row(&mut self, pipeline: &str) -> Result<Option<(i64, String)>, SourceError> {
        let sql =
            format!("SELECT seq, nonce FROM pillarbox.lineage WHERE pipeline = {}", quote_literal(pipeline));
        let rows = self.query(&sql, CATALOG_TIMEOUT)?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some((parse(row.require(0)?)?, row.require(1)?.to_owned())))
    }
}

/// `to_jsonb` gives NULL for a column that a version does not have yet.
fn slot_query(name: &str) -> String {
    format!(
        "SELECT coalesce(s.plugin, ''), coalesce(s.database, ''), coalesce(s.two_phase, false), s.active, \
         s.active_pid, s.confirmed_flush_lsn, s.restart_lsn, s.wal_status, \
         to_jsonb(s) ->> 'invalidation_reason', coalesce((to_jsonb(s) ->> 'conflicting')::bool, false), \
         a.backend_start, r.reply_time, coalesce((to_jsonb(s) ->> 'failover')::bool, false) \
         FROM pg_catalog.pg_replication_slots s \
         LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid \
         LEFT JOIN pg_catalog.pg_stat_replication r ON r.pid = s.active_pid \
         WHERE s.slot_name = {}",
        quote_literal(name)
    )
}

fn parse_slot(row: &TextRow) -> Result<SlotInfo, SourceError> {
    let text = |index| row.get(index).map(str::to_owned);
    Ok(SlotInfo {
        plugin: row.require(0)?.to_owned(),
        database: row.require(1)?.to_owned(),
        two_phase: row.require(2)? == "t",
        active: row.require(3)? == "t",
        active_pid: row.get(4).map(parse).transpose()?,
        confirmed_flush_lsn: row.get(5).map(parse).transpose()?,
        restart_lsn: row.get(6).map(parse).transpose()?,
        wal_status: text(7),
        invalidation_reason: text(8),
        conflicting: row.require(9)? == "t",
        backend_start: text(10),
        reply_time: text(11),
        failover: row.require(12)? == "t",
    })
}

/// Whether it publishes inserts, under the name of the root, and what else happens to rows.
pub(crate) fn publication_query(name: &str) -> String {
    format!(
        "SELECT pubinsert, pubviaroot, pubupdate OR pubdelete FROM pg_catalog.pg_publication WHERE pubname = {}",
        quote_literal(name)
    )
}

/// A row for each published column: is it the table itself (or a partition of it), filter, column, does the publication
/// name it.
/// By the catalogs alone: the role needs no privilege on the table or its schema.
pub(crate) fn published_table_query(publication: &str, table: &TableName) -> String {
    format!(
        "WITH asked AS (SELECT c.oid FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = {schema} AND c.relname = {name}), \
         tree AS (SELECT oid, true AS own FROM asked UNION ALL \
             SELECT t.relid::oid, false FROM asked, pg_catalog.pg_partition_tree(asked.oid) t \
             WHERE t.relid <> asked.oid) \
         SELECT tree.own, p.rowfilter, CASE WHEN tree.own THEN a.name END, \
             EXISTS (SELECT FROM pg_catalog.pg_publication_rel r \
                 JOIN pg_catalog.pg_publication named ON named.oid = r.prpubid \
                 WHERE r.prrelid = tree.oid AND named.pubname = {publication}) FROM tree \
         JOIN pg_catalog.pg_class c ON c.oid = tree.oid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_catalog.pg_publication_tables p \
             ON p.schemaname = n.nspname AND p.tablename = c.relname AND p.pubname = {publication} \
         LEFT JOIN LATERAL unnest(p.attnames) AS a(name) ON true",
        schema = quote_literal(&table.schema),
        name = quote_literal(&table.name),
        publication = quote_literal(publication),
    )
}

fn key_query(table: &TableName, column: &str, texts: &[&str]) -> String {
    let hashes: String =
        texts.iter().map(|text| format!(", pg_catalog.hashtext({})", quote_literal(text))).collect();
    format!(
        "SELECT current_setting('server_encoding'), NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a \
             JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = {} AND c.relname = {} AND a.attname = {} AND NOT ( \
                 a.attcollation < 16384 AND a.atttypid IN ('pg_catalog.text'::regtype, \
                     'pg_catalog.varchar'::regtype, 'pg_catalog.bpchar'::regtype))){hashes}",
        quote_literal(&table.schema),
        quote_literal(&table.name),
        quote_literal(column),
    )
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, SourceError> {
    text.parse().map_err(|_| SourceError::Malformed("an answer that is not what it should be"))
}

/// Lines `timeline <tab> lsn <tab> reason`; `#` begins a comment.
fn parse_history(content: &str) -> Result<Vec<TimelineSwitch>, SourceError> {
    let lines = content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let (Some(timeline), Some(fork)) = (words.next(), words.next()) else {
                return Err(SourceError::Malformed("a line of a timeline history"));
            };
            Ok(TimelineSwitch { timeline: TimelineId(parse(timeline)?), fork_lsn: parse(fork)? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeline_histories() {
        let content =
            "1\t0/3000148\tno recovery target specified\n\n# comment\n2\t16/B374D848\tbefore 2000-01-01\n";
        let switches = parse_history(content).expect("a history");
        assert_eq!(
            switches,
            [
                TimelineSwitch { timeline: TimelineId(1), fork_lsn: Lsn(0x0300_0148) },
                TimelineSwitch { timeline: TimelineId(2), fork_lsn: Lsn(0x16_B374_D848) },
            ]
        );
        assert!(parse_history("").expect("an empty history").is_empty());
        assert!(parse_history("1").is_err());
        assert!(parse_history("one\t0/1").is_err());
    }
}
