//! The statements of housekeeping. Each is one transaction, so that a step is done or not done;
//! only the detach cannot be, and says in the catalog how far it came.
//!
//! Must never lock what writers of the present use in a mode that blocks them: a new partition is
//! attached rather than created in place, an old one is detached concurrently (both lock the
//! table in SHARE UPDATE EXCLUSIVE mode, which writers do not notice).

use tokio_postgres::error::SqlState;

use super::horizon::FullXid;
use super::look::{Looker, SEAL, TableShape, seal_comment};
use super::partitions::Step;
use crate::config::TableName;
use crate::error::{Code, Fault};
use crate::source::{quote_identifier, quote_literal};

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// A lock was not free in time: in the next round again.
    Later,
}

/// Who waits for a lock is in the way of those behind; a scan begins where the table begins, so that
/// a sweep knows how far it came.
pub(super) const SESSION: &str = "SET lock_timeout = '200ms'; SET synchronize_seqscans = off";
/// A detach waits for transactions that use the table, in nobody's way meanwhile.
const DETACH: &str = "SET lock_timeout = '5s'";

/// Does a step as the owner of the table.
pub(super) async fn perform(
    look: &Looker<'_>,
    root: &TableName,
    shape: &TableShape,
    step: &Step,
) -> Result<Outcome, Fault> {
    let owner = quote_identifier(&shape.owner);
    let run = async |sql: &str| look.session.batch_execute(sql).await;
    let done = match statement(root, step) {
        Statement::Transaction(sql) => run(&format!("SET LOCAL ROLE {owner}; {sql}")).await,
        Statement::Alone(sql) => {
            let done = match run(&format!("SET ROLE {owner}; {DETACH}")).await {
                Ok(()) => run(&sql).await,
                refused => refused,
            };
            let after = run(&format!("RESET ROLE; {SESSION}")).await;
            done.and(after)
        }
    };
    match done {
        Ok(()) => Ok(Outcome::Done),
        Err(error) if is_busy(error.code()) => Ok(Outcome::Later),
        Err(error) => {
            let fault = look.failed(&error, &format!("cannot {}", describe(step)));
            Err(if fault.code == Code::PgPrivilege { fault.hint(own_all(root, &owner)) } else { fault })
        }
    }
}

fn own_all(root: &TableName, owner: &str) -> String {
    format!("{owner} must own {root} and all its partitions, and may create tables in their schema")
}

/// Lock or statement timeout, deadlock, somebody else's detach.
fn is_busy(code: Option<&SqlState>) -> bool {
    let busy = [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::QUERY_CANCELED,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::OBJECT_IN_USE,
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
    ];
    code.is_some_and(|code| busy.contains(code))
}

/// In words, for people.
pub(super) fn describe(step: &Step) -> String {
    match step {
        Step::Create { table, .. } => format!("create partition {table}"),
        Step::Seal(table) => format!("let no more rows into partition {table}"),
        Step::Unseal(table) => format!("let rows into partition {table} again"),
        Step::Detach(table) => format!("detach partition {table}"),
        Step::Finalize(table) => format!("finish detaching partition {table}"),
        Step::Drop(table) => format!("drop table {table}"),
    }
}

enum Statement {
    Transaction(String),
    Alone(String),
}

fn statement(root: &TableName, step: &Step) -> Statement {
    let (root_name, seal) = (qualified(root), quote_identifier(SEAL));
    match step {
        // INCLUDING ALL would copy identity columns, which a partition must not have; indexes and
        // keys come with the attach.
        Step::Create { table, from, to } => Statement::Transaction(format!(
            "CREATE TABLE {table} (LIKE {root_name} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED \
                INCLUDING STORAGE INCLUDING COMPRESSION); \
             ALTER TABLE {root_name} ATTACH PARTITION {table} \
                FOR VALUES FROM (to_timestamp({from})) TO (to_timestamp({to}))",
            table = qualified(table),
            from = from.0,
            to = to.0,
        )),
        Step::Seal(table) => Statement::Transaction(format!(
            "ALTER TABLE {table} ADD CONSTRAINT {seal} CHECK (false) NOT VALID; \
             COMMENT ON CONSTRAINT {seal} ON {table} IS {comment}",
            table = qualified(table),
            comment = quote_literal(&seal_comment(root)),
        )),
        Step::Unseal(table) => {
            Statement::Transaction(format!("ALTER TABLE {} DROP CONSTRAINT {seal}", qualified(table)))
        }
        Step::Detach(table) => Statement::Alone(format!(
            "ALTER TABLE {root_name} DETACH PARTITION {} CONCURRENTLY",
            qualified(table)
        )),
        Step::Finalize(table) => Statement::Alone(format!(
            "ALTER TABLE {root_name} DETACH PARTITION {} FINALIZE",
            qualified(table)
        )),
        Step::Drop(table) => Statement::Transaction(format!("DROP TABLE {}", qualified(table))),
    }
}

