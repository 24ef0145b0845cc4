//! The tree is the pipeline: which stage may import which, which files must not know the outside world, and which
//! crate may depend on which.
//!
//! ```text
//! source <- decode <- outbox <- route <- batch <- sink <- pipeline      position, error, config: for everybody
//! wire, tls <- kafka <- relay <- pillarbox   wire <- consumer   lab: for pillarbox, for the bench and for tests
//! failpoint: for kafka, relay and pillarbox                          sim: drives wire, kafka and relay
//! ```
//! Must never allow an edge backwards: the one way back is a value.

use super::source::{Rust, Source, Token};
use super::{Finding, exceptions};

/// Where the stages live.
const STAGES_ROOT: &str = "crates/pillarbox-relay/src/";
/// The stages in the order of an event's life; a stage imports only what stands before it.
const STAGES: [&str; 7] = ["source", "decode", "outbox", "route", "batch", "sink", "pipeline"];
/// Imports no stage, and every stage may import it: positions are values.
const POSITION: &str = "position";

/// Where decisions are made: no socket, no clock, no environment, no file, no thread.
const PURE: [&str; 22] = [
    "crates/pillarbox-wire/src/",
    "crates/pillarbox-kafka/src/producer/tally",
    "crates/pillarbox-consumer/src/header",
    "crates/pillarbox-consumer/src/receipt",
    "crates/pillarbox-consumer/src/state",
    "crates/pillarbox-relay/src/decode",
    "crates/pillarbox-relay/src/outbox",
    "crates/pillarbox-relay/src/route",
    "crates/pillarbox-relay/src/batch",
    "crates/pillarbox-relay/src/position",
    "crates/pillarbox-relay/src/sink/record",
    "crates/pillarbox-relay/src/sink/tail",
    "crates/pillarbox-relay/src/pipeline/standby",
    "crates/pillarbox-relay/src/pipeline/state",
    "crates/pillarbox-relay/src/pipeline/pace",
    "crates/pillarbox-relay/src/pipeline/intake",
    "crates/pillarbox-relay/src/pipeline/arrivals/ring",
    "crates/pillarbox-relay/src/pipeline/arrivals/token",
    "crates/pillarbox-relay/src/dead_letters/letter",
    "crates/pillarbox-relay/src/dead_letters/order",
    "crates/pillarbox-relay/src/housekeeping/horizon",
    "crates/pillarbox-relay/src/housekeeping/partitions",
];
/// What pure code does not mention.
const OUTSIDE: [&str; 8] = [
    "tokio ::",
    "std :: net",
    "std :: env",
    "std :: fs",
    "std :: thread",
    "Instant :: now",
    "SystemTime",
    "rustix ::",
];

/// What each crate may depend on besides what the registry offers, and what it must not take from there.
const CRATES: [(&str, &[&str], &[&str]); 9] = [
    ("pillarbox-failpoint", &[], &["tokio", "anyhow", "rdkafka"]),
    ("pillarbox-wire", &[], &["tokio", "anyhow", "rdkafka"]),
    ("pillarbox-tls", &[], &["tokio", "anyhow", "rdkafka"]),
    ("pillarbox-kafka", &["pillarbox-wire", "pillarbox-failpoint", "pillarbox-tls"], &["anyhow", "rdkafka"]),
    (
        "pillarbox-relay",
        &["pillarbox-wire", "pillarbox-failpoint", "pillarbox-tls", "pillarbox-kafka"],
        &["anyhow", "rdkafka"],
    ),
    // Part of other people's services: nothing that they do not have anyway.
    (
        "pillarbox-consumer",
        &["pillarbox-wire"],
        &["anyhow", "thiserror", "serde", "tokio", "tokio-postgres", "sqlx", "rdkafka"],
    ),
    ("pillarbox-lab", &["pillarbox-wire"], &["anyhow"]),
    (
        "pillarbox-sim",
        &["pillarbox-wire", "pillarbox-kafka", "pillarbox-relay"],
        &["tokio", "anyhow", "rdkafka"],
    ),
    (
        "pillarbox",
        &["pillarbox-wire", "pillarbox-failpoint", "pillarbox-kafka", "pillarbox-relay", "pillarbox-lab"],
        &["rdkafka"],
    ),
];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = manifest(source);
    if let Some(rust) = source.rust() {
        findings.extend(stage_imports(source));
        findings.extend(purity(source, rust));
    }
    findings
}

