//! One row a case: what is found in the database and the worst that is said of it.

use pillarbox_wire::lsn::{SystemId, TimelineId};

use super::*;
use crate::check::Severity;
use crate::config;
use crate::source::{KeyFacts, Publication, SystemInfo};

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
        history: Vec::new(),
        reads_statistics: true,
        messages_public: true,
        tables: vec![TableFacts {
            table: table.clone(),
            schema_exists: true,
            exists: true,
            columns: columns(),
            jsonb: Vec::new(),
            key: None,
        }],
        publication: PublicationState::Present(Publication {
            inserts: true,
            changes: false,
            via_root: true,
            tables: vec![PublishedTable {
                table,
                published: true,
                named: true,
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
        copies: 1,
        awaited: String::new(),
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
    let cases: [(Change, Severity, Code); 26] = [
        (|facts, _| facts.server_version = 140_000, Error, Code::PgVersion),
        (|facts, _| facts.in_recovery = true, Error, Code::PgStandby),
        (
            |facts, _| {
                facts.server_version = 160_000;
                slot(facts, |slot| slot.failover = false);
            },
            Warning,
            Code::PgSetting,
        ),
        (|facts, _| slot(facts, |slot| slot.failover = false), Warning, Code::PgSetting),
        (|_, limits| limits.waits_for_standbys = false, Warning, Code::PgSetting),
        (|_, limits| limits.copies = 0, Warning, Code::PgSetting),
        (|_, limits| (limits.standbys, limits.awaited) = (0, "standby_1".into()), Warning, Code::PgSetting),
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
fn what_is_done_for_nothing_is_advice_with_a_statement() {
    let (mut facts, limits) = sound();
    facts.tables[0].jsonb = vec!["payload".into()];
    published(&mut facts, |found| found.tables[0].columns.push("Note".into()));
    let findings = judge(&config(), &facts, &limits);
    let advice: Vec<&Finding> =
        findings.iter().filter(|finding| finding.severity == Severity::Advice).collect();
    let fixes: Vec<&str> = advice.iter().filter_map(|finding| finding.fix.as_deref()).collect();
    let [json, columns] = fixes[..] else { panic!("{advice:?}") };
    assert!(
        json.starts_with("ALTER TABLE \"public\".\"outbox\" ALTER COLUMN \"payload\" TYPE json;"),
        "{json}"
    );
    assert!(advice[1].message.contains("sends \"Note\" of public.outbox"), "{advice:?}");
    assert!(columns.contains("DROP TABLE \"public\".\"outbox\";") && !columns.contains("Note"), "{columns}");
    for column in self::columns() {
        assert!(columns.contains(&format!("\"{column}\"")), "{column} in {columns}");
    }
    assert!(findings.iter().all(|finding| finding.severity <= Severity::Advice), "{findings:?}");
}

#[test]
fn a_column_list_is_not_advised_where_it_would_forbid_deletes() {
    let (mut facts, limits) = sound();
    published(&mut facts, |found| {
        found.tables[0].columns.push("created_at".into());
        found.changes = true;
    });
    let findings = judge(&config(), &facts, &limits);
    assert!(findings.iter().all(|finding| finding.severity == Severity::Ok), "{findings:?}");
}

#[test]
fn no_list_is_advised_for_a_table_that_the_publication_does_not_name() {
    let (mut facts, limits) = sound();
    published(&mut facts, |found| {
        found.tables[0].columns.push("created_at".into());
        found.tables[0].named = false;
    });
    let findings = judge(&config(), &facts, &limits);
    assert!(findings.iter().all(|finding| finding.severity == Severity::Ok), "{findings:?}");
}

/// Or `run` would halt at what `check` calls sound.
#[test]
fn a_key_that_tells_no_shards_apart_is_an_error() {
    let (mut facts, limits) = sound();
    let mut config = config();
    config.outbox[0].shard = config::Shard::parse("1/2").ok();
    let filter = "(((hashtext(COALESCE(aggregateid, ''::text)) & 2147483647) % 2) = 0)";
    let PublicationState::Present(publication) = &mut facts.publication else { panic!("present") };
    publication.tables[0].row_filter = Some(filter.to_owned());
    let errors = |facts: &PostgresFacts| {
        let findings = judge(&config, facts, &limits);
        findings.iter().filter(|finding| finding.code == Some(Code::PublicationLacksTable)).count()
    };
    assert_eq!(errors(&facts), 0);
    facts.tables[0].key = Some(KeyFacts { encoding: "LATIN1".into(), fits: true, hashes: vec![0, 0, 0] });
    assert_eq!(errors(&facts), 1);
}

#[test]
fn the_column_of_a_trace_is_not_idle() {
    let (mut facts, limits) = sound();
    published(&mut facts, |found| found.tables[0].columns.push("tracingspancontext".into()));
    let advice = |config: &Config| {
        let findings = judge(config, &facts, &limits);
        findings.iter().filter(|finding| finding.severity == Severity::Advice).count()
    };
    let mut traced = config();
    assert_eq!(advice(&traced), 1, "no event has anything of it");
    traced.outbox[0].trace_column = Some("tracingspancontext".into());
    assert_eq!(advice(&traced), 0);
}

#[test]
fn a_table_that_is_published_anew_keeps_its_filter() {
    let (mut facts, limits) = sound();
    published(&mut facts, |found| {
        found.tables[0].row_filter = Some("(id > 5)".into());
        found.tables[0].columns.truncate(2);
    });
    let findings = judge(&config(), &facts, &limits);
    let fix = findings
        .iter()
        .find(|finding| finding.code == Some(Code::ColumnMissing))
        .and_then(|f| f.fix.as_deref());
    let fix = fix.expect("a statement");
    assert!(fix.ends_with("ADD TABLE \"public\".\"outbox\" WHERE ((id > 5)); COMMIT;"), "{fix}");
}

#[test]
fn without_standbys_nothing_is_said_of_a_failover() {
    let (mut facts, mut limits) = sound();
    (limits.standbys, limits.copies, limits.waits_for_standbys) = (0, 0, false);
    for failover in [true, false] {
        facts.slot.as_mut().expect("a slot").failover = failover;
        let findings = judge(&config(), &facts, &limits);
        assert!(findings.iter().all(|finding| finding.severity == Severity::Ok), "{findings:?}");
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
