//! The links between the relay and each broker of three.

use std::time::Duration;

use pillarbox_lab::KafkaOptions;
use pillarbox_lab::proxy::{Action, ApiKey, Direction, Kind, Proxy, Trigger, Weather};

use crate::harness::relay::Relay;
use crate::harness::until::until;
use crate::world::{Network, PATIENCE, Told, goes_on};

/// What says that a broker was lost, or that commits stand still.
const LOST: [&str; 5] = ["PB-2018", "PB-2001", "PB-2015", "PB-2016", "PB-3008"];

/// What slows a broker down without losing it.
fn slow() -> [(&'static str, Weather); 4] {
    [
        ("200 ms late", Weather::delayed(Duration::from_millis(200))),
        ("up to 200 ms late", Weather::jittery(Duration::from_millis(200))),
        ("a byte at a time", Weather::sliced(1)),
        ("flapping every 100 ms", Weather::flapping(Duration::from_millis(100))),
    ]
}

fn each_slow(network: &Network, relay: &mut Relay) {
    for (name, weather) in slow() {
        for (broker, proxy) in (1..).zip(&network.brokers) {
            let told = Told::before(relay);
            proxy.set_all(weather);
            goes_on(relay);
            told.nothing(relay, &format!("broker {broker} {name}"));
            proxy.clear();
        }
    }
}

/// The broker that a request of this kind goes to next.
fn next(network: &Network, api: ApiKey, action: Action) -> usize {
    let caught: Vec<_> =
        network.brokers.iter().map(|proxy| proxy.catch(Trigger::Request(api), action)).collect();
    until("a request", PATIENCE, || caught.iter().position(|caught| caught.is_caught())).0
}

fn each_broken(network: &Network, relay: &mut Relay) {
    type Fault = fn(&Proxy) -> usize;
    let faults: [(&str, Fault); 3] = [
        ("reset", |proxy| proxy.reset(&Kind::ALL)),
        ("ended towards it", |proxy| proxy.finish(&Kind::ALL, Direction::ToServer)),
        ("ended towards the relay", |proxy| proxy.finish(&Kind::ALL, Direction::ToClient)),
    ];
    for (name, fault) in faults {
        for (broker, proxy) in (1..).zip(&network.brokers) {
            let (name, told) = (format!("broker {broker} {name}"), Told::before(relay));
            assert!(fault(proxy) > 0, "{name}: it has connections");
            told.code(relay, &name, &LOST);
            told.again(relay, &name);
        }
    }
    for api in [ApiKey::Produce, ApiKey::EndTxn] {
        let told = Told::before(relay);
        let name = format!("reset at {api:?}, broker {}", 1 + next(network, api, Action::Reset));
        told.code(relay, &name, &LOST);
        told.again(relay, &name);
    }
}

/// Which requests go where is Kafka's choice; the next Produce shows one that matters.
fn half_open(network: &Network, relay: &mut Relay) {
    for (name, directions) in [("half-open", Direction::BOTH.as_slice()), ("deaf", &[Direction::ToClient])] {
        let told = Told::before(relay);
        let broker = next(network, ApiKey::Produce, Action::Hold);
        network.brokers[broker].set(&Kind::ALL, directions, Weather::stalled());
        let name = format!("broker {} {name}", broker + 1);
        told.code(relay, &name, &LOST);
        network.brokers[broker].clear();
        told.again(relay, &name);
    }
}

fn too_slow(network: &Network, relay: &mut Relay) {
    let late = Weather::delayed(Duration::from_secs(5));
    for (name, weather) in [("5 s late", late), ("10 kB/s", Weather::limited(10_000))] {
        let told = Told::before(relay);
        network.brokers.iter().for_each(|proxy| proxy.set_all(weather));
        told.code(relay, name, &LOST);
        network.brokers.iter().for_each(Proxy::clear);
        told.again(relay, name);
    }
}

/// fault: 43 the link to one broker of three after the other is late, jitters, comes a byte at a time, flaps
/// every 100 ms; is reset, ended in one direction, half-open; all of them are 5 s late, or carry 10 kB/s
/// holds: nothing lost; what is slow is waited for; a connection that broke, or a request without an answer for
/// 8 s, leads back to the checkpoint
/// told: nothing while it is slow; then PB-2001, or PB-3008 after 10 s without a commit, in log and status
#[test]
fn a_bad_link_to_a_broker_is_ridden_out_or_mended() {
    let network = Network::start(KafkaOptions::brokers(3));
    let (configuration, mut relay) = network.streaming(&[]);
    let load = network.load();
    goes_on(&mut relay);
    each_slow(&network, &mut relay);
    each_broken(&network, &mut relay);
    half_open(&network, &mut relay);
    too_slow(&network, &mut relay);
    network.settle(&configuration, load);
}

/// fault: 43 a byte of a batch is altered on the plaintext link to Kafka, whose checksum then does not fit
/// holds: nothing lost; the broker takes nothing of it, and the relay produces it again in the same start;
/// bytes that no checksum covers, those from Postgres among them, are noticed by TLS only
/// told: nothing; PB-3008 where it goes on like that
#[test]
fn a_corrupt_byte_to_kafka_is_noticed_and_sent_again() {
    const CORRUPT_MESSAGE: i16 = 2;
    const CONCURRENT_TRANSACTIONS: i16 = 51;
    let network = Network::start(KafkaOptions::default());
    let (configuration, mut relay) = network.streaming(&[]);
    let load = network.load();
    goes_on(&mut relay);
    let (broker, name) = (&network.brokers[0], "__pillarbox.orders".to_owned());
    let id = network.site.kafka.topic_id(&name).expect("the topic");
    let told = Told::before(&relay);
    let codes = loop {
        let altered = broker.catch(Trigger::ProduceTo { name: name.clone(), id }, Action::Corrupt);
        altered.wait(PATIENCE).expect("a batch is altered");
        let codes = altered.answer(PATIENCE).expect("an answer");
        // Not looked at, as the id's last markers are late.
        if codes != [CONCURRENT_TRANSACTIONS] {
            break codes;
        }
    };
    assert!(codes.contains(&CORRUPT_MESSAGE), "answered {codes:?}");
    goes_on(&mut relay);
    told.nothing(&mut relay, "a corrupt byte");
    network.settle(&configuration, load);
}
