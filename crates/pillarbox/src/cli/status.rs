//! `pillarbox status`: three views of one pipeline, each asked on its own: the running relay, the
//! slot in Postgres, the checkpoint in Kafka.
//!
//! Works when any of them is down, and says which. Reads only: never fences, never confirms.

mod open;

use std::fmt::Write;
use std::net::SocketAddr;

use clap::Args;
use pillarbox_relay::config::Config;
use pillarbox_relay::error::{Code, ExitCode, Fault};
use pillarbox_relay::pipeline::status::FaultView;
use pillarbox_relay::sink;
use pillarbox_relay::source::Attempt;
use pillarbox_relay::sql::{self, Session};
use serde::Serialize;
use serde_json::{Value, json};

use self::open::OpenTransaction;
use super::{ConfigFile, Output};
use crate::http::client;
use crate::report::Failure;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// The format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Exit 1 when the pipeline is not healthy
    #[arg(long)]
    exit_code: bool,
}

impl Arguments {
    pub(super) fn wants_json(&self) -> bool {
        self.output == Output::Json
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let loaded = self.file.load()?;
        super::block_on(async {
            let overview = Overview::ask(&loaded.config, loaded.listen).await;
            let text = match self.output {
                Output::Table => overview.table(),
                Output::Json => format!("{:#}\n", json!(overview)),
            };
            super::print(text.as_bytes())?;
            if self.exit_code && !overview.healthy {
                return Err(Failure::Answered(ExitCode::Negative));
            }
            Ok(())
        })
    }
}

/// Where lines stand that belong to the one above.
const INDENT: &str = "            ";

/// All three views.
#[derive(Debug, Serialize)]
struct Overview {
    pipeline: String,
    healthy: bool,
    /// What keeps it from being healthy.
    problems: Vec<String>,
    /// WAL between the server's end and what was confirmed, as Postgres says.
    lag_bytes: Option<i64>,
    /// The document of the relay itself; null without one.
    relay: View<Value>,
    postgres: View<Slot>,
    kafka: View<Checkpoint>,
}

/// What was learned, or why nothing was.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum View<T> {
    Found(T),
    Error(FaultView),
}

impl<T> From<Result<T, Fault>> for View<T> {
    fn from(result: Result<T, Fault>) -> Self {
        match result {
            Ok(found) => View::Found(found),
            Err(fault) => View::Error(FaultView::from(&fault)),
        }
    }
}

#[derive(Debug, Serialize)]
struct Slot {
    name: String,
    active: bool,
    confirmed_lsn: Option<String>,
    server_lsn: Option<String>,
    lag_bytes: Option<i64>,
    retained_bytes: Option<i64>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    wal_status: Option<String>,
    /// The oldest transaction that has written and is still open, if it is old.
    open_transaction: Option<OpenTransaction>,
}

#[derive(Debug, Serialize)]
struct Checkpoint {
    topic: String,
    epoch: u32,
    commit_lsn: String,
    resume_lsn: String,
    split_transaction_open: bool,
    paused: bool,
    topics: usize,
    written_at_ms: i64,
}

impl Overview {
    async fn ask(config: &Config, listen: Option<SocketAddr>) -> Self {
        // Each on its own and at once: one that does not answer must not hide the others.
        let (relay, postgres, kafka) = tokio::join!(relay(listen), slot(config), checkpoint(config));
        let (relay, postgres, kafka) = (relay.into(), postgres.into(), kafka.into());
        let problems = problems(&relay, &postgres, &kafka);
        Self {
            pipeline: config.pipeline.to_string(),
            healthy: problems.is_empty(),
            lag_bytes: match &postgres {
                View::Found(slot) => slot.lag_bytes,
                View::Error(_) => None,
            },
            problems,
            relay,
            postgres,
            kafka,
        }
    }

