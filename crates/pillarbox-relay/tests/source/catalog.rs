//! What the server says of itself, its slots and its publications.

use pillarbox_lab::postgres::{Postgres, PostgresOptions};
use pillarbox_relay::config::{self, TableName, hashtext};
use pillarbox_relay::error::Code;
use pillarbox_relay::source::{Connection, PublicationState, SourceError};
use pillarbox_wire::lsn::Lsn;

use crate::site::{LONG, Site, VERSIONS, until};

#[test]
fn connects_with_a_password_and_knows_the_server() {
    for version in VERSIONS {
        let site = Site::start(version, &[]);
        let mut connection = site.connect();
        assert_eq!(connection.server_version() / 10_000, version);
        let system = connection.identify_system().expect("an answer");
        assert_eq!(
            system.system_id.to_string(),
            site.one("SELECT system_identifier FROM pg_control_system()")
        );
        assert_eq!(system.database, "shop");
        assert_eq!(system.timeline.0, 1);
        assert!(!system.wal_position.is_zero());
        assert!(connection.timeline_history(system.timeline).expect("an answer").is_empty());
        let rows = connection.query("SELECT 1, NULL, 'x'; SELECT 2", LONG).expect("rows");
        assert_eq!((rows[0].get(0), rows[0].get(1), rows[0].get(2)), (Some("1"), None, Some("x")));
        assert_eq!(rows[1].get(0), Some("2"));
        let refused = connection.query("SELECT 1/0", LONG).expect_err("an error");
        assert!(matches!(&refused, SourceError::Server(error) if error.sqlstate == "22012"), "{refused}");
        assert_eq!(
            connection.query("SHOW wal_sender_timeout", LONG).expect("in step")[0].get(0),
            Some("1min")
        );
    }
}

#[test]
fn a_walsender_that_decodes_is_told_from_one_that_waits() {
    for version in VERSIONS {
        let site = Site::start(version, &[]);
        site.publish_and_create_slot();
        let mut looking = site.connect();
        let mut is_decoding = || looking.is_decoding("s").expect("an answer");
        assert!(!is_decoding(), "nobody streams");
        let stream = site.stream();
        until("it waits for WAL", || !is_decoding());
        // Not published: nothing of it is sent. Decoded once it is committed, maybe before this thread knows of it.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                site.sql("CREATE TABLE other (i int); INSERT INTO other SELECT generate_series(1, 2000000)");
            });
            until("it decodes", &mut is_decoding);
        });
        until("it waits again", || !is_decoding());
        drop(stream);
    }
}

