//! Rows go in batches when they were relayed, never before; nobody waits for it.

use std::fs;
use std::time::Duration;

use pillarbox_relay::config::{Batches, Housekeeping};

use crate::harness::site::Site;
use crate::harness::until::until;
use crate::world::*;

const OUTBOX: &str = "{ table: public.outbox, housekeeping: { mode: delete, batch: 1000, pause: 20ms } }";

const COUNT: &str = "SELECT count(*) FROM outbox";

fn insert(from: u32, to: u32) -> String {
    format!(
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) \
         SELECT gen_random_uuid(), 'order', 'k', 'made', to_jsonb(n) FROM generate_series({from}, {to}) n"
    )
}

#[test]
fn relayed_rows_are_deleted_on_postgres_15() {
    relayed_rows_are_deleted(15);
}

#[test]
fn relayed_rows_are_deleted_on_postgres_18() {
    relayed_rows_are_deleted(18);
}

fn relayed_rows_are_deleted(version: u32) {
    let site = site(version);
    let configuration = site.configure_outbox("rows", 1, &[], OUTBOX);
    site.setup(&configuration);
    let mut relay = streaming(&site, &configuration);
    execute(&site, &insert(1, 2500));
    answers(&site, COUNT, "0");

    // Whatever its time or place: what is not committed is not gone.
    let open = Session::open(&site);
    open.run(&format!("BEGIN; {}", insert(3001, 3001))).expect("inserts");
    execute(&site, &insert(4001, 4100));
    site.caught_up(&configuration, PATIENCE);
    // A round is every 5 s: one that did wrong has had its turn.
    std::thread::sleep(Duration::from_secs(6));
    open.run("COMMIT").expect("commits");
    answers(&site, COUNT, "0");

    // A row that somebody has locked is left for later, and nobody waits.
    // At once, before a round comes.
    let lock = "BEGIN; SELECT FROM outbox WHERE payload::text = '5001' FOR UPDATE";
    open.run(&format!("BEGIN; {}; COMMIT; {lock}", insert(5001, 5002))).expect("locks");
    answers(&site, COUNT, "1");
    open.run("COMMIT").expect("commits");
    answers(&site, COUNT, "0");
    until("it counts them", PATIENCE, || (kept(&relay)["deleted_total"] == 2603).then_some(()));

    what_was_not_relayed_stays(&site, &configuration);
    answers(&site, COUNT, "0");
    site.caught_up(&configuration, PATIENCE);
    assert_eq!(each_once(&values(&site, "outbox.event.order")), 2623, "on {version}");
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
    a_role_that_may_not_says_so(&site, &configuration);
}

/// The rule alone, without the job that a pause stops.
fn what_was_not_relayed_stays(site: &Site, configuration: &crate::harness::site::Configuration) {
    assert_eq!(site.command(&["pause"], configuration).code, Some(0));
    execute(site, &insert(6001, 6020));
    let mut alone = Alone::new(site, "rows", "outbox", Housekeeping::Delete(Batches::default()));
    for _ in 0..30 {
        alone.round();
    }
    assert_eq!(one(site, COUNT), "20");
    assert_eq!(site.command(&["resume"], configuration).code, Some(0));
}

/// The stream goes on; the fault says what to grant, and that is enough.
fn a_role_that_may_not_says_so(site: &Site, configuration: &crate::harness::site::Configuration) {
    execute(site, "CREATE ROLE poor LOGIN REPLICATION; GRANT pg_read_all_stats TO poor");
    execute(site, "GRANT USAGE ON SCHEMA pillarbox TO poor; GRANT SELECT ON pillarbox.migrations TO poor");
    execute(site, "GRANT SELECT, INSERT, UPDATE ON pillarbox.lineage TO poor");
    let text = fs::read_to_string(&configuration.file).expect("the file");
    fs::write(&configuration.file, text.replace("postgres://postgres@", "postgres://poor@"))
        .expect("the file");
    let mut relay = streaming(site, configuration);
    execute(site, &insert(7001, 7010));
    let (hint, _) = until("refused", PATIENCE, || {
        let fault = kept(&relay)["fault"].clone();
        (fault["code"] == "PB-1009").then(|| fault["hint"].as_str().map(str::to_owned))?
    });
    site.caught_up(configuration, PATIENCE);
    let check = site.command(&["check"], configuration);
    assert!(check.stdout.contains("housekeeping of public.outbox"), "{}{}", check.stdout, check.stderr);
    assert_eq!(site.command(&["housekeeping"], configuration).code, Some(1));
    assert_eq!(one(site, COUNT), "10");
    execute(site, &hint);
    answers(site, COUNT, "0");
    until("well again", PATIENCE, || kept(&relay)["fault"].is_null().then_some(()));
    assert_eq!(relay.state().as_deref(), Some("streaming"));
    assert_eq!(site.command(&["housekeeping"], configuration).code, Some(0));
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
}
