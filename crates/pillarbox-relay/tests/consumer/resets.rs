//! Gaps and other histories: what is said, what the hint does, and what the audit keeps.

use super::store::{Refusal, Session, Store};
use super::{hex, nth, pos};

/// The statement in a hint.
fn statement(refusal: &Refusal) -> String {
    let at = refusal.hint.find("SELECT pillarbox.accept_reset(").expect("a hint with the statement");
    refusal.hint[at..].to_owned()
}

/// The audit as text.
async fn audit(session: &Session) -> Vec<String> {
    session
        .one(
            "SELECT coalesce(array_agg(concat_ws(' ', consumer, source, topic, partition, old_position, old_sequence, \
             '->', next_pb_pos, reason, reset_by) ORDER BY id), '{}') FROM pillarbox.consumer_resets",
            &[],
        )
        .await
}

#[tokio::test]
async fn the_hint_of_a_gap_leads_past_it_and_is_audited() {
    for store in Store::each() {
        let session = store.session().await;
        session.accept_with(Some(&pos(10, 5)), Some(70), "error", false).await.expect("the first contact");
        let refusal = session.accept(&pos(90, 42)).await.expect_err("a gap");
        assert_eq!(refusal.sqlstate, "PB001");
        assert_eq!(refusal.message, "consumer \"billing\" misses sequences 6 to 41 of orders-3");
        assert_eq!(refusal.detail, format!("Applied last: {}, given: {}.", pos(10, 5), pos(90, 42)));
        let batch = session.accept_batch(&[pos(10, 5), pos(90, 42)], None, "error", false).await;
        assert_eq!(batch, Err(refusal.clone()));

        session.run(&statement(&refusal)).await;
        assert_eq!(
            session.stored().await,
            Some((hex(10), 41, Some(70))),
            "what was applied last has not changed"
        );
        let expected = format!("billing orders orders 3 {} 5 -> {} why postgres", hex(10), pos(90, 42));
        assert_eq!(audit(&session).await, [expected]);
        assert_eq!(session.accept(&pos(10, 5)).await, Ok(false), "a redelivery is still one");
        let late = session.accept(&pos(50, 20)).await.expect_err("it was given up");
        assert_eq!(late.sqlstate, "PB002");
        assert_eq!(session.accept(&pos(90, 42)).await, Ok(true));
        assert_eq!(session.accept(&pos(50, 20)).await, Ok(false), "covered, as everything before is");
        assert_eq!(session.accept(&pos(91, 43)).await, Ok(true));
    }
}

#[tokio::test]
async fn the_hint_of_another_history_leads_into_it() {
    for store in Store::each() {
        let session = store.session().await;
        // The topic was made anew: sequences begin again, positions are those of the source.
        for (stored, given, before) in [
            ((0xff, 5000), (0x100, 1), 0xff),
            ((0xff, 5), (0x10, 90), 0x0f),
            ((0xff, 5), (0x0f, 9), 0x0e),
            ((0xff, 50), (1 << 96, 6), (1 << 96) - 1),
        ] {
            session.run("TRUNCATE pillarbox.consumer_positions").await;
            session
                .accept_with(Some(&pos(stored.0, stored.1)), Some(70), "error", false)
                .await
                .expect("true");
            let refusal = session.accept(&pos(given.0, given.1)).await.expect_err("another history");
            assert_eq!(refusal.sqlstate, "PB002", "{given:?}: {refusal:?}");
            assert!(refusal.message.contains("another history of orders-3"), "{refusal:?}");
            session.run(&statement(&refusal)).await;
            assert_eq!(session.stored().await, Some((hex(before), given.1 - 1, None)), "{given:?}");
            assert_eq!(session.accept(&pos(given.0, given.1)).await, Ok(true));
        }
        assert_eq!(audit(&session).await.len(), 4);
    }
}