/// A relay decides by the same number as the row filter which rows are of its shard.
#[test]
fn texts_are_hashed_as_the_server_does() {
    let texts: Vec<String> = (0..64)
        .flat_map(|length| [("k", length), ("é", length), ("日本-", length)])
        .map(|(part, length)| part.chars().cycle().take(length).collect())
        .chain((0..200).map(|n| format!("order-{n}'\\")))
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let ours: Vec<i32> = texts.iter().map(|text| hashtext(text.as_bytes()).cast_signed()).collect();
    for version in VERSIONS {
        let site = Site::start(version, &[]);
        site.sql(
            "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
             CREATE DOMAIN code AS char(8); \
             CREATE TABLE keyed (plain text, short varchar(40), padded char(40), c text COLLATE \"C\", \
                 loose text COLLATE loose, code code, name name, number int, uuid uuid)",
        );
        let table = TableName { schema: "public".into(), name: "keyed".into() };
        let mut connection = site.connect();
        for (columns, fits) in [
            (["plain", "short", "padded", "c", "not there"], true),
            (["loose", "code", "name", "number", "uuid"], false),
        ] {
            for column in columns {
                let facts = connection.key_facts(&table, column, &texts[..2]).expect("facts");
                assert_eq!((facts.encoding.as_str(), facts.fits), ("UTF8", fits), "{column}");
            }
            let facts = connection.key_facts(&table, columns[0], &texts).expect("facts");
            assert_eq!(facts.hashes, ours, "on {version}");
        }
    }
}

#[test]
fn slots_missing_in_use_unfit_and_lost() {
    for version in VERSIONS {
        let site = Site::start(
            version,
            &[
                ("max_slot_wal_keep_size", "1MB"),
                ("wal_keep_size", "0"),
                ("max_wal_size", "32MB"),
                ("min_wal_size", "32MB"),
            ],
        );
        site.sql("CREATE PUBLICATION p FOR TABLE outbox WITH (publish = 'insert')");
        assert_eq!(site.stream_refusal().code, Code::SlotMissing);
        assert_eq!(site.connect().slot("s").expect("an answer"), None);

        site.one("SELECT pg_create_physical_replication_slot('s', true)");
        let physical = site.stream_refusal();
        assert_eq!(physical.code, Code::SlotUnfit, "{physical:?}");
        assert_eq!(site.slot().plugin, "");
        site.drop_slot("shop");
        site.postgres
            .query_one("postgres", "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
            .expect("a slot");
        assert_eq!(site.stream_refusal().code, Code::SlotUnfit, "another database");
        site.drop_slot("postgres");
        site.one("SELECT pg_create_logical_replication_slot('s', 'pgoutput', false, true)");
        assert!(site.slot().two_phase);
        site.drop_slot("shop");

        site.create_slot();
        let idle = site.slot();
        assert!(!idle.active && idle.active_pid.is_none() && !idle.is_lost(), "{idle:?}");
        assert_eq!((idle.plugin.as_str(), idle.database.as_str()), ("pgoutput", "shop"));
        let stream = site.stream();
        assert_eq!(site.stream_refusal().code, Code::SlotActive);
        let mut other = site.connect();
        let owned = other.slot("s").expect("an answer").expect("a slot");
        let (pid, began) =
            (owned.active_pid.expect("a pid"), owned.backend_start.clone().expect("visible to its role"));
        assert!(
            !other.terminate(pid, "2001-01-01 00:00:00+00").expect("an answer"),
            "another start, another process"
        );
        assert!(other.terminate(pid, &began).expect("an answer"));
        until("the slot is free", || !site.slot().active);
        drop(stream);

        until("the slot is lost", || {
            site.sql("SELECT pg_switch_wal(); CREATE TABLE IF NOT EXISTS filler (t text); INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 2000)");
            site.sql("CHECKPOINT");
            site.slot().is_lost()
        });
        let fault = site.stream_refusal();
        assert_eq!(fault.code, Code::SlotLost, "{fault:?} on {version}");
    }
}

#[test]
fn whether_a_standby_sees_replies_depends_on_a_privilege() {
    let site = Site::start(18, &[]);
    site.publish_and_create_slot();
    let mut stream = site.stream();
    stream.link.send_status(Lsn::ZERO, false).expect("a status");
    assert_eq!(site.slot().reply_time, None, "hidden from a plain role");
    site.sql("GRANT pg_read_all_stats TO relay");
    until("a reply is seen", || site.slot().reply_time.is_some());
}

#[test]
fn publications_of_every_kind() {
    for version in VERSIONS {
        let site = Site::start(version, &[]);
        site.sql("CREATE TABLE parted (id int, day int) PARTITION BY LIST (day); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1)");
        // No privilege is needed on what is published.
        site.sql("REVOKE ALL ON SCHEMA public FROM public");
        let table = |name: &str| TableName { schema: "public".into(), name: name.into() };
        let wanted = [table("outbox"), table("parted"), table("no such")];
        let mut connection = site.connect();
        let mut state = |sql: &str| {
            site.sql(sql);
            connection.publication("p", &wanted).expect("an answer")
        };
        assert_eq!(state("SELECT 1"), PublicationState::Missing);
        for (sql, inserts, published, partitions) in [
            ("CREATE PUBLICATION p", true, "--", "-"),
            ("ALTER PUBLICATION p ADD TABLE outbox", true, "o-", "-"),
            ("ALTER PUBLICATION p ADD TABLE parted", true, "o-", "p"),
            ("ALTER PUBLICATION p SET (publish_via_partition_root = true)", true, "op", "-"),
            ("ALTER PUBLICATION p SET (publish = 'update')", false, "op", "-"),
            ("DROP PUBLICATION p; CREATE PUBLICATION p FOR ALL TABLES", true, "o-", "p"),
            (
                "DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLES IN SCHEMA public WITH (publish_via_partition_root)",
                true,
                "op",
                "-",
            ),
        ] {
            let PublicationState::Present(found) = state(sql) else { panic!("missing after {sql}") };
            let mark = |yes: bool, mark: char| if yes { mark } else { '-' };
            let marks: String =
                [mark(found.tables[0].published, 'o'), mark(found.tables[1].published, 'p')].iter().collect();
            assert_eq!(found.inserts, inserts, "{sql}");
            assert_eq!(marks, published, "{sql} on {version}");
            assert_eq!(
                mark(found.tables[1].under_partition_names, 'p').to_string(),
                partitions,
                "{sql} on {version}"
            );
            assert!(!found.tables[2].published);
        }
        let PublicationState::Present(found) = state(
            "DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLE outbox (id, payload) WHERE (id > 5) WITH (publish = 'insert')",
        ) else {
            panic!("missing")
        };
        assert_eq!(found.tables[0].row_filter.as_deref(), Some("(id > 5)"));
        assert_eq!(found.tables[0].columns, ["id", "payload"]);
    }
}

#[test]
fn a_unix_socket_serves_as_well() {
    let site = Site::start(18, &[]);
    let directory = site.one("SHOW unix_socket_directories");
    let mut settings = site.settings();
    settings.host = directory;
    let mut connection = Connection::connect(&settings, "pillarbox/test", LONG).expect("a connection");
    assert_eq!(connection.identify_system().expect("an answer").database, "shop");
}

#[test]
fn a_promoted_copy_has_the_same_identity_and_a_history() {
    for version in VERSIONS {
        let mut site = Site::start(version, &[]);
        let original = site.connect().identify_system().expect("an answer");
        let folder =
            std::env::temp_dir().join(format!("pillarbox-promoted-{}-{version}", std::process::id()));
        // Of a process that had this number and failed.
        let _ = std::fs::remove_dir_all(&folder);
        site.postgres.copy_data_dir_to(&folder).expect("a copy");
        std::fs::write(folder.join("standby.signal"), "").expect("a signal file");
        let options = PostgresOptions { data_dir: Some(folder.clone()), ..PostgresOptions::version(version) };
        let copy = Postgres::start(options).expect("a standby");
        let settings = config::Postgres { port: copy.port(), ..site.settings() };
        let connect = || Connection::connect(&settings, "pillarbox/test", LONG).expect("a connection");
        copy.query_one("shop", "SELECT pg_promote()").expect("promoted");
        until("the new timeline", || connect().identify_system().expect("an answer").timeline.0 == 2);

        let mut connection = connect();
        let promoted = connection.identify_system().expect("an answer");
        assert_eq!(promoted.system_id, original.system_id, "a copy cannot be told by its identifier");
        let history = connection.timeline_history(promoted.timeline).expect("a history");
        assert_eq!(history.len(), 1);
        assert_eq!(history[0].timeline, original.timeline);
        assert!(history[0].fork_lsn >= original.wal_position && history[0].fork_lsn <= promoted.wal_position);
        drop(copy);
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
