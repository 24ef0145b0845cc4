//! Servers ring: the replication connection against real servers, the oldest and the newest.
//!
//! Every case waits for events of the server, never for time to pass.

use std::time::{Duration, Instant};

use pillarbox_lab::postgres::{Postgres, PostgresOptions, ShutdownMode};
use pillarbox_relay::config::{self, Secret, TableName};
use pillarbox_relay::error::{Code, Fault};
use pillarbox_relay::source::{
    Attempt, Connection, Frame, PublicationState, SlotInfo, SourceError, Stream, Wake,
};
use pillarbox_wire::lsn::Lsn;

const LONG: Duration = Duration::from_secs(30);
const VERSIONS: [u32; 2] = [15, 18];
const PASSWORD: &str = "correct horse";

/// A server with a database `shop`, an outbox, a role `relay` with a password, and entries in
/// pg_hba.conf for nobody else.
struct Site {
    postgres: Postgres,
}

impl Site {
    fn start(version: u32, settings: &[(&str, &str)]) -> Self {
        let mut options = PostgresOptions::version(version);
        options.hba = [
            "local all all trust",
            "host all postgres 127.0.0.1/32 trust",
            "host postgres,shop relay 127.0.0.1/32 scram-sha-256",
            "host nowhere relay 127.0.0.1/32 scram-sha-256",
            "host shop bystander 127.0.0.1/32 trust",
        ]
        .map(str::to_owned)
        .to_vec();
        for (name, value) in settings {
            options = options.setting(name, value);
        }
        let postgres = Postgres::start(options).expect("a server");
        let site = Self { postgres };
        site.postgres.execute("postgres", "CREATE DATABASE shop").expect("a database");
        site.sql(&format!(
            "CREATE ROLE relay LOGIN REPLICATION PASSWORD '{PASSWORD}'; CREATE ROLE bystander LOGIN"
        ));
        site.sql("CREATE TABLE outbox (id int PRIMARY KEY, payload text)");
        site
    }

    fn sql(&self, sql: &str) {
        self.postgres.execute("shop", sql).expect(sql);
    }

    fn one(&self, sql: &str) -> String {
        self.postgres.query_one("shop", sql).expect(sql)
    }

    fn settings(&self) -> config::Postgres {
        config::Postgres {
            host: "127.0.0.1".into(),
            port: self.postgres.port(),
            user: "relay".into(),
            password: Some(Secret::new(PASSWORD)),
            database: "shop".into(),
            slot: "s".into(),
            publication: "p".into(),
        }
    }

    fn connect(&self) -> Connection {
        Connection::connect(&self.settings(), "pillarbox/test", LONG).expect("a connection")
    }

    fn publish_and_create_slot(&self) {
        self.sql("CREATE PUBLICATION p FOR TABLE outbox WITH (publish = 'insert')");
        self.create_slot();
    }

    fn create_slot(&self) {
        self.one("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
    }

    /// A session that was refused may still hold the slot for a moment.
    fn drop_slot(&self, database: &str) {
        until("the slot is dropped", || {
            self.postgres.query_one(database, "SELECT pg_drop_replication_slot('s')").is_ok()
        });
    }

    fn stream(&self) -> Stream {
        self.connect().start_replication("s", "p").expect("a stream")
    }

    fn slot(&self) -> SlotInfo {
        self.connect().slot("s").expect("an answer").expect("a slot")
    }

    /// The fault of a connection with changed settings.
    fn refusal(&self, change: impl FnOnce(&mut config::Postgres)) -> Fault {
        let mut settings = self.settings();
        change(&mut settings);
        let error = Connection::connect(&settings, "pillarbox/test", LONG).expect_err("a refusal");
        fault(&error, &settings)
    }

    fn stream_refusal(&self) -> Fault {
        let error = self.connect().start_replication("s", "p").expect_err("a refusal");
        fault(&error, &self.settings())
    }
}

fn fault(error: &SourceError, settings: &config::Postgres) -> Fault {
    error.fault(&Attempt { message: "cannot stream", settings })
}

/// What a frame was, without its borrow.
#[derive(Debug, PartialEq)]
enum Seen {
    /// First byte of the pgoutput message, and the end of WAL.
    Data(u8, Vec<u8>),
    Keepalive(Lsn, bool),
    Notice(String, String),
    End,
}

impl From<Frame<'_>> for Seen {
    fn from(frame: Frame<'_>) -> Self {
        match frame {
            Frame::XLogData { data, .. } => Seen::Data(data[0], data.to_vec()),
            Frame::Keepalive { wal_end, reply_requested } => Seen::Keepalive(wal_end, reply_requested),
            Frame::Notice(notice) => Seen::Notice(notice.sqlstate.into(), notice.routine.into()),
            Frame::End => Seen::End,
        }
    }
}

