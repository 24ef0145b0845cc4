//! What the relay's own machine does to it: it is killed in turn with others, and memory, files, threads and disk end.
//!
//! Must never limit anything but the relay itself.

use std::fs;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;

use crate::harness::dice::Dice;
use crate::harness::relay::Relay;
use crate::harness::site::Site;
use crate::harness::until::until;
use crate::probe;
use crate::world::{PARTITIONS, PATIENCE, load, settle, site, streaming};

/// Relays that fight for one pipeline.
const RELAYS: usize = 3;
/// Starts and ends of one of them.
const TURNS: usize = 24;
/// What a row needs at once, and more than once: far above what is free at the limit.
const ROW_BYTES: u32 = 50_000_000;
/// What the relay may still map when the row comes.
const SPARE_BYTES: u64 = 8 << 20;

fn pid(relay: &Relay) -> Pid {
    Pid::from_raw(i32::try_from(relay.pid()).expect("a pid")).expect("not zero")
}

/// Limits a running relay; `None` lifts the limit as far as our own goes.
fn limit(relay: &Relay, resource: Resource, most: Option<u64>) {
    let own = getrlimit(resource);
    let limit = Rlimit { current: most.or(own.current), maximum: own.maximum };
    prlimit(Some(pid(relay)), resource, limit).expect("our child takes a limit");
}

fn states(relays: &mut [Relay]) -> Vec<String> {
    let state = |relay: &mut Relay| relay.is_running().then(|| relay.state()).flatten();
    relays.iter_mut().map(|relay| state(relay).unwrap_or_default()).collect()
}

/// fault: 3 three relays, of which one is killed, ended or started, 24 times in turn
/// holds: nothing lost; in the end one streams and the others stand by
/// told: the state of each: `streaming`, `standing_by`
#[test]
fn relays_that_start_and_die_in_turn_are_one_pipeline() {
    let site = site();
    let mut dice = Dice::new();
    let (configuration, relay) = streaming(&site, &[]);
    let mut relays = vec![relay];
    relays.extend((1..RELAYS).map(|_| site.relay(&site.configure("orders", PARTITIONS, &[]))));
    let (load, options) = load(&site, dice.seed(), 200.0);
    for _ in 0..TURNS {
        let relay = &mut relays[dice.index(RELAYS)];
        match relay.is_running() {
            true if dice.below(3) == 0 => drop(relay.terminate(PATIENCE)),
            true => relay.kill9(),
            false => relay.start_again(),
        }
        if dice.below(3) == 0 && relays.iter_mut().any(Relay::is_running) {
            until("one of them streams", PATIENCE, || {
                states(&mut relays).iter().any(|state| state == "streaming").then_some(())
            });
        }
    }
    for relay in &mut relays {
        if !relay.is_running() {
            relay.start_again();
        }
    }
    until("one streams, the others stand by", PATIENCE, || {
        let mut states = states(&mut relays);
        states.sort_unstable();
        (states == ["standing_by", "standing_by", "streaming"]).then_some(())
    });
    settle(&site, &configuration, load, &options);
}

