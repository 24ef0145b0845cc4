//! Automation of this repository, in Rust rather than in shell: `cargo xtask ci | tidy | faults | mutations | sim |
//! crash | instructions | bench`.
//!
//! Must never be needed to build or use the product, and must never change a file of the tree (except results of
//! `bench` and `instructions`, and the page that `faults` writes).

mod ci;
mod crash;
mod faults;
mod instructions;
mod mutations;
mod sim;
mod start_bench;
mod tidy;
mod tree;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What was typed.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Automation of this repository")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything that must hold before a commit is shared: fmt, clippy, tidy, test, docs
    Ci(ci::Options),
    /// Hold the house style against the tree
    Tidy,
    /// Write docs/faults.md from what the tests say of themselves
    Faults,
    /// Break one rule of the relay after the other, and see the tests named for it fail
    Mutations(mutations::Options),
    /// Simulate relays, Postgres and Kafka through seeds full of faults
    Sim(sim::Arguments),
    /// End the relay at every step of its life, on real servers, and look for a lost or doubled event
    Crash(crash::Options),
    /// Count the instructions that the relay spends on an event, and hold them against what is recorded
    Instructions(instructions::Options),
    /// Measure the release binary against real servers
    Bench(start_bench::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Ci(options) => ci::run(&options),
        Command::Tidy => tidy::run(),
        Command::Faults => tidy::write_faults(),
        Command::Mutations(options) => mutations::run(&options),
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Crash(options) => crash::run(&options),
        Command::Instructions(options) => instructions::run(&options),
        Command::Bench(arguments) => start_bench::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
