//! Parked events: a key waits in order, the partition goes on, and whatever dies, each event has one effect.

use pillarbox_consumer::inbox::Admission::{Apply, Duplicate, Parked};
use pillarbox_consumer::inbox::{Inbox, Lane, Record};

use crate::site::{Driver, Sent, Site, newest, oldest};
use crate::with_both_drivers;

with_both_drivers!(
    a_key_waits_in_order_and_the_others_go_on,
    a_crash_at_any_step_changes_nothing,
    a_redelivered_parked_event_is_a_duplicate,
    events_without_a_key_are_parked_alone,
    a_poison_event_can_be_as_ugly_as_it_likes,
    a_failed_replay_goes_behind_the_others,
    a_discarded_event_is_audited_and_the_next_goes_on,
    an_event_that_comes_during_the_last_replay_parks_behind,
    two_who_replay_one_event,
    a_batch_parks_what_waits,
    what_is_parked_of_others_does_not_matter,
    the_grants_of_the_migrations_are_enough,
);

fn inbox() -> Inbox {
    Inbox::new("billing")
}

/// What a service does with a record; `poison` are the sequences whose effect fails.
async fn consume<D: Driver>(driver: &mut D, sent: &Sent, poison: &[&str]) -> &'static str {
    let mut tx = driver.begin().await;
    let admission = inbox().admit(&mut tx, &sent.record()).await.expect("in order");
    if !admission.applies() {
        assert!(D::commit(tx).await);
        return if admission == Parked { "waits" } else { "duplicate" };
    }
    assert!(D::effect(&mut tx, &sent.sequence()).await);
    if !poison.contains(&sent.sequence().as_str()) {
        assert!(D::commit(tx).await);
        return "applied";
    }
    D::rollback(tx).await;
    let mut tx = driver.begin().await;
    assert!(inbox().park(&mut tx, &sent.record(), "no such account").await.expect("parked"));
    assert!(D::commit(tx).await);
    "parked"
}

async fn lanes<D: Driver>(driver: &mut D) -> Vec<Lane> {
    let mut tx = driver.begin().await;
    inbox().lanes(&mut tx, 100).await.expect("lanes")
}

/// Replays one event; false if there was none.
async fn replay<D: Driver>(driver: &mut D) -> bool {
    let Some(lane) = lanes(driver).await.into_iter().next() else { return false };
    let mut tx = driver.begin().await;
    let parked = inbox().replay(&mut tx, &lane.first).await.expect("a replay").expect("the first of its key");
    assert!(D::effect(&mut tx, &parked.id.mark.sequence().to_string()).await);
    assert!(D::commit(tx).await);
    true
}

async fn replay_all<D: Driver>(driver: &mut D) {
    for _ in 0..20 {
        if !replay(driver).await {
            return;
        }
    }
    panic!("an event is never taken out");
}

async fn a_key_waits_in_order_and_the_others_go_on<D: Driver>() {
    for postgres in [oldest(), newest()] {
        let site = Site::new(postgres);
        let mut driver = D::connect(&site.url()).await;
        for (sequence, key, expected) in [
            (1, "a", "applied"),
            (2, "b", "parked"),
            (3, "a", "applied"),
            (4, "b", "waits"),
            (5, "c", "parked"),
            (6, "b", "waits"),
            (7, "a", "applied"),
        ] {
            let sent = Sent::in_order(sequence).key(key);
            assert_eq!(consume(&mut driver, &sent, &["2", "5"]).await, expected, "{sequence}");
        }
        assert_eq!(site.effects(), ["1", "3", "7"]);
        assert_eq!(site.parked(), "2,4,5,6");
        let waiting: Vec<_> = lanes(&mut driver)
            .await
            .into_iter()
            .map(|lane| (lane.first.mark.sequence().0, lane.waiting, lane.attempts, lane.reason))
            .collect();
        let reason = Some("no such account".to_owned());
        assert_eq!(waiting, [(2, 2, 1, reason.clone()), (5, 0, 1, reason)]);
        replay_all(&mut driver).await;
        let effects = site.effects();
        let of_b: Vec<&str> =
            effects.iter().map(String::as_str).filter(|what| ["2", "4", "6"].contains(what)).collect();
        assert_eq!((of_b, effects.len()), (vec!["2", "4", "6"], 7));
        assert_eq!(consume(&mut driver, &Sent::in_order(8).key("b"), &[]).await, "applied");
    }
}

