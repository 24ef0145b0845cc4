//! From what is there to what is missing, or to the reason why nothing may be done. Pure.
//!
//! | checkpoint | slot | `--adopt-slot` | then |
//! | --- | --- | --- | --- |
//! | none | none | - | create slot, write the first checkpoint at its position |
//! | none | there | no | refuse: who knows what it has confirmed |
//! | none | there | yes | first checkpoint at its `confirmed_flush_lsn` |
//! | there | none or lost | - | refuse with the gap |
//! | there | not ahead, same system | - | nothing |
//! | there | ahead, or another system | yes | checkpoint of a new epoch at its `confirmed_flush_lsn` |
//! | there | ahead, or another system | no | refuse |
//!
//! Ahead is a slot that is confirmed beyond what was relayed of this database's history: beyond the checkpoint, or beyond
//! the place where the checkpoint's timeline ended, if that comes first.

use std::fmt;

use pillarbox_wire::lsn::Lsn;

use super::facts::{CheckpointFacts, Facts, PostgresFacts};
use super::shard::{takes_shard, verify_key, verify_shard};
use super::{migrations, roles, statements};
use crate::config::{Config, Outbox};
use crate::error::{Code, Fault};
use crate::position::checkpoint::PositionRecord;
use crate::source::{PublicationState, SlotInfo};

/// The oldest server that setup accepts: row filters, and empty transactions are skipped.
pub(crate) const SERVER_VERSION_MIN: u32 = 150_000;

/// A thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub kind: StepKind,
    /// One line for people.
    pub title: String,
    /// The statements, if it is done by SQL.
    pub sql: Option<String>,
}

/// The kinds of things to do, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepKind {
    /// Schema `pillarbox`.
    Schema,
    /// The role's privileges on it.
    Grants,
    /// An outbox table.
    OutboxTable,
    /// The publication, or a table in it.
    Publication,
    /// The checkpoint topic.
    CheckpointTopic,
    /// The replication slot.
    Slot,
    /// The first checkpoint: from now on a relay may run.
    FirstCheckpoint,
}

/// Where the pipeline begins, if that is still to be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It has begun: leave the checkpoint alone.
    Begun,
    /// At the position of the slot to be created.
    NewSlot,
    /// At the position of the slot that is there; replacing a checkpoint or not.
    AdoptedSlot {
        /// Its `confirmed_flush_lsn`.
        at: Lsn,
        /// A checkpoint is there and the operator gives up the gap.
        replace: bool,
    },
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Schema => "schema",
            Self::Grants => "grants",
            Self::OutboxTable => "outbox table",
            Self::Publication => "publication",
            Self::CheckpointTopic => "checkpoint topic",
            Self::Slot => "slot",
            Self::FirstCheckpoint => "first checkpoint",
        })
    }
}

/// What is missing, in the order in which it must be done, and where the pipeline begins.
///
/// # Errors
/// A fault when setup must not, or cannot, go on; then nothing was changed.
pub fn plan(config: &Config, facts: &Facts, adopt_slot: bool) -> Result<(Vec<Step>, Start), Fault> {
    server(&facts.postgres)?;
    let start = start(config, facts, adopt_slot)?;
    let mut steps = schema(config, &facts.postgres)?;
    steps.extend(tables(config, &facts.postgres)?);
    steps.extend(publication(config, &facts.postgres)?);
    if facts.checkpoint == CheckpointFacts::NoTopic {
        let title = format!("create topic {} (one partition, compacted)", config.checkpoint_topic());
        steps.push(Step { kind: StepKind::CheckpointTopic, title, sql: None });
    }
    steps.extend(beginning(config, facts.postgres.server_version, start));
    Ok((steps, start))
}

fn server(facts: &PostgresFacts) -> Result<(), Fault> {
    if facts.server_version < SERVER_VERSION_MIN {
        let version = facts.server_version / 10_000;
        return Err(Fault::new(
            Code::PgVersion,
            format!("the server is Postgres {version}, 15 or later is needed"),
        )
        .hint("upgrade the server"));
    }
    if facts.in_recovery {
        return Err(Fault::new(Code::PgStandby, "the server is in recovery, setup needs the primary")
            .hint("point postgres.url to the primary"));
    }
    if facts.wal_level != "logical" {
        return Err(Fault::new(Code::PgWalLevel, format!("wal_level is {}, not logical", facts.wal_level))
            .hint("ALTER SYSTEM SET wal_level = logical; then restart Postgres"));
    }
    Ok(())
}

