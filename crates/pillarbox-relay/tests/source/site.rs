//! A private server with an outbox and a role, and ways to read its stream to an event.

use std::time::{Duration, Instant};

use pillarbox_lab::postgres::{Postgres, PostgresOptions};
use pillarbox_relay::config::{self, Secret};
use pillarbox_relay::error::Fault;
use pillarbox_relay::source::{Attempt, Connection, Frame, SlotInfo, SourceError, Stream, Wake};
use pillarbox_wire::lsn::Lsn;

pub(crate) const LONG: Duration = Duration::from_secs(30);
pub(crate) const VERSIONS: [u32; 2] = [15, 18];
pub(crate) const PASSWORD: &str = "correct horse";

/// A server with a database `shop`, an outbox, a role `relay` with a password, and entries in
/// pg_hba.conf for nobody else.
pub(crate) struct Site {
    pub(crate) postgres: Postgres,
}

impl Site {
    pub(crate) fn start(version: u32, settings: &[(&str, &str)]) -> Self {
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

    pub(crate) fn sql(&self, sql: &str) {
        self.postgres.execute("shop", sql).expect(sql);
    }

    pub(crate) fn one(&self, sql: &str) -> String {
        self.postgres.query_one("shop", sql).expect(sql)
    }

    pub(crate) fn settings(&self) -> config::Postgres {
        config::Postgres {
            host: "127.0.0.1".into(),
            port: self.postgres.port(),
            user: "relay".into(),
            password: Some(Secret::new(PASSWORD)),
            database: "shop".into(),
            slot: "s".into(),
            publication: "p".into(),
            tls: Default::default(),
            sql: None,
        }
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::connect(&self.settings(), "pillarbox/test", LONG).expect("a connection")
    }

    pub(crate) fn publish_and_create_slot(&self) {
        self.sql("CREATE PUBLICATION p FOR TABLE outbox WITH (publish = 'insert')");
        self.create_slot();
    }

    pub(crate) fn create_slot(&self) {
        self.one("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
    }

    /// A session that was refused may still hold the slot for a moment.
    pub(crate) fn drop_slot(&self, database: &str) {
        until("the slot is dropped", || {
            self.postgres.query_one(database, "SELECT pg_drop_replication_slot('s')").is_ok()
        });
    }

    pub(crate) fn stream(&self) -> Stream {
        self.connect().start_replication("s", "p").expect("a stream")
    }

    pub(crate) fn slot(&self) -> SlotInfo {
        self.connect().slot("s").expect("an answer").expect("a slot")
    }

    /// The fault of a connection with changed settings.
    pub(crate) fn refusal(&self, change: impl FnOnce(&mut config::Postgres)) -> Fault {
        let mut settings = self.settings();
        change(&mut settings);
        let error = Connection::connect(&settings, "pillarbox/test", LONG).expect_err("a refusal");
        fault(&error, &settings)
    }

    pub(crate) fn stream_refusal(&self) -> Fault {
        let error = self.connect().start_replication("s", "p").expect_err("a refusal");
        fault(&error, &self.settings())
    }
}

pub(crate) fn fault(error: &SourceError, settings: &config::Postgres) -> Fault {
    error.fault(&Attempt { message: "cannot stream", settings })
}

/// What a frame was, without its borrow.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
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
pub(crate) fn read_until(
    stream: &mut Stream,
    mut wanted: impl FnMut(&Seen) -> bool,
) -> Result<Vec<Seen>, SourceError> {
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

pub(crate) fn is_commit(seen: &Seen) -> bool {
    matches!(seen, Seen::Data(b'C', _))
}

/// `end_lsn` of a Commit message: type, flags, commit LSN, end LSN.
pub(crate) fn commit_end(seen: &[Seen]) -> Lsn {
    match seen.last() {
        Some(Seen::Data(b'C', data)) => Lsn(u64::from_be_bytes(data[10..18].try_into().expect("8 bytes"))),
        other => panic!("not a commit: {other:?}"),
    }
}

pub(crate) fn tags(seen: &[Seen]) -> String {
    seen.iter()
        .filter_map(|seen| match seen {
            Seen::Data(tag, _) => Some(char::from(*tag)),
            _ => None,
        })
        .collect()
}

/// Waits until the server says yes; the server is asked again and again, each answer is an event.
pub(crate) fn until(what: &str, mut answer: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !answer() {
        assert!(Instant::now() < deadline, "not in time: {what}");
    }
}