fn stage_imports(source: &Source) -> Vec<Finding> {
    let edges = edges_against_the_flow(source).into_iter().filter(|(edge, _)| !exceptions::may_import(edge));
    edges
        .map(|(edge, line)| Finding::new(&source.path, line, format!("`{edge}` is against the flow")))
        .collect()
}

/// Imports of a stage that are not of an earlier one, as `stage -> module`, with their lines.
pub(super) fn edges_against_the_flow(source: &Source) -> Vec<(String, usize)> {
    let inside = source.path.strip_prefix(STAGES_ROOT).and_then(|path| path.strip_suffix(".rs"));
    let Some((inside, rust)) = inside.zip(source.rust()) else { return Vec::new() };
    let parts: Vec<&str> = inside.split('/').filter(|part| *part != "mod").collect();
    let own = parts[0];
    let allowed: &[&str] = match STAGES.iter().position(|stage| *stage == own) {
        Some(index) => &STAGES[..=index],
        None if own == POSITION => &[],
        None => return Vec::new(),
    };
    let mut imports = imports(rust, parts.len());
    imports.retain(|(path, line)| {
        let stage = path.split("::").next().unwrap_or(path);
        STAGES.contains(&stage) && !allowed.contains(&stage) && !rust.is_test(*line)
    });
    imports.into_iter().map(|(path, line)| (format!("{own} -> {path}"), line)).collect()
}

/// Modules of the crate that a file names, by `crate::` or by as many `super::` as it lies deep. A module of a module is
/// named with both, `pipeline::board`; anything else in second place is left out.
fn imports(rust: &Rust, depth: usize) -> Vec<(String, usize)> {
    let supers = vec!["super ::"; depth].join(" ");
    let mut names = Vec::new();
    for prefix in ["crate ::", supers.as_str()] {
        let length = prefix.split(' ').count();
        for index in rust.find(prefix) {
            let after: Vec<&Token> = rust.tokens.iter().skip(index + length).take(3).collect();
            let is_module = |token: &Token| token.text.starts_with(|c: char| c.is_ascii_lowercase());
            names.extend(match after[..] {
                [first, colons, second] if colons.text == "::" && is_module(second) => {
                    Some((format!("{}::{}", first.text, second.text), first.line))
                }
                [first, ..] => Some((first.text.clone(), first.line)),
                [] => None,
            });
        }
    }
    names
}

fn purity(source: &Source, rust: &Rust) -> Vec<Finding> {
    if !PURE.iter().any(|root| lies_in(&source.path, root)) {
        return Vec::new();
    }
    let hits = OUTSIDE.iter().flat_map(|word| rust.find(word).into_iter().map(move |index| (word, index)));
    hits.map(|(word, index)| (word.replace(' ', ""), rust.tokens[index].line))
        .filter(|(_, line)| !rust.is_test(*line))
        .map(|(word, line)| {
            Finding::new(&source.path, line, format!("pure code mentions `{word}`: take it as an input"))
        })
        .collect()
}

/// A root that ends in `/` covers all below it; `decode` covers `decode.rs` and `decode/..`, not `decoder.rs`.
fn lies_in(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| root.ends_with('/') || rest == ".rs" || rest.starts_with('/'))
}

