//! Two owners of one partition: the row lock lets one after the other, whatever they apply.

use std::sync::Arc;

use super::nth;
use super::store::{Refusal, Session, Store};

const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];
const RETRY: &str = "40001";

async fn begin(session: &Session, level: &str) {
    session.run(&format!("BEGIN ISOLATION LEVEL {level}")).await;
}

/// What the second owner is told once the first, which applies `first`, has ended with `end`.
async fn second(store: &Store, level: &str, first: &str, given: &str, end: &str) -> Result<bool, Refusal> {
    let (one, two) = (store.session().await, Arc::new(store.session().await));
    begin(&one, level).await;
    begin(&two, level).await;
    // At higher levels the second sees what was there before the first began.
    two.one::<i64>("SELECT count(*) FROM pillarbox.consumer_positions", &[]).await;
    assert_eq!(one.accept(first).await, Ok(true));
    let pid = two.pid().await;
    let waiting = Arc::clone(&two);
    let given = given.to_owned();
    let answer = tokio::spawn(async move { waiting.accept(&given).await });
    store.await_blocked(pid).await;
    one.run(end).await;
    let answer = answer.await.expect("no panic");
    two.run(if answer.is_ok() { "COMMIT" } else { "ROLLBACK" }).await;
    answer
}

#[tokio::test]
async fn exactly_one_of_two_owners_applies() {
    for store in Store::each() {
        for level in LEVELS {
            // The first contact, then an event behind another.
            for n in [1, 2] {
                let header = nth(n);
                let after_rollback = second(&store, level, &header, &header, "ROLLBACK").await;
                assert_eq!(after_rollback, Ok(true), "{level}: the first gave it up");
                store
                    .session()
                    .await
                    .run(&format!(
                        "DELETE FROM pillarbox.consumer_positions WHERE sequence = 1 AND {n} = 1; \
                     UPDATE pillarbox.consumer_positions SET sequence = 1, position = lpad('1', 32, '0')"
                    ))
                    .await;
                let after_commit = second(&store, level, &header, &header, "COMMIT").await;
                if level == "READ COMMITTED" {
                    assert_eq!(after_commit, Ok(false), "{level}: the first applied it");
                } else {
                    assert_eq!(after_commit.expect_err("a retry").sqlstate, RETRY, "{level}");
                    let retry = store.session().await;
                    begin(&retry, level).await;
                    assert_eq!(retry.accept(&header).await, Ok(false), "{level}: the retry sees it");
                    retry.run("COMMIT").await;
                }
            }
            store.session().await.run("DELETE FROM pillarbox.consumer_positions").await;
        }
    }
}

/// The event behind one that another owner has not committed yet is no gap, unless that is rolled back.
#[tokio::test]
async fn a_gap_is_judged_when_the_other_owner_has_ended() {
    for store in Store::each() {
        let session = store.session().await;
        session.accept(&nth(1)).await.expect("true");
        let gap = second(&store, LEVELS[0], &nth(2), &nth(3), "ROLLBACK").await;
        assert_eq!(gap.expect_err("2 is missing").sqlstate, "PB001");
        assert_eq!(second(&store, LEVELS[0], &nth(2), &nth(3), "COMMIT").await, Ok(true));
        let late = second(&store, LEVELS[1], &nth(4), &nth(5), "COMMIT").await;
        assert_eq!(late.expect_err("a retry").sqlstate, RETRY);
    }
}

/// A whole log, read by several at once, each event by each of them, alone or in batches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_owners_have_every_effect_once() {
    const EVENTS: i64 = 300;
    for store in Store::each() {
        let judge = store.session().await;
        judge.run("CREATE TABLE effect (sequence bigint, owner integer)").await;
        let mut owners = Vec::new();
        for owner in 0..4 {
            let session = store.session().await;
            owners.push(tokio::spawn(async move { consume(&session, owner, EVENTS).await }));
        }
        for owner in owners {
            owner.await.expect("no panic");
        }
        let found: Vec<i64> = judge
            .one("SELECT ARRAY[count(*), count(DISTINCT sequence), max(sequence)] FROM effect", &[])
            .await;
        assert_eq!(found, [EVENTS; 3]);
    }
}

/// Even owners apply one by one, odd ones in batches; owner 3 is at REPEATABLE READ and tries again.
async fn consume(session: &Session, owner: i32, events: i64) {
    let level = if owner == 3 { LEVELS[1] } else { LEVELS[0] };
    let size = if owner % 2 == 0 { 1 } else { 7 };
    let mut next = 1;
    while next <= events {
        let batch: Vec<i64> = (next..=events).take(size).collect();
        let headers: Vec<String> = batch.iter().copied().map(nth).collect();
        begin(session, level).await;
        let applied = match size {
            1 => session.accept(&headers[0]).await.map(|applied| if applied { vec![1] } else { Vec::new() }),
            _ => session.accept_batch(&headers, None, "error", false).await,
        };
        match applied {
            Ok(ordinals) => {
                for ordinal in ordinals {
                    let sequence = batch[usize::try_from(ordinal).expect("positive") - 1];
                    session.run(&format!("INSERT INTO effect VALUES ({sequence}, {owner})")).await;
                }
                session.run("COMMIT").await;
                next += i64::try_from(batch.len()).expect("few");
            }
            Err(refusal) => {
                assert_eq!((refusal.sqlstate.as_str(), level), (RETRY, LEVELS[1]), "{refusal:?}");
                session.run("ROLLBACK").await;
            }
        }
    }
}
