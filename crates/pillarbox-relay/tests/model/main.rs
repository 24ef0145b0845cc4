//! The model: relays, a slot, coordinators, logs. Crashes at every step, a second relay that takes the slot from one that
//! lives on, requests that arrive late, twice, or never, answers that are lost, markers that are written late and one
//! by one. Every order of these steps is visited, and in each state:
//!
//! * **once, in order**: the committed events of a partition are the first ones of WAL, each once, with dense sequences;
//! * **whole**: what is committed is exactly what the committed checkpoint covers;
//! * **confirmed is committed**: the slot never passes what is committed;
//! * **goes on**: no relay halts;
//! * **not stuck**: as long as not everything is delivered and confirmed, something can happen.
//!
//! The relay is the real one: [`Machine`](pillarbox_kafka::producer::state::Machine) decides about transactions,
//! [`Intake`](pillarbox_relay::pipeline::intake::Intake) what is in them, what a restart drops and what may be confirmed,
//! [`judge`](pillarbox_relay::position::lineage::judge) whether a start goes on; the rest of it, and Kafka, are here:
//! brokers lose nothing that they acknowledged, and write every marker in the end.
//!
//! A checker that finds nothing proves nothing: it is run again with each of the mistakes in [`Mistake`], and has to find
//! every one.

mod cluster;
mod lives;
mod mistakes;
mod properties;
mod relays;
mod wal;
mod world;

use std::time::Instant;

use pillarbox_kafka::producer::state::Protocol;
use pillarbox_wire::lsn::Lsn;
use stateright::{Checker, HasDiscoveries, Model, Property};

use cluster::{CHECKPOINT, Cluster, View};
use lives::{LifeKey, Lives};
use mistakes::Mistake;
use relays::{Around, Effects, Relay, Streaming};
use wal::{DATA_PARTITIONS, Event, Written};
use world::{Budget, Message, Step, World};

/// What is explored.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    wal: &'static [Written],
    /// Source transactions with more events are split.
    events_max: usize,
    /// Transactional ids in rotation.
    ids: usize,
    kip890: bool,
    relays: usize,
    budget: Budget,
}

struct Relays {
    bounds: Bounds,
    mistake: Option<Mistake>,
    lives: Lives,
    expected: [Vec<Event>; DATA_PARTITIONS],
}

impl Relays {
    fn new(bounds: Bounds, mistake: Option<Mistake>) -> Self {
        let lives = Lives::new(bounds.wal, bounds.events_max);
        Self { bounds, mistake, lives, expected: wal::expected(bounds.wal) }
    }

    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// What a relay would confirm.
    fn may_confirm(&self, world: &World, at: usize) -> Lsn {
        let Relay::Streaming(streaming) = &world.relays[at] else { return wal::START };
        let life = self.lives.life(streaming.life);
        life.confirmed[if self.is(Mistake::ConfirmedEarly) { streaming.ending } else { streaming.committed }]
    }

    fn start(&self, world: &mut World, at: usize) {
        world.left.starts -= 1;
        world.owner = Some(at);
        let confirmed = world.confirmed;
        world.relays[at] = match self.mistake {
            Some(Mistake::NotFenced) => Relay::Reading { confirmed, epochs: world.cluster.epochs() },
            Some(Mistake::ReadBeforeFencing) => match self.read(world, confirmed) {
                Some(life) => Relay::Fencing { confirmed, epochs: Vec::new(), read: Some(life) },
                None => Relay::Halted,
            },
            _ => Relay::Fencing { confirmed, epochs: Vec::new(), read: None },
        };
    }

    fn fence(&self, world: &mut World, at: usize) -> Option<()> {
        let Relay::Fencing { confirmed, epochs, read } = &mut world.relays[at] else { return None };
        // Otherwise a transaction had to be ended first: it is asked again.
        epochs.extend(world.cluster.init(epochs.len()));
        if epochs.len() == self.bounds.ids {
            let (confirmed, epochs, read) = (*confirmed, std::mem::take(epochs), *read);
            world.relays[at] = Relay::Reading { confirmed, epochs };
            if let Some(life) = read {
                self.stream(world, at, life);
            }
        }
        Some(())
    }

