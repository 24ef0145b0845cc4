//! Which batch goes into which request, and what must be awaited before what. Pure.
//!
//! ```text
//! stage 1          one batch a partition, a request a broker: joins the partitions to the transaction
//! stage 2          the further batches of the same partitions, pipelined
//! stage 3          the checkpoint, alone
//! ```
//! Where stage 1 is a single request and everything is in it, the checkpoint rides along as its last partition: the
//! common case, one round trip.

use std::collections::HashMap;
use std::hash::Hash;

/// Bytes of batches in one request; the broker's `socket.request.max.bytes` is 100 MiB by default.
pub const REQUEST_BYTES_MAX: usize = 64 << 20;

/// One batch as the plan sees it.
#[derive(Clone, Copy, Debug)]
pub struct Item<P> {
    /// Topic and partition.
    pub partition: P,
    /// Broker id of the leader.
    pub broker: i32,
    /// Its length.
    pub bytes: usize,
}

/// Batches (by index) for one Produce to one broker; no two of the same partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Broker id.
    pub broker: i32,
    /// Which batches.
    pub items: Vec<usize>,
    bytes: usize,
}

/// Requests that may be under way together; the next stage waits for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// One or several a broker.
    pub requests: Vec<Request>,
    /// No partition appears twice in this stage, so a refused request may be repeated on its own.
    pub repeatable: bool,
}

/// The last item is the checkpoint.
pub fn plan<P: Eq + Hash + Copy>(items: &[Item<P>], bytes_max: usize) -> Vec<Stage> {
    let Some(last) = items.len().checked_sub(1) else { return Vec::new() };
    let mut rounds: Vec<Vec<Request>> = Vec::new();
    let mut batches_of: HashMap<P, usize> = HashMap::with_capacity(last);
    for (index, item) in items[..last].iter().enumerate() {
        let round = batches_of.entry(item.partition).or_insert(0);
        if rounds.len() == *round {
            rounds.push(Vec::new());
        }
        add(&mut rounds[*round], index, item, bytes_max);
        *round += 1;
    }
    let mut rounds = rounds.into_iter();
    let mut first = rounds.next().unwrap_or_default();
    let rest: Vec<Request> = rounds.flatten().collect();
    let rides_along = rest.is_empty()
        && first.len() <= 1
        && first.first().is_none_or(|request| request.fits(&items[last], bytes_max))
        && !batches_of.contains_key(&items[last].partition);
    if rides_along {
        add(&mut first, last, &items[last], bytes_max);
        return vec![Stage { requests: first, repeatable: true }];
    }
    let checkpoint = Request { broker: items[last].broker, items: vec![last], bytes: items[last].bytes };
    let stages = [(first, true), (rest, false), (vec![checkpoint], true)];
    let stages = stages.into_iter().filter(|(requests, _)| !requests.is_empty());
    stages.map(|(requests, repeatable)| Stage { requests, repeatable }).collect()
}

impl Request {
    fn fits<P>(&self, item: &Item<P>, bytes_max: usize) -> bool {
        self.broker == item.broker && self.bytes.saturating_add(item.bytes) <= bytes_max
    }
}

/// Into the broker's newest request of this round, or a new one where that is full.
fn add<P>(round: &mut Vec<Request>, index: usize, item: &Item<P>, bytes_max: usize) {
    let newest = round.iter_mut().rev().find(|request| request.broker == item.broker);
    match newest.filter(|request| request.fits(item, bytes_max)) {
        Some(request) => {
            request.items.push(index);
            request.bytes += item.bytes;
        }
        None => round.push(Request { broker: item.broker, items: vec![index], bytes: item.bytes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Broker and items of each request.
    type Requests = Vec<(i32, Vec<usize>)>;

    /// Name, (partition, broker) of each item, limit, and the requests of each stage.
    type Case = (&'static str, &'static [(i32, i32)], usize, Vec<Requests>);

    /// (partition, broker) of each item, 10 bytes each; stages as broker -> items.
    fn stages(items: &[(i32, i32)], bytes_max: usize) -> Vec<Requests> {
        let items: Vec<_> =
            items.iter().map(|(partition, broker)| Item { partition, broker: *broker, bytes: 10 }).collect();
        let of = |stage: Stage| {
            stage.requests.into_iter().map(|request| (request.broker, request.items)).collect()
        };
        plan(&items, bytes_max).into_iter().map(of).collect()
    }

    #[test]
    fn table() {
        let big = 1_000;
        let cases: [Case; 8] = [
            ("checkpoint alone", &[(9, 1)], big, vec![vec![(1, vec![0])]]),
            ("one broker, one request", &[(0, 1), (1, 1), (9, 1)], big, vec![vec![(1, vec![0, 1, 2])]]),
            (
                "checkpoint elsewhere comes after",
                &[(0, 1), (9, 2)],
                big,
                vec![vec![(1, vec![0])], vec![(2, vec![1])]],
            ),
            (
                "two brokers",
                &[(0, 1), (1, 2), (9, 1)],
                big,
                vec![vec![(1, vec![0]), (2, vec![1])], vec![(1, vec![2])]],
            ),
            (
                "second batches after the first of each partition",
                &[(0, 1), (0, 1), (1, 1), (0, 1), (9, 1)],
                big,
                vec![vec![(1, vec![0, 2])], vec![(1, vec![1]), (1, vec![3])], vec![(1, vec![4])]],
            ),
            (
                "a full request is followed by another",
                &[(0, 1), (1, 1), (2, 1), (9, 1)],
                20,
                vec![vec![(1, vec![0, 1]), (1, vec![2])], vec![(1, vec![3])]],
            ),
            (
                "the checkpoint does not fit any more",
                &[(0, 1), (1, 1), (9, 1)],
                20,
                vec![vec![(1, vec![0, 1])], vec![(1, vec![2])]],
            ),
            (
                "data in the checkpoint's own partition",
                &[(9, 1), (9, 1)],
                big,
                vec![vec![(1, vec![0])], vec![(1, vec![1])]],
            ),
        ];
        for (name, items, bytes_max, expected) in cases {
            assert_eq!(stages(items, bytes_max), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_batch_once_in_partition_order_and_the_checkpoint_last(
            items in proptest::collection::vec((0i32..4, 1usize..30), 0..40),
            checkpoint_broker in 0i32..3,
        ) {
            let mut all: Vec<_> = items.iter().map(|(partition, bytes)| Item { partition: *partition, broker: partition % 3, bytes: *bytes }).collect();
            all.push(Item { partition: 99, broker: checkpoint_broker, bytes: 5 });
            let stages = plan(&all, 40);
            let mut sent = Vec::new();
            for stage in &stages {
                let mut here = std::collections::HashSet::new();
                for request in &stage.requests {
                    let bytes: usize = request.items.iter().map(|item| all[*item].bytes).sum();
                    prop_assert!(bytes <= 40 || request.items.len() == 1);
                    let mut partitions = std::collections::HashSet::new();
                    for item in &request.items {
                        prop_assert_eq!(all[*item].broker, request.broker);
                        prop_assert!(partitions.insert(all[*item].partition), "one batch a partition");
                        if stage.repeatable {
                            prop_assert!(here.insert(all[*item].partition));
                        }
                        sent.push(*item);
                    }
                }
            }
            prop_assert_eq!(sent.last(), Some(&(all.len() - 1)));
            for partition in 0..4 {
                let order: Vec<_> = sent.iter().filter(|item| all[**item].partition == partition).collect();
                prop_assert!(order.is_sorted());
            }
            sent.sort_unstable();
            prop_assert_eq!(sent, (0..all.len()).collect::<Vec<_>>());
        }
    }
}
