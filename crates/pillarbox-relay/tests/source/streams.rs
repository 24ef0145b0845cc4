//! What the stream says and what a confirmation does.

use std::time::{Duration, Instant};

use pillarbox_lab::postgres::ShutdownMode;
use pillarbox_relay::error::Code;
use pillarbox_relay::source::{Frame, SourceError, Wake};
use pillarbox_wire::lsn::Lsn;

use crate::site::{LONG, Seen, Site, VERSIONS, commit_end, fault, is_commit, read_until, tags, until};

#[test]
fn rows_stream_and_only_what_is_confirmed_is_not_sent_again() {
    for version in VERSIONS {
        let site = Site::start(version, &[]);
        site.publish_and_create_slot();
        let mut stream = site.stream();
        site.sql("BEGIN; INSERT INTO outbox VALUES (1, 'one'), (2, 'two'); COMMIT");
        site.sql("SELECT pg_logical_emit_message(true, 'pillarbox.lineage', 'x:1-y')");
        let first = read_until(&mut stream, is_commit).expect("a transaction");
        assert_eq!(tags(&first), "BRIIC", "on {version}");
        let second = read_until(&mut stream, is_commit).expect("a transaction");
        assert_eq!(tags(&second), "BMC", "on {version}");

        // A status that confirms nothing keeps the slot where it is.
        let before = site.slot().confirmed_flush_lsn;
        stream.link.send_status(Lsn::ZERO, true).expect("a status");
        read_until(&mut stream, |seen| matches!(seen, Seen::Keepalive(..))).expect("the reply");
        assert_eq!(site.slot().confirmed_flush_lsn, before);

        stream.link.send_status(commit_end(&first), true).expect("a status");
        until("the slot moves", || site.slot().confirmed_flush_lsn == Some(commit_end(&first)));
        stream.link.close();
        until("the slot is free", || !site.slot().active);
        let again = read_until(&mut site.stream(), is_commit).expect("a transaction");
        assert_eq!(tags(&again), "BMC", "the confirmed transaction does not come again on {version}");
    }
}

#[test]
fn the_last_status_before_a_close_counts() {
    let site = Site::start(18, &[]);
    site.publish_and_create_slot();
    let mut stream = site.stream();
    site.sql("INSERT INTO outbox VALUES (1, 'one')");
    site.sql("INSERT INTO outbox SELECT g, repeat('x', 1000) FROM generate_series(2, 20000) g");
    let first = read_until(&mut stream, is_commit).expect("a transaction");
    let end = commit_end(&first);
    // It looks for replies wherever it has to wait for a full socket, and all that it sends fits into none.
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'WalSenderWriteData'";
    until("the socket is full", || site.postgres.query_one("shop", waits).expect("an answer") == "1");
    stream.link.send_status(end, false).expect("a status");
    stream.link.close();
    until("the slot is free", || !site.slot().active);
    assert_eq!(site.slot().confirmed_flush_lsn, Some(end));
}

#[test]
fn a_publication_that_vanishes_is_never_silent() {
    for version in VERSIONS {
        let site = Site::start(version, &[]);
        site.publish_and_create_slot();
        let mut stream = site.stream();
        site.sql("DROP PUBLICATION p");
        site.sql("INSERT INTO outbox VALUES (1, 'one')");
        let outcome = read_until(&mut stream, |seen| matches!(seen, Seen::Notice(..)));
        if version < 18 {
            let error = outcome.expect_err("the stream ends");
            assert_eq!(fault(&error, &site.settings()).code, Code::PublicationMissing, "{error}");
        } else {
            let seen = outcome.expect("a notice");
            assert_eq!(seen.last(), Some(&Seen::Notice("55000".into(), "LoadPublications".into())));
        }
    }
}

#[test]
fn a_fast_shutdown_ends_the_stream_in_good_order() {
    for version in VERSIONS {
        let mut site = Site::start(version, &[]);
        site.publish_and_create_slot();
        let mut stream = site.stream();
        let wake = Wake::new().expect("an eventfd");
        let reader = std::thread::spawn(move || {
            // Nothing is outstanding: whatever the server has decoded may be confirmed.
            let deadline = Instant::now() + LONG;
            loop {
                while let Some(frame) = stream.frames.next()? {
                    match frame {
                        Frame::End => return Ok(()),
                        Frame::Keepalive { wal_end, .. } => stream.link.send_status(wal_end, false)?,
                        _ => {}
                    }
                }
                assert!(Instant::now() < deadline, "no end in time");
                stream.link.wait(&wake, true, Duration::from_secs(1)).expect("a wait");
                stream.link.read_into(&mut stream.frames)?;
            }
        });
        // LONG is half of wal_sender_timeout, after which a walsender gives up whoever does not answer.
        site.postgres.stop(ShutdownMode::Fast, LONG).expect("a shutdown");
        let ended: Result<(), SourceError> = reader.join().expect("the reader");
        ended.expect("the end of the stream");
    }
}

#[test]
fn a_crash_of_the_server_is_no_end_in_good_order() {
    let mut site = Site::start(18, &[]);
    site.publish_and_create_slot();
    let mut stream = site.stream();
    site.postgres.kill9().expect("killed");
    let error = read_until(&mut stream, |seen| *seen == Seen::End).expect_err("no end");
    assert_eq!(fault(&error, &site.settings()).code, Code::PgProtocol, "{error}");
}

#[test]
#[should_panic(expected = "must not stream")]
fn a_connection_that_has_run_sql_does_not_stream() {
    let site = Site::start(18, &[]);
    site.create_slot();
    let mut connection = site.connect();
    connection.query("SELECT 1", LONG).expect("an answer");
    let _ = connection.start_replication("s", "p");
}
