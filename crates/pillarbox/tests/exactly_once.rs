//! The guarantee under kill -9: every committed event once, in commit order, nothing that was rolled back.
//!
//! ```text
//! 8 writers --> Postgres --> relay --> Kafka --> librdkafka, read_committed --> compared with the WAL
//!                  ^           ^         ^
//!            immediate stop  kill -9  kill -9        at random moments, from one seed
//! ```
//! `PILLARBOX_SEED`, `PILLARBOX_EVENTS` and `PILLARBOX_KILLS` make it another run, or one of an hour. Must never
//! pass when the kills hit nothing.

#[expect(dead_code, reason = "not every test needs all of the harness")]
mod harness;

use std::time::{Duration, Instant};

use harness::dice::{Dice, number};
use harness::records::{Isolation, read};
use harness::relay::Relay;
use harness::site::Site;
use harness::until::until;
use pillarbox_lab::workload::{Workload, WorkloadOptions};
use pillarbox_lab::{KafkaOptions, PostgresOptions, ShutdownMode};

/// Partitions of each of the three topics.
const PARTITIONS: u32 = 8;
/// Mean number of events in a committed transaction (1 to 50).
const EVENTS_MEAN: u64 = 25;
/// What a fault takes, start and recovery included: the load is spread over all of them.
const FAULT_EVERY: f64 = 1.8;
/// One fault of each server for so many of the relay.
const KILLS_PER_SERVER_FAULT: u64 = 10;
/// When a fault comes, counted from the moment the relay streams.
const MOMENT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(1500));
/// How long the relay is without a server at most before it is killed too.
const OUTAGE_MAX: Duration = Duration::from_secs(2);
/// How long the relay may take to stream again, whatever happened: a broker's restart on a busy machine.
const STREAMING_MAX: Duration = Duration::from_secs(120);
/// How long the rest may take once the faults are over.
const REST_MAX: Duration = Duration::from_secs(600);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillRelay,
    CrashPostgres,
    KillBroker,
}

/// All faults of a run in random order.
fn faults(kills: u64, dice: &mut Dice) -> Vec<Fault> {
    let of_each = kills.div_ceil(KILLS_PER_SERVER_FAULT);
    let mut faults = vec![Fault::KillRelay; usize::try_from(kills).expect("a small number")];
    for _ in 0..of_each {
        faults.extend([Fault::CrashPostgres, Fault::KillBroker]);
    }
    dice.shuffle(&mut faults);
    faults
}

/// What the starts of the relay achieved before they were killed.
#[derive(Debug, Default)]
struct Starts {
    /// Events that each had committed, as it last said itself.
    committed: Vec<u64>,
}

impl Starts {
    /// Kills the relay and starts it again at once.
    fn end(&mut self, relay: &mut Relay) {
        self.committed.push(relay.count("events_total"));
        relay.kill9();
        relay.start_again();
    }

    /// What a supervisor does: a relay that cannot reach a server for 30 s after its start ends, and a busy machine may
    /// take longer to start one.
    fn supervise(relay: &mut Relay) {
        if !relay.is_running() {
            println!("the relay ended while a server was down; it is started again");
            relay.start_again();
        }
    }

    /// Waits until the relay streams; gives the time it took.
    fn wait_streaming(relay: &mut Relay) -> Duration {
        let streams = |relay: &mut Relay| {
            Self::supervise(relay);
            (relay.state()? == "streaming").then_some(())
        };
        until("the relay streams", STREAMING_MAX, || streams(relay)).1
    }

    fn that_committed(&self) -> usize {
        self.committed.iter().filter(|events| **events > 0).count()
    }
}

