//! One row a case: what is there, what is then missing or refused.

use pillarbox_wire::lsn::{SystemId, TimelineId};

use super::*;
use crate::config::{self, Shard};
use crate::setup::TableFacts;
use crate::source::{Publication, PublishedTable, SystemInfo, TimelineSwitch};

fn config() -> Config {
    let table = config::TableName { schema: "public".into(), name: "outbox".into() };
    Config {
        pipeline: "orders".parse().expect("a name"),
        postgres: config::Postgres {
            host: "db".into(),
            port: 5432,
            user: "relay".into(),
            password: None,
            database: "shop".into(),
            slot: "pillarbox_orders".into(),
            publication: "pillarbox_orders".into(),
            tls: Default::default(),
            sql: None,
        },
        kafka: config::Kafka {
            brokers: vec!["k:9092".into()],
            tls: None,
            sasl: None,
            compression: config::Compression::None,
            topics: config::Topics::default(),
            transaction: config::Transaction::default(),
        },
        outbox: vec![Outbox::debezium(table)],
        messages: None,
    }
}

/// A server and a cluster that nobody has set up.
fn bare() -> Facts {
    let table = config().outbox[0].table.clone();
    Facts {
        postgres: PostgresFacts {
            server_version: 180_004,
            system: SystemInfo {
                system_id: SystemId(7),
                timeline: TimelineId(1),
                wal_position: Lsn(1_000),
                database: "shop".into(),
            },
            wal_level: "logical".into(),
            in_recovery: false,
            schema_version: 0,
            granted: false,
            history: Vec::new(),
            reads_statistics: true,
            messages_public: true,
            tables: vec![TableFacts {
                table,
                schema_exists: true,
                exists: false,
                columns: Vec::new(),
                jsonb: Vec::new(),
                key: None,
            }],
            publication: PublicationState::Missing,
            slot: None,
        },
        checkpoint: CheckpointFacts::NoTopic,
    }
}

fn published() -> PublicationState {
    PublicationState::Present(Publication {
        inserts: true,
        changes: false,
        via_root: true,
        tables: vec![PublishedTable {
            table: config().outbox[0].table.clone(),
            published: true,
            named: true,
            under_partition_names: false,
            row_filter: None,
            columns: Vec::new(),
        }],
    })
}

fn slot(confirmed: u64) -> SlotInfo {
    SlotInfo {
        plugin: "pgoutput".into(),
        database: "shop".into(),
        two_phase: false,
        active: false,
        active_pid: None,
        confirmed_flush_lsn: Some(Lsn(confirmed)),
        restart_lsn: Some(Lsn(1)),
        wal_status: Some("reserved".into()),
        invalidation_reason: None,
        conflicting: false,
        backend_start: None,
        reply_time: None,
        failover: true,
    }
}

fn checkpoint(resume: u64, system: u64) -> CheckpointFacts {
    CheckpointFacts::Position(Box::new(PositionRecord {
        v: crate::position::checkpoint::VERSION,
        epoch: 1,
        commit_lsn: Lsn::ZERO,
        commit_ms: None,
        index: None,
        part: None,
        resume_lsn: Lsn(resume),
        published_end_lsn: Lsn::ZERO,
        system_id: system.to_string(),
        timeline: 1,
        lineage_nonce: None,
        slot: "pillarbox_orders".into(),
        generation: String::new(),
        paused: false,
        snapshot_offset: None,
        at: 0,
    }))
}

/// Everything there.
fn complete() -> Facts {
    let mut facts = bare();
    facts.postgres.schema_version = migrations::SCHEMA_VERSION;
    facts.postgres.granted = true;
    facts.postgres.tables[0].exists = true;
    facts.postgres.tables[0].columns =
        ["id", "aggregatetype", "aggregateid", "type", "payload"].map(str::to_owned).to_vec();
    facts.postgres.publication = published();
    facts.postgres.slot = Some(slot(500));
    facts.checkpoint = checkpoint(500, 7);
    facts
}