/// Dependencies of a crate of ours. Tests may use what they like: only `[dependencies]` counts.
fn manifest(source: &Source) -> Vec<Finding> {
    let name = source.path.strip_prefix("crates/").and_then(|path| path.strip_suffix("/Cargo.toml"));
    let Some((_, ours, never)) = CRATES.iter().find(|(krate, ..)| Some(*krate) == name) else {
        return Vec::new();
    };
    let mut section = "";
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        if line.starts_with('[') {
            section = line.trim();
        }
        let dependency = line.split(['.', '=', ' ']).next().unwrap_or_default();
        let other = dependency.starts_with("pillarbox") && !ours.contains(&dependency);
        let optional = line.contains("optional = true");
        if section == "[dependencies]" && (other || never.contains(&dependency)) && !optional {
            findings.push(Finding::new(
                &source.path,
                index + 1,
                format!("must not depend on `{dependency}`"),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let source = Source::new(path, text.into());
        assert!(source.rust.as_ref().is_none_or(Result::is_ok), "{text}");
        check(&source).into_iter().map(|finding| finding.message).collect()
    }

    fn relay(path: &str) -> String {
        format!("{STAGES_ROOT}{path}")
    }

    #[test]
    fn an_import_against_the_flow_is_found() {
        let cases = [
            ("decode/mod.rs", "use crate::outbox::Event;", "`decode -> outbox"),
            ("decode.rs", "use crate::{config::Config, sink::Sink};", "`decode -> sink"),
            ("decode.rs", "use crate::{config::{A, B}, route};", "`decode -> route"),
            ("batch/set.rs", "fn f() -> crate::pipeline::State { g() }", "`batch -> pipeline"),
            ("source/mod.rs", "use super::decode::Change;", "`source -> decode"),
            ("source/link.rs", "use super::super::decode::Change;", "`source -> decode"),
            ("sink/commit.rs", "use crate::pipeline::state::State;", "`sink -> pipeline::state`"),
            ("source/link.rs", "use super::super::{decode::Change, config};", "`source -> decode"),
            ("position/mod.rs", "use crate::source::Frame;", "`position -> source"),
        ];
        for (path, text, expected) in cases {
            let found = found(&relay(path), text);
            assert!(found.len() == 1 && found[0].contains(expected), "{path} {text}: {found:?}");
        }
    }

    #[test]
    fn an_import_along_the_flow_is_not() {
        let cases = [
            ("sink/mod.rs", "use crate::{batch::Set, position::Position, error::Fault, config::Config};"),
            ("sink/mod.rs", "use crate::sink::lane::Lane;"),
            ("source/link.rs", "use super::decode::Header;"),
            ("pipeline/run.rs", "use crate::source::Frame; use crate::sink::Sink;"),
            ("decode.rs", "#[cfg(test)]\nmod tests {\n    use crate::sink::Sink;\n}"),
            ("setup.rs", "use crate::sink::Sink;"),
        ];
        for (path, text) in cases {
            assert_eq!(found(&relay(path), text), Vec::<String>::new(), "{path} {text}");
        }
    }

    #[test]
    fn the_outside_world_in_pure_code_is_found() {
        let cases = [
            ("decode/mod.rs", "use tokio::sync::watch;", "`tokio::`"),
            ("route.rs", "fn f() { std::env::var(\"A\"); }", "`std::env`"),
            ("position/confirm.rs", "use std::net::TcpStream;", "`std::net`"),
            ("position/confirm.rs", "use std::{io, net::TcpStream};", "`std::net`"),
            ("pipeline/pace.rs", "fn f() { Instant::now(); }", "`Instant::now`"),
            ("pipeline/state.rs", "use std::time::SystemTime;", "`SystemTime`"),
            ("pipeline/intake.rs", "fn f() { std::thread::yield_now(); }", "`std::thread`"),
            ("outbox/table.rs", "fn f() { std::fs::read(p); }", "`std::fs`"),
        ];
        for (path, text, expected) in cases {
            let found = found(&relay(path), text);
            assert!(found.len() == 1 && found[0].contains(expected), "{path} {text}: {found:?}");
        }
        assert_eq!(found("crates/pillarbox-wire/src/a.rs", "use tokio::io;").len(), 1);
    }

    #[test]
    fn purity_ends_where_the_stage_ends() {
        let clock = "fn f() { Instant::now(); }";
        for path in ["source/mod.rs", "sink/mod.rs", "pipeline/run.rs", "decoder.rs"] {
            assert_eq!(found(&relay(path), clock), Vec::<String>::new(), "{path}");
        }
        let test = format!("#[cfg(test)]\nmod tests {{\n    {clock}\n}}");
        assert_eq!(found(&relay("pipeline/pace.rs"), &test), Vec::<String>::new());
    }

    #[test]
    fn a_crate_that_depends_upwards_is_found() {
        let manifest = "[dependencies]\npillarbox-relay.workspace = true\nanyhow = \"1\"\n";
        assert_eq!(found("crates/pillarbox-kafka/Cargo.toml", manifest).len(), 2);
        let tests = "[dependencies]\nbytes = \"1\"\n[dev-dependencies]\npillarbox-lab.workspace = true\n";
        assert_eq!(found("crates/pillarbox-kafka/Cargo.toml", tests), Vec::<String>::new());
    }
}
