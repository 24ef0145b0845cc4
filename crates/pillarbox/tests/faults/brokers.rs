//! Three brokers: leaders that move, replicas that are missing, and a leader that lacks what was acknowledged.
//!
//! Must never judge by the relay alone: what moved is asked of Kafka.

use std::collections::BTreeMap;
use std::time::Duration;

use pillarbox_lab::{KafkaOptions, PostgresOptions};
use pillarbox_wire::header::{PB_POS, PbPos};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;

use crate::harness::dice::Dice;
use crate::harness::records::{Isolation, header, read};
use crate::harness::site::Site;
use crate::harness::until::until;
use crate::world::{PATIENCE, load, settle, streaming};

/// Three JVMs on a busy machine.
const LONG: Duration = Duration::from_secs(120);

fn three() -> Site {
    Site::start(PostgresOptions::default(), KafkaOptions::brokers(3))
}

/// Runs one of Kafka's own tools.
fn tool(site: &Site, name: &str, words: &[&str]) {
    try_tool(site, name, words).unwrap_or_else(|error| panic!("{name}: {error}"));
}

fn try_tool(site: &Site, name: &str, words: &[&str]) -> Result<(), String> {
    let output = site.kafka.tool(name).args(words).output().expect("java runs");
    let failed = || String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or_else(failed)
}

/// Leader and number of replicas in sync of each partition of a topic.
fn leaders(site: &Site, topic: &str) -> Vec<(i32, usize)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", site.kafka.bootstrap())
        .set("group.id", "leaders")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), LONG).expect("metadata");
    let found = metadata.topics().iter().find(|found| found.name() == topic).expect("the topic");
    found.partitions().iter().map(|partition| (partition.leader(), partition.isr().len())).collect()
}

/// fault: 32 each broker hands its leaders and coordinators over and gets them back, under load
/// holds: nothing lost
/// told: nothing that needs anybody: the log has the starts
#[test]
fn leaders_and_coordinators_move_under_load() {
    let mut site = three();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, options) = load(&site, Dice::new().seed(), 100.0);
    for broker in 1..=3 {
        let more = relay.count("events_total") + 300;
        relay.wait_count("events_total", more, LONG);
        site.kafka.stop_broker(broker).expect("it hands over");
        let id = i32::try_from(broker).expect("a few");
        let topic = "__pillarbox.orders";
        until("its leaders moved", LONG, || {
            leaders(&site, topic).iter().all(|(at, _)| *at != id).then_some(())
        });
        let more = relay.count("events_total") + 300;
        relay.wait_count("events_total", more, LONG);
        site.kafka.start_broker(broker).expect("it is back");
        until("in sync", LONG, || leaders(&site, topic).iter().all(|(_, isr)| *isr == 3).then_some(()));
        let election = ["--election-type", "preferred", "--all-topic-partitions"];
        // One that is not in sync at this moment is refused.
        until("the preferred lead", LONG, || {
            let elected = try_tool(&site, "org.apache.kafka.tools.LeaderElectionCommand", &election);
            elected.inspect_err(|error| println!("{error}")).ok()
        });
    }
    let more = relay.count("events_total") + 300;
    relay.wait_count("events_total", more, LONG);
    println!("{} starts", relay.count("starts_total"));
    settle(&site, &configuration, load, &options);
}

/// fault: 39 a topic demands more replicas in sync than there are, until a broker is back
/// holds: nothing lost: the pipeline stands still meanwhile, and WAL waits in Postgres
/// told: `/readyz` 503 with PB-2016, PB-2022 or PB-3008
#[test]
fn too_few_replicas_in_sync_are_waited_for() {
    let mut site = three();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, options) = load(&site, Dice::new().seed(), 100.0);
    relay.wait_count("events_total", 300, LONG);
    let topic = &options.topics()[0];
    let all = ["--alter", "--topic", topic, "--add-config", "min.insync.replicas=3"];
    tool(&site, "kafka.admin.ConfigCommand", &all);
    site.kafka.kill9(3).expect("killed");
    until("too few in sync", LONG, || leaders(&site, topic).iter().any(|(_, isr)| *isr < 3).then_some(()));
    let (told, took) = until("it is told", LONG, || {
        assert!(relay.is_running(), "it ended");
        let (code, text) = relay.get("/readyz")?;
        // Of a transaction that was decided before, the marker may be what too few replicas would hold.
        let codes = ["PB-2016", "PB-2022", "PB-3008"];
        (code == 503 && codes.iter().any(|code| text.contains(code))).then_some(text)
    });
    println!("told after {took:.1?}: {told}");
    assert!(told.contains("hint: "), "{told}");
    site.kafka.start_broker(3).expect("it is back");
    relay.wait_state("streaming", LONG);
    settle(&site, &configuration, load, &options);
}

/// Sequences of the topic, by partition, in offset order.
fn sequences(site: &Site, topic: &str) -> BTreeMap<i32, Vec<u64>> {
    let mut found: BTreeMap<i32, Vec<u64>> = BTreeMap::new();
    read(&site.kafka.bootstrap(), topic, Isolation::Committed, |message| {
        let position = header(message, PB_POS).expect("every record has its position");
        let sequence = PbPos::parse(&position).expect("a position").sequence.0;
        found.entry(message.partition()).or_default().push(sequence);
    });
    found
}

/// fault: 39 a replica that was out of sync is elected: Kafka loses what it had acknowledged
/// holds: what is written afterwards goes on; what is missing shows as a gap in the sequences of its partition
/// told: PB-2017 by `check` beforehand; consumers see the gap at their next event
#[test]
fn an_unclean_election_shows_as_a_gap() {
    let mut site = three();
    let topic = "outbox.event.order";
    let risky = ["--create", "--topic", topic, "--replica-assignment", "1:3"];
    let risky = [
        &risky[..],
        &["--config", "min.insync.replicas=1", "--config", "unclean.leader.election.enable=true"],
    ];
    tool(&site, "org.apache.kafka.tools.TopicCommand", &risky.concat());
    let (configuration, mut relay) = streaming(&site, &[]);
    let insert = |site: &Site| {
        let sql = "INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload) \
                   SELECT gen_random_uuid(), 'order', 'k', 'made', '{}' FROM generate_series(1, 100) i";
        site.postgres.execute("postgres", sql).expect("rows");
        site.caught_up(&configuration, LONG);
    };
    insert(&site);
    let checked = site.command(&["check"], &configuration);
    assert!(checked.stdout.contains("PB-2017"), "{}", checked.stdout);
    until("in sync", LONG, || (leaders(&site, topic) == [(1, 2)]).then_some(()));
    site.kafka.kill9(3).expect("killed");
    until("alone", LONG, || (leaders(&site, topic) == [(1, 1)]).then_some(()));
    // Acknowledged by the only replica in sync.
    insert(&site);
    site.kafka.kill9(1).expect("killed");
    site.kafka.start_broker(3).expect("it is back");
    until("the other one leads", LONG, || (leaders(&site, topic)[0].0 == 3).then_some(()));
    site.kafka.start_broker(1).expect("it is back");
    relay.wait_state("streaming", LONG);
    insert(&site);
    let seen = sequences(&site, topic).remove(&0).expect("events");
    let expected: Vec<u64> = (1..=100).chain(201..=300).collect();
    assert_eq!(seen, expected, "what was lost shows, and nothing else");
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
}
