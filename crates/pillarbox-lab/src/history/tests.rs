//! Each fault is planted in a clean history and must be found, and nothing else with it than what it implies.

use pillarbox_wire::position::{Epoch, Position, Sequence};
use pillarbox_wire::{Lsn, header::PbPos};

use super::*;

const PARTITIONS: u32 = 4;
const TOPICS: [&str; 2] = ["outbox.event.order", "outbox.event.invoice"];

/// 40 transactions of 1 to 5 events; every seventh event has no key.
fn expected() -> Expected {
    let event = |t: usize, i: usize| Event {
        id: format!("{t}-{i}"),
        topic: TOPICS[(t + i) % 2].to_owned(),
        key: (!(t + i).is_multiple_of(7)).then(|| format!("key{}", (t * 3 + i) % 9).into_bytes()),
        value: ValueHash::of(Some(format!("value {t} {i}").as_bytes())),
    };
    let transaction = |t: usize| Transaction { events: (0..=t % 5).map(|i| event(t, i)).collect() };
    Expected {
        transactions: (0..40).map(transaction).collect(),
        rolled_back: HashSet::from(["gone".to_owned()]),
    }
}

fn pb_pos(position: Position, sequence: u64) -> Option<String> {
    let mut text = Vec::new();
    PbPos { pipeline: "orders", position, sequence: Sequence(sequence) }.write_to(&mut text);
    String::from_utf8(text).ok()
}

/// What a faultless relay makes of it, with offsets that have holes (control records).
fn relayed(expected: &Expected) -> Vec<Observed> {
    let mut counts: HashMap<(String, u32), u64> = HashMap::new();
    let mut records = Vec::new();
    for (t, transaction) in expected.transactions.iter().enumerate() {
        for (i, event) in transaction.events.iter().enumerate() {
            let commit_lsn = Lsn(1000 + 8 * t as u64);
            let position = Position { epoch: Epoch(1), commit_lsn, index: i as u32 };
            let partition = match &event.key {
                Some(key) => partition_for_key(key, PARTITIONS),
                None => partition_for_lsn(commit_lsn, PARTITIONS),
            };
            let count = counts.entry((event.topic.clone(), partition.0)).or_default();
            *count += 1;
            records.push(Observed {
                topic: event.topic.clone(),
                partition: partition.0,
                offset: 2 * *count,
                id: Some(event.id.clone()),
                pb_pos: pb_pos(position, *count),
                key: event.key.clone(),
                value: event.value,
            });
        }
    }
    records
}

fn rules() -> Rules {
    Rules::all(TOPICS.map(|topic| (topic, PARTITIONS)))
}

/// Plants a fault and gives what was found.
fn found(plant: impl FnOnce(&mut Vec<Observed>)) -> Vec<Finding> {
    let expected = expected();
    let mut records = relayed(&expected);
    plant(&mut records);
    let report = check(&expected, &records, &rules());
    assert_eq!(report.is_clean(), report.counts().count() == 0);
    report.counts().map(|(finding, _)| finding).collect()
}

/// Two records of one partition, the second right after the first there.
fn neighbours(records: &[Observed]) -> (usize, usize) {
    let same = |a: &Observed, b: &Observed| (&a.topic, a.partition) == (&b.topic, b.partition);
    let second = (11..records.len()).find(|i| same(&records[10], &records[*i])).expect("two of a partition");
    (10, second)
}

#[test]
fn a_clean_history_is_green() {
    assert_eq!(found(|_| {}), []);
    let expected = expected();
    let report = check(&expected, &relayed(&expected), &rules());
    assert_eq!(
        report.to_string(),
        "exactly once, in commit order: 120 events of 40 transactions, 120 records read"
    );
}

#[test]
fn a_loss_is_found() {
    let drop_one = |records: &mut Vec<Observed>| drop(records.remove(10));
    assert_eq!(found(drop_one), [Finding::Lost, Finding::SequenceGap]);
}

#[test]
fn a_loss_at_the_end_is_found_by_the_ids_alone() {
    assert_eq!(found(|records| drop(records.pop())), [Finding::Lost]);
}

#[test]
fn a_duplicate_is_found() {
    let again = |records: &mut Vec<Observed>| {
        let mut copy = records[10].clone();
        copy.offset = 1_000;
        records.push(copy);
    };
    assert_eq!(found(again), [Finding::Duplicated, Finding::SequenceRepeated, Finding::PositionBack]);
}

#[test]
fn a_duplicate_with_fresh_position_and_sequence_is_found() {
    let again = |records: &mut Vec<Observed>| {
        let mut copy = records[10].clone();
        let of_partition = |r: &&Observed| (&r.topic, r.partition) == (&copy.topic, copy.partition);
        let count = records.iter().filter(of_partition).count() as u64;
        copy.offset = 1_000;
        copy.pb_pos = pb_pos(Position { epoch: Epoch(2), commit_lsn: Lsn(9), index: 0 }, count + 1);
        records.push(copy);
    };
    assert_eq!(found(again), [Finding::Duplicated]);
}

#[test]
fn a_swap_is_found() {
    let swap = |records: &mut Vec<Observed>| {
        let (a, b) = neighbours(records);
        let (x, y) = (records[a].clone(), records[b].clone());
        records[a] = Observed { offset: x.offset, pb_pos: x.pb_pos.clone(), ..y.clone() };
        records[b] = Observed { offset: y.offset, pb_pos: y.pb_pos, ..x };
    };
    assert_eq!(found(swap), [Finding::Reordered, Finding::PositionWrong]);
}

