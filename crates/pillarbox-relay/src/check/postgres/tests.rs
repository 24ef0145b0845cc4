//! One row a case: what is found in the database and the worst that is said of it.

use pillarbox_wire::lsn::{SystemId, TimelineId};

use super::*;
use crate::check::Severity;
use crate::config;
use crate::source::{Publication, SystemInfo};

pub(in crate::check) fn config() -> Config {
    let table = config::TableName { schema: "public".into(), name: "outbox".into() };
    Config {
        pipeline: "orders".parse().expect("a name"),
        postgres: config::Postgres {
            host: "db".into(),
            port: 5432,
            user: "relay".into(),
            password: None,
            database: "shop".into(),
            slot: "s".into(),
            publication: "p".into(),
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

fn columns() -> Vec<String> {
    ["id", "aggregatetype", "aggregateid", "type", "payload"].map(str::to_owned).to_vec()
}

/// A database as it should be.
fn sound() -> (PostgresFacts, Limits) {
    let table = config().outbox[0].table.clone();
    let facts = PostgresFacts {
        server_version: 180_004,
        system: SystemInfo {
            system_id: SystemId(7),
            timeline: TimelineId(1),
            wal_position: Lsn(1_000),
            database: "shop".into(),
        },
        wal_level: "logical".into(),
        in_recovery: false,
        schema_version: SCHEMA_VERSION,
        granted: true,
        reads_statistics: true,
        messages_public: true,
        tables: vec![TableFacts {
            table: table.clone(),
            schema_exists: true,
            exists: true,
            columns: columns(),
        }],
        publication: PublicationState::Present(Publication {
            inserts: true,
            via_root: true,
            tables: vec![PublishedTable {
                table,
                published: true,
                under_partition_names: false,
                row_filter: None,
                columns: columns(),
            }],
        }),
        slot: Some(SlotInfo {
            plugin: "pgoutput".into(),
            database: "shop".into(),
            two_phase: false,
            active: false,
            active_pid: None,
            confirmed_flush_lsn: Some(Lsn(900)),
            restart_lsn: Some(Lsn(800)),
            wal_status: Some("reserved".into()),
            invalidation_reason: None,
            conflicting: false,
            backend_start: None,
            reply_time: None,
            failover: true,
        }),
    };
    let limits = Limits {
        walsenders_max: 10,
        walsenders_used: 1,
        slots_max: 10,
        slots_used: 1,
        keep_size: 1_000,
        idle_timeout: 0,
        standbys: 1,
        waits_for_standbys: true,
    };
    (facts, limits)
}

type Change = fn(&mut PostgresFacts, &mut Limits);

fn published(facts: &mut PostgresFacts, change: fn(&mut Publication)) {
    if let PublicationState::Present(publication) = &mut facts.publication {
        change(publication);
    }
}

fn slot(facts: &mut PostgresFacts, change: fn(&mut SlotInfo)) {
    facts.slot.as_mut().map(change);
}

#[test]
fn a_sound_database_has_nothing_to_be_said_of() {
    let (facts, limits) = sound();
    let findings = judge(&config(), &facts, &limits);
    assert!(findings.iter().all(|finding| finding.severity == Severity::Ok), "{findings:?}");
    assert_eq!(findings.len(), 6);
}

#[test]
fn one_fault_is_one_finding_with_its_code() {
    use Severity::{Error, Warning};
    let cases: [(Change, Severity, Code); 24] = [
        (|facts, _| facts.server_version = 140_000, Error, Code::PgVersion),
        (|facts, _| facts.in_recovery = true, Error, Code::PgStandby),
        (|facts, _| facts.server_version = 160_000, Warning, Code::PgSetting),
        (|facts, _| slot(facts, |slot| slot.failover = false), Warning, Code::PgSetting),
        (|_, limits| limits.waits_for_standbys = false, Warning, Code::PgSetting),
        (|facts, _| facts.wal_level = "replica".into(), Error, Code::PgWalLevel),
        (|facts, _| facts.schema_version = 0, Error, Code::NotSetUp),
        (|facts, _| facts.granted = false, Error, Code::PgPrivilege),
        (|facts, _| facts.reads_statistics = false, Warning, Code::PgPrivilege),
        (|facts, _| facts.tables[0].exists = false, Error, Code::TableMissing),
        (|facts, _| facts.tables[0].columns.clear(), Error, Code::ColumnMissing),
        (|facts, _| facts.publication = PublicationState::Missing, Error, Code::PublicationMissing),
        (|facts, _| published(facts, |found| found.inserts = false), Error, Code::PublicationLacksTable),
        (
            |facts, _| published(facts, |found| found.tables[0].published = false),
            Error,
            Code::PublicationLacksTable,
        ),
        (
            |facts, _| published(facts, |found| found.tables[0].columns.truncate(2)),
            Error,
            Code::ColumnMissing,
        ),
        (
            |facts, _| published(facts, |found| found.tables[0].row_filter = Some("(id > 5)".into())),
            Warning,
            Code::PgSetting,
        ),
        (|facts, _| facts.slot = None, Error, Code::SlotMissing),
        (|facts, _| slot(facts, |slot| slot.wal_status = Some("lost".into())), Error, Code::SlotLost),
        (|facts, _| slot(facts, |slot| slot.two_phase = true), Error, Code::SlotUnfit),
        (
            |facts, _| slot(facts, |slot| slot.wal_status = Some("unreserved".into())),
            Warning,
            Code::PgSetting,
        ),
        (|facts, _| facts.system.wal_position = Lsn(20 << 30), Warning, Code::PgSetting),
        (|_, limits| limits.keep_size = -1, Warning, Code::PgSetting),
        (|_, limits| limits.idle_timeout = 60, Warning, Code::PgSetting),
        (|_, limits| limits.walsenders_used = 9, Warning, Code::PgLimit),
    ];
    for (at, (change, severity, code)) in cases.into_iter().enumerate() {
        let (mut facts, mut limits) = sound();
        change(&mut facts, &mut limits);
        let findings = judge(&config(), &facts, &limits);
        let bad: Vec<_> = findings.iter().filter(|finding| finding.severity != Severity::Ok).collect();
        assert_eq!(bad.len(), 1, "case {at}: {bad:?}");
        assert_eq!((bad[0].severity, bad[0].code), (severity, Some(code)), "case {at}");
    }
}

#[test]
fn a_full_server_has_no_place_for_a_new_slot() {
    let (mut facts, mut limits) = sound();
    facts.slot = None;
    limits.slots_used = limits.slots_max;
    let findings = judge(&config(), &facts, &limits);
    assert!(findings.iter().any(|finding| finding.code == Some(Code::PgLimit)));
}
