//! Deterministic simulation of the relay: its own decisions against a model Postgres and a model Kafka, in simulated time,
//! through everything that a seed brings upon them.
//!
//! ```text
//! seed -> scenario -> agenda of events -> [ Postgres | Kafka | relays ] -> checker -> verdict
//!                          ^                         |
//!                          +---- what comes of it ---+
//! ```
//! | is the product's own code | is a model |
//! | --- | --- |
//! | `Lifecycle`: what a fault leads to, back-off, halts | threads, channels, processes: events |
//! | `Intake`: decoding, routing, batches, splitting, sequences, pacing, what may be confirmed | walsender, slot, keepalives, standby, promotion, SQL that sees less than WAL |
//! | the producer's `Machine`, `plan`, `Tally` | brokers, coordinators of both protocols, fencing, markers, logs |
//! | `judge`, `Recognition`, `Watch`, `compare` | the network: delays, losses, copies, broken connections |
//! | `Recorder`, `Tail`, the checkpoint's table, lost markers' `judge` | the order of a start, the reader's and the sink's loops |
//!
//! The loops of the last row are written again here, because the product's await: they follow `pipeline/{acquire,reader}.rs`
//! and `sink/{recover,commit}.rs` line by line. Real processes hold those: `cargo xtask crash`, `--test faults`.
//!
//! Not modelled: TLS, logins, dead letters, messages as events, repartitioning, pauses, housekeeping, compaction and
//! retention, brokers that lose what they acknowledged, clones.
//!
//! A seed is a run: two runs of one seed are the same, step by step. Must never look at a clock, a thread's order or a
//! hash map's order.

mod agenda;
mod checker;
mod dice;
mod faults;
mod frames;
mod kafka;
mod kept;
mod mistakes;
mod postgres;
mod records;
mod relay;
mod run;
mod scenario;
mod servers;
mod sweep;
mod trace;
mod world;

use std::process::ExitCode;

use clap::Parser;

use mistakes::Mistake;
use scenario::Mode;

/// What was typed.
#[derive(Debug, Parser)]
#[command(name = "pillarbox-sim", about = "Simulates the relay through seeds full of faults")]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    seeds: u64,
    /// Only this seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The first of the seeds
    #[arg(long, default_value_t = 1, value_name = "N")]
    from: u64,
    /// Print everything that happens; with --seed
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Faults until the end, or an end of faults and then progress; by default every seed has its own
    #[arg(long, value_name = "MODE")]
    mode: Option<Mode>,
    /// Plant a mistake, which the simulation must find
    #[arg(long, value_name = "NAME")]
    mistake: Option<Mistake>,
    /// Plant every mistake, one after the other, and demand that each is found within the seeds
    #[arg(long, conflicts_with_all = ["seed", "mistake"])]
    mistakes: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let holds = match arguments.seed {
        Some(seed) => sweep::replay(seed, arguments.mode, arguments.mistake, arguments.trace),
        None if arguments.mistakes => sweep::mistakes(arguments.from, arguments.seeds),
        None => {
            let range = arguments.from..arguments.from + arguments.seeds;
            kept::hold() && sweep::sweep(range, arguments.mode, arguments.mistake)
        }
    };
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
