//! `bench accept`: what it costs a consumer to have each effect once: `pillarbox.accept` beside a table of event ids.
//!
//! ```text
//! fill the id table
//! per round, in turns: BEGIN; (nothing | accept | ids), alone or for a batch; UPDATE; COMMIT     one session
//! at the end: the oldest fifth of the ids expires, VACUUM
//! ```
//! Must never compare arms of different rounds, nor leave out what an id costs when it expires. Duplicates are not
//! measured: each event is new, as nearly all are.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;
use tokio_postgres::{Client, NoTls, Statement};

use crate::emit::settled;
use crate::machine::wait_quiet;
use crate::servers::{DATABASE, Servers};
use crate::statistics::cell;
use crate::{Common, process, report, tree};

/// Rows that the effect updates: few meet on one row.
const ACCOUNTS: u64 = 10_000;
/// The part of the ids that expires at once: autovacuum's own threshold for a table (`autovacuum_vacuum_scale_factor`).
const EXPIRED: f64 = 0.2;

/// The usual inbox, as one would make it with care: the index on the time is for its retention.
const IDS: &str =
    "CREATE TABLE processed (id uuid NOT NULL, processed_at timestamptz NOT NULL DEFAULT now())";
const IDS_KEYS: &str = "SET maintenance_work_mem = '512MB'; ALTER TABLE processed ADD PRIMARY KEY (id); \
    CREATE INDEX ON processed (processed_at); RESET maintenance_work_mem";

/// Options of `bench accept`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Ids in the table when the runs begin
    #[arg(long, default_value_t = 10_000_000)]
    ids: u64,
    /// Events of a batch
    #[arg(long, default_value_t = 100)]
    batch: u32,
    /// Seconds of each arm in each round
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Runs of each arm
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

/// How the transaction finds out what is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Arm {
    /// Not at all: the effect alone.
    Nothing,
    Accept,
    Ids,
}

const ARMS: [Arm; 3] = [Arm::Nothing, Arm::Accept, Arm::Ids];

impl Arm {
    fn name(self, events: u32) -> &'static str {
        match (self, events) {
            (Arm::Nothing, _) => "effect alone",
            (Arm::Accept, 1) => "accept",
            (Arm::Accept, _) => "accept_batch",
            (Arm::Ids, 1) => "insert id",
            (Arm::Ids, _) => "insert ids",
        }
    }

    fn sql(self, events: u32) -> Option<&'static str> {
        match (self, events) {
            (Arm::Nothing, _) => None,
            (Arm::Accept, 1) => Some("SELECT pillarbox.accept('bench', 'orders', 0, $1)"),
            (Arm::Accept, _) => Some("SELECT pillarbox.accept_batch('bench', 'orders', 0, $1)"),
            (Arm::Ids, 1) => Some(
                "INSERT INTO processed (id) VALUES ($1::text::uuid) ON CONFLICT DO NOTHING RETURNING true",
            ),
            (Arm::Ids, _) => Some(
                "INSERT INTO processed (id) SELECT unnest($1::text[])::uuid ON CONFLICT DO NOTHING RETURNING id",
            ),
        }
    }

    /// What the consumer has of an event.
    fn event(self, n: u64) -> String {
        match self {
            Arm::Accept => format!("bench:{n:032x}:{n}"),
            Arm::Nothing | Arm::Ids => format!("{:016x}{:016x}", scramble(n), scramble(!n)),
        }
    }
}

