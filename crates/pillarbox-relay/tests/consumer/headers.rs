//! What is a header and what is not: the same as for everybody who reads them, and never repeated in an error.

use pillarbox_wire::header::PbPos;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::store::{Session, Store};
use super::{nth, pos};

const POSITION: &str = "0000000100000016b374d84800000002";

/// What is wrong, and the part that is named.
fn malformed() -> Vec<(Option<String>, &'static str)> {
    let (pipeline, position, sequence) = ("the pipeline name", "the position", "the sequence");
    let texts = [
        ("", pipeline),
        ("canary", position),
        (":P:1", pipeline),
        ("Orders:P:1", pipeline),
        ("1orders:P:1", pipeline),
        ("_orders:P:1", pipeline),
        ("or-ders:P:1", pipeline),
        (" orders:P:1", pipeline),
        ("örders:P:1", pipeline),
        ("LONG1:P:1", pipeline),
        ("orders:P", sequence),
        ("orders::1", position),
        ("orders:P0:1", position),
        ("orders:HALF:1", position),
        ("orders:UPPER:1", position),
        ("orders:P:", sequence),
        ("orders:P:0", sequence),
        ("orders:P:01", sequence),
        ("orders:P:+1", sequence),
        ("orders:P:-1", sequence),
        ("orders:P:1 ", sequence),
        ("orders:P:1\n", sequence),
        ("orders:P:1:", sequence),
        ("orders:P:1:canary", sequence),
        ("orders:P:1e3", sequence),
        ("orders:P:٣", sequence),
        ("orders:P:canary", sequence),
        ("orders:P:9223372036854775808", sequence),
        ("orders:P:18446744073709551615", sequence),
        ("orders:P:99999999999999999999", sequence),
    ];
    let spelled = texts.map(|(text, part)| {
        let text = text.replace("LONG", &"a".repeat(40)).replace("HALF", &POSITION[..31]);
        (Some(text.replace("UPPER", &POSITION.to_uppercase()).replace('P', POSITION)), part)
    });
    std::iter::once((None, "no header pb-pos")).chain(spelled).collect()
}

#[tokio::test]
async fn a_malformed_header_is_refused_and_not_repeated() {
    for store in Store::each() {
        let session = store.session().await;
        for (header, part) in malformed() {
            let header = header.as_deref();
            let one = session.accept_with(header, None, "error", false).await.expect_err("a refusal");
            let batch = "SELECT pillarbox.accept_batch('billing', 'orders', 3, ARRAY[$1, $2])";
            let batch = session.client.query_one(batch, &[&pos(1, 1), &header]).await;
            let batch = super::store::Refusal::from(batch.expect_err("a refusal"));
            let reset = "SELECT pillarbox.accept_reset('billing', 'orders', 3, $1, 'test')";
            let reset = session.client.query_one(reset, &[&header]).await;
            let reset = super::store::Refusal::from(reset.expect_err("a refusal"));
            assert!(batch.detail.ends_with(", event 2 of the batch."), "{batch:?}");
            for refusal in [one, batch, reset] {
                assert_eq!(refusal.sqlstate, "PB003", "{header:?}: {refusal:?}");
                assert!(refusal.message.contains(part), "{header:?}: {refusal:?}");
                assert!(!format!("{refusal:?}").contains("canary"), "{refusal:?}");
            }
            assert_eq!(session.stored().await, None, "{header:?}");
        }
    }
}

#[tokio::test]
async fn the_longest_header_is_one() {
    for store in Store::each() {
        let session = store.session().await;
        let header = format!("{}:{}:{}", "a".repeat(40), "f".repeat(32), i64::MAX);
        assert_eq!(session.accept(&header).await, Ok(true));
        assert_eq!(session.accept(&header).await, Ok(false));
    }
}