    /// None: it halts.
    fn read(&self, world: &World, confirmed: Lsn) -> Option<LifeKey> {
        let visible = world.cluster.committed(CHECKPOINT, View::Visible);
        let table = self.lives.read(&[&[self.lives.first][..], &visible].concat());
        match self.mistake {
            Some(Mistake::CheckpointInSlot) => {
                self.lives.start(&self.lives.table_of_slot(confirmed), confirmed).ok()
            }
            Some(Mistake::NotFiltered) => Some(self.lives.start_unfiltered(&table, confirmed)),
            _ => self.lives.start(&table, confirmed).ok(),
        }
    }

    fn read_and_stream(&self, world: &mut World, at: usize) -> Option<()> {
        let Relay::Reading { confirmed, .. } = world.relays[at] else { return None };
        match self.read(world, confirmed) {
            Some(life) => self.stream(world, at, life),
            None => world.relays[at] = Relay::Halted,
        }
        Some(())
    }

    fn stream(&self, world: &mut World, at: usize, life: LifeKey) {
        let Relay::Reading { epochs, .. } = &world.relays[at] else { return };
        let older = !self.bounds.kip890 && !self.is(Mistake::EpochKept);
        let protocol = if older { Protocol::Older } else { Protocol::Kip890 };
        world.relays[at] = Relay::Streaming(Box::new(Streaming::new(life, epochs, protocol)));
        self.drive(world, at, |streaming, around, effects| streaming.top_up(around, effects));
    }

