//! The model: two owners, crashes, rebalances that read everything again, failovers that use LSNs twice, logs that lose
//! their tail, events that fail and are parked. Every order of these steps is visited, and in each of them:
//!
//! * **once**: no event has two effects;
//! * **no hole**: what the row covers has its effect, or is parked;
//! * **order**: the effects of a key are in the order of its events;
//! * **own history**: an event of another history has no effect;
//! * **complete**: when all is read and replayed, each event of an undamaged partition has its effect.
//!
//! The decision is the crate's own. A checker that finds nothing proves nothing: it is run again with each of the
//! mistakes in [`Bug`], and has to find every one.

use pillarbox_consumer::{Header, resume_offset};
use stateright::{Checker, HasDiscoveries, Model, Property};

use bugs::{Bug, Verdict};
use world::{Budget, Event, OWNERS, Outcome, PARTITIONS, Row, Transaction, World};

mod bugs;
mod world;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Append(usize),
    FailOver,
    Resend(usize),
    Lose(usize),
    Intrude(usize),
    /// An owner begins a transaction with its next event of a partition.
    Accept(usize, usize),
    /// The same, the effect fails, is rolled back, and the event is about to be parked.
    AcceptAndFail(usize, usize),
    Commit(usize),
    /// An owner dies, or loses its partitions, whatever it was doing; then it begins where the rows say.
    Crash(usize),
    /// The same, but it begins with the first event there is.
    CrashAndRewind(usize),
    Replay(Event),
    ReplayCommit,
    ReplayCrash,
}

struct Consumers {
    budget: Budget,
    bug: Option<Bug>,
}

impl Consumers {
    /// The decision, from the core; or from a mistake.
    fn decide(&self, row: Row, event: &Event, offset: usize) -> Verdict {
        let text = event.pb_pos();
        let header = Header::parse(Some(text.as_bytes())).expect("the model writes headers of the contract");
        let mistake = self.bug.and_then(|bug| bug.decide(row, &header, offset));
        mistake.unwrap_or_else(|| bugs::decide(row, &header))
    }

    fn accept(&self, world: &mut World, owner: usize, partition: usize, fails: bool) -> Option<()> {
        let (offset, event) = world.next(owner, partition)?;
        world.owners[owner].cursors[partition] = offset;
        let row = world.rows[self.row_of(partition)];
        let state = match self.decide(row, &event, offset) {
            Verdict::Apply(state) => state,
            Verdict::Skip => {
                world.owners[owner].cursors[partition] = offset + 1;
                return Some(());
            }
            Verdict::Stop => {
                world.owners[owner].stopped[partition] = true;
                return Some(());
            }
        };
        let waits = self.bug != Some(Bug::KeyDoesNotWait)
            && world.parked.iter().any(|parked| parked.same_key(&event));
        world.left.failures -= u8::from(fails);
        let outcome = if waits || fails { Outcome::Parked } else { Outcome::Effect };
        let row = Row { state, offset: Some(offset) };
        let transaction = Transaction { event, row, outcome };
        match self.bug {
            Some(Bug::EffectFirst) => self.leave(world, &transaction),
            Some(Bug::RowFirst) => world.rows[self.row_of(partition)] = row,
            _ => {}
        }
        world.owners[owner].transaction = Some(transaction);
        Some(())
    }

    fn commit(&self, world: &mut World, owner: usize) -> Option<()> {
        let transaction = world.owners[owner].transaction.take()?;
        let partition = transaction.event.partition;
        if self.bug != Some(Bug::EffectFirst) {
            self.leave(world, &transaction);
        }
        let moves = self.bug != Some(Bug::ParkWithoutAccepting) || transaction.outcome == Outcome::Effect;
        if moves {
            world.rows[self.row_of(partition)] = transaction.row;
        }
        world.owners[owner].cursors[partition] += 1;
        Some(())
    }

    fn leave(&self, world: &mut World, transaction: &Transaction) {
        match transaction.outcome {
            Outcome::Effect => world.effects.push(transaction.event),
            Outcome::Parked => world.parked.push(transaction.event),
        }
    }

