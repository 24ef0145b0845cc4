//! Transactional ids that somebody else takes, and those that the coordinator forgets.

use std::time::Duration;

use pillarbox_lab::{KafkaOptions, PostgresOptions};
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::harness::dice::Dice;
use crate::harness::site::Site;
use crate::harness::until::until;
use crate::world::{PATIENCE, load, settle, site, streaming};

/// Ids that a relay uses, as it comes; it has as many more.
const IDS_IN_USE: u64 = 4;
const IDS: usize = 8;
/// How often they are taken.
const ROUNDS: u64 = 3;
/// How long a foreign client may take for a step.
const FOREIGN_MAX: Duration = Duration::from_secs(30);

/// A client that calls itself as we do, and leaves a transaction open in our own topic.
fn intruder(site: &Site, n: u32, topic: &str) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", site.kafka.bootstrap())
        .set("transactional.id", format!("pillarbox.orders.{n}"))
        .set("transaction.timeout.ms", "20000")
        .create()
        .expect("a producer");
    producer.init_transactions(FOREIGN_MAX).expect("it takes the id");
    producer.begin_transaction().expect("begun");
    write(&producer, topic).expect("written");
    producer
}

/// Adds a record to the foreign transaction; an error once the client knows that it has lost its id.
fn write(producer: &BaseProducer, topic: &str) -> Result<(), KafkaError> {
    let record: BaseRecord<'_, str, str> = BaseRecord::to(topic).key("foreign").payload("foreign");
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(FOREIGN_MAX)
}

/// fault: 37 librdkafka takes the relay's ids one after the other, and leaves a transaction open in its topic
/// holds: nothing lost; none of what the foreign client wrote is visible
/// told: PB-2015 as a warning, each time
#[test]
fn a_foreign_client_with_our_ids_is_fenced_in_turn() {
    let site = site();
    let mut dice = Dice::new();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, options) = load(&site, dice.seed(), 300.0);
    relay.wait_count("events_total", 1_000, PATIENCE);
    for round in 1..=ROUNDS {
        let n = u32::try_from(dice.below(IDS_IN_USE)).expect("an id");
        let starts = relay.count("starts_total");
        let topic = &options.topics()[0];
        let intruder = intruder(&site, n, topic);
        // Not only until the relay starts: a start that comes before the id is taken leaves the client in possession.
        until("the relay takes its id back", PATIENCE, || write(&intruder, topic).err());
        relay.wait_count("starts_total", starts + 1, PATIENCE);
        let more = relay.count("events_total") + 500;
        relay.wait_count("events_total", more, PATIENCE);
        let refused = intruder.commit_transaction(FOREIGN_MAX);
        assert!(refused.is_err(), "round {round}: the foreign transaction was committed");
    }
    settle(&site, &configuration, load, &options);
    assert!(relay.log_count("PB-2015") >= usize::try_from(ROUNDS).expect("a few"), "{}", relay.log_tail());
}

/// Ids of the pipeline that the coordinators still know.
fn known_ids(site: &Site) -> usize {
    let mut java = site.kafka.tool("org.apache.kafka.tools.TransactionsCommand");
    let output = java.arg("list").output().expect("java runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains("pillarbox.orders.")).count()
}

/// fault: 38 coordinators forget ids after two seconds, partitions forget producers after one; idle, and stopped
/// holds: nothing lost; ids that are forgotten are taken anew
/// told: nothing
#[test]
fn ids_that_kafka_forgets_are_taken_anew() {
    let kafka = [
        ("transactional.id.expiration.ms", "2000"),
        ("transaction.remove.expired.transaction.cleanup.interval.ms", "500"),
        ("producer.id.expiration.ms", "1000"),
        ("producer.id.expiration.check.interval.ms", "500"),
    ];
    let kafka = kafka.iter().fold(KafkaOptions::default(), |kafka, (key, value)| kafka.setting(key, value));
    let site = Site::start(PostgresOptions::default(), kafka);
    let (configuration, mut relay) = streaming(&site, &[]);
    let insert = || {
        let sql = "INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload) \
                   SELECT gen_random_uuid(), 'order', 'k' || i, 'made', '{}' FROM generate_series(1, 50) i";
        (0..40).for_each(|_| site.postgres.execute("postgres", sql).expect("rows"));
    };
    let mut rows = 0;
    for idle in [true, true, false] {
        insert();
        rows += 2_000;
        site.caught_up(&configuration, PATIENCE);
        if idle {
            until("ids are forgotten", PATIENCE, || (known_ids(&site) < IDS).then_some(()));
        } else {
            relay.kill9();
            until("all ids are forgotten", PATIENCE, || (known_ids(&site) == 0).then_some(()));
            relay.start_again();
        }
    }
    insert();
    rows += 2_000;
    site.caught_up(&configuration, PATIENCE);
    println!("{}", relay.log_tail());
    let seen = crate::probe::records(&site, "outbox.event.order", 4);
    assert!(seen.windows(2).all(|pair| pair[0].position < pair[1].position), "an event came twice");
    assert_eq!(seen.len(), rows);
}
