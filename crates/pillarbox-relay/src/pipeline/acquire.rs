//! Start, step 1: own the slot. The slot is the leader lock: Postgres lets one client stream.
//!
//! ```text
//! connect -> checks -> slot free? --no--> stand by: look every 100 ms --+
//!                          |  ^                                         |
//!                          |  +---------- freed, or stale leader ended -+
//!                          v
//!                a second connection: START_REPLICATION 0/0, nothing confirmed -> what the server says of itself
//! ```
//!
//! | found | done |
//! | --- | --- |
//! | slot missing, lost, unfit | halt: re-creating it would skip events |
//! | publication missing or lacking a table's inserts | halt |
//! | slot in use | stand by; once it is free try once, and stand by again if another was faster |
//! | leader unchanged for 5 s of our own clock (pid, start, reply time) | end exactly that walsender |
//! | the leader's reply time is not visible to our role | stand by: an unchanged leader proves nothing |
//! | server in recovery | try again later: slots of a standby are not ours to use |
//! | the stream ended before the second look | go on if no other client has the slot: what it sent is to be read, and the reason comes last |
//! | the first connection broke before the second look | try again: the server may have crashed, and its slot fallen back behind the stream |
//!
//! Never confirms anything, never fences anybody.

use std::time::{Duration, Instant};

use pillarbox_failpoint::{Step, hit};
use pillarbox_wire::lsn::{Lsn, TimelineId};

use super::messages::{Command, Event, Inbox};
use super::standby::{Leader, Seen, Watch};
use crate::config::{Config, TableName};
use crate::error::{Code, Fault};
use crate::position::lineage::SourceFacts;
use crate::setup::{SAMPLES, add_to_publication, verify_key, verify_shard};
use crate::source::{Attempt, Connection, PublicationState, SlotInfo, SourceError, Stream};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a standby looks at the slot: part of the takeover time.
const STANDBY_INTERVAL: Duration = Duration::from_millis(50);
/// The database that plays no part in the slot's fate must not hold a standby up.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// The slot is ours.
pub(crate) struct Acquired {
    pub(crate) stream: Stream,
    pub(crate) facts: SourceFacts,
}

/// Why it did not come to that.
pub(crate) enum NotAcquired {
    Released,
    Fault(Fault),
}

