//! `cargo xtask sim`: starts the simulator, built for release: seeds are worth their number. Must never decide anything
//! about a run: all options are the simulator's.

use anyhow::{Context, ensure};

use crate::tree;

/// What follows `sim`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// --seeds N, --seed N, --trace, --mode safety|liveness, --mistakes
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<std::ffi::OsString>,
}

/// Runs it; its figures go to stdout.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    start(&arguments.rest)
}

/// What CI runs: a hundred thousand seeds hold, and each planted mistake is found among as many.
pub(crate) fn ci() -> anyhow::Result<()> {
    start(&["--seeds".into(), "100000".into()])?;
    start(&["--mistakes".into(), "--seeds".into(), "100000".into()])
}

fn start(arguments: &[std::ffi::OsString]) -> anyhow::Result<()> {
    let mut cargo = tree::cargo();
    cargo.args(["run", "--quiet", "--release", "--package", "pillarbox-sim", "--"]);
    let status = cargo.args(arguments).status().context("cannot start cargo")?;
    ensure!(status.success(), "sim: {status}");
    Ok(())
}
