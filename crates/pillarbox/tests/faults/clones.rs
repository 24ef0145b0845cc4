//! A copy of the database, started beside the original with a relay of the same pipeline.
//!
//! ```text
//! original --> relay ----------+
//!    | storage snapshot        v
//!    v                       Kafka
//!  copy   --> relay --X--------^    halts before it fences anybody
//! ```

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use pillarbox_lab::{Postgres, PostgresOptions};
use serde_json::Value;

use crate::harness::dice::Dice;
use crate::harness::site::{Configuration, Site};
use crate::harness::until::until;
use crate::probe;
use crate::world::{PARTITIONS, PATIENCE, load, settle, site, streaming};

/// The relay's own configuration, with another server and another HTTP port.
fn configure_copy(site: &Site, copy: &Postgres) -> Configuration {
    let configuration = site.configure("orders", PARTITIONS, &[]);
    let text = std::fs::read_to_string(&configuration.file).expect("the file");
    let text = text.replace(&site.url(), &copy.superuser_url("postgres"));
    std::fs::write(&configuration.file, text).expect("the file");
    configuration
}

/// Producer ids and epochs of a transactional id in use and one that is not, as Kafka's own tool prints them.
fn producers(site: &Site) -> String {
    [0, 7]
        .map(|n| {
            let mut tool = site.kafka.tool("org.apache.kafka.tools.TransactionsCommand");
            let output = tool
                .args(["describe", "--transactional-id", &format!("pillarbox.orders.{n}")])
                .output()
                .expect("java runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout).expect("text");
            let line = text.lines().last().expect("a line for the id").to_owned();
            // Coordinator, transactional id, producer id, producer epoch; then times, which pass.
            line.split('\t').take(4).map(str::trim).collect::<Vec<_>>().join(" ")
        })
        .join("\n")
}

/// Where a copy's data lies.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // The server's account must reach what is in it.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
        Self(folder)
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("copy")
    }

    fn start(&self) -> Postgres {
        let options = PostgresOptions { data_dir: Some(self.data()), ..PostgresOptions::default() };
        Postgres::start(options).expect("the copy starts")
    }
}

fn nonce(site: &Site) -> Value {
    probe::checkpoint(site, "orders")["position"]["lineage_nonce"].clone()
}

fn wait_for_another_nonce(site: &Site, former: &Value) {
    until("the lineage moves on", PATIENCE, || (nonce(site) != *former).then_some(()));
}

fn refused(site: &Site, copy: &Configuration, code: &str) {
    let answer = site.command(&["run", "--exit-on-halt"], copy);
    assert_eq!(answer.code, Some(65), "{}", answer.stderr);
    assert!(answer.stderr.contains(&format!("error[{code}]")), "{}", answer.stderr);
    assert!(answer.stderr.contains("hint: "), "{}", answer.stderr);
}

/// fault: 20 a copy with a relay of its own, behind and ahead of the original
/// holds: nothing lost; no transactional id changes hands
/// told: PB-3004 or PB-3005 at the copy; the original streams on
#[test]
fn a_clone_halts_without_fencing_the_relay_of_the_original() {
    let mut site = site();
    // None times out while the relay is stopped: that changes an epoch, too.
    let (configuration, mut relay) = streaming(&site, &["transaction: { timeout: 5m }"]);
    let (load, options) = load(&site, Dice::new().seed(), 100.0);
    wait_for_another_nonce(&site, &Value::Null);
    let folder = Folder::new();
    let before = nonce(&site);
    site.postgres.copy_data_dir_to(&folder.data()).expect("a storage snapshot");
    wait_for_another_nonce(&site, &before);
    let copy = folder.start();
    let of_copy = configure_copy(&site, &copy);

    refused(&site, &of_copy, "PB-3004");
    println!("the copy that is behind has halted");
    let events = relay.count("events_total");
    relay.wait_count("events_total", events + 100, PATIENCE);
    assert_eq!(relay.count("starts_total"), 1, "the relay of the original had to start again");

    let ahead = || {
        let resume = probe::checkpoint(&site, "orders")["position"]["resume_lsn"].clone();
        let sql = format!("SELECT pg_current_wal_flush_lsn() > '{}'", resume.as_str().expect("an LSN"));
        copy.query_one("postgres", &sql).expect("an answer") == "t"
    };
    let (code, text) = relay.post("/api/v1/pause").expect("an answer");
    assert_eq!(code, 200, "{text}");
    until("the copy's WAL is ahead", PATIENCE, || {
        copy.execute("postgres", "CREATE TABLE IF NOT EXISTS filler (x text)").expect("a statement");
        copy.execute("postgres", "INSERT INTO filler SELECT repeat('x', 500) FROM generate_series(1, 20000)")
            .expect("a statement");
        ahead().then_some(())
    });
    // Stopped where it stands, so that an epoch that changes is not of its own doing.
    relay.suspend();
    let epochs = producers(&site);
    refused(&site, &of_copy, "PB-3005");
    println!("the copy that is ahead has halted; {epochs}");
    assert_eq!(producers(&site), epochs, "the copy took a transactional id over");
    // Where that took long, it starts again by itself, and says so: it was suspended with something under way.
    let log = relay.log_bytes();
    relay.resume();
    until("it goes on", PATIENCE, || {
        let (code, _) = relay.post("/api/v1/resume").expect("an answer");
        (code == 200).then_some(())
    });
    let log = relay.log_from(log);
    let again = ["PB-1001", "PB-1020", "PB-2001", "PB-2015", "PB-3008"].iter().any(|code| log.contains(code));
    settle(&site, &configuration, load, &options);
    assert!(again || relay.count("starts_total") == 2, "one start, one resume");
    assert_eq!(relay.terminate(Duration::from_secs(25)).code(), Some(0));
}

/// fault: 20 a copy taken while the pipeline is paused
/// holds: nothing lost; the original stays paused
/// told: PB-3005 at the copy
#[test]
fn a_clone_taken_during_a_pause_halts_too() {
    let mut site = site();
    let (configuration, mut relay) = streaming(&site, &[]);
    let (load, options) = load(&site, Dice::new().seed(), 50.0);
    relay.wait_count("events_total", 200, PATIENCE);
    let (code, text) = relay.post("/api/v1/pause").expect("an answer");
    assert_eq!(code, 200, "{text}");
    let in_database = |site: &Site| {
        site.postgres.query_one("postgres", "SELECT nonce FROM pillarbox.lineage").expect("a nonce")
    };
    let moves_on = |site: &Site| {
        let before = in_database(site);
        until("the lineage moves on", PATIENCE, || (in_database(site) != before).then_some(()));
    };
    // The copy knows nonces that the stream of the paused relay has not come to.
    moves_on(&site);
    let folder = Folder::new();
    site.postgres.copy_data_dir_to(&folder.data()).expect("a storage snapshot");
    moves_on(&site);
    moves_on(&site);
    let copy = folder.start();
    refused(&site, &configure_copy(&site, &copy), "PB-3005");
    assert_eq!(relay.state().as_deref(), Some("paused"));
    let (code, text) = relay.post("/api/v1/resume").expect("an answer");
    assert_eq!(code, 200, "{text}");
    settle(&site, &configuration, load, &options);
}
