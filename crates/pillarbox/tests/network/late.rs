//! Requests that reach Kafka late: after their sender gave them up and went on.
//!
//! With one transactional id, the next transaction is under the same id as the one that the late request belongs to.

use std::time::Duration;

use pillarbox_lab::KafkaOptions;
use pillarbox_lab::proxy::{Action, ApiKey, Caught, Trigger};

use crate::harness::relay::Relay;
use crate::harness::until::until;
use crate::probe::OpenTransactions;
use crate::world::{LISTENER, Network, PARTITIONS, PATIENCE, Told, goes_on};

/// How long `check` meets markers that are held: longer than its first look takes, shorter than it looks again.
const HELD: Duration = Duration::from_secs(1);
/// Kafka's code.
const CONCURRENT_TRANSACTIONS: i16 = 51;
/// Both protocols of transactions: with one epoch an id, and with one a transaction.
const VERSIONS: [&str; 2] = ["3.9.1", "4.3.1"];
/// What says that a commit was not answered, or came under a fenced identity.
const LOST: [&str; 3] = ["PB-2001", "PB-2015", "PB-3008"];

fn kafka(version: &str) -> KafkaOptions {
    KafkaOptions { version: version.to_owned(), ..KafkaOptions::default() }
        .setting("transaction.abort.timed.out.transaction.cleanup.interval.ms", "500")
}

/// Both at once: they mostly wait.
fn with_each(test: fn(&str)) {
    std::thread::scope(|scope| {
        for version in VERSIONS {
            scope.spawn(move || test(version));
        }
    });
}

/// It came late, and Kafka did not do it.
fn refused(late: &Caught, name: &str) {
    late.release();
    let codes = late.answer(PATIENCE).expect("an answer to what came late");
    println!("{name}: answered {codes:?}");
    assert!(!codes.is_empty() && !codes.contains(&0), "{name} was answered {codes:?}");
}

/// Holds the next request that meets the trigger until the relay has given it up and streams again.
fn given_up(network: &Network, relay: &mut Relay, trigger: Trigger, name: &str) -> Caught {
    let told = Told::before(relay);
    let late = network.brokers[0].catch(trigger, Action::Hold);
    late.wait(PATIENCE).expect("it is under way");
    told.code(relay, name, &LOST);
    told.again(relay, name);
    late
}

fn delayed_end(version: &str) {
    let network = Network::start(kafka(version));
    let (configuration, mut relay) = network.streaming(&["transaction: { ids: 1 }"]);
    let load = network.load();
    goes_on(&mut relay);
    let open = OpenTransactions::watch(&network.site, &load.1.topics(), PARTITIONS);
    let late = given_up(&network, &mut relay, Trigger::EndTxn { commit: true }, "EndTxn");
    // The next transaction is written and not ended.
    let next = network.brokers[0].catch(Trigger::EndTxn { commit: true }, Action::Hold);
    next.wait(PATIENCE).expect("the next one is under way");
    assert!(open.exist(), "the next transaction is open");
    refused(&late, "the late EndTxn");
    assert!(open.exist(), "the late EndTxn ended the next transaction");
    next.release();
    goes_on(&mut relay);
    network.settle(&configuration, load);
    assert!(open.end(), "a transaction hangs");
}

/// fault: 34 an EndTxn arrives after it was repeated and the next transaction was written under the same id, on
/// Kafka 3.9 and 4
/// holds: nothing lost; Kafka refuses it, and the open transaction is committed by its own EndTxn only
/// told: PB-2001 in the log, as EndTxn had no answer, and another start
#[test]
fn a_late_end_of_a_transaction_does_not_end_the_next_one() {
    with_each(delayed_end);
}

fn delayed_writes(version: &str) {
    let network = Network::start(kafka(version));
    let (configuration, mut relay) = network.streaming(&["transaction: { ids: 1 }"]);
    let load = network.load();
    goes_on(&mut relay);
    let topics = load.1.topics();
    let open = OpenTransactions::watch(&network.site, &topics, PARTITIONS);
    let older = version.starts_with('3');
    let joins = older.then_some(("AddPartitionsToTxn", Trigger::Request(ApiKey::AddPartitionsToTxn)));
    let name = topics[0].clone();
    let id = network.site.kafka.topic_id(&name).expect("the topic");
    for (name, trigger) in [("Produce", Trigger::ProduceTo { name, id })].into_iter().chain(joins) {
        let late = given_up(&network, &mut relay, trigger, name);
        refused(&late, &format!("the late {name}"));
        goes_on(&mut relay);
    }
    network.settle(&configuration, load);
    assert!(open.end(), "a transaction hangs");
}

/// fault: 35 a Produce arrives after its transaction was aborted; on Kafka 3.9 the partitions of a transaction,
/// too
/// holds: nothing lost; Kafka refuses it, and no transaction hangs that would hold consumers back
/// told: PB-2001 in the log, as it had no answer, or PB-3008, and another start
#[test]
fn late_writes_of_an_aborted_transaction_are_refused() {
    with_each(delayed_writes);
}

/// fault: 36 an id is used again while the markers of its last transaction are held back; then a commit is,
/// until the coordinator has aborted its transaction for its age
/// holds: nothing lost; what is refused is repeated until it is taken, what was aborted is produced again as a
/// whole
/// told: nothing for what is repeated; PB-2015 in the log for what timed out, and another start
#[test]
fn a_transaction_that_times_out_is_produced_again() {
    // The broker writes its markers through the proxy, too.
    let network = Network::start(kafka("4.3.1").setting("inter.broker.listener.name", LISTENER));
    let (configuration, mut relay) = network.streaming(&["transaction: { ids: 1, timeout: 5s }"]);
    let load = network.load();
    goes_on(&mut relay);
    let (broker, told) = (&network.brokers[0], Told::before(&relay));
    let markers = broker.catch(Trigger::Request(ApiKey::WriteTxnMarkers), Action::Hold);
    markers.wait(PATIENCE).expect("markers are under way");
    until("an id is used before it is free", PATIENCE, || {
        (broker.answers(ApiKey::Produce, CONCURRENT_TRANSACTIONS) > 0).then_some(())
    });
    // The slot is confirmed; others cannot read the checkpoint yet, which is none of an operator's business.
    let checked = std::thread::scope(|scope| {
        let checked = scope.spawn(|| network.site.command(&["check"], &configuration));
        std::thread::sleep(HELD);
        markers.release();
        checked.join().expect("the command ends")
    });
    assert!(!checked.stdout.contains("PB-3003"), "{}", checked.stdout);
    goes_on(&mut relay);
    told.nothing(&mut relay, "an id used before it is free");

    let open = OpenTransactions::watch(&network.site, &load.1.topics(), PARTITIONS);
    let told = Told::before(&relay);
    let late = broker.catch(Trigger::EndTxn { commit: true }, Action::Hold);
    late.wait(PATIENCE).expect("a commit is under way");
    assert!(open.exist(), "the transaction is open");
    let (_, took) = until("the coordinator aborts", PATIENCE, || (!open.exist()).then_some(()));
    println!("aborted after {took:.1?}");
    refused(&late, "the late commit");
    told.code(&mut relay, "timed out", &["PB-2015"]);
    told.again(&mut relay, "timed out");
    network.settle(&configuration, load);
    assert!(open.end(), "a transaction hangs");
}
