//! The crate and the SQL functions are one: the same answer to every event, the same row after it, whichever of them
//! wrote the row before.

use pillarbox_consumer::inbox::{Error, Event, Inbox};
use pillarbox_consumer::{Decision, FirstContact, OnGap, Rules};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio_postgres::types::{ToSql, Type};

use crate::rule::accept;
use crate::site::{Driver, Sent, Site, Sqlx, TokioPostgres, newest};
use crate::with_both_drivers;

with_both_drivers!(the_reset_that_an_error_names_works);

const CASES: u32 = 60;

async fn the_reset_that_an_error_names_works<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    let inbox = Inbox::new("bill's");
    for (next, code) in [(Sent::in_order(9), "PB001"), (Sent::new(1, 3, 20), "PB002")] {
        if code == "PB001" {
            assert_eq!(accept(&mut driver, &inbox, &Sent::in_order(1)).await, "apply");
        }
        let mut tx = driver.begin().await;
        let error = inbox.accept(&mut tx, next.event()).await.expect_err(code);
        D::rollback(tx).await;
        assert_eq!(error.code(), Some(code));
        let Error::Refused(refused) = &error else { panic!("{error:?}") };
        assert!(error.to_string().ends_with(&refused.reset), "{error}");
        site.run(&refused.reset);
        assert_eq!(accept(&mut driver, &inbox, &next).await, "apply");
        assert_eq!(accept(&mut driver, &inbox, &next).await, "duplicate");
    }
    assert_eq!(site.one("SELECT count(*) FROM pillarbox.consumer_resets"), "2");
}

/// One event, as the server decides: the answer, or the SQLSTATE.
async fn by_sql(client: &tokio_postgres::Client, sent: &Sent, rules: Rules) -> Result<bool, String> {
    let sql = "SELECT pillarbox.accept($1, $2, $3, $4, $5, $6, $7)";
    let on_gap = if rules.on_gap == OnGap::Warn { "warn" } else { "error" };
    let strict = rules.first_contact == FirstContact::One;
    let row = client
        .query_typed_one(
            sql,
            &[
                (&"billing" as &(dyn ToSql + Sync), Type::TEXT),
                (&"t", Type::TEXT),
                (&sent.partition, Type::INT4),
                (&sent.pb_pos, Type::TEXT),
                (&sent.offset, Type::INT8),
                (&on_gap, Type::TEXT),
                (&strict, Type::BOOL),
            ],
        )
        .await;
    row.map(|row| row.get(0)).map_err(|error| error.code().expect("of the server").code().to_owned())
}

async fn by_crate<D: Driver>(driver: &mut D, sent: &Sent, rules: Rules) -> Result<bool, String> {
    let mut tx = driver.begin().await;
    let answer = Inbox::new("billing").with_rules(rules).accept(&mut tx, sent.event()).await;
    match answer {
        Ok(decision) => {
            assert!(D::commit(tx).await);
            Ok(decision.applies())
        }
        Err(error) => {
            D::rollback(tx).await;
            Err(error.code().expect("not the database").to_owned())
        }
    }
}

const ROWS: &str = "SELECT coalesce(string_agg(concat_ws(' ', consumer, source, topic, partition, position, sequence, \
    kafka_offset), ',' ORDER BY source, partition), '') FROM pillarbox.consumer_positions";

fn logs() -> impl Strategy<Value = Vec<(Sent, usize)>> {
    let source = prop::sample::select(vec!["orders", "shop"]);
    let event = (source, 1_u32..3, 0_u64..8, 1_u64..8).prop_map(|(source, epoch, lsn, sequence)| {
        let sent = Sent::new(epoch, lsn, sequence);
        Sent { pb_pos: sent.pb_pos.replace("orders", source), ..sent }
    });
    // Half of them are the next one or near it, or hardly anything would ever apply.
    let next = (1_u64..9).prop_map(Sent::in_order);
    prop::collection::vec((prop_oneof![event, next], 0_usize..3), 1..24)
}

