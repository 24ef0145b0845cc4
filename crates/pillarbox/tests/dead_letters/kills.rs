//! Exactly once, letters and replays included, while the relay is killed again and again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::dice::{Dice, number};
use crate::harness::relay::Relay;
use crate::harness::site::Site;
use crate::world::{Found, LETTERS, PATIENCE, in_state, letters, limit, records, site, write};

const TOPIC: &str = "outbox.event.order";
/// Source transactions of the run, five rows each.
const TRANSACTIONS: u64 = 600;
/// Between two kills at most.
const KILL_EVERY: Duration = Duration::from_millis(900);

/// One row in five is too large for the topic, every tenth of those has an illegal topic instead.
fn transaction(number: u64) -> String {
    let row = |at: u64| {
        let id = number * 5 + at;
        let kind = if at == 2 && number.is_multiple_of(10) { "a/b" } else { "order" };
        let bytes = if at == 2 { 20_000 } else { 20 };
        format!(
            "INSERT INTO outbox VALUES ('00000000-0000-0000-0000-{id:012}', '{kind}', 'k{}', 'made', \
             to_jsonb(repeat('x', {bytes})));",
            id % 17
        )
    };
    (0..5).map(row).collect()
}

/// Kills the relay and starts it again until told to stop; gives the number of kills.
fn kill_until(done: &AtomicBool, relay: &mut Relay, dice: &mut Dice) -> u32 {
    let mut kills = 0;
    while !done.load(Ordering::Relaxed) {
        // On a slow machine a life may end before it has done anything: some come further.
        let deadline = Instant::now() + PATIENCE;
        while kills % 4 == 3
            && !done.load(Ordering::Relaxed)
            && Instant::now() < deadline
            && relay.state().is_none_or(|state| state != "streaming")
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        let pause = dice.between(Duration::from_millis(100), KILL_EVERY);
        let until = Instant::now() + pause;
        while Instant::now() < until && !done.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        relay.kill9();
        relay.start_again();
        kills += 1;
    }
    kills
}

/// Runs `work` while the relay is being killed.
fn under_fire<T: Send>(relay: &mut Relay, dice: &mut Dice, work: impl FnOnce() -> T + Send) -> (T, u32) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let result = work();
            done.store(true, Ordering::Relaxed);
            result
        });
        let kills = kill_until(&done, relay, dice);
        (worker.join().expect("the work is done"), kills)
    })
}

fn counted(records: &[Found]) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(record.headers["id"].clone()).or_insert(0) += 1;
    }
    counts
}

fn count(site: &Site, sql: &str) -> usize {
    site.postgres.query_one("postgres", sql).expect("Postgres answers").parse().expect("a number")
}

/// fault: 30, 31 bad rows go to dead letters while the relay is killed, and are replayed
/// holds: every row once, in its topic or among the letters
/// told: `dead-letters list`; each is counted
#[test]
fn letters_and_replays_are_exactly_once_under_kills() {
    let (mut site, at) = site(15);
    site.kafka.create_topic(TOPIC, 2, &[("max.message.bytes", "16384")]).expect("the topic");
    let mut dice = Dice::new();
    let seed = dice.seed();
    let transactions = number("PILLARBOX_EVENTS", TRANSACTIONS * 5) / 5;
    let mut relay = site.relay(&at);
    relay.wait_state("streaming", PATIENCE);
    let ((), kills) = under_fire(&mut relay, &mut dice, || {
        for number in 0..transactions {
            write(&site, &transaction(number));
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    site.caught_up(&at, PATIENCE);
    let events = records(&site, TOPIC);
    let open = in_state(&site, &at, "open");
    println!("{} events, {} letters, {kills} kills", events.len(), open.len());
    let counts = counted(&events);
    assert!(counts.values().all(|count| *count == 1), "seed {seed}: an event came twice");
    let mut all: Vec<String> = counts.into_keys().chain(open.iter().map(|(id, _)| id.clone())).collect();
    all.sort();
    let written = u64::try_from(all.len()).expect("a number");
    all.dedup();
    assert_eq!(
        (written, u64::try_from(all.len()).expect("a number")),
        (transactions * 5, transactions * 5),
        "seed {seed}"
    );
    assert_eq!(
        open.len(),
        count(&site, "SELECT count(*) FROM outbox WHERE length(payload::text) > 1000"),
        "seed {seed}"
    );
    records(&site, LETTERS);

    // What was too large is not any more. Orders are given again until the command is content with all but the
    // illegal ones; however often it was, each event comes once.
    limit(&site, TOPIC, 1 << 20);
    relay.kill9();
    relay.start_again();
    let illegal = count(&site, "SELECT count(*) FROM outbox WHERE aggregatetype = 'a/b'");
    let (rounds, kills) = under_fire(&mut relay, &mut dice, || {
        let started = Instant::now();
        for round in 1.. {
            let (answer, _) = letters(&site, &at, &["replay", "--all"]);
            if answer.code == Some(1) && in_state(&site, &at, "open").len() == illegal {
                return round;
            }
            assert!(started.elapsed() < PATIENCE * 3, "seed {seed}: {:?} {}", answer.code, answer.stderr);
        }
        unreachable!("it ends or panics")
    });
    site.caught_up(&at, PATIENCE);
    let replayed = in_state(&site, &at, "replayed").len();
    println!("{replayed} replayed in {rounds} rounds under {kills} kills, {illegal} refused");
    let events = records(&site, TOPIC);
    assert!(counted(&events).values().all(|count| *count == 1), "seed {seed}: an event came twice");
    assert_eq!(events.len() + illegal, usize::try_from(transactions * 5).expect("a number"), "seed {seed}");
    assert_eq!(events.iter().filter(|event| event.headers.contains_key("pb-orig-pos")).count(), replayed);
    records(&site, LETTERS);
}
