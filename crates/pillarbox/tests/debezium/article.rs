//! The connector of a well-known article, which Debezium itself refuses: imported, set up and run. Only the address of
//! the database is another one: there is no host `postgres` here.

use std::fs;
use std::process::Command;

use pillarbox_lab::{KafkaOptions, PostgresOptions};
use rdkafka::message::{Headers, Message};

use super::harness::records::{self, Isolation};
use super::harness::site::Site;
use super::{STEP_MAX, harness};

const CONNECTOR: &str = include_str!("article.json");
const TABLE: &str = "CREATE TABLE outbox_events (id uuid PRIMARY KEY, aggregate_type varchar(255) NOT NULL, \
                     aggregate_id varchar(255) NOT NULL, type varchar(255) NOT NULL, payload jsonb)";
const ROW: &str = "INSERT INTO outbox_events VALUES ('00000000-0000-0000-0000-000000000001', 'Order', '157', \
                   'OrderCreated', '{\"row\": \"live\"}')";

#[test]
fn the_articles_connector_runs_as_it_stands() {
    let options =
        PostgresOptions { superuser_password: Some("secret".into()), ..PostgresOptions::version(15) };
    let site = Site::start(options, KafkaOptions::default());
    let execute = |database: &str, sql: &str| site.postgres.execute(database, sql).expect(sql);
    execute("postgres", "CREATE ROLE debezium LOGIN SUPERUSER PASSWORD 'dbz'");
    execute("postgres", "CREATE DATABASE orders OWNER debezium");
    execute("orders", TABLE);
    let (file, connector) = (site.path("article.yaml"), site.path("connector.json"));
    fs::write(&connector, CONNECTOR).expect("a file");
    let brokers = site.kafka.bootstrap();
    let output = Command::new(harness::relay::BINARY)
        .args(["import", "debezium", "--kafka", &brokers, "-o"])
        .arg(&file)
        .arg(&connector)
        .output()
        .expect("the binary runs");
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{report}{}", String::from_utf8_lossy(&output.stderr));
    for part in ["read as route.by.field", "read as table.field.event.payload", "0 unsupported"] {
        assert!(report.contains(part), "{part}:\n{report}");
    }
    let yaml = fs::read_to_string(&file).expect("YAML");
    assert!(yaml.contains("@postgres:5432/orders") && !format!("{yaml}{report}").contains("dbz@"), "{yaml}");
    let here = format!("@127.0.0.1:{}/orders", site.postgres.port());
    fs::write(&file, yaml.replace("@postgres:5432/orders", &here)).expect("a file");
    let mut configuration = site.configured("orders_connector", 1, file);
    configuration.env = vec![("PGPASSWORD", "dbz")];
    site.setup(&configuration);
    let mut relay = site.relay(&configuration);
    execute("orders", ROW);
    relay.wait_count("events_total", 1, STEP_MAX);
    let mut found = Vec::new();
    records::read(&brokers, "Order-events", Isolation::Committed, |message| {
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.expect("there").to_vec()).expect("text");
        let headers = message.headers().expect("headers").iter();
        let headers: Vec<String> = headers.take(2).map(|h| format!("{}={}", h.key, text(h.value))).collect();
        found.push((text(message.key()), text(message.payload()), headers));
    });
    let headers = vec!["id=00000000-0000-0000-0000-000000000001".to_owned(), "aggregate_id=157".to_owned()];
    assert_eq!(found, [("157".to_owned(), "{\"row\": \"live\"}".to_owned(), headers)]);
}