/// A look of a sweep ends after this many blocks: 8 MiB take the server some milliseconds, however
/// few rows in them may go.
const BLOCKS_MAX: u32 = 1_024;

/// Where a sweep over a table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sweep {
    /// The first block of the window.
    block: u32,
    /// The last row that was deleted, or the beginning of the window, as a `tid`.
    after: String,
}

impl Sweep {
    pub(super) fn at_block(block: u32) -> Self {
        Self { block, after: format!("({block},0)") }
    }

    /// Behind the last block of a table.
    pub(super) fn is_over(&self, blocks: i64) -> bool {
        i64::from(self.block) >= blocks
    }

    fn next(&self) -> Self {
        Self::at_block(self.block.saturating_add(BLOCKS_MAX))
    }
}

/// Deletes up to `rows_max` rows of transactions older than `horizon` at `sweep`, and moves it on;
/// says how many.
pub(super) async fn delete(
    look: &Looker<'_>,
    table: &TableName,
    horizon: FullXid,
    sweep: &mut Sweep,
    rows_max: u32,
) -> Result<u64, Fault> {
    // Rows that somebody has locked are left for the next sweep.
    let sql = format!(
        "WITH doomed AS MATERIALIZED (SELECT d.ctid FROM ONLY {name} d \
            WHERE d.ctid > $1::text::tid AND d.ctid < $2::text::tid AND age(d.xmin) > age($3::text::xid) \
            LIMIT $4 FOR UPDATE SKIP LOCKED), \
         gone AS (DELETE FROM ONLY {name} g WHERE g.ctid = ANY (ARRAY(SELECT ctid FROM doomed)) RETURNING g.ctid) \
         SELECT count(*), max(gone.ctid)::text FROM gone",
        name = qualified(table)
    );
    let end = sweep.next();
    let limit = i64::from(rows_max);
    let row = look.session.query_one(&sql, &[&sweep.after, &end.after, &horizon.of_rows(), &limit]).await;
    let row = match row {
        Ok(row) => row,
        Err(error) if is_busy(error.code()) => {
            *sweep = end;
            return Ok(0);
        }
        Err(error) => return Err(look.failed(&error, &format!("cannot delete relayed rows of {table}"))),
    };
    let (rows, last): (i64, Option<String>) = (look.get(&row, 0)?, look.get(&row, 1)?);
    match last {
        Some(after) if rows >= limit => sweep.after = after,
        _ => *sweep = end,
    }
    Ok(rows.unsigned_abs())
}

/// Blocks of a table.
pub(super) async fn blocks(look: &Looker<'_>, shape: &TableShape) -> Result<i64, Fault> {
    let sql = "SELECT pg_relation_size($1::oid) / current_setting('block_size')::bigint";
    look.get(&look.one(sql, &[&shape.oid], "cannot look at the size of a table").await?, 0)
}

/// Rows of transactions older than `xmin`.
pub(super) async fn count(look: &Looker<'_>, table: &TableName, xmin: FullXid) -> Result<i64, Fault> {
    let sql =
        format!("SELECT count(*) FROM ONLY {} d WHERE age(d.xmin) > age($1::text::xid)", qualified(table));
    let message = format!("cannot count the rows of {table}");
    look.get(&look.one(&sql, &[&xmin.of_rows()], &message).await?, 0)
}

pub(super) fn qualified(table: &TableName) -> String {
    format!("{}.{}", quote_identifier(&table.schema), quote_identifier(&table.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_goes_from_window_to_window() {
        let mut sweep = Sweep::at_block(0);
        assert_eq!((sweep.after.as_str(), sweep.next().after.as_str()), ("(0,0)", "(1024,0)"));
        assert!(sweep.is_over(0) && !sweep.is_over(1));
        sweep.after = "(7,3)".into();
        sweep = sweep.next();
        assert_eq!(sweep, Sweep::at_block(1_024));
        assert!(sweep.is_over(1_024) && !sweep.is_over(1_025));
        assert_eq!(Sweep::at_block(u32::MAX).next().block, u32::MAX);
    }
}