/// Different numbers for different numbers, in no order: what a random id is to an index (the finisher of SplitMix64).
fn scramble(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// One arm in one round.
#[derive(Debug, Clone, Serialize)]
struct Run {
    arm: Arm,
    events_per_transaction: u32,
    round: u32,
    transactions: u64,
    microseconds_per_event: f64,
    /// Of the session, its end included.
    cpu_us_per_event: f64,
    wal_bytes_per_event: f64,
    /// CPU of others before the run, in cores.
    foreign_cores_before: f64,
}

/// What the ids cost that the runs do not show.
#[derive(Debug, Clone, Serialize)]
struct Retention {
    expired: u64,
    delete_us_per_id: f64,
    vacuum_us_per_id: f64,
}

#[derive(Debug, Serialize)]
struct Result {
    seconds: u64,
    batch: u32,
    ids_before: u64,
    ids_after: u64,
    ids_bytes: u64,
    positions_bytes: u64,
    retention: Retention,
    runs: Vec<Run>,
}

/// Runs `bench accept`.
pub(crate) fn run(options: &Options, common: &Common) -> anyhow::Result<()> {
    let servers = Servers::start(common.postgres)?;
    prepare(&servers, options.ids)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let turns: Vec<(Arm, u32)> =
        [1, options.batch].into_iter().flat_map(|events| ARMS.map(|arm| (arm, events))).collect();
    let (mut runs, mut next) = (Vec::new(), 1);
    for round in 1..=options.rounds {
        for turn in 0..turns.len() {
            let (arm, events) = turns[(turn + round as usize - 1) % turns.len()];
            let load = wait_quiet(Duration::from_secs(common.quiet_wait));
            eprintln!("bench: round {round}, {} x {events}; others use {load:.2} cores", arm.name(events));
            let load =
                Load { servers: &servers, seconds: options.seconds, arm, events, round, foreign: load };
            runs.push(load.measure(&runtime, &mut next)?);
        }
    }
    let size = |table: &str| number(&servers, &format!("SELECT pg_total_relation_size('{table}')"));
    let (ids_bytes, positions_bytes) = (size("processed")?, size("pillarbox.consumer_positions")?);
    let ids_after = number(&servers, "SELECT count(*) FROM processed")?;
    let retention = expire(&servers, ids_after)?;
    let Options { seconds, batch, ids: ids_before, .. } = *options;
    let result =
        Result { seconds, batch, ids_before, ids_after, ids_bytes, positions_bytes, retention, runs };
    report::write(common, "accept", &servers.versions, &result, &markdown(&result))
}

fn number(servers: &Servers, sql: &str) -> anyhow::Result<u64> {
    Ok(servers.postgres.query_one(DATABASE, sql)?.parse()?)
}

/// The consumer's side as `setup --consumer` makes it, the accounts, and a table full of ids.
fn prepare(servers: &Servers, ids: u64) -> anyhow::Result<()> {
    for file in ["0001_consumer.up.sql", "0002_parked.up.sql", "0003_wait.up.sql"] {
        let path = tree::root().join("sql/consumer").join(file);
        servers.sql(&fs::read_to_string(&path).with_context(|| path.display().to_string())?)?;
    }
    servers.sql(
        "CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50)",
    )?;
    servers.sql(&format!("INSERT INTO account SELECT n, 0 FROM generate_series(0, {}) n", ACCOUNTS - 1))?;
    eprintln!("bench: filling a table with {ids} ids");
    servers.sql(IDS)?;
    // A week of them.
    servers.sql(&format!(
        "SET synchronous_commit = off; INSERT INTO processed SELECT gen_random_uuid(), \
         now() - interval '7 days' * (1 - n::float8 / {ids}) FROM generate_series(1, {ids}) n"
    ))?;
    servers.sql(IDS_KEYS)?;
    servers.sql("VACUUM ANALYZE processed")?;
    servers.sql("VACUUM ANALYZE account")
}

/// One arm in one round, to be measured.
struct Load<'a> {
    servers: &'a Servers,
    seconds: u64,
    arm: Arm,
    events: u32,
    round: u32,
    foreign: f64,
}

