//! What a running pipeline says of itself: one immutable snapshot, replaced as a whole.
//!
//! `status -o json`, `/readyz` and the terminal all show this value and nothing else. It carries
//! positions and counts, never a payload or a key.

use std::sync::Arc;

use pillarbox_wire::lsn::Lsn;
use serde::Serialize;

use crate::config::TableName;
use crate::error::Fault;

/// Where in its life the pipeline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Connecting, reading the checkpoint, fencing predecessors.
    Starting,
    /// Another relay owns the slot; waiting to take over.
    StandingBy,
    /// Relaying.
    Streaming,
    /// Owning the slot, committing nothing new, until resumed.
    Paused,
    /// Committing and confirming what is in flight before it stops.
    Draining,
    /// A person must act.
    Halted,
    /// Ended.
    Stopped,
}

/// A snapshot of a pipeline.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The pipeline's name.
    pub pipeline: String,
    /// Where in its life it is.
    pub state: State,
    /// Why it is not streaming, if it is not.
    pub fault: Option<FaultView>,
    /// Position of the last committed event, 32 hex digits.
    pub position: Option<String>,
    /// The last LSN confirmed to Postgres.
    pub confirmed_lsn: String,
    /// The end of WAL that Postgres last spoke of.
    pub server_lsn: String,
    /// Bytes of WAL between `server_lsn` and `confirmed_lsn`.
    pub lag_bytes: u64,
    /// Events committed to Kafka since this process started.
    pub events_total: u64,
    /// Rows committed to dead letters since this process started.
    pub dead_letters_total: u64,
    /// Source transactions with events committed since this process started.
    pub transactions_total: u64,
    /// Kafka transactions committed since this process started.
    pub commits_total: u64,
    /// Times that this process began to stream.
    pub starts_total: u64,
    /// The outbox tables that are kept small.
    pub housekeeping: Vec<Kept>,
}

/// How an outbox table is kept small; totals are since this process started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// The table.
    pub table: String,
    /// `partitions` or `delete`.
    pub mode: &'static str,
    /// Partitions that take part in the table.
    pub partitions: usize,
    /// Partitions that take no more rows and wait until everything in them was relayed.
    pub sealed: usize,
    /// For how long from the last look there are partitions for new rows.
    pub covered_seconds: u64,
    /// Partitions made.
    pub created_total: u64,
    /// Partitions dropped.
    pub dropped_total: u64,
    /// Rows deleted.
    pub deleted_total: u64,
    /// What a transaction of somebody else is in the way of.
    pub waits_for: Option<String>,
    /// Why the last round did not do everything.
    pub fault: Option<FaultView>,
}

impl Kept {
    /// A table of which nothing is known yet.
    pub(crate) fn new(table: &TableName, mode: &'static str) -> Self {
        Self {
            table: table.to_string(),
            mode,
            partitions: 0,
            sealed: 0,
            covered_seconds: 0,
            created_total: 0,
            dropped_total: 0,
            deleted_total: 0,
            waits_for: None,
            fault: None,
        }
    }
}

/// A [`Fault`] for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FaultView {
    /// `PB-nnnn`.
    pub code: String,
    /// What was attempted, on which object.
    pub message: String,
    /// Why it failed.
    pub cause: Option<String>,
    /// The command or setting that repairs it.
    pub hint: Option<String>,
}

impl From<&Fault> for FaultView {
    fn from(fault: &Fault) -> Self {
        Self {
            code: fault.code.to_string(),
            message: fault.message.clone(),
            cause: fault.cause.clone(),
            hint: fault.hint.clone(),
        }
    }
}

impl Status {
    /// The status of a pipeline that has done nothing yet.
    pub fn new(pipeline: &str) -> Arc<Self> {
        Arc::new(Self {
            pipeline: pipeline.to_owned(),
            state: State::Starting,
            fault: None,
            position: None,
            confirmed_lsn: Lsn::ZERO.to_string(),
            server_lsn: Lsn::ZERO.to_string(),
            lag_bytes: 0,
            events_total: 0,
            dead_letters_total: 0,
            transactions_total: 0,
            commits_total: 0,
            starts_total: 0,
            housekeeping: Vec::new(),
        })
    }
}
