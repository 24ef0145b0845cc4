//! Logical messages in the stream: which are events, where they stand among rows, which are only counted.

use super::*;
use crate::config::Messages;

/// A message as `pillarbox.emit()` writes it.
fn emitted(payload: &str) -> Vec<u8> {
    let headers = b"\x00\x02t\x00\x00\x00\x05tracet\x00\x00\x00\x01x";
    let mut content = vec![0, 0, 0, 6];
    for (kind, value) in [
        (2950_u32, &[0x11; 16][..]),
        (25, b"order"),
        (25, b"key"),
        (25, b"made"),
        (17, headers),
        (25, payload.as_bytes()),
    ] {
        content.extend(kind.to_be_bytes());
        content.extend((value.len() as u32).to_be_bytes());
        content.extend(value);
    }
    content
}

fn with_messages(table: &Table) -> Intake {
    let config = Config { messages: Some(Messages::new("outbox")), ..config(Transaction::default()) };
    Intake::new(&config, Epoch(1), table, vec![topic(1)], T0)
}

/// The headers `pb-pos` and `trace` in the one batch of a set, by a look at its bytes.
fn texts(set: &SealedSet) -> String {
    let [batch] = &set.batches[..] else { panic!("one partition") };
    String::from_utf8_lossy(&batch.bytes).into_owned()
}

#[test]
fn messages_and_rows_share_one_order() {
    let mut intake = with_messages(&first());
    let frames = [
        outbox(),
        begin(100),
        message(true, "outbox", &emitted("zero")),
        row("e1", Some("one")),
        message(true, "other", b"nothing of ours, and counted"),
        message(true, "outbox", br#"{"id": "e3", "aggregatetype": "order", "aggregateid": "key"}"#),
        row("e4", Some("four")),
        commit(100, 108),
    ];
    feed(&mut intake, &frames);
    intake.pace(T0);
    let sealed = intake.take_sealed();
    assert_eq!((sealed[0].events, records(&sealed[0])), (4, 4));
    let text = texts(&sealed[0]);
    let mut from = 0;
    for (index, sequence, payload) in
        [(0, 1, "zero"), (1, 2, "one"), (3, 3, "{\"id\": \"e3\""), (4, 4, "four")]
    {
        let position = format!("orders:000000010000000000000064{index:08x}:{sequence}");
        let at = [payload, &position].map(|part| {
            let found = text[from..].find(part);
            from += found.unwrap_or_else(|| panic!("{part} is missing or misplaced"));
            from
        });
        assert!(at[0] < at[1]);
    }
    assert_eq!(text.matches("trace").count(), 1, "only what emit() was given");
}

#[test]
fn covered_messages_are_dropped_like_rows() {
    let mut table = first();
    let position = table.position.as_mut().unwrap();
    (position.commit_lsn, position.index, position.part) = (Lsn(100), Some(0), Some(1));
    let mut intake = with_messages(&table);
    let event = |payload| message(true, "outbox", &emitted(payload));
    feed(&mut intake, &[begin(100), event("published"), event("left"), commit(100, 108)]);
    intake.pace(T0);
    let sealed = intake.take_sealed();
    assert_eq!(sealed[0].events, 1);
    assert!(!texts(&sealed[0]).contains("published") && texts(&sealed[0]).contains("left"));
}

#[test]
fn without_the_option_messages_are_no_events() {
    let mut intake = intake(&first(), Transaction::default());
    feed(&mut intake, &[begin(100), message(true, "outbox", &emitted("{}")), commit(100, 108)]);
    feed(&mut intake, &[message(false, "outbox", b"stray")]);
    assert_eq!(intake.strays(), 0);
    intake.pace(T0);
    assert!(intake.take_sealed().is_empty());
}

#[test]
fn a_message_outside_of_a_transaction_is_counted_and_nothing_else() {
    let mut intake = with_messages(&first());
    let stray = |prefix| message(false, prefix, &emitted("{}"));
    feed(&mut intake, &[stray("outbox"), stray("other"), begin(100), stray("outbox"), commit(100, 108)]);
    intake.pace(T0);
    assert_eq!(intake.strays(), 2);
    assert!(intake.take_sealed().is_empty());
}

#[test]
fn a_message_that_cannot_be_an_event_names_its_place() {
    let mut intake = with_messages(&first());
    feed(&mut intake, &[begin(100), message(true, "outbox", &emitted("{}"))]);
    for (content, code) in [
        (&b"secret"[..], Code::BadMessage),
        (b"{\"aggregateid\": \"secret\"}", Code::MissingValue),
        (b"{\"aggregatetype\": \"a/secret\"}", Code::IllegalTopic),
        (&emitted("{}")[..40], Code::BadMessage),
    ] {
        let fault = intake.take(&message(true, "outbox", content), SENT, T0).unwrap_err();
        assert_eq!(fault.code, code, "{fault}");
        assert!(
            fault.to_string().contains("row 1 of the transaction at 0/64, a message with prefix outbox,")
        );
        assert!(!fault.to_string().contains("secret"), "{fault}");
    }
}