impl From<Fault> for NotAcquired {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What a start would find, without taking the slot; and whether another client has it.
///
/// # Errors
/// As a start: the slot is missing or unfit, the publication, the server.
pub(crate) fn look(config: &Config) -> Result<(SourceFacts, Option<i32>), Fault> {
    look_with(config, &mut connect(config)?)
}

fn look_with(config: &Config, connection: &mut Connection) -> Result<(SourceFacts, Option<i32>), Fault> {
    let slot = usable_slot(config, connection)?;
    Ok((facts(config, connection, &slot)?, slot.active_pid.filter(|_| slot.active)))
}

/// Whether the walsender of our slot has work that may keep it from answering; false also where nobody can be asked.
pub(crate) fn is_busy(config: &Config) -> bool {
    let asked = connect(config).and_then(|mut connection| {
        let slot = connection.is_decoding(&config.postgres.slot);
        slot.map_err(|error| fault(config, &error, "cannot look at"))
    });
    asked.unwrap_or(false)
}

/// Waits until the slot is free, then takes it.
pub(crate) fn acquire(
    config: &Config,
    inbox: &Inbox,
    mut tell: impl FnMut(Event),
) -> Result<Acquired, NotAcquired> {
    loop {
        let mut first = connect(config)?;
        hit(Step::Connected);
        let slot = wait_until_free(config, &mut first, inbox, &mut tell)?;
        let facts = facts(config, &mut first, &slot)?;
        hit(Step::SlotFree);
        let postgres = &config.postgres;
        let connection = unspoiled(config, &facts)?;
        let walsender = connection.pid();
        match connection.start_replication(&postgres.slot, &postgres.publication) {
            Ok(stream) => {
                hit(Step::SlotOwned);
                return Ok(Acquired { stream, facts: owned(config, &facts, &mut first, walsender)? });
            }
            Err(SourceError::Server(error)) if error.sqlstate == "55006" => tell(Event::SlotBusy),
            Err(error) => return Err(fault(config, &error, "cannot stream from").into()),
        }
    }
}

/// What the server says of itself now that the slot is ours. Before, another relay may have had it, and gone on with it:
/// the stream begins where that one confirmed, and what it published is not in facts that are older.
///
/// The `first` connection asks, the one that saw the slot free. A server that crashes ends every session, so one that
/// still answers has not crashed since, and the slot has not fallen back: its position is where the stream began, even
/// where the stream has ended by now. (Postgres 15-17 refuse to decode what a missing publication should publish, a
/// moment after the frames before it.) Where another client has the slot, ours is over: going on would be safe, but
/// fence that one for nothing.
fn owned(
    config: &Config,
    before: &SourceFacts,
    first: &mut Connection,
    walsender: i32,
) -> Result<SourceFacts, Fault> {
    let (now, active_pid) = look_with(config, first)?;
    if active_pid.is_some_and(|pid| pid != walsender) {
        let message = "the stream ended as soon as it had begun: another client has the slot";
        return Err(Fault::new(Code::PgProtocol, message)
            .hint("the relay stands by; if it is no relay, find out whose pipeline it is"));
    }
    let confirmed_flush_lsn = now.confirmed_flush_lsn;
    Ok(SourceFacts { confirmed_flush_lsn, ..before.renewed(now)? })
}

/// A connection to the same server that has run no SQL. What a query leaves in the session's catalog
/// caches is taken for history by the decoding: a publication that was replaced then makes rows of its
/// former self vanish without a word.
fn unspoiled(config: &Config, facts: &SourceFacts) -> Result<Connection, Fault> {
    let mut connection = connect(config)?;
    let system =
        connection.identify_system().map_err(|error| fault(config, &error, "cannot ask the server about"))?;
    if (system.system_id, system.timeline) != (facts.system_id, facts.timeline) {
        let message = "another server answers than a moment ago";
        return Err(Fault::new(Code::PgProtocol, message).hint("postgres.url leads to several servers"));
    }
    Ok(connection)
}

fn connect(config: &Config) -> Result<Connection, Fault> {
    let name = format!("pillarbox/{}", config.pipeline);
    Connection::connect(&config.postgres, &name, CONNECT_TIMEOUT)
        .map_err(|error| fault(config, &error, "cannot connect to read"))
}

fn fault(config: &Config, error: &SourceError, attempt: &str) -> Fault {
    let message = format!("{attempt} slot \"{}\"", config.postgres.slot);
    error.fault(&Attempt { message: &message, settings: &config.postgres })
}

fn wait_until_free(
    config: &Config,
    connection: &mut Connection,
    inbox: &Inbox,
    tell: &mut impl FnMut(Event),
) -> Result<SlotInfo, NotAcquired> {
    let (mut watch, began) = (Watch::default(), Instant::now());
    loop {
        if matches!(inbox.next(), Some(Command::Release | Command::Drain)) {
            return Err(NotAcquired::Released);
        }
        let slot = usable_slot(config, connection)?;
        match watch.look(leader(&slot), began.elapsed()) {
            Seen::Free => return Ok(slot),
            Seen::Stale(leader) => {
                end_leader(config, connection, &leader)?;
                hit(Step::LeaderEnded);
            }
            Seen::Busy { first: true } => tell(Event::SlotBusy),
            Seen::Busy { first: false } => {}
        }
        hit(Step::StandingBy);
        inbox.wake.wait(STANDBY_INTERVAL);
    }
}

fn leader(slot: &SlotInfo) -> Option<Leader> {
    let pid = slot.active_pid.filter(|_| slot.active)?;
    Some(Leader { pid, backend_start: slot.backend_start.clone(), reply_time: slot.reply_time.clone() })
}

fn end_leader(config: &Config, connection: &mut Connection, leader: &Leader) -> Result<(), Fault> {
    let Some(backend_start) = &leader.backend_start else { return Ok(()) };
    tracing::warn!(pid = leader.pid, "the leader has been silent for too long, ending its walsender");
    connection
        .terminate(leader.pid, backend_start)
        .map_err(|error| fault(config, &error, "cannot end the stale client of"))?;
    Ok(())
}

fn usable_slot(config: &Config, connection: &mut Connection) -> Result<SlotInfo, Fault> {
    let name = &config.postgres.slot;
    let slot = connection.slot(name).map_err(|error| fault(config, &error, "cannot look at"))?;
    let Some(slot) = slot else {
        return Err(Fault::new(Code::SlotMissing, format!("replication slot \"{name}\" does not exist")).hint(
            "if the pipeline is new, run `pillarbox setup`; otherwise find out who dropped the slot: WAL since its last confirmed position may hold events that were never relayed",
        ));
    };
    if slot.is_lost() {
        let reason = slot.invalidation_reason.clone().unwrap_or_else(|| "wal_removed".to_owned());
        return Err(Fault::new(Code::SlotLost, format!("replication slot \"{name}\" was invalidated"))
            .because(reason)
            .hint("events after the checkpoint may be gone from WAL: compare the outbox table with the topics before you set the pipeline up anew; raise max_slot_wal_keep_size"));
    }
    let unfit = if slot.plugin != "pgoutput" {
        Some(format!("its plugin is {}, not pgoutput", slot.plugin))
    } else if slot.two_phase {
        Some("it decodes two-phase transactions at PREPARE".to_owned())
    } else if slot.database != config.postgres.database {
        Some(format!("it belongs to database {}", slot.database))
    } else {
        None
    };
    match unfit {
        None => Ok(slot),
        Some(reason) => Err(Fault::new(
            Code::SlotUnfit,
            format!("replication slot \"{name}\" cannot serve this pipeline"),
        )
        .because(reason)
        .hint("drop it and run `pillarbox setup` if nothing else uses it, or set postgres.slot")),
    }
}

/// Everything the lineage checks need, read while the slot is free.
fn facts(config: &Config, connection: &mut Connection, slot: &SlotInfo) -> Result<SourceFacts, Fault> {
    let ask = |error: SourceError| fault(config, &error, "cannot ask the server about");
    if connection
        .query("SELECT pg_is_in_recovery()", QUERY_TIMEOUT)
        .map_err(ask)?
        .first()
        .and_then(|row| row.get(0))
        == Some("t")
    {
        return Err(Fault::new(Code::PgStandby, "the server is in recovery: a relay reads from the primary")
            .hint("point postgres.url at the primary, or list all hosts behind one name that follows it"));
    }
    publication(config, connection)?;
    let system = connection.identify_system().map_err(ask)?;
    let history = if system.timeline > TimelineId(1) {
        connection.timeline_history(system.timeline).map_err(ask)?
    } else {
        Vec::new()
    };
    Ok(SourceFacts {
        system_id: system.system_id,
        timeline: system.timeline,
        wal_position: system.wal_position,
        history: history.into_iter().map(|switch| (switch.timeline, switch.fork_lsn)).collect(),
        confirmed_flush_lsn: slot.confirmed_flush_lsn.unwrap_or(Lsn::ZERO),
        lineage: connection.lineage_row(config.pipeline.as_str()).map_err(ask)?,
    })
}

fn publication(config: &Config, connection: &mut Connection) -> Result<(), Fault> {
    let name = &config.postgres.publication;
    let tables: Vec<TableName> = config.outbox.iter().map(|outbox| outbox.table.clone()).collect();
    let state = connection
        .publication(name, &tables)
        .map_err(|error| fault(config, &error, "cannot check the publication of"))?;
    serves(config, &state)?;
    for outbox in config.outbox.iter().filter(|outbox| outbox.shard.is_some()) {
        let key = connection
            .key_facts(&outbox.table, &outbox.key_column, &SAMPLES)
            .map_err(|error| fault(config, &error, "cannot look at the key of"))?;
        verify_key(outbox, &key)?;
    }
    Ok(())
}

/// Whether the publication publishes the inserts of the outbox tables, and of its own shard where there are several.
pub(super) fn serves(config: &Config, state: &PublicationState) -> Result<(), Fault> {
    let name = &config.postgres.publication;
    let PublicationState::Present(publication) = state else {
        return Err(Fault::new(Code::PublicationMissing, format!("publication \"{name}\" does not exist")).hint(
            "run `pillarbox setup` if the pipeline is new; a publication that was dropped and re-created leaves a gap that cannot be decoded",
        ));
    };
    if let Some(lacking) = publication.lacking().next() {
        let message = format!("publication \"{name}\" does not publish inserts of {}", lacking.table);
        let outbox = config.outbox.iter().find(|outbox| outbox.table == lacking.table);
        let statement = outbox.map(|outbox| add_to_publication(name, outbox)).unwrap_or_default();
        return Err(Fault::new(Code::PublicationLacksTable, message)
            .hint(format!("{statement} -- rows inserted until then are not relayed")));
    }
    let mut tables = config.outbox.iter().zip(&publication.tables);
    tables.try_for_each(|(outbox, table)| verify_shard(name, publication, outbox, table))
}