    fn table(&self) -> String {
        let mut text = format!("pipeline {}: ", self.pipeline);
        text.push_str(if self.healthy { "healthy\n" } else { "not healthy\n" });
        line(&mut text, "relay", &self.relay, |status| {
            let word = |key: &str| status[key].as_str().unwrap_or("-").to_owned();
            let number = |key: &str| status[key].as_u64().unwrap_or_default();
            format!(
                "{}, {} events, {}confirmed {} of {}, {} behind",
                word("state"),
                number("events_total"),
                match number("dead_letters_total") {
                    0 => String::new(),
                    letters => format!("{letters} dead letters, "),
                },
                word("confirmed_lsn"),
                word("server_lsn"),
                size(number("lag_bytes").try_into().ok()),
            )
        });
        if let View::Found(status) = &self.relay {
            kept(&mut text, &status["housekeeping"]);
        }
        line(&mut text, "postgres", &self.postgres, |slot| {
            format!(
                "slot {} {}, confirmed {}, {} behind, {} of WAL kept ({})",
                slot.name,
                if slot.active { "active" } else { "not active" },
                slot.confirmed_lsn.as_deref().unwrap_or("-"),
                size(slot.lag_bytes),
                size(slot.retained_bytes),
                slot.wal_status.as_deref().unwrap_or("-"),
            )
        });
        if let View::Found(Slot { open_transaction: Some(open), .. }) = &self.postgres {
            let _ = writeln!(text, "{INDENT}{open}");
        }
        line(&mut text, "kafka", &self.kafka, |checkpoint| {
            format!(
                "checkpoint epoch {}, resume {}, {} topics{}",
                checkpoint.epoch,
                checkpoint.resume_lsn,
                checkpoint.topics,
                if checkpoint.paused { ", paused" } else { "" },
            )
        });
        for problem in &self.problems {
            let _ = writeln!(text, "  ! {problem}");
        }
        text
    }
}

fn line<T>(text: &mut String, name: &str, view: &View<T>, found: impl FnOnce(&T) -> String) {
    let shown = match view {
        View::Found(value) => found(value),
        View::Error(fault) => format!("{}: {}", fault.code, fault.message),
    };
    let _ = writeln!(text, "  {name:<9} {shown}");
}

/// A line for each outbox table that is kept small, and what is in the way.
fn kept(text: &mut String, tables: &Value) {
    for table in tables.as_array().into_iter().flatten() {
        let number = |key: &str| table[key].as_u64().unwrap_or_default();
        let done = if table["mode"] == "delete" {
            format!("{} rows deleted", number("deleted_total"))
        } else {
            let (there, sealed) = (number("partitions"), number("sealed"));
            format!("{there} partitions, {sealed} sealed, {} dropped", number("dropped_total"))
        };
        let name = table["table"].as_str().unwrap_or("-");
        let _ = writeln!(text, "{INDENT}{name}: {done}");
        if let Some(step) = table["waits_for"].as_str() {
            let _ = writeln!(text, "{INDENT}waits for other transactions to {step}");
        }
        if let Some(fault) = table["fault"].as_object() {
            let part = |key: &str| fault.get(key).and_then(Value::as_str).unwrap_or_default();
            let _ = writeln!(text, "{INDENT}{}: {}", part("code"), part("message"));
        }
    }
}