fn kinds(facts: &Facts, adopt: bool) -> Result<Vec<StepKind>, Code> {
    plan(&config(), facts, adopt)
        .map(|(steps, _)| steps.iter().map(|step| step.kind).collect())
        .map_err(|fault| fault.code)
}

#[test]
fn a_bare_server_needs_everything_in_this_order() {
    use StepKind::{CheckpointTopic, FirstCheckpoint, OutboxTable, Publication, Schema, Slot};
    let (steps, start) = plan(&config(), &bare(), false).expect("a plan");
    let kinds: Vec<StepKind> = steps.iter().map(|step| step.kind).collect();
    assert_eq!(kinds, [Schema, OutboxTable, Publication, CheckpointTopic, Slot, FirstCheckpoint]);
    assert_eq!(start, Start::NewSlot);
}

#[test]
fn a_complete_pipeline_needs_nothing_and_adopting_changes_nothing() {
    assert_eq!(kinds(&complete(), false), Ok(Vec::new()));
    assert_eq!(kinds(&complete(), true), Ok(Vec::new()));
}

#[test]
fn a_publication_of_another_filter_is_refused_before_there_is_a_slot() {
    let mut config = config();
    config.outbox[0].shard = Shard::parse("1/2").ok();
    let filter = |text: &str| {
        let mut facts = complete();
        let PublicationState::Present(publication) = &mut facts.postgres.publication else {
            panic!("present")
        };
        publication.tables[0].row_filter = (!text.is_empty()).then(|| text.to_owned());
        plan(&config, &facts, false).map(|(steps, _)| steps.len()).map_err(|fault| fault.code)
    };
    let own = "(((hashtext(COALESCE(aggregateid, ''::text)) & 2147483647) % 2) = 0)";
    assert_eq!(filter(own), Ok(0));
    for other in ["", "(aggregateid = 'a'::text)", &own.replace("= 0", "= 1")] {
        assert_eq!(filter(other), Err(Code::PublicationLacksTable), "{other}");
    }
}

#[test]
fn slot_and_checkpoint() {
    use StepKind::{FirstCheckpoint, Slot};
    let lost = SlotInfo { wal_status: Some("lost".into()), ..slot(500) };
    let active = SlotInfo { active: true, active_pid: Some(7), ..slot(500) };
    let active_ahead = SlotInfo { active: true, active_pid: Some(7), ..slot(501) };
    let unfit = |change: fn(&mut SlotInfo)| {
        let mut slot = slot(500);
        change(&mut slot);
        Some(slot)
    };
    let empty = CheckpointFacts::Empty;
    for (checkpoint, slot, adopt, expected) in [
        (empty.clone(), None, false, Ok(vec![Slot, FirstCheckpoint])),
        (empty.clone(), None, true, Ok(vec![Slot, FirstCheckpoint])),
        (empty.clone(), Some(slot(500)), false, Err(Code::CheckpointMissing)),
        (empty.clone(), Some(slot(500)), true, Ok(vec![FirstCheckpoint])),
        (empty.clone(), Some(active.clone()), true, Err(Code::SlotActive)),
        (empty.clone(), Some(lost.clone()), true, Err(Code::SlotLost)),
        (empty.clone(), unfit(|slot| slot.two_phase = true), true, Err(Code::SlotUnfit)),
        (empty.clone(), unfit(|slot| slot.plugin = "wal2json".into()), true, Err(Code::SlotUnfit)),
        (empty.clone(), unfit(|slot| slot.database = "other".into()), true, Err(Code::SlotUnfit)),
        (empty, unfit(|slot| slot.confirmed_flush_lsn = None), true, Err(Code::SlotUnfit)),
        (checkpoint(500, 7), None, false, Err(Code::SlotMissing)),
        (checkpoint(500, 7), None, true, Err(Code::SlotMissing)),
        (checkpoint(500, 8), None, true, Err(Code::SystemIdDiffers)),
        (checkpoint(500, 7), Some(lost), true, Err(Code::SlotLost)),
        (checkpoint(500, 7), Some(active), false, Ok(vec![])),
        (checkpoint(500, 7), Some(slot(499)), false, Ok(vec![])),
        (checkpoint(500, 7), Some(slot(501)), false, Err(Code::SlotAhead)),
        (checkpoint(500, 7), Some(slot(501)), true, Ok(vec![FirstCheckpoint])),
        (checkpoint(500, 7), Some(active_ahead), true, Err(Code::SlotActive)),
        (checkpoint(500, 8), Some(slot(400)), false, Err(Code::SystemIdDiffers)),
        (checkpoint(500, 8), Some(slot(400)), true, Ok(vec![FirstCheckpoint])),
    ] {
        let case = format!("{checkpoint:?} {slot:?} {adopt}");
        let mut facts = complete();
        facts.checkpoint = checkpoint;
        facts.postgres.slot = slot;
        assert_eq!(kinds(&facts, adopt), expected, "{case}");
    }
}

