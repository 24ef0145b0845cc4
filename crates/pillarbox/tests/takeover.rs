//! Two relays of one pipeline: one streams, one stands by, and takes over when the first is killed, told to end, or
//! hangs. One whose clock is wrong does not hang.
//!
//! Must never pass when an event was lost or doubled in between.

#[expect(dead_code, reason = "not every test needs all of the harness")]
mod harness;

use std::time::{Duration, Instant};

use harness::relay::Relay;
use harness::site::{Configuration, Site};
use harness::until::until;
use pillarbox_lab::workload::{Workload, WorkloadOptions};
use pillarbox_lab::{KafkaOptions, PostgresOptions};
use serde_json::Value;

const PARTITIONS: u32 = 4;
/// How often the leader is killed.
const KILLS: usize = 20;
/// How often the leader hangs.
const HANGS: usize = 2;
/// A leader that says nothing for this long is replaced.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Transactions a second meanwhile, of one event each.
const RATE: f64 = 200.0;
/// More of them than any run needs.
const TRANSACTIONS_MAX: u32 = 1_000_000;
/// How long any step may take on a busy machine.
const STEP_MAX: Duration = Duration::from_secs(60);
/// The median that is held to; the aim is 1 s, the rest is for machines that compile meanwhile.
const MEDIAN_MAX: Duration = Duration::from_secs(5);

/// Two files for one pipeline, the second relay standing by.
struct Pair {
    leader: (Configuration, Relay),
    standby: (Configuration, Relay),
    // Last: a failing test shows the relays' logs, which lie in its folder.
    site: Site,
}

impl Pair {
    fn start() -> Self {
        Self::start_with(Vec::new())
    }

    /// The leader with these variables in its environment.
    fn start_with(env: Vec<(&'static str, &'static str)>) -> Self {
        let site = Site::start(PostgresOptions::version(18), KafkaOptions::default());
        let mut files =
            [site.configure("orders", PARTITIONS, &[]), site.configure("orders", PARTITIONS, &[])];
        files[0].env = env;
        site.setup(&files[0]);
        let [first, second] = files;
        let mut leader = site.relay(&first);
        leader.wait_state("streaming", STEP_MAX);
        let mut standby = site.relay(&second);
        standby.wait_state("standing_by", STEP_MAX);
        Self { leader: (first, leader), standby: (second, standby), site }
    }

    /// The one that stood by is the leader now.
    fn swap(&mut self) {
        std::mem::swap(&mut self.leader, &mut self.standby);
    }

    /// The times from now until the standby says that it streams, and that it has committed an event.
    fn measure(&mut self) -> (Duration, Duration) {
        let since = Instant::now();
        self.standby.1.wait_state("streaming", STEP_MAX);
        let streams = since.elapsed();
        self.standby.1.wait_count("events_total", 1, STEP_MAX);
        (streams, since.elapsed())
    }
}

fn steady() -> WorkloadOptions {
    WorkloadOptions::steady(RATE, TRANSACTIONS_MAX)
}

#[test]
fn a_killed_leader_is_replaced_within_a_second() {
    let begun = Instant::now();
    let mut pair = Pair::start();
    let workload = Workload::start(&pair.site.url(), steady()).expect("the writer starts");
    let mut times = Vec::new();
    for _ in 0..KILLS {
        pair.leader.1.wait_count("events_total", 1, STEP_MAX);
        pair.leader.1.kill9();
        times.push(pair.measure());
        pair.leader.1.start_again();
        pair.leader.1.wait_state("standing_by", STEP_MAX);
        pair.swap();
    }
    workload.stop();
    let log = workload.finish().expect("all is known");
    pair.site.caught_up(&pair.leader.0, STEP_MAX);
    pair.site.judge(&log, &steady(), PARTITIONS).assert_clean();
    let (median, max) = spread(times.iter().map(|(streams, _)| *streams));
    let (median_event, max_event) = spread(times.iter().map(|(_, event)| *event));
    println!(
        "{KILLS} takeovers: streaming after {median:.0?} (median), {max:.0?} (max); first event committed after \
         {median_event:.0?}, {max_event:.0?}; {:.0?} in all",
        begun.elapsed()
    );
    assert!(median < MEDIAN_MAX, "a takeover takes {median:?}");
}

