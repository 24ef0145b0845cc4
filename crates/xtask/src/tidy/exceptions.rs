//! The exceptions to the rules, each with its reason. Flat tables: a new row is a decision.
//!
//! Must never keep a row that is no longer needed: a stale row is a finding.

use super::source::Source;
use super::{Finding, layers, shape, words};

/// A file, and why it may do what others may not.
type Row = (&'static str, &'static str);

/// Files that may be longer than the limit because they are one flat table.
const FLAT_TABLES: &[Row] = &[];

/// Files that start threads or tasks: what they start, and what its end means.
const SPAWNS: &[Row] = &[
    (
        "crates/pillarbox-kafka/src/connection.rs",
        "a task a connection: ends with its handles; on its end all that is outstanding fails",
    ),
    (
        "crates/pillarbox-lab/src/process.rs",
        "one thread that starts all servers: they die with the thread that did",
    ),
    (
        "crates/pillarbox-lab/src/proxy/tasks.rs",
        "a task a connection of the fault proxy: ends with it, or with the proxy's runtime",
    ),
    ("crates/pillarbox-lab/src/sql.rs", "a thread a call, so that callers may be inside a runtime; joined"),
    (
        "crates/pillarbox-lab/src/workload.rs",
        "the thread of a workload and a task a writer; joined for their log",
    ),
    ("crates/pillarbox-lab/src/workload/writer.rs", "the connection's task: ends with its client"),
    (
        "crates/pillarbox-relay/src/pipeline/task.rs",
        "the threads and tasks of a pipeline: a panic in one ends the process",
    ),
    ("crates/pillarbox-relay/src/sql.rs", "the connection's task: ends with its client"),
    (
        "crates/pillarbox/src/relay.rs",
        "the HTTP interface beside a pipeline: its failure leaves the pipeline running",
    ),
    (
        "crates/pillarbox/src/dev/task.rs",
        "the shop, the watcher and the servers of `dev`; joined or ended with it",
    ),
    ("crates/pillarbox/src/tap.rs", "a task a partition: ends when its receiver is gone"),
    ("examples/read-your-writes/model.rs", "the connection's task: ends with its client"),
    ("examples/read-your-writes/service.rs", "connections' tasks: each ends with its client"),
    ("crates/pillarbox-sim/src/sweep.rs", "a thread a core, each with seeds of its own; joined"),
    ("crates/xtask/src/bench/stream.rs", "the writers and the reader of a bench; joined"),
    ("examples/consume/rust/src/main.rs", "the connection's task: ends with its client"),
];

/// Imports against the flow: `stage -> module`, and why the module is not the stage's own.
const EDGES: &[Row] = &[
    ("sink -> pipeline::board", "what the outside may see of the sink's work is one board, the pipeline's"),
    ("sink -> pipeline::intake", "sealed sets are handed over as values"),
    ("sink -> pipeline::messages", "what the threads tell each other, a plain list of values"),
];

pub(super) fn is_flat_table(path: &str) -> bool {
    FLAT_TABLES.iter().any(|(file, _)| *file == path)
}

pub(super) fn may_spawn(path: &str) -> bool {
    SPAWNS.iter().any(|(file, _)| *file == path)
}

pub(super) fn may_import(edge: &str) -> bool {
    EDGES.iter().any(|(row, _)| *row == edge)
}

/// Rows whose file is gone or does not need them any more.
pub(super) fn stale(sources: &[Source]) -> Vec<Finding> {
    let mut findings = stale_rows(FLAT_TABLES, sources, shape::is_long);
    findings.extend(stale_rows(SPAWNS, sources, words::spawns));
    let edges: Vec<String> =
        sources.iter().flat_map(layers::edges_against_the_flow).map(|(edge, _)| edge).collect();
    let unused = EDGES.iter().filter(|(row, _)| !edges.iter().any(|edge| edge == row));
    findings.extend(unused.map(stale_row));
    findings
}

fn stale_rows(rows: &[Row], sources: &[Source], needs: fn(&Source) -> bool) -> Vec<Finding> {
    let needed = |path: &str| sources.iter().any(|source| source.path == path && needs(source));
    rows.iter().filter(|(path, _)| !needed(path)).map(stale_row).collect()
}

fn stale_row((row, reason): &Row) -> Finding {
    Finding::new(row, 0, format!("exception no longer needed: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_need_is_found() {
        let rows =
            [("a.rs", "starts the reader"), ("b.rs", "started something once"), ("gone.rs", "was here")];
        let spawns = Source::new("a.rs", "//! A.\nfn f() { std::thread::spawn(g); }\n".into());
        let quiet = Source::new("b.rs", "//! B.\n".into());
        let found = stale_rows(&rows, &[spawns, quiet], words::spawns);
        let paths: Vec<&str> = found.iter().map(|finding| finding.path.as_str()).collect();
        assert_eq!(paths, ["b.rs", "gone.rs"]);
    }
}
