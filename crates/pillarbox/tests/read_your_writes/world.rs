//! A pipeline for messages, a consumer's database beside it, and sessions in either.

use std::process::Command;
use std::time::Duration;

use pillarbox_lab::http::exchange;
use pillarbox_lab::{KafkaOptions, PostgresOptions};
use pillarbox_wire::header::PB_POS;
use rdkafka::message::Message;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use super::STEP_MAX;
use super::harness::records::{Isolation, header, read};
use super::harness::relay::{BINARY, Relay};
use super::harness::site::{Configuration, Site};

/// How long an answer may take that waits.
const ANSWER_MAX: Duration = Duration::from_secs(90);

/// The database with the read model.
pub(crate) const MODEL: &str = "model";

/// The topic of every event here.
pub(crate) const TOPIC: &str = "outbox.event.order";

/// Servers, one streaming relay, and an empty read model: a table of the ids of the events that were applied.
pub(crate) struct World {
    pub(crate) site: Site,
    pub(crate) configuration: Configuration,
    pub(crate) relay: Relay,
    runtime: Runtime,
}

/// A connection whose transaction can stay open.
pub(crate) struct Session<'w> {
    client: Client,
    runtime: &'w Runtime,
}

impl World {
    pub(crate) fn start(version: u32) -> Self {
        let site = Site::start(PostgresOptions::version(version), KafkaOptions::default());
        let configuration = site.configure("orders", 4, &[]);
        let text = std::fs::read_to_string(&configuration.file).expect("the file");
        std::fs::write(&configuration.file, format!("{text}messages: {{ prefix: outbox }}\n"))
            .expect("written");
        site.setup(&configuration);
        site.postgres.execute("postgres", &format!("CREATE DATABASE {MODEL}")).expect("a database");
        let mut setup = Command::new(BINARY);
        let setup = setup.args(["setup", "--consumer", &site.postgres.superuser_url(MODEL)]).output();
        assert!(setup.expect("it runs").status.success());
        site.postgres.execute(MODEL, "CREATE TABLE applied (id text PRIMARY KEY)").expect("a table");
        let mut relay = site.relay(&configuration);
        relay.wait_state("streaming", STEP_MAX);
        let runtime = Runtime::new().expect("a runtime");
        Self { site, configuration, relay, runtime }
    }

    pub(crate) fn session(&self, database: &str) -> Session<'_> {
        let url = self.site.postgres.superuser_url(database);
        let client = self.runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("a session");
            tokio::spawn(connection);
            client
        });
        Session { client, runtime: &self.runtime }
    }

    /// `GET /api/v1/events?` of this world's relay.
    pub(crate) fn ask(&self, query: &str) -> (u16, Value) {
        ask(self.configuration.port, query)
    }

    /// The answer that everything has arrived.
    pub(crate) fn arrived(&self, query: &str) -> Value {
        let (code, answer) = self.ask(query);
        assert_eq!((code, &answer["reached"]), (200, &Value::Bool(true)), "{query}: {answer}");
        answer
    }

    /// Does what the consumer does: everything that is in Kafka, once.
    pub(crate) fn consume(&self) {
        let session = self.session(MODEL);
        read(&self.site.kafka.bootstrap(), TOPIC, Isolation::Committed, |message| {
            let (pos, id) = (header(message, PB_POS).expect("pb-pos"), header(message, "id").expect("an id"));
            session.run("BEGIN");
            let accept = format!(
                "SELECT pillarbox.accept('shipping', '{TOPIC}', {}, '{pos}', {})",
                message.partition(),
                message.offset()
            );
            if session.one(&accept) == "true" {
                session.run(&format!("INSERT INTO applied VALUES ('{id}')"));
            }
            session.run("COMMIT");
        });
    }
}

pub(crate) fn ask(port: u16, query: &str) -> (u16, Value) {
    ask_within(ANSWER_MAX, port, query)
}

pub(crate) fn ask_within(answer_max: Duration, port: u16, query: &str) -> (u16, Value) {
    let answer = exchange(port, "GET", &format!("/api/v1/events?{query}"), "", answer_max);
    let (code, body) = answer.unwrap_or_else(|error| panic!("{query}: {error}"));
    (code, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{query}: {error}: {body}")))
}

impl Session<'_> {
    pub(crate) fn run(&self, sql: &str) {
        self.try_run(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub(crate) fn try_run(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.runtime.block_on(self.client.batch_execute(sql))
    }

    /// The first column of the only row, as text.
    pub(crate) fn one(&self, sql: &str) -> String {
        let sql = format!("SELECT x::text FROM ({sql}) AS y (x)");
        let row = self.runtime.block_on(self.client.query_one(&sql, &[]));
        row.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    /// Emits an event; gives its id.
    pub(crate) fn emit(&self, key: &str) -> String {
        self.one(&format!("SELECT pillarbox.emit('order', '{key}', 'placed', '{{}}'::jsonb)"))
    }

    pub(crate) fn token(&self) -> String {
        self.one("SELECT pillarbox.token()")
    }

    /// Whether the read model holds an event.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.one(&format!("SELECT count(*) FROM applied WHERE id = '{id}'")) == "1"
    }

    pub(crate) fn applied(&self, receipt: &str) -> bool {
        self.one(&format!("SELECT pillarbox.applied('{receipt}', 'shipping')")) == "true"
    }
}