#[tokio::test]
async fn arguments_that_mean_nothing_are_refused() {
    for store in Store::each() {
        let session = store.session().await;
        for on_gap in ["", "warning", "ERROR"] {
            let refusal = session.accept_with(Some(&pos(1, 1)), None, on_gap, false).await;
            let refusal = refusal.expect_err("a refusal");
            assert_eq!((refusal.sqlstate.as_str(), on_gap), ("22023", on_gap), "{refusal:?}");
            let refusal = session.accept_batch(&[pos(1, 1)], None, on_gap, false).await;
            assert_eq!(refusal.expect_err("a refusal").sqlstate, "22023");
        }
        for call in ["NULL, 'orders', 3", "'billing', NULL, 3", "'billing', 'orders', NULL"] {
            let call = format!("SELECT pillarbox.accept({call}, '{}')", pos(1, 1));
            assert_eq!(session.try_run(&call).await.expect_err("a refusal").sqlstate, "23502", "{call}");
        }
    }
}

/// What the relay's own parser takes, less the sequences that no relay writes.
#[tokio::test]
async fn a_header_is_what_the_relay_reads_as_one() {
    let session = Store::newest().session().await;
    let strategy = prop_oneof![
        "[a-z][a-z0-9_]{0,39}:[0-9a-f]{32}:[1-9][0-9]{0,19}",
        "[a-zA_]{0,2}[a-z0-9_]{0,40}:[0-9a-f]{31,33}:[0-9+-]{0,21}",
        "[a-z]{1,2}:[0-9a-fA]{32}:[0-9]{1,2}[:\\n ]?",
        "[ -~\\n]{0,60}",
    ];
    let mut runner = TestRunner::default();
    let headers: Vec<String> =
        (0..4_000).map(|_| strategy.new_tree(&mut runner).expect("a text").current()).collect();
    let sql =
        "SELECT array_agg(pillarbox.is_pb_pos(h) ORDER BY n) FROM unnest($1::text[]) WITH ORDINALITY u(h, n)";
    let found: Vec<bool> = session.one(sql, &[&headers]).await;
    let expected: Vec<bool> = headers.iter().map(|header| is_pb_pos(header)).collect();
    assert!(expected.contains(&true) && expected.contains(&false));
    for (header, (found, expected)) in headers.iter().zip(found.iter().zip(&expected)) {
        assert_eq!(found, expected, "{header:?}");
    }
}

fn is_pb_pos(header: &str) -> bool {
    PbPos::parse(header).is_ok_and(|pos| (1..=i64::MAX.cast_unsigned()).contains(&pos.sequence.0))
}

/// A caller's collations and search_path are its own business.
#[tokio::test]
async fn collations_and_search_paths_of_callers_change_nothing() {
    for store in Store::each() {
        let session = store.session().await;
        hijack(&session).await;
        let call = |n: i64| {
            format!(
                "SELECT pillarbox.accept('billing' COLLATE \"POSIX\", 'orders' COLLATE \"POSIX\", 3, \
                 '{}' COLLATE \"POSIX\")",
                nth(n)
            )
        };
        assert!(session.one::<bool>(&call(1), &[]).await);
        assert!(session.one::<bool>(&call(2), &[]).await);
        assert!(!session.one::<bool>(&call(2), &[]).await);
        assert_eq!(session.try_run(&call(4)).await.expect_err("a gap").sqlstate, "PB001");
        let reset = "SELECT pillarbox.accept_reset('billing' COLLATE \"POSIX\", 'orders' COLLATE \"POSIX\", 3, \
            '{}' COLLATE \"POSIX\", 'why')";
        session.run(&reset.replace("{}", &pos(4, 4))).await;
        let batch = format!(
            "SELECT pillarbox.accept_batch('billing' COLLATE \"POSIX\", 'orders', 3, \
             ARRAY['{}', '{}'] COLLATE \"POSIX\")",
            pos(3, 3),
            pos(4, 4)
        );
        assert_eq!(session.try_run(&batch).await.expect_err("given up").sqlstate, "PB002");
        let batch = batch.replace(&pos(3, 3), &pos(2, 2));
        assert_eq!(session.one::<Vec<i32>>(&batch, &[]).await, [2]);
    }
}

/// Functions and operators that would be taken if a search_path of the caller decided.
async fn hijack(session: &Session) {
    session
        .run(
            "CREATE SCHEMA evil; \
             CREATE FUNCTION evil.split_part(text, text, integer) RETURNS text LANGUAGE sql AS 'SELECT ''x'''; \
             CREATE FUNCTION evil.less(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'; \
             CREATE OPERATOR evil.<= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.less); \
             SET search_path = evil, pg_catalog",
        )
        .await;
}
