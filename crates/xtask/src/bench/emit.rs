//! `bench emit`: what an event costs the transaction that writes it, as the application waits for it.
//!
//! ```text
//! per round, in turns: BEGIN; UPDATE; (nothing | emit() | INSERT ...); COMMIT    by pgbench
//! ```
//! An outbox does not grow for ever, so an insert is measured with each way to be rid of its row, too: a DELETE in the
//! same transaction, batches of deletes and a VACUUM after the run, or a partition that is dropped some day (which costs
//! nothing a transaction).
//!
//! The message of emit() is measured without emit(), too: no function that sends it for its caller can cost less.
//!
//! Postgres alone, without a relay: what relaying costs is another bench. Must never compare arms of different rounds,
//! nor leave out what an arm writes: time, CPU of its sessions and WAL are told together.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::drain::open_dir;
use crate::machine::wait_quiet;
use crate::servers::{DATABASE, Servers};
use crate::statistics::cell;
use crate::{Common, process, report, tree};

/// Rows that the business part of the transactions updates: few meet on one row.
const ACCOUNTS: u32 = 10_000;

/// As `mode: partitions` of the housekeeping keeps them: ahead of time, a day each.
const PARTITIONS: &str = "
CREATE TABLE outbox_daily (LIKE outbox INCLUDING DEFAULTS, created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at);
DO $$
BEGIN
    FOR day IN -1 .. 2 LOOP
        EXECUTE format('CREATE TABLE outbox_daily_%s PARTITION OF outbox_daily FOR VALUES FROM (%L) TO (%L)',
            day + 1, current_date + day, current_date + day + 1);
    END LOOP;
END $$";

/// Pages of a batch when rows are deleted later: about a thousand rows.
const BATCH_PAGES: u32 = 64;

/// Options of `bench emit`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Seconds of each arm in each round
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Sessions at once
    #[arg(long, default_value_t = 1)]
    clients: u32,
    /// Runs of each arm
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Orders in the payload, about 310 bytes each
    #[arg(long, default_value_t = 1)]
    orders: u32,
}

/// What the transaction does beside its UPDATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Arm {
    NoEvent,
    Emit,
    BareMessage,
    Insert,
    InsertDelete,
    DeletedLater,
    Partitioned,
}

const ARMS: [Arm; 7] = [
    Arm::NoEvent,
    Arm::Emit,
    Arm::BareMessage,
    Arm::Insert,
    Arm::InsertDelete,
    Arm::DeletedLater,
    Arm::Partitioned,
];

impl Arm {
    fn name(self) -> &'static str {
        match self {
            Arm::NoEvent => "no event",
            Arm::Emit => "emit()",
            Arm::BareMessage => "its message alone",
            Arm::Insert => "insert",
            Arm::InsertDelete => "insert + delete",
            Arm::DeletedLater => "insert, deleted later",
            Arm::Partitioned => "insert into partitions",
        }
    }

    /// The same payload by each way: `bench_payload` would be most of the work, so it is a literal.
    fn script(self, payload: &str) -> String {
        let event = match self {
            Arm::NoEvent => String::new(),
            Arm::Emit => format!(
                "SELECT pillarbox.emit('order', 'order-' || :account, 'OrderPlaced', '{payload}'::jsonb);\n"
            ),
            // What emit() sends, by the caller himself: the floor for any function that does it for him.
            Arm::BareMessage => format!(
                "SELECT pg_logical_emit_message(true, 'outbox', record_send(ROW(gen_random_uuid(), 'order', \
                 'order-' || :account, 'OrderPlaced', NULL::bytea, '{payload}'::jsonb)));\n"
            ),
            Arm::Insert | Arm::DeletedLater => insert("outbox", "gen_random_uuid()", payload),
            Arm::Partitioned => insert("outbox_daily", "gen_random_uuid()", payload),
            Arm::InsertDelete => {
                // pgbench knows no uuid: one is made of the session and a number.
                "\\set number random(1, 9000000000000000)\n".to_owned()
                    + &insert("outbox", "lpad(to_hex(:number::bigint), 32, '0')::uuid", payload)
                    + "DELETE FROM outbox WHERE id = lpad(to_hex(:number::bigint), 32, '0')::uuid;\n"
            }
        };
        format!(
            "\\set account random(1, {ACCOUNTS})\nBEGIN;\n\
             UPDATE account SET balance = balance - 1 WHERE id = :account;\n{event}COMMIT;\n"
        )
    }
}

fn insert(table: &str, id: &str, payload: &str) -> String {
    format!(
        "INSERT INTO {table} (id, aggregatetype, aggregateid, type, payload) \
         VALUES ({id}, 'order', 'order-' || :account, 'OrderPlaced', '{payload}');\n"
    )
}

