//! Many partitions, each in order, as one order.

use std::collections::VecDeque;

use pillarbox_relay::error::Fault;
use tokio::sync::mpsc;

use super::event::Event;
use super::{Batch, Go};

/// What has arrived of one partition.
pub(super) struct Lane {
    receiver: mpsc::Receiver<Batch>,
    waiting: VecDeque<Event>,
}

impl Lane {
    pub(super) fn new(receiver: mpsc::Receiver<Batch>) -> Self {
        Self { receiver, waiting: VecDeque::new() }
    }

    /// Waits until an event is there; false when the partition has ended.
    async fn fill(&mut self) -> Result<bool, Fault> {
        while self.waiting.is_empty() {
            match self.receiver.recv().await {
                Some(batch) => self.waiting.extend(batch?),
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// Takes events of all lanes in order until they end or `take` says stop.
pub(super) async fn merged(
    mut lanes: Vec<Lane>,
    mut take: impl FnMut(Event) -> Result<Go, Fault>,
) -> Result<(), Fault> {
    loop {
        let mut open = Vec::with_capacity(lanes.len());
        for mut lane in lanes {
            if lane.fill().await? {
                open.push(lane);
            }
        }
        lanes = open;
        let first = lanes.iter_mut().min_by(|a, b| {
            let order = |lane: &Lane| lane.waiting.front().map(Event::order);
            order(a).cmp(&order(b))
        });
        let Some(event) = first.and_then(|lane| lane.waiting.pop_front()) else { return Ok(()) };
        if take(event)? == Go::Stop {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::tests::event;
    use super::*;

    fn lane(partition: i32, positions: &[u32]) -> Lane {
        let (sender, receiver) = mpsc::channel(positions.len().max(1));
        for (offset, position) in positions.iter().enumerate() {
            let pb_pos = format!("p:0000000100000000000000{position:02x}00000000:1");
            sender.try_send(Ok(vec![event(partition, offset as i64, &pb_pos, 0, b"")])).unwrap();
        }
        Lane::new(receiver)
    }

    async fn order(lanes: Vec<Lane>, count_max: usize) -> Vec<(i32, i64)> {
        let mut seen = Vec::new();
        let take = |event: Event| {
            seen.push((event.partition, event.record.offset));
            Ok(if seen.len() == count_max { Go::Stop } else { Go::On })
        };
        merged(lanes, take).await.unwrap();
        seen
    }

    #[tokio::test]
    async fn lanes_become_one_order() {
        let lanes = || vec![lane(0, &[1, 4, 5]), lane(1, &[2, 3]), lane(2, &[])];
        assert_eq!(order(lanes(), 99).await, [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2)]);
        assert_eq!(order(lanes(), 2).await, [(0, 0), (1, 0)]);
    }
}
