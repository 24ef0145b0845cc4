//! faucet, from its package: `faucet run` with a transactional producer, started again by the lane when it ends.
//!
//! ```text
//! backlog (drain, kill, idle):  pages of 30,000 events         fixed rate (latency):  pages of 160 ms
//! ```
//! Each page is a Kafka transaction that takes a tenth of a second whatever is in it, so no one page is good at both. Must
//! never become a dependency of this workspace: it is built by itself, in the lab's cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use pillarbox_lab::{LabError, cache};

use super::lane::Site;
use crate::tree;

const VERSION: &str = "1.17.0";
/// The least that reads a slot and writes to Kafka.
const FEATURES: &str = "source-postgres-cdc,sink-kafka";
const BACKLOG: &str = include_str!("../../../../../bench/peers/faucet/pipeline-backlog.yaml");
const STEADY: &str = include_str!("../../../../../bench/peers/faucet/pipeline-steady.yaml");
/// How long a page takes to fill at a fixed rate: longer than its transaction of 107 ms, or it cannot keep up, and no
/// longer than that needs. The 40 s of a run are a whole number of them, so that no last page waits to be full.
const PAGE: Duration = Duration::from_millis(160);
/// What is told of a build that failed.
const LINES_MAX: usize = 20;

/// What the build asks the system for: a program, its arguments, and the name by which it is missed.
const NEEDED: [(&str, &[&str], &str); 5] = [
    ("cmake", &["--version"], "cmake"),
    ("pkg-config", &["--version"], "pkg-config"),
    ("pkg-config", &["--exists", "libsasl2"], "libsasl2"),
    ("pkg-config", &["--exists", "openssl"], "openssl"),
    ("pkg-config", &["--exists", "libcurl"], "libcurl"),
];
const HINT: &str = "Debian: apt install cmake pkg-config libsasl2-dev libssl-dev libcurl4-openssl-dev";

/// The program, from the cache, built by cargo first if need be: that takes some ten minutes.
pub(super) fn install() -> anyhow::Result<PathBuf> {
    let dir = cache::install(&format!("faucet-cli-{VERSION}"), &cache::quiet, build)?;
    Ok(dir.join("bin/faucet"))
}

fn build(dir: &Path) -> Result<(), LabError> {
    let runs = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    all_there(runs)?;
    eprintln!("bench: building faucet-cli {VERSION}: some ten minutes");
    // Away from the tree, whose settings of cargo are for the tree.
    let output = tree::cargo()
        .args(["install", "faucet-cli", "--version", VERSION, "--locked", "--ignore-rust-version", "--quiet"])
        .args(["--no-default-features", "--features", FEATURES, "--root"])
        .arg(dir)
        .current_dir(dir)
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .map_err(|error| failed(&error.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(failed(&String::from_utf8_lossy(&output.stderr))) }
}

/// Says what is missing before the build finds out, one after the other and minutes late.
fn all_there(runs: impl Fn(&str, &[&str]) -> bool) -> Result<(), LabError> {
    let lacks = NEEDED.iter().filter(|(program, arguments, _)| !runs(program, arguments));
    let missing: Vec<&str> = lacks.map(|(_, _, name)| *name).collect();
    let name = format!("{}, to build faucet-cli {VERSION},", missing.join(", "));
    if missing.is_empty() { Ok(()) } else { Err(LabError::ProgramMissing { name, hint: HINT }) }
}

fn failed(output: &str) -> LabError {
    let lines: Vec<&str> = output.lines().collect();
    let output = lines[lines.len().saturating_sub(LINES_MAX)..].join("\n");
    LabError::Setup { name: "cargo install faucet-cli", output }
}

/// Events of a page at so many a second.
pub(super) fn page(rate: u32) -> u128 {
    (PAGE.as_millis() * u128::from(rate) / 1000).max(1)
}

pub(super) fn configure(site: &Site) -> anyhow::Result<()> {
    let text = if site.rate.is_some() { STEADY } else { BACKLOG };
    let file = file(site);
    fs::write(&file, site.fill(text)).with_context(|| format!("cannot write {}", file.display()))
}

pub(super) fn command(site: &Site) -> anyhow::Result<Command> {
    let mut command = Command::new(install()?);
    command.arg("run").arg(file(site)).current_dir(&site.dir);
    Ok(command)
}

fn file(site: &Site) -> PathBuf {
    site.dir.join("pipeline.yaml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        assert!(all_there(|_, _| true).is_ok());
        let without = |missing: &'static str| all_there(move |_, arguments| !arguments.contains(&missing));
        let error = without("libsasl2").expect_err("missing").to_string();
        assert!(error.starts_with("libsasl2, to build") && error.contains("libsasl2-dev"), "{error}");
        let error = all_there(|program, _| program == "cmake").expect_err("missing").to_string();
        assert!(error.starts_with("pkg-config, libsasl2, openssl, libcurl, to build"), "{error}");
    }

    #[test]
    fn a_page_holds_more_than_comes_during_a_transaction() {
        assert_eq!([page(100), page(1000), page(3)], [16, 160, 1]);
    }
}