    /// One step of a streaming relay, and what follows from it.
    fn drive(
        &self,
        world: &mut World,
        at: usize,
        step: impl FnOnce(&mut Streaming, &Around<'_>, &mut Effects),
    ) {
        let Relay::Streaming(streaming) = &mut world.relays[at] else { return };
        let life = self.lives.life(streaming.life);
        let around = Around { life: &life, kip890: self.bounds.kip890, mistake: self.mistake };
        let mut effects = Effects::default();
        step(streaming, &around, &mut effects);
        world.send(Some(at), effects.requests);
        world.send(None, effects.strays);
        if effects.lost {
            world.bring_down(at);
        }
    }

    fn deliver(&self, world: &mut World, message: &Message) {
        let answer = world.cluster.take(&message.request);
        world.remove(message);
        if let Some(from) = message.from {
            self.drive(world, from, |streaming, around, effects| {
                streaming.answered(&message.request, answer, around, effects);
            });
        }
    }

    fn silence(&self, world: &mut World, message: &Message) -> Option<()> {
        let from = message.from?;
        world.left.silences -= 1;
        world.remove(message);
        world.send(None, vec![message.request]);
        self.drive(world, from, |streaming, around, effects| {
            streaming.unanswered(&message.request, around, effects);
        });
        Some(())
    }

    fn refuse(&self, world: &mut World, message: &Message) -> Option<()> {
        let from = message.from?;
        world.left.refusals -= 1;
        world.remove(message);
        self.drive(world, from, |streaming, around, effects| {
            let answer = Err(World::refusal(&message.request));
            streaming.answered(&message.request, answer, around, effects);
        });
        Some(())
    }

    fn progress(&self, world: &World, steps: &mut Vec<Step>) {
        world.progress(steps, self.is(Mistake::NotFenced), |at| self.may_confirm(world, at));
    }
}

impl Model for Relays {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let Bounds { ids, kip890, relays, budget, .. } = self.bounds;
        vec![World::new(Cluster::new(ids, kip890), relays, budget)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        self.progress(world, steps);
        world.faults(steps);
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        match step {
            Step::Start(at) => self.start(&mut world, at),
            Step::TakeOver(at) => {
                world.left.takeovers -= 1;
                self.start(&mut world, at);
            }
            Step::Fence(at) => self.fence(&mut world, at)?,
            Step::Read(at) => self.read_and_stream(&mut world, at)?,
            Step::Confirm(at) => world.confirmed = self.may_confirm(&world, at),
            Step::Deliver(message) => self.deliver(&mut world, &message),
            Step::Mark(id, partition) => world.cluster.write_marker(id, partition),
            Step::Crash(at) => {
                world.left.crashes -= 1;
                world.bring_down(at);
            }
            Step::FallBack => {
                world.left.fallbacks -= 1;
                world.confirmed = wal::START;
                if let Some(owner) = world.owner {
                    world.bring_down(owner);
                }
            }
            Step::Silence(message) => self.silence(&mut world, &message)?,
            Step::Copy(message) => {
                world.left.copies -= 1;
                world.send(None, vec![message.request]);
            }
            Step::Refuse(message) => self.refuse(&mut world, &message)?,
            Step::TimeOut(id) => {
                world.left.timeouts = world.left.timeouts.saturating_sub(1);
                world.cluster.init(id);
            }
        }
        world.tidy();
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

const QUIET: Budget = Budget {
    crashes: 0,
    takeovers: 0,
    fallbacks: 0,
    silences: 0,
    copies: 0,
    refusals: 0,
    timeouts: 0,
    starts: 4,
};
const CRASH: Budget = Budget { crashes: 1, ..QUIET };
const FALLBACK: Budget = Budget { crashes: 1, fallbacks: 1, ..QUIET };
const TAKEOVER: Budget = Budget { takeovers: 1, starts: 3, ..QUIET };
const STALLED: Budget = Budget { takeovers: 1, silences: 1, starts: 2, ..QUIET };
const SILENCE: Budget = Budget { crashes: 1, silences: 1, ..QUIET };
const COPY: Budget = Budget { copies: 1, ..QUIET };
const TROUBLE: Budget = Budget { refusals: 1, timeouts: 1, ..QUIET };

/// One transaction with two events, so that it can be torn; two more, so that an id comes up again.
const THREE: &[Written] = &[&[0, 1], &[0], &[1]];
const TWO: &[Written] = &[&[0, 1], &[0]];
/// All in one partition, where their order shows.
const ROW: &[Written] = &[&[0], &[0], &[0]];
const PAIR: &[Written] = &[&[0], &[0]];
const ONE: &[Written] = &[&[0]];
/// To be split into parts of one event.
const LARGE: &[Written] = &[&[0, 1, 0]];

/// Two ids and the newer protocol.
const KIP890: Bounds = Bounds { wal: THREE, events_max: 100, ids: 2, kip890: true, relays: 1, budget: CRASH };
/// The protocol before KIP-890.
const OLDER: Bounds = Bounds { kip890: false, ..KIP890 };

fn holds(bounds: Bounds) {
    let started = Instant::now();
    let checker = Relays::new(bounds, None).checker().threads(2).spawn_bfs().join();
    let (states, depth, took) = (checker.unique_state_count(), checker.max_depth(), started.elapsed());
    let Bounds { wal, ids, kip890, budget, .. } = bounds;
    let protocol = if kip890 { "KIP-890" } else { "older" };
    eprintln!("{protocol}, {ids} ids, {wal:?}, {budget}: {states} states, {depth} deep, {took:.1?}");
    checker.assert_properties();
}

#[test]
fn kip890_through_crashes() {
    holds(KIP890);
    holds(Bounds { wal: TWO, budget: Budget { crashes: 2, ..QUIET }, ..KIP890 });
    holds(Bounds { wal: TWO, budget: FALLBACK, ..KIP890 });
}

#[test]
fn kip890_with_three_ids() {
    holds(Bounds { wal: ROW, ids: 3, ..KIP890 });
}

#[test]
fn kip890_through_takeovers() {
    holds(Bounds { wal: PAIR, relays: 2, budget: TAKEOVER, ..KIP890 });
    holds(Bounds { wal: PAIR, relays: 2, budget: STALLED, ..KIP890 });
}

#[test]
fn kip890_through_lost_and_late_requests() {
    holds(Bounds { wal: TWO, budget: SILENCE, ..KIP890 });
    holds(Bounds { budget: COPY, ..KIP890 });
    holds(Bounds { wal: TWO, budget: TROUBLE, ..KIP890 });
}

#[test]
fn kip890_inside_a_split_transaction() {
    holds(Bounds { wal: LARGE, events_max: 1, budget: FALLBACK, ..KIP890 });
}

#[test]
fn older_through_crashes() {
    holds(Bounds { wal: TWO, budget: FALLBACK, ..OLDER });
}

#[test]
fn older_inside_a_split_transaction() {
    holds(Bounds { wal: LARGE, events_max: 1, ..OLDER });
}

#[test]
fn older_through_takeovers() {
    holds(Bounds { wal: PAIR, relays: 2, budget: Budget { starts: 2, ..TAKEOVER }, ..OLDER });
}

#[test]
fn older_through_lost_and_late_requests() {
    holds(Bounds { wal: PAIR, budget: SILENCE, ..OLDER });
    holds(Bounds { wal: ROW, budget: COPY, ..OLDER });
    holds(Bounds { wal: PAIR, budget: TROUBLE, ..OLDER });
}

const SEVERAL: Budget = Budget { takeovers: 1, crashes: 1, silences: 1, fallbacks: 1, ..QUIET };

#[test]
fn kip890_through_several_faults() {
    let in_the_network = Budget { silences: 1, copies: 1, refusals: 1, ..QUIET };
    holds(Bounds { wal: PAIR, budget: in_the_network, ..KIP890 });
    holds(Bounds { wal: ONE, relays: 3, budget: Budget { takeovers: 2, ..QUIET }, ..KIP890 });
    holds(Bounds { wal: ONE, relays: 2, budget: SEVERAL, ..KIP890 });
}

#[test]
fn older_through_several_faults() {
    holds(Bounds { wal: PAIR, budget: Budget { silences: 1, copies: 1, ..QUIET }, ..OLDER });
    holds(Bounds { wal: ONE, relays: 2, budget: SEVERAL, ..OLDER });
}

/// Each mistake, where it hurts, and what is broken by it.
#[test]
fn each_mistake_is_found() {
    for (mistake, bounds, property) in [
        // The torn transaction of KAFKA-17754: a second copy of an EndTxn ends the id's next transaction half-way.
        (Mistake::EpochKept, Bounds { wal: ROW, ids: 1, budget: COPY, ..OLDER }, "whole"),
        (Mistake::NotFenced, Bounds { ids: 1, ..KIP890 }, "once, in order"),
        (Mistake::NotFenced, Bounds { ids: 1, budget: SILENCE, ..OLDER }, "whole"),
        (Mistake::ReadBeforeFencing, KIP890, "once, in order"),
        (Mistake::CheckpointInSlot, KIP890, "once, in order"),
        (Mistake::ConfirmedEarly, KIP890, "confirmed is committed"),
        (Mistake::EndsOutOfOrder, KIP890, "once, in order"),
        (Mistake::EndsOutOfOrder, Bounds { wal: ROW, ..KIP890 }, "once, in order"),
        (Mistake::NotFiltered, KIP890, "once, in order"),
        (Mistake::NotFiltered, Bounds { wal: LARGE, events_max: 1, ..KIP890 }, "once, in order"),
    ] {
        let until = HasDiscoveries::AnyOf([property].into());
        let checker = Relays::new(bounds, Some(mistake)).checker().finish_when(until).spawn_bfs().join();
        let path = checker.discovery(property).unwrap_or_else(|| panic!("{mistake:?} is not found"));
        let steps: Vec<String> = path.into_actions().iter().map(Step::to_string).collect();
        eprintln!("{mistake:?} breaks \"{property}\": {}", steps.join(", "));
    }
}
