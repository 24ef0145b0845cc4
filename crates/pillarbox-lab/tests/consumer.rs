//! The independent reader on a real broker: it sees what was committed, and only that.

use std::time::{Duration, SystemTime};

use pillarbox_lab::consumer::{Tail, read_to_end};
use pillarbox_lab::history::ValueHash;
use pillarbox_lab::{Kafka, KafkaOptions, LabError};
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const LIMIT: Duration = Duration::from_secs(60);

/// Writes these ids in one transaction, and ends it as told.
fn write(producer: &BaseProducer, ids: std::ops::Range<u32>, commit: bool) {
    send(producer, ids);
    let end = if commit { producer.commit_transaction(LIMIT) } else { producer.abort_transaction(LIMIT) };
    end.expect("ended");
}

/// Writes these ids in a transaction.
fn send(producer: &BaseProducer, ids: std::ops::Range<u32>) {
    producer.begin_transaction().expect("begun");
    for id in ids {
        let text = id.to_string();
        let headers = OwnedHeaders::new().insert(Header { key: "id", value: Some(&text) });
        let record = BaseRecord::to("orders").key(&text).payload("value").headers(headers);
        producer.send(record).expect("queued");
    }
    producer.flush(LIMIT).expect("acknowledged");
}

#[test]
fn only_what_was_committed_is_read() -> Result<(), LabError> {
    let mut kafka = Kafka::start(KafkaOptions::default())?;
    kafka.create_topic("orders", 4, &[])?;
    kafka.create_topic("empty", 2, &[])?;
    let topics = ["orders", "empty"].map(str::to_owned);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .set("transactional.id", "test")
        .create()
        .expect("a producer");
    producer.init_transactions(LIMIT).expect("fenced");
    write(&producer, 0..50, true);
    // Also what is visible later than it was written.
    assert_eq!(read_to_end(&kafka.bootstrap(), &topics, LIMIT)?.len(), 50);
    let mut tail = Tail::start(&kafka.bootstrap(), &topics)?;
    write(&producer, 50..70, false);
    let before = SystemTime::now();
    write(&producer, 70..100, true);

    let records = read_to_end(&kafka.bootstrap(), &topics, LIMIT)?;
    let mut ids: Vec<u32> = records.iter().filter_map(|r| r.id.as_ref()?.parse().ok()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..50).chain(70..100).collect::<Vec<u32>>());
    assert!(records.iter().all(|r| r.value == ValueHash::of(Some(b"value"))));
    assert!(records.iter().all(|r| r.key.as_deref() == r.id.as_deref().map(str::as_bytes)));

    for _ in 70..100 {
        let received = tail.next(LIMIT)?.expect("a record");
        assert!(received.record.id.expect("an id").parse::<u32>().expect("a number") >= 70);
        assert!(received.at >= before);
    }
    assert!(tail.next(Duration::from_millis(300))?.is_none());

    // What is open for a moment is waited for, as markers are.
    let read = std::thread::scope(|scope| {
        send(&producer, 100..110);
        let ended = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(500));
            producer.commit_transaction(LIMIT).expect("ended");
        });
        let read = read_to_end(&kafka.bootstrap(), &topics, LIMIT);
        ended.join().expect("no panic");
        read
    })?;
    assert_eq!(read.len(), 90);
    assert!(read_to_end(&kafka.bootstrap(), &["missing".to_owned()], LIMIT).is_err());
    Ok(())
}
