//! What can be typed: the command line, one file a command below `cli/`.
//!
//! stdout is data, stderr is talk. Parsing happens here; what an option means is said beside it.
//! Never connects to anything itself.

mod check;
mod completions;
mod config;
mod dead_letters;
mod dev;
mod housekeeping;
mod import;
mod lineage;
mod pause;
mod repartition;
mod run;
mod setup;
mod status;
mod tap;

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use pillarbox_relay::error::{Code, ExitCode, Fault};

use crate::config::{DEFAULT_FILE, Loaded, load, units};
use crate::http::Verb;
use crate::report::Failure;

/// Relays committed Postgres outbox rows to Kafka: exactly once, in commit order.
#[derive(Debug, Parser)]
#[command(
    name = "pillarbox",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 ok, 1 negative answer, 2 usage, 65 halted, 69 a server cannot be reached, \
                  70 bug, 75 try again, 77 permission, 78 configuration.\n\
                  Every error has a code PB-nnnn with a page in docs/errors/."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try it: private servers, sample traffic and the relay, with one command
    Dev(dev::Arguments),
    /// Make database and cluster ready for the pipeline; does only what is missing
    Setup(setup::Arguments),
    /// Look at everything the pipeline depends on; sends no event
    Check(check::Arguments),
    /// Relay until a signal ends it
    Run(run::Arguments),
    /// Say how the pipeline is: the relay, the slot and the checkpoint
    Status(status::Arguments),
    /// Watch events as a read_committed consumer sees them
    Tap(tap::Arguments),
    /// Look at rows that could not be published, replay or discard them
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Look at a database whose history was cut, and go on behind the cut
    #[command(subcommand)]
    Lineage(lineage::Command),
    /// Let events go to partitions that were added to a topic; says what that does to the order of keys
    Repartition(repartition::Arguments),
    /// Say what a relay would do now to keep the outbox tables small; changes nothing
    Housekeeping(housekeeping::Arguments),
    /// Commit what is open, then relay nothing until resumed
    Pause(pause::Arguments),
    /// Go on after a pause
    Resume(pause::Arguments),
    /// Write pillarbox.yaml from the configuration of another program
    #[command(subcommand)]
    Import(import::Command),
    /// Look at or check the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Print a completion script for a shell
    Completions(completions::Arguments),
}

/// The configuration file of a command.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConfigFile {
    /// The configuration file
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = DEFAULT_FILE)]
    pub(crate) config: PathBuf,
}

impl ConfigFile {
    pub(crate) fn load(&self) -> Result<Loaded, Failure> {
        Ok(load(&self.config)?)
    }
}

/// How long a command waits for the relay.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Patience {
    /// How long to wait until a relay has carried it out, such as 5m for one that is far behind
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::duration)]
    pub(crate) timeout: Duration,
}

/// How data on stdout looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// One JSON document
    Json,
}

impl Cli {
    /// Whether errors are for a program to read.
    pub(crate) fn wants_json(&self) -> bool {
        match &self.command {
            Command::Config(command) => command.wants_json(),
            Command::Setup(arguments) => arguments.wants_json(),
            Command::Check(arguments) => arguments.wants_json(),
            Command::Status(arguments) => arguments.wants_json(),
            Command::Tap(arguments) => arguments.wants_json(),
            Command::DeadLetters(command) => command.wants_json(),
            Command::Lineage(command) => command.wants_json(),
            Command::Repartition(arguments) => arguments.wants_json(),
            Command::Housekeeping(arguments) => arguments.wants_json(),
            Command::Dev(_)
            | Command::Import(_)
            | Command::Run(_)
            | Command::Pause(_)
            | Command::Resume(_)
            | Command::Completions(_) => false,
        }
    }

    /// Does what was asked for.
    ///
    /// # Errors
    /// Why it could not be done; whoever gets it tells and exits.
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Dev(arguments) => arguments.run(),
            Command::Setup(arguments) => arguments.run(),
            Command::Check(arguments) => arguments.run(),
            Command::Run(arguments) => arguments.run(),
            Command::Status(arguments) => arguments.run(),
            Command::Tap(arguments) => arguments.run(),
            Command::DeadLetters(command) => command.run(),
            Command::Lineage(command) => command.run(),
            Command::Repartition(arguments) => arguments.run(),
            Command::Housekeeping(arguments) => arguments.run(),
            Command::Pause(arguments) => arguments.run(Verb::Pause),
            Command::Resume(arguments) => arguments.run(Verb::Resume),
            Command::Import(command) => command.run(),
            Command::Config(command) => command.run(),
            Command::Completions(arguments) => arguments.run(),
        }
    }
}

/// Writes data to stdout.
///
/// # Errors
/// A closed pipe is the reader's way to say "enough": it ends the command without a word.
pub(crate) fn print(data: &[u8]) -> Result<(), Failure> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(data).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::Answered(ExitCode::Ok)),
        Err(error) => Err(internal(format!("cannot write to stdout: {error}"))),
    }
}

/// Something that cannot happen unless Pillarbox is wrong.
pub(crate) fn internal(cause: impl std::fmt::Display) -> Failure {
    let fault = Fault::new(Code::Internal, "pillarbox could not finish the command").because(cause);
    Failure::Fault(fault.hint("please report it with the command and its output"))
}

/// Threads of the runtime for everything but the hot path: one that works, one that answers health
/// checks meanwhile.
const RUNTIME_THREADS: usize = 2;

/// Pairs of descriptors that a runtime has room for: it opens six while it is built.
const RUNTIME_PAIRS: usize = 4;

/// Runs a command's future on a runtime of its own.
///
/// # Errors
/// What the future says, or that the system gives no threads or descriptors.
pub(crate) fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    // Where tokio gets none for its signals, it panics.
    let room: std::io::Result<Vec<_>> = (0..RUNTIME_PAIRS).map(|_| UnixStream::pair()).collect();
    room.map(drop).map_err(|error| Fault::system_limit("cannot make a runtime", error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("pillarbox-control")
        .enable_all()
        .build()
        .map_err(|error| Fault::system_limit("cannot make a runtime", error))?;
    let outcome = runtime.block_on(work);
    // A look-up that hangs in the system must not keep the process.
    runtime.shutdown_background();
    outcome
}
