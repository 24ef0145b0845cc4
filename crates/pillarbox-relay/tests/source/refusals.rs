//! What keeps us out, by code and repair.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use pillarbox_relay::config::{self, Secret};
use pillarbox_relay::error::{Code, Fault};
use pillarbox_relay::source::{Connection, SourceError};

use crate::site::{LONG, Site, VERSIONS, fault};

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

/// Settings that lead to `listener`.
pub(crate) fn settings(listener: &TcpListener) -> config::Postgres {
    config::Postgres {
        host: "127.0.0.1".into(),
        port: listener.local_addr().expect("a port").port(),
        user: "u".into(),
        password: None,
        database: "d".into(),
        slot: "s".into(),
        publication: "p".into(),
        tls: Default::default(),
        sql: None,
    }
}

/// Takes the next client's first message and gives it `answer`.
fn answer(listener: &TcpListener, answer: &[u8]) -> TcpStream {
    let (mut client, _) = listener.accept().expect("a client");
    let mut request = [0; 512];
    let _ = client.read(&mut request).expect("a first message");
    client.write_all(answer).expect("an answer");
    client
}

#[test]
fn a_server_that_says_nothing_is_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let error = Connection::connect(&settings(&listener), "pillarbox/test", Duration::from_millis(50));
    let error = error.expect_err("no answer");
    assert!(matches!(error, SourceError::TimedOut), "{error}");
    assert_eq!(fault(&error, &settings(&listener)).code, Code::PgUnreachable);
}

#[test]
fn another_protocol_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let settings = settings(&listener);
    let server = std::thread::spawn(move || answer(&listener, b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    let error = Connection::connect(&settings, "pillarbox/test", LONG).expect_err("not Postgres");
    drop(server.join().expect("the server"));
    assert!(matches!(error, SourceError::NotPostgres), "{error}");
    assert_eq!(fault(&error, &settings).code, Code::PgProtocol);
}

#[test]
fn a_server_that_insists_on_tls_is_told_from_one_without_an_entry() {
    let body = b"SFATAL\0VFATAL\0C28000\0Mno entry, no encryption\0RClientAuthentication\0\0";
    let length = i32::try_from(body.len() + 4).expect("short").to_be_bytes();
    let refusal = [&b"E"[..], &length, &body[..]].concat();
    for (tls, code) in [(b"S", Code::PgTlsRequired), (b"N", Code::PgNoEntry)] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut settings = settings(&listener);
        settings.tls.mode = config::TlsMode::Disable;
        let refusal = refusal.clone();
        let server = std::thread::spawn(move || (answer(&listener, &refusal), answer(&listener, tls)));
        let error = Connection::connect(&settings, "pillarbox/test", LONG).expect_err("a refusal");
        drop(server.join().expect("the server"));
        assert_eq!(fault(&error, &settings).code, code, "{error}");
    }
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
fn an_unanswered_query_leaves_the_connection_unusable() {
    let site = Site::start(18, &[]);
    let mut connection = site.connect();
    let error = connection.query("SELECT pg_sleep(30)", Duration::from_millis(50)).expect_err("no answer");
    assert!(matches!(error, SourceError::TimedOut), "{error}");
    let error = connection.query("SELECT 1", LONG).expect_err("out of step");
    assert!(matches!(error, SourceError::OutOfStep), "{error}");
}
