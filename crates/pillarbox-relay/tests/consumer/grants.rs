//! Roles with what `setup --consumer` prints, and nothing else.

use pillarbox_relay::setup::CONSUMER_GRANTS;

use super::pos;
use super::store::{Session, Store, servers};

const DENIED: &str = "42501";

/// Everything that a consumer and an operator may and may not do.
async fn least_privileges(store: &Store) {
    let owner = store.session().await;
    let (consumer, operator, stranger) = (
        store.session_of("the_consumer").await,
        store.session_of("the_operator").await,
        store.session_of("a_stranger").await,
    );
    let functions = "SELECT string_agg(proname, ' ' ORDER BY proname) FROM pg_proc \
        WHERE pronamespace = 'pillarbox'::regnamespace AND NOT has_function_privilege('a_stranger', oid, 'EXECUTE')";
    let granted = "accept accept_batch accept_reset applied wait wait_begin wait_end";
    assert_eq!(owner.one::<String>(functions, &[]).await, granted);
    let header = pos(1, 1);
    let denied = stranger.accept(&header).await.expect_err("nothing was granted");
    assert_eq!(denied.sqlstate, DENIED, "{denied:?}");

    assert_eq!(consumer.accept(&header).await, Ok(true));
    assert_eq!(consumer.accept(&header).await, Ok(false));
    let batch = [pos(1, 1), pos(2, 2), pos(3, 3)];
    assert_eq!(consumer.accept_batch(&batch, None, "error", false).await, Ok(vec![2, 3]));
    assert_eq!(consumer.accept(&pos(9, 9)).await.expect_err("a gap").sqlstate, "PB001");
    assert_eq!(consumer.accept(&pos(4, 1)).await.expect_err("foreign").sqlstate, "PB002");
    assert_eq!(consumer.accept("x").await.expect_err("malformed").sqlstate, "PB003");
    assert_eq!(consumer.accept_with(Some(&pos(9, 9)), None, "warn", false).await, Ok(true));
    let reset = format!("SELECT pillarbox.accept_reset('billing', 'orders', 3, '{}', 'why')", pos(20, 20));
    for sql in [
        reset.as_str(),
        "DELETE FROM pillarbox.consumer_positions",
        "SELECT FROM pillarbox.consumer_resets",
        "INSERT INTO pillarbox.consumer_migrations (version, name) VALUES (9, 'mine')",
        "CREATE TABLE pillarbox.mine ()",
    ] {
        assert_eq!(consumer.try_run(sql).await.expect_err(sql).sqlstate, DENIED, "{sql}");
    }

    let reader = store.session_of("the_reader").await;
    reader.run("SELECT pillarbox.wait('orders:orders/3=9', 'billing')").await;
    reader.run("SELECT pillarbox.wait_begin('orders:orders/3=9', 'billing')").await;
    reader.run("SELECT pillarbox.wait_end('orders:orders/3=9', 'billing')").await;
    assert_eq!(reader.accept(&header).await.expect_err("it only reads").sqlstate, DENIED);

    operator.run(&reset).await;
    let by = "SELECT string_agg(reset_by, ' ') FROM pillarbox.consumer_resets";
    assert_eq!(owner.one::<String>(by, &[]).await, "the_operator");
    for sql in
        ["DELETE FROM pillarbox.consumer_resets", "UPDATE pillarbox.consumer_resets SET reason = 'none'"]
    {
        assert_eq!(operator.try_run(sql).await.expect_err(sql).sqlstate, DENIED, "{sql}");
    }
    assert_eq!(consumer.accept(&pos(20, 20)).await, Ok(true));
}

/// The operator is granted what a consumer is, and what comes after that.
async fn grant(owner: &Session) {
    owner
        .run(
            "DO $$ DECLARE r text; BEGIN \
             FOREACH r IN ARRAY ARRAY['the_consumer', 'the_operator', 'the_reader', 'a_stranger'] LOOP \
             IF to_regrole(r) IS NULL THEN BEGIN EXECUTE format('CREATE ROLE %I LOGIN', r); \
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END; END IF; END LOOP; END $$",
        )
        .await;
    owner.run(CONSUMER_GRANTS).await;
    owner.run(&CONSUMER_GRANTS.replace("the_consumer", "the_operator")).await;
    owner.run("GRANT USAGE ON SCHEMA pillarbox TO a_stranger").await;
}

#[test]
fn the_page_has_the_printed_grants() {
    assert!(include_str!("../../../../docs/consumers.md").contains(CONSUMER_GRANTS));
}

#[tokio::test]
async fn the_printed_grants_are_enough_and_no_more() {
    for store in Store::each() {
        grant(&store.session().await).await;
        least_privileges(&store).await;
    }
}

/// A database in which functions are nobody's by default.
#[tokio::test]
async fn the_printed_grants_are_enough_where_public_has_nothing() {
    for server in servers() {
        let store = Store { server, database: server.database("template0") };
        let owner = store.session().await;
        owner.run("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC").await;
        owner.run(&pillarbox_relay::setup::print_consumer_sql()).await;
        grant(&owner).await;
        least_privileges(&store).await;
    }
}