async fn a_crash_at_any_step_changes_nothing<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    let poison = Sent::in_order(1).key("a");
    for _ in 0..2 {
        let mut tx = driver.begin().await;
        assert!(inbox().park(&mut tx, &poison.record(), "why").await.expect("parked"));
        D::rollback(tx).await;
        assert_eq!(site.parked(), "");
    }
    assert_eq!(consume(&mut driver, &poison, &["1"]).await, "parked");
    let behind = Sent::in_order(2).key("a");
    for _ in 0..2 {
        let mut tx = driver.begin().await;
        assert_eq!(inbox().admit(&mut tx, &behind.record()).await.expect("in order"), Parked);
        D::rollback(tx).await;
        assert_eq!(site.parked(), "1");
    }
    let first = lanes(&mut driver).await.remove(0).first;
    let mut tx = driver.begin().await;
    assert!(inbox().replay(&mut tx, &first).await.expect("a replay").is_some());
    assert!(D::effect(&mut tx, "1").await);
    D::rollback(tx).await;
    assert_eq!((site.parked().as_str(), site.effects().len()), ("1", 0));
    assert!(replay(&mut driver).await);
    assert_eq!(consume(&mut driver, &behind, &[]).await, "applied");
    assert_eq!(site.effects(), ["1", "2"]);
}

async fn a_redelivered_parked_event_is_a_duplicate<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    let log: Vec<Sent> = (1..=3).map(|sequence| Sent::in_order(sequence).key("a")).collect();
    for (sent, expected) in log.iter().zip(["parked", "waits", "waits"]) {
        assert_eq!(consume(&mut driver, sent, &["1"]).await, expected);
    }
    for sent in &log {
        assert_eq!(consume(&mut driver, sent, &["1"]).await, "duplicate");
        let mut tx = driver.begin().await;
        assert!(!inbox().park(&mut tx, &sent.record(), "again").await.expect("a duplicate"));
    }
    replay_all(&mut driver).await;
    for sent in &log {
        assert_eq!(consume(&mut driver, sent, &["1"]).await, "duplicate");
        let mut tx = driver.begin().await;
        assert!(!inbox().park(&mut tx, &sent.record(), "again").await.expect("a duplicate"));
        assert!(D::commit(tx).await);
    }
    assert_eq!((site.effects(), site.parked().as_str()), (vec!["1".into(), "2".into(), "3".into()], ""));
}

async fn events_without_a_key_are_parked_alone<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    for (sequence, expected) in [(1, "parked"), (2, "applied"), (3, "parked"), (4, "applied")] {
        assert_eq!(consume(&mut driver, &Sent::in_order(sequence), &["1", "3"]).await, expected);
    }
    assert_eq!(lanes(&mut driver).await.iter().map(|lane| lane.waiting).collect::<Vec<_>>(), [0, 0]);
    replay_all(&mut driver).await;
    assert_eq!(site.effects(), ["2", "4", "1", "3"]);
}

/// A key beyond any index entry, a reason with NUL, no value, headers that are no text: none may stop the partition.
async fn a_poison_event_can_be_as_ugly_as_it_likes<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    // Random bytes do not compress, so the key itself would never fit an index entry.
    let mut dice = 1_u32;
    let key: Vec<u8> = std::iter::repeat_with(|| {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (dice >> 24) as u8
    })
    .take(100_000)
    .collect();
    let name = "h\0\u{e9}";
    let headers: &[(&str, Option<&[u8]>)] = &[(name, None), ("", Some(b"")), (name, Some(&[0, 255]))];
    let sent = [Sent::in_order(1), Sent::in_order(2)];
    let [first, second] =
        [&sent[0], &sent[1]].map(|sent| Record { key: Some(&key), value: None, headers, ..sent.record() });
    let mut tx = driver.begin().await;
    let reason = format!("byte \0 in {}", "\u{e9}".repeat(5_000));
    assert!(inbox().park(&mut tx, &first, &reason).await.expect("parked"));
    assert_eq!(inbox().admit(&mut tx, &second).await.expect("in order"), Parked);
    assert!(D::commit(tx).await);
    let id = lanes(&mut driver).await.remove(0).first;
    let mut tx = driver.begin().await;
    let parked = inbox().replay(&mut tx, &id).await.expect("a replay").expect("the first");
    assert_eq!(
        (parked.key.as_deref(), parked.value.as_deref(), parked.offset),
        (Some(&key[..]), None, Some(101))
    );
    let read: Vec<(&[u8], Option<&[u8]>)> =
        parked.headers.iter().map(|(name, value)| (&name[..], value.as_deref())).collect();
    let written: Vec<(&[u8], Option<&[u8]>)> =
        headers.iter().map(|(name, value)| (name.as_bytes(), *value)).collect();
    assert_eq!(read, written);
    assert!(parked.reason.expect("a reason").starts_with("byte \u{fffd} in \u{e9}"));
}

