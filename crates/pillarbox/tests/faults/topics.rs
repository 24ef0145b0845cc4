//! Topics that disappear or are replaced, and a Kafka cluster that is another one.

use std::fs;
use std::time::Duration;

use pillarbox_lab::{Kafka, KafkaOptions};

use crate::harness::dice::Dice;
use crate::harness::relay::Relay;
use crate::harness::site::Answer;
use crate::probe;
use crate::world::{PARTITIONS, PATIENCE, load, site, streaming};

/// A halt must come within the producer's attempts, not at some time-out.
const HALT_MAX: Duration = Duration::from_secs(20);

const TOPIC: &str = "outbox.event.order";

fn halted(relay: &mut Relay, codes: &[&str]) {
    let took = relay.wait_state("halted", HALT_MAX);
    let code = relay.fault().expect("a fault");
    println!("halted with {code} after {took:.2?}");
    assert!(codes.contains(&code.as_str()), "{code}");
    assert_eq!(relay.get("/livez").expect("an answer").0, 200);
    let (status, text) = relay.get("/readyz").expect("an answer");
    assert_eq!(status, 503);
    assert!(text.contains(&code) && text.contains("hint: ") && text.contains(TOPIC), "{text}");
}

fn refused(answer: &Answer, code: &str) {
    assert_eq!(answer.code, Some(65), "{}", answer.stderr);
    assert!(answer.stderr.contains(&format!("error[{code}]")), "{}", answer.stderr);
    assert!(answer.stderr.contains("hint: "), "{}", answer.stderr);
}

#[test]
fn a_topic_deleted_under_load_halts_and_so_does_its_successor() {
    let mut site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, _) = load(&site, Dice::new().seed(), 300.0);
    relay.wait_count("events_total", 1_000, PATIENCE);
    site.kafka.delete_topic(TOPIC).expect("the topic is deleted");
    halted(&mut relay, &["PB-2006"]);
    assert_eq!(relay.terminate(Duration::from_secs(10)).code(), Some(0));
    refused(&site.command(&["run", "--exit-on-halt"], &configuration), "PB-2006");
    assert!(!probe::topics(&site).iter().any(|topic| topic == TOPIC), "it was re-created silently");
    site.kafka.create_topic(TOPIC, PARTITIONS, &[]).expect("a topic of that name");
    refused(&site.command(&["run", "--exit-on-halt"], &configuration), "PB-2007");
    let mut relay = site.relay(&configuration);
    halted(&mut relay, &["PB-2007"]);
    load.stop();
    load.finish().expect("the writers end");
    assert!(probe::records(&site, TOPIC, 4).is_empty(), "events went to the successor");
}

#[test]
fn a_topic_replaced_under_load_halts_without_a_record_in_the_successor() {
    let mut site = site();
    let (_, mut relay) = streaming(&site, &[]);
    let (load, _) = load(&site, Dice::new().seed(), 300.0);
    relay.wait_count("events_total", 1_000, PATIENCE);
    site.kafka.delete_topic(TOPIC).expect("the topic is deleted");
    site.kafka.create_topic(TOPIC, PARTITIONS, &[]).expect("a topic of that name");
    halted(&mut relay, &["PB-2006", "PB-2007"]);
    load.stop();
    load.finish().expect("the writers end");
    assert!(probe::records(&site, TOPIC, 4).is_empty(), "events went to the successor");
}

#[test]
fn another_kafka_cluster_halts_and_stays_as_it_was() {
    let mut site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, _) = load(&site, Dice::new().seed(), 100.0);
    relay.wait_count("events_total", 100, PATIENCE);
    load.stop();
    load.finish().expect("the writers end");
    assert_eq!(relay.terminate(Duration::from_secs(25)).code(), Some(0));
    let former = site.kafka.bootstrap();
    site.kafka = Kafka::start(KafkaOptions::default()).expect("another cluster");
    let text = fs::read_to_string(&configuration.file).expect("the file");
    fs::write(&configuration.file, text.replace(&former, &site.kafka.bootstrap())).expect("the file");
    refused(&site.command(&["run", "--exit-on-halt"], &configuration), "PB-2008");
    let answer = site.command(&["setup"], &configuration);
    assert_eq!(answer.code, Some(65), "setup must not begin anew:\n{}{}", answer.stdout, answer.stderr);
    assert!(
        !probe::topics(&site)
            .iter()
            .any(|topic| topic.starts_with("__pillarbox") || topic.starts_with("outbox"))
    );
}
