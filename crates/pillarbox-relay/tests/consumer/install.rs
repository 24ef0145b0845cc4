//! `setup --consumer` as a library call: once, twice, at once, beside the outbox's side, refused.

use pillarbox_relay::config::Postgres;
use pillarbox_relay::error::{Code, ExitCode};
use pillarbox_relay::setup::{StepKind, apply_consumer, print_consumer_sql};

use super::pos;
use super::store::{Server, Store, servers};

const OBJECTS: &str = "SELECT string_agg(o, E'\\n' ORDER BY o) FROM ( \
    SELECT pg_describe_object(classid, objid, objsubid) || coalesce(( \
        SELECT md5(p.prosrc || p.proacl::text) FROM pg_proc p WHERE p.oid = objid), '') AS o \
    FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = 'pillarbox'::regnamespace) x";

fn settings(server: &Server, database: &str, user: &str) -> Postgres {
    Postgres {
        host: "127.0.0.1".into(),
        port: server.postgres.port(),
        user: user.into(),
        password: None,
        database: database.into(),
        slot: String::new(),
        publication: String::new(),
        tls: Default::default(),
        sql: None,
    }
}

#[tokio::test]
async fn from_nothing_to_installed_and_then_nothing_more() {
    for server in servers() {
        let store = Store { server, database: server.database("template0") };
        let settings = settings(server, &store.database, "postgres");
        let session = store.session().await;
        let would = apply_consumer(&settings, true).await.expect("a plan");
        assert!(!would.applied && would.steps.len() == 1 && would.steps[0].kind == StepKind::Schema);
        assert_eq!(
            session
                .try_run("SELECT FROM pillarbox.consumer_positions")
                .await
                .expect_err("a dry run")
                .sqlstate,
            "42P01"
        );

        let report = apply_consumer(&settings, false).await.expect("installed");
        assert_eq!((report.applied, &report.steps), (true, &would.steps));
        assert_eq!(session.accept(&pos(1, 1)).await, Ok(true));
        let again = apply_consumer(&settings, false).await.expect("installed");
        assert_eq!(again.steps, []);
        session.run(&print_consumer_sql()).await;
        assert_eq!(session.accept(&pos(1, 1)).await, Ok(false), "what was applied is still known");

        let printed = Store { server, database: server.database("installed") }.session().await;
        let objects = session.one::<String>(OBJECTS, &[]).await;
        assert_eq!(printed.one::<String>(OBJECTS, &[]).await, objects);
        session.run("INSERT INTO pillarbox.consumer_migrations (version, name) VALUES (1000, 'later')").await;
        let fault = apply_consumer(&settings, false).await.expect_err("from the future");
        assert_eq!(fault.code, Code::ConfigUnsupported, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_at_once_wait_for_each_other() {
    for server in servers() {
        let settings = settings(server, &server.database("template0"), "postgres");
        let (one, two) = tokio::join!(apply_consumer(&settings, false), apply_consumer(&settings, false));
        one.expect("installed");
        two.expect("installed");
    }
}

/// One schema for both sides, whichever came first; each leaves alone.
#[tokio::test]
async fn both_sides_live_in_one_schema() {
    let outbox = [
        include_str!("../../../../sql/0001_pillarbox.up.sql"),
        include_str!("../../../../sql/0001_pillarbox.down.sql"),
    ];
    let consumer = [
        include_str!("../../../../sql/consumer/0001_consumer.up.sql"),
        include_str!("../../../../sql/consumer/0001_consumer.down.sql"),
    ];
    let there = "SELECT to_regnamespace('pillarbox') IS NOT NULL";
    for server in servers() {
        for consumer_first in [false, true] {
            let session = Store { server, database: server.database("template0") }.session().await;
            let (first, second) = if consumer_first { (consumer, outbox) } else { (outbox, consumer) };
            session.run(first[0]).await;
            session.run(second[0]).await;
            session.run(first[1]).await;
            assert!(session.one::<bool>(there, &[]).await, "the other side is there");
            session.run(second[1]).await;
            assert!(!session.one::<bool>(there, &[]).await, "nothing is left");
        }
    }
}

#[tokio::test]
async fn refusals_have_codes_and_name_the_way_out() {
    let [_, server] = servers();
    let database = server.database("template0");
    server.postgres.execute("postgres", "CREATE ROLE poor LOGIN").expect("a role");
    let fault = apply_consumer(&settings(server, &database, "poor"), false).await.expect_err("a refusal");
    assert_eq!((fault.code, fault.code.exit()), (Code::PgPrivilege, ExitCode::Permission), "{fault:?}");
    assert!(fault.hint.expect("a hint").contains("setup --consumer URL --print-sql"));
    let fault = apply_consumer(&settings(server, "nowhere", "postgres"), false).await.expect_err("a refusal");
    assert_eq!(fault.code, Code::PgNoDatabase, "{fault:?}");
}