/// One arm in one round.
#[derive(Debug, Clone, Serialize)]
struct Run {
    arm: Arm,
    round: u32,
    transactions: u64,
    /// As the client waits for it.
    microseconds_per_transaction: f64,
    /// Of the sessions, all their ends included.
    cpu_us_per_transaction: f64,
    wal_bytes_per_transaction: f64,
    /// CPU of others before the run, in cores.
    foreign_cores_before: f64,
}

#[derive(Debug, Serialize)]
struct Result {
    seconds: u32,
    clients: u32,
    payload_bytes: usize,
    runs: Vec<Run>,
}

/// Runs `bench emit`.
pub(crate) fn run(options: &Options, common: &Common) -> anyhow::Result<()> {
    if Command::new("pgbench").arg("--version").output().is_err() {
        bail!("this bench needs pgbench (Debian: apt install postgresql)");
    }
    let dir = open_dir()?;
    let servers = Servers::start(common.postgres)?;
    let payload = prepare(&servers, options.orders)?;
    for arm in ARMS {
        fs::write(script(dir.path(), arm), arm.script(&payload))?;
    }
    let mut runs = Vec::new();
    for round in 1..=options.rounds {
        for turn in 0..ARMS.len() {
            let arm = ARMS[(turn + round as usize - 1) % ARMS.len()];
            let load = wait_quiet(Duration::from_secs(common.quiet_wait));
            eprintln!("bench: round {round}, {}; others use {load:.2} cores", arm.name());
            runs.push(measure(&servers, options, &script(dir.path(), arm), arm, round, load)?);
        }
    }
    let Options { seconds, clients, .. } = *options;
    let result = Result { seconds, clients, payload_bytes: payload.len(), runs };
    report::write(common, "emit", &servers.versions, &result, &markdown(&result))
}

fn script(dir: &Path, arm: Arm) -> std::path::PathBuf {
    dir.join(format!("{}.sql", arm.name().replace([' ', '+', '(', ')', ','], "")))
}

/// The schema `pillarbox` with `emit()`, as `setup` makes it.
pub(crate) fn schema(servers: &Servers) -> anyhow::Result<()> {
    for file in ["0001_pillarbox.up.sql", "0002_emit.up.sql"] {
        let path = tree::root().join("sql").join(file);
        servers.sql(&fs::read_to_string(&path).with_context(|| path.display().to_string())?)?;
    }
    Ok(())
}

/// The schema `pillarbox`, the accounts, and the payload.
fn prepare(servers: &Servers, orders: u32) -> anyhow::Result<String> {
    schema(servers)?;
    servers.sql(
        "CREATE TABLE account (id integer PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50)",
    )?;
    servers.sql(&format!("INSERT INTO account SELECT n, 0 FROM generate_series(1, {ACCOUNTS}) n"))?;
    servers.sql("VACUUM ANALYZE account")?;
    servers.sql(PARTITIONS)?;
    let payload = match orders {
        1 => "SELECT bench_payload(4711)::text".to_owned(),
        _ => format!("SELECT jsonb_agg(bench_payload(4710 + n))::text FROM generate_series(1, {orders}) n"),
    };
    Ok(servers.postgres.query_one(DATABASE, &payload)?)
}

fn measure(
    servers: &Servers,
    options: &Options,
    script: &Path,
    arm: Arm,
    round: u32,
    load: f64,
) -> anyhow::Result<Run> {
    // Each run begins alike: no rows of others, no full-page images that another run has paid for.
    servers.sql("TRUNCATE outbox, outbox_daily")?;
    servers.sql("VACUUM account")?;
    servers.sql("CHECKPOINT")?;
    let wal =
        || servers.postgres.query_one(DATABASE, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')");
    let postmaster = servers.postgres.pid().context("Postgres runs")?;
    let reaped = || process::cpu_of_children(postmaster).context("Postgres runs");
    let (wal_before, cpu_before, started) = (wal()?, reaped()?, Instant::now());
    let transactions = pgbench(servers, options, script)?;
    let seconds = started.elapsed();
    if arm == Arm::DeletedLater {
        delete_all(servers)?;
    }
    let cpu = settled(&reaped, cpu_before)?;
    let wal_bytes = wal()?.parse::<f64>()? - wal_before.parse::<f64>()?;
    let count = transactions.count as f64;
    eprintln!("bench: {} transactions in {seconds:.1?}", transactions.count);
    Ok(Run {
        arm,
        round,
        transactions: transactions.count,
        microseconds_per_transaction: transactions.latency_ms * 1e3,
        cpu_us_per_transaction: cpu.as_secs_f64() * 1e6 / count,
        wal_bytes_per_transaction: wal_bytes / count,
        foreign_cores_before: load,
    })
}

/// Deletes all rows, some pages at a time, as the housekeeping's `mode: delete` sweeps a table, and vacuums it.
fn delete_all(servers: &Servers) -> anyhow::Result<()> {
    servers.sql(&format!(
        "DO $$ BEGIN
            FOR page IN 0 .. pg_relation_size('outbox') / 8192 BY {BATCH_PAGES} LOOP
                DELETE FROM outbox WHERE ctid >= format('(%s,0)', page)::tid
                    AND ctid < format('(%s,0)', page + {BATCH_PAGES})::tid;
                COMMIT;
            END LOOP;
        END $$"
    ))?;
    if servers.postgres.query_one(DATABASE, "SELECT count(*) FROM outbox")? != "0" {
        bail!("the table is not empty");
    }
    servers.sql("VACUUM outbox")
}

/// Sessions are counted when the postmaster has reaped them, which is soon after pgbench has ended.
pub(crate) fn settled(
    reaped: &impl Fn() -> anyhow::Result<Duration>,
    before: Duration,
) -> anyhow::Result<Duration> {
    let mut last = reaped()?;
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let now = reaped()?;
        if now == last && now > before {
            return Ok(now - before);
        }
        last = now;
    }
}

