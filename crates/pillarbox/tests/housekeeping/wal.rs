//! An idle database on a busy cluster holds little WAL: a logical message every ten seconds, and keepalives that are
//! confirmed.

use std::time::Duration;

use crate::harness::site::Site;
use crate::harness::until::until;
use crate::world::*;

/// What an idle pipeline may hold.
const HELD_BYTES_MAX: u64 = 64 << 20;

/// Another database writes 4 MB at a time.
const BUSY: &str = "INSERT INTO busy SELECT repeat(md5(n::text), 8) FROM generate_series(1, 12500) n";

#[test]
fn an_idle_database_holds_little_wal_on_postgres_15() {
    an_idle_database_holds_little_wal(15);
}

#[test]
fn an_idle_database_holds_little_wal_on_postgres_18() {
    an_idle_database_holds_little_wal(18);
}

fn an_idle_database_holds_little_wal(version: u32) {
    let site = site(version);
    let configuration = site.configure("idle", 1, &[]);
    site.setup(&configuration);
    execute(&site, "CREATE DATABASE busy");
    let busy = |sql: &str| site.postgres.execute("busy", sql).expect(sql);
    busy("CREATE TABLE busy (t text)");
    for _ in 0..24 {
        busy(BUSY);
    }
    let before = held(&site);
    assert!(before > HELD_BYTES_MAX, "without a relay WAL is held: {before}");
    let mut relay = streaming(&site, &configuration);
    until("it lets go", PATIENCE, || (held(&site) < HELD_BYTES_MAX / 4).then_some(()));
    // And it stays so while the others go on: about 1 MB a second, several times what an idle
    // managed server writes.
    let mut most = 0;
    for _ in 0..10 {
        busy(BUSY);
        // With BUSY this is the rate of the neighbours: 1 MB/s.
        std::thread::sleep(Duration::from_secs(4));
        most = most.max(held(&site));
    }
    println!("Postgres {version}: {before} bytes held without a relay, {most} at most with it");
    assert!(most < HELD_BYTES_MAX, "{most}");
    assert_eq!(relay.count("events_total"), 0, "the heartbeat is no event");
    assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
}

fn held(site: &Site) -> u64 {
    let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::bigint \
        FROM pg_replication_slots WHERE slot_name = 'pillarbox_idle'";
    one(site, sql).parse().expect("bytes")
}