fn start(config: &Config, facts: &Facts, adopt_slot: bool) -> Result<Start, Fault> {
    let name = &config.postgres.slot;
    match (&facts.checkpoint, &facts.postgres.slot) {
        // Another server: its WAL is no gap in what was relayed.
        (CheckpointFacts::Position(checkpoint), None)
            if checkpoint.system_id != facts.postgres.system.system_id.to_string() =>
        {
            Err(other_system(checkpoint, &facts.postgres))
        }
        (CheckpointFacts::Position(checkpoint), None) => Err(slot_missing(config, checkpoint, &facts.postgres)),
        (CheckpointFacts::Position(checkpoint), Some(slot)) => {
            let at = usable(config, slot)?;
            let same_system = checkpoint.system_id == facts.postgres.system.system_id.to_string();
            let relayed = relayed(checkpoint, &facts.postgres);
            match (same_system && at <= relayed, adopt_slot) {
                (true, _) => Ok(Start::Begun),
                (false, true) => free(config, slot).map(|()| Start::AdoptedSlot { at, replace: true }),
                (false, false) if same_system => Err(slot_ahead(config, relayed, at)),
                (false, false) => Err(other_system(checkpoint, &facts.postgres)),
            }
        }
        (_, None) => Ok(Start::NewSlot),
        (_, Some(slot)) if adopt_slot => {
            let at = usable(config, slot)?;
            free(config, slot).map(|()| Start::AdoptedSlot { at, replace: false })
        }
        (_, Some(slot)) => Err(Fault::new(
            Code::CheckpointMissing,
            format!("slot \"{name}\" exists, but the pipeline has no checkpoint"),
        )
        .because(format!("the slot is confirmed at {}, by a client this program knows nothing of", at(slot)))
        .hint(format!(
            "`pillarbox setup --adopt-slot` begins at that position; to begin anew: SELECT pg_drop_replication_slot('{name}');"
        ))),
    }
}

/// How far this database's history was relayed: what follows in the checkpoint's timeline may be in no database any more.
fn relayed(checkpoint: &PositionRecord, facts: &PostgresFacts) -> Lsn {
    let ended = facts.history.iter().find(|switch| switch.timeline.0 == checkpoint.timeline);
    ended.map_or(checkpoint.resume_lsn, |switch| checkpoint.resume_lsn.min(switch.fork_lsn))
}

fn at(slot: &SlotInfo) -> String {
    slot.confirmed_flush_lsn.map_or_else(|| "no position".to_owned(), |lsn| lsn.to_string())
}

/// The confirmed position of a slot that can serve.
fn usable(config: &Config, slot: &SlotInfo) -> Result<Lsn, Fault> {
    let name = &config.postgres.slot;
    if slot.is_lost() {
        return Err(Fault::new(Code::SlotLost, format!("slot \"{name}\" was invalidated at {}", at(slot)))
            .because(slot.invalidation_reason.as_deref().unwrap_or("its WAL was removed"))
            .hint("compare the outbox table with the topics, drop the slot, create it anew, then `pillarbox setup --adopt-slot` gives up the gap"));
    }
    let unfit = match slot {
        SlotInfo { plugin, .. } if plugin != "pgoutput" => Some(format!("its plugin is \"{plugin}\"")),
        SlotInfo { two_phase: true, .. } => Some("it decodes at PREPARE (two_phase)".to_owned()),
        SlotInfo { database, .. } if *database != config.postgres.database => {
            Some(format!("it belongs to database \"{database}\""))
        }
        _ => None,
    };
    match (unfit, slot.confirmed_flush_lsn) {
        (None, Some(lsn)) => Ok(lsn),
        (unfit, _) => Err(Fault::new(Code::SlotUnfit, format!("slot \"{name}\" cannot serve this pipeline"))
            .because(unfit.unwrap_or_else(|| "it has no position".to_owned()))
            .hint("set postgres.slot to another name, or drop the slot if nothing uses it")),
    }
}

/// Nobody may move the slot while its position becomes a checkpoint.
fn free(config: &Config, slot: &SlotInfo) -> Result<(), Fault> {
    if !slot.active {
        return Ok(());
    }
    let pid = slot.active_pid.unwrap_or_default();
    Err(Fault::new(Code::SlotActive, format!("slot \"{}\" is in use by process {pid}", config.postgres.slot))
        .hint("stop that client first: the slot must not move while it is adopted"))
}

fn slot_missing(config: &Config, checkpoint: &PositionRecord, facts: &PostgresFacts) -> Fault {
    let name = &config.postgres.slot;
    let (from, to) = (checkpoint.resume_lsn, facts.system.wal_position);
    Fault::new(Code::SlotMissing, format!("slot \"{name}\" is gone, but the pipeline has a checkpoint"))
        .because(format!(
            "WAL from {from} to {to} ({} bytes) may hold events that were never relayed",
            to.saturating_sub(from)
        ))
        .hint(format!(
            "find those rows in the outbox table; to give the gap up: {} then `pillarbox setup --adopt-slot`",
            statements::create_slot(name, facts.server_version)
        ))
}

fn slot_ahead(config: &Config, relayed: Lsn, at: Lsn) -> Fault {
    let name = &config.postgres.slot;
    Fault::new(Code::SlotAhead, format!("slot \"{name}\" is confirmed at {at}, beyond the checkpoint"))
        .because(format!("{} bytes of WAL after {relayed} were never relayed", at.saturating_sub(relayed)))
        .hint("find those rows in the outbox table; `pillarbox setup --adopt-slot` gives the gap up")
}

