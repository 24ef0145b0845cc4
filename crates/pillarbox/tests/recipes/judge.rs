//! Compares the effects that a consumer had with the records that it was given.
//!
//! ```text
//! records of the topic, by partition and offset ---+
//!                                                  +--> judge --> lost, doubled, unknown, swapped
//! effects, in the order in which they were made ---+
//! ```
//! Pure. Must never look at what the consumer believes: positions, offsets, logs.

use std::collections::{BTreeMap, BTreeSet};

/// A record of the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// The number in its payload.
    pub(crate) event: i64,
}

/// What is wrong, by event. Nothing: each event had its effect once, in the order of its partition.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) lost: Vec<i64>,
    pub(crate) doubled: Vec<i64>,
    pub(crate) unknown: Vec<i64>,
    /// Came after a later event of its partition.
    pub(crate) swapped: Vec<i64>,
}

pub(crate) fn judge(records: &[Recorded], effects: &[i64]) -> Report {
    let places: BTreeMap<i64, &Recorded> = records.iter().map(|record| (record.event, record)).collect();
    let mut report = Report::default();
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<i32, i64> = BTreeMap::new();
    for event in effects {
        let Some(place) = places.get(event) else {
            report.unknown.push(*event);
            continue;
        };
        if !seen.insert(*event) {
            report.doubled.push(*event);
            continue;
        }
        let last = last.entry(place.partition).or_insert(-1);
        if place.offset < *last {
            report.swapped.push(*event);
        }
        *last = place.offset.max(*last);
    }
    report.doubled.sort_unstable();
    report.lost = places.into_keys().filter(|event| !seen.contains(event)).collect();
    report
}

/// Four events in two partitions, and effects with each mistake planted.
#[test]
fn each_planted_mistake_is_found() {
    let record = |(partition, offset, event)| Recorded { partition, offset, event };
    let records = [(0, 0, 1), (0, 1, 2), (1, 0, 3), (0, 3, 4)].map(record);
    let clean = Report::default;
    let cases: [(&[i64], Report); 7] = [
        (&[1, 2, 3, 4], clean()),
        (&[3, 1, 2, 4], clean()),
        (&[1, 2, 4], Report { lost: vec![3], ..clean() }),
        (&[1, 2, 3, 4, 2], Report { doubled: vec![2], ..clean() }),
        (&[1, 2, 3, 9, 4], Report { unknown: vec![9], ..clean() }),
        (&[1, 4, 3, 2], Report { swapped: vec![2], ..clean() }),
        (&[4, 4, 2], Report { lost: vec![1, 3], doubled: vec![4], swapped: vec![2], ..clean() }),
    ];
    for (effects, expected) in cases {
        assert_eq!(judge(&records, effects), expected, "{effects:?}");
    }
}