async fn a_failed_replay_goes_behind_the_others<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    for (sequence, key) in [(1, "a"), (2, "b")] {
        assert_eq!(consume(&mut driver, &Sent::in_order(sequence).key(key), &["1", "2"]).await, "parked");
    }
    let first = lanes(&mut driver).await.remove(0).first;
    assert_eq!(first.mark.sequence().0, 1);
    let mut tx = driver.begin().await;
    assert!(inbox().replay_failed(&mut tx, &first, "still none").await.expect("noted"));
    assert!(D::commit(tx).await);
    let order: Vec<_> = lanes(&mut driver)
        .await
        .into_iter()
        .map(|lane| (lane.first.mark.sequence().0, lane.attempts))
        .collect();
    assert_eq!(order, [(2, 1), (1, 2)]);
    replay_all(&mut driver).await;
    assert_eq!(site.effects(), ["2", "1"]);
    let mut tx = driver.begin().await;
    assert!(!inbox().replay_failed(&mut tx, &first, "gone").await.expect("nothing"));
}

async fn a_discarded_event_is_audited_and_the_next_goes_on<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    for (sequence, expected) in [(1, "parked"), (2, "waits")] {
        assert_eq!(consume(&mut driver, &Sent::in_order(sequence).key("a"), &["1"]).await, expected);
    }
    let first = lanes(&mut driver).await.remove(0).first;
    let mut tx = driver.begin().await;
    assert!(inbox().discard(&mut tx, &first, "order was cancelled").await.expect("discarded"));
    assert!(!inbox().discard(&mut tx, &first, "twice").await.expect("gone"));
    assert!(D::commit(tx).await);
    let next = lanes(&mut driver).await.remove(0);
    assert_eq!((next.first.mark.sequence().0, next.attempts, next.reason), (2, 0, None));
    assert!(replay(&mut driver).await);
    assert_eq!(site.effects(), ["2"]);
    let audit = "SELECT concat_ws('|', consumer, source, topic, partition, sequence, kafka_offset, parked_for, reason, \
        discarded_by = session_user) FROM pillarbox.consumer_discards";
    assert_eq!(site.one(audit), "billing|orders|t|0|1|101|no such account|order was cancelled|t");
}

async fn an_event_that_comes_during_the_last_replay_parks_behind<D: Driver>() {
    let site = Site::new(newest());
    let (mut driver, mut other) = (D::connect(&site.url()).await, D::connect(&site.url()).await);
    assert_eq!(consume(&mut driver, &Sent::in_order(1).key("a"), &["1"]).await, "parked");
    let first = lanes(&mut driver).await.remove(0).first;
    let mut tx = driver.begin().await;
    assert!(inbox().replay(&mut tx, &first).await.expect("a replay").is_some());
    assert!(D::effect(&mut tx, "1").await);
    // The partition does not wait for the replay.
    assert_eq!(consume(&mut other, &Sent::in_order(2).key("a"), &[]).await, "waits");
    // Nor can the next one be taken before it has ended.
    let mut early = other.begin().await;
    let next = inbox().lanes(&mut early, 1).await.expect("lanes").remove(0).first;
    assert_eq!(next.mark.sequence().0, 1);
    D::rollback(early).await;
    assert!(D::commit(tx).await);
    assert!(replay(&mut driver).await);
    assert_eq!(site.effects(), ["1", "2"]);
}

