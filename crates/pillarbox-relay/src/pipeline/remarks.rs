//! What a running relay remarks of the rows that pass: things that somebody should know, at most once a minute each.
//!
//! Must never say what stands in a row, and never change what becomes of it.

use std::time::{Duration, Instant};

use super::board::Board;
use super::intake::{Intake, UpdatesSeen};
use crate::error::{Code, Fault};

/// Between two remarks of the same kind.
const INTERVAL: Duration = Duration::from_secs(60);

/// What was told, and when.
#[derive(Debug, Default)]
pub(crate) struct Remarks {
    /// Events that carry the relay's time.
    retimed: u64,
    retimed_at: Option<Instant>,
    /// Dead letters, and orders about them that nobody understands.
    letters: (u64, u64),
    letters_at: Option<Instant>,
    /// Updates of outbox rows.
    updates: UpdatesSeen,
    updates_at: Option<Instant>,
    /// Messages outside of transactions: counted, and warned of once.
    strays: u64,
    /// Rows of other shards.
    foreign: u64,
    foreign_at: Option<Instant>,
}

/// Whether something may be told that was told last at this time.
fn is_due(told_at: Option<Instant>) -> bool {
    told_at.is_none_or(|at| at.elapsed() >= INTERVAL)
}

impl Remarks {
    /// Tells what is new since the last look.
    pub(crate) fn look(&mut self, intake: &Intake, board: &Board) {
        self.retimed(intake.retimed());
        self.letters(intake);
        self.updates(intake.updates());
        self.strays(intake.strays(), board);
        self.foreign(intake.foreign());
    }

    /// Consumers see the relay's time on such records.
    fn retimed(&mut self, retimed: u64) {
        if retimed > self.retimed && is_due(self.retimed_at) {
            tracing::warn!(
                events = retimed - self.retimed,
                "commit times are older than half of the topic's retention, or beyond what it takes: records carry the relay's time and pb-ts"
            );
            (self.retimed, self.retimed_at) = (retimed, Some(Instant::now()));
        }
    }

    /// Somebody has to look after them.
    fn letters(&mut self, intake: &Intake) {
        let seen = intake.letters();
        let now = (seen.letters, seen.strange);
        if now == self.letters || !is_due(self.letters_at) {
            return;
        }
        if let Some(Fault { code: reason, message, cause, .. }) = &seen.last
            && seen.letters > self.letters.0
        {
            let rows = seen.letters - self.letters.0;
            let code = Code::DeadLettered;
            tracing::warn!(%code, rows, %reason, cause, "to dead letters, the last of them: {message}");
        }
        if seen.strange > self.letters.1 {
            let orders = seen.strange - self.letters.1;
            tracing::warn!(orders, "orders about dead letters could not be understood and were ignored");
        }
        (self.letters, self.letters_at) = (now, Some(Instant::now()));
    }

    /// Somebody may believe that an update gives an event.
    fn updates(&mut self, now: UpdatesSeen) {
        let told = self.updates;
        if now == told || !is_due(self.updates_at) {
            return;
        }
        let code = Code::OutboxUpdated;
        if now.errors > told.errors {
            tracing::error!(%code, rows = now.errors - told.errors, "updates of outbox rows give no events");
        }
        if now.warnings > told.warnings {
            tracing::warn!(%code, rows = now.warnings - told.warnings, "updates of outbox rows give no events");
        }
        (self.updates, self.updates_at) = (now, Some(Instant::now()));
    }

    /// The publication had another filter. Whether own rows are missing nobody can tell from the stream.
    fn foreign(&mut self, foreign: u64) {
        if foreign > self.foreign && is_due(self.foreign_at) {
            let rows = foreign - self.foreign;
            let code = Code::PublicationLacksTable;
            tracing::warn!(%code, rows, "rows of other shards are left to their pipelines: the publication had another filter when they were written; if it was ever narrower than the shard, compare the table with the topics");
            (self.foreign, self.foreign_at) = (foreign, Some(Instant::now()));
        }
    }

    /// A warning for the first: they are refused by rule, not by mistake.
    fn strays(&mut self, strays: u64, board: &Board) {
        if strays == self.strays {
            return;
        }
        if self.strays == 0 {
            tracing::warn!(
                code = %Code::StrayMessage,
                "a message with the prefix of events was written outside of a transaction: it may come from one that rolled back and is not relayed; emit with transactional = true"
            );
        }
        board.refused(strays - self.strays);
        self.strays = strays;
    }
}