#[test]
fn a_swap_is_found_by_consumers_too() {
    let swap = |records: &mut Vec<Observed>| {
        let (a, b) = neighbours(records);
        let offsets = (records[a].offset, records[b].offset);
        records.swap(a, b);
        (records[a].offset, records[b].offset) = offsets;
    };
    let all = [Finding::Reordered, Finding::SequenceGap, Finding::SequenceRepeated, Finding::PositionBack];
    assert_eq!(found(swap), all);
}

#[test]
fn ghosts_are_found() {
    let ghost = |id: &str| {
        let id = id.to_owned();
        found(move |records| {
            let position = Position { epoch: Epoch(1), commit_lsn: Lsn(9_999), index: 0 };
            let mut record = records[10].clone();
            let of_partition = |r: &&Observed| (&r.topic, r.partition) == (&record.topic, record.partition);
            let count = records.iter().filter(of_partition).count() as u64;
            record.pb_pos = pb_pos(position, count + 1);
            record.offset = 1_000;
            record.id = Some(id);
            records.push(record);
        })
    };
    assert_eq!(ghost("gone"), [Finding::RolledBack]);
    assert_eq!(ghost("never written"), [Finding::Unknown]);
}

#[test]
fn a_hole_in_the_sequence_is_found() {
    let skip = |records: &mut Vec<Observed>| {
        let last = records.last_mut().expect("records");
        let text = last.pb_pos.clone().expect("a position");
        let pb = PbPos::parse(&text).expect("valid");
        last.pb_pos = pb_pos(pb.position, pb.sequence.0 + 1);
    };
    assert_eq!(found(skip), [Finding::SequenceGap]);
}

#[test]
fn a_position_going_back_is_found() {
    let back = |records: &mut Vec<Observed>| {
        let (_, second) = neighbours(records);
        let text = records[second].pb_pos.clone().expect("a position");
        let sequence = PbPos::parse(&text).expect("valid").sequence.0;
        let position = Position { epoch: Epoch(1), commit_lsn: Lsn(1), index: 0 };
        records[second].pb_pos = pb_pos(position, sequence);
    };
    assert!(found(back).starts_with(&[Finding::PositionBack, Finding::PositionWrong]));
}

#[test]
fn a_transaction_under_two_commit_lsns_is_found() {
    let tear = |records: &mut Vec<Observed>| {
        let last = records.last_mut().expect("records");
        let text = last.pb_pos.clone().expect("a position");
        let pb = PbPos::parse(&text).expect("valid");
        let commit_lsn = Lsn(pb.position.commit_lsn.0 + 8);
        last.pb_pos = pb_pos(Position { commit_lsn, ..pb.position }, pb.sequence.0);
    };
    assert_eq!(found(tear).first(), Some(&Finding::PositionWrong));
}

#[test]
fn a_transaction_goes_on_in_a_new_epoch_after_a_failover() {
    let fail_over = |records: &mut Vec<Observed>| {
        // The last transaction has five events.
        let inside = records.len() - 3;
        for record in &mut records[inside..] {
            let text = record.pb_pos.clone().expect("a position");
            let pb = PbPos::parse(&text).expect("valid");
            record.pb_pos = pb_pos(Position { epoch: Epoch(2), ..pb.position }, pb.sequence.0);
        }
    };
    assert_eq!(found(fail_over), []);
}

#[test]
fn wrong_content_is_found() {
    type Plant = fn(&mut Observed);
    let cases: [(Finding, Plant); 4] = [
        (Finding::WrongKey, |r| r.key = Some(b"other".to_vec())),
        (Finding::WrongValue, |r| r.value = ValueHash::of(None)),
        (Finding::Malformed, |r| r.id = None),
        (Finding::Malformed, |r| r.pb_pos = Some("orders".into())),
    ];
    for (finding, plant) in cases {
        assert!(found(|records| plant(&mut records[10])).contains(&finding), "{finding:?}");
    }
    assert_ne!(ValueHash::of(None), ValueHash::of(Some(b"")));
}

#[test]
fn a_wrong_partition_or_topic_is_found() {
    let moved = |records: &mut Vec<Observed>| {
        let last = records.last_mut().expect("records");
        last.partition = (last.partition + 1) % PARTITIONS;
        last.offset = 1_000;
    };
    assert!(found(moved).contains(&Finding::WrongPartition));
    let elsewhere = |records: &mut Vec<Observed>| records.last_mut().expect("records").topic = "other".into();
    assert!(found(elsewhere).contains(&Finding::WrongTopic));
}

#[test]
fn another_relay_is_checked_without_positions() {
    let expected = expected();
    let mut records = relayed(&expected);
    records.iter_mut().for_each(|record| record.pb_pos = None);
    let rules = Rules { positions: false, ..rules() };
    check(&expected, &records, &rules).assert_clean();
    records.remove(3);
    assert_eq!(check(&expected, &records, &rules).count(Finding::Lost), 1);
}

#[test]
fn a_report_shows_examples_but_no_keys() {
    let expected = expected();
    let mut records = relayed(&expected);
    records.truncate(100);
    records[10].key = Some(b"secret".to_vec());
    let report = check(&expected, &records, &rules());
    assert_eq!(report.count(Finding::Lost), 20);
    assert_eq!(report.examples(Finding::Lost).len(), EXAMPLES_MAX);
    let text = format!("{report} {report:?} {:?}", records[10]);
    assert!(text.contains("Lost: 20") && !text.contains("secret") && !text.contains("key1"));
}