    fn crash(&self, world: &mut World, owner: usize, rewind: bool) {
        world.left.crashes -= 1;
        let resume = |row: Row| resume_offset(row.offset.map(|offset| offset as i64)).unwrap_or(0) as usize;
        let rows = world.rows;
        let next = &mut world.owners[owner];
        next.transaction = None;
        next.stopped = [false; PARTITIONS];
        next.cursors = if rewind { [0; PARTITIONS] } else { rows.map(resume) };
    }

    /// What may be replayed: the first of each key.
    fn replayable(&self, world: &World) -> Vec<Event> {
        let is_first = |event: &&Event| {
            self.bug == Some(Bug::ReplayOutOfOrder)
                || !world.parked.iter().any(|other| other.same_key(event) && other.sequence < event.sequence)
        };
        world.parked.iter().filter(is_first).copied().collect()
    }

    fn row_of(&self, partition: usize) -> usize {
        if self.bug == Some(Bug::OneRowForAllPartitions) { 0 } else { partition }
    }
}

impl Model for Consumers {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.budget)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        let left = &world.left;
        steps.extend((left.failovers > 0).then_some(Step::FailOver));
        for partition in 0..left.partitions {
            let log = &world.logs[partition];
            steps.extend((left.appends > 0).then_some(Step::Append(partition)));
            steps.extend((left.resends > 0 && !log.is_empty()).then_some(Step::Resend(partition)));
            steps.extend((left.losses > 0 && !log.is_empty()).then_some(Step::Lose(partition)));
            let ended = log.last().is_some_and(|event| event.epoch > 1);
            steps.extend((left.foreigners > 0 && ended).then_some(Step::Intrude(partition)));
        }
        for owner in 0..OWNERS {
            for partition in 0..left.partitions {
                let blocked = world.locked(self.row_of(partition)) && self.bug != Some(Bug::NoRowLock);
                if world.next(owner, partition).is_some() && !blocked {
                    steps.push(Step::Accept(owner, partition));
                    steps.extend((left.failures > 0).then_some(Step::AcceptAndFail(owner, partition)));
                }
            }
            steps.extend(world.owners[owner].transaction.map(|_| Step::Commit(owner)));
            if left.crashes > 0 {
                steps.extend([Step::Crash(owner), Step::CrashAndRewind(owner)]);
            }
        }
        if world.replay.is_some() {
            steps.push(Step::ReplayCommit);
            steps.extend((left.crashes > 0).then_some(Step::ReplayCrash));
        } else {
            steps.extend(self.replayable(world).into_iter().map(Step::Replay));
        }
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        match step {
            Step::Append(partition) => world.append(partition),
            Step::FailOver => world.fail_over(),
            Step::Resend(partition) => world.resend(partition),
            Step::Lose(partition) => world.lose(partition),
            Step::Intrude(partition) => world.intrude(partition),
            Step::Accept(owner, partition) => self.accept(&mut world, owner, partition, false)?,
            Step::AcceptAndFail(owner, partition) => self.accept(&mut world, owner, partition, true)?,
            Step::Commit(owner) => self.commit(&mut world, owner)?,
            Step::Crash(owner) => self.crash(&mut world, owner, false),
            Step::CrashAndRewind(owner) => self.crash(&mut world, owner, true),
            Step::Replay(event) => {
                world.replay = Some(event);
                if self.bug == Some(Bug::ReplayBeforeTakingOut) {
                    world.effects.push(event);
                }
            }
            Step::ReplayCommit => {
                let event = world.replay.take()?;
                world.parked.retain(|parked| *parked != event);
                if self.bug != Some(Bug::ReplayBeforeTakingOut) {
                    world.effects.push(event);
                }
            }
            Step::ReplayCrash => {
                world.left.crashes -= 1;
                world.replay = None;
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("once", once),
            Property::always("no hole", no_hole),
            Property::always("order", order),
            Property::always("own history", |_, world: &World| {
                !world.effects.iter().any(|event| event.foreign)
            }),
            Property::always("complete", complete),
            Property::sometimes("all was spent, and all was applied", all_spent),
        ]
    }
}

fn once(_: &Consumers, world: &World) -> bool {
    let settled: Vec<&Event> = world.effects.iter().chain(&world.parked).collect();
    settled.iter().enumerate().all(|(index, event)| !settled[..index].contains(event))
}

