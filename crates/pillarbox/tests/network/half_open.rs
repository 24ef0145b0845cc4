//! A leader behind a network that is half-open: both servers still hold its connections, and nothing comes.

use std::time::{Duration, Instant};

use pillarbox_lab::KafkaOptions;
use pillarbox_lab::proxy::{Action, ApiKey, Direction, Proxy, Trigger, Weather};

use crate::harness::relay::Relay;
use crate::harness::until::until;
use crate::world::{Network, PATIENCE, STREAM, Told, goes_on};

/// A leader that Postgres did not hear of for 5 s is replaced; the rest is the last status, which may have just come,
/// the start of the other, and a busy machine. Postgres itself would give it up after 60 s.
const TAKEOVER_MAX: Duration = Duration::from_secs(40);

/// The standby streams, and events go on; gives the time.
fn taken_over(standby: &mut Relay, since: Instant, name: &str) {
    standby.wait_state("streaming", PATIENCE);
    let took = since.elapsed();
    println!("{name}: streaming elsewhere after {took:.1?}");
    assert!(took < TAKEOVER_MAX, "{name}: {took:?}");
    goes_on(standby);
}

/// Gives the slot back to the relay behind the proxies, which stands by.
fn hand_back(leader: &mut Relay, standby: &mut Relay) {
    assert_eq!(standby.terminate(PATIENCE).code(), Some(0));
    leader.wait_state("streaming", PATIENCE);
    goes_on(leader);
    standby.start_again();
    standby.wait_state("standing_by", PATIENCE);
}

/// The other one goes on to lead after this one woke up.
fn harmed_nothing(leader: &mut Relay, standby: &mut Relay) {
    leader.wait_state("standing_by", PATIENCE);
    goes_on(standby);
    assert_eq!(standby.state().as_deref(), Some("streaming"), "the woken one took it back");
}

/// fault: 12 every link of the leader is half-open: with a Produce under way that arrives after the takeover,
/// for long, only the stream, and with the leader killed meanwhile, so that a dead client holds the slot
/// holds: nothing lost; the standby takes over after 5 s of silence by its own clock; what comes late is
/// refused as fenced, and the woken leader stands by
/// told: the successor logs that the leader was silent for too long; the old one says PB-3008, PB-1020 or
/// PB-2015, then `standing_by`
#[test]
fn a_half_open_leader_is_replaced_and_harms_nothing_when_it_wakes() {
    let network = Network::start(KafkaOptions::default());
    let (_, mut leader) = network.streaming(&[]);
    let (configuration, mut standby) = network.standby();
    let load = network.load();
    goes_on(&mut leader);

    let produce = network.brokers[0].catch(Trigger::Request(ApiKey::Produce), Action::Hold);
    produce.wait(PATIENCE).expect("a Produce is under way");
    let since = Instant::now();
    network.all().for_each(|proxy| proxy.set_all(Weather::stalled()));
    taken_over(&mut standby, since, "with a Produce under way");
    produce.release();
    network.all().for_each(Proxy::clear);
    let refused = produce.answer(PATIENCE).expect("an answer to what came late");
    assert!(!refused.is_empty() && !refused.contains(&0), "the late Produce was answered {refused:?}");
    harmed_nothing(&mut leader, &mut standby);
    hand_back(&mut leader, &mut standby);

    let (since, told) = (Instant::now(), Told::before(&leader));
    network.all().for_each(|proxy| proxy.set_all(Weather::stalled()));
    taken_over(&mut standby, since, "for long");
    told.code(&mut leader, "for long", &["PB-3008", "PB-1020", "PB-1001"]);
    until("not ready", PATIENCE, || leader.get("/readyz").filter(|(code, _)| *code == 503));
    network.all().for_each(Proxy::clear);
    harmed_nothing(&mut leader, &mut standby);
    hand_back(&mut leader, &mut standby);

    let (since, told) = (Instant::now(), Told::before(&leader));
    network.postgres.set(&STREAM, &Direction::BOTH, Weather::stalled());
    taken_over(&mut standby, since, "only the stream");
    told.code(&mut leader, "only the stream", &["PB-1020", "PB-2015"]);
    network.all().for_each(Proxy::clear);
    harmed_nothing(&mut leader, &mut standby);
    hand_back(&mut leader, &mut standby);

    let since = Instant::now();
    network.all().for_each(|proxy| proxy.set_all(Weather::stalled()));
    leader.kill9();
    let holder = "SELECT active FROM pg_replication_slots WHERE slot_name = 'pillarbox_orders'";
    assert_eq!(
        network.site.postgres.query_one("postgres", holder).expect("the slot"),
        "t",
        "nobody holds it"
    );
    taken_over(&mut standby, since, "killed meanwhile");
    network.all().for_each(Proxy::clear);
    goes_on(&mut standby);
    assert!(standby.log_count("silent for too long") >= 4, "the successor said why");
    network.settle(&configuration, load);
}
