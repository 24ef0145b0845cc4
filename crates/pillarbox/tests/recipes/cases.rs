//! What happens to consumers, one function each: gives the desk with what is left.
//!
//! Each acts on events (so many effects are there), never on time. Must never look into the recipe.

use std::collections::BTreeSet;

use crate::groups;
use crate::harness::dice::Dice;
use crate::harness::until::until;
use crate::member::{Member, STOPPED};
use crate::planted::Topic;
use crate::program::Program;
use crate::world::{Desk, PATIENCE, World};

/// Kills between effect and offset that count.
const HITS: usize = 3;
/// Kills at most: most hit, as nobody waits for the offset.
const KILLS_MAX: usize = 40;
/// What happens to a group in a storm, in any order.
const CHANGES: [Change; 11] = [
    Change::Come,
    Change::Come,
    Change::Come,
    Change::Leave,
    Change::Leave,
    Change::Die,
    Change::Die,
    Change::ThrownOut,
    Change::ThrownOut,
    Change::Hang,
    Change::Hang,
];
/// Members that must have applied events in a storm: fewer is none.
const WORKERS_MIN: usize = 3;
/// A JVM that ends in order at SIGTERM says 128 + 15.
const JVM_TERMINATED: i32 = 143;
/// Effects of each of two owners.
const SHARE: i64 = 10;

/// What happens to the members of a group.
#[derive(Debug, Clone, Copy)]
enum Change {
    Come,
    Leave,
    Die,
    ThrownOut,
    /// Thrown out while it hangs, it wakes up and believes that it still owns what it read.
    Hang,
}

/// What a kill left behind.
#[derive(Debug, Default)]
pub(crate) struct Aftermath {
    /// Events that were applied, but will be delivered again.
    again: Vec<i64>,
    /// Events whose offset was committed, but not their effect: they are lost.
    pub(crate) ahead: Vec<i64>,
}

/// Kill -9 at a random place, again and again, until it hit between an effect and its offset a few times.
pub(crate) fn killed<'w>(world: &'w World, program: &Program, case: &str) -> (Desk<'w>, Aftermath) {
    let desk = Desk::new(world, program, case);
    let mut dice = Dice::new();
    let (mut hits, mut kills) = (0, 0);
    while hits < HITS {
        desk.publish(60);
        let before = desk.effects();
        let mut member = desk.member();
        let more = i64::try_from(1 + dice.below(50)).expect("a small number");
        desk.wait_effects(before + more, &mut [&mut member]);
        member.kill9();
        desk.empty_group();
        kills += 1;
        let left = aftermath(&desk);
        if !left.ahead.is_empty() {
            return (desk, left);
        }
        hits += usize::from(!left.again.is_empty());
        assert!(kills < KILLS_MAX, "{}: {hits} of {kills} kills hit", desk.name);
    }
    let mut member = desk.member();
    desk.wait_effects(desk.published(), &mut [&mut member]);
    member.terminate();
    println!("{}: {hits} of {kills} kills between effect and offset", desk.name);
    (desk, Aftermath::default())
}

fn aftermath(desk: &Desk<'_>) -> Aftermath {
    let (offsets, applied) = (desk.offsets(&desk.name), BTreeSet::from_iter(desk.applied()));
    let mut left = Aftermath::default();
    for record in desk.records() {
        let read = offsets.get(&record.partition).is_some_and(|at| *at > record.offset);
        match (applied.contains(&record.event), read) {
            (true, false) => left.again.push(record.event),
            (false, true) => left.ahead.push(record.event),
            (true, true) | (false, false) => {}
        }
    }
    left
}