#[test]
fn a_slot_made_behind_the_end_of_the_former_timeline_is_ahead() {
    let mut facts = complete();
    facts.postgres.system.timeline = TimelineId(2);
    for (fork, adopt, expected) in [
        (499, false, Err(Code::SlotAhead)),
        (499, true, Ok(vec![StepKind::FirstCheckpoint])),
        (500, false, Ok(vec![])),
        (700, true, Ok(vec![])),
    ] {
        facts.postgres.history = vec![TimelineSwitch { timeline: TimelineId(1), fork_lsn: Lsn(fork) }];
        assert_eq!(kinds(&facts, adopt), expected, "{fork} {adopt}");
    }
}

#[test]
fn a_missing_slot_names_the_gap() {
    let mut facts = complete();
    facts.postgres.slot = None;
    let fault = plan(&config(), &facts, false).expect_err("a refusal");
    assert!(fault.cause.expect("a cause").contains("WAL from 0/1F4 to 0/3E8 (500 bytes)"));
}

#[test]
fn what_refuses_the_server_or_the_table() {
    for (change, code) in [
        ((|facts| facts.server_version = 140_019) as fn(&mut PostgresFacts), Code::PgVersion),
        (|facts| facts.in_recovery = true, Code::PgStandby),
        (|facts| facts.wal_level = "replica".into(), Code::PgWalLevel),
        (|facts| facts.schema_version = migrations::SCHEMA_VERSION + 1, Code::ConfigUnsupported),
        (|facts| facts.tables[0].columns.retain(|name| name != "payload"), Code::ColumnMissing),
        (|facts| in_publication(facts, |found| found.inserts = false), Code::PublicationLacksTable),
        (
            |facts| {
                in_publication(facts, |found| {
                    found.tables[0].published = false;
                    found.tables[0].under_partition_names = true;
                });
            },
            Code::PublicationLacksTable,
        ),
    ] {
        let mut facts = complete();
        change(&mut facts.postgres);
        assert_eq!(kinds(&facts, false), Err(code));
    }
}

fn in_publication(facts: &mut PostgresFacts, change: impl FnOnce(&mut Publication)) {
    if let PublicationState::Present(publication) = &mut facts.publication {
        change(publication);
    }
}

#[test]
fn what_is_added_to_what_is_there() {
    let mut facts = complete();
    in_publication(&mut facts.postgres, |found| found.tables[0].published = false);
    let (steps, _) = plan(&config(), &facts, false).expect("a plan");
    let sql = steps[0].sql.as_deref();
    assert_eq!(sql, Some("ALTER PUBLICATION \"pillarbox_orders\" ADD TABLE \"public\".\"outbox\";"));

    let mut facts = complete();
    facts.postgres.granted = false;
    assert_eq!(kinds(&facts, false), Ok(vec![StepKind::Grants]));

    let mut facts = bare();
    facts.postgres.tables[0].schema_exists = false;
    let (steps, _) = plan(&config(), &facts, false).expect("a plan");
    assert!(steps[1].sql.as_deref().is_some_and(|sql| sql.starts_with("CREATE SCHEMA")));
}
