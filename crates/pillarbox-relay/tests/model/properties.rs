//! What must hold in every state, and what must come about in some.

use pillarbox_relay::position::checkpoint::PositionRecord;
use stateright::Property;

use crate::Relays;
use crate::cluster::{BatchKey, CHECKPOINT, View};
use crate::lives::Batch;
use crate::relays::Relay;
use crate::wal::{self, DATA_PARTITIONS, Event};
use crate::world::{Budget, World};

pub(crate) fn all() -> Vec<Property<Relays>> {
    vec![
        Property::always("once, in order", once_in_order),
        Property::always("whole", whole),
        Property::always("confirmed is committed", confirmed_is_committed),
        Property::always("goes on", |_, world: &World| !world.relays.contains(&Relay::Halted)),
        Property::always("not stuck", not_stuck),
        Property::sometimes("every fault was met, and all was delivered", all_met),
    ]
}

impl Relays {
    /// The committed events of a partition.
    fn events(&self, world: &World, partition: usize, view: View) -> Vec<(Event, u64)> {
        let events = |key: BatchKey| match &*self.lives.batch(key) {
            Batch::Events(events) => events.clone(),
            Batch::Checkpoint(..) => panic!("a checkpoint among the events"),
        };
        world.cluster.committed(partition, view).into_iter().flat_map(events).collect()
    }

    /// The committed checkpoint.
    fn position(&self, world: &World) -> PositionRecord {
        let last = world.cluster.committed(CHECKPOINT, View::Decided).last().copied();
        match &*self.lives.batch(last.unwrap_or(self.lives.first)) {
            Batch::Checkpoint(_, position) => PositionRecord::clone(position),
            Batch::Events(_) => panic!("events in the checkpoint topic"),
        }
    }

    fn is_delivered(&self, world: &World) -> bool {
        let all = |partition: usize| {
            self.events(world, partition, View::Visible).len() == self.expected[partition].len()
        };
        world.confirmed == wal::end_lsn(self.bounds.wal.len() - 1) && (0..DATA_PARTITIONS).all(all)
    }
}

fn once_in_order(model: &Relays, world: &World) -> bool {
    let first_ones = |partition: usize, view: View| {
        let events = model.events(world, partition, view);
        let expected = model.expected[partition].iter().copied().zip(1..).take(events.len());
        expected.eq(events)
    };
    (0..DATA_PARTITIONS)
        .all(|partition| first_ones(partition, View::Visible) && first_ones(partition, View::Decided))
}

fn whole(model: &Relays, world: &World) -> bool {
    let covered = model.position(world).covered();
    (0..DATA_PARTITIONS).all(|partition| {
        let committed = model.events(world, partition, View::Decided);
        let is_committed = |event: &Event| committed.iter().any(|(other, _)| other == event);
        let is_covered = |event: &Event| covered.covers(event.commit_lsn, event.index);
        model.expected[partition].iter().all(|event| is_committed(event) == is_covered(event))
    })
}

fn confirmed_is_committed(model: &Relays, world: &World) -> bool {
    world.confirmed <= model.position(world).resume_lsn
}

fn not_stuck(model: &Relays, world: &World) -> bool {
    let mut steps = Vec::new();
    model.progress(world, &mut steps);
    !steps.is_empty() || world.left.starts == 0 || model.is_delivered(world)
}

/// Else the others could hold because nothing happens.
fn all_met(model: &Relays, world: &World) -> bool {
    world.left == Budget { starts: world.left.starts, ..Budget::default() } && model.is_delivered(world)
}
