//! What Prometheus reads: what the engine records, and the few gauges that follow from the
//! [`Status`].
//!
//! Names have the prefix `pillarbox_` and base units. Labels are of few values: never a key, a
//! topic's row or a transaction id.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use pillarbox_relay::error::{Code, Fault};
use pillarbox_relay::pipeline::status::{State, Status};

/// Upper bounds of latency histograms in seconds: 1 ms is the goal, 10 s is broken.
const LATENCY_BOUNDS_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 10.0];

/// How often histograms are folded: they grow with every sample until then.
pub(crate) const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Recorded by the engine; described here, where their readers are.
const RECORDED: &[(&str, Unit, &str)] = &[
    ("pillarbox_events_total", Unit::Count, "Events committed to Kafka"),
    ("pillarbox_dead_letters_total", Unit::Count, "Rows committed to dead letters"),
    ("pillarbox_transactions_total", Unit::Count, "Source transactions with events committed to Kafka"),
    ("pillarbox_kafka_commits_total", Unit::Count, "Kafka transactions committed"),
    (
        "pillarbox_event_latency_seconds",
        Unit::Seconds,
        "From the COMMIT in Postgres of the last event of a Kafka transaction to its commit there, by two clocks",
    ),
    (
        "pillarbox_reader_seconds",
        Unit::Seconds,
        "What the thread that reads WAL did since the last Kafka transaction, by stage",
    ),
    (
        "pillarbox_fill_seconds",
        Unit::Seconds,
        "From the first event of a Kafka transaction until it is sealed",
    ),
    ("pillarbox_queue_seconds", Unit::Seconds, "From sealing a Kafka transaction until its first Produce"),
    ("pillarbox_kafka_commit_seconds", Unit::Seconds, "From handing events to Kafka to their commit"),
    ("pillarbox_kafka_produce_seconds", Unit::Seconds, "Of a commit, waiting for Produce"),
    ("pillarbox_kafka_end_txn_seconds", Unit::Seconds, "Of a commit, waiting for EndTxn"),
    (
        "pillarbox_messages_refused_total",
        Unit::Count,
        "Messages with the prefix of events that were written outside of a transaction",
    ),
    ("pillarbox_replication_lag_bytes", Unit::Bytes, "WAL between the server's end and what was confirmed"),
    ("pillarbox_housekeeping_deleted_rows_total", Unit::Count, "Relayed rows deleted from an outbox table"),
    (
        "pillarbox_housekeeping_dropped_partitions_total",
        Unit::Count,
        "Relayed partitions of an outbox table dropped",
    ),
    (
        "pillarbox_housekeeping_failures_total",
        Unit::Count,
        "Rounds of housekeeping that could not do everything",
    ),
    ("pillarbox_outbox_partitions", Unit::Count, "Partitions of an outbox table"),
    (
        "pillarbox_outbox_covered_seconds",
        Unit::Count,
        "For how long there are partitions for new rows of an outbox table",
    ),
    ("pillarbox_leader", Unit::Count, "1 while this process leads: it streams, is paused or drains"),
];

/// Those that are written here.
const DERIVED: &[(&str, Unit, &str); 3] = &[
    (STARTS, Unit::Count, "Times that this process began to stream, resumes included"),
    (HALTED, Unit::Count, "1 while a person must act"),
    (BUILD, Unit::Count, "Always 1; the version is a label"),
];

const STARTS: &str = "pillarbox_starts_total";
const HALTED: &str = "pillarbox_halted";
const BUILD: &str = "pillarbox_build_info";

/// Renders what was recorded.
#[derive(Clone)]
pub(crate) struct Scrape {
    handle: PrometheusHandle,
}

/// Makes this process record; once.
///
/// # Errors
/// A second call, or bounds that are no bounds: both are bugs.
pub(crate) fn install() -> Result<Scrape, Fault> {
    let broken = |error: &dyn std::fmt::Display| {
        Fault::new(Code::Internal, "cannot install the metrics recorder").because(error)
    };
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), LATENCY_BOUNDS_SECONDS)
        .map_err(|error| broken(&error))?;
    let handle = builder.install_recorder().map_err(|error| broken(&error))?;
    describe();
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(Scrape { handle })
}

fn describe() {
    for (name, unit, text) in RECORDED {
        match *name {
            name if name.ends_with("_total") => describe_counter!(name, *unit, *text),
            name if name.ends_with("_seconds") => describe_histogram!(name, *unit, *text),
            name => describe_gauge!(name, *unit, *text),
        }
    }
    let [(starts, _, started), (halted, _, stands), (build, _, version)] = DERIVED;
    describe_counter!(*starts, *started);
    describe_gauge!(*halted, *stands);
    describe_gauge!(*build, *version);
}

impl Scrape {
    /// The text of a scrape, with what follows from `status`.
    pub(crate) fn render(&self, status: &Status) -> String {
        let labels = [("pipeline", status.pipeline.clone())];
        counter!(STARTS, &labels).absolute(status.starts_total);
        gauge!(HALTED, &labels).set(f64::from(u8::from(status.state == State::Halted)));
        self.handle.render()
    }

    /// Folds histograms; called every [`UPKEEP_INTERVAL`].
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_metrics_says_what_is_recorded() {
        let page = include_str!("../../../../docs/metrics.md");
        let rows: Vec<(&str, &str)> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `pillarbox_")?.split_once("` | "))
            .filter_map(|(name, rest)| Some((name, rest.rsplit(" | ").next()?.trim_end_matches(" |"))))
            .collect();
        for (name, _, text) in RECORDED.iter().chain(DERIVED) {
            let short = name.trim_start_matches("pillarbox_");
            assert!(rows.contains(&(short, *text)), "docs/metrics.md lacks {name}: {text}");
        }
        assert_eq!(rows.len(), RECORDED.len() + DERIVED.len(), "docs/metrics.md has more: {rows:?}");
    }
}