fn spread(times: impl Iterator<Item = Duration>) -> (Duration, Duration) {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

/// fault: 4 SIGTERM with another relay that stands by
/// holds: nothing lost; the other one streams
/// told: exit code 0; `/readyz` and `status` tell the two apart
#[test]
fn a_standby_says_so_and_takes_over_from_a_leader_that_drains() {
    let mut pair = Pair::start();
    assert_eq!(pair.standby.1.get("/readyz"), Some((200, "standing by\n".to_owned())));
    assert_eq!(pair.leader.1.get("/readyz"), Some((200, "streaming\n".to_owned())));
    let states = [&pair.leader.0, &pair.standby.0].map(|file| reported_state(&pair.site, file));
    assert_eq!(states, ["streaming", "standing_by"]);

    let workload = Workload::start(&pair.site.url(), steady()).expect("the writer starts");
    pair.leader.1.wait_count("events_total", 10, STEP_MAX);
    let since = Instant::now();
    assert_eq!(pair.leader.1.terminate(STEP_MAX).code(), Some(0));
    let drained = since.elapsed();
    let (streams, _) = pair.measure();
    println!("drained in {drained:.0?}, taken over {streams:.0?} later");
    pair.standby.1.wait_count("events_total", 10, STEP_MAX);
    workload.stop();
    let log = workload.finish().expect("all is known");
    pair.site.caught_up(&pair.standby.0, STEP_MAX);
    pair.site.judge(&log, &steady(), PARTITIONS).assert_clean();
}

/// fault: 2 stopped for longer than a leader may be silent, another one takes over, then it goes on
/// holds: nothing lost; the one that woke up writes nothing more and stands by
/// told: the state of each: `streaming`, `standing_by`
#[test]
fn a_leader_that_hangs_is_replaced_and_harms_nothing_when_it_wakes() {
    let mut pair = Pair::start();
    let workload = Workload::start(&pair.site.url(), steady()).expect("the writer starts");
    for _ in 0..HANGS {
        pair.leader.1.wait_count("events_total", 10, STEP_MAX);
        let before = pair.standby.1.count("events_total");
        pair.leader.1.suspend();
        let since = Instant::now();
        pair.standby.1.wait_state("streaming", STEP_MAX);
        let streams = since.elapsed();
        pair.standby.1.wait_count("events_total", before + 10, STEP_MAX);
        // It still holds sockets to both servers, sets that are sealed, and transactions that are open.
        pair.leader.1.resume();
        pair.leader.1.wait_state("standing_by", STEP_MAX);
        println!("hung; streaming elsewhere after {streams:.1?}; the woken one stands by");
        let after = pair.standby.1.count("events_total");
        pair.standby.1.wait_count("events_total", after + 10, STEP_MAX);
        assert_eq!(pair.standby.1.state().as_deref(), Some("streaming"), "the woken one took it back");
        pair.swap();
    }
    workload.stop();
    let log = workload.finish().expect("all is known");
    pair.site.caught_up(&pair.leader.0, STEP_MAX);
    pair.site.judge(&log, &steady(), PARTITIONS).assert_clean();
}

/// Preloaded, it gives a process another time of day; the monotonic clock stays.
fn false_clock() -> Option<&'static str> {
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
    std::path::Path::new(&library).exists().then(|| &*library.leak())
}