/// Bytes for people.
fn size(bytes: Option<i64>) -> String {
    let Some(bytes) = bytes else { return "-".to_owned() };
    let units = [(1_i64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

fn problems(relay: &View<Value>, postgres: &View<Slot>, kafka: &View<Checkpoint>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut active_elsewhere = false;
    match postgres {
        View::Error(fault) => problems.push(told(fault)),
        View::Found(slot) => {
            active_elsewhere = slot.active;
            if !slot.active {
                problems.push(format!("nobody streams from slot {}", slot.name));
            }
            if matches!(slot.wal_status.as_deref(), Some("lost" | "unreserved")) {
                problems.push(format!("slot {} is losing the WAL it needs", slot.name));
            }
        }
    }
    if let View::Error(fault) = kafka {
        problems.push(told(fault));
    }
    match relay {
        View::Found(status) => {
            let state = status["state"].as_str().unwrap_or_default();
            if !matches!(state, "streaming" | "standing_by" | "paused") {
                problems.push(format!("the relay is {state}"));
            }
            if let Some(fault) = status["fault"].as_object() {
                let text = |key: &str| fault.get(key).and_then(Value::as_str).unwrap_or_default();
                problems.push(format!("{}: {}", text("code"), text("message")));
                problems
                    .extend(fault.get("hint").and_then(Value::as_str).map(|hint| format!("hint: {hint}")));
            }
        }
        // Another machine's relay is not asked over loopback.
        View::Error(_) if active_elsewhere => {}
        View::Error(fault) => problems.push(told(fault)),
    }
    problems
}

fn told(fault: &FaultView) -> String {
    let mut text = format!("{}: {}", fault.code, fault.message);
    text.extend(fault.cause.iter().map(|cause| format!(": {cause}")));
    text.extend(fault.hint.iter().map(|hint| format!("; {hint}")));
    text
}

fn no_relay(cause: impl std::fmt::Display) -> Fault {
    Fault::new(Code::RelayUnreachable, "no running relay answers")
        .because(cause)
        .hint("start it: pillarbox run")
}

async fn relay(listen: Option<SocketAddr>) -> Result<Value, Fault> {
    let address = listen.ok_or_else(|| no_relay("http.listen is off"))?;
    let answer = client::get(address, "/api/v1/status")
        .await
        .map_err(|error| no_relay(format!("http://{address}: {error}")))?;
    serde_json::from_slice(&answer.body)
        .map_err(|_| no_relay(format!("http://{address} answers, but is not pillarbox")))
}

const SLOT: &str = "SELECT s.active, s.confirmed_flush_lsn::text, now.lsn::text,
    pg_wal_lsn_diff(now.lsn, s.confirmed_flush_lsn)::bigint, pg_wal_lsn_diff(now.lsn, s.restart_lsn)::bigint,
    s.wal_status
FROM pg_replication_slots s,
    (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
        ELSE pg_current_wal_flush_lsn() END AS lsn) AS now
WHERE s.slot_name = $1";

async fn slot(config: &Config) -> Result<Slot, Fault> {
    let settings = &config.postgres;
    let name = &settings.slot;
    let session = Session::connect(settings, "pillarbox status").await?;
    let attempt = format!("cannot look at slot {name}");
    let failed = |error| sql::fault(&error, &Attempt { message: &attempt, settings });
    let row = session.query_opt(SLOT, &[name]).await.map_err(failed)?;
    let row = row.ok_or_else(|| {
        Fault::new(Code::SlotMissing, format!("slot {name} does not exist"))
            .hint("run `pillarbox setup` if the pipeline is new; otherwise see docs/errors/PB-1013.md")
    })?;
    Ok(Slot {
        name: name.clone(),
        active: row.try_get(0).map_err(failed)?,
        confirmed_lsn: row.try_get(1).map_err(failed)?,
        server_lsn: row.try_get(2).map_err(failed)?,
        lag_bytes: row.try_get(3).map_err(failed)?,
        retained_bytes: row.try_get(4).map_err(failed)?,
        wal_status: row.try_get(5).map_err(failed)?,
        open_transaction: open::oldest(&session).await.map_err(failed)?,
    })
}

async fn checkpoint(config: &Config) -> Result<Checkpoint, Fault> {
    let topic = config.checkpoint_topic();
    let cluster = sink::connect(config).await?;
    let table = sink::read_checkpoint(&cluster, config).await?.unwrap_or_default();
    let position = table.position.ok_or_else(|| {
        Fault::new(Code::CheckpointMissing, format!("topic {topic} holds no checkpoint"))
            .hint("run `pillarbox setup`")
    })?;
    Ok(Checkpoint {
        topic,
        epoch: position.epoch,
        commit_lsn: position.commit_lsn.to_string(),
        resume_lsn: position.resume_lsn.to_string(),
        split_transaction_open: position.index.is_some(),
        paused: position.paused,
        topics: table.topics.len(),
        written_at_ms: position.at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(active: bool, wal_status: &str) -> View<Slot> {
        View::Found(Slot {
            name: "s".to_owned(),
            active,
            confirmed_lsn: Some("0/10".to_owned()),
            server_lsn: Some("0/20".to_owned()),
            lag_bytes: Some(16),
            retained_bytes: Some(3 << 20),
            wal_status: Some(wal_status.to_owned()),
            open_transaction: None,
        })
    }

    fn kafka() -> View<Checkpoint> {
        View::Found(Checkpoint {
            topic: "t".to_owned(),
            epoch: 1,
            commit_lsn: "0/0".to_owned(),
            resume_lsn: "0/10".to_owned(),
            split_transaction_open: false,
            paused: false,
            topics: 2,
            written_at_ms: 0,
        })
    }

    fn down() -> View<Value> {
        Err(no_relay("refused")).into()
    }

    #[test]
    fn what_is_healthy() {
        let streaming = || View::Found(json!({"state": "streaming", "fault": null}));
        let halted = View::Found(json!({"state": "halted",
            "fault": {"code": "PB-1013", "message": "slot s", "hint": "fix it"}}));
        let lost: View<Checkpoint> = Err(Fault::new(Code::KafkaUnreachable, "no broker")).into();
        assert!(problems(&streaming(), &slot(true, "reserved"), &kafka()).is_empty());
        assert!(problems(&down(), &slot(true, "reserved"), &kafka()).is_empty(), "it runs elsewhere");
        for (count, found) in [
            (2, problems(&down(), &slot(false, "reserved"), &kafka())),
            (1, problems(&streaming(), &slot(true, "lost"), &kafka())),
            (1, problems(&streaming(), &slot(true, "reserved"), &lost)),
            (4, problems(&halted, &slot(false, "reserved"), &kafka())),
        ] {
            assert_eq!(found.len(), count, "{found:?}");
        }
    }

    #[test]
    fn the_table() {
        let relay = View::Found(json!({"state": "streaming", "events_total": 5, "confirmed_lsn": "0/10",
            "server_lsn": "0/20", "lag_bytes": 16, "housekeeping": [
                {"table": "public.outbox", "mode": "partitions", "partitions": 9, "sealed": 1, "dropped_total": 3,
                    "waits_for": "drop table public.x", "fault": null},
                {"table": "public.old", "mode": "delete", "deleted_total": 7,
                    "fault": {"code": "PB-1009", "message": "may not delete"}}]}));
        let mut kept = slot(true, "reserved");
        if let View::Found(slot) = &mut kept {
            slot.open_transaction = Some(OpenTransaction {
                name: "process 47 (psql)".to_owned(),
                state: "idle in transaction".to_owned(),
                seconds: 61,
                end: "SELECT pg_terminate_backend(47);".to_owned(),
            });
        }
        let overview = Overview {
            pipeline: "orders".to_owned(),
            healthy: true,
            problems: Vec::new(),
            lag_bytes: Some(16),
            relay,
            postgres: kept,
            kafka: kafka(),
        };
        assert_eq!(
            overview.table(),
            "pipeline orders: healthy\n\
             \x20 relay     streaming, 5 events, confirmed 0/10 of 0/20, 16 B behind\n\
             \x20           public.outbox: 9 partitions, 1 sealed, 3 dropped\n\
             \x20           waits for other transactions to drop table public.x\n\
             \x20           public.old: 7 rows deleted\n\
             \x20           PB-1009: may not delete\n\
             \x20 postgres  slot s active, confirmed 0/10, 16 B behind, 3.0 MiB of WAL kept (reserved)\n\
             \x20           WAL is kept for process 47 (psql), idle in transaction, open for 61 s; to end it: \
             SELECT pg_terminate_backend(47);\n\
             \x20 kafka     checkpoint epoch 1, resume 0/10, 2 topics\n"
        );
    }
}
