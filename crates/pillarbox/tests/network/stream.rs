//! The link between the relay and its replication stream.

use std::time::Duration;

use pillarbox_lab::KafkaOptions;
use pillarbox_lab::proxy::{Action, Direction, Trigger, Weather};

use crate::harness::relay::Relay;
use crate::world::{Network, STREAM, Told, goes_on};

/// What slows a stream down without breaking it.
fn slow() -> [(&'static str, Weather); 6] {
    [
        ("200 ms late", Weather::delayed(Duration::from_millis(200))),
        ("up to 200 ms late", Weather::jittery(Duration::from_millis(200))),
        ("5 s late", Weather::delayed(Duration::from_secs(5))),
        ("10 kB/s", Weather::limited(10_000)),
        ("a byte at a time", Weather::sliced(1)),
        ("flapping every 100 ms", Weather::flapping(Duration::from_millis(100))),
    ]
}

fn breaks(network: &Network, relay: &mut Relay) {
    type Fault = fn(&Network) -> usize;
    let faults: [(&str, Fault); 4] = [
        ("reset", |network| network.postgres.reset(&STREAM)),
        ("end towards Postgres", |network| network.postgres.finish(&STREAM, Direction::ToServer)),
        ("end towards the relay", |network| network.postgres.finish(&STREAM, Direction::ToClient)),
        ("reset at a status", |network| {
            let caught = network.postgres.catch(Trigger::StandbyStatus, Action::Reset);
            usize::from(caught.wait(crate::world::PATIENCE).is_ok())
        }),
    ];
    for (name, fault) in faults {
        let told = Told::before(relay);
        assert!(fault(network) > 0, "{name}: there is a stream");
        told.code(relay, name, &["PB-1020", "PB-1001"]);
        told.again(relay, name);
    }
}

/// Until the relay says so nothing is repaired: it has to find out by itself.
fn half_open(network: &Network, relay: &mut Relay) {
    let (name, told) = ("half-open", Told::before(relay));
    network.postgres.set(&STREAM, &Direction::BOTH, Weather::stalled());
    told.code(relay, name, &["PB-1020", "PB-1001"]);
    network.postgres.clear();
    told.again(relay, name);
}

/// fault: 43 the link to the replication stream is up to 5 s late, jitters, carries 10 kB/s, comes a byte at a
/// time, flaps every 100 ms; is reset, ended in one direction, half-open
/// holds: nothing lost; what slows the stream down restarts nothing, what breaks it leads back to the
/// checkpoint; a stream that says nothing for 30 s is given up, unless its walsender is busy
/// told: nothing while it is slow; then PB-1020 or PB-1001 in log and status, and `/readyz` answers 503
#[test]
fn a_bad_link_to_the_stream_is_ridden_out_or_mended() {
    let network = Network::start(KafkaOptions::default());
    let (configuration, mut relay) = network.streaming(&[]);
    let load = network.load();
    goes_on(&mut relay);
    for (name, weather) in slow() {
        let told = Told::before(&relay);
        network.postgres.set(&STREAM, &Direction::BOTH, weather);
        goes_on(&mut relay);
        goes_on(&mut relay);
        told.nothing(&mut relay, name);
        network.postgres.clear();
    }
    goes_on(&mut relay);
    breaks(&network, &mut relay);
    half_open(&network, &mut relay);
    network.settle(&configuration, load);
}
