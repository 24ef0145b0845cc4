//! The read model: who is a member, and how many there are. Built from the topic, each event once.
//!
//! Must never change anything outside of the transaction that accepts the event.

use std::error::Error;

use pillarbox_consumer::PB_POS;
use pillarbox_consumer::inbox::{Event, Inbox};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::message::{Headers, Message};
use tokio_postgres::{Client, NoTls};

/// Whose positions they are; what a wait asks for.
pub(crate) const CONSUMER: &str = "members";

/// Where the relay puts events of aggregate type `member`.
const TOPIC: &str = "outbox.event.member";

/// Adding one twice would show.
const TABLES: &str = "\
    CREATE TABLE IF NOT EXISTS members (id text PRIMARY KEY, name text NOT NULL, place bigint NOT NULL);\
    CREATE TABLE IF NOT EXISTS total (members bigint NOT NULL);\
    INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT FROM total)";

/// Applies events for ever. Whatever ends it, it goes on where it was when it is called again.
pub(crate) async fn build(url: &str, brokers: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (mut client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(TABLES).await?;
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", CONSUMER)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("topic.metadata.refresh.interval.ms", "1000")
        .create()?;
    consumer.subscribe(&[TOPIC])?;
    loop {
        // A topic that does not exist yet is an error, and comes with the first event.
        let Ok(message) = consumer.recv().await else { continue };
        apply(&mut client, &message).await?;
        // A hint: the row of the inbox is the truth.
        consumer.commit_message(&message, CommitMode::Async)?;
    }
}

async fn apply<M: Message>(client: &mut Client, message: &M) -> Result<(), Box<dyn Error + Send + Sync>> {
    let headers: Vec<_> = message.headers().into_iter().flat_map(Headers::iter).collect();
    let pb_pos = headers.iter().find(|header| header.key == PB_POS).and_then(|header| header.value);
    let event = Event {
        topic: message.topic(),
        partition: message.partition(),
        pb_pos,
        offset: Some(message.offset()),
    };
    let mut tx = client.transaction().await?;
    if Inbox::new(CONSUMER).accept(&mut tx, event).await?.applies() {
        let id = std::str::from_utf8(message.key().unwrap_or_default())?;
        let joined: serde_json::Value = serde_json::from_slice(message.payload().unwrap_or_default())?;
        let name = joined["name"].as_str().unwrap_or_default();
        let row = tx.query_one("UPDATE total SET members = members + 1 RETURNING members", &[]).await?;
        let place: i64 = row.get(0);
        tx.execute("INSERT INTO members (id, name, place) VALUES ($1, $2, $3)", &[&id, &name, &place])
            .await?;
    }
    tx.commit().await?;
    Ok(())
}
