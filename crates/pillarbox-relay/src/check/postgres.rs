//! The database's half: server, schema, tables, publication, slot, limits.

mod economy;
mod failover;

use std::time::Duration;

use pillarbox_wire::lsn::Lsn;

use super::Finding;
use crate::config::{Config, Outbox};
use crate::error::{Code, Fault};
use crate::position::lineage::SourceFacts;
use crate::setup::{
    PostgresFacts, SCHEMA_VERSION, SERVER_VERSION_MIN, TableFacts, column_names, grants, read_postgres,
    republish, revoke_messages, verify_key, verify_shard,
};
use crate::source::{
    Attempt, Connection, Publication, PublicationState, PublishedTable, SlotInfo, SourceError,
    quote_identifier,
};
use crate::sql::blocking;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// WAL kept for a slot that deserves a look: a busy server writes this in minutes, a quiet one
/// never.
const RETAINED_WAL_WARNING_BYTES: u64 = 10 << 30;

/// The prefix that `pillarbox.emit()` writes.
const EMIT_PREFIX: &str = "outbox";

/// Server settings and what is used of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Limits {
    walsenders_max: i64,
    walsenders_used: i64,
    slots_max: i64,
    slots_used: i64,
    /// Megabytes; -1 = without end.
    keep_size: i64,
    /// Seconds; 0 = never (18 and later).
    idle_timeout: i64,
    /// Servers that follow this one.
    standbys: i64,
    /// Nothing is decoded that a standby may not have (17 and later).
    waits_for_standbys: bool,
    /// Physical slots whose standby has logical slots of its own, copies among them: it says so as `catalog_xmin`.
    copies: i64,
    /// Names in `synchronized_standby_slots` that no standby streams from now, with commas between.
    awaited: String,
}

/// Findings, and what the lineage checks need if the pipeline is set up.
pub(super) async fn look(config: &Config) -> (Vec<Finding>, Option<SourceFacts>) {
    let owned = config.clone();
    match blocking(move || read(&owned)).await.and_then(|read| read) {
        Ok((facts, limits, source)) => (judge(config, &facts, &limits), source),
        Err(fault) => (vec![Finding::fault(server(config), fault)], None),
    }
}

/// The same source with its end of WAL and its lineage as of now.
pub(super) async fn now(config: &Config, source: SourceFacts) -> Result<SourceFacts, Fault> {
    let config = config.clone();
    blocking(move || {
        let mut connection = connect(&config)?;
        let settings = &config.postgres;
        let fault = |error: SourceError| {
            error.fault(&Attempt { message: "cannot read the server's history", settings })
        };
        let system = connection.identify_system().map_err(fault)?;
        let lineage = connection.lineage_row(config.pipeline.as_str()).map_err(fault)?;
        Ok(SourceFacts { wal_position: system.wal_position, lineage, ..source })
    })
    .await
    .and_then(|read| read)
}

fn connect(config: &Config) -> Result<Connection, Fault> {
    let settings = &config.postgres;
    let name = format!("pillarbox/{}/check", config.pipeline);
    let message = format!("cannot connect to database \"{}\"", settings.database);
    Connection::connect(settings, &name, CONNECT_TIMEOUT)
        .map_err(|error| error.fault(&Attempt { message: &message, settings }))
}

pub(super) fn server(config: &Config) -> String {
    format!("Postgres at {}:{}", config.postgres.host, config.postgres.port)
}

type Read = (PostgresFacts, Limits, Option<SourceFacts>);

fn read(config: &Config) -> Result<Read, Fault> {
    let settings = &config.postgres;
    let fault = |error: SourceError, message: &str| error.fault(&Attempt { message, settings });
    let mut connection = connect(config)?;
    let facts = read_postgres(&mut connection, config)?;
    let limits =
        read_limits(&mut connection).map_err(|error| fault(error, "cannot read the server's limits"))?;
    let source = read_source(&mut connection, config, &facts)
        .map_err(|error| fault(error, "cannot read the server's history"))?;
    Ok((facts, limits, source))
}

/// Our own walsender is not counted.
const LIMITS: &str = "SELECT current_setting('max_wal_senders'), \
    (SELECT count(*) FROM pg_stat_replication WHERE pid <> pg_backend_pid()), \
    current_setting('max_replication_slots'), (SELECT count(*) FROM pg_replication_slots), \
    (SELECT setting FROM pg_settings WHERE name = 'max_slot_wal_keep_size'), \
    coalesce((SELECT setting FROM pg_settings WHERE name = 'idle_replication_slot_timeout'), '0'), \
    (SELECT count(*) FROM pg_stat_replication r WHERE state IN ('streaming', 'catchup') AND NOT EXISTS \
        (SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')), \
    coalesce((SELECT (setting <> '')::int FROM pg_settings WHERE name = 'synchronized_standby_slots'), 0), \
    (SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'physical' AND catalog_xmin IS NOT NULL), \
    (SELECT string_agg(name, ', ') FROM (SELECT trim(both ' \"' FROM unnest(string_to_array(setting, ','))) AS name \
        FROM pg_settings WHERE name = 'synchronized_standby_slots') named WHERE NOT EXISTS \
            (SELECT FROM pg_replication_slots s WHERE s.slot_name = named.name AND s.slot_type = 'physical' AND s.active))";

