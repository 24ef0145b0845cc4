//! What the server says: its clock, its WAL, what is confirmed, what partitions there are. Reads
//! only.
//!
//! The order inside [`WATCH`] matters: a statement's snapshot is taken before any of its functions
//! runs, so `wal_insert` lies behind the commit of everything that the snapshot sees as ended.

use std::time::{SystemTime, UNIX_EPOCH};

use pillarbox_wire::lsn::Lsn;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, ToSql};

use super::horizon::FullXid;
use super::partitions::{Moment, Partition, Stage};
use crate::config::{Config, TableName};
use crate::error::{Code, Fault};
use crate::source::Attempt;
use crate::sql::{Session, fault};

/// The constraint that no row passes.
pub(super) const SEAL: &str = "pillarbox_sealed";

/// The server at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// What was relayed; `None` while nobody streams from the slot.
    pub confirmed: Option<Lsn>,
    /// The server's clock.
    pub now: Moment,
    /// The clock of this process.
    pub relay_now: Moment,
    /// When the oldest transaction began that is open in this database and that we may see.
    pub oldest_transaction: Option<Moment>,
    /// The oldest transaction that is open in the cluster and has an id.
    pub xmin: FullXid,
    /// Where WAL ended after all of the above was so.
    pub wal_insert: Lsn,
}

/// What kind of table it is, and what may be done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableShape {
    pub(super) oid: u32,
    pub(super) owner: String,
    /// `r` = a table, `p` = a partitioned one.
    pub(super) kind: String,
    /// The first column of the partition key.
    pub(super) key: Option<String>,
    /// The key is that one column, a `timestamptz`, by range.
    pub(super) key_is_time: bool,
    pub(super) has_default: bool,
    /// Its inserts are published, all of them.
    pub(super) published: bool,
    /// We may act as its owner, who may create tables beside it.
    pub(super) may_own: bool,
    /// We may find, lock and delete rows.
    pub(super) may_delete: bool,
}

/// A walsender counts as if its transaction had begun with its stream; neither it nor vacuum
/// writes rows.
const WATCH: &str = "SELECT (SELECT s.confirmed_flush_lsn::text FROM pg_replication_slots s \
        WHERE s.slot_name = $1 AND s.active), \
    floor(extract(epoch FROM clock_timestamp()))::bigint, \
    (SELECT floor(extract(epoch FROM min(a.xact_start)))::bigint FROM pg_stat_activity a \
        WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() \
        AND a.backend_type NOT IN ('walsender', 'autovacuum worker')), \
    pg_snapshot_xmin(pg_current_snapshot())::text, \
    pg_current_wal_insert_lsn()::text";

const SHAPE: &str = "SELECT c.oid, pg_get_userbyid(c.relowner)::text, c.relkind::text, a.attname::text, \
    coalesce(p.partstrat = 'r' AND p.partnatts = 1 AND a.atttypid = 'timestamptz'::regtype, false), \
    coalesce(p.partdefid <> 0, false), \
    EXISTS (SELECT FROM pg_publication_tables t JOIN pg_publication u ON u.pubname = t.pubname \
        WHERE t.pubname = $3 AND t.schemaname = $1 AND t.tablename = $2 AND t.rowfilter IS NULL AND u.pubinsert), \
    pg_has_role(c.relowner, 'MEMBER') AND has_schema_privilege(c.relowner, n.oid, 'CREATE'), \
    has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') \
        AND has_table_privilege(c.oid, 'DELETE') AND has_any_column_privilege(c.oid, 'UPDATE') \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    LEFT JOIN pg_partitioned_table p ON p.partrelid = c.oid \
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0] \
    WHERE n.nspname = $1 AND c.relname = $2";

/// Partitions of a table, and sealed tables that were partitions of it. One that somebody else is
/// detaching is left out.
const PARTITIONS: &str = r"
WITH sealed AS (
    SELECT k.conrelid FROM pg_constraint k
    WHERE k.conname = $2 AND k.contype = 'c' AND obj_description(k.oid, 'pg_constraint') = $3
), attached AS (
    SELECT c.oid, c.relnamespace, c.relname, i.inhdetachpending AS pending, s.conrelid IS NOT NULL AS sealed,
        substring(pg_get_expr(c.relpartbound, c.oid) FROM $$FROM \('([^']+)'\)$$)::timestamptz AS lower,
        substring(pg_get_expr(c.relpartbound, c.oid) FROM $$TO \('([^']+)'\)$$)::timestamptz AS upper
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid LEFT JOIN sealed s ON s.conrelid = c.oid
    WHERE i.inhparent = $1
)
SELECT a.oid, n.nspname::text, a.relname::text,
    CASE WHEN isfinite(a.lower) THEN floor(extract(epoch FROM a.lower))::bigint END,
    CASE WHEN isfinite(a.upper) THEN ceil(extract(epoch FROM a.upper))::bigint END,
    CASE WHEN a.pending THEN 'detaching' WHEN a.sealed THEN 'sealed' ELSE 'open' END
