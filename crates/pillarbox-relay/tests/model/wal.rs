//! The source: transactions in the order in which they committed, as the frames that a walsender sends.
//!
//! Everything is in WAL from the beginning: a relay that sees it later decides no differently.

use pillarbox_wire::lsn::Lsn;
use pillarbox_wire::partition::partition_for_key;

/// Partitions of the one topic with events.
pub(crate) const DATA_PARTITIONS: usize = 2;
/// The topic that [`frames`] name.
pub(crate) const TOPIC: &str = "outbox.event.order";

const RELATION: u32 = 1;

/// What a source transaction writes: the partition of each of its events.
pub(crate) type Written = &'static [usize];

/// An event, as the database knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Event {
    pub(crate) commit_lsn: Lsn,
    pub(crate) index: u32,
}

/// Where WAL begins, and the slot stands at first.
pub(crate) const START: Lsn = Lsn(10);

/// Where the `n`-th transaction commits.
pub(crate) fn commit_lsn(n: usize) -> Lsn {
    Lsn(100 * (n as u64 + 1))
}

/// What may be confirmed once the `n`-th transaction is published.
pub(crate) fn end_lsn(n: usize) -> Lsn {
    Lsn(commit_lsn(n).0 + 8)
}

/// The events of each partition, in commit order.
pub(crate) fn expected(wal: &[Written]) -> [Vec<Event>; DATA_PARTITIONS] {
    let mut expected: [Vec<Event>; DATA_PARTITIONS] = Default::default();
    for (n, partitions) in wal.iter().enumerate() {
        for (index, partition) in partitions.iter().enumerate() {
            expected[*partition].push(Event { commit_lsn: commit_lsn(n), index: index as u32 });
        }
    }
    expected
}

/// A key whose events go to a partition.
fn key(partition: usize) -> String {
    let goes_there =
        |key: &String| partition_for_key(key.as_bytes(), DATA_PARTITIONS as u32).0 as usize == partition;
    (0..).map(|n: u32| n.to_string()).find(goes_there).expect("murmur2 reaches every partition")
}

/// The frames of the `n`-th transaction.
pub(crate) fn frames(n: usize, partitions: Written) -> Vec<Vec<u8>> {
    let mut frames = vec![relation(), begin(commit_lsn(n))];
    for partition in partitions {
        frames.push(insert(&["id", "order", &key(*partition), "made", "{}"]));
    }
    frames.push(commit(commit_lsn(n), end_lsn(n)));
    frames
}

fn begin(commit_lsn: Lsn) -> Vec<u8> {
    [&b"B"[..], &commit_lsn.0.to_be_bytes(), &0_i64.to_be_bytes(), &7_u32.to_be_bytes()].concat()
}

fn commit(commit_lsn: Lsn, end_lsn: Lsn) -> Vec<u8> {
    [&b"C\0"[..], &commit_lsn.0.to_be_bytes(), &end_lsn.0.to_be_bytes(), &0_i64.to_be_bytes()].concat()
}

fn relation() -> Vec<u8> {
    let columns = [("id", 2950), ("aggregatetype", 25), ("aggregateid", 25), ("type", 25), ("payload", 3802)];
    let mut frame = [&b"R"[..], &RELATION.to_be_bytes(), b"public\0outbox\0d"].concat();
    frame.extend((columns.len() as u16).to_be_bytes());
    for (name, type_oid) in columns {
        frame.extend([&b"\0"[..], name.as_bytes(), b"\0"].concat());
        frame.extend(u32::to_be_bytes(type_oid));
        frame.extend((-1_i32).to_be_bytes());
    }
    frame
}

fn insert(values: &[&str]) -> Vec<u8> {
    let mut frame = [&b"I"[..], &RELATION.to_be_bytes(), b"N"].concat();
    frame.extend((values.len() as u16).to_be_bytes());
    for value in values {
        frame.push(b't');
        frame.extend((value.len() as u32).to_be_bytes());
        frame.extend(value.as_bytes());
    }
    frame
}
