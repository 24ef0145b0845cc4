//! A round in which somebody acts: an operator, a second relay, a database that fails over.
//!
//! Must never leave an order, a letter or a pause behind: the next act begins where all of it is done.

use std::fs::File;

use pillarbox_failpoint::Step;
use pillarbox_lab::ShutdownMode;
use pillarbox_lab::account::{give, server_account};
use rustix::process::Signal;

use crate::harness::dice::Dice;
use crate::harness::until::until;
use crate::life::{Failpoint, PATIENCE, Subject};
use crate::plan::hit;
use crate::world::World;

/// The topic that grows with every round, and its partitions at first.
const GROWING: (&str, u32) = ("grow", 2);
/// What a topic takes that refuses the rows of one round, and what it takes afterwards.
const SMALL: &str = "1000";
const LARGE: &str = "100000";
/// How long a command waits for a relay that dies meanwhile, twice.
const ORDER_TIMEOUT: &str = "5m";

type Act = fn(&mut World, &mut Dice);

const ACTS: [Act; 11] = [
    |world, _| drain(world, Step::DrainBegun),
    |world, _| drain(world, Step::Drained),
    |world, _| drain(world, Step::Ended),
    |world, _| pause(world),
    |world, _| new_topic(world),
    |world, _| letter(world),
    |world, _| grow(world),
    |world, _| idle(world),
    |world, _| sweep(world),
    take_over,
    fail_over,
];

/// One round.
pub(crate) fn round(world: &mut World, dice: &mut Dice) {
    world.rounds += 1;
    let mut acts = ACTS;
    dice.shuffle(&mut acts);
    for act in acts {
        act(world, dice);
    }
}

/// The next life, as soon as it streams.
fn stream(world: &mut World, step: Step) -> Failpoint {
    let failpoint = Failpoint::first(step);
    world.subject.launch(Some(&failpoint));
    world.subject.wait_streaming();
    failpoint
}

/// Rows of several keys in the operator's table.
fn rows(world: &World, kind: &str, payload_bytes: usize) {
    world.write(&format!(
        "INSERT INTO extra SELECT gen_random_uuid(), '{kind}', 'key-' || k, 'made', \
         to_jsonb(repeat('x', {payload_bytes})) FROM generate_series(1, 5) k"
    ));
}

fn drain(world: &mut World, step: Step) {
    let failpoint = stream(world, step);
    world.subject.relay.signal(Signal::TERM);
    world.subject.wait_death(&failpoint);
}

/// It is paused once that is committed, whoever was told; and goes on in the same way.
fn pause(world: &mut World) {
    let failpoint = stream(world, Step::PauseCommitted);
    // Nobody answers.
    let _ = world.subject.relay.post("/api/v1/pause");
    world.subject.wait_death(&failpoint);
    world.subject.launch(Some(&failpoint));
    world.subject.relay.wait_state("paused", PATIENCE);
    let _ = world.subject.relay.post("/api/v1/resume");
    world.subject.wait_death(&failpoint);
    world.subject.launch(None);
    world.subject.wait_streaming();
}

fn new_topic(world: &mut World) {
    let failpoint = stream(world, Step::TopicCreated);
    rows(world, &format!("new{}", world.rounds), 10);
    world.subject.wait_death(&failpoint);
}

/// Rows that their topic refuses; it takes them later, and they are replayed.
fn letter(world: &mut World) {
    let kind = format!("small{}", world.rounds);
    let topic = format!("outbox.event.{kind}");
    world.site.kafka.create_topic(&topic, 1, &[("max.message.bytes", SMALL)]).expect("a topic");
    let taken = stream(world, Step::LetterTaken);
    rows(world, &kind, 5_000);
    world.subject.wait_death(&taken);
    world.subject.launch(None);
    world.site.caught_up(&world.at, PATIENCE);

    world.administer(
        "kafka.admin.ConfigCommand",
        &topic,
        &["--add-config", &format!("max.message.bytes={LARGE}")],
    );
    let carried_out = stream(world, Step::OrderTaken);
    let World { site, at, subject, .. } = world;
    std::thread::scope(|scope| {
        let words = ["dead-letters", "replay", "--all", "--timeout", ORDER_TIMEOUT];
        let replay = scope.spawn(move || site.command(&words, at));
        subject.wait_death(&carried_out);
        subject.launch(None);
        let answer = replay.join().expect("the command ends");
        assert_eq!(answer.code, Some(0), "{}{}", answer.stdout, answer.stderr);
    });
}

