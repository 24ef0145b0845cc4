//! A round in which relays come to their steps by themselves: starts and load; and in which servers crash with them.

use std::time::Duration;

use pillarbox_failpoint::Step;
use pillarbox_lab::ShutdownMode;

use crate::dearer_every;
use crate::harness::dice::Dice;
use crate::life::{Failpoint, PATIENCE};
use crate::plan::{hit, way};
use crate::world::World;

/// Brokers that die in a round at most until one has lost a marker: each does with a probability of about a third.
const CHASES_MAX: u32 = 100;
/// How long a broker stands still at most before it dies: markers are written within a millisecond.
const STANDSTILL_MICROS_MAX: u64 = 100;

/// What a round has in store, in random order.
enum Blow {
    Relay(Step),
    /// With the relay, which has just confirmed, Postgres crashes: it forgets what it was told.
    Postgres,
    /// With the relay, which has just heard of a commit, the broker dies.
    Broker,
}

/// One round.
pub(crate) fn round(world: &mut World, dice: &mut Dice) {
    let alone = Step::ALL.iter().filter(|step| way(**step).is_alone());
    let mut blows: Vec<Blow> = alone.map(|step| Blow::Relay(*step)).collect();
    blows.push(Blow::Postgres);
    if world.rounds.is_multiple_of(dearer_every()) {
        blows.push(Blow::Broker);
    }
    world.rounds += 1;
    dice.shuffle(&mut blows);
    for blow in blows {
        match blow {
            Blow::Relay(step) => {
                let failpoint = Failpoint { hit: hit(step, dice), ..Failpoint::first(step) };
                world.subject.strike(&failpoint);
            }
            Blow::Postgres => crash_postgres(world, dice),
            Blow::Broker => chase_a_marker(world, dice),
        }
    }
}

fn crash_postgres(world: &mut World, dice: &mut Dice) {
    let failpoint = Failpoint { hit: hit(Step::Confirmed, dice), ..Failpoint::first(Step::Confirmed) };
    world.subject.strike(&failpoint);
    world.subject.was_not_alone();
    world.site.postgres.stop(ShutdownMode::Immediate, PATIENCE).expect("Postgres stops");
    world.site.postgres.start_again().expect("Postgres starts again");
    world.subject.figures.postgres_crashes += 1;
}

/// Brokers die until one has lost a marker, and the relay that writes it dies, too. Whether one does is a race inside of
/// it.
fn chase_a_marker(world: &mut World, dice: &mut Dice) {
    let lost = (0..CHASES_MAX).any(|_| marker_is_lost(world, dice));
    assert!(lost, "{CHASES_MAX} brokers died without losing a marker");
}

/// A broker that dies in the short time between deciding a transaction and writing its markers may come back without
/// them.
fn marker_is_lost(world: &mut World, dice: &mut Dice) -> bool {
    let decided = Failpoint {
        hit: hit(Step::EndTxnAnswered, dice),
        victim: world.site.kafka.pid(1),
        delay: Duration::from_micros(dice.below(STANDSTILL_MICROS_MAX)),
        ..Failpoint::first(Step::EndTxnAnswered)
    };
    world.subject.strike(&decided);
    world.subject.was_not_alone();
    world.site.kafka.kill9(1).expect("the broker is gone");
    world.site.kafka.start_broker(1).expect("the broker starts again");
    world.subject.figures.broker_kills += 1;
    let written = Failpoint::first(Step::MarkerWritten);
    world.subject.launch(Some(&written));
    world.subject.wait_death_or(&written, |relay| relay.state().as_deref() == Some("streaming"))
}
