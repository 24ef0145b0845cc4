//! Where the time went, as the relay's own metrics tell it.
//!
//! Must never take the metrics of another pipeline for those of the run.

use serde::Serialize;

/// What the reader thread did, and what Kafka transactions waited for. See `docs/metrics.md`.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Budget {
    /// The stage, and its microseconds an event.
    pub(crate) reader_us_per_event: Vec<(String, f64)>,
    /// What is waited for, and its milliseconds a Kafka transaction.
    pub(crate) waits_ms_per_commit: Vec<(String, f64)>,
}

/// Stages of the reader, in the order of an event.
pub(crate) const STAGES: [&str; 5] = ["wait", "read", "take", "seal", "attend"];
/// Waits, in the order of an event, each with its metric.
const WAITS: [(&str, &str); 4] = [
    ("fill", "pillarbox_fill_seconds"),
    ("queue", "pillarbox_queue_seconds"),
    ("Produce", "pillarbox_kafka_produce_seconds"),
    ("EndTxn", "pillarbox_kafka_end_txn_seconds"),
];

impl Budget {
    /// Reads a scrape; `None` when something is missing in it.
    pub(crate) fn parse(scrape: &str, pipeline: &str) -> Option<Self> {
        let pipeline = format!("pipeline=\"{pipeline}\"");
        let value = |name: &str, labels: &[&str]| {
            let line = scrape.lines().find(|line| {
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
                    && line.contains(&pipeline)
                    && labels.iter().all(|label| line.contains(label))
            });
            line?.rsplit(' ').next()?.parse::<f64>().ok()
        };
        let events = value("pillarbox_events_total", &[])?;
        let reader = |stage: &&str| {
            let sum = value("pillarbox_reader_seconds_sum", &[&format!("stage=\"{stage}\"")])?;
            Some(((*stage).to_owned(), sum * 1e6 / events))
        };
        let wait = |(name, metric): &(&str, &str)| {
            let (sum, count) =
                (value(&format!("{metric}_sum"), &[])?, value(&format!("{metric}_count"), &[])?);
            Some(((*name).to_owned(), sum * 1e3 / count))
        };
        Some(Self {
            reader_us_per_event: STAGES.iter().map(reader).collect::<Option<_>>()?,
            waits_ms_per_commit: WAITS.iter().map(wait).collect::<Option<_>>()?,
        })
    }
}

/// The names of the waits.
pub(crate) fn waits() -> impl Iterator<Item = &'static str> {
    WAITS.into_iter().map(|(name, _)| name)
}

/// What a budget has under a name.
pub(crate) fn of(list: &[(String, f64)], name: &str) -> Option<f64> {
    list.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape() -> String {
        let mut text =
            "pillarbox_events_total{pipeline=\"other\"} 7\npillarbox_events_total{pipeline=\"bench\"} 1000\n"
                .to_owned();
        for (n, stage) in STAGES.iter().enumerate() {
            text +=
                &format!("pillarbox_reader_seconds_sum{{pipeline=\"bench\",stage=\"{stage}\"}} 0.00{n}\n");
        }
        for (n, (_, metric)) in WAITS.iter().enumerate() {
            text += &format!(
                "{metric}_sum{{pipeline=\"bench\"}} 0.{n}\n{metric}_count{{pipeline=\"bench\"}} 10\n"
            );
        }
        text
    }

    #[test]
    fn times_are_told_per_event_and_per_commit() {
        let budget = Budget::parse(&scrape(), "bench").expect("complete");
        assert_eq!(of(&budget.reader_us_per_event, "take"), Some(2.0));
        assert_eq!(of(&budget.waits_ms_per_commit, "Produce"), Some(20.0));
        assert!(Budget::parse(&scrape(), "another").is_none());
        assert!(Budget::parse(&scrape().replace("stage=\"seal\"", "stage=\"sealed\""), "bench").is_none());
    }
}
