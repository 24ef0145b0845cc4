//! `cargo xtask bench`: starts itself again with the feature `bench`, built for release. Must never measure with a
//! debug build of the load generator or of the consumer.

use anyhow::Context;

/// What follows `bench`: read by the second start, which has the servers linked in.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// drain, latency, transaction, emit, accept, takeover, rolling, shards, limits or peers, and its options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<std::ffi::OsString>,
}

/// Runs the bench.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut cargo = crate::tree::cargo();
    cargo.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "xtask",
        "--features",
        "bench",
        "--bin",
        "bench",
        "--",
    ]);
    let status = cargo.args(&arguments.rest).status().context("cannot start cargo")?;
    anyhow::ensure!(status.success(), "bench: {status}");
    Ok(())
}
