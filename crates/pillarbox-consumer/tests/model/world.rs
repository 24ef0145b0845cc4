//! The world of the model: a log that a relay writes and that brokers lose, a database with rows and row locks, two
//! owners of every partition, somebody who replays.
//!
//! A transaction is two steps, its decision and its commit, and anything can happen in between. Numbers are small and
//! spent from a budget, so that every order of steps is visited.

use pillarbox_consumer::State;

pub(crate) const PARTITIONS: usize = 2;
pub(crate) const OWNERS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Event {
    pub(crate) partition: usize,
    pub(crate) key: u8,
    pub(crate) epoch: u8,
    /// Counts over all partitions, as WAL does; goes back in a failover.
    pub(crate) lsn: u8,
    pub(crate) sequence: u8,
    /// Written by a relay of a history that had ended.
    pub(crate) foreign: bool,
}

impl Event {
    pub(crate) fn same_key(&self, other: &Event) -> bool {
        (self.partition, self.key) == (other.partition, other.key)
    }

    pub(crate) fn pb_pos(&self) -> String {
        format!("p:{:08x}{:016x}00000000:{}", self.epoch, self.lsn, self.sequence)
    }
}

/// The row of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) state: State,
    pub(crate) offset: Option<usize>,
}

/// What a transaction that is open will leave when it commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Effect,
    Parked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Transaction {
    pub(crate) event: Event,
    pub(crate) row: Row,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    /// The offset to be read next, by partition.
    pub(crate) cursors: [usize; PARTITIONS],
    /// Stopped at an event that it refused.
    pub(crate) stopped: [bool; PARTITIONS],
    pub(crate) transaction: Option<Transaction>,
}

/// How often what can happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    /// Partitions that get events.
    pub(crate) partitions: usize,
    pub(crate) appends: u8,
    pub(crate) failovers: u8,
    pub(crate) resends: u8,
    pub(crate) losses: u8,
    pub(crate) foreigners: u8,
    pub(crate) crashes: u8,
    pub(crate) failures: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) epoch: u8,
    pub(crate) lsn: u8,
    pub(crate) logs: [Vec<Event>; PARTITIONS],
    /// Everything that was ever in a log, once each.
    pub(crate) written: [Vec<Event>; PARTITIONS],
    /// Partitions whose log lost an event, or holds a foreign one: their consumers may stop.
    pub(crate) damaged: [bool; PARTITIONS],
    pub(crate) rows: [Row; PARTITIONS],
    pub(crate) effects: Vec<Event>,
    pub(crate) parked: Vec<Event>,
    pub(crate) replay: Option<Event>,
    pub(crate) owners: [Owner; OWNERS],
    pub(crate) left: Budget,
}

impl World {
    pub(crate) fn new(budget: Budget) -> Self {
        World {
            epoch: 1,
            lsn: 1,
            logs: Default::default(),
            written: Default::default(),
            damaged: [false; PARTITIONS],
            rows: Default::default(),
            effects: Vec::new(),
            parked: Vec::new(),
            replay: None,
            owners: Default::default(),
            left: budget,
        }
    }

    /// The relay publishes the next event. Every other event of a partition has the same key.
    pub(crate) fn append(&mut self, partition: usize) {
        self.left.appends -= 1;
        self.lsn += 1;
        let sequence = self.next_sequence(partition);
        self.write(Event {
            partition,
            key: sequence % 2,
            epoch: self.epoch,
            lsn: self.lsn,
            sequence,
            foreign: false,
        });
    }

    /// A standby without the tail of WAL is promoted and the lineage accepted: its LSNs begin below those that were
    /// published, and are used again.
    pub(crate) fn fail_over(&mut self) {
        self.left.failovers -= 1;
        self.epoch += 1;
        self.lsn = self.lsn.saturating_sub(2);
    }

    /// The checkpoint lost its tail, and the relay publishes the last event once more.
    pub(crate) fn resend(&mut self, partition: usize) {
        self.left.resends -= 1;
        let last = *self.logs[partition].last().expect("enabled only with an event");
        self.logs[partition].push(last);
    }

    /// The log loses its tail: an event that was published is gone, and its offset will be another's.
    pub(crate) fn lose(&mut self, partition: usize) {
        self.left.losses -= 1;
        self.damaged[partition] = true;
        self.logs[partition].pop();
    }

    /// Something else that thinks it is the relay goes on with the epoch before.
    pub(crate) fn intrude(&mut self, partition: usize) {
        self.left.foreigners -= 1;
        self.damaged[partition] = true;
        let (epoch, sequence) = (self.epoch - 1, self.next_sequence(partition));
        let event = Event { partition, key: 0, epoch, lsn: self.lsn + 5, sequence, foreign: true };
        self.logs[partition].push(event);
    }

    fn next_sequence(&self, partition: usize) -> u8 {
        self.written[partition].last().map_or(1, |event| event.sequence + 1)
    }

    fn write(&mut self, event: Event) {
        self.written[event.partition].push(event);
        self.logs[event.partition].push(event);
    }

    /// The next event of an owner; from the beginning again where its offset is not there any more.
    pub(crate) fn next(&self, owner: usize, partition: usize) -> Option<(usize, Event)> {
        let owner = &self.owners[owner];
        if owner.stopped[partition] || owner.transaction.is_some() {
            return None;
        }
        let log = &self.logs[partition];
        let cursor = if owner.cursors[partition] > log.len() { 0 } else { owner.cursors[partition] };
        log.get(cursor).map(|event| (cursor, *event))
    }

    pub(crate) fn locked(&self, partition: usize) -> bool {
        self.owners.iter().any(|owner| owner.transaction.is_some_and(|tx| tx.event.partition == partition))
    }

    /// Nothing is left to be read or replayed, unless more is written.
    pub(crate) fn quiet(&self) -> bool {
        let idle = |owner: usize| {
            self.owners[owner].transaction.is_none()
                && (0..PARTITIONS).all(|partition| self.next(owner, partition).is_none())
        };
        (0..OWNERS).all(idle) && self.parked.is_empty() && self.replay.is_none()
    }
}
