//! Transactions that are large, nested or empty.

use std::time::Instant;

use pillarbox_lab::sql;

use crate::arrived::count;
use crate::figures::size;
use crate::world::{PATIENCE, World, arrival_max};

const PARTITIONS: u32 = 4;
/// What the relay may hold resident while a transaction of any size passes; its code alone is larger in a debug build.
const RSS_MAX_KIB: u64 = if cfg!(debug_assertions) { 80 << 10 } else { 64 << 10 };
/// Bytes of a payload in the large transaction; TOAST compresses it in WAL, the stream carries all of it.
const PAYLOAD_BYTES: u64 = 8_000;

fn topics() -> Vec<String> {
    vec!["outbox.event.limits".to_owned()]
}

/// Rows first..=last as one statement.
fn insert(first: u64, last: u64, payload: &str) -> String {
    format!(
        "INSERT INTO public.limits SELECT lpad(to_hex(n), 32, '0')::uuid, 'limits', 'k' || n % 997, 'made', {payload} \
         FROM generate_series({first}, {last}) n"
    )
}

/// fault: 25 one transaction of 10 GB
/// holds: the relay stays below 64 MiB, answers Postgres throughout, publishes each event once, in parts
/// told: nothing; `pb-part` on the parts after the first
#[test]
fn one_of_ten_gigabytes_passes_in_64_mib() {
    let rows = size(25_000, 1_350_000);
    // In full, Kafka keeps it compressed, or the disk would have to hold it twice.
    let world = World::start(PARTITIONS, size(&[][..], &["compression: zstd"][..]));
    let before = world.wal_bytes();
    world.execute(&insert(1, rows, &format!("repeat(md5(n::text), {})", PAYLOAD_BYTES / 32)));
    let wal = (world.wal_bytes() - before) >> 20;
    let took = world.site.caught_up(&world.at, arrival_max());
    assert_eq!(world.relay.count("starts_total"), 1, "the stream was cut");
    let what = format!("one transaction of {rows} rows, {:.1} GB", (rows * PAYLOAD_BYTES) as f64 / 1e9);
    let (mut figures, site) = world.figures("transaction", what, rows, took);
    count(&site, &topics(), rows);
    figures.note = format!("{wal} MiB of WAL, as TOAST compresses the payloads");
    figures.tell();
    assert!(figures.rss_kib < RSS_MAX_KIB, "{} KiB", figures.rss_kib);
}

/// fault: 25 one transaction of 100,000 subtransactions
/// holds: what was kept arrives once and in order, what was rolled back to a savepoint does not
/// told: nothing
#[test]
fn subtransactions_that_were_kept_arrive() {
    let kept = size(20_000_u64, 100_000);
    let world = World::start(PARTITIONS, &[]);
    // Each round has a subtransaction that is kept and, in every second, one that is not.
    world.execute(&format!(
        "DO $$ BEGIN FOR n IN 1..{kept} LOOP \
           BEGIN {kept_row}; EXCEPTION WHEN raise_exception THEN NULL; END; \
           IF n % 2 = 0 THEN BEGIN {lost_row}; RAISE EXCEPTION 'back'; EXCEPTION WHEN raise_exception THEN NULL; END; \
           END IF; END LOOP; END $$",
        kept_row = row("n"),
        lost_row = row("n + 100000000"),
    ));
    let took = world.site.caught_up(&world.at, arrival_max());
    assert_eq!(world.relay.count("starts_total"), 1, "the stream was cut");
    let what = format!("one transaction of {} subtransactions, {} rolled back", kept + kept / 2, kept / 2);
    let (figures, site) = world.figures("subtransactions", what, kept, took);
    count(&site, &topics(), kept);
    figures.tell();
    assert!(figures.rss_kib < RSS_MAX_KIB, "{} KiB", figures.rss_kib);
}

fn row(number: &str) -> String {
    format!(
        "INSERT INTO public.limits VALUES (lpad(to_hex({number}), 32, '0')::uuid, 'limits', 'k' || n % 997, 'made', '')"
    )
}

/// fault: 25 a million transactions without an event
/// holds: the slot advances past them, and Kafka gets a checkpoint now and then, not one for each
/// told: nothing
#[test]
fn transactions_without_events_advance_the_slot_and_leave_kafka_alone() {
    let transactions = size(100_000, 1_000_000);
    let world = World::start(PARTITIONS, &[]);
    world.execute("CREATE TABLE public.other (n bigint)");
    world.execute(&insert(1, 1, "''"));
    world.site.caught_up(&world.at, PATIENCE);
    let (before, wal_before, begun) = (world.relay.count("commits_total"), world.wal_bytes(), Instant::now());
    // Half of them changes elsewhere, which Postgres keeps for itself; half messages of others, which it sends.
    world.execute(&format!(
        "CREATE PROCEDURE public.fill() LANGUAGE plpgsql AS $$ BEGIN FOR n IN 1..{transactions} LOOP \
           IF n % 2 = 0 THEN INSERT INTO public.other VALUES (n); \
           ELSE PERFORM pg_logical_emit_message(true, 'somebody else', ''); END IF; COMMIT; END LOOP; END $$"
    ));
    let url = format!("{}?options=-c%20synchronous_commit%3Doff", world.site.url());
    sql::run(&url, "CALL public.fill()").expect("the transactions commit");
    let wal_bytes = world.wal_bytes() - wal_before;
    let took = world.site.caught_up(&world.at, arrival_max());
    let commits = world.relay.count("commits_total") - before;
    // One for every 16 MiB of WAL, or for every nonce of the lineage and idle interval, each ten seconds.
    let allowed = 2 + (wal_bytes >> 24) + 3 * (begun.elapsed().as_secs() / 10 + 1);
    assert!(commits <= allowed, "{commits} commits to Kafka, {allowed} expected at most");
    assert_eq!(world.relay.count("starts_total"), 1, "the stream was cut");
    // Events still come through.
    world.execute(&insert(2, 2, "''"));
    world.site.caught_up(&world.at, PATIENCE);
    let what = format!("{transactions} transactions without an event, {} MiB of WAL", wal_bytes >> 20);
    let (mut figures, site) = world.figures("empty", what, 2, took);
    count(&site, &topics(), 2);
    figures.note = format!("{commits} commits to Kafka within {:.0?}", begun.elapsed());
    figures.tell();
    assert!(figures.rss_kib < RSS_MAX_KIB, "{} KiB", figures.rss_kib);
}