fn read_limits(connection: &mut Connection) -> Result<Limits, SourceError> {
    let rows = connection.query(LIMITS, QUERY_TIMEOUT)?;
    let number = |index: usize| {
        rows.first()
            .and_then(|row| row.get(index)?.parse().ok())
            .ok_or(SourceError::Malformed("a setting that is no number"))
    };
    Ok(Limits {
        walsenders_max: number(0)?,
        walsenders_used: number(1)?,
        slots_max: number(2)?,
        slots_used: number(3)?,
        keep_size: number(4)?,
        idle_timeout: number(5)?,
        standbys: number(6)?,
        waits_for_standbys: number(7)? != 0,
        copies: number(8)?,
        awaited: rows.first().and_then(|row| row.get(9)).unwrap_or_default().to_owned(),
    })
}

fn read_source(
    connection: &mut Connection,
    config: &Config,
    facts: &PostgresFacts,
) -> Result<Option<SourceFacts>, SourceError> {
    let Some(slot) = &facts.slot else { return Ok(None) };
    if !facts.granted || facts.in_recovery {
        return Ok(None);
    }
    let history = connection.timeline_history(facts.system.timeline)?;
    Ok(Some(SourceFacts {
        system_id: facts.system.system_id,
        timeline: facts.system.timeline,
        wal_position: facts.system.wal_position,
        history: history.into_iter().map(|switch| (switch.timeline, switch.fork_lsn)).collect(),
        confirmed_flush_lsn: slot.confirmed_flush_lsn.unwrap_or(Lsn::ZERO),
        lineage: connection.lineage_row(config.pipeline.as_str())?,
    }))
}

fn judge(config: &Config, facts: &PostgresFacts, limits: &Limits) -> Vec<Finding> {
    let mut findings = judge_server(config, facts);
    findings.extend(judge_schema(config, facts));
    findings
        .extend(config.outbox.iter().zip(&facts.tables).map(|(outbox, table)| judge_table(outbox, table)));
    findings.extend(judge_messages(config, facts));
    findings.extend(judge_publication(config, facts));
    findings.extend(economy::judge(config, facts));
    findings.extend(judge_slot(config, facts, limits));
    findings.extend(failover::judge(config, facts, limits));
    findings.extend(judge_limits(config, facts, limits));
    findings
}

fn judge_server(config: &Config, facts: &PostgresFacts) -> Vec<Finding> {
    let subject = server(config);
    let (major, minor) = (facts.server_version / 10_000, facts.server_version % 10_000);
    let version = if facts.server_version < SERVER_VERSION_MIN {
        Finding::error(Code::PgVersion, &subject, format!("Postgres {major} is too old"))
            .fix("upgrade to Postgres 15 or later")
    } else {
        let user = &config.postgres.user;
        Finding::ok(&subject, format!("Postgres {major}.{minor}, role \"{user}\" may replicate"))
    };
    let recovery = facts.in_recovery.then(|| {
        Finding::error(Code::PgStandby, &subject, "the server is in recovery")
            .fix("point postgres.url to the primary")
    });
    let level = if facts.wal_level == "logical" {
        Finding::ok("wal_level", "logical")
    } else {
        Finding::error(Code::PgWalLevel, "wal_level", format!("{}, not logical", facts.wal_level))
            .fix("ALTER SYSTEM SET wal_level = logical; then restart Postgres")
    };
    [Some(version), recovery, Some(level)].into_iter().flatten().collect()
}

fn judge_schema(config: &Config, facts: &PostgresFacts) -> Vec<Finding> {
    let subject = "schema pillarbox";
    let role = quote_identifier(&config.postgres.user);
    let schema = if facts.schema_version != SCHEMA_VERSION {
        let message = match facts.schema_version {
            0 => "does not exist".to_owned(),
            version => format!("version {version}, this program works with {SCHEMA_VERSION}"),
        };
        Finding::error(Code::NotSetUp, subject, message).fix("run `pillarbox setup`")
    } else if facts.granted {
        Finding::ok(subject, format!("version {SCHEMA_VERSION}"))
    } else {
        let sql_role = quote_identifier(config.postgres.sql_user());
        Finding::error(Code::PgPrivilege, subject, format!("role {sql_role} may not use it"))
            .fix(grants(&config.postgres))
    };
    let statistics = (!facts.reads_statistics).then(|| {
        Finding::warning(
            Code::PgPrivilege,
            format!("role {role}"),
            "does not see when a walsender last got a reply",
        )
        .because("a standby relay can replace a leader that hangs only when it sees that")
        .fix(format!("GRANT pg_read_all_stats TO {role};"))
    });
    std::iter::once(schema).chain(statistics).collect()
}

