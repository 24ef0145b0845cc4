//! `setup --consumer`: the consumer's side, in the database of whoever consumes.
//!
//! It needs neither a pipeline nor a cluster, only a role that may create a schema. All of it is one
//! transaction under a lock: there is the whole or nothing, and of two setups one finds nothing to
//! do. It must never touch a row that says what was applied.

use super::apply::{LOCK_KEY, Report};
use super::migrations::{CONSUMER_TABLE, CONSUMER_VERSION, consumer_statements};
use super::plan::{SERVER_VERSION_MIN, Step, StepKind};
use crate::config::Postgres;
use crate::error::{Code, Fault};
use crate::source::Attempt;
use crate::sql::{Session, fault};

/// What each role needs to consume, and to go past a gap: for an administrator to run.
pub const CONSUMER_GRANTS: &str = "\
GRANT USAGE ON SCHEMA pillarbox TO the_consumer;
GRANT SELECT, INSERT, UPDATE ON pillarbox.consumer_positions TO the_consumer;
GRANT EXECUTE ON FUNCTION pillarbox.accept, pillarbox.accept_batch TO the_consumer;
-- To park events (the Rust crate does), also:
GRANT SELECT, INSERT, UPDATE, DELETE ON pillarbox.consumer_parked TO the_consumer;
-- Who waits until something is applied needs:
GRANT USAGE ON SCHEMA pillarbox TO the_reader;
GRANT SELECT ON pillarbox.consumer_positions, pillarbox.consumer_parked TO the_reader;
GRANT EXECUTE ON FUNCTION pillarbox.applied, pillarbox.wait TO the_reader;
GRANT EXECUTE ON FUNCTION pillarbox.wait_begin, pillarbox.wait_end TO the_reader;
-- Who may decide what is given up needs also:
GRANT SELECT, INSERT ON pillarbox.consumer_resets TO the_operator;
GRANT SELECT, INSERT ON pillarbox.consumer_discards TO the_operator;
GRANT EXECUTE ON FUNCTION pillarbox.accept_reset TO the_operator;";

/// Everything that [`apply_consumer`] would run in an empty database, and the grants as comments.
pub fn print_consumer_sql() -> String {
    let grants: String = CONSUMER_GRANTS.lines().map(comment).collect();
    format!(
        "-- Pillarbox, the consumer's side: run in the consumer's database as a role that may create a schema.\n\n\
         {}\n\n-- Each role that consumes needs:\n{grants}",
        consumer_statements(0)
    )
}

fn comment(line: &str) -> String {
    match line.strip_prefix("--") {
        Some(words) => format!("--{words}\n"),
        None => format!("--   {line}\n"),
    }
}

/// Installs the consumer's side, or says what would be done.
///
/// # Errors
/// A fault; then nothing was changed.
pub async fn apply_consumer(settings: &Postgres, dry_run: bool) -> Result<Report, Fault> {
    let session = Session::connect(settings, "pillarbox/setup/consumer").await?;
    let message = format!("cannot set up the consumer's side in database \"{}\"", settings.database);
    let refused =
        |error: tokio_postgres::Error| refusal(fault(&error, &Attempt { message: &message, settings }));
    let row = session.query_one(FACTS, &[&CONSUMER_TABLE]).await.map_err(refused)?;
    server(row.get(0), row.get(1))?;
    let version = match row.get(2) {
        true => session.query_one(&*version_query(), &[]).await.map_err(refused)?.get::<_, i32>(0),
        false => 0,
    };
    let version = u32::try_from(version).unwrap_or(0);
    if version > CONSUMER_VERSION {
        let message =
            format!("the consumer's side has version {version}, this program knows {CONSUMER_VERSION}");
        return Err(Fault::new(Code::ConfigUnsupported, message).hint("use the newer program"));
    }
    let mut steps = Vec::new();
    if version < CONSUMER_VERSION {
        let title = format!("bring the consumer's side in schema pillarbox to version {CONSUMER_VERSION}");
        let sql = Some(consumer_statements(version));
        steps.push(Step { kind: StepKind::Schema, title, sql });
    }
    for sql in steps.iter().filter_map(|step| step.sql.as_deref()).filter(|_| !dry_run) {
        let whole = format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK_KEY});\n{sql}\nCOMMIT;");
        session.batch_execute(&whole).await.map_err(refused)?;
    }
    Ok(Report { steps, applied: !dry_run, begins_at: None })
}

/// By the catalog, so that no privilege on the schema is needed to see what is there.
const FACTS: &str = "SELECT current_setting('server_version_num')::integer, pg_is_in_recovery(), \
    EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE n.nspname || '.' || c.relname = $1)";

fn version_query() -> String {
    format!("SELECT coalesce(max(version), 0) FROM {CONSUMER_TABLE}")
}

fn server(version: i32, in_recovery: bool) -> Result<(), Fault> {
    if u32::try_from(version).unwrap_or(0) < SERVER_VERSION_MIN {
        let message =
            format!("the consumer's server is Postgres {}, 15 or later is needed", version / 10_000);
        return Err(Fault::new(Code::PgVersion, message).hint("upgrade the server"));
    }
    if in_recovery {
        let message = "the consumer's server is in recovery, setup needs the primary";
        return Err(Fault::new(Code::PgStandby, message).hint("point --consumer to the primary"));
    }
    Ok(())
}

/// The hints of a pipeline's setup name the file and the role of a relay.
fn refusal(fault: Fault) -> Fault {
    match fault.code {
        Code::PgPrivilege => {
            fault.hint("have `pillarbox setup --consumer URL --print-sql` run by who may create a schema")
        }
        _ => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_grants_are_for_eyes() {
        let printed = print_consumer_sql();
        let (_, after) = printed.split_once("-- Each role that consumes needs:\n").expect("the grants");
        assert_eq!(after.matches("--   GRANT").count(), CONSUMER_GRANTS.matches("GRANT ").count(), "{after}");
        assert!(after.lines().all(|line| line.starts_with("--")), "{after}");
    }

    #[test]
    fn an_old_server_or_a_standby_is_refused() {
        assert_eq!(server(140_011, false).expect_err("too old").code, Code::PgVersion);
        assert_eq!(server(150_000, true).expect_err("a standby").code, Code::PgStandby);
        assert_eq!(server(150_000, false), Ok(()));
    }
}
