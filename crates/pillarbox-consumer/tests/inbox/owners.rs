//! More than one owner of a partition: the row lock lets one at a time decide.

use std::collections::BTreeMap;

use pillarbox_consumer::Decision;
use pillarbox_consumer::inbox::{Admission, Error, Event, Inbox};
use pillarbox_lab::Postgres;
use sqlx::Connection as _;

use crate::site::{Driver, Sent, Site, Sqlx, TokioPostgres, newest};
use crate::{block_on, with_both_drivers};

with_both_drivers!(
    the_second_owner_waits_and_skips,
    the_second_owner_waits_and_applies_after_a_rollback,
    higher_isolation_asks_for_a_retry,
    batches_in_any_order_do_not_deadlock,
);

/// True once a session of the database waits for a lock.
async fn somebody_waits(site: &Site<'_>) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while site.one(waiting) == "0" {
        tokio::task::yield_now().await;
    }
}

/// Two owners meet at the event that is the `sequence`-th; the first one ends as it is told.
async fn race<D: Driver>(site: &Site<'_>, sequence: u64, first_commits: bool) -> Decision {
    let (mut first, mut second) = (D::connect(&site.url()).await, D::connect(&site.url()).await);
    let inbox = Inbox::new("billing");
    let sent = Sent::in_order(sequence);
    let mut tx = first.begin().await;
    assert_eq!(inbox.accept(&mut tx, sent.event()).await.expect("free"), Decision::Apply);
    let contender = async {
        let mut tx = second.begin().await;
        let decision = inbox.accept(&mut tx, sent.event()).await.expect("waited");
        assert!(D::commit(tx).await);
        decision
    };
    let end = async {
        somebody_waits(site).await;
        if first_commits {
            assert!(D::commit(tx).await);
        } else {
            D::rollback(tx).await;
        }
    };
    tokio::join!(contender, end).0
}

async fn the_second_owner_waits_and_skips<D: Driver>() {
    let site = Site::new(newest());
    // The first event inserts the row, the second updates it.
    for sequence in [1, 2] {
        assert_eq!(race::<D>(&site, sequence, true).await, Decision::Duplicate, "{sequence}");
    }
}

async fn the_second_owner_waits_and_applies_after_a_rollback<D: Driver>() {
    let site = Site::new(newest());
    for sequence in [1, 2] {
        assert_eq!(race::<D>(&site, sequence, false).await, Decision::Apply, "{sequence}");
    }
}

async fn higher_isolation_asks_for_a_retry<D: Driver>() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for known in [0, 1] {
            let site = Site::new(newest());
            let (mut first, mut second) = (D::connect(&site.url()).await, D::connect(&site.url()).await);
            let inbox = Inbox::new("billing");
            for sequence in 1..=known {
                let mut tx = first.begin().await;
                let _ = inbox.accept(&mut tx, Sent::in_order(sequence).event()).await.expect("in order");
                assert!(D::commit(tx).await);
            }
            let sent = Sent::in_order(known + 1);
            let mut slow = second.begin().await;
            let set = match level {
                "SERIALIZABLE" => "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
                _ => "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            };
            // The snapshot is older than what the first owner commits.
            assert!(D::run(&mut slow, set, None).await);
            let _ = D::pid(&mut slow).await;
            let mut tx = first.begin().await;
            let _ = inbox.accept(&mut tx, sent.event()).await.expect("free");
            assert!(D::commit(tx).await);
            let error = inbox.accept(&mut slow, sent.event()).await.expect_err("a retry");
            assert!(error.is_retryable::<D::Tx<'_>>(), "{level} {known}: {error:?}");
            D::rollback(slow).await;
            let mut again = second.begin().await;
            assert!(D::run(&mut again, set, None).await);
            assert_eq!(inbox.accept(&mut again, sent.event()).await.expect("now"), Decision::Duplicate);
        }
    }
}

async fn batches_in_any_order_do_not_deadlock<D: Driver>() {
    let site = Site::new(newest());
    let partitions = 8;
    let batches = |owner: usize| {
        let url = site.url();
        async move {
            let mut driver = D::connect(&url).await;
            let mut applied = 0;
            for sequence in 1..=40 {
                let mut sent: Vec<Sent> =
                    (0..partitions).map(|partition| Sent::in_order(sequence).partition(partition)).collect();
                if owner == 1 {
                    sent.reverse();
                }
                let events: Vec<Event<'_>> = sent.iter().map(Sent::event).collect();
                let mut tx = driver.begin().await;
                let decisions =
                    Inbox::new("billing").accept_batch(&mut tx, &events).await.expect("no deadlock");
                applied += decisions.iter().filter(|decision| decision.applies()).count();
                assert!(D::commit(tx).await);
            }
            applied
        }
    };
    let (a, b) = tokio::join!(batches(0), batches(1));
    assert_eq!(a + b, 40 * partitions as usize);
}