/// Every second fault of a server takes the relay with it a moment later, which then starts without that server.
/// What it had read by then and could not commit must not have been confirmed.
fn strike(fault: Fault, site: &mut Site, relay: &mut Relay, starts: &mut Starts, dice: &mut Dice) {
    let both = dice.below(2) == 0;
    let moment = dice.between(Duration::ZERO, OUTAGE_MAX);
    match fault {
        Fault::KillRelay => return starts.end(relay),
        Fault::CrashPostgres => {
            site.postgres.stop(ShutdownMode::Immediate, STREAMING_MAX).expect("Postgres stops");
            if both {
                std::thread::sleep(moment);
                starts.end(relay);
            }
            site.postgres.start_again().expect("Postgres starts again");
        }
        Fault::KillBroker => {
            site.kafka.kill9(1).expect("the broker dies");
            if both {
                std::thread::sleep(moment);
                starts.end(relay);
            }
            site.kafka.start_broker(1).expect("the broker starts again");
        }
    }
    Starts::supervise(relay);
}

/// Records that were written and aborted.
fn aborted(site: &Site, options: &WorkloadOptions) -> u64 {
    let bootstrap = site.kafka.bootstrap();
    let count = |topic: &String| {
        read(&bootstrap, topic, Isolation::Uncommitted, |_| {})
            - read(&bootstrap, topic, Isolation::Committed, |_| {})
    };
    options.topics().iter().map(count).sum()
}

/// fault: 1, 9, 32 kill -9 of relay and broker, immediate stops of Postgres, at random moments under load
/// holds: nothing lost; records of aborted attempts are never seen
/// told: a server that is away is named while it is (PB-1001, PB-2001)
#[test]
fn every_event_once_whatever_is_killed() {
    let begun = Instant::now();
    let mut dice = Dice::new();
    let (events, kills) = (number("PILLARBOX_EVENTS", 200_000), number("PILLARBOX_KILLS", 30));
    let faults = faults(kills, &mut dice);
    let transactions = events / EVENTS_MEAN + 1;
    let seconds = FAULT_EVERY * f64::from(u32::try_from(faults.len()).expect("a small number")).max(1.0);
    let options = WorkloadOptions {
        transactions: u32::MAX,
        rate: Some(
            1.1 * f64::from(u32::try_from(transactions).expect("at most 100 thousand million events"))
                / seconds,
        ),
        seed: dice.seed(),
        ..WorkloadOptions::default()
    };

    let mut site = Site::start(PostgresOptions::version(18), KafkaOptions::default());
    let configuration = site.configure("orders", PARTITIONS, &[]);
    site.setup(&configuration);
    let mut relay = site.relay(&configuration);
    let mut starts = Starts::default();
    let workload = Workload::start(&site.url(), options.clone()).expect("writers start");
    for (n, fault) in faults.iter().enumerate() {
        let streaming = Starts::wait_streaming(&mut relay);
        let moment = dice.between(MOMENT.0, MOMENT.1);
        println!("fault {}: {fault:?} {moment:?} after streaming, which took {streaming:.1?}", n + 1);
        std::thread::sleep(moment);
        strike(*fault, &mut site, &mut relay, &mut starts, &mut dice);
    }
    println!("faults over after {:.1?}", begun.elapsed());
    assert!(workload.wait_committed(transactions, REST_MAX), "the writers are too slow");
    workload.stop();
    let log = workload.finish().expect("all is known");
    Starts::wait_streaming(&mut relay);
    println!("caught up {:.1?} after the last event", site.caught_up(&configuration, REST_MAX));
    assert_eq!(relay.terminate(STREAMING_MAX).code(), Some(0));

    site.judge(&log, &options, PARTITIONS).assert_clean();
    let aborted = aborted(&site, &options);
    println!("the broker had lost {} transaction markers", relay.log_count("PB-2020"));
    println!(
        "{} of {} killed starts had committed something (events: {:?}); {aborted} aborted records; {:.0?} in all",
        starts.that_committed(),
        starts.committed.len(),
        starts.committed,
        begun.elapsed()
    );
    assert!(
        2 * starts.that_committed() >= starts.committed.len(),
        "the relay made no progress between kills"
    );
    assert!(aborted > 0 || kills < KILLS_PER_SERVER_FAULT, "no kill hit an open transaction");
}
