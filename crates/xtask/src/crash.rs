//! `cargo xtask crash`: the test that ends the relay at every step of its life, in its short form or through a night; and
//! the proof that what users build has no such steps.
//!
//! Must never run a binary for users: the failpoints are a feature that only this build has.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};

use crate::tree;

/// The crate whose feature arms the steps.
const CRATE: &str = "pillarbox-failpoint";
/// The variable that chooses one: its name is in every binary that has them.
const VARIABLE: &[u8] = b"PILLARBOX_FAILPOINT";

/// Options of `crash`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often each step is struck at least
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: u64,
    /// Go on until about so many relays have died: 10000 take two or three hours on two cores
    #[arg(long, default_value_t = 0, value_name = "N")]
    kills: u64,
    /// How many sites of each kind work at once, each with a Kafka and a Postgres of its own
    #[arg(long, default_value_t = 1, value_name = "N")]
    sites: u64,
    /// Replay a run
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Build the release binary first, and look into it
    #[arg(long)]
    release: bool,
}

/// Runs the test; its figures go to stdout.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    default_build_has_none()?;
    if options.release {
        release_binary_has_none()?;
    }
    let mut cargo = tree::cargo();
    cargo.args([
        "test",
        "--package",
        "pillarbox",
        "--features",
        "failpoints",
        "--test",
        "crash",
        "--",
        "--nocapture",
    ]);
    cargo.env("PILLARBOX_ROUNDS", options.rounds.to_string());
    cargo.env("PILLARBOX_KILLS", options.kills.to_string());
    cargo.env("PILLARBOX_SITES", options.sites.to_string());
    if let Some(seed) = options.seed {
        cargo.env("PILLARBOX_SEED", seed.to_string());
    }
    let status = cargo.status().context("cannot start cargo")?;
    ensure!(status.success(), "crash: {status}");
    Ok(())
}

/// Cargo itself says which features a build for users has.
pub(crate) fn default_build_has_none() -> anyhow::Result<()> {
    let mut cargo = tree::cargo();
    cargo.args([
        "tree",
        "--package",
        "pillarbox",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}|{f}",
    ]);
    unarmed(&tree::output(&mut cargo)?)?;
    eprintln!("crash: a default build has no failpoints");
    Ok(())
}

/// What `cargo tree` prints, a package and its features a line.
fn unarmed(tree: &str) -> anyhow::Result<()> {
    let mut lines = tree.lines().filter(|line| line.split(' ').next() == Some(CRATE)).peekable();
    ensure!(lines.peek().is_some(), "{CRATE} is not in the tree of pillarbox: is it called otherwise?");
    match lines.find(|line| !line.contains("(*)") && !line.ends_with('|')) {
        Some(line) => bail!("a default build has failpoints: {line}"),
        None => Ok(()),
    }
}

fn release_binary_has_none() -> anyhow::Result<()> {
    let status = tree::cargo().args(["build", "--quiet", "--release", "--package", "pillarbox"]).status()?;
    ensure!(status.success(), "cannot build pillarbox: {status}");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| tree::root().join("target"), PathBuf::from);
    let binary = target.join("release/pillarbox");
    let bytes = std::fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    ensure!(!holds(&bytes, VARIABLE), "{} has failpoints", binary.display());
    eprintln!("crash: {} ({} bytes) has no failpoints", binary.display(), bytes.len());
    Ok(())
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_armed_build_is_told_from_others() {
        let plain = "pillarbox v0.1.0 (/p)|\npillarbox-failpoint v0.1.0 (/p/f)|\npillarbox-failpoint v0.1.0 (/p/f)| (*)\n";
        assert!(unarmed(plain).is_ok());
        assert!(unarmed(&plain.replace("f)|\n", "f)|armed,rustix\n")).is_err());
        assert!(unarmed("pillarbox v0.1.0 (/p)|failpoints\n").is_err(), "a renamed crate is not forgotten");
    }

    #[test]
    fn a_variable_is_found_in_a_binary() {
        assert!(holds(b"\0\0PILLARBOX_FAILPOINT\0", VARIABLE));
        assert!(!holds(b"\0\0PILLARBOX_FAILPOIN\0", VARIABLE));
    }
}
