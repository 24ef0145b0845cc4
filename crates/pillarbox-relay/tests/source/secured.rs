//! TLS and logins over it, against a server that demands them: what passes, and what each mistake is called.
//!
//! Every row is tried on both connections, the replication stream's and SQL's: they must agree.

use std::fs;
use std::path::PathBuf;

use pillarbox_lab::certificates::{Authority, Issued, Validity};
use pillarbox_lab::{Postgres, PostgresOptions, ServerTls};
use pillarbox_relay::config::{self, ChannelBinding, Identity, PostgresTls, Secret, TlsMode};
use pillarbox_relay::error::Code;
use pillarbox_relay::source::{Attempt, Connection, Way};
use pillarbox_relay::sql::Session;

use crate::site::{LONG, VERSIONS, is_commit, read_until, tags};

const PASSWORD: &str = "correct horse";

struct Secured {
    postgres: Postgres,
    folder: tempfile::TempDir,
    authority: Authority,
}

fn served(by: &Authority, names: &[&str], validity: Validity, clients: &Authority) -> ServerTls {
    let Issued { certificate, key } = by.server(names, validity).expect("a certificate");
    ServerTls { certificate, key, clients: Some(clients.pem()) }
}

impl Secured {
    /// Roles: `relay` over TLS with a password, `carded` over TLS with a certificate, `plain` without TLS only.
    fn start(version: u32) -> Self {
        let authority = Authority::new("the right one").expect("an authority");
        let mut options = PostgresOptions::version(version);
        options.tls = Some(served(&authority, &["127.0.0.1", "localhost"], Validity::Current, &authority));
        options.hba = [
            "local all all trust",
            "host all postgres 127.0.0.1/32 trust",
            "hostssl shop relay 127.0.0.1/32 scram-sha-256",
            "hostssl shop carded 127.0.0.1/32 cert",
            "hostnossl shop plain 127.0.0.1/32 scram-sha-256",
        ]
        .map(str::to_owned)
        .to_vec();
        let postgres = Postgres::start(options).expect("a server");
        postgres.execute("postgres", "CREATE DATABASE shop").expect("a database");
        for role in ["relay", "carded", "plain"] {
            let sql = format!("CREATE ROLE {role} LOGIN REPLICATION PASSWORD '{PASSWORD}'");
            postgres.execute("shop", &sql).expect("a role");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let site = Self { postgres, folder, authority };
        site.file("ca.pem", &site.authority.pem());
        let other = Authority::new("another").expect("an authority");
        site.file("other.pem", &other.pem());
        site.identity_files("carded", &site.authority);
        site.identity_files("stranger", &other);
        site
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path
    }

    fn identity_files(&self, name: &str, by: &Authority) {
        let Issued { certificate, key } = by.client("carded").expect("a certificate");
        self.file(&format!("{name}.pem"), &certificate);
        self.file(&format!("{name}.key"), &key);
    }

    fn tls(&self, mode: TlsMode, ca: Option<&str>, identity: Option<&str>) -> PostgresTls {
        let path = |name: String| self.folder.path().join(name);
        let identity = identity.map(|name| Identity {
            certificate: path(format!("{name}.pem")),
            key: path(format!("{name}.key")),
        });
        PostgresTls::new(mode, ca.map(|name| path(name.to_owned())), identity)
    }

    fn settings(&self, user: &str, tls: PostgresTls) -> config::Postgres {
        config::Postgres {
            host: "127.0.0.1".into(),
            port: self.postgres.port(),
            user: user.into(),
            password: Some(Secret::new(PASSWORD)),
            database: "shop".into(),
            slot: "s".into(),
            publication: "p".into(),
            tls,
            sql: None,
        }
    }

    /// What both connections say: `None` is a session, and then whether the server calls it encrypted.
    fn attempt(&self, settings: &config::Postgres) -> Result<bool, Code> {
        let attempt = Attempt { message: "cannot connect", settings };
        let encrypted = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let stream = match Connection::connect(settings, "pillarbox/test", LONG) {
            Ok(mut connection) => {
                let rows = connection.query(encrypted, LONG).expect("an answer");
                Ok(rows[0].get(0) == Some("true"))
            }
            Err(error) => {
                let fault = error.fault(&attempt);
                assert!(fault.hint.is_some(), "{fault:?}");
                assert!(!format!("{fault:?}").contains(PASSWORD), "{fault:?}");
                Err(fault.code)
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let sql = runtime.block_on(async {
            let session = Session::connect(settings, "pillarbox/test").await.map_err(|fault| fault.code)?;
            let row = session.query_one(encrypted, &[]).await.expect("an answer");
            Ok(row.get::<_, &str>(0) == "true")
        });
        assert_eq!(stream, sql, "the two connections disagree: {settings:?}");
        stream
    }
}

#[test]
fn each_mode_admits_and_refuses_what_libpq_does() {
    use TlsMode::{Allow, Disable, Prefer, Require, VerifyCa, VerifyFull};
    for version in VERSIONS {
        let site = Secured::start(version);
        for (user, mode, ca, identity, expected) in [
            ("relay", VerifyFull, Some("ca.pem"), None, Ok(true)),
            ("relay", VerifyCa, Some("ca.pem"), None, Ok(true)),
            ("relay", Require, None, None, Ok(true)),
            ("relay", Prefer, None, None, Ok(true)),
            ("relay", Allow, None, None, Ok(true)),
            ("relay", Disable, None, None, Err(Code::PgTlsRequired)),
            ("plain", Disable, None, None, Ok(false)),
            ("plain", Prefer, None, None, Ok(false)),
            ("plain", Allow, None, None, Ok(false)),
            ("plain", VerifyFull, Some("ca.pem"), None, Err(Code::PgNoEntry)),
            ("relay", VerifyFull, Some("other.pem"), None, Err(Code::PgCertificateUntrusted)),
            ("relay", VerifyCa, Some("other.pem"), None, Err(Code::PgCertificateUntrusted)),
            ("relay", Require, Some("other.pem"), None, Err(Code::PgCertificateUntrusted)),
            ("relay", VerifyFull, None, None, Err(Code::PgCertificateUntrusted)),
            ("relay", VerifyFull, Some("absent.pem"), None, Err(Code::ConfigValue)),
            ("carded", VerifyFull, Some("ca.pem"), Some("carded"), Ok(true)),
            ("carded", VerifyFull, Some("ca.pem"), Some("stranger"), Err(Code::PgClientCertificate)),
            ("carded", VerifyFull, Some("ca.pem"), None, Err(Code::PgNoEntry)),
        ] {
            let settings = site.settings(user, site.tls(mode, ca, identity));
            assert_eq!(site.attempt(&settings), expected, "{version}: {user} {mode} {ca:?} {identity:?}");
        }
    }
}

#[test]
fn a_login_is_bound_to_the_servers_certificate() {
    let site = Secured::start(18);
    let bound = |user: &str, mode| {
        let mut settings = site.settings(user, site.tls(mode, Some("ca.pem"), None));
        settings.tls.channel_binding = ChannelBinding::Require;
        settings
    };
    assert_eq!(site.attempt(&bound("relay", TlsMode::VerifyFull)), Ok(true));
    let mut wrong = bound("relay", TlsMode::VerifyFull);
    wrong.password = Some(Secret::new("wrong"));
    assert_eq!(site.attempt(&wrong), Err(Code::PgAuthentication));
    // Neither a login by certificate nor one without TLS can be bound.
    assert_eq!(site.attempt(&bound("plain", TlsMode::Disable)), Err(Code::PgAuthentication));
    let mut carded = site.settings("carded", site.tls(TlsMode::VerifyFull, Some("ca.pem"), Some("carded")));
    carded.tls.channel_binding = ChannelBinding::Require;
    assert_eq!(site.attempt(&carded), Err(Code::PgAuthentication));
}

#[test]
fn a_certificate_for_another_host_or_another_time_is_named_as_such() {
    let mut site = Secured::start(18);
    let full = site.settings("relay", site.tls(TlsMode::VerifyFull, Some("ca.pem"), None));
    let chain = site.settings("relay", site.tls(TlsMode::VerifyCa, Some("ca.pem"), None));
    let serve = |site: &mut Secured, names: &[&str], validity| {
        let tls = served(&site.authority, names, validity, &site.authority);
        site.postgres.serve_tls(tls).expect("served");
    };
    // A reload takes a moment to reach the postmaster.
    let attempts = |site: &Secured, settings: &config::Postgres, expected: Result<bool, Code>| {
        crate::site::until(&format!("{expected:?}"), || {
            let error = Connection::connect(settings, "pillarbox/test", LONG).err();
            let attempt = Attempt { message: "cannot connect", settings };
            error.map(|error| error.fault(&attempt).code) == expected.err()
        });
        assert_eq!(site.attempt(settings), expected);
    };
    serve(&mut site, &["elsewhere.example"], Validity::Current);
    attempts(&site, &full, Err(Code::PgCertificateName));
    attempts(&site, &chain, Ok(true));
    serve(&mut site, &["127.0.0.1"], Validity::Expired);
    attempts(&site, &chain, Err(Code::PgCertificateExpired));
    attempts(&site, &full, Err(Code::PgCertificateExpired));
    // A renewed certificate is taken up by the next connection.
    serve(&mut site, &["127.0.0.1"], Validity::Current);
    attempts(&site, &full, Ok(true));
    // An authority that was exchanged in its file is, too.
    let other = Authority::new("the next one").expect("an authority");
    site.postgres.serve_tls(served(&other, &["127.0.0.1"], Validity::Current, &other)).expect("served");
    attempts(&site, &full, Err(Code::PgCertificateUntrusted));
    site.file("ca.pem", &other.pem());
    attempts(&site, &full, Ok(true));
}

#[test]
fn tls_that_is_not_offered_is_named() {
    let site = crate::site::Site::start(18, &[]);
    let mut settings = site.settings();
    settings.tls = PostgresTls::new(TlsMode::Require, None, None);
    let error = Connection::connect(&settings, "pillarbox/test", LONG).expect_err("no TLS here");
    let attempt = Attempt { message: "cannot connect", settings: &settings };
    assert_eq!(error.fault(&attempt).code, Code::PgTlsNotOffered, "{error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let fault = runtime.block_on(Session::connect(&settings, "pillarbox/test")).expect_err("no TLS here");
    assert_eq!(fault.code, Code::PgTlsNotOffered, "{fault}");
}

/// Rows of many sizes, whole transactions larger than any buffer: everything arrives, in order, and the end of a
/// transaction does not wait for bytes that are here already.
#[test]
fn a_stream_over_tls_is_the_stream() {
    let site = Secured::start(18);
    let sql = "CREATE TABLE outbox (id int PRIMARY KEY, payload text); \
        CREATE PUBLICATION p FOR TABLE outbox WITH (publish = 'insert')";
    site.postgres.execute("shop", sql).expect("a table");
    site.postgres
        .execute("shop", "SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        .expect("a slot");
    for rows in ["1, 1", "2, 20001", "20002, 20002"] {
        let sql = format!(
            "INSERT INTO outbox SELECT id, repeat('x', CASE WHEN id % 97 = 0 THEN 70000 ELSE id % 300 END) \
             FROM generate_series({rows}) id"
        );
        site.postgres.execute("shop", &sql).expect("rows");
    }
    let settings = site.settings("relay", site.tls(TlsMode::VerifyFull, Some("ca.pem"), None));
    let connection = Connection::connect(&settings, "pillarbox/test", LONG).expect("a connection");
    let mut stream = connection.start_replication("s", "p").expect("a stream");
    assert_eq!(stream.link.way(), Way::Loopback);
    for rows in [1, 20_000, 1] {
        let seen = read_until(&mut stream, is_commit).expect("a transaction");
        assert_eq!(tags(&seen).matches('I').count(), rows);
    }
    stream.link.close();
}
