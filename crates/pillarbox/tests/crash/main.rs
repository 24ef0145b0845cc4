//! The guarantee at every step: the relay ends, as if killed, wherever in its life it may stand, again and again;
//! afterwards every committed event is in Kafka once, in commit order, and nothing that was rolled back.
//!
//! ```text
//! Step::ALL --way--> by itself (a start, load)    site 1: writers, a broker and a Postgres that crash too
//!               +--> somebody acts (a pause, ...) site 2: writers, an operator, a second relay, failovers
//!               +--> a history was cut            sites of their own: `lineage accept` dies, not the relay
//!
//! a life: choose a step and a hit -> start -> bring it about -> it must die there -> the next life recovers
//! ```
//! | file | holds |
//! | --- | --- |
//! | `plan` | how each step is brought about, and how often it may be reached before |
//! | `life` | one relay, its lives and deaths |
//! | `figures` | what is printed |
//! | `world` | servers, writers, the verdict |
//! | `alone`, `acted`, `accepted` | the rounds of each kind of site |
//! | `cut` | the pipeline whose history is cut, as in the tests of failover |
//!
//! `PILLARBOX_ROUNDS` is how often each step is struck (5); `PILLARBOX_KILLS` raises it until so many relays have died,
//! three times as far for the steps that a relay comes to by itself. `PILLARBOX_SITES` is how many sites of each kind work at
//! once (1): lives wait more than they compute.
//! Must never pass when a step was not reached, or a relay died of something else.

mod accepted;
mod acted;
mod alone;
#[expect(dead_code, reason = "of the tests of failover only the cut is needed")]
#[path = "../failover/world.rs"]
mod cut;
mod figures;
#[expect(dead_code, reason = "not every test needs all of the harness")]
#[path = "../harness/mod.rs"]
mod harness;
mod life;
mod plan;
mod world;

use std::time::Instant;

use figures::Figures;
use harness::dice::{Dice, number};
use pillarbox_failpoint::Step;
use plan::{Way, way};
use world::World;

/// How often each step is struck.
const ROUNDS: u64 = 5;
/// In a long run, rounds of the steps that a relay comes to by itself for one of the others, which need brokers that die,
/// tools of Kafka's or another server.
const ALONE_FOR_DEARER: u32 = 3;
/// Rounds on the same servers: the judge holds all of their events in memory.
const ROUNDS_PER_SITE: u64 = 10;

/// Transactions a second where relays come to their steps by themselves: each life begins in a backlog.
const ALONE_RATE: f64 = 30.0;
/// The same where somebody acts, and waits until the relay has come so far.
const ACTED_RATE: f64 = 10.0;

/// What strikes a site for one round.
type Round = fn(&mut World, &mut Dice);

/// All rounds of a kind, shared among sites that work at once.
fn shared(work: Round, count: u64, rate: f64, dice: &mut Dice) -> Figures {
    let sites = number("PILLARBOX_SITES", 1).clamp(1, count);
    let dice: Vec<Dice> = (0..sites).map(|_| dice.split()).collect();
    std::thread::scope(|scope| {
        let share = |site| count / sites + u64::from(site < count % sites);
        let sites =
            (0..).zip(dice).map(|(site, dice)| scope.spawn(move || rounds(work, share(site), rate, dice)));
        let sites: Vec<_> = sites.collect();
        let mut figures = Figures::default();
        for site in sites {
            figures.add(site.join().expect("the site is clean"));
        }
        figures
    })
}

/// All rounds of a site, on new servers from time to time.
fn rounds(work: Round, count: u64, rate: f64, mut dice: Dice) -> Figures {
    let mut figures = Figures::default();
    let mut left = count;
    while left > 0 {
        let mut world = World::start(dice.below(u64::MAX), rate);
        for _ in 0..left.min(ROUNDS_PER_SITE) {
            let begun = Instant::now();
            work(&mut world, &mut dice);
            println!("round {} took {:.1?}", world.rounds, begun.elapsed());
        }
        figures.add(world.judge());
        left = left.saturating_sub(ROUNDS_PER_SITE);
        println!("{} relays have died in these rounds, {left} are left", figures.total());
    }
    figures
}

/// Rounds of the steps that a relay comes to by itself, and of the others.
fn counts() -> (u64, u64) {
    let (rounds, kills) = (number("PILLARBOX_ROUNDS", ROUNDS), number("PILLARBOX_KILLS", 0));
    let all = u64::try_from(Step::ALL.len()).expect("a small number");
    let alone = Step::ALL.iter().filter(|step| way(**step).is_alone()).count();
    let alone = u64::try_from(alone).expect("a small number");
    let times = u64::from(ALONE_FOR_DEARER);
    let dearer = kills.div_ceil(times * alone + (all - alone));
    (rounds.max(times * dearer), rounds.max(dearer))
}

/// Every which of the former rounds has a step of the latter.
fn dearer_every() -> u32 {
    if number("PILLARBOX_KILLS", 0) > 0 { ALONE_FOR_DEARER } else { 1 }
}

/// fault: 1 abort at each step, with a second relay, a broker and a Postgres that crash too
/// holds: nothing lost, whichever of the 44 steps it died at
/// told: nothing: the next start goes on by itself; broken markers are told (PB-2020)
#[test]
fn every_step_survives_an_abort() {
    let begun = Instant::now();
    let mut dice = Dice::new();
    let (alone_rounds, acted_rounds) = counts();
    let (mut ours, mut theirs) = (dice.split(), dice.split());
    println!(
        "{} steps: {alone_rounds} rounds of those by itself, {acted_rounds} of the others",
        Step::ALL.len()
    );
    let (mut figures, others, cuts) = std::thread::scope(|scope| {
        let alone = scope.spawn(|| shared(alone::round, alone_rounds, ALONE_RATE, &mut ours));
        let acted = scope.spawn(|| shared(acted::round, acted_rounds, ACTED_RATE, &mut theirs));
        let cuts = accepted::rounds(acted_rounds);
        (alone.join().expect("site 1 is clean"), acted.join().expect("site 2 is clean"), cuts)
    });
    figures.add(others);
    figures.add(cuts);
    println!("{figures}{:.0?} in all", begun.elapsed());
    for step in Step::ALL {
        let least = match way(*step) {
            // Those of an operator need servers of their own.
            Way::Accepted => acted_rounds.min(ROUNDS),
            way if way.is_alone() => alone_rounds,
            _ => acted_rounds,
        };
        assert!(figures.count(*step) >= least, "{} was struck {} times", step.name(), figures.count(*step));
    }
}
