//! Shape rules: a file has one subject and says which, a function fits on a screen, names carry meaning.
//!
//! Must never count test modules into the length of a file: they belong to their subject.

use std::fmt;

use super::source::Source;
use super::{Finding, exceptions};

/// The longest function, in lines: what fits on a screen.
const FUNCTION_LINES_MAX: usize = 70;
/// From this length on a file is worth a second look, in lines without test modules.
const FILE_LINES_AIM: usize = 400;
/// The longest file, unless it is a flat table.
const FILE_LINES_MAX: usize = 700;
/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 7] = ["utils", "util", "common", "types", "helpers", "helper", "manager"];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(name(source));
    let Some(rust) = &source.rust else { return findings };
    findings.extend(opening(source));
    match rust {
        Err(error) => findings.push(Finding::new(&source.path, 0, format!("does not parse: {error}"))),
        Ok(_) => {
            findings.extend(functions(source));
            findings.extend(length(source));
        }
    }
    findings
}

/// A Rust file or folder has a name that means something.
fn name(source: &Source) -> Option<Finding> {
    let path = source.path.strip_suffix(".rs")?;
    let empty = path.split('/').find(|part| EMPTY_NAMES.contains(part))?;
    Some(Finding::new(&source.path, 0, format!("`{empty}` says nothing about what is inside")))
}

/// A Rust file says in its first line what it is for.
fn opening(source: &Source) -> Option<Finding> {
    let says =
        source.text.lines().next().is_some_and(|line| line.starts_with("//! ") && line.len() > "//! ".len());
    (!says).then(|| {
        Finding::new(&source.path, 1, "a file opens with `//!`: what it is for, what it must never do")
    })
}

fn functions(source: &Source) -> Vec<Finding> {
    let functions = source.rust().map(|rust| rust.functions.as_slice()).unwrap_or_default();
    let long = functions.iter().filter(|function| function.length > FUNCTION_LINES_MAX);
    long.map(|function| {
        let message =
            format!("`{}` has {} lines, at most {FUNCTION_LINES_MAX}", function.name, function.length);
        Finding::new(&source.path, function.line, message)
    })
    .collect()
}

fn length(source: &Source) -> Option<Finding> {
    let lines = source.lines_without_tests();
    if lines <= FILE_LINES_AIM || exceptions::is_flat_table(&source.path) {
        return None;
    }
    let message =
        format!("{lines} lines without tests; a file has one subject, about {FILE_LINES_AIM} lines");
    Some(Finding { warning: lines <= FILE_LINES_MAX, ..Finding::new(&source.path, 0, message) })
}

/// True if the file needs its place among the flat tables.
pub(super) fn is_long(source: &Source) -> bool {
    source.lines_without_tests() > FILE_LINES_AIM
}

/// How long functions are, for the summary line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lengths {
    count: usize,
    p90: usize,
    longest: usize,
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lengths { count, p90, longest } = self;
        write!(f, "{count} functions, nine in ten within {p90} lines (aim 30), longest {longest}")
    }
}

pub(super) fn function_lengths(sources: &[Source]) -> Lengths {
    let functions = sources.iter().filter_map(Source::rust).flat_map(|rust| &rust.functions);
    let mut lengths: Vec<usize> = functions.map(|function| function.length).collect();
    lengths.sort_unstable();
    let p90 = lengths.get((lengths.len() * 9).div_ceil(10).saturating_sub(1)).copied().unwrap_or(0);
    Lengths { count: lengths.len(), p90, longest: lengths.last().copied().unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: String) -> Vec<String> {
        check(&Source::new(path, text)).into_iter().map(|finding| finding.to_string()).collect()
    }

    fn function(lines: usize) -> String {
        format!("//! A.\nfn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2))
    }

    #[test]
    fn a_clean_file_has_no_finding() {
        assert_eq!(messages("crates/a/src/b.rs", function(FUNCTION_LINES_MAX)), Vec::<String>::new());
    }

    #[test]
    fn each_planted_violation_is_found() {
        let constants = |lines: usize| format!("//! A.\n{}", "const A: u8 = 0;\n".repeat(lines));
        let cases = [
            ("crates/a/src/b.rs", "fn f() {}\n".into(), "b.rs:1: a file opens with `//!`"),
            ("crates/a/src/b.rs", "//!\nfn f() {}\n".into(), "b.rs:1: a file opens with `//!`"),
            ("crates/a/src/b.rs", function(FUNCTION_LINES_MAX + 1), "b.rs:2: `f` has 71 lines"),
            ("crates/a/src/b.rs", constants(FILE_LINES_AIM), "warning: crates/a/src/b.rs: 401 lines"),
            ("crates/a/src/b.rs", constants(FILE_LINES_MAX), "tidy: crates/a/src/b.rs: 701 lines"),
            ("crates/a/src/utils.rs", "//! A.\n".into(), "`utils` says nothing"),
            ("crates/a/src/manager/mod.rs", "//! A.\n".into(), "`manager` says nothing"),
            ("crates/a/src/b.rs", "//! A.\nfn f( {}\n".into(), "does not parse"),
        ];
        for (path, text, expected) in cases {
            let found = messages(path, text);
            assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
        }
    }

    #[test]
    fn a_test_module_does_not_make_a_file_long() {
        let tests = "    const A: u8 = 0;\n".repeat(FILE_LINES_MAX);
        let text = format!("//! A.\n#[cfg(test)]\nmod tests {{\n{tests}}}\n");
        assert_eq!(messages("crates/a/src/b.rs", text), Vec::<String>::new());
    }

    #[test]
    fn p90_is_the_length_nine_in_ten_stay_within() {
        let text = |lines: usize| Source::new("a.rs", function(lines));
        let sources: Vec<Source> = (2..12).map(text).collect();
        assert_eq!(function_lengths(&sources), Lengths { count: 10, p90: 10, longest: 11 });
    }
}
