//! The exceptions to the rules, each with its reason. Two flat tables: a new row is a decision.
//!
//! Must never keep a row that is no longer needed: a stale row is a finding.

use super::source::Source;
use super::{Finding, shape, words};

/// A file, and why it may do what others may not.
type Row = (&'static str, &'static str);

/// Files that may be longer than the limit because they are one flat table.
const FLAT_TABLES: &[Row] = &[];

/// Files that start threads or tasks, and what they start.
const SPAWNS: &[Row] = &[
    (
        "crates/pillarbox-lab/src/process.rs",
        "one thread that starts all servers: they die with the thread that did",
    ),
    (
        "crates/pillarbox-lab/src/sql.rs",
        "a thread per blocking SQL call, so that callers may be inside a runtime",
    ),
];

pub(super) fn is_flat_table(path: &str) -> bool {
    FLAT_TABLES.iter().any(|(file, _)| *file == path)
}

pub(super) fn may_spawn(path: &str) -> bool {
    SPAWNS.iter().any(|(file, _)| *file == path)
}

/// Rows whose file is gone or does not need them any more.
pub(super) fn stale(sources: &[Source]) -> Vec<Finding> {
    let mut findings = stale_rows(FLAT_TABLES, sources, shape::is_long);
    findings.extend(stale_rows(SPAWNS, sources, words::spawns));
    findings
}

fn stale_rows(rows: &[Row], sources: &[Source], needs: fn(&Source) -> bool) -> Vec<Finding> {
    let needed = |path: &str| sources.iter().any(|source| source.path == path && needs(source));
    let stale = rows.iter().filter(|(path, _)| !needed(path));
    stale
        .map(|(path, reason)| Finding::new(path, 0, format!("exception no longer needed: {reason}")))
        .collect()
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