/// Random events, each decided by a random one of three (SQL, tokio-postgres, sqlx) in one database, and by SQL alone in
/// another.
#[test]
fn the_crate_and_the_sql_functions_take_turns() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mixed, alone) = (Site::new(newest()), Site::new(newest()));
    let mut connections = runtime.block_on(async {
        let (client, connection) =
            tokio_postgres::connect(&alone.url(), tokio_postgres::NoTls).await.expect("up");
        tokio::spawn(connection);
        let (other, connection) =
            tokio_postgres::connect(&mixed.url(), tokio_postgres::NoTls).await.expect("up");
        tokio::spawn(connection);
        (client, other, TokioPostgres::connect(&mixed.url()).await, Sqlx::connect(&mixed.url()).await)
    });
    let rules = (any::<bool>(), any::<bool>()).prop_map(|(strict, warn)| Rules {
        first_contact: if strict { FirstContact::One } else { FirstContact::Any },
        on_gap: if warn { OnGap::Warn } else { OnGap::Refuse },
    });
    let mut runner = TestRunner::new(Config { cases: CASES, ..Config::default() });
    let connections = std::cell::RefCell::new(&mut connections);
    let result = runner.run(&(logs(), rules), |(log, rules)| {
        let mut connections = connections.borrow_mut();
        let (alone_sql, mixed_sql, tokio_postgres, sqlx) = &mut **connections;
        mixed.run("TRUNCATE pillarbox.consumer_positions");
        alone.run("TRUNCATE pillarbox.consumer_positions");
        for (sent, who) in &log {
            let (expected, answer) = runtime.block_on(async {
                let answer = match who {
                    0 => by_sql(mixed_sql, sent, rules).await,
                    1 => by_crate(tokio_postgres, sent, rules).await,
                    _ => by_crate(sqlx, sent, rules).await,
                };
                (by_sql(alone_sql, sent, rules).await, answer)
            });
            prop_assert_eq!(answer, expected, "{:?} by {}", sent, who);
        }
        prop_assert_eq!(mixed.one(ROWS), alone.one(ROWS));
        Ok(())
    });
    result.expect("the same answers");
}

/// A batch answers as its events one by one; where one is refused, all are.
#[test]
fn a_batch_is_its_events_one_by_one() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (batched, single) = (Site::new(newest()), Site::new(newest()));
    let drivers = runtime.block_on(async {
        (TokioPostgres::connect(&batched.url()).await, Sqlx::connect(&single.url()).await)
    });
    let drivers = std::cell::RefCell::new(drivers);
    let mut runner = TestRunner::new(Config { cases: CASES, ..Config::default() });
    let result = runner.run(&prop::collection::vec(logs(), 1..4), |polls| {
        let (batched_driver, single_driver) = &mut *drivers.borrow_mut();
        batched.run("TRUNCATE pillarbox.consumer_positions");
        single.run("TRUNCATE pillarbox.consumer_positions");
        for poll in polls {
            let poll: Vec<Sent> = poll.into_iter().map(|(sent, who)| sent.partition(who as i32)).collect();
            let events: Vec<Event<'_>> = poll.iter().map(Sent::event).collect();
            let (batch, one_by_one) = runtime.block_on(async {
                let mut tx = batched_driver.begin().await;
                let batch = Inbox::new("billing").accept_batch(&mut tx, &events).await;
                match batch {
                    Ok(_) => assert!(TokioPostgres::commit(tx).await),
                    Err(_) => TokioPostgres::rollback(tx).await,
                }
                let mut tx = single_driver.begin().await;
                let mut one_by_one: Result<Vec<Decision>, Error<_>> = Ok(Vec::new());
                for event in &events {
                    match (Inbox::new("billing").accept(&mut tx, *event).await, &mut one_by_one) {
                        (Ok(decision), Ok(decisions)) => decisions.push(decision),
                        (Err(error), _) => {
                            one_by_one = Err(error);
                            break;
                        }
                        (Ok(_), Err(_)) => unreachable!("broken out of"),
                    }
                }
                match one_by_one {
                    Ok(_) => assert!(Sqlx::commit(tx).await),
                    Err(_) => Sqlx::rollback(tx).await,
                }
                (batch.ok(), one_by_one.ok())
            });
            prop_assert_eq!(batch, one_by_one);
        }
        prop_assert_eq!(batched.one(ROWS), single.one(ROWS));
        Ok(())
    });
    result.expect("the same answers");
}
