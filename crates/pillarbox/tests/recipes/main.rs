//! The recipes in `examples/consume`, five languages, against a real Kafka, a real Postgres and the relay: each event has
//! its effect once, in the order of its partition, whatever happens; and where that cannot be, they stop.
//!
//! | case | what happens |
//! | --- | --- |
//! | `killed_between_effect_and_offset` | kill -9 where an event was applied and its offset not committed |
//! | `rebalance_storm` | members come, leave, die and are thrown out while events flow |
//! | `two_owners_of_each_partition` | two groups share the consumer's name; one hangs and wakes up |
//! | `the_whole_topic_again` | the offsets are set back to the begin |
//! | `an_event_out_of_order`, `an_event_is_missing` | a topic that no relay would write, with aborted records in it |
//! | `mistakes_are_found` | the same cases find what is planted in the recipe in Python |
//!
//! All run at once on the same servers, a thread a language. Must never wait for a time, only for events.

#[expect(dead_code, reason = "not every test needs all of the harness")]
#[path = "../harness/mod.rs"]
mod harness;

mod cases;
mod groups;
mod judge;
mod member;
mod planted;
mod program;
mod sql;
mod world;

#[path = "../../../../examples/consume/rust/src/main.rs"]
#[expect(unreachable_pub, reason = "a program of its own, compiled into this test")]
mod rust;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use judge::Report;
use program::{Program, programs};
use world::{Desk, PATIENCE, World};

/// The test that is the recipe in Rust.
const RUST_RECIPE: &str = "recipe_in_rust";

/// Runs a case for each language at once. All come to their end before one of them fails the test.
fn in_every_language(case: &str, run: impl Fn(&World, &Program) + Sync) {
    let (programs, world) = (programs(), World::shared());
    let failed: Vec<&str> = std::thread::scope(|scope| {
        let (run, world) = (&run, &world);
        let threads: Vec<_> = programs
            .iter()
            .map(|program| {
                scope.spawn(move || {
                    let started = Instant::now();
                    let done = catch_unwind(AssertUnwindSafe(|| run(world, program)));
                    let word = if done.is_ok() { "in" } else { "FAILED after" };
                    println!("{case}, {}: {word} {:.1?}", program.name, started.elapsed());
                    done.is_err().then_some(program.name)
                })
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("it was caught")).collect()
    });
    assert!(failed.is_empty(), "{case}: {failed:?}");
    // Whoever runs these tests has Maven.
    assert!(programs.iter().any(|program| program.name == "java"));
}

#[test]
fn killed_between_effect_and_offset() {
    in_every_language("killed", |world, program| {
        let (desk, aftermath) = cases::killed(world, program, "killed");
        assert!(aftermath.ahead.is_empty(), "{}: offsets before effects: {:?}", desk.name, aftermath.ahead);
        desk.assert_each_once();
    });
}

#[test]
fn rebalance_storm() {
    in_every_language("storm", |world, program| cases::storm(world, program).assert_each_once());
}

#[test]
fn two_owners_of_each_partition() {
    in_every_language("owners", |world, program| cases::owners(world, program).assert_each_once());
}

#[test]
fn the_whole_topic_again() {
    in_every_language("again", |world, program| cases::again(world, program, "again").assert_each_once());
}

#[test]
fn an_event_out_of_order() {
    in_every_language("out of order", |world, program| {
        let (desk, said) = cases::refused(world, program, &planted::SWAPPED);
        assert!(said.contains("PB001"), "{}:\n{said}", desk.name);
        let (desk, said) = cases::refused(world, program, &planted::FOREIGN);
        assert!(said.contains("PB002"), "{}:\n{said}", desk.name);
    });
}

/// Stops, says what a person may run, and goes on once that was run.
#[test]
fn an_event_is_missing() {
    in_every_language("gap", |world, program| {
        let (desk, said) = cases::refused(world, program, &planted::GAP);
        assert!(said.contains("PB001"), "{}:\n{said}", desk.name);
        let at = said.rfind("SELECT pillarbox.accept_reset(").expect("the way on");
        let statement = said[at..].split_inclusive("'why')").next().expect("a statement");
        desk.billing.column(statement);
        let mut member = desk.member();
        desk.wait_effects(9, &mut [&mut member]);
        desk.wait_read(&desk.name, &mut member);
        member.terminate();
        assert_eq!(desk.applied(), planted::GAP.events, "{}", desk.name);
    });
}

#[test]
fn each_recipe_is_under_sixty_lines() {
    let folder = program::root().join("examples/consume");
    for file in
        ["rust/src/main.rs", "python/consume.py", "java/Consume.java", "go/consume.go", "node/consume.mjs"]
    {
        let text = std::fs::read_to_string(folder.join(file)).expect("the recipe");
        let lines = text.lines().count();
        assert!(lines < 60, "{file} has {lines} lines");
    }
}

/// A check that has never failed proves nothing.
#[test]
fn mistakes_are_found() {
    let programs = programs();
    let Some(python) = programs.iter().find(|program| program.name == "python") else { return };
    let world = World::shared();

    let accept = "database.execute(accept, place).fetchone()[0]";
    let trusting = python.spoil("trusting", &[(accept, "True")]);
    let report = cases::again(&world, &trusting, "again").report();
    assert_eq!(report, Report { doubled: (1..=200).collect(), ..Report::default() });

    let apply = "            apply(database, record)\n";
    let hasty = format!("            consumer.commit(record, asynchronous=False)\n{apply}");
    let hasty = python.spoil("hasty", &[(apply, &hasty)]);
    let (_, aftermath) = cases::killed(&world, &hasty, "killed");
    assert!(!aftermath.ahead.is_empty(), "an offset before its effect");

    let dirty = python.spoil("dirty", &[("\"read_committed\"", "\"read_uncommitted\"")]);
    let desk = Desk::at(&world, &dirty, "dirty".to_owned(), planted::GAP.name.to_owned());
    let mut member = desk.member();
    assert_eq!(member.exit_code(PATIENCE), Some(member::STOPPED));
    assert!(member.said().contains("PB003"), "a record of an aborted transaction:\n{}", member.said());

    // A gap is passed over: `refused` would wait for its end in vain.
    let careless = python.spoil("careless", &[("%s, %s, %s, %s)\"", "%s, %s, %s, %s, 'warn')\"")]);
    let desk = Desk::at(&world, &careless, "careless".to_owned(), planted::GAP.name.to_owned());
    let mut member = desk.member();
    desk.wait_effects(9, &mut [&mut member]);
    assert_eq!(desk.applied(), planted::GAP.events);
}

/// Not a test: the program in Rust, started by the others. It ends as its `main` does.
#[test]
#[ignore = "the recipe in Rust, which the other tests start"]
fn recipe_in_rust() {
    if std::env::var_os("KAFKA_TOPIC").is_none() {
        return;
    }
    if let Err(error) = rust::main() {
        eprintln!("Error: {error:?}");
        std::process::exit(1);
    }
}
