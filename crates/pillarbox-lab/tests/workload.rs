//! The workload on a real server: its account and the WAL's agree, also across a crash.

use std::time::Duration;

use pillarbox_lab::workload::{self, Outcome, Workload, WorkloadOptions};
use pillarbox_lab::{LabError, Postgres, PostgresOptions, wal};

const LIMIT: Duration = Duration::from_secs(120);

fn prepared(version: u32) -> Result<(Postgres, String), LabError> {
    let pg = Postgres::start(PostgresOptions::version(version))?;
    let url = pg.superuser_url("postgres");
    workload::prepare(&url, &WorkloadOptions::default().outbox)?;
    wal::create_slot(&url, "checker")?;
    Ok((pg, url))
}

#[test]
fn writers_and_wal_agree() -> Result<(), LabError> {
    let (_pg, url) = prepared(15)?;
    let options = WorkloadOptions { transactions: 30, ..WorkloadOptions::default() };
    let log = Workload::start(&url, options.clone())?.finish()?;
    assert_eq!(log.transactions.len(), 8 * 30);
    let wal = wal::transactions(&url, "checker", &options.outbox)?;
    let expected = log.expected(wal.clone(), &options.outbox)?;
    assert_eq!(expected.transactions.len(), log.committed().count());
    assert!(log.rolled_back().len() > 10);

    let mut lossy = wal.clone();
    lossy.pop();
    assert!(log.expected(lossy, &options.outbox).is_err(), "a missing transaction is seen");
    let mut swapped = wal;
    let long = swapped.iter_mut().find(|t| t.events.len() > 2).expect("a long transaction");
    long.events.swap(1, 2);
    assert!(log.expected(swapped, &options.outbox).is_err(), "a swap is seen");
    Ok(())
}

#[test]
fn a_crash_leaves_no_transaction_in_doubt() -> Result<(), LabError> {
    let (mut pg, url) = prepared(18)?;
    let options = WorkloadOptions { transactions: 1_000_000, events_max: 5, ..WorkloadOptions::default() };
    let outbox = options.outbox.clone();
    let workload = Workload::start(&url, options)?;
    for round in 1..=3 {
        assert!(workload.wait_committed(round * 200, LIMIT));
        pg.kill9()?;
        pg.start_again()?;
    }
    assert!(workload.wait_committed(800, LIMIT));
    workload.stop();
    let log = workload.finish()?;
    assert!(log.looked_up > 0, "three crashes of eight writers hit no COMMIT: the test tests nothing");
    assert!(log.transactions.iter().all(|t| t.outcome != Outcome::Unknown));
    let expected = log.expected(wal::transactions(&url, "checker", &outbox)?, &outbox)?;
    assert!(expected.transactions.len() >= 800);
    Ok(())
}