/// fault: 7 the leader is an hour behind
/// holds: nothing lost; nobody takes it for one that hangs
/// told: nothing: its own clock decides nothing
#[test]
fn a_leader_whose_clock_is_an_hour_back_is_left_alone() {
    let Some(library) = false_clock() else {
        assert!(std::env::var_os("PILLARBOX_ALL_STORES").is_none(), "libfaketime is missing");
        println!("not tested: libfaketime is missing (Debian: libfaketime)");
        return;
    };
    let mut pair = Pair::start_with(vec![
        ("LD_PRELOAD", library),
        ("FAKETIME", "-1h"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]);
    let workload = Workload::start(&pair.site.url(), steady()).expect("the writer starts");
    pair.leader.1.wait_count("events_total", 10, STEP_MAX);
    let late =
        "SELECT now() - reply_time > interval '50 min' FROM pg_stat_replication WHERE state = 'streaming'";
    assert_eq!(
        pair.site.postgres.query_one("postgres", late).expect("a walsender"),
        "t",
        "its clock is false"
    );
    // Three times as long as a leader may be silent, at the writer's pace.
    let events = pair.leader.1.count("events_total") + 3 * (SILENCE_MAX.as_secs_f64() * RATE) as u64;
    pair.leader.1.wait_count("events_total", events, 2 * STEP_MAX);
    assert_eq!(pair.standby.1.state().as_deref(), Some("standing_by"));
    assert_eq!(pair.leader.1.count("starts_total"), 1, "its walsender was ended");
    workload.stop();
    let log = workload.finish().expect("all is known");
    pair.site.caught_up(&pair.leader.0, STEP_MAX);
    pair.site.judge(&log, &steady(), PARTITIONS).assert_clean();
}

/// fault: 7 the leader's clock jumps an hour ahead, then two hours back, under load
/// holds: nothing lost; it streams on in one start, and nobody takes it for one that hangs
/// told: nothing: its own clock decides nothing
#[test]
fn a_leader_whose_clock_jumps_streams_on() {
    let Some(library) = false_clock() else {
        assert!(std::env::var_os("PILLARBOX_ALL_STORES").is_none(), "libfaketime is missing");
        println!("not tested: libfaketime is missing (Debian: libfaketime)");
        return;
    };
    let clock = tempfile::NamedTempFile::new().expect("a file");
    let set = |offset: &str| std::fs::write(clock.path(), format!("{offset}\n")).expect("the clock is set");
    set("+0");
    let path: &'static str = clock.path().display().to_string().leak();
    let mut pair = Pair::start_with(vec![
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", path),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]);
    let workload = Workload::start(&pair.site.url(), steady()).expect("the writer starts");
    for (offset, apart) in [("+1h", "reply_time - now()"), ("-1h", "now() - reply_time")] {
        set(offset);
        let seen =
            format!("SELECT {apart} > interval '50 min' FROM pg_stat_replication WHERE state = 'streaming'");
        until("its clock has jumped", STEP_MAX, || {
            let seen = pair.site.postgres.query_one("postgres", &seen).expect("a walsender");
            (seen == "t").then_some(())
        });
        // Longer than a leader may be silent, at the writer's pace.
        let events = pair.leader.1.count("events_total") + 2 * (SILENCE_MAX.as_secs_f64() * RATE) as u64;
        pair.leader.1.wait_count("events_total", events, 2 * STEP_MAX);
    }
    assert_eq!(pair.standby.1.state().as_deref(), Some("standing_by"));
    assert_eq!(pair.leader.1.count("starts_total"), 1, "{}", pair.leader.1.log_tail());
    workload.stop();
    let log = workload.finish().expect("all is known");
    pair.site.caught_up(&pair.leader.0, STEP_MAX);
    pair.site.judge(&log, &steady(), PARTITIONS).assert_clean();
}

/// The state of the relay in `pillarbox status -o json`, which must call the pipeline healthy.
fn reported_state(site: &Site, file: &Configuration) -> String {
    let answer = site.command(&["status", "-o", "json", "--exit-code"], file);
    assert_eq!(answer.code, Some(0), "{}{}", answer.stdout, answer.stderr);
    let status: Value = serde_json::from_str(&answer.stdout).expect("status is JSON");
    status["relay"]["found"]["state"].as_str().expect("a relay answered").to_owned()
}