fn judge_table(outbox: &Outbox, found: &TableFacts) -> Finding {
    let subject = format!("table {}", outbox.table);
    if !found.exists {
        return Finding::error(Code::TableMissing, subject, "does not exist")
            .fix("run `pillarbox setup`, or correct outbox.table");
    }
    let missing: Vec<String> =
        column_names(outbox).into_iter().filter(|name| !found.columns.contains(name)).collect();
    if missing.is_empty() {
        return Finding::ok(subject, "all configured columns are there");
    }
    Finding::error(Code::ColumnMissing, subject, format!("lacks {}", missing.join(", ")))
        .fix("add the columns, or correct outbox.columns, outbox.topic and outbox.headers")
}

fn judge_messages(config: &Config, facts: &PostgresFacts) -> Vec<Finding> {
    let Some(messages) = &config.messages else { return Vec::new() };
    let subject = format!("messages with prefix {}", messages.prefix);
    let written = match messages.prefix.as_str() {
        EMIT_PREFIX => "pillarbox.emit() and pg_logical_emit_message(true, ...)",
        _ => "pg_logical_emit_message(true, ...) alone: pillarbox.emit() writes the prefix outbox",
    };
    let mut findings = vec![Finding::ok(&subject, format!("are events, written by {written}"))];
    if facts.messages_public {
        findings.push(
            Finding::warning(Code::PgSetting, subject, "can be written by every role")
                .because(
                    "PUBLIC may execute pg_logical_emit_message, whatever pillarbox.emit() is granted to",
                )
                .fix(revoke_messages(facts.server_version, &config.postgres)),
        );
    }
    findings
}

fn judge_publication(config: &Config, facts: &PostgresFacts) -> Vec<Finding> {
    let name = quote_identifier(&config.postgres.publication);
    let subject = format!("publication {name}");
    let PublicationState::Present(publication) = &facts.publication else {
        return vec![
            Finding::error(Code::PublicationMissing, subject, "does not exist")
                .because("rows committed while it is missing are never relayed")
                .fix("run `pillarbox setup`"),
        ];
    };
    if !publication.inserts {
        return vec![
            Finding::error(Code::PublicationLacksTable, subject, "does not publish inserts")
                .fix(format!("ALTER PUBLICATION {name} SET (publish = 'insert');")),
        ];
    }
    let tables = config.outbox.iter().zip(&publication.tables).zip(&facts.tables);
    let published = |((outbox, table), found): ((&Outbox, &PublishedTable), &TableFacts)| {
        let key = found.key.as_ref().map_or(Ok(()), |key| verify_key(outbox, key));
        match key {
            Ok(()) => judge_published(&subject, config, publication, outbox, table),
            Err(fault) => Finding::fault(subject.clone(), fault),
        }
    };
    tables.map(published).collect()
}

fn judge_published(
    subject: &str,
    config: &Config,
    publication: &Publication,
    outbox: &Outbox,
    table: &PublishedTable,
) -> Finding {
    let name = config.postgres.publication.as_str();
    let lacking =
        |message: String, fix: String| Finding::error(Code::PublicationLacksTable, subject, message).fix(fix);
    if table.under_partition_names {
        return lacking(
            format!("publishes {} under its partitions' names", table.table),
            format!("ALTER PUBLICATION {} SET (publish_via_partition_root = true);", quote_identifier(name)),
        );
    }
    if !table.published {
        return lacking(format!("lacks table {}", table.table), "run `pillarbox setup`".to_owned());
    }
    let hidden: Vec<String> =
        column_names(outbox).into_iter().filter(|name| !table.columns.contains(name)).collect();
    if !hidden.is_empty() {
        return Finding::error(
            Code::ColumnMissing,
            subject,
            format!("hides {} of {}", hidden.join(", "), table.table),
        )
        .because("the table is published with a column list")
        .fix(republish(name, outbox, table, ""));
    }
    if let Err(fault) = verify_shard(name, publication, outbox, table) {
        return Finding::fault(subject, fault);
    }
    match (&table.row_filter, outbox.shard) {
        (_, Some(shard)) => {
            Finding::ok(subject, format!("publishes the inserts of shard {shard} of {}", table.table))
        }
        (Some(_), None) => {
            Finding::warning(Code::PgSetting, subject, format!("filters rows of {}", table.table))
                .because("rows that do not fulfil the filter are never relayed")
        }
        (None, None) => Finding::ok(subject, format!("publishes the inserts of {}", table.table)),
    }
}