fn other_system(checkpoint: &PositionRecord, facts: &PostgresFacts) -> Fault {
    let (theirs, ours) = (&checkpoint.system_id, facts.system.system_id);
    Fault::new(Code::SystemIdDiffers, format!("the checkpoint belongs to system {theirs}, this server is {ours}"))
        .hint("point postgres.url to the pipeline's own server; after a deliberate move, `pillarbox setup --adopt-slot`")
}

fn schema(config: &Config, facts: &PostgresFacts) -> Result<Vec<Step>, Fault> {
    if facts.schema_version > migrations::SCHEMA_VERSION {
        let message = format!(
            "schema pillarbox has version {}, this program knows {}",
            facts.schema_version,
            migrations::SCHEMA_VERSION
        );
        return Err(Fault::new(Code::ConfigUnsupported, message).hint("use the newer program"));
    }
    let mut steps = Vec::new();
    if facts.schema_version < migrations::SCHEMA_VERSION {
        let title = format!("bring schema pillarbox to version {}", migrations::SCHEMA_VERSION);
        let sql = Some(migrations::statements(facts.schema_version));
        steps.push(Step { kind: StepKind::Schema, title, sql });
    }
    // Whoever creates the schema may use it; another role may not yet.
    if !facts.granted && (facts.schema_version > 0 || config.postgres.sql.is_some()) {
        let title = format!("grant role \"{}\" the use of schema pillarbox", config.postgres.sql_user());
        steps.push(Step { kind: StepKind::Grants, title, sql: Some(roles::grants(&config.postgres)) });
    }
    Ok(steps)
}

fn tables(config: &Config, facts: &PostgresFacts) -> Result<Vec<Step>, Fault> {
    let mut steps = Vec::new();
    for (outbox, found) in config.outbox.iter().zip(&facts.tables) {
        found.key.iter().try_for_each(|key| verify_key(outbox, key))?;
        if found.exists {
            columns(outbox, &found.columns)?;
            continue;
        }
        let mut sql = String::new();
        if !found.schema_exists {
            sql = statements::create_schema(&outbox.table.schema) + "\n";
        }
        sql.push_str(&statements::create_table(outbox));
        let title = format!("create outbox table {}", outbox.table);
        steps.push(Step { kind: StepKind::OutboxTable, title, sql: Some(sql) });
    }
    Ok(steps)
}

fn columns(outbox: &Outbox, found: &[String]) -> Result<(), Fault> {
    let missing = statements::column_names(outbox).into_iter().find(|name| !found.contains(name));
    match missing {
        None => Ok(()),
        Some(name) => {
            Err(Fault::new(Code::ColumnMissing, format!("table {} has no column \"{name}\"", outbox.table))
                .hint(
                    "add the column, or name another one in outbox.columns, outbox.topic or outbox.headers",
                ))
        }
    }
}

fn publication(config: &Config, facts: &PostgresFacts) -> Result<Vec<Step>, Fault> {
    let name = &config.postgres.publication;
    let PublicationState::Present(publication) = &facts.publication else {
        let title = format!("create publication \"{name}\" for inserts");
        let sql = Some(statements::create_publication(config));
        return Ok(vec![Step { kind: StepKind::Publication, title, sql }]);
    };
    if !publication.inserts {
        return Err(Fault::new(
            Code::PublicationLacksTable,
            format!("publication \"{name}\" does not publish inserts"),
        )
        .hint(format!("ALTER PUBLICATION \"{name}\" SET (publish = 'insert');")));
    }
    let mut steps = Vec::new();
    for (outbox, table) in config.outbox.iter().zip(&publication.tables) {
        if table.published {
            verify_shard(name, publication, outbox, table)?;
            continue;
        }
        takes_shard(name, publication, outbox)?;
        if table.under_partition_names {
            let message =
                format!("publication \"{name}\" publishes {} under its partitions' names", table.table);
            return Err(Fault::new(Code::PublicationLacksTable, message)
                .hint(format!("ALTER PUBLICATION \"{name}\" SET (publish_via_partition_root = true);")));
        }
        let title = format!("add table {} to publication \"{name}\"", table.table);
        let sql = Some(statements::add_to_publication(name, outbox));
        steps.push(Step { kind: StepKind::Publication, title, sql });
    }
    Ok(steps)
}

fn beginning(config: &Config, server_version: u32, start: Start) -> Vec<Step> {
    let slot = &config.postgres.slot;
    let first = |title: String| Step { kind: StepKind::FirstCheckpoint, title, sql: None };
    match start {
        Start::Begun => Vec::new(),
        Start::NewSlot => vec![
            Step {
                kind: StepKind::Slot,
                title: format!("create replication slot \"{slot}\""),
                sql: Some(statements::create_slot(slot, server_version)),
            },
            first("write the first checkpoint at the slot's position".to_owned()),
        ],
        Start::AdoptedSlot { at, replace: false } => {
            vec![first(format!("write the first checkpoint at {at}, where slot \"{slot}\" stands"))]
        }
        Start::AdoptedSlot { at, replace: true } => {
            vec![first(format!(
                "begin a new epoch at {at}, where slot \"{slot}\" stands, giving up what lies before"
            ))]
        }
    }
}

#[cfg(test)]
mod tests;
