//! The link between the relay and its ordinary SQL connection, over which it advances the lineage every 10 s.

use std::time::Duration;

use pillarbox_lab::KafkaOptions;
use pillarbox_lab::proxy::{Direction, Weather};

use crate::harness::relay::Relay;
use crate::harness::until::until;
use crate::world::{Network, PATIENCE, PLAIN, Told, goes_on};

/// Waits until the lineage has moved on, and a little longer: for the answer to reach the relay, too.
fn advances(network: &Network, relay: &mut Relay) {
    let sequence = || {
        let sql = "SELECT coalesce(max(seq), 0) FROM pillarbox.lineage WHERE pipeline = 'orders'";
        network.site.postgres.query_one("postgres", sql).expect("a row").parse::<u64>().expect("a number")
    };
    let before = sequence();
    until("the lineage moves on", PATIENCE, || {
        assert!(relay.is_running(), "the relay ended");
        (sequence() > before).then_some(())
    });
    goes_on(relay);
}

/// Waits until nothing is asked over the link: what follows the lineage, a look at the publication, was answered a while
/// ago.
fn is_at_rest(network: &Network) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pillarbox/orders' \
               AND backend_type = 'client backend' AND state = 'idle' \
               AND clock_timestamp() - state_change BETWEEN '1 s' AND '5 s'";
    until("the connection for SQL is at rest", PATIENCE, || {
        (network.site.postgres.query_one("postgres", sql).expect("a count") == "1").then_some(())
    });
}

/// fault: 43 the link to the connection for SQL is 100 ms late, jitters, carries 10 kB/s a byte at a time and
/// flaps; is reset, ended in one direction, half-open
/// holds: nothing lost; the stream goes on whatever is slow or cut here while nothing is asked; half-open, the
/// pipeline starts again, as the server may be lost for the stream, too
/// told: nothing while it is slow; half-open, PB-1001 in log and status
#[test]
fn a_bad_link_to_sql_is_ridden_out_or_mended() {
    let network = Network::start(KafkaOptions::default());
    let (configuration, mut relay) = network.streaming(&[]);
    let load = network.load();
    let bad = Weather {
        delay: Duration::from_millis(100),
        jitter: Duration::from_millis(100),
        rate: Some(10_000),
        slice: Some(1),
        flap: Some(Duration::from_millis(100)),
        ..Weather::default()
    };
    advances(&network, &mut relay);
    let told = Told::before(&relay);
    network.postgres.set(&PLAIN, &Direction::BOTH, bad);
    advances(&network, &mut relay);
    network.postgres.clear();
    // What is late already stays so.
    advances(&network, &mut relay);
    is_at_rest(&network);
    assert!(network.postgres.reset(&PLAIN) > 0, "a connection for SQL");
    advances(&network, &mut relay);
    is_at_rest(&network);
    assert!(network.postgres.finish(&PLAIN, Direction::ToClient) > 0, "a connection for SQL");
    advances(&network, &mut relay);
    told.nothing(&mut relay, "slow, reset and ended");

    let told = Told::before(&relay);
    network.postgres.set(&PLAIN, &Direction::BOTH, Weather::stalled());
    told.code(&mut relay, "half-open", &["PB-1001"]);
    network.postgres.clear();
    told.again(&mut relay, "half-open");
    advances(&network, &mut relay);
    network.settle(&configuration, load);
}
