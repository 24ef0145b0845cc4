//! `cargo xtask ci`: what CI runs is what a contributor runs, in the same order. Stops at the first failure.
//!
//! Must never do anything that a step on its own (`--step NAME`) would not do.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::{crash, instructions, sim, tidy, tree};

/// Options of `ci`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only this step
    #[arg(long, value_name = "NAME")]
    step: Option<Step>,
}

/// The steps, cheapest first where the order is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Formatting
    Fmt,
    /// Lints of all targets, warnings are errors
    Clippy,
    /// The house style
    Tidy,
    /// A hundred thousand simulated runs, and every planted mistake found
    Sim,
    /// All tests, those with real servers included
    Test,
    /// Instructions an event, where valgrind is installed
    Instructions,
    /// The API documentation builds without a warning
    Docs,
}

impl Step {
    const ALL: [Step; 7] =
        [Step::Fmt, Step::Clippy, Step::Tidy, Step::Sim, Step::Test, Step::Instructions, Step::Docs];

    fn name(self) -> &'static str {
        match self {
            Step::Fmt => "fmt",
            Step::Clippy => "clippy",
            Step::Tidy => "tidy",
            Step::Sim => "sim",
            Step::Test => "test",
            Step::Instructions => "instructions",
            Step::Docs => "docs",
        }
    }

    /// The cargo command of this step; `None` where it is part of this program.
    fn arguments(self) -> Option<&'static [&'static str]> {
        match self {
            Step::Fmt => Some(&["fmt", "--all", "--", "--check"]),
            Step::Clippy => {
                Some(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"])
            }
            Step::Tidy | Step::Sim | Step::Instructions => None,
            Step::Test => Some(&["test", "--workspace", "--all-features"]),
            Step::Docs => Some(&["doc", "--workspace", "--all-features", "--no-deps"]),
        }
    }

    fn run(self) -> anyhow::Result<()> {
        let Some(arguments) = self.arguments() else {
            return match self {
                Step::Sim => sim::ci(),
                Step::Instructions => instructions::run_where_installed(),
                _ => tidy::run(),
            };
        };
        if self == Step::Test {
            // Tests are built with all features; what users build is not.
            crash::default_build_has_none()?;
        }
        let mut cargo = tree::cargo();
        cargo.args(arguments);
        if self == Step::Docs {
            cargo.env("RUSTDOCFLAGS", "-D warnings");
        }
        succeed(&mut cargo)
    }
}

/// Runs the steps and prints what each took.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let steps = options.step.map_or(Step::ALL.to_vec(), |step| vec![step]);
    let mut times: Vec<(Step, Duration)> = Vec::new();
    for step in steps {
        eprintln!("== ci: {}", step.name());
        let start = Instant::now();
        let result = step.run();
        times.push((step, start.elapsed()));
        if result.is_err() {
            print_times(&times);
        }
        let name = step.name();
        result.with_context(|| format!("step {name} failed; alone: cargo xtask ci --step {name}"))?;
    }
    print_times(&times);
    Ok(())
}

fn print_times(times: &[(Step, Duration)]) {
    for (step, time) in times {
        eprintln!("== ci: {:<12}{:>8.1} s", step.name(), time.as_secs_f64());
    }
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().context("cannot start cargo")?;
    if !status.success() {
        bail!("cargo: {status}");
    }
    Ok(())
}
