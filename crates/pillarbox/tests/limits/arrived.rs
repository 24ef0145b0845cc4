//! What a `read_committed` consumer finds: each event once, in order, counted without holding it.
//!
//! Events carry their number as id (`00000000-0000-0000-0000-00000000002a` is 42), and the load writes numbers
//! upwards. Must never accept a gap in a sequence, nor a number twice.

use std::collections::HashMap;

use rdkafka::message::{BorrowedMessage, Message};

use crate::harness::records::{Isolation, header, read_all};
use crate::harness::site::Site;
use crate::harness::until::until;
use crate::world::PATIENCE;

/// A bit a number.
struct Seen {
    bits: Vec<u64>,
}

impl Seen {
    fn new(numbers: u64) -> Self {
        Self { bits: vec![0; usize::try_from(numbers / 64 + 1).expect("a count in memory")] }
    }

    /// False where it was there already.
    fn add(&mut self, number: u64) -> bool {
        let (word, bit) = (usize::try_from(number / 64).expect("a count in memory"), 1 << (number % 64));
        let before = self.bits.get_mut(word).unwrap_or_else(|| panic!("event {number} was never written"));
        let new = *before & bit == 0;
        *before |= bit;
        new
    }
}

/// Where a partition is.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    position: String,
    number: u64,
    sequence: u64,
}

/// Reads topics that hold the events 1..=`count` and nothing else; gives how many partitions hold any. What was confirmed
/// is committed, but seen only once its markers are written, which takes a broker seconds in hundreds of new partitions:
/// as long as some are missing, all is read again.
///
/// # Panics
/// Where one stays missing, is there twice, or out of order.
pub(crate) fn count(site: &Site, topics: &[String], count: u64) -> usize {
    until("all events are visible", PATIENCE, || {
        let (found, partitions) = look(site, topics, count);
        (found == count).then_some(partitions)
    })
    .0
}

/// How many of the events are visible, in how many partitions.
fn look(site: &Site, topics: &[String], count: u64) -> (u64, usize) {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let mut seen = Seen::new(count);
    let mut found = 0;
    let mut places: HashMap<(String, i32), Place> = HashMap::new();
    read_all(&site.kafka.bootstrap(), &names, Isolation::Committed, |message| {
        let place = place(message);
        assert!(place.number <= count && seen.add(place.number), "event {} is there twice", place.number);
        let last = places.entry((message.topic().to_owned(), message.partition())).or_default();
        let (topic, partition) = (message.topic(), message.partition());
        assert_eq!(place.sequence, last.sequence + 1, "{topic}/{partition}: a gap");
        let follows = place.position > last.position && place.number > last.number;
        assert!(follows, "{topic}/{partition}: event {} comes after {}", place.number, last.number);
        *last = place;
        found += 1;
    });
    (found, places.len())
}

fn place(message: &BorrowedMessage<'_>) -> Place {
    let text = header(message, "pb-pos").expect("pb-pos");
    let mut parts = text.rsplitn(3, ':');
    let sequence = parts.next().expect("a sequence").parse().expect("a number");
    let position = parts.next().expect("a position").to_owned();
    let id = header(message, "id").expect("an id").replace('-', "");
    Place { position, number: u64::from_str_radix(&id, 16).expect("a number as id"), sequence }
}
