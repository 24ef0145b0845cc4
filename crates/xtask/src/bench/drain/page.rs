//! The page of `bench drain` and `bench transaction`. Must never show a median without its range.

use super::{Measured, RelayRun, Result};
use crate::baseline;
use crate::budget::{self, Budget};
use crate::statistics::cell;

/// The page of a result.
pub(super) fn markdown(result: &Result, rounds: u32) -> String {
    let Result { events, rows, rows_per_transaction, payload, wal_bytes, baseline, relays, .. } = result;
    let events = events.name();
    let per_event = 1.0 / 1e6 * *rows as f64;
    let base = |get: fn(&baseline::Run) -> f64, unit, decimals| {
        cell(baseline.iter().map(|run| Some(get(run))), unit, decimals)
    };
    let ours = |get: fn(&RelayRun) -> Option<f64>, unit, decimals| {
        let cells = relays.iter().map(|relay| cell(relay.runs.iter().map(get), unit, decimals));
        cells.collect::<Vec<_>>().join(" | ")
    };
    let each = |get: &dyn Fn(&Measured) -> String| relays.iter().map(get).collect::<Vec<_>>().join(" | ");
    let none = || "-".to_owned();
    let ended = |relay: &Measured| relay.runs.iter().filter(|run| run.ended_in_order).count().to_string();
    let ratio =
        |relay: &Measured| relay.ratio.map_or_else(none, |ratio| format!("**{}**", ratio.text(1.0, 2)));
    let whole = format!("{events}/s, process start to the last, thousands");
    let from_first = format!("{events}/s from the first commit, thousands");
    let rate = (whole.as_str(), base(|r| r.rate, 1e3, 1));
    let client = ("client CPU, us per event", base(|r| r.client_cpu_s, per_event, 2));
    let walsender = ("walsender CPU, us per event", base(|r| r.walsender_cpu_s, per_event, 2));
    let others = ("CPU of others, cores", base(|r| r.foreign_cores, 1.0, 2));
    let memory = |r: &RelayRun| r.relay_memory_peak_bytes.map(|bytes| bytes as f64);
    let lines = [
        (rate, ours(|r| Some(r.rate), 1e3, 1)),
        (("the same against pg_recvlogical in its round", none()), each(&ratio)),
        ((&from_first, none()), ours(|r| r.rate_from_first_commit, 1e3, 1)),
        (("process start to first commit, s", none()), ours(|r| Some(r.first_commit_seconds), 1.0, 2)),
        (client, ours(|r| Some(r.relay_cpu_us_per_event), 1.0, 2)),
        (walsender, ours(|r| Some(r.walsender_cpu_s), per_event, 2)),
        (("broker CPU, us per event", none()), ours(|r| Some(r.broker_cpu_s), per_event, 2)),
        (("peak resident memory, MiB", none()), ours(memory, 1048576.0, 1)),
        (("Kafka transactions", none()), ours(|r| r.kafka_commits.map(|n| n as f64), 1.0, 0)),
        (("ended in order after SIGTERM, runs", none()), each(&ended)),
        (others, ours(|r| Some(r.foreign_cores), 1.0, 2)),
    ];
    let table: String =
        lines.iter().map(|((what, base), ours)| format!("| {what} | {base} | {ours} |\n")).collect();
    let table = table + &budgets(relays);
    let others = otherwise(result);
    format!(
        "Backlog of {rows} {events}, {rows_per_transaction} a transaction, payload of type {}, {} MB of WAL; median \
         (min-max) of {rounds} runs, arms in turns. The topic was read back after every run of a relay: each event once, \
         in commit order.\n\n\
         | | pg_recvlogical to null | {} |\n| --- | --- |{}\n{table}{others}",
        payload.name(),
        wal_bytes >> 20,
        each(&|relay| format!("pillarbox into Kafka, {}", relay.binary)),
        " --- |".repeat(relays.len()),
    )
}

/// Where the relay's time went.
fn budgets(relays: &[Measured]) -> String {
    let row = |what: String, get: &dyn Fn(&Budget) -> Option<f64>, decimals| {
        let value = |run: &RelayRun| run.budget.as_ref().and_then(get);
        let cells = relays.iter().map(|relay| cell(relay.runs.iter().map(value), 1.0, decimals));
        format!("| {what} | - | {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let stages = budget::STAGES.iter().map(|stage| {
        let what = format!("reader thread, {stage}, us per event");
        row(what, &|budget| budget::of(&budget.reader_us_per_event, stage), 2)
    });
    let waits = budget::waits().map(|wait| {
        let what = format!("a Kafka transaction waits for {wait}, ms");
        row(what, &|budget| budget::of(&budget.waits_ms_per_commit, wait), 1)
    });
    stages.chain(waits).collect()
}

/// How `pg_recvlogical` does when it asks for the same in other ways.
fn otherwise(result: &Result) -> String {
    let Result { events, rows, readings, .. } = result;
    if readings.is_empty() {
        return String::new();
    }
    let per_event = 1.0 / 1e6 * *rows as f64;
    let mut text = format!(
        "\n| pg_recvlogical, otherwise | {}/s, thousands | walsender CPU, us per event |\n| --- | --- | --- |\n",
        events.name()
    );
    for (reading, runs) in readings {
        let rate = cell(runs.iter().map(|run| Some(run.rate)), 1e3, 1);
        let walsender = cell(runs.iter().map(|run| Some(run.walsender_cpu_s)), per_event, 2);
        text += &format!("| {} | {rate} | {walsender} |\n", reading.name());
    }
    text
}
