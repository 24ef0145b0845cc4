//! What is going to happen, by simulated time; of two things at the same time the one that was planned first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

/// The future. Time never goes back.
#[derive(Debug)]
pub(crate) struct Agenda<E> {
    heap: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, E>,
    next: u64,
    pub(crate) now: Duration,
}

impl<E> Agenda<E> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), events: BTreeMap::new(), next: 0, now: Duration::ZERO }
    }

    pub(crate) fn at(&mut self, at: Duration, event: E) {
        self.heap.push(Reverse((at.max(self.now), self.next)));
        self.events.insert(self.next, event);
        self.next += 1;
    }

    pub(crate) fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now + delay, event);
    }

    /// The next event; time goes on to it.
    pub(crate) fn pop(&mut self) -> Option<E> {
        let Reverse((at, key)) = self.heap.pop()?;
        self.now = at;
        self.events.remove(&key)
    }
}
