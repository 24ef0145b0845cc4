//! Writes an invoice for each event once. Must never commit an offset before the effect.

use std::env::var;

use pillarbox_consumer::PB_POS;
use pillarbox_consumer::inbox::{Error, Event, Inbox};
use rdkafka::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use tokio::signal::unix::{SignalKind, signal};
use tokio_postgres::{Client, NoTls};

async fn apply(db: &mut Client, record: &BorrowedMessage<'_>) -> Result<(), Error<tokio_postgres::Error>> {
    let pb_pos =
        record.headers().and_then(|headers| headers.iter().find(|header| header.key == PB_POS)?.value);
    let (topic, partition, offset) = (record.topic(), record.partition(), Some(record.offset()));
    let mut tx = db.transaction().await?;
    if Inbox::new("billing").accept(&mut tx, Event { topic, partition, pb_pos, offset }).await?.applies() {
        // The effect: in the same transaction, or it is not once.
        let [order, content] = [record.key(), record.payload()].map(|part| part.map(String::from_utf8_lossy));
        let insert = "INSERT INTO invoices (order_id, content) VALUES ($1, $2::text::jsonb)";
        tx.execute(insert, &[&order.as_deref(), &content.as_deref()]).await?;
    }
    Ok(tx.commit().await?)
}

#[tokio::main(flavor = "current_thread")]
pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut login = tokio_postgres::Config::new();
    login.host(var("PGHOST")?).port(var("PGPORT")?.parse()?).dbname(var("PGDATABASE")?);
    login.user(var("PGUSER")?).password(var("PGPASSWORD").unwrap_or_default());
    let (mut db, connection) = login.connect(NoTls).await?;
    tokio::spawn(connection);

    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", var("KAFKA_BROKERS")?);
    config.set("group.id", var("KAFKA_GROUP")?).set("auto.offset.reset", "earliest");
    config.set("isolation.level", "read_committed").set("enable.auto.commit", "false");
    let consumer: StreamConsumer = config.create()?;
    consumer.subscribe(&[&var("KAFKA_TOPIC")?])?;
    let mut stop = signal(SignalKind::terminate())?;
    loop {
        let record = tokio::select! { record = consumer.recv() => record?, _ = stop.recv() => return Ok(()) };
        match apply(&mut db, &record).await {
            // After the effect. A hint, not waited for: the database knows what was applied.
            Ok(()) => consumer.commit_message(&record, CommitMode::Async)?,
            Err(error) if error.code().is_some() => {
                // A gap or another history: starting again does not help, a person decides.
                eprintln!("stopped at offset {}: {error}", record.offset());
                std::process::exit(65);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
