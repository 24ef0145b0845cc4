//! Each row of the rule, and what is left in the table.

use pillarbox_consumer::inbox::{Error, Event, Inbox, Resume};
use pillarbox_consumer::{Decision, FirstContact, Gap, OnGap, Rules, Sequence};

use crate::site::{Driver, PARKED, Sent, Site, newest, oldest};
use crate::with_both_drivers;

with_both_drivers!(
    every_row,
    first_contact,
    a_warning_goes_on,
    a_header_that_is_no_header,
    a_row_that_is_no_row,
    offsets_to_read_on,
    consumers_sources_topics_and_partitions_are_apart,
);

const ROW: &str = "SELECT coalesce(string_agg(concat_ws(' ', source, position, sequence, kafka_offset), ','), '') \
    FROM pillarbox.consumer_positions";

/// `apply`, `warn`, `duplicate` or the code.
pub(crate) async fn accept<D: Driver>(driver: &mut D, inbox: &Inbox, sent: &Sent) -> &'static str {
    let mut tx = driver.begin().await;
    let answer = match inbox.accept(&mut tx, sent.event()).await {
        Ok(Decision::Apply) => "apply",
        Ok(Decision::ApplyDespiteGap(_)) => "warn",
        Ok(Decision::Duplicate) => "duplicate",
        Err(error) => error.code().unwrap_or_else(|| panic!("{error:?}")),
    };
    match answer {
        "apply" | "warn" | "duplicate" => assert!(D::commit(tx).await),
        _ => D::rollback(tx).await,
    }
    answer
}

async fn every_row<D: Driver>() {
    for postgres in [oldest(), newest()] {
        for (epoch, lsn, sequence, expected) in [
            (2, 60, 11, "apply"),
            (3, 1, 11, "apply"),
            (2, 50, 10, "duplicate"),
            (2, 40, 9, "duplicate"),
            (1, 90, 9, "duplicate"),
            (2, 60, 12, "PB001"),
            (3, 1, 20, "PB001"),
            (2, 60, 10, "PB002"),
            (3, 1, 1, "PB002"),
            (1, 90, 11, "PB002"),
            (2, 50, 11, "PB002"),
        ] {
            let site = Site::new(postgres);
            let mut driver = D::connect(&site.url()).await;
            let inbox = Inbox::new("billing");
            assert_eq!(accept(&mut driver, &inbox, &Sent::new(2, 50, 10)).await, "apply");
            let before = site.one(ROW);
            let given = Sent::new(epoch, lsn, sequence);
            assert_eq!(accept(&mut driver, &inbox, &given).await, expected, "{given:?}");
            let now = format!("orders {epoch:08x}{lsn:016x}00000000 {sequence} {}", 100 + sequence);
            assert_eq!(site.one(ROW), if expected == "apply" { now } else { before }, "{given:?}");
        }
    }
}

async fn first_contact<D: Driver>() {
    for (sequence, first_contact, expected) in [
        (1, FirstContact::Any, "apply"),
        (7, FirstContact::Any, "apply"),
        (1, FirstContact::One, "apply"),
        (7, FirstContact::One, "PB001"),
    ] {
        let site = Site::new(newest());
        let mut driver = D::connect(&site.url()).await;
        let inbox = Inbox::new("billing").with_rules(Rules { first_contact, on_gap: OnGap::Refuse });
        assert_eq!(accept(&mut driver, &inbox, &Sent::in_order(sequence)).await, expected);
        assert_eq!(site.one(ROW).is_empty(), expected != "apply");
    }
}

async fn a_warning_goes_on<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    let inbox = Inbox::new("billing").with_rules(Rules { on_gap: OnGap::Warn, ..Rules::default() });
    let mut tx = driver.begin().await;
    let sent: Vec<Sent> = [1, 2, 5, 5, 9].into_iter().map(Sent::in_order).collect();
    let events: Vec<Event<'_>> = sent.iter().map(Sent::event).collect();
    let decisions = inbox.accept_batch(&mut tx, &events).await.expect("warnings are no errors");
    let gap = |first, last| Decision::ApplyDespiteGap(Gap { first: Sequence(first), last: Sequence(last) });
    assert_eq!(decisions, [Decision::Apply, Decision::Apply, gap(3, 4), Decision::Duplicate, gap(6, 8)]);
    let event = Sent::in_order(12);
    assert_eq!(inbox.accept(&mut tx, event.event()).await.expect("a warning"), gap(10, 11));
    assert!(D::commit(tx).await);
    assert!(site.one(ROW).ends_with(" 12 112"));
}