/// Reads until `wanted` says yes; acknowledges nothing.
fn read_until(stream: &mut Stream, mut wanted: impl FnMut(&Seen) -> bool) -> Result<Vec<Seen>, SourceError> {
    let wake = Wake::new().expect("an eventfd");
    let deadline = Instant::now() + LONG;
    let mut seen = Vec::new();
    loop {
        while let Some(frame) = stream.frames.next()? {
            let frame = Seen::from(frame);
            let found = wanted(&frame);
            seen.push(frame);
            if found {
                return Ok(seen);
            }
        }
        assert!(Instant::now() < deadline, "not seen in time; only {seen:?}");
        stream.link.wait(&wake, true, Duration::from_secs(1)).expect("a wait");
        stream.link.read_into(&mut stream.frames)?;
    }
}

fn is_commit(seen: &Seen) -> bool {
    matches!(seen, Seen::Data(b'C', _))
}

/// `end_lsn` of a Commit message: type, flags, commit LSN, end LSN.
fn commit_end(seen: &[Seen]) -> Lsn {
    match seen.last() {
        Some(Seen::Data(b'C', data)) => Lsn(u64::from_be_bytes(data[10..18].try_into().expect("8 bytes"))),
        other => panic!("not a commit: {other:?}"),
    }
}

fn tags(seen: &[Seen]) -> String {
    seen.iter()
        .filter_map(|seen| match seen {
            Seen::Data(tag, _) => Some(char::from(*tag)),
            _ => None,
        })
        .collect()
}

/// Waits until the server says yes; the server is asked again and again, each answer is an event.
fn until(what: &str, mut answer: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !answer() {
        assert!(Instant::now() < deadline, "not in time: {what}");
    }
}

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
fn every_refusal_has_its_code_and_its_repair() {
    for version in VERSIONS {
        let site = Site::start(version, &[]);
        let hint = |fault: &Fault| fault.hint.clone().unwrap_or_default();

        let fault = site.refusal(|settings| settings.password = Some(Secret::new("wrong")));
        assert_eq!(fault.code, Code::PgAuthentication, "{fault}");
        assert!(!format!("{fault:?}").contains("wrong"), "{fault:?}");
        let fault = site.refusal(|settings| settings.password = None);
        assert_eq!(fault.code, Code::PgAuthentication, "{fault}");
        assert!(hint(&fault).contains("postgres.password"));
        let fault = site.refusal(|settings| settings.database = "nowhere".into());
        assert_eq!(fault.code, Code::PgNoDatabase, "{fault}");
        let fault = site.refusal(|settings| settings.user = "stranger".into());
        assert_eq!(fault.code, Code::PgNoEntry, "{fault}");
        assert!(hint(&fault).contains("host \"shop\" \"stranger\""), "{fault:?}");
        let fault = site.refusal(|settings| settings.user = "bystander".into());
        assert_eq!(fault.code, Code::PgNoReplicationRole, "{fault}");
        assert_eq!(hint(&fault), "ALTER ROLE \"bystander\" REPLICATION;");
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("a port").port();
        let fault = site.refusal(|settings| settings.port = port);
        assert_eq!(fault.code, Code::PgUnreachable, "{fault}");
        let fault = site.refusal(|settings| settings.host = "/nonexistent".into());
        assert_eq!(fault.code, Code::PgUnreachable, "{fault}");
    }
}

#[test]
fn no_free_walsender_is_a_limit() {
    let site = Site::start(18, &[("max_wal_senders", "1")]);
    let _holder = site.connect();
    let fault = site.refusal(|_| {});
    assert_eq!(fault.code, Code::PgLimit, "{fault}");
    assert!(fault.hint.expect("a hint").contains("max_wal_senders"));
}

#[test]
fn a_server_that_says_nothing_is_a_timeout_and_another_protocol_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let settings = config::Postgres {
        host: "127.0.0.1".into(),
        port: listener.local_addr().expect("a port").port(),
        user: "u".into(),
        password: None,
        database: "d".into(),
        slot: "s".into(),
        publication: "p".into(),
    };
    let error =
        Connection::connect(&settings, "pillarbox/test", Duration::from_millis(50)).expect_err("no answer");
    assert!(matches!(error, SourceError::TimedOut), "{error}");
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let _silent = listener.accept().expect("the first client");
        let (mut client, _) = listener.accept().expect("a client");
        let mut request = [0; 512];
        let _ = client.read(&mut request).expect("a startup packet");
        client.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").expect("an answer");
    });
    let error = Connection::connect(&settings, "pillarbox/test", LONG).expect_err("not Postgres");
    server.join().expect("the server");
    assert!(fault(&error, &settings).code == Code::PgProtocol, "{error}");
}

#[test]
fn wal_level_is_named_with_its_repair() {
    for version in VERSIONS {
        let site = Site::start(version, &[("wal_level", "replica")]);
        let fault = site.stream_refusal();
        assert_eq!(fault.code, Code::PgWalLevel, "{fault:?}");
        assert!(fault.hint.expect("a hint").contains("ALTER SYSTEM SET wal_level = logical;"));
    }
}

