//! `cargo xtask instructions`: how many instructions the relay spends on an event, by stage, against a ratchet.
//!
//! ```text
//! build `stages` for release -> run it under callgrind, a run a shape -> costs by stage -> compare with the ratchet
//! ```
//! Seconds depend on the machine and on its neighbours; instructions of the same code on the same input are the same.
//! They leave out the kernel, and what a cache miss costs: `cargo xtask bench drain` has the seconds.
//!
//! Must never pass because nothing was counted.

mod callgrind;
mod ratchet;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use self::callgrind::Costs;
use self::ratchet::{Compared, Ratchet};
use crate::tree;

/// Options of `instructions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Write what was counted into bench/instructions.toml
    #[arg(long)]
    record: bool,
    /// Print the most expensive functions, too
    #[arg(long)]
    functions: bool,
}

/// What is sent.
struct Shape {
    name: &'static str,
    events: usize,
    rows: usize,
    payload: usize,
}

const SHAPES: [Shape; 3] = [
    Shape { name: "10 rows a transaction, 300 B", events: 40_000, rows: 10, payload: 300 },
    Shape { name: "1 row a transaction, 300 B", events: 40_000, rows: 1, payload: 300 },
    Shape { name: "10 rows a transaction, 3 kB", events: 20_000, rows: 10, payload: 3_000 },
];

/// A stage is what its functions cost with all that they call, without the stages inside them. One that the compiler
/// has put into its caller counts there.
struct Stage {
    name: &'static str,
    functions: &'static [&'static str],
}

const STAGES: [Stage; 7] = [
    Stage { name: "frames", functions: &["Frames::next"] },
    Stage { name: "decode", functions: &["Decoder::decode"] },
    Stage { name: "outbox", functions: &["Extractor::extract"] },
    Stage { name: "route", functions: &["Router::route"] },
    Stage { name: "batch (encode)", functions: &["BatchSet::append", "BatchSet::append_within"] },
    Stage { name: "seal", functions: &["Fill::seal"] },
    Stage { name: "stamp (CRC)", functions: &["record_batch::stamp"] },
];

/// What callgrind counts inside of.
const COUNTED: &str = "stages::drain";

/// The C library chooses how it copies and compares by the processor: the choice that every one has.
const SAME_ON_EVERY_CPU: &str =
    "glibc.cpu.hwcaps=-AVX_Fast_Unaligned_Load,-AVX512F,-AVX512VL,-AVX2,-ERMS,-FSRM,-SSSE3";

/// The step of `ci`: what CI installs, a contributor may not have.
pub(crate) fn run_where_installed() -> anyhow::Result<()> {
    if !has_valgrind() {
        eprintln!("skipped: valgrind is not installed (Debian: apt install valgrind)");
        return Ok(());
    }
    run(&Options { record: false, functions: false })
}

fn has_valgrind() -> bool {
    tree::output(tree::command("valgrind").arg("--version")).is_ok()
}

/// Counts, prints, compares.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(has_valgrind(), "valgrind is not installed (Debian: apt install valgrind)");
    let binary = build()?;
    let folder = binary.with_file_name("instructions");
    std::fs::create_dir_all(&folder).context("cannot create the folder for counts")?;
    let mut ratchet = Ratchet::read(&tree::root())?;
    let mut worse = Vec::new();
    for (number, shape) in SHAPES.iter().enumerate() {
        let costs = count(&binary, &folder.join(format!("{number}.callgrind")), shape)?;
        let an_event = print(shape, &costs, options.functions)?;
        match ratchet.compare(shape.name, an_event) {
            Compared::Worse { limit } => worse.push(format!("{}: {an_event}, at most {limit}", shape.name)),
            Compared::Better { recorded } => {
                println!("  better than {recorded}: lower the ratchet with --record");
            }
            Compared::Same => {}
        }
        ratchet.set(shape.name, an_event);
    }
    if options.record {
        return ratchet.write(&tree::root());
    }
    if worse.is_empty() {
        return Ok(());
    }
    bail!(
        "more instructions an event than bench/instructions.toml allows:\n  {}\nmake it cheaper, or say in the commit \
         what it buys and record it: cargo xtask instructions --record",
        worse.join("\n  ")
    )
}

fn build() -> anyhow::Result<PathBuf> {
    let mut cargo = tree::cargo();
    cargo.args(["build", "--release", "--package", "xtask", "--features", "stages", "--bin", "stages"]);
    // One line a crate or file; the executable's is the last that names one.
    cargo.arg("--message-format=json-render-diagnostics");
    let messages = tree::output(&mut cargo)?;
    let path = messages.rsplit_once("\"executable\":\"").and_then(|(_, rest)| rest.split_once('"'));
    Ok(PathBuf::from(path.context("cargo names no executable")?.0))
}

fn count(binary: &Path, out: &Path, shape: &Shape) -> anyhow::Result<Costs> {
    let mut valgrind = tree::command("valgrind");
    valgrind.env("GLIBC_TUNABLES", SAME_ON_EVERY_CPU);
    valgrind.arg("--tool=callgrind").arg(format!("--toggle-collect={COUNTED}"));
    valgrind.arg(format!("--callgrind-out-file={}", out.display())).arg(binary);
    valgrind.args([shape.events, shape.rows, shape.payload].map(|number| number.to_string()));
    let events = tree::output(&mut valgrind)?;
    let events = events.trim().parse().context("`stages` does not say how many events it relayed")?;
    let text = std::fs::read_to_string(out).context("callgrind has left no counts")?;
    Costs::parse(&text, events)
}

/// Prints the table of a shape; gives its total.
fn print(shape: &Shape, costs: &Costs, functions: bool) -> anyhow::Result<u64> {
    let total = costs.an_event(costs.total());
    ensure!(total > 0, "callgrind has counted nothing in {COUNTED}: is it still called that?");
    println!("{}: {total} instructions an event", shape.name);
    let mut rest = costs.total();
    for stage in &STAGES {
        let inside: Vec<&str> = STAGES.iter().flat_map(|stage| stage.functions).copied().collect();
        let own = costs.without(stage.functions, &inside);
        rest = rest.saturating_sub(own);
        println!("  {:<30}{:>7}", stage.name, costs.an_event(own));
    }
    println!("  {:<30}{:>7}", "all else (headers, bookkeeping)", costs.an_event(rest));
    if functions {
        for (name, own) in costs.dearest(30) {
            println!("    {:>7} {name}", costs.an_event(own));
        }
    }
    Ok(total)
}
