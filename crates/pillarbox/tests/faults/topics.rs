//! Topics that disappear, are replaced or changed, and a Kafka cluster that is another one.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use pillarbox_lab::{Kafka, KafkaOptions};
use pillarbox_wire::header::{PB_POS, PbPos};
use rdkafka::message::Message;

use crate::harness::dice::Dice;
use crate::harness::records::{Isolation, header, read};
use crate::harness::relay::Relay;
use crate::harness::site::{Answer, Site};
use crate::harness::until::until;
use crate::probe;
use crate::world::{PARTITIONS, PATIENCE, load, settle, site, streaming};

/// A halt must come within the producer's attempts, not at some time-out.
const HALT_MAX: Duration = Duration::from_secs(20);

pub(crate) const TOPIC: &str = "outbox.event.order";

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

/// fault: 40 deleted under load, then created anew by somebody
/// holds: it halts; it never creates the topic again, and writes nothing into the successor
/// told: PB-2006, then PB-2007, with the topic
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
    refused(&site.command(&["repartition", TOPIC], &configuration), "PB-2006");
    assert!(!probe::topics(&site).iter().any(|topic| topic == TOPIC), "it was re-created silently");
    site.kafka.create_topic(TOPIC, PARTITIONS, &[]).expect("a topic of that name");
    refused(&site.command(&["run", "--exit-on-halt"], &configuration), "PB-2007");
    refused(&site.command(&["repartition", TOPIC], &configuration), "PB-2007");
    let mut relay = site.relay(&configuration);
    halted(&mut relay, &["PB-2007"]);
    load.stop();
    load.finish().expect("the writers end");
    assert!(probe::records(&site, TOPIC, 4).is_empty(), "events went to the successor");
}

/// fault: 40 replaced in one go under load
/// holds: no event goes to the successor
/// told: PB-2006 or PB-2007 with the topic
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

/// fault: 41 the file names another, empty cluster
/// holds: it halts; nothing is made there
/// told: PB-2008
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

/// fault: 41 deleted under load
/// holds: it halts; neither `run` nor `setup` begins a new history
/// told: PB-2006 or PB-2008 with the topic, `setup` PB-2009
#[test]
fn a_checkpoint_topic_deleted_under_load_halts_and_setup_does_not_begin_anew() {
    let site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, _) = load(&site, Dice::new().seed(), 300.0);
    relay.wait_count("events_total", 1_000, PATIENCE);
    site.kafka.delete_topic("__pillarbox.orders").expect("the topic is deleted");
    relay.wait_state("halted", HALT_MAX);
    let fault = relay.status().expect("a status")["fault"].clone();
    // From the produce, or, where that was unclear, from the start that followed.
    assert!(fault["code"] == "PB-2006" || fault["code"] == "PB-2008", "{fault}");
    assert!(fault["message"].as_str().expect("text").contains("__pillarbox.orders"), "{fault}");
    assert_eq!(relay.terminate(Duration::from_secs(10)).code(), Some(0));
    load.stop();
    load.finish().expect("the writers end");
    refused(&site.command(&["run", "--exit-on-halt"], &configuration), "PB-2008");
    refused(&site.command(&["setup"], &configuration), "PB-2009");
    assert!(!probe::topics(&site).iter().any(|topic| topic.starts_with("__pillarbox")));
}

/// Changes a topic as an administrator does.
pub(crate) fn administer(site: &Site, tool: &str, words: &[&str]) {
    let output =
        site.kafka.tool(tool).args(["--alter", "--topic", TOPIC]).args(words).output().expect("java runs");
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
}

/// fault: 40 partitions are added under load
/// holds: nothing lost; every key stays in its partition
/// told: PB-2013 as a warning
#[test]
fn more_partitions_are_warned_of_and_move_no_key() {
    let site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, options) = load(&site, Dice::new().seed(), 200.0);
    relay.wait_count("events_total", 500, PATIENCE);
    administer(&site, "org.apache.kafka.tools.TopicCommand", &["--partitions", "12"]);
    let more = relay.count("events_total") + 500;
    relay.wait_count("events_total", more, PATIENCE);
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
    relay = site.relay(&configuration);
    relay.wait_count("events_total", 500, PATIENCE);
    assert!(relay.log_tail().contains("PB-2013"), "no warning: {}", relay.log_tail());
    // The judge knows the pinned count only.
    settle(&site, &configuration, load, &options);
}

/// fault: 31 `max.message.bytes` is lowered under load to a few records
/// holds: nothing lost; batches get smaller
/// told: PB-2016 in the log
#[test]
fn a_topic_that_takes_smaller_batches_from_now_on_gets_smaller_batches() {
    let site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, options) = load(&site, Dice::new().seed(), 400.0);
    relay.wait_count("events_total", 500, PATIENCE);
    // A record takes about 400 bytes, a batch in this load a few of them.
    administer(&site, "kafka.admin.ConfigCommand", &["--add-config", "max.message.bytes=700"]);
    let (starts, _) = until("a start that reads the limits again", PATIENCE, || {
        Some(relay.count("starts_total")).filter(|starts| *starts >= 2)
    });
    relay.wait_state("streaming", PATIENCE);
    assert!(relay.log_tail().contains("PB-2016"), "{}", relay.log_tail());
    let more = relay.count("events_total") + 1_000;
    relay.wait_count("events_total", more, PATIENCE);
    println!("streams since start {starts}, now at {}", relay.count("starts_total"));
    settle(&site, &configuration, load, &options);
}

