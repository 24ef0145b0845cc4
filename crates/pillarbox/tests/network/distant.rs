//! Brokers that are far away: what a start asks, it must not ask one after another.

use std::time::Duration;

use pillarbox_lab::KafkaOptions;
use pillarbox_lab::proxy::Weather;

use crate::world::{Network, PATIENCE, Told};

/// Topics that the pipeline has written to.
const TOPICS: u32 = 25;
/// How late every byte is, in either direction.
const LATE: Duration = Duration::from_millis(100);

/// fault: 43 the brokers are 200 ms away when a relay starts that has to look at 25 topics
/// holds: it streams within the 10 s that a start has
/// told: nothing
#[test]
fn a_start_looks_at_many_topics_of_distant_brokers() {
    let network = Network::start(KafkaOptions::default());
    let (configuration, mut relay) = network.streaming(&[]);
    let sql = format!(
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) \
         SELECT gen_random_uuid(), 't' || n, 'k', 'made', '{{}}' FROM generate_series(1, {TOPICS}) n"
    );
    network.site.postgres.execute("postgres", &sql).expect("rows");
    network.site.caught_up(&configuration, PATIENCE);
    relay.kill9();
    let told = Told::before(&relay);
    network.brokers[0].set_all(Weather::delayed(LATE));
    relay.start_again();
    let took = relay.wait_state("streaming", PATIENCE);
    println!("streams after {took:.1?}");
    told.not_a_code(&relay);
}