#[test]
fn rows_stream_and_only_what_is_confirmed_is_not_sent_again() {
    for version in VERSIONS {
        let site = Site::start(version, &[]);
        site.publish_and_create_slot();
        let mut stream = site.stream();
        site.sql("BEGIN; INSERT INTO outbox VALUES (1, 'one'), (2, 'two'); COMMIT");
        site.sql("SELECT pg_logical_emit_message(true, 'pillarbox.lineage', 'x:1-y')");
        let first = read_until(&mut stream, is_commit).expect("a transaction");
        assert_eq!(tags(&first), "BRIIC", "on {version}");
        let second = read_until(&mut stream, is_commit).expect("a transaction");
        assert_eq!(tags(&second), "BMC", "on {version}");

        // A status that confirms nothing keeps the slot where it is.
        let before = site.slot().confirmed_flush_lsn;
        stream.link.send_status(Lsn::ZERO, true).expect("a status");
        read_until(&mut stream, |seen| matches!(seen, Seen::Keepalive(..))).expect("the reply");
        assert_eq!(site.slot().confirmed_flush_lsn, before);

        stream.link.send_status(commit_end(&first), true).expect("a status");
        until("the slot moves", || site.slot().confirmed_flush_lsn == Some(commit_end(&first)));
        stream.link.close();
        until("the slot is free", || !site.slot().active);
        let again = read_until(&mut site.stream(), is_commit).expect("a transaction");
        assert_eq!(tags(&again), "BMC", "the confirmed transaction does not come again on {version}");
    }
}

#[test]
fn the_last_status_before_a_close_counts() {
    let site = Site::start(18, &[]);
    site.publish_and_create_slot();
    let mut stream = site.stream();
    site.sql("INSERT INTO outbox VALUES (1, 'one')");
    site.sql("INSERT INTO outbox SELECT g, repeat('x', 1000) FROM generate_series(2, 20000) g");
    let first = read_until(&mut stream, is_commit).expect("a transaction");
    let end = commit_end(&first);
    stream.link.send_status(end, false).expect("a status");
    stream.link.close();
    until("the slot is free", || !site.slot().active);
    assert_eq!(site.slot().confirmed_flush_lsn, Some(end));
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
fn a_publication_that_vanishes_is_never_silent() {
    for version in VERSIONS {
        let site = Site::start(version, &[]);
        site.publish_and_create_slot();
        let mut stream = site.stream();
        site.sql("DROP PUBLICATION p");
        site.sql("INSERT INTO outbox VALUES (1, 'one')");
        let outcome = read_until(&mut stream, |seen| matches!(seen, Seen::Notice(..)));
        if version < 18 {
            let error = outcome.expect_err("the stream ends");
            assert_eq!(fault(&error, &site.settings()).code, Code::PublicationMissing, "{error}");
        } else {
            let seen = outcome.expect("a notice");
            assert_eq!(seen.last(), Some(&Seen::Notice("55000".into(), "LoadPublications".into())));
        }
    }
}

#[test]
fn a_fast_shutdown_ends_the_stream_in_good_order() {
    for version in VERSIONS {
        let mut site = Site::start(version, &[]);
        site.publish_and_create_slot();
        let mut stream = site.stream();
        let wake = Wake::new().expect("an eventfd");
        let reader = std::thread::spawn(move || {
            // Nothing is outstanding: whatever the server has decoded may be confirmed.
            let deadline = Instant::now() + LONG;
            loop {
                while let Some(frame) = stream.frames.next()? {
                    match frame {
                        Frame::End => return Ok(()),
                        Frame::Keepalive { wal_end, .. } => stream.link.send_status(wal_end, false)?,
                        _ => {}
                    }
                }
                assert!(Instant::now() < deadline, "no end in time");
                stream.link.wait(&wake, true, Duration::from_secs(1)).expect("a wait");
                stream.link.read_into(&mut stream.frames)?;
            }
        });
        let took = site.postgres.stop(ShutdownMode::Fast, LONG).expect("a shutdown");
        let ended: Result<(), SourceError> = reader.join().expect("the reader");
        ended.expect("the end of the stream");
        assert!(took < Duration::from_secs(5), "{took:?} on {version}");
    }
}

#[test]
fn a_crash_of_the_server_is_no_end_in_good_order() {
    let mut site = Site::start(18, &[]);
    site.publish_and_create_slot();
    let mut stream = site.stream();
    site.postgres.kill9().expect("killed");
    let error = read_until(&mut stream, |seen| *seen == Seen::End).expect_err("no end");
    assert_eq!(fault(&error, &site.settings()).code, Code::PgProtocol, "{error}");
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
fn an_unanswered_query_leaves_the_connection_unusable() {
    let site = Site::start(18, &[]);
    let mut connection = site.connect();
    let error = connection.query("SELECT pg_sleep(30)", Duration::from_millis(50)).expect_err("no answer");
    assert!(matches!(error, SourceError::TimedOut), "{error}");
    let error = connection.query("SELECT 1", LONG).expect_err("out of step");
    assert!(matches!(error, SourceError::OutOfStep), "{error}");
}