async fn a_header_that_is_no_header<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    let good = Sent::in_order(1);
    for pb_pos in [None, Some(b"secret".as_slice()), Some(b"\xff".as_slice())] {
        let bad = Event { topic: "t", partition: 3, pb_pos, offset: None };
        let inbox = Inbox::new("billing");
        let mut tx = driver.begin().await;
        let error = inbox.accept_batch(&mut tx, &[good.event(), bad]).await.expect_err("no header");
        assert_eq!(error.code(), Some("PB003"));
        let text = format!("{error} {error:?} {bad:?}");
        assert!(text.contains("t-3") && !text.contains("secret"), "{text}");
        D::rollback(tx).await;
    }
    assert_eq!(site.one(ROW), "");
}

async fn a_row_that_is_no_row<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    site.run(
        "INSERT INTO pillarbox.consumer_positions (consumer, source, topic, partition, position, sequence) \
         VALUES ('billing', 'orders', 't', 0, 'nowhere', -5)",
    );
    let mut tx = driver.begin().await;
    let error = Inbox::new("billing").accept(&mut tx, Sent::in_order(1).event()).await;
    assert!(matches!(error, Err(Error::Row { .. })), "{error:?}");
}

async fn offsets_to_read_on<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    let inbox = Inbox::new("billing");
    let mut tx = driver.begin().await;
    let other = Sent { pb_pos: Sent::in_order(40).pb_pos.replace("orders", "shop"), ..Sent::in_order(40) };
    let (first, silent) = (Sent::in_order(1), Sent::in_order(1).partition(2));
    let events = [first.event(), other.event(), Event { offset: None, ..silent.event() }];
    let _ = inbox.accept_batch(&mut tx, &events).await.expect("first contacts");
    let resumes = inbox.resume_offsets(&mut tx, "t", &[2, 1, 0]).await.expect("offsets");
    assert_eq!(resumes, [Resume { partition: 0, offset: Some(141) }, Resume { partition: 2, offset: None }]);
    assert_eq!(inbox.resume_offsets(&mut tx, "other", &[0]).await.expect("none"), []);
}

async fn consumers_sources_topics_and_partitions_are_apart<D: Driver>() {
    let site = Site::new(newest());
    let mut driver = D::connect(&site.url()).await;
    let mut tx = driver.begin().await;
    let base = Sent::in_order(9);
    let shop = base.pb_pos.replace("orders", "shop");
    let events = [
        base.event(),
        Event { pb_pos: Some(shop.as_bytes()), ..base.event() },
        Event { topic: "u", ..base.event() },
        Event { partition: 1, ..base.event() },
    ];
    for consumer in ["billing", "shipping"] {
        for (event, index) in events.iter().zip(0..) {
            let decision = Inbox::new(consumer).accept(&mut tx, *event).await.expect("a first contact");
            assert_eq!(decision, Decision::Apply, "{consumer} {index}");
        }
    }
    let again = Inbox::new("billing").accept_batch(&mut tx, &events).await.expect("all known");
    assert_eq!(again, [Decision::Duplicate; 4]);
}

#[test]
fn what_the_migrations_bring_they_take_away() {
    let site = Site::new(newest());
    let objects = "SELECT count(*) FROM pg_class WHERE relnamespace = 'pillarbox'::regnamespace AND relname LIKE 'consumer%'";
    let all = site.one(objects);
    let versions =
        "SELECT string_agg(version::text, ',' ORDER BY version) FROM pillarbox.consumer_migrations";
    assert_eq!(site.one(versions), "1,2");
    site.run(include_str!("../../../../sql/consumer/0002_parked.down.sql"));
    assert_eq!(site.one(versions), "1");
    site.run(PARKED);
    assert_eq!((site.one(objects), site.one(versions).as_str()), (all, "1,2"));
    site.run(include_str!("../../../../sql/consumer/0002_parked.down.sql"));
    site.run(include_str!("../../../../sql/consumer/0001_consumer.down.sql"));
    assert_eq!(site.one("SELECT count(*) FROM pg_namespace WHERE nspname = 'pillarbox'"), "0");
}
