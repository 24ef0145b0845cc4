//! Where the threads of a pipeline leave what they know for whoever asks: one immutable
//! [`Status`], replaced as a whole, and the metrics.
//!
//! Written per commit and per status update, never per event. Never read by a decision.

use std::sync::Arc;
use std::time::Duration;

use pillarbox_wire::lsn::Lsn;
use pillarbox_wire::position::Position;
use tokio::sync::watch;

use super::arrivals::Arrivals;
use super::budget::Stage;
use super::status::{FaultView, Kept, State, Status};
use crate::error::Fault;

/// The shared status.
pub(crate) struct Board {
    /// What has reached Kafka.
    pub(crate) arrivals: Arc<Arrivals>,
    status: watch::Sender<Arc<Status>>,
    /// The state alone: whoever waits for it sleeps through commits.
    state: watch::Sender<State>,
    /// What the sink of a start is at, for a message about one that takes too long.
    step: watch::Sender<&'static str>,
    events: metrics::Counter,
    dead_letters: metrics::Counter,
    transactions: metrics::Counter,
    commits: metrics::Counter,
    latency: metrics::Histogram,
    /// What the reader does for a set, by stage.
    reader: [metrics::Histogram; Stage::ALL.len()],
    fill: metrics::Histogram,
    queue: metrics::Histogram,
    whole: metrics::Histogram,
    produce: metrics::Histogram,
    end_txn: metrics::Histogram,
    strays: metrics::Counter,
    lag_bytes: metrics::Gauge,
    leader: metrics::Gauge,
}

/// One committed Kafka transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Commit {
    pub(crate) events: usize,
    pub(crate) dead_letters: usize,
    pub(crate) transactions: usize,
    pub(crate) last: Option<Position>,
    /// From the last event's commit in Postgres until EndTxn was answered, by two clocks.
    pub(crate) latency_ms: Option<i64>,
    /// From sealing the set until it was handed to the producer.
    pub(crate) queued: Duration,
    /// From handing the set to the producer until EndTxn was answered.
    pub(crate) whole: Duration,
    /// The part of it spent waiting for Produce.
    pub(crate) produce: Duration,
    /// The part of it spent waiting for EndTxn.
    pub(crate) end_txn: Duration,
}

