//! The benches: real servers, the release binary as a child process, events counted at the destination by an
//! independent reader. Started by `cargo xtask bench`.
//!
//! ```text
//! load -> Postgres -> pillarbox (child) -> Kafka -> reader (librdkafka, read_committed) -> report
//!                  -> pg_recvlogical (child) -> /dev/null                              ┘
//! ```
//! Must never believe what the relay says of itself where the destination can be asked, nor print a number without the
//! machine and the baseline it was measured beside.

mod accept;
mod baseline;
mod budget;
mod clock;
mod costs;
mod destination;
mod drain;
mod emit;
mod latency;
mod limits;
mod load;
mod machine;
mod peers;
mod picture;
mod process;
mod relay;
mod report;
mod rolling;
mod servers;
mod shards;
mod statistics;
mod stream;
mod takeover;
#[path = "../tree.rs"]
mod tree;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::machine::Awake;

/// What was typed.
#[derive(Debug, Parser)]
#[command(
    name = "bench",
    bin_name = "cargo xtask bench",
    about = "Measure the release binary against real servers"
)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
    #[command(flatten)]
    common: Common,
}

/// Options of every bench.
#[derive(Debug, Clone, clap::Args)]
struct Common {
    /// Write to bench/results instead of bench/results/tmp
    #[arg(long, global = true)]
    record: bool,
    /// Major version of Postgres
    #[arg(long, global = true, default_value_t = 18)]
    postgres: u32,
    /// Wait at most so many seconds for a quiet machine before each run
    #[arg(long, global = true, default_value_t = 60)]
    quiet_wait: u64,
    /// Keep the cores from halting meanwhile (needs root): some virtual machines take long to wake one
    #[arg(long, global = true)]
    awake: bool,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Rows a second out of a backlog, beside pg_recvlogical on the same WAL
    Drain(drain::Options),
    /// Time from COMMIT to a read_committed consumer, at a fixed rate
    Latency(latency::Options),
    /// One source transaction of a million rows: time and memory
    Transaction(drain::TransactionOptions),
    /// What an event costs the transaction that writes it, by each way to write it
    Emit(emit::Options),
    /// What it costs a consumer to have each effect once, beside a table of event ids
    Accept(accept::Options),
    /// Time from kill -9 of the leading relay to the first event from the other
    Takeover(takeover::Options),
    /// The longest time an event waits while both relays are restarted in turn
    Rolling(rolling::Options),
    /// A backlog by one pipeline, and by several that share the table by key
    Shards(shards::Options),
    /// Memory and silence at sizes that nobody plans: 10 GB, 5,000 partitions, ten minutes without Kafka
    Limits(limits::Options),
    /// The same outbox through Pillarbox and through other programs that do its job, in turns
    Peers(peers::Options),
}

fn main() -> ExitCode {
    let Arguments { bench, common } = Arguments::parse();
    match run(bench, &common) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(bench: Bench, common: &Common) -> anyhow::Result<()> {
    let _awake = common.awake.then(Awake::hold).transpose()?;
    match bench {
        Bench::Drain(options) => drain::run(&options, common),
        Bench::Latency(options) => latency::run(&options, common),
        Bench::Transaction(options) => drain::run_transaction(&options, common),
        Bench::Emit(options) => emit::run(&options, common),
        Bench::Accept(options) => accept::run(&options, common),
        Bench::Takeover(options) => takeover::run(&options, common),
        Bench::Rolling(options) => rolling::run(&options, common),
        Bench::Shards(options) => shards::run(&options, common),
        Bench::Limits(options) => limits::run(&options, common),
        Bench::Peers(options) => peers::run(&options, common),
    }
}