/// Owners with both drivers read one log from wherever they like, roll back and are killed: in the end each event has one
/// effect, in order.
#[test]
fn a_storm_of_owners_applies_each_event_once_in_order() {
    const EVENTS: u64 = 60;
    const OWNERS: u64 = 6;
    let site = Site::new(newest());
    let log: Vec<Sent> = (1..=EVENTS)
        .flat_map(|sequence| [0, 1].map(|partition| Sent::in_order(sequence).partition(partition)))
        .collect();
    std::thread::scope(|scope| {
        for owner in 0..OWNERS {
            let (url, log) = (site.url(), &log);
            scope.spawn(move || match owner % 2 {
                0 => block_on(own::<TokioPostgres>(&url, log, owner, newest())),
                _ => block_on(own::<Sqlx>(&url, log, owner, newest())),
            });
        }
    });
    let mut by_partition: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for effect in site.effects() {
        let (partition, sequence) = effect.split_once('-').expect("two parts");
        by_partition.entry(partition.to_owned()).or_default().push(sequence.to_owned());
    }
    let expected: Vec<String> = (1..=EVENTS).map(|sequence| sequence.to_string()).collect();
    for partition in ["0", "1"] {
        assert_eq!(by_partition[partition], expected, "partition {partition}");
    }
}

/// What a service does: a task that may move between threads.
#[test]
fn the_futures_can_be_spawned() {
    let site = Site::new(newest());
    let url = site.url();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let with_tokio_postgres = runtime.spawn(async move {
        let (mut client, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("up");
        tokio::spawn(connection);
        let mut tx = client.transaction().await.expect("begin");
        let (inbox, sent) = (Inbox::new("billing"), Sent::in_order(1).key("a"));
        let decisions = inbox.accept_batch(&mut tx, &[sent.event()]).await.expect("new");
        let admission = inbox.admit(&mut tx, &sent.record()).await.expect("known");
        (decisions, admission)
    });
    let url = site.url();
    let with_sqlx = runtime.spawn(async move {
        let mut connection = sqlx::PgConnection::connect(&url).await.expect("up");
        let mut tx = connection.begin().await.expect("begin");
        let (inbox, sent) = (Inbox::new("billing"), Sent::in_order(1).key("a"));
        let decisions = inbox.accept_batch(&mut tx, &[sent.event()]).await.expect("new");
        let admission = inbox.admit(&mut tx, &sent.record()).await.expect("known");
        (decisions, admission)
    });
    for task in [with_tokio_postgres, with_sqlx] {
        let answers = runtime.block_on(task).expect("no panic");
        assert_eq!(answers, (vec![Decision::Apply], Admission::Duplicate));
    }
}

/// Kills throw an owner back to anywhere, so without a limit it would hardly reach the end.
const KILLS_MAX: u32 = 5;

async fn own<D: Driver>(url: &str, log: &[Sent], seed: u64, postgres: &Postgres) {
    let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut roll = |sides: usize| {
        // xorshift64: any cheap sequence does, and this one can be repeated.
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice >> 33) as usize % sides
    };
    let mut driver = D::connect(url).await;
    let mut at = 0;
    let mut kills = 0;
    while at < log.len() {
        let sent = &log[at];
        let mut tx = driver.begin().await;
        let pid = D::pid(&mut tx).await;
        let accepted = Inbox::new("billing").accept(&mut tx, sent.event()).await;
        let decision = match accepted {
            Ok(decision) => decision,
            // It read too far ahead after a rollback of another owner.
            Err(Error::Refused(_)) => {
                D::rollback(tx).await;
                at = 0;
                continue;
            }
            Err(error) => panic!("{error:?}"),
        };
        if decision.applies() {
            assert!(D::effect(&mut tx, &format!("{}-{}", sent.partition, sent.sequence())).await);
        }
        match roll(12) {
            0 => D::rollback(tx).await,
            1 if kills < KILLS_MAX => {
                kills += 1;
                let kill = format!("SELECT pg_terminate_backend({pid}, 5000)");
                postgres.query_one("postgres", &kill).expect("killed");
                drop(tx);
                driver = D::connect(url).await;
                at = roll(at + 1);
            }
            _ => {
                assert!(D::commit(tx).await);
                at += 1;
            }
        }
    }
}