impl Load<'_> {
    /// Takes events from `next` on.
    fn measure(&self, runtime: &tokio::runtime::Runtime, next: &mut u64) -> anyhow::Result<Run> {
        let (servers, arm, events) = (self.servers, self.arm, self.events);
        // Each run begins alike: no dead rows of others, no full-page images that another run has paid for.
        servers.sql("TRUNCATE pillarbox.consumer_positions")?;
        servers.sql("VACUUM account")?;
        servers.sql("CHECKPOINT")?;
        let wal = || number(servers, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint");
        let postmaster = servers.postgres.pid().context("Postgres runs")?;
        let reaped = || process::cpu_of_children(postmaster).context("Postgres runs");
        let (wal_before, cpu_before) = (wal()?, reaped()?);
        let (transactions, took) = runtime.block_on(self.consume(next))?;
        let cpu = settled(&reaped, cpu_before)?;
        let wal_bytes = wal()? - wal_before;
        eprintln!("bench: {transactions} transactions in {took:.1?}");
        let count = transactions as f64 * f64::from(events);
        Ok(Run {
            arm,
            events_per_transaction: events,
            round: self.round,
            transactions,
            microseconds_per_event: took.as_secs_f64() * 1e6 / count,
            cpu_us_per_event: cpu.as_secs_f64() * 1e6 / count,
            wal_bytes_per_event: wal_bytes as f64 / count,
            foreign_cores_before: self.foreign,
        })
    }

    /// Runs transactions on a session of their own until the time is up; how many, and how long they took.
    async fn consume(&self, next: &mut u64) -> anyhow::Result<(u64, Duration)> {
        let url = self.servers.postgres.superuser_url(DATABASE);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
        let work = self.transactions(client, next);
        // Both on this thread: the connection ends when the work has dropped its client.
        let (work, connection) = tokio::join!(work, connection);
        connection.context("the session broke")?;
        work
    }

    async fn transactions(&self, client: Client, next: &mut u64) -> anyhow::Result<(u64, Duration)> {
        let effect = client.prepare("UPDATE account SET balance = balance + 1 WHERE id = $1").await?;
        let ask = match self.arm.sql(self.events) {
            Some(sql) => Some(client.prepare(sql).await?),
            None => None,
        };
        let (started, limit) = (Instant::now(), Duration::from_secs(self.seconds));
        let mut transactions = 0;
        while started.elapsed() < limit {
            let events: Vec<String> = (0..self.events).map(|_| self.arm.event(take(next))).collect();
            client.batch_execute("BEGIN").await?;
            if let Some(ask) = &ask {
                let applied = self.ask(&client, ask, &events).await?;
                anyhow::ensure!(applied == events.len(), "{applied} of {} events were new", events.len());
            }
            let account = i64::try_from(*next % ACCOUNTS)?;
            client.execute(&effect, &[&account]).await?;
            client.batch_execute("COMMIT").await?;
            transactions += 1;
        }
        Ok((transactions, started.elapsed()))
    }

    /// How many of the events are new.
    async fn ask(&self, client: &Client, ask: &Statement, events: &[String]) -> anyhow::Result<usize> {
        let rows = match self.events {
            1 => client.query(ask, &[&events[0]]).await?,
            _ => client.query(ask, &[&events]).await?,
        };
        Ok(match (self.arm, self.events) {
            (Arm::Accept, 1) => usize::from(rows[0].get::<_, bool>(0)),
            (Arm::Accept, _) => rows[0].get::<_, Vec<i32>>(0).len(),
            _ => rows.len(),
        })
    }
}

fn take(next: &mut u64) -> u64 {
    *next += 1;
    *next
}

/// The oldest fifth expires.
fn expire(servers: &Servers, ids: u64) -> anyhow::Result<Retention> {
    let expired = (ids as f64 * EXPIRED) as u64;
    eprintln!("bench: {expired} ids expire");
    servers.sql("CHECKPOINT")?;
    let timed = |sql: &str| -> anyhow::Result<f64> {
        let started = Instant::now();
        servers.sql(sql)?;
        Ok(started.elapsed().as_secs_f64() * 1e6 / expired as f64)
    };
    let delete = "DELETE FROM processed WHERE processed_at < \
        (SELECT processed_at FROM processed ORDER BY processed_at LIMIT 1 OFFSET ";
    let delete_us_per_id = timed(&format!("{delete}{expired})"))?;
    let vacuum_us_per_id = timed("VACUUM processed")?;
    Ok(Retention { expired, delete_us_per_id, vacuum_us_per_id })
}

