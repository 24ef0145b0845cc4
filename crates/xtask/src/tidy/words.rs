//! Words and calls the house does not use: unfinished-work marks, suppressed lints, queues without a limit, tasks
//! started in passing, addresses of package registries.
//!
//! Must never contain those words itself in one piece, or it would find itself.

use super::source::{Rust, Source};
use super::{Finding, exceptions};

/// Marks of unfinished work. What is not done is an issue; what is in the tree works.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];

/// Hosts of package registries. Ordinary clients know theirs; a file that names one breaks builds behind a mirror.
const REGISTRIES: [&str; 10] = [
    concat!("crates", ".io"),
    concat!("repo1", ".maven.org"),
    concat!("repo.maven", ".apache.org"),
    concat!("registry.npmjs", ".org"),
    concat!("pypi", ".org"),
    concat!("files.pythonhosted", ".org"),
    concat!("proxy.golang", ".org"),
    concat!("deb.debian", ".org"),
    concat!("archive.ubuntu", ".com"),
    concat!("docker", ".io"),
];

/// Queues without a limit hide missing back-pressure until memory ends.
const UNBOUNDED: [&str; 4] =
    ["unbounded_channel", "mpsc :: unbounded", "unbounded (", "std :: sync :: mpsc :: channel"];

/// Ways to start something that runs on its own. Methods called `spawn` (of a process, of a scope) are not among
/// them: what they belong to is started by one of these.
const SPAWNS: [&str; 8] = [
    "tokio :: spawn",
    "task :: spawn",
    "spawn_blocking",
    "spawn_local",
    "thread :: spawn",
    "thread :: Builder",
    "thread :: scope",
    "JoinSet",
];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = text_rules(source);
    if let Some(rust) = source.rust() {
        findings.extend(suppressed_lints(source, rust));
        findings.extend(calls(source, rust, &UNBOUNDED, "a queue has a limit, named, with a reason"));
        if !exceptions::may_spawn(&source.path) {
            let message = "a task is spawned in a file listed in tidy, with what its failure does";
            findings.extend(calls(source, rust, &SPAWNS, message));
        }
    }
    findings
}

/// True if the file needs its place among those that spawn.
pub(super) fn spawns(source: &Source) -> bool {
    source.rust().is_some_and(|rust| !calls(source, rust, &SPAWNS, "").is_empty())
}

fn text_rules(source: &Source) -> Vec<Finding> {
    // The lock file is cargo's own, and names its registry in every entry.
    if source.path.ends_with("Cargo.lock") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let words = || line.split(|c: char| !c.is_ascii_alphanumeric());
        if let Some(mark) = UNFINISHED.iter().find(|mark| words().any(|word| word == **mark)) {
            findings.push(Finding::new(
                &source.path,
                index + 1,
                format!("`{mark}`: finish it or open an issue"),
            ));
        }
        if REGISTRIES.iter().any(|host| line.contains(host)) {
            findings.push(Finding::new(&source.path, index + 1, "names the host of a package registry"));
        }
    }
    findings
}

/// `#[allow]` and `#![allow]` stay for ever; `#[expect(.., reason)]` speaks up when it is no longer needed.
fn suppressed_lints(source: &Source, rust: &Rust) -> Vec<Finding> {
    let message = "suppress a lint with `#[expect(.., reason)]`, which ends when its reason does";
    let patterns = ["# [ allow", "# ! [ allow"];
    let mut findings: Vec<Finding> = calls_in(source, rust, &patterns, message, true);
    for index in rust.find("# [ cfg_attr (") {
        let attribute = rust.tokens[index..].iter().take_while(|token| token.text != "]");
        findings.extend(
            attribute
                .filter(|token| token.text == "allow")
                .map(|token| Finding::new(&source.path, token.line, message)),
        );
    }
    findings
}

/// Calls outside of test code.
fn calls(source: &Source, rust: &Rust, patterns: &[&str], message: &str) -> Vec<Finding> {
    calls_in(source, rust, patterns, message, false)
}

fn calls_in(source: &Source, rust: &Rust, patterns: &[&str], message: &str, tests: bool) -> Vec<Finding> {
    let hits = patterns.iter().flat_map(|pattern| rust.find(pattern));
    let mut lines: Vec<usize> = hits.map(|index| rust.tokens[index].line).collect();
    lines.sort_unstable();
    lines.dedup();
    lines.retain(|line| tests || !rust.is_test(*line));
    lines.into_iter().map(|line| Finding::new(&source.path, line, message)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let source = Source::new(path, text.into());
        assert!(source.rust.as_ref().is_none_or(Result::is_ok), "{text}");
        check(&source).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn each_planted_violation_is_found() {
        let mark = format!("// {}: later", UNFINISHED[0]);
        let lower = format!("# {}(me): later", UNFINISHED[1]);
        let host = format!("url = \"https://{}/x\"", REGISTRIES[1]);
        let cases = [
            ("src/a.rs", mark.as_str(), "finish it"),
            (".ci/run", lower.as_str(), "finish it"),
            ("pom.xml", host.as_str(), "package registry"),
            ("src/a.rs", "#[allow(dead_code)] fn f() {}", "suppress a lint"),
            ("src/a.rs", "#![allow(dead_code)]", "suppress a lint"),
            ("src/a.rs", "#[cfg_attr(test, allow(dead_code))] fn f() {}", "suppress a lint"),
            ("src/a.rs", "fn f() { let (a, b) = tokio::sync::mpsc::unbounded_channel(); }", "a queue"),
            ("src/a.rs", "use futures::channel::mpsc::unbounded;", "a queue"),
            ("src/a.rs", "fn f() { let (a, b) = std::sync::mpsc::channel(); }", "a queue"),
            ("src/a.rs", "fn f() { tokio::spawn(g()); }", "a task is spawned"),
            ("src/a.rs", "fn f() { std::thread::\n    spawn(g); }", "a task is spawned"),
            ("src/a.rs", "fn f() { thread::Builder::new(); }", "a task is spawned"),
            ("src/a.rs", "use std::thread::{scope, sleep};", "a task is spawned"),
            ("src/a.rs", "use tokio::{net, task::{self, spawn}};", "a task is spawned"),
            ("src/a.rs", "async fn f() { spawn_blocking(g).await; }", "a task is spawned"),
        ];
        for (path, text, expected) in cases {
            let found = found(path, text);
            assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
        }
    }

    #[test]
    fn what_only_looks_like_a_violation_is_left_alone() {
        let lock = format!("source = \"registry+https://{}\"", REGISTRIES[0]);
        let cases = [
            ("Cargo.lock", lock.as_str()),
            ("src/a.rs", "// never #[allow], never tokio::spawn\nfn f() {}"),
            ("src/a.rs", "fn f() { Command::new(\"true\").spawn(); }"),
            ("src/a.rs", "fn f() { let (a, b) = tokio::sync::mpsc::channel(4); }"),
            ("src/a.rs", "#[cfg(test)]\nmod tests {\n    fn f() { std::thread::spawn(g); }\n}"),
            ("crates/a/tests/b.rs", "fn f() { std::thread::spawn(g); }"),
            ("src/a.rs", "fn todo_list() {}"),
        ];
        for (path, text) in cases {
            assert_eq!(found(path, text), Vec::<String>::new(), "{text}");
        }
    }
}