#[tokio::test]
async fn strict_first_contact_names_what_is_missing() {
    for store in Store::each() {
        let session = store.session().await;
        let refusal = session.accept_with(Some(&pos(90, 42)), None, "error", true).await.expect_err("a gap");
        assert_eq!(refusal.message, "consumer \"billing\" misses sequences 1 to 41 of orders-3");
        assert!(refusal.detail.starts_with("Nothing applied yet, given:"), "{refusal:?}");
        assert_eq!(session.stored().await, None);
        session.run(&statement(&refusal)).await;
        assert_eq!(
            audit(&session).await,
            [format!("billing orders orders 3 -> {} why postgres", pos(90, 42))]
        );
        assert_eq!(session.accept_with(Some(&pos(90, 42)), None, "error", true).await, Ok(true));
    }
}

/// Back to an event that was applied: its effect shall be had once more.
#[tokio::test]
async fn a_reset_leads_back_too() {
    let session = Store::newest().session().await;
    for n in 1..=9 {
        session.accept(&pos(16 * n, i64::try_from(n).expect("small"))).await.expect("true");
    }
    let back =
        format!("SELECT pillarbox.accept_reset('billing', 'orders', 3, '{}', 'once more')", pos(64, 4));
    session.run(&back).await;
    assert_eq!(session.accept(&pos(48, 3)).await, Ok(false));
    assert_eq!(session.accept(&pos(64, 4)).await, Ok(true));
    assert_eq!(session.accept(&pos(64, 4)).await, Ok(false));
}

#[tokio::test]
async fn a_reset_says_why_and_rolls_back_with_its_audit() {
    let session = Store::newest().session().await;
    for reason in ["NULL", "''", "'  '"] {
        let call =
            format!("SELECT pillarbox.accept_reset('billing', 'orders', 3, '{}', {reason})", pos(9, 4));
        assert_eq!(session.try_run(&call).await.expect_err("no reason").sqlstate, "22023");
    }
    let zero = format!("SELECT pillarbox.accept_reset('billing', 'orders', 3, '{}', 'why')", pos(0, 4));
    assert_eq!(session.try_run(&zero).await.expect_err("nothing before").sqlstate, "22023");
    session.run(&format!("BEGIN; {}; ROLLBACK", zero.replace(&pos(0, 4), &pos(9, 4)))).await;
    assert_eq!((session.stored().await, audit(&session).await), (None, Vec::new()));
}

/// Quotes in names stay inside of them, also in the statement that the hint proposes.
#[tokio::test]
async fn names_are_quoted_in_hints() {
    let session = Store::newest().session().await;
    let accept = |header: String| format!("SELECT pillarbox.accept('o''brien''s', 'top''ic', 0, '{header}')");
    session.run(&accept(pos(1, 1))).await;
    let refusal = session.try_run(&accept(pos(9, 9))).await.expect_err("a gap");
    session.run(&statement(&refusal)).await;
    assert!(session.one::<bool>(&accept(pos(9, 9)), &[]).await);
}

#[tokio::test]
async fn a_compacted_topic_has_gaps_and_warnings() {
    for store in Store::each() {
        let session = store.session().await;
        for (n, strict, warned) in [(4, true, "1 to 3"), (7, false, "5 to 6")] {
            let header = nth(n);
            assert_eq!(session.accept_with(Some(&header), None, "warn", strict).await, Ok(true));
            let expected =
                format!("PB001 consumer \"billing\" goes on without sequences {warned} of orders-3");
            assert_eq!(session.warnings(), [expected]);
            assert_eq!(session.accept_with(Some(&header), None, "warn", strict).await, Ok(false));
        }
        let batch = [7, 9, 11, 12, 15].map(nth);
        assert_eq!(session.accept_batch(&batch, None, "warn", false).await, Ok(vec![2, 3, 4, 5]));
        let warnings = session.warnings();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[1].contains("without 3 more events of orders-3"), "{warnings:?}");
        let foreign = session.accept_with(Some(&pos(1, 99)), None, "warn", false).await;
        assert_eq!(foreign.expect_err("not a gap").sqlstate, "PB002");
        assert_eq!(session.stored().await.expect("a row").1, 15);
    }
}
