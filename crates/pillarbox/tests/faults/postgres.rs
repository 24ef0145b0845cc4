//! A Postgres that accepts no writes, or keeps somebody's transaction open.

use std::fs;
use std::path::Path;
use std::process::Command;

use pillarbox_lab::{KafkaOptions, PostgresOptions, sql};
use tokio::runtime::Runtime;

use crate::harness::dice::Dice;
use crate::harness::site::{Configuration, Site};
use crate::harness::until::until;
use crate::world::{PATIENCE, load, settle, site, streaming};

fn ask(site: &Site, text: &str) -> String {
    site.postgres.query_one("postgres", text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// fault: 22 commits wait for a standby that is not there
/// holds: nothing lost; what is in WAL is relayed meanwhile; the relay's own mark waits for no standby; it ends and
/// starts as at any other time
/// told: nothing: whoever writes waits, the relay does not
#[test]
fn a_synchronous_standby_that_is_not_there_stops_writers_and_not_the_relay() {
    let site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, options) = load(&site, Dice::new().seed(), 100.0);
    relay.wait_count("events_total", 300, PATIENCE);
    site.postgres.set("synchronous_standby_names", "nobody").expect("set");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    until("all writers wait", PATIENCE, || (ask(&site, waiting) == "4").then_some(()));
    site.caught_up(&configuration, PATIENCE);
    for _ in 0..2 {
        let mark = "SELECT seq FROM pillarbox.lineage";
        let before = ask(&site, mark);
        until("the relay's own mark moves on", PATIENCE, || (ask(&site, mark) != before).then_some(()));
        assert_eq!(ask(&site, waiting), "4", "the relay waits, too");
        assert_eq!((relay.state().as_deref(), relay.count("starts_total")), (Some("streaming"), 1));
        assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
        relay.start_again();
        relay.wait_state("streaming", PATIENCE);
    }
    site.postgres.set("synchronous_standby_names", "").expect("reset");
    relay.wait_count("events_total", 300, PATIENCE);
    settle(&site, &configuration, load, &options);
}

/// fault: 23 the server is made read-only under load, and writable again
/// holds: nothing lost; everything written before is relayed
/// told: a warning with the server's words: the relay's own mark cannot be written
#[test]
fn a_read_only_server_is_streamed_from() {
    let site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    let read_only = |state: &str| site.postgres.set("default_transaction_read_only", state).expect("set");
    let insert = || {
        let text = "INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload) SELECT gen_random_uuid(), 'order', 'k' || i, 'made', '{}' FROM generate_series(1, 500) i";
        site.postgres.execute("postgres", text).expect("rows");
    };
    insert();
    read_only("on");
    site.caught_up(&configuration, PATIENCE);
    until("the relay says so", PATIENCE, || {
        assert!(relay.is_running(), "it ended");
        (relay.log_count("read-only") > 0).then_some(())
    });
    assert_eq!((relay.state().as_deref(), relay.count("starts_total")), (Some("streaming"), 1));
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
    relay.start_again();
    relay.wait_state("streaming", PATIENCE);
    read_only("off");
    insert();
    site.caught_up(&configuration, PATIENCE);
    assert_eq!(crate::probe::records(&site, "outbox.event.order", 4).len(), 1_000);
}

/// A small file system of its own; unmounted with the test.
struct Disk(tempfile::TempDir);

impl Disk {
    /// None where we may not mount.
    fn new(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=755"), "tmpfs"]).arg(folder.path());
        mount.output().is_ok_and(|output| output.status.success()).then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The folder below it is removed afterwards.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

/// fault: 23 the disk of the server is full, so that it goes down and cannot start
/// holds: nothing lost; the relay waits, and goes on when there is room
/// told: PB-1001 or PB-1020; `/readyz` 503
#[test]
fn a_server_whose_disk_is_full_is_waited_for() {
    let Some(disk) = Disk::new("320m") else {
        assert!(std::env::var_os("PILLARBOX_ALL_STORES").is_none(), "a file system cannot be mounted");
        println!("not tested: a file system cannot be mounted");
        return;
    };
    let options = PostgresOptions { data_dir: Some(disk.path().join("data")), ..PostgresOptions::default() };
    let options = options.setting("max_wal_size", "64MB").setting("min_wal_size", "32MB");
    let mut site = Site::start(options, KafkaOptions::default());
    let (configuration, mut relay) = streaming(&site, &[]);
    let rows = || {
        sql::run(
            &site.url(),
            "INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload) SELECT gen_random_uuid(), \
             'order', 'k' || i, 'made', to_jsonb(repeat('x', 200)) FROM generate_series(1, 2000) i",
        )
    };
    rows().expect("rows");
    relay.wait_count("events_total", 2_000, PATIENCE);
    let filler = disk.path().join("filler");
    // Until there is no room, whatever the size.
    let _ = fs::File::create(&filler).and_then(|mut file| std::io::copy(&mut std::io::repeat(1), &mut file));
    let mut written = 1;
    until("Postgres finds no room", PATIENCE, || match rows() {
        Ok(_) => {
            written += 1;
            None
        }
        Err(_) => Some(()),
    });
    until("it is told", PATIENCE, || relay.get("/readyz").filter(|(code, _)| *code == 503));
    println!("{written} transactions fit");
    site.postgres.kill9().expect("what is left of it is ended");
    fs::remove_file(&filler).expect("room again");
    site.postgres.start_again().expect("Postgres recovers");
    relay.wait_state("streaming", PATIENCE);
    site.caught_up(&configuration, PATIENCE);
    let rows: usize = ask(&site, "SELECT count(*) FROM public.outbox").parse().expect("a number");
    assert_eq!(crate::probe::records(&site, "outbox.event.order", 4).len(), rows);
}

/// A session with an open transaction that has written; its end is that of what is given back.
fn idle_in_transaction(site: &Site) -> Runtime {
    let runtime = Runtime::new().expect("a runtime");
    let url = format!("{}?application_name=forgetful", site.url());
    runtime.block_on(async {
        let (client, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("a session");
        tokio::spawn(connection);
        client.batch_execute("BEGIN; INSERT INTO other VALUES (2)").await.expect("a row");
        // It lives as long as the runtime.
        tokio::spawn(async move {
            let _client = client;
            std::future::pending::<()>().await;
        });
    });
    runtime
}

/// fault: 24 a session that is idle in a transaction, and a prepared transaction, each with rows in other tables
/// holds: nothing lost; events of others go on, WAL is kept
/// told: `status` names the oldest one, since when it is open, and the statement that ends it
#[test]
fn a_transaction_that_stays_open_is_named() {
    let options = PostgresOptions::default().setting("max_prepared_transactions", "2");
    let site = Site::start(options, KafkaOptions::default());
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, options) = load(&site, Dice::new().seed(), 100.0);
    site.postgres.execute("postgres", "CREATE TABLE other (n int)").expect("a table");
    let named = |at: &Configuration, words: &[&str]| {
        let what = format!("status names {words:?}");
        let (_, took) = until(&what, PATIENCE, || {
            let answer = site.command(&["status"], at);
            words.iter().all(|word| answer.stdout.contains(word)).then(|| print!("{}", answer.stdout))
        });
        println!("named after {took:.1?}");
    };
    site.postgres
        .execute("postgres", "BEGIN; INSERT INTO other VALUES (1); PREPARE TRANSACTION 'forgotten'")
        .expect("prepared");
    named(&configuration, &["prepared transaction 'forgotten'", "ROLLBACK PREPARED 'forgotten'"]);
    site.postgres.execute("postgres", "COMMIT PREPARED 'forgotten'").expect("committed");
    let idle = idle_in_transaction(&site);
    let pid = ask(&site, "SELECT pid FROM pg_stat_activity WHERE application_name = 'forgetful'");
    named(
        &configuration,
        &[
            &format!("process {pid} (forgetful)"),
            "idle in transaction",
            &format!("pg_terminate_backend({pid})"),
        ],
    );
    let events = relay.count("events_total");
    relay.wait_count("events_total", events + 300, PATIENCE);
    drop(idle);
    settle(&site, &configuration, load, &options);
}