fn markdown(result: &Result) -> String {
    let Result { seconds, batch, ids_before, ids_after, retention, .. } = result;
    let rows: String =
        [1, *batch].into_iter().flat_map(|events| ARMS.map(|arm| row(result, arm, events))).collect();
    let rounds = result.runs.iter().map(|run| run.round).max().unwrap_or(0);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let Retention { expired, delete_us_per_id, vacuum_us_per_id } = retention;
    format!(
        "One session, {seconds} s an arm, {rounds} rounds, arms in turns; {ids_before} ids at the beginning; fsync and \
         synchronous_commit on. Each run begins after a checkpoint, so that nearly every id writes an image of its page \
         of the index. All per event; median (min-max); \"more\" is against the effect alone in the same round.\n\n\
         | events a transaction | asks by | us | more | CPU us | more | WAL bytes | more |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n{rows}\n\
         | table | rows | MiB with indexes |\n| --- | --- | --- |\n\
         | ids | {ids_after} | {:.1} |\n| positions | 1 | {:.3} |\n\n\
         An id that expires costs {delete_us_per_id:.1} us to delete and {vacuum_us_per_id:.1} us to vacuum ({expired} \
         at once); a position never expires.\n",
        mib(result.ids_bytes),
        mib(result.positions_bytes),
    )
}

fn row(result: &Result, arm: Arm, events: u32) -> String {
    let rounds = result.runs.iter().map(|run| run.round).max().unwrap_or(0);
    let of = |arm: Arm, round: u32| {
        let mut runs = result.runs.iter();
        runs.find(|run| run.arm == arm && run.events_per_transaction == events && run.round == round)
    };
    // Medians of differences within a round: what the machine did meanwhile is mostly the same.
    let figure = |get: fn(&Run) -> f64, decimals| {
        let spread = cell((1..=rounds).map(|round| of(arm, round).map(get)), 1.0, decimals);
        let more = (1..=rounds).map(|round| Some(get(of(arm, round)?) - get(of(Arm::Nothing, round)?)));
        format!("{spread} | {}", cell(more, 1.0, decimals))
    };
    format!(
        "| {events} | {} | {} | {} | {} |\n",
        arm.name(events),
        figure(|run| run.microseconds_per_event, 1),
        figure(|run| run.cpu_us_per_event, 1),
        figure(|run| run.wal_bytes_per_event, 0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_new_and_ids_in_no_order() {
        assert_eq!(Arm::Accept.event(26), format!("bench:{}1a:26", "0".repeat(30)));
        let ids: Vec<String> = (1..100).map(|n| Arm::Ids.event(n)).collect();
        assert!(ids.iter().all(|id| id.len() == 32));
        assert!(!ids.is_sorted());
    }

    #[test]
    fn a_row_holds_what_an_arm_costs_more_than_the_effect() {
        let run = |arm, microseconds_per_event| Run {
            arm,
            events_per_transaction: 1,
            round: 1,
            transactions: 1,
            microseconds_per_event,
            cpu_us_per_event: 2.0,
            wal_bytes_per_event: 100.0,
            foreign_cores_before: 0.0,
        };
        let retention = Retention { expired: 1, delete_us_per_id: 1.5, vacuum_us_per_id: 2.5 };
        let result = Result {
            seconds: 1,
            batch: 100,
            ids_before: 10,
            ids_after: 12,
            ids_bytes: 1 << 20,
            positions_bytes: 24 << 10,
            retention,
            runs: vec![run(Arm::Nothing, 10.0), run(Arm::Accept, 14.0)],
        };
        let page = markdown(&result);
        assert!(page.contains("| 1 | accept | 14.0 (14.0-14.0) | 4.0 (4.0-4.0) |"), "{page}");
        assert!(page.contains("| 100 | accept_batch | - | - |"), "{page}");
        assert!(page.contains("| ids | 12 | 1.0 |\n| positions | 1 | 0.023 |"), "{page}");
    }
}
