//! Orders to move a pin: what stands in which set, and when nothing may change.

use super::*;
use crate::position::checkpoint::TopicRecord;
use crate::repartition::PREFIX;
use crate::route::WantedTopic;

const TOPIC: &str = "outbox.event.order";

fn order(pipeline: &str, topic: &str) -> Vec<u8> {
    message(true, PREFIX, format!(r#"{{"pipeline":"{pipeline}","topic":"{topic}"}}"#).as_bytes())
}

/// A topic of four partitions with events.
fn table() -> Table {
    let mut table = first();
    table.sequences = (1..=4).collect();
    table
}

fn started() -> Intake {
    let recorded = Topic { recorded: true, ..topic(4) };
    Intake::new(&config(Transaction::default()), Epoch(1), &table(), vec![recorded], T0)
}

fn grown(partitions: u32) -> Topic {
    topic(partitions)
}

/// The topic is to be the same one as before, and is never created.
fn wanted() -> Taken {
    let topic_id = uuid::Uuid::nil().to_string();
    let recorded = Some(TopicRecord { topic_id, partitions: 4, first_slot: 0 });
    Taken::NeedsTopic(WantedTopic { name: TOPIC.into(), recorded })
}

/// Takes the order up to where the topic is asked for.
fn ask(intake: &mut Intake) -> Vec<u8> {
    let order = order("orders", TOPIC);
    feed(intake, &[outbox(), begin(100)]);
    assert_eq!(intake.take(&order, SENT, T0).unwrap(), wanted());
    assert_eq!(intake.take(&order, SENT, T0).unwrap(), wanted(), "asked again");
    order
}

#[test]
fn the_new_pin_is_committed_with_the_order_and_sequences_go_on() {
    let mut intake = started();
    let order = ask(&mut intake);
    intake.learn(grown(70));
    feed(&mut intake, &[order, commit(100, 108)]);
    intake.pace(T0);
    let sets = intake.take_sealed();
    assert_eq!(sets.len(), 1);
    let delta = &sets[0].delta;
    let (name, record) = &delta.topics[0];
    assert_eq!((name.as_str(), record.partitions, record.first_slot), (TOPIC, 70, 4));
    // Slots 4 to 73: both buckets, the first four with what the old slots had.
    let buckets: Vec<(usize, usize)> = delta.buckets.iter().map(|(n, values)| (*n, values.len())).collect();
    assert_eq!(buckets, [(0, 64), (1, 10)]);
    assert_eq!(delta.buckets[0].1[..9], [1, 2, 3, 4, 1, 2, 3, 4, 0]);
    assert_eq!(
        (sets[0].end.commit_lsn, sets[0].end.index),
        (Lsn(100), None),
        "the checkpoint covers the order"
    );

    feed(&mut intake, &[begin(200), row("a", None), commit(200, 208)]);
    intake.pace(later(100));
    let set = intake.take_sealed().remove(0);
    assert!(set.delta.topics.is_empty(), "recorded once");
    let partition = u32::try_from(set.batches[0].partition).unwrap();
    assert_eq!(partition, pillarbox_wire::partition::partition_for_key(b"key", 70).0);
}

#[test]
fn one_set_holds_events_of_one_pin() {
    let mut intake = started();
    feed(&mut intake, &[outbox(), begin(90), row("a", None), commit(90, 98), begin(100), row("b", None)]);
    let order = order("orders", TOPIC);
    assert_eq!(intake.take(&order, SENT, T0).unwrap(), Taken::Again);
    assert_eq!(intake.take(&order, SENT, T0).unwrap(), wanted());
    intake.learn(grown(9));
    feed(&mut intake, &[order, row("c", None), commit(100, 108)]);
    intake.pace(later(100));
    let sets = intake.take_sealed();
    assert_eq!(sets.iter().map(records).collect::<Vec<_>>(), [2, 1]);
    assert!(sets[0].delta.topics.is_empty() && sets[1].delta.topics.len() == 1);
    assert_eq!((sets[0].end.index, sets[1].end.index), (Some(0), None), "a part, then the rest");
}

#[test]
fn dead_letters_keep_one_partition() {
    let letters = "__pillarbox.orders.dead-letters";
    let recorded = Topic { name: letters.into(), recorded: true, ..topic(1) };
    let mut intake = Intake::new(&config(Transaction::default()), Epoch(1), &table(), vec![recorded], T0);
    feed(&mut intake, &[outbox(), begin(100), order("orders", letters), commit(100, 108)]);
    intake.pace(T0);
    assert!(intake.take_sealed().is_empty());
}

#[test]
fn orders_for_others_change_nothing() {
    let mut intake = started();
    let frames =
        [outbox(), begin(100), order("others", TOPIC), order("orders", "none"), message(true, PREFIX, b"?")];
    feed(&mut intake, &frames);
    feed(&mut intake, &[commit(100, 108)]);
    intake.pace(T0);
    assert!(intake.take_sealed().is_empty());
}

#[test]
fn a_topic_that_did_not_grow_stays() {
    let mut intake = started();
    let order = ask(&mut intake);
    intake.learn(grown(4));
    feed(&mut intake, &[order, row("a", None), commit(100, 108)]);
    intake.pace(T0);
    let set = intake.take_sealed().remove(0);
    assert!(set.delta.topics.is_empty());
    assert_eq!(set.delta.buckets[0].1.iter().sum::<u64>(), 1 + 2 + 3 + 4 + 1, "the old slot counted");
}