/// The topic gets another partition, and its pin moves.
fn grow(world: &mut World) {
    let (kind, first) = GROWING;
    let (topic, partitions) = (format!("outbox.event.{kind}"), (first + world.rounds).to_string());
    rows(world, kind, 10);
    world.subject.launch(None);
    world.subject.wait_streaming();
    world.site.caught_up(&world.at, PATIENCE);
    world.administer("org.apache.kafka.tools.TopicCommand", &topic, &["--partitions", &partitions]);
    let asked = stream(world, Step::RepinAsked);
    let World { site, at, subject, .. } = world;
    std::thread::scope(|scope| {
        let moved = scope.spawn(|| site.command(&["repartition", &topic, "--timeout", ORDER_TIMEOUT], at));
        subject.wait_death(&asked);
        subject.strike(&Failpoint::first(Step::RepinTaken));
        subject.launch(None);
        let answer = moved.join().expect("the command ends");
        assert_eq!(answer.code, Some(0), "{}{}", answer.stdout, answer.stderr);
    });
    rows(world, kind, 10);
}

/// Nobody writes as long as this life lasts, while WAL of others goes by: the position moves on its own. Again every
/// second, as the commit of a new nonce may take the position past it.
fn idle(world: &mut World) {
    let failpoint = stream(world, Step::IdleSealed);
    world.write(
        "LOCK TABLE public.outbox IN SHARE MODE; \
         DO $$ BEGIN \
             FOR tenth IN 0 .. 2999 LOOP \
                 EXIT WHEN NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'pillarbox_orders' AND active); \
                 IF tenth % 10 = 0 THEN \
                     PERFORM pg_logical_emit_message(false, 'somebody else', repeat('x', 1000000)) FROM generate_series(1, 20); \
                 END IF; \
                 PERFORM pg_sleep(0.1); \
             END LOOP; \
         END $$",
    );
    world.subject.wait_death(&failpoint);
}

/// Rows of a table that is kept small: they are published, then deleted. The second look at it deletes.
fn sweep(world: &mut World) {
    world.write(
        "WITH new AS (INSERT INTO swept SELECT gen_random_uuid(), 'swept', 'key-' || k, 'made', '{}' \
         FROM generate_series(1, 30) k RETURNING id) INSERT INTO swept_ids SELECT id FROM new",
    );
    world.subject.strike(&Failpoint::first(Step::RowsDeleted));
}

/// A second relay stands by; then the first one is silent, and the second dies while it takes over, twice. The first
/// wakes up with some of its transactional ids taken.
fn take_over(world: &mut World, dice: &mut Dice) {
    world.subject.launch(None);
    world.subject.wait_streaming();
    let mut second = Subject::new(world.second());
    second.strike(&Failpoint { hit: 1 + dice.below(5), ..Failpoint::first(Step::StandingBy) });

    let starts = world.subject.relay.count("starts_total");
    world.subject.relay.suspend();
    second.strike(&Failpoint::first(Step::LeaderEnded));
    second.strike(&Failpoint { hit: hit(Step::InitAnswered, dice), ..Failpoint::first(Step::InitAnswered) });
    world.subject.relay.resume();
    let again = |relay: &mut crate::harness::relay::Relay| relay.count("starts_total") > starts;
    until("it notices and leads again", PATIENCE, || again(&mut world.subject.relay).then_some(()));
    world.subject.wait_streaming();
    world.subject.figures.add(second.figures);
}

/// The database comes up on a new timeline, with all that was committed; what the relay had published ends anywhere, also
/// inside of a source transaction.
fn fail_over(world: &mut World, dice: &mut Dice) {
    let somewhere = Failpoint { hit: hit(Step::CommitKnown, dice), ..Failpoint::first(Step::CommitKnown) };
    world.subject.strike(&somewhere);
    world.site.postgres.stop(ShutdownMode::Fast, PATIENCE).expect("Postgres stops");
    let signal = world.site.postgres.data_dir().join("recovery.signal");
    File::create(&signal).expect("a file");
    give(&signal, server_account().expect("an account")).expect("it is theirs");
    world.site.postgres.start_again().expect("Postgres starts again");
    world.subject.strike(&Failpoint::first(Step::EpochCommitted));
}