impl Board {
    pub(crate) fn new(pipeline: &str) -> Self {
        let labels = [("pipeline", pipeline.to_owned())];
        Self {
            arrivals: Arc::new(Arrivals::new(pipeline)),
            status: watch::Sender::new(Status::new(pipeline)),
            state: watch::Sender::new(Status::new(pipeline).state),
            step: watch::Sender::new("connecting to Kafka"),
            events: metrics::counter!("pillarbox_events_total", &labels),
            dead_letters: metrics::counter!("pillarbox_dead_letters_total", &labels),
            transactions: metrics::counter!("pillarbox_transactions_total", &labels),
            commits: metrics::counter!("pillarbox_kafka_commits_total", &labels),
            latency: metrics::histogram!("pillarbox_event_latency_seconds", &labels),
            reader: Stage::ALL.map(|stage| {
                let labels = [labels[0].clone(), ("stage", stage.name().to_owned())];
                metrics::histogram!("pillarbox_reader_seconds", &labels)
            }),
            fill: metrics::histogram!("pillarbox_fill_seconds", &labels),
            queue: metrics::histogram!("pillarbox_queue_seconds", &labels),
            whole: metrics::histogram!("pillarbox_kafka_commit_seconds", &labels),
            produce: metrics::histogram!("pillarbox_kafka_produce_seconds", &labels),
            end_txn: metrics::histogram!("pillarbox_kafka_end_txn_seconds", &labels),
            strays: metrics::counter!("pillarbox_messages_refused_total", &labels),
            lag_bytes: metrics::gauge!("pillarbox_replication_lag_bytes", &labels),
            leader: metrics::gauge!("pillarbox_leader", &labels),
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    pub(crate) fn subscribe_state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// The pipeline is in this state now; gives whether it was in another.
    pub(crate) fn state(&self, state: State, fault: Option<&Fault>) -> bool {
        let leads = matches!(state, State::Streaming | State::Paused | State::Draining);
        self.leader.set(f64::from(u8::from(leads)));
        let mut changed = false;
        self.update(|status| {
            changed = status.state != state;
            if state == State::Streaming && changed {
                status.starts_total += 1;
            }
            status.state = state;
            status.fault = fault.map(FaultView::from);
        });
        if changed {
            self.state.send_replace(state);
        }
        self.arrivals.nudge();
        changed
    }

    /// A start is at this step now; gives the one before.
    pub(crate) fn begin_step(&self, step: &'static str) -> &'static str {
        self.step.send_replace(step)
    }

    /// See [`Self::begin_step`].
    pub(crate) fn step(&self) -> &'static str {
        *self.step.borrow()
    }

    pub(crate) fn confirmed(&self, confirmed: Lsn, server: Lsn) {
        let lag = server.0.saturating_sub(confirmed.0);
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        self.lag_bytes.set(lag as f64);
        self.update(|status| {
            status.confirmed_lsn = confirmed.to_string();
            status.server_lsn = server.to_string();
            status.lag_bytes = lag;
        });
    }

    /// So many more messages were refused.
    pub(crate) fn refused(&self, messages: u64) {
        self.strays.increment(messages);
    }

    /// The reader handed a set to the sink.
    pub(crate) fn handed_over(&self, filled_for: Duration, spent: [Duration; Stage::ALL.len()]) {
        self.fill.record(filled_for.as_secs_f64());
        for (stage, spent) in self.reader.iter().zip(spent) {
            stage.record(spent.as_secs_f64());
        }
    }

    pub(crate) fn committed(&self, commit: Commit) {
        self.events.increment(commit.events as u64);
        self.dead_letters.increment(commit.dead_letters as u64);
        self.transactions.increment(commit.transactions as u64);
        self.commits.increment(1);
        if let Some(latency_ms) = commit.latency_ms {
            #[expect(clippy::cast_precision_loss, reason = "a histogram takes floats")]
            self.latency.record(latency_ms.max(0) as f64 / 1000.0);
        }
        self.queue.record(commit.queued.as_secs_f64());
        self.whole.record(commit.whole.as_secs_f64());
        self.produce.record(commit.produce.as_secs_f64());
        self.end_txn.record(commit.end_txn.as_secs_f64());
        self.update(|status| {
            status.events_total += commit.events as u64;
            status.dead_letters_total += commit.dead_letters as u64;
            status.transactions_total += commit.transactions as u64;
            status.commits_total += 1;
            if let Some(last) = commit.last {
                status.position = Some(last.to_string());
            }
        });
    }

    pub(crate) fn kept(&self, tables: Vec<Kept>) {
        self.update(|status| status.housekeeping = tables);
    }

    fn update(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(|status| change(Arc::make_mut(status)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_new_once_and_so_is_a_start() {
        let board = Board::new("orders");
        let told = [State::Starting, State::Streaming, State::Streaming, State::Starting, State::Streaming]
            .map(|state| board.state(state, None));
        assert_eq!(told, [false, true, false, true, true]);
        assert_eq!(board.subscribe().borrow().starts_total, 2);
        assert_eq!(*board.subscribe_state().borrow(), State::Streaming);
    }

    #[test]
    fn whoever_waits_for_a_state_sleeps_through_commits() {
        let board = Board::new("orders");
        let (status, state) = (board.subscribe(), board.subscribe_state());
        board.confirmed(Lsn(1), Lsn(2));
        assert!(status.has_changed().expect("it lives") && !state.has_changed().expect("it lives"));
        board.state(State::Streaming, None);
        assert!(state.has_changed().expect("it lives"));
    }
}
