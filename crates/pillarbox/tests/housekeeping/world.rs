//! A site, sessions that stay open, a keeper of our own, and what is in a topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use pillarbox_lab::{KafkaOptions, PostgresOptions};
use pillarbox_relay::config::{self, Config, Housekeeping, Outbox, TableName};
use pillarbox_relay::housekeeping::{Duty, Keeper};
use rdkafka::message::Message;
use serde_json::Value;
use tokio_postgres::{Client, Error, NoTls};

use crate::harness::records::{Isolation, read};
use crate::harness::relay::Relay;
use crate::harness::site::{Configuration, Site};
use crate::harness::until::until;

/// How long anything that comes by itself may take on a machine that does other things too.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(180);

/// Servers, Postgres of this version.
pub(crate) fn site(version: u32) -> Site {
    let postgres = PostgresOptions::version(version).setting("max_prepared_transactions", "5");
    Site::start(postgres, KafkaOptions::default())
}

pub(crate) fn execute(site: &Site, sql: &str) {
    site.postgres.execute("postgres", sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

pub(crate) fn one(site: &Site, sql: &str) -> String {
    site.postgres.query_one("postgres", sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Waits until a query answers so.
pub(crate) fn answers(site: &Site, sql: &str, expected: &str) {
    until(sql, PATIENCE, || (one(site, sql) == expected).then_some(()));
}

/// A relay that streams.
pub(crate) fn streaming(site: &Site, configuration: &Configuration) -> Relay {
    let mut relay = site.relay(configuration);
    relay.wait_state("streaming", PATIENCE);
    relay
}

/// What the relay says of the one table that it keeps.
pub(crate) fn kept(relay: &Relay) -> Value {
    relay.status().map(|status| status["housekeeping"][0].clone()).unwrap_or_default()
}

/// Waits until a count of what is kept is at least this.
pub(crate) fn wait_kept(relay: &Relay, name: &str, least: u64) {
    until(&format!("{name} is {least}"), PATIENCE, || (kept(relay)[name].as_u64()? >= least).then_some(()));
}

/// The values of a topic with how often each is there.
pub(crate) fn values(site: &Site, topic: &str) -> BTreeMap<Vec<u8>, usize> {
    let mut values = BTreeMap::new();
    read(&site.kafka.bootstrap(), topic, Isolation::Committed, |message| {
        *values.entry(message.payload().unwrap_or_default().to_vec()).or_default() += 1;
    });
    values
}

/// How many values there are, each once.
///
/// # Panics
/// Where a value is there twice.
pub(crate) fn each_once(values: &BTreeMap<Vec<u8>, usize>) -> usize {
    assert!(values.values().all(|count| *count == 1), "{values:?}");
    values.len()
}

/// A session that may hold a transaction open; gone with its drop.
pub(crate) struct Session {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Session {
    pub(crate) fn open(site: &Site) -> Self {
        let runtime = runtime();
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&site.url(), NoTls).await.expect("a session");
            tokio::spawn(connection);
            client
        });
        Self { runtime, client }
    }

    pub(crate) fn run(&self, sql: &str) -> Result<(), Error> {
        self.runtime.block_on(self.client.batch_execute(sql))
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// Housekeeping without a relay around it that would stop it: the rule alone.
pub(crate) struct Alone {
    runtime: tokio::runtime::Runtime,
    keeper: Keeper,
}

impl Alone {
    pub(crate) fn new(site: &Site, pipeline: &str, table: &str, how: Housekeeping) -> Self {
        let table = TableName { schema: "public".into(), name: table.into() };
        let config = Config {
            pipeline: pipeline.parse().expect("a name"),
            postgres: config::Postgres {
                host: "127.0.0.1".into(),
                port: site.postgres.port(),
                user: "postgres".into(),
                password: None,
                database: "postgres".into(),
                slot: format!("pillarbox_{pipeline}"),
                publication: format!("pillarbox_{pipeline}"),
                tls: config::PostgresTls::default(),
                sql: None,
            },
            kafka: config::Kafka {
                brokers: vec![site.kafka.bootstrap()],
                tls: None,
                sasl: None,
                compression: config::Compression::None,
                topics: config::Topics::default(),
                transaction: config::Transaction::default(),
            },
            outbox: vec![Outbox { housekeeping: how, ..Outbox::debezium(table) }],
            messages: None,
        };
        Self { runtime: runtime(), keeper: Keeper::new(Arc::new(config)) }
    }

    /// A round as of a relay that streams.
    pub(crate) fn round(&mut self) {
        self.runtime.block_on(self.keeper.round(&|| Duty::All));
        let fault = self.keeper.kept()[0].fault.clone();
        assert_eq!(fault, None);
    }
}