/// fault: 40 an administrator removes all records of a topic under load, as retention does
/// holds: nothing is published again, nothing is left out: sequences go on where they were
/// told: nothing: what was published may go; Kafka refuses the same for the checkpoint topic
#[test]
fn records_that_retention_removes_change_nothing() {
    let site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, _) = load(&site, Dice::new().seed(), 300.0);
    relay.wait_count("events_total", 2_000, PATIENCE);
    let delete = |topic: &str, partitions: u32| {
        let all: Vec<String> = (0..partitions)
            .map(|n| format!("{{\"topic\": \"{topic}\", \"partition\": {n}, \"offset\": -1}}"))
            .collect();
        let file = site.path("records.json");
        fs::write(&file, format!("{{\"partitions\": [{}], \"version\": 1}}", all.join(", ")))
            .expect("a file");
        let mut java = site.kafka.tool("org.apache.kafka.tools.DeleteRecordsCommand");
        let output = java.arg("--offset-json-file").arg(&file).output().expect("java runs");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let refused = delete("__pillarbox.orders", 1);
    assert!(refused.contains("POLICY_VIOLATION") || refused.contains("PolicyViolation"), "{refused}");
    let done = delete(TOPIC, PARTITIONS);
    assert!(done.contains("low_watermark"), "{done}");
    relay.kill9();
    relay.start_again();
    relay.wait_count("events_total", 1_000, PATIENCE);
    load.stop();
    let log = load.finish().expect("the writers know what they committed");
    site.caught_up(&configuration, PATIENCE);
    let mut last = BTreeMap::new();
    let mut firsts = Vec::new();
    read(&site.kafka.bootstrap(), TOPIC, Isolation::Committed, |message| {
        let pb_pos = header(message, PB_POS).expect("a position");
        let sequence = PbPos::parse(&pb_pos).expect("a position").sequence.0;
        match last.insert(message.partition(), sequence) {
            None => firsts.push(sequence),
            Some(before) => assert_eq!(sequence, before + 1, "partition {}", message.partition()),
        }
    });
    assert!(firsts.iter().all(|first| *first > 1), "nothing was removed: {firsts:?}");
    let committed = log.committed().flat_map(|transaction| &transaction.events);
    let written = committed.filter(|event| event.aggregatetype == "order").count();
    assert_eq!(last.values().sum::<u64>(), written as u64, "the last sequences count all events");
}

/// fault: 39 a topic is to have more replicas than there are brokers, as it seems where all of them are out of touch with
/// their controller
/// holds: nothing lost: the pipeline tries again until the topic is there
/// told: `/readyz` 503 with PB-2016 and the topic
#[test]
fn a_topic_that_needs_more_brokers_is_waited_for() {
    const NEW: &str = "outbox.event.new";
    let mut site = site();
    let compacted = ("cleanup.policy", "compact");
    site.kafka.create_topic("__pillarbox.orders", 1, &[compacted]).expect("the topic");
    let configuration = site.configure("orders", PARTITIONS, &[]);
    let text = fs::read_to_string(&configuration.file).expect("the file");
    let text = text.replace("topics: { ", "topics: { replication_factor: 2, ");
    fs::write(&configuration.file, text).expect("written");
    site.setup(&configuration);
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", PATIENCE);
    let sql = "INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload) \
               SELECT gen_random_uuid(), 'new', 'k' || i, 'made', '{}' FROM generate_series(1, 100) i";
    site.postgres.execute("postgres", sql).expect("rows");
    let (told, _) = until("it is told", PATIENCE, || {
        let (code, text) = relay.get("/readyz")?;
        (code == 503 && text.contains("PB-2016")).then_some(text)
    });
    assert!(told.contains(NEW) && told.contains("replication_factor"), "{told}");
    site.kafka.create_topic(NEW, PARTITIONS, &[]).expect("the topic");
    site.caught_up(&configuration, PATIENCE);
    let partitions = i32::try_from(PARTITIONS).expect("a few");
    assert_eq!(probe::records(&site, NEW, partitions).len(), 100);
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
}

/// fault: 40 the name of a new topic differs from another one's by a dot alone, which Kafka does not take
/// holds: it halts before the first event for that topic
/// told: PB-2012 with the topic
#[test]
fn a_topic_that_kafka_refuses_halts() {
    let site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    let insert = |kind: &str| {
        let sql = format!(
            "INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload) \
             VALUES (gen_random_uuid(), '{kind}', 'k', 'made', '{{}}')"
        );
        site.postgres.execute("postgres", &sql).expect("a row");
    };
    insert("a.b");
    site.caught_up(&configuration, PATIENCE);
    insert("a_b");
    relay.wait_state("halted", PATIENCE);
    let fault = relay.status().expect("a status")["fault"].clone();
    assert_eq!(fault["code"], "PB-2012", "{fault}");
    assert!(fault["message"].as_str().is_some_and(|text| text.contains("outbox.event.a_b")), "{fault}");
    assert!(fault["hint"].as_str().is_some_and(|text| text.contains("underscores")), "{fault}");
}