/// What pgbench says of a run.
#[derive(Debug, PartialEq)]
struct Transactions {
    count: u64,
    latency_ms: f64,
}

fn pgbench(servers: &Servers, options: &Options, script: &Path) -> anyhow::Result<Transactions> {
    let mut command = Command::new("pgbench");
    command.args(["--no-vacuum", "--protocol", "prepared", "--time", &options.seconds.to_string()]);
    command.args(["--client", &options.clients.to_string(), "--file"]).arg(script);
    command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &servers.postgres.port().to_string(), DATABASE]);
    let said = tree::output(&mut command)?;
    parse(&said).with_context(|| format!("pgbench said:\n{said}"))
}

fn parse(said: &str) -> Option<Transactions> {
    let after = |words: &str| said.lines().find_map(|line| line.strip_prefix(words));
    let count =
        after("number of transactions actually processed: ")?.split('/').next()?.trim().parse().ok()?;
    let latency_ms = after("latency average = ")?.strip_suffix(" ms")?.parse().ok()?;
    Some(Transactions { count, latency_ms })
}

fn markdown(result: &Result) -> String {
    let of = |arm: Arm, round: u32| result.runs.iter().find(|run| run.arm == arm && run.round == round);
    let rounds = result.runs.iter().map(|run| run.round).max().unwrap_or(0);
    // Medians of differences within a round: what the machine did meanwhile is mostly the same.
    let row = |arm: Arm| {
        let figure = |get: fn(&Run) -> f64, decimals| {
            let spread = cell((1..=rounds).map(|round| of(arm, round).map(get)), 1.0, decimals);
            let more = (1..=rounds).map(|round| Some(get(of(arm, round)?) - get(of(Arm::NoEvent, round)?)));
            (spread, cell(more, 1.0, decimals))
        };
        let (time, more_time) = figure(|run| run.microseconds_per_transaction, 0);
        let (cpu, more_cpu) = figure(|run| run.cpu_us_per_transaction, 1);
        let (wal, more_wal) = figure(|run| run.wal_bytes_per_transaction, 0);
        format!("| {} | {time} | {more_time} | {cpu} | {more_cpu} | {wal} | {more_wal} |\n", arm.name())
    };
    let rows: String = ARMS.into_iter().map(row).collect();
    let Result { seconds, clients, payload_bytes, .. } = result;
    format!(
        "{clients} session(s), {seconds} s an arm, {rounds} rounds, arms in turns; jsonb payload of {payload_bytes} bytes; \
         fsync and synchronous_commit on. Median (min-max); \"more\" is against no event in the same round.\n\n\
         | transaction | us | more | CPU us | more | WAL bytes | more |\n| --- | --- | --- | --- | --- | --- | --- |\n{rows}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pgbench_says() {
        let said = "pgbench (15.18)\nnumber of transactions actually processed: 4711\n\
            number of failed transactions: 0 (0.000%)\nlatency average = 0.250 ms\ntps = 4000.0 (without initial)\n";
        assert_eq!(parse(said), Some(Transactions { count: 4711, latency_ms: 0.25 }));
        assert_eq!(parse("latency average = 0.250 ms"), None);
    }

    #[test]
    fn every_arm_commits_and_names_its_event() {
        for (arm, word) in [
            (Arm::Emit, "pillarbox.emit("),
            (Arm::BareMessage, "pg_logical_emit_message(true, 'outbox'"),
            (Arm::Insert, "INSERT INTO outbox"),
            (Arm::InsertDelete, "DELETE FROM"),
            (Arm::DeletedLater, "INSERT INTO outbox "),
            (Arm::Partitioned, "INSERT INTO outbox_daily"),
        ] {
            let script = arm.script("{}");
            assert!(script.contains(word) && script.ends_with("COMMIT;\n"), "{script}");
        }
        assert!(!Arm::NoEvent.script("{}").contains("outbox"));
    }
}