async fn two_who_replay_one_event<D: Driver>() {
    let site = Site::new(newest());
    let (mut driver, mut other) = (D::connect(&site.url()).await, D::connect(&site.url()).await);
    for (sequence, expected) in [(1, "parked"), (2, "waits")] {
        assert_eq!(consume(&mut driver, &Sent::in_order(sequence).key("a"), &["1"]).await, expected);
    }
    let first = lanes(&mut driver).await.remove(0).first;
    let mut second = first.clone();
    second.mark =
        pillarbox_consumer::Header::parse(Some(Sent::in_order(2).pb_pos.as_bytes())).expect("one").mark();
    let mut tx = driver.begin().await;
    assert!(inbox().replay(&mut tx, &first).await.expect("a replay").is_some());
    let mut rival = other.begin().await;
    // The second of the key is not the first before the transaction that takes the first has committed.
    assert!(inbox().replay(&mut rival, &second).await.expect("no error").is_none());
    let late = async {
        let found = inbox().replay(&mut rival, &first).await.expect("no error").is_some();
        let next = inbox().replay(&mut rival, &second).await.expect("no error").is_some();
        (found, next)
    };
    let (found, committed) = tokio::join!(late, async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while site.one(waiting) == "0" {
            tokio::task::yield_now().await;
        }
        D::commit(tx).await
    });
    assert_eq!((found, committed), ((false, true), true));
}

async fn a_batch_parks_what_waits<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    assert_eq!(consume(&mut driver, &Sent::in_order(1).key("a"), &["1"]).await, "parked");
    let sent = [
        Sent::in_order(1).key("a"),
        Sent::in_order(2).key("b"),
        Sent::in_order(3).key("a"),
        Sent::in_order(4),
        Sent::in_order(1).key("a").partition(1),
        Sent::in_order(5).key("a"),
    ];
    let records: Vec<Record<'_>> = sent.iter().map(Sent::record).collect();
    let mut tx = driver.begin().await;
    let admissions = inbox().admit_batch(&mut tx, &records).await.expect("in order");
    assert_eq!(admissions, [Duplicate, Apply, Parked, Apply, Apply, Parked]);
    assert!(D::commit(tx).await);
    assert_eq!(site.parked(), "1,3,5");
}

async fn what_is_parked_of_others_does_not_matter<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    assert_eq!(consume(&mut driver, &Sent::in_order(1).key("a"), &["1"]).await, "parked");
    let shop =
        Sent { pb_pos: Sent::in_order(1).pb_pos.replace("orders", "shop"), ..Sent::in_order(1).key("a") };
    let elsewhere = Sent::in_order(1).key("a").partition(1);
    for sent in [&shop, &elsewhere] {
        assert_eq!(consume(&mut driver, sent, &[]).await, "applied", "{sent:?}");
    }
    let mut tx = driver.begin().await;
    let shipping = Inbox::new("shipping");
    assert_eq!(shipping.admit(&mut tx, &Sent::in_order(1).key("a").record()).await.expect("new"), Apply);
    assert_eq!(shipping.lanes(&mut tx, 9).await.expect("none"), []);
}

/// A role with the grants that the README names, and no others.
async fn the_grants_of_the_migrations_are_enough<D: Driver>() {
    let site = Site::new(newest());
    let readme = include_str!("../../README.md");
    let grants =
        readme.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the grants");
    let role = format!("{}_role", site.database);
    site.run(&format!("CREATE ROLE {role}; {}", grants.replace("the_consumer", &role)));
    site.run(&format!(
        "GRANT INSERT ON effects TO {role}; ALTER DATABASE {} SET role = {role}",
        site.database
    ));
    let mut driver = D::connect(&site.url()).await;
    for (sequence, key, expected) in
        [(1, "a", "parked"), (2, "a", "waits"), (3, "b", "parked"), (4, "c", "applied")]
    {
        assert_eq!(consume(&mut driver, &Sent::in_order(sequence).key(key), &["1", "3"]).await, expected);
    }
    assert!(replay(&mut driver).await);
    let lanes = lanes(&mut driver).await;
    let mut tx = driver.begin().await;
    assert!(inbox().replay_failed(&mut tx, &lanes[0].first, "still none").await.expect("allowed"));
    assert!(inbox().discard(&mut tx, &lanes[1].first, "given up").await.expect("allowed"));
    let resumes = inbox().resume_offsets(&mut tx, "t", &[0]).await.expect("allowed");
    assert_eq!(resumes.len(), 1);
    assert!(!D::run(&mut tx, "DELETE FROM pillarbox.consumer_positions", None).await, "no more than that");
}