FROM attached a JOIN pg_namespace n ON n.oid = a.relnamespace
WHERE a.sealed OR NOT a.pending
UNION ALL
SELECT c.oid, n.nspname::text, c.relname::text, NULL, NULL, 'detached'
FROM sealed s JOIN pg_class c ON c.oid = s.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT c.relispartition AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
ORDER BY 4 NULLS FIRST, 3";

/// What the comment on the constraint of a sealed partition says: it finds it again once it is a
/// table of its own.
pub(super) fn seal_comment(root: &TableName) -> String {
    format!("relayed partition of {root}, to be dropped by pillarbox")
}

/// Looks at a server through one session.
pub(super) struct Looker<'a> {
    pub(super) session: &'a Session,
    pub(super) config: &'a Config,
}

impl Looker<'_> {
    pub(super) async fn watch(&self) -> Result<Watch, Fault> {
        let row = self.one(WATCH, &[&self.config.postgres.slot], "cannot look at the server's WAL").await?;
        let confirmed: Option<String> = self.get(&row, 0)?;
        let (xmin, wal_insert): (String, String) = (self.get(&row, 3)?, self.get(&row, 4)?);
        Ok(Watch {
            confirmed: confirmed.map(|text| lsn(&text)).transpose()?,
            now: Moment(self.get(&row, 1)?),
            relay_now: clock(),
            oldest_transaction: self.get::<Option<i64>>(&row, 2)?.map(Moment),
            xmin: FullXid(xmin.parse().map_err(|_| malformed())?),
            wal_insert: lsn(&wal_insert)?,
        })
    }

    pub(super) async fn shape(&self, table: &TableName) -> Result<TableShape, Fault> {
        let publication = &self.config.postgres.publication;
        let rows = self.session.query(SHAPE, &[&table.schema, &table.name, publication]).await;
        let rows = rows.map_err(|error| self.failed(&error, &format!("cannot look at table {table}")))?;
        let row = rows.first().ok_or_else(|| {
            Fault::new(Code::TableMissing, format!("outbox table {table} does not exist"))
                .hint("run `pillarbox setup`")
        })?;
        Ok(TableShape {
            oid: self.get(row, 0)?,
            owner: self.get(row, 1)?,
            kind: self.get(row, 2)?,
            key: self.get(row, 3)?,
            key_is_time: self.get(row, 4)?,
            has_default: self.get(row, 5)?,
            published: self.get(row, 6)?,
            may_own: self.get(row, 7)?,
            may_delete: self.get(row, 8)?,
        })
    }

    pub(super) async fn partitions(
        &self,
        table: &TableName,
        shape: &TableShape,
    ) -> Result<Vec<Partition>, Fault> {
        let comment = seal_comment(table);
        let rows = self.session.query(PARTITIONS, &[&shape.oid, &SEAL, &comment]).await;
        let message = format!("cannot look at the partitions of {table}");
        let rows = rows.map_err(|error| self.failed(&error, &message))?;
        rows.iter().map(|row| self.partition(row)).collect()
    }

    fn partition(&self, row: &Row) -> Result<Partition, Fault> {
        let stage = match self.get::<String>(row, 5)?.as_str() {
            "open" => Stage::Open,
            "sealed" => Stage::Sealed,
            "detaching" => Stage::Detaching,
            _ => Stage::Detached,
        };
        let bound = |index| Ok::<_, Fault>(self.get::<Option<i64>>(row, index)?.map(Moment));
        Ok(Partition {
            oid: self.get(row, 0)?,
            table: TableName { schema: self.get(row, 1)?, name: self.get(row, 2)? },
            lower: bound(3)?,
            upper: bound(4)?,
            stage,
        })
    }

    /// The one row of an answer.
    pub(super) async fn one(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
        message: &str,
    ) -> Result<Row, Fault> {
        self.session.query_one(sql, parameters).await.map_err(|error| self.failed(&error, message))
    }

    pub(super) fn get<'r, T: FromSql<'r>>(&self, row: &'r Row, index: usize) -> Result<T, Fault> {
        row.try_get(index).map_err(|error| self.failed(&error, "cannot understand the server's answer"))
    }

    pub(super) fn failed(&self, error: &tokio_postgres::Error, message: &str) -> Fault {
        fault(error, &Attempt { message, settings: &self.config.postgres.for_sql() })
    }
}

fn clock() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn lsn(text: &str) -> Result<Lsn, Fault> {
    text.parse().map_err(|_| malformed())
}

fn malformed() -> Fault {
    Fault::new(Code::PgProtocol, "cannot understand the server's answer")
}