fn judge_slot(config: &Config, facts: &PostgresFacts, limits: &Limits) -> Vec<Finding> {
    let subject = format!("slot {}", quote_identifier(&config.postgres.slot));
    let Some(slot) = &facts.slot else {
        return vec![Finding::error(Code::SlotMissing, subject, "does not exist").fix(
            "run `pillarbox setup`: it creates the slot of a new pipeline and names the gap of an old one",
        )];
    };
    if slot.is_lost() {
        let reason = slot.invalidation_reason.as_deref().unwrap_or("its WAL was removed");
        return vec![
            Finding::error(Code::SlotLost, subject, "was invalidated")
                .because(reason)
                .fix("run `pillarbox setup`: it names the gap and the way on"),
        ];
    }
    if slot.plugin != "pgoutput" || slot.two_phase || slot.database != config.postgres.database {
        let message = format!(
            "plugin \"{}\", database \"{}\", two_phase {}",
            slot.plugin, slot.database, slot.two_phase
        );
        return vec![
            Finding::error(Code::SlotUnfit, subject, message)
                .because("it must decode with pgoutput, in this database, without two_phase")
                .fix("set postgres.slot to another name, or drop the slot if nothing uses it"),
        ];
    }
    let mut findings = vec![slot_state(&subject, slot)];
    findings.extend(retained_wal(&subject, slot, facts.system.wal_position));
    if limits.idle_timeout > 0 && !slot.active {
        let message = format!("is invalidated after {} s without a client", limits.idle_timeout);
        findings.push(
            Finding::warning(Code::PgSetting, &subject, message)
                .because("idle_replication_slot_timeout: a relay that is down that long loses events")
                .fix("ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();"),
        );
    }
    findings
}

fn slot_state(subject: &str, slot: &SlotInfo) -> Finding {
    let confirmed = slot.confirmed_flush_lsn.unwrap_or(Lsn::ZERO);
    match slot.active_pid {
        Some(pid) => Finding::ok(subject, format!("confirmed at {confirmed}, in use by process {pid}")),
        None => Finding::ok(subject, format!("confirmed at {confirmed}, nobody streams")),
    }
}

fn retained_wal(subject: &str, slot: &SlotInfo, wal_position: Lsn) -> Option<Finding> {
    let bytes = wal_position.saturating_sub(slot.restart_lsn?);
    let gibibytes = bytes >> 30;
    if slot.wal_status.as_deref() == Some("unreserved") {
        return Some(
            Finding::warning(
                Code::PgSetting,
                subject,
                format!("will be invalidated soon, it keeps {gibibytes} GiB of WAL"),
            )
            .because("it keeps more than max_slot_wal_keep_size")
            .fix("let the relay catch up at once, or raise max_slot_wal_keep_size"),
        );
    }
    (bytes > RETAINED_WAL_WARNING_BYTES).then(|| {
        Finding::warning(Code::PgSetting, subject, format!("keeps {gibibytes} GiB of WAL"))
            .because("the relay lags, or a transaction has been open for long")
            .fix("see `pillarbox status`, and the oldest xact_start in pg_stat_activity")
    })
}

fn judge_limits(config: &Config, facts: &PostgresFacts, limits: &Limits) -> Vec<Finding> {
    let mut findings = Vec::new();
    if limits.keep_size < 0 {
        findings.push(
            Finding::warning(Code::PgSetting, "max_slot_wal_keep_size", "-1: a slot keeps WAL without end")
                .because("a relay that is down for long fills the disk of the server")
                .fix("set it to what the disk can bear, or watch the disk; a smaller value loses the slot instead"),
        );
    }
    if limits.walsenders_used >= limits.walsenders_max - 1 {
        let message = format!("{} of {} in use", limits.walsenders_used, limits.walsenders_max);
        findings.push(
            Finding::warning(Code::PgLimit, "max_wal_senders", message)
                .because("relay and standby relay need one each")
                .fix("raise max_wal_senders and restart Postgres"),
        );
    }
    if facts.slot.is_none() && limits.slots_used >= limits.slots_max {
        let message =
            format!("all {} in use, slot \"{}\" finds no place", limits.slots_max, config.postgres.slot);
        findings.push(
            Finding::error(Code::PgLimit, "max_replication_slots", message)
                .fix("raise max_replication_slots and restart Postgres, or drop a slot that nothing uses"),
        );
    }
    findings
}

#[cfg(test)]
pub(super) mod tests;