/// fault: 5 the system gives no more memory while a row of 50 MB arrives
/// holds: nothing lost; the process ends at once, the next start goes on
/// told: the last line of the log says how many bytes it could not get; memory is bounded, so that this needs a limit
/// below that bound
#[test]
fn a_relay_without_memory_ends_and_the_next_start_goes_on() {
    let mut site = site();
    let large = [("max.message.bytes", "90000000")];
    site.kafka.create_topic("outbox.event.big", PARTITIONS, &large).expect("a topic");
    let (configuration, mut relay) = streaming(&site, &[]);
    let insert = |kind: &str, rows: u32, bytes: u32| {
        let sql = format!(
            "INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload) SELECT gen_random_uuid(), \
             '{kind}', 'k' || i, 'made', to_jsonb(repeat('x', {bytes})) FROM generate_series(1, {rows}) i"
        );
        site.postgres.execute("postgres", &sql).expect("rows");
    };
    insert("order", 500, 10);
    relay.wait_count("events_total", 500, PATIENCE);
    let status = fs::read_to_string(format!("/proc/{}/status", relay.pid())).expect("the relay runs");
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("a size");
    let kib: u64 = size.trim().trim_end_matches(" kB").parse().expect("a number");
    limit(&relay, Resource::As, Some(kib * 1024 + SPARE_BYTES));
    insert("order", 500, 10);
    insert("big", 1, ROW_BYTES);
    insert("order", 500, 10);
    println!("without memory: {}", relay.wait_end(PATIENCE));
    assert!(relay.log_tail().contains("memory allocation of"), "{}", relay.log_tail());
    relay.start_again();
    site.caught_up(&configuration, PATIENCE);
    assert_eq!(probe::records(&site, "outbox.event.order", 4).len(), 1_500);
    assert_eq!(probe::records(&site, "outbox.event.big", 4).len(), 1);
}

/// fault: 6 the log's disk is full from the start
/// holds: nothing lost; the relay keeps no file, and a line of the log that cannot be written is dropped
/// told: status and metrics, over HTTP
#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let site = site();
    let configuration = site.configure("orders", PARTITIONS, &[]);
    site.setup(&configuration);
    let mut relay = site.relay_by(&configuration, "exec \"$@\" >/dev/full 2>/dev/full");
    relay.wait_state("streaming", PATIENCE);
    let (load, options) = load(&site, Dice::new().seed(), 100.0);
    for round in 1..=3 {
        relay.wait_count("events_total", round * 100, PATIENCE);
        // Something to say.
        let starts = relay.count("starts_total");
        end_walsender(&site);
        relay.wait_count("starts_total", starts + 1, PATIENCE);
    }
    settle(&site, &configuration, load, &options);
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
}

pub(crate) fn end_walsender(site: &Site) {
    let sql = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
               WHERE slot_name = 'pillarbox_orders' AND active";
    site.postgres.execute("postgres", sql).expect("the walsender is ended");
}

/// fault: 8 no more files: first while it streams and must connect again, then at its start
/// holds: nothing lost; it goes on when there are files again
/// told: PB-1001, PB-2001 or PB-5002 with the system's words; at its start the process ends with it
#[test]
fn a_relay_without_files_says_so_and_goes_on_when_there_are_some() {
    let site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, options) = load(&site, Dice::new().seed(), 100.0);
    relay.wait_count("events_total", 200, PATIENCE);
    limit(&relay, Resource::Nofile, Some(3));
    end_walsender(&site);
    until("it says so", PATIENCE, || {
        assert!(relay.is_running(), "it ended");
        relay.log_tail().contains("Too many open files").then_some(())
    });
    assert!(relay.is_running());
    limit(&relay, Resource::Nofile, None);
    relay.wait_state("streaming", PATIENCE);
    let events = relay.count("events_total");
    relay.wait_count("events_total", events + 200, PATIENCE);
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
    let log = relay.log_from(0);
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let states: Vec<Value> =
        lines.filter(|line| line["message"] == "pipeline").map(|line| line["state"].clone()).collect();
    assert!(states.len() >= 4, "{states:?}");
    assert!(states.windows(2).all(|two| two[0] != two[1]), "a state that goes on is told once: {states:?}");

    // How many are open before the first of its own is up to who starts it.
    for few in [
        "ulimit -n 6; exec \"$@\"",
        "ulimit -n 7; exec \"$@\"",
        "ulimit -n 8; exec \"$@\"",
        "ulimit -n 9; exec \"$@\"",
    ] {
        let said_before = relay.log_bytes();
        let mut relay = site.relay_by(&configuration, few);
        assert_eq!(relay.wait_end(PATIENCE).code(), Some(75), "{few}");
        let told = relay.log_from(said_before);
        assert!(told.contains("error[PB-5002]") && told.contains("hint: "), "{few}: {told}");
    }
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", PATIENCE);
    settle(&site, &configuration, load, &options);
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
}