fn no_hole(model: &Consumers, world: &World) -> bool {
    let covered = |event: &&Event| {
        let last = world.rows[model.row_of(event.partition)].state.last();
        last.is_some_and(|last| u64::from(event.sequence) <= last.sequence().0)
    };
    let settled = |event: &Event| world.effects.contains(event) || world.parked.contains(event);
    world.written.iter().flatten().filter(covered).all(settled)
}

fn order(_: &Consumers, world: &World) -> bool {
    let overtaken = |before: &[Event], event: &Event| {
        before.iter().any(|other| other.same_key(event) && other.sequence > event.sequence)
    };
    let effects = &world.effects;
    effects.iter().enumerate().all(|(index, event)| !overtaken(&effects[..index], event))
}

fn complete(_: &Consumers, world: &World) -> bool {
    let sound = (0..PARTITIONS).filter(|&partition| !world.damaged[partition]);
    let mut written = sound.flat_map(|partition| &world.written[partition]);
    !world.quiet() || written.all(|event| world.effects.contains(event))
}

/// Else the others could hold because nothing happens.
fn all_spent(_: &Consumers, world: &World) -> bool {
    let spent = Budget { partitions: world.left.partitions, ..Budget::default() };
    let stopped = world.owners.iter().any(|owner| owner.stopped.contains(&true));
    world.left == spent && world.quiet() && stopped == world.damaged.contains(&true)
}

/// Two partitions, two owners: who reads what when.
const REBALANCES: Budget = Budget {
    partitions: 2,
    appends: 4,
    failovers: 0,
    resends: 1,
    losses: 0,
    foreigners: 0,
    crashes: 2,
    failures: 0,
};
/// One partition: LSNs that repeat, an older relay, a log that loses its tail.
const HISTORIES: Budget = Budget {
    partitions: 1,
    appends: 4,
    failovers: 1,
    resends: 1,
    losses: 1,
    foreigners: 1,
    crashes: 1,
    failures: 0,
};
/// One partition without damage, through a failover.
const FAILOVERS: Budget = Budget {
    partitions: 1,
    appends: 4,
    failovers: 2,
    resends: 1,
    losses: 0,
    foreigners: 0,
    crashes: 2,
    failures: 0,
};
/// One partition: events that fail, with others of their key behind them, through a failover.
const PARKING: Budget = Budget {
    partitions: 1,
    appends: 4,
    failovers: 1,
    resends: 1,
    losses: 0,
    foreigners: 0,
    crashes: 2,
    failures: 2,
};

fn holds(budget: Budget) {
    let checker = Consumers { budget, bug: None }.checker().spawn_bfs().join();
    eprintln!("{} states, {} deep", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
}

#[test]
fn through_rebalances() {
    holds(REBALANCES);
}

#[test]
fn through_damaged_histories() {
    holds(HISTORIES);
}

#[test]
fn through_failovers() {
    holds(FAILOVERS);
}

#[test]
fn through_parking() {
    holds(PARKING);
}

/// Each mistake, where it hurts, and what is broken by it.
#[test]
fn each_mistake_is_found() {
    for (bug, budget, property) in [
        (Bug::OneRowForAllPartitions, REBALANCES, "complete"),
        (Bug::AcceptsEqual, REBALANCES, "once"),
        (Bug::NoRowLock, REBALANCES, "once"),
        (Bug::OffsetDecides, REBALANCES, "once"),
        (Bug::EffectFirst, REBALANCES, "once"),
        (Bug::RowFirst, REBALANCES, "complete"),
        (Bug::EpochIgnored, FAILOVERS, "complete"),
        (Bug::GapIgnored, HISTORIES, "no hole"),
        (Bug::PositionIgnored, HISTORIES, "own history"),
        (Bug::KeyDoesNotWait, PARKING, "order"),
        (Bug::ReplayOutOfOrder, PARKING, "order"),
        (Bug::ReplayBeforeTakingOut, PARKING, "once"),
        (Bug::ParkWithoutAccepting, PARKING, "once"),
    ] {
        let until = HasDiscoveries::AnyOf([property].into());
        let checker = Consumers { budget, bug: Some(bug) }.checker().finish_when(until).spawn_bfs().join();
        let path = checker.discovery(property).unwrap_or_else(|| panic!("{bug:?} is not found"));
        eprintln!("{bug:?} breaks \"{property}\": {:?}", path.into_actions());
    }
}
