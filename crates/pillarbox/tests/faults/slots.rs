//! The slot and its walsender: ended, invalidated, and the way back.

use std::collections::BTreeSet;

use pillarbox_lab::{KafkaOptions, PostgresOptions};

use crate::harness::dice::Dice;
use crate::harness::records::{Isolation, header, read};
use crate::harness::site::Site;
use crate::harness::until::until;
use crate::process::end_walsender;
use crate::world::{PATIENCE, load, settle, site, streaming};

/// How often the walsender is ended.
const ENDS: u64 = 10;
const TOPIC: &str = "outbox.event.order";

/// fault: 11 ended ten times under load, as an administrator does
/// holds: nothing lost; each time the same process streams again
/// told: PB-1020 with the server's words
#[test]
fn a_walsender_that_is_ended_is_replaced() {
    let site = site();
    let mut dice = Dice::new();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, options) = load(&site, dice.seed(), 300.0);
    for starts in 1..=ENDS {
        let more = relay.count("events_total") + 1 + dice.below(500);
        relay.wait_count("events_total", more, PATIENCE);
        end_walsender(&site);
        let took = relay.wait_count("starts_total", starts + 1, PATIENCE);
        println!("streams again after {took:.0?}");
    }
    settle(&site, &configuration, load, &options);
    assert!(relay.is_running());
    assert!(relay.log_count("PB-1020") >= usize::try_from(ENDS).expect("a few"), "{}", relay.log_tail());
}

fn ids(site: &Site) -> Vec<String> {
    let mut ids = Vec::new();
    read(&site.kafka.bootstrap(), TOPIC, Isolation::Committed, |message| {
        ids.push(header(message, "id").expect("an id"));
    });
    ids
}

/// fault: 14 idle_replication_slot_timeout passes while the relay is down, on Postgres 18
/// holds: it halts before it reads; by the repair its page tells, every row is there once
/// told: `check` warns of the setting beforehand; then PB-1014 with the reason and both ends of the gap
#[test]
fn a_slot_that_was_idle_for_too_long_halts_and_is_repaired_as_its_page_tells() {
    let site = Site::start(PostgresOptions::version(18), KafkaOptions::default());
    let sql = |text: &str| site.postgres.execute("postgres", text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let insert = |rows: u32| {
        sql(&format!(
            "INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload) SELECT gen_random_uuid(), \
             'order', 'k' || i, 'made', '{{}}' FROM generate_series(1, {rows}) i"
        ));
    };
    let (configuration, mut relay) = streaming(&site, &[]);
    insert(20);
    site.caught_up(&configuration, PATIENCE);
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
    sql("SELECT pg_drop_replication_slot('checker')");
    site.postgres.set("idle_replication_slot_timeout", "1s").expect("set");
    let checked = site.command(&["check"], &configuration);
    assert!(checked.stdout.contains("idle_replication_slot_timeout"), "{}", checked.stdout);
    insert(7);
    let lost = "SELECT invalidation_reason = 'idle_timeout' FROM pg_replication_slots \
                WHERE slot_name = 'pillarbox_orders' AND invalidation_reason IS NOT NULL";
    until("the slot is invalidated", PATIENCE, || {
        sql("CHECKPOINT");
        site.postgres.query_one("postgres", lost).ok().filter(|lost| lost == "t")
    });
    site.postgres.set("idle_replication_slot_timeout", "0").expect("set");
    for words in [&["run", "--exit-on-halt"][..], &["setup"]] {
        let answer = site.command(words, &configuration);
        assert_eq!(answer.code, Some(65), "{}", answer.stderr);
        assert!(answer.stderr.contains("error[PB-1014]"), "{}", answer.stderr);
        assert!(
            answer.stderr.contains("idle_timeout") && answer.stderr.contains("hint: "),
            "{}",
            answer.stderr
        );
    }

    sql("SELECT pg_drop_replication_slot('pillarbox_orders')");
    sql("SELECT pg_create_logical_replication_slot('pillarbox_orders', 'pgoutput')");
    let adopted = site.command(&["setup", "--adopt-slot"], &configuration);
    assert_eq!(adopted.code, Some(0), "{}{}", adopted.stdout, adopted.stderr);
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", PATIENCE);
    // What the topics lack is written once more.
    let there: BTreeSet<String> = ids(&site).into_iter().collect();
    assert_eq!(there.len(), 20);
    let there = there.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(", ");
    sql(&format!(
        "WITH gap AS (DELETE FROM public.outbox WHERE id NOT IN ({there}) RETURNING *) INSERT INTO public.outbox SELECT * FROM gap"
    ));
    insert(5);
    site.caught_up(&configuration, PATIENCE);
    let published = ids(&site);
    let once: BTreeSet<String> = published.iter().cloned().collect();
    let rows = site.postgres.query("postgres", "SELECT id FROM public.outbox").expect("rows");
    let rows: BTreeSet<String> = rows.into_iter().map(|row| row[0].clone().expect("an id")).collect();
    assert_eq!((published.len(), once), (32, rows));
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
}
