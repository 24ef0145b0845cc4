//! Real Kafka clusters: start, topics, kill, restart.

use std::time::Duration;

use pillarbox_lab::process::wait_gone;
use pillarbox_lab::{Kafka, KafkaOptions, LabError};

#[test]
fn one_broker_starts_serves_and_stops() -> Result<(), LabError> {
    let mut kafka = Kafka::start(KafkaOptions::default())?;
    kafka.create_topic("orders", 8, &[("retention.ms", "100000")])?;
    assert!(kafka.create_topic("orders", 8, &[]).is_err(), "a topic is made once");
    kafka.delete_topic("orders")?;
    kafka.suspend(1)?;
    kafka.resume(1)?;
    kafka.kill9(1)?;
    kafka.start_broker(1)?;
    let pid = kafka.pid(1).expect("running");
    kafka.stop()?;
    assert!(wait_gone(pid, Duration::ZERO));
    assert_eq!(kafka.pid(1), None);
    kafka.start_again()
}

#[test]
fn a_port_in_use_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let refused = Kafka::start(KafkaOptions { ports: Some(vec![port]), ..KafkaOptions::default() });
    assert!(matches!(&refused, Err(LabError::PortTaken { .. })), "{refused:?}");
}

#[test]
fn three_brokers_lose_one_and_get_it_back() -> Result<(), LabError> {
    let mut kafka = Kafka::start(KafkaOptions::brokers(3))?;
    assert_eq!(kafka.bootstrap().split(',').count(), 3);
    kafka.create_topic("orders", 6, &[])?;
    kafka.kill9(2)?;
    kafka.wait_ready()?;
    kafka.start_broker(2)?;
    kafka.stop()
}

#[test]
fn a_kept_cluster_has_its_topics_again_on_other_ports() -> Result<(), LabError> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("open");
    let kept = || KafkaOptions { data_dir: Some(folder.path().join("kafka")), ..KafkaOptions::default() };
    let mut kafka = Kafka::start(kept())?;
    kafka.create_topic("orders", 2, &[])?;
    kafka.stop()?;
    drop(kafka);
    let kafka = Kafka::start(kept())?;
    kafka.delete_topic("orders")
}

#[test]
fn the_last_kafka_with_the_old_transaction_protocol_starts() -> Result<(), LabError> {
    let mut kafka = Kafka::start(KafkaOptions { version: "3.9.1".into(), ..KafkaOptions::default() })?;
    kafka.create_topic("orders", 2, &[])?;
    kafka.stop()
}