/// Members come, leave, die and are thrown out while events flow.
pub(crate) fn storm<'w>(world: &'w World, program: &Program) -> Desk<'w> {
    let desk = Desk::new(world, program, "storm");
    let mut dice = Dice::new();
    desk.publish(40);
    let mut members = vec![desk.member(), desk.member()];
    let mut changes = CHANGES.to_vec();
    while !changes.is_empty() {
        desk.wait_effects(desk.published() - 10, &mut members.iter_mut().collect::<Vec<_>>());
        desk.publish(40);
        let change = changes.swap_remove(dice.index(changes.len()));
        let one = dice.index(members.len());
        match change {
            Change::Come => members.push(desk.member()),
            Change::Leave => {
                members.swap_remove(one).terminate();
            }
            Change::Die => {
                members.swap_remove(one).kill9();
                desk.empty_group();
            }
            Change::ThrownOut => desk.empty_group(),
            Change::Hang => {
                members[one].suspend();
                desk.empty_group();
                let mut hung = members.swap_remove(one);
                members.push(desk.member());
                desk.wait_progress(&mut members.iter_mut().collect::<Vec<_>>());
                hung.resume();
                members.push(hung);
            }
        }
        if members.is_empty() {
            members.push(desk.member());
        }
    }
    until(&format!("{}: several members have applied events", desk.name), PATIENCE, || {
        desk.wait_effects(desk.published() - 10, &mut members.iter_mut().collect::<Vec<_>>());
        (desk.shares().len() >= WORKERS_MIN).then_some(()).or_else(|| {
            desk.publish(20);
            None
        })
    });
    desk.wait_effects(desk.published(), &mut members.iter_mut().collect::<Vec<_>>());
    desk
}

/// Two groups with one name in the database own each partition both, then one of them hangs and wakes up.
pub(crate) fn owners<'w>(world: &'w World, program: &Program) -> Desk<'w> {
    let desk = Desk::new(world, program, "owners");
    let other = format!("{}_other", desk.name);
    desk.publish(200);
    let (mut first, mut second) = (desk.member(), desk.member_of(&other));
    until(&format!("{}: both have applied events", desk.name), PATIENCE, || {
        [&mut first, &mut second].into_iter().for_each(Member::supervise);
        if desk.effects() + 50 > desk.published() {
            desk.publish(100);
        }
        // One that was started again has more than one session.
        let [.., second, _] = desk.shares()[..] else { return None };
        (second >= SHARE).then_some(())
    });

    // Wherever the first one stands, perhaps inside its transaction: the second one goes on, or waits for it.
    first.suspend();
    desk.wait_progress(&mut [&mut second]);
    first.resume();
    // Both have read everything: each event was offered twice.
    desk.wait_read(&other, &mut second);
    desk.wait_read(&desk.name, &mut first);
    desk
}

/// Everything again, from the begin of the topic.
pub(crate) fn again<'w>(world: &'w World, program: &Program, case: &str) -> Desk<'w> {
    let desk = Desk::new(world, program, case);
    desk.publish(200);
    for _ in 0..2 {
        let mut member = desk.member();
        desk.wait_effects(200, &mut [&mut member]);
        desk.wait_read(&desk.name, &mut member);
        let code = member.terminate();
        assert!(matches!(code, Some(0 | JVM_TERMINATED)), "{}: {code:?} at SIGTERM", desk.name);
        // Refused where a member has not left.
        groups::rewind(&world.site.kafka.bootstrap(), &desk.name, &desk.topic);
    }
    desk
}

/// A topic that no relay would write: the recipe ends, twice; gives what it said.
pub(crate) fn refused<'w>(world: &'w World, program: &Program, topic: &Topic) -> (Desk<'w>, String) {
    let name = format!("{}_{}", topic.name.replace('.', "_"), program.name);
    let desk = Desk::at(world, program, name, topic.name.to_owned());
    let mut said = String::new();
    for _ in 0..2 {
        let mut member = desk.member();
        let code = member.exit_code(PATIENCE);
        said = member.said();
        assert_eq!(code, Some(STOPPED), "{}:\n{said}", desk.name);
        assert_eq!(desk.applied(), [1, 2, 3, 4, 5], "{}: nothing after it was applied", desk.name);
        desk.empty_group();
    }
    (desk, said)
}
