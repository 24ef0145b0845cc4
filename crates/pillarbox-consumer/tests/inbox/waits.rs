//! Waiting with both drivers, for consumers of this crate and for those that call the SQL functions.

use std::task::{Context, Poll};
use std::time::Duration;

use pillarbox_consumer::Receipt;
use pillarbox_consumer::inbox::Inbox;
use pillarbox_consumer::wait::{Listener, Sqlx, TokioPostgres, WaitError, Waiter};
use tokio_postgres::{AsyncMessage, NoTls};

use crate::site::{Driver, Sent, Site, newest, oldest};

/// Longer than any test takes: where it is the deadline, waiting until it would be a failure.
const LONG: Duration = Duration::from_secs(60);

fn receipt(sequence: u64) -> Receipt {
    format!("orders:t/0={sequence}").parse().expect("a receipt")
}

async fn by_tokio_postgres(
    site: &Site<'_>,
) -> Waiter<
    TokioPostgres<
        impl FnMut(&mut Context<'_>) -> Poll<Option<Result<AsyncMessage, tokio_postgres::Error>>> + Send,
    >,
> {
    let (client, mut connection) = tokio_postgres::connect(&site.url(), NoTls).await.expect("a session");
    Waiter::new(TokioPostgres::new(client, move |context| connection.poll_message(context)))
}

async fn by_sqlx(site: &Site<'_>) -> Waiter<Sqlx> {
    Waiter::new(Sqlx::new(sqlx::postgres::PgListener::connect(&site.url()).await.expect("a session")))
}

async fn wait<L: Listener>(waiter: &mut Waiter<L>, sequence: u64, deadline: Duration) -> bool {
    let waited = waiter.wait(&receipt(sequence), "billing", tokio::time::sleep(deadline)).await;
    waited.expect("the database answers")
}

/// Accepts one event in a transaction of its own.
async fn accept<D: Driver>(driver: &mut D, event: &Sent) {
    let inbox = Inbox::new("billing");
    let mut tx = driver.begin().await;
    let decision = inbox.accept(&mut tx, event.event()).await.expect("accepted");
    assert!(decision.applies());
    D::commit(tx).await;
}

/// Waits until somebody else waits: a lock of the waiter is seen.
async fn waits(site: &Site<'_>) {
    let held = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
        WHERE l.locktype = 'advisory' AND l.granted AND d.datname = current_database()";
    while site.one(held) == "0" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The waiter is told of whatever this crate's inbox does.
async fn told<D: Driver, L: Listener>(site: &Site<'_>, mut waiter: Waiter<L>) {
    let mut driver = D::connect(&site.url()).await;
    assert!(!wait(&mut waiter, 1, Duration::ZERO).await, "nothing is applied");
    for (sequence, events) in [
        (1, vec![Sent::in_order(1)]),
        (2, vec![Sent::in_order(2)]),
        (4, vec![Sent::in_order(3), Sent::in_order(4)]),
    ] {
        let (waited, ()) = tokio::join!(wait(&mut waiter, sequence, LONG), async {
            waits(site).await;
            match events.as_slice() {
                [event] => accept(&mut driver, event).await,
                events => {
                    let inbox = Inbox::new("billing");
                    let batch: Vec<_> = events.iter().map(Sent::event).collect();
                    let mut tx = driver.begin().await;
                    inbox.accept_batch(&mut tx, &batch).await.expect("accepted");
                    D::commit(tx).await;
                }
            }
        });
        assert!(waited, "sequence {sequence}");
        assert!(wait(&mut waiter, sequence, Duration::from_secs(60)).await, "it was applied before");
    }
    let left = site.one(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = \
        (SELECT oid FROM pg_database WHERE datname = current_database())",
    );
    assert_eq!(left, "0", "every lock was given back");
}

async fn a_waiter_is_told_of_what_the_inbox_does<D: Driver>() {
    for postgres in [oldest(), newest()] {
        let site = Site::new(postgres).with_waits();
        told::<D, _>(&site, by_tokio_postgres(&site).await).await;
        let site = Site::new(postgres).with_waits();
        told::<D, _>(&site, by_sqlx(&site).await).await;
    }
}

/// Across the 64s, where a step takes the other lock, and far away from the target, where it tells nobody.
async fn a_waiter_sees_every_step_that_matters<D: Driver>() {
    let site = Site::new(newest()).with_waits();
    let (mut driver, mut waiter) = (D::connect(&site.url()).await, by_sqlx(&site).await);
    for sequence in 1..=60 {
        accept(&mut driver, &Sent::in_order(sequence)).await;
    }
    for sequence in 61..=68 {
        let (waited, ()) = tokio::join!(wait(&mut waiter, sequence, LONG), async {
            waits(&site).await;
            accept(&mut driver, &Sent::in_order(sequence)).await;
        });
        assert!(waited, "sequence {sequence}");
    }
    let (waited, ()) = tokio::join!(wait(&mut waiter, 140, LONG), async {
        waits(&site).await;
        for sequence in 69..=140 {
            accept(&mut driver, &Sent::in_order(sequence)).await;
        }
    });
    assert!(waited);
}

async fn a_replayed_event_ends_the_wait<D: Driver>() {
    let site = Site::new(newest()).with_waits();
    let (mut driver, mut waiter) = (D::connect(&site.url()).await, by_tokio_postgres(&site).await);
    let inbox = Inbox::new("billing");
    let poison = Sent::in_order(1).key("k");
    let mut tx = driver.begin().await;
    assert!(inbox.park(&mut tx, &poison.record(), "no such account").await.expect("parked"));
    D::commit(tx).await;
    assert!(!wait(&mut waiter, 1, Duration::from_millis(50)).await, "its effect is owed");
    let (waited, ()) = tokio::join!(wait(&mut waiter, 1, LONG), async {
        waits(&site).await;
        let mut tx = driver.begin().await;
        let lanes = inbox.lanes(&mut tx, 10).await.expect("lanes");
        inbox.replay(&mut tx, &lanes[0].first).await.expect("replayed").expect("it is there");
        D::commit(tx).await;
    });
    assert!(waited);
}

crate::with_both_drivers!(
    a_waiter_is_told_of_what_the_inbox_does,
    a_waiter_sees_every_step_that_matters,
    a_replayed_event_ends_the_wait,
);

/// The deadline ends a wait whatever holds it up, and the next one on the same connection is as good as the first.
#[test]
fn a_deadline_holds_while_a_transaction_of_the_consumer_is_open() {
    crate::block_on(async {
        let site = Site::new(newest()).with_waits();
        let mut driver = crate::site::TokioPostgres::connect(&site.url()).await;
        for number in 0..2 {
            let inbox = Inbox::new("billing");
            let mut tx = driver.begin().await;
            let _ = inbox.accept(&mut tx, Sent::in_order(number + 1).event()).await.expect("accepted");
            let mut waiter = by_tokio_postgres(&site).await;
            let mut other = by_sqlx(&site).await;
            assert!(!wait(&mut waiter, number + 1, Duration::from_millis(100)).await);
            assert!(!wait(&mut other, number + 1, Duration::from_millis(100)).await);
            crate::site::TokioPostgres::commit(tx).await;
            assert!(wait(&mut waiter, number + 1, LONG).await);
            assert!(wait(&mut other, number + 1, LONG).await);
        }
    });
}

#[test]
fn a_receipt_of_another_source_is_refused() {
    crate::block_on(async {
        let site = Site::new(newest()).with_waits();
        let mut driver = crate::site::Sqlx::connect(&site.url()).await;
        accept(&mut driver, &Sent::in_order(1)).await;
        let foreign: Receipt = "invoices:t/0=1".parse().expect("a receipt");
        let mut waiter = by_tokio_postgres(&site).await;
        let refused =
            waiter.wait(&foreign, "billing", std::future::pending()).await.expect_err("another source");
        assert_eq!(code(&waiter, &refused).as_deref(), Some("PB005"), "{refused}");
        assert!(wait(&mut waiter, 1, LONG).await, "the waiter is as good as before");
        let mut waiter = by_sqlx(&site).await;
        let refused =
            waiter.wait(&foreign, "billing", std::future::pending()).await.expect_err("another source");
        assert_eq!(code(&waiter, &refused).as_deref(), Some("PB005"), "{refused}");
        assert!(wait(&mut waiter, 1, LONG).await, "the waiter is as good as before");
    });
}

fn code<L: Listener>(_: &Waiter<L>, error: &WaitError<L::Error>) -> Option<String> {
    error.code::<L>()
}

#[test]
fn a_broken_connection_is_made_anew_by_sqlx_and_told_by_tokio_postgres() {
    crate::block_on(async {
        let site = Site::new(newest()).with_waits();
        let mut driver = crate::site::Sqlx::connect(&site.url()).await;
        let break_it = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_locks \
            WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let mut waiter = by_sqlx(&site).await;
        let (waited, ()) = tokio::join!(wait(&mut waiter, 1, LONG), async {
            waits(&site).await;
            site.one(break_it);
            waits(&site).await;
            accept(&mut driver, &Sent::in_order(1)).await;
        });
        assert!(waited);
        let mut waiter = by_tokio_postgres(&site).await;
        let receipt = receipt(2);
        let (waited, ()) = tokio::join!(waiter.wait(&receipt, "billing", std::future::pending()), async {
            waits(&site).await;
            site.one(break_it);
        });
        waited.expect_err("the connection broke");
    });
}
