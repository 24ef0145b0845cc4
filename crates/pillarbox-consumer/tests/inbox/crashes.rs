//! Between effect and commit: whatever dies there takes both or neither.

use pillarbox_consumer::Decision;
use pillarbox_consumer::inbox::Inbox;

use crate::rule::accept;
use crate::site::{Driver, Sent, Site, newest, start};
use crate::with_both_drivers;

with_both_drivers!(
    a_rollback_leaves_nothing,
    a_dropped_transaction_leaves_nothing,
    a_killed_session_leaves_nothing,
    a_killed_server_keeps_what_was_committed_and_nothing_else,
    reading_everything_again_changes_nothing,
);

async fn apply<D: Driver>(tx: &mut D::Tx<'_>, sent: &Sent) {
    let decision = Inbox::new("billing").accept(tx, sent.event()).await.expect("in order");
    assert_eq!(decision, Decision::Apply);
    assert!(D::effect(tx, &sent.sequence()).await);
}

async fn a_rollback_leaves_nothing<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    for _ in 0..2 {
        let mut tx = driver.begin().await;
        apply::<D>(&mut tx, &Sent::in_order(1)).await;
        D::rollback(tx).await;
    }
    assert_eq!(site.effects(), Vec::<String>::new());
    assert_eq!(accept(&mut driver, &Inbox::new("billing"), &Sent::in_order(1)).await, "apply");
}

async fn a_dropped_transaction_leaves_nothing<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    let mut tx = driver.begin().await;
    apply::<D>(&mut tx, &Sent::in_order(1)).await;
    drop(tx);
    let mut tx = driver.begin().await;
    apply::<D>(&mut tx, &Sent::in_order(1)).await;
    assert!(D::commit(tx).await);
    assert_eq!(site.effects(), ["1"]);
}

async fn a_killed_session_leaves_nothing<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    let mut tx = driver.begin().await;
    let pid = D::pid(&mut tx).await;
    apply::<D>(&mut tx, &Sent::in_order(1)).await;
    assert_eq!(site.one(&format!("SELECT pg_terminate_backend({pid}, 60000)")), "t");
    assert!(!D::commit(tx).await);
    assert_eq!(site.effects(), Vec::<String>::new());
    let mut next = D::connect(&site.url()).await;
    let mut tx = next.begin().await;
    apply::<D>(&mut tx, &Sent::in_order(1)).await;
    assert!(D::commit(tx).await);
    assert_eq!(site.effects(), ["1"]);
}

async fn a_killed_server_keeps_what_was_committed_and_nothing_else<D: Driver>() {
    let mut postgres = start(18);
    let url = {
        let site = Site::new(&postgres);
        let mut driver = D::connect(&site.url()).await;
        let mut tx = driver.begin().await;
        apply::<D>(&mut tx, &Sent::in_order(1)).await;
        assert!(D::commit(tx).await);
        site.database
    };
    let mut driver = D::connect(&postgres.superuser_url(&url)).await;
    let mut tx = driver.begin().await;
    apply::<D>(&mut tx, &Sent::in_order(2)).await;
    postgres.kill9().expect("it dies");
    assert!(!D::commit(tx).await);
    postgres.start_again().expect("it recovers");
    let mut driver = D::connect(&postgres.superuser_url(&url)).await;
    for (sequence, expected) in [(1, "duplicate"), (2, "apply")] {
        assert_eq!(accept(&mut driver, &Inbox::new("billing"), &Sent::in_order(sequence)).await, expected);
    }
    let effects = postgres.query_one(&url, "SELECT string_agg(what, ',') FROM effects").expect("effects");
    assert_eq!(effects, "1");
}

/// Group offsets lost, the whole topic comes again, also what is from before a failover.
async fn reading_everything_again_changes_nothing<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    let log: Vec<Sent> = (1..=20)
        .map(
            |sequence| {
                if sequence <= 10 { Sent::in_order(sequence) } else { Sent::new(2, sequence, sequence) }
            },
        )
        .collect();
    for sent in log.iter().chain(&log[..12]).chain(&log) {
        let mut tx = driver.begin().await;
        if Inbox::new("billing").accept(&mut tx, sent.event()).await.expect("no gap").applies() {
            assert!(D::effect(&mut tx, &sent.sequence()).await);
        }
        assert!(D::commit(tx).await);
    }
    let expected: Vec<String> = (1..=20).map(|sequence| sequence.to_string()).collect();
    assert_eq!(site.effects(), expected);
}
