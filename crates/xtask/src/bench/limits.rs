//! `bench limits`: runs the test `limits` with the release binary, in its small or its full form, and records what it
//! tells: peak memory of the relay, the longest silence towards Postgres, events counted.
//!
//! ```text
//! cargo test --release --test limits -> a JSON file a case -> one table; cases that were not run keep their row
//! ```
//! Must never record the figures of a case that failed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::{Common, drain, report, tree};

/// Options of `bench limits`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// In full: 10 GB, 100,000 subtransactions, a million transactions, 5,000 partitions, ten minutes twice. An hour.
    #[arg(long)]
    full: bool,
    /// Only cases whose name holds this
    #[arg(long)]
    only: Option<String>,
}

/// What a case tells; see `crates/pillarbox/tests/limits/figures.rs`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Figures {
    case: String,
    full: bool,
    what: String,
    events: u64,
    seconds: f64,
    rss_kib: u64,
    silence_ms: Option<u64>,
    note: String,
}

/// A row of the table: each has the machine and the moment at which it ran.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    machine: Machine,
    figures: Figures,
}

type Rows = BTreeMap<String, Row>;

/// Runs `bench limits`.
pub(crate) fn run(options: &Options, common: &Common) -> anyhow::Result<()> {
    let folder = drain::open_dir()?;
    test(options, folder.path())?;
    let results = tree::root().join(if common.record { "bench/results" } else { "bench/results/tmp" });
    fs::create_dir_all(&results).with_context(|| format!("cannot make {}", results.display()))?;
    let name = report::file_name(common, "limits");
    let json = results.join(format!("{name}.json"));
    let mut rows: Rows = match fs::read(&json) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).with_context(|| format!("cannot read {}", json.display()))?
        }
        Err(_) => Rows::new(),
    };
    take(folder.path(), &mut rows, common.awake)?;
    let page = markdown(&rows);
    println!("{page}");
    fs::write(&json, serde_json::to_string_pretty(&rows)? + "\n")?;
    fs::write(results.join(format!("{name}.md")), page)?;
    eprintln!("bench: wrote {}", json.display());
    Ok(())
}

fn test(options: &Options, folder: &Path) -> anyhow::Result<()> {
    let mut cargo = tree::cargo();
    cargo.args(["test", "--release", "--package", "pillarbox", "--test", "limits", "--", "--nocapture"]);
    cargo.args(["--test-threads", "1"]).args(&options.only);
    cargo.env("PILLARBOX_LIMITS", if options.full { "full" } else { "small" });
    cargo.env("PILLARBOX_FIGURES", folder);
    let status = cargo.status().context("cannot start cargo")?;
    ensure!(status.success(), "limits: {status}");
    Ok(())
}

/// Adds what was told, in place of what was told before of the same case.
fn take(folder: &Path, rows: &mut Rows, awake: bool) -> anyhow::Result<()> {
    let machine = Machine::look(awake);
    for entry in fs::read_dir(folder)? {
        let figures: Figures = serde_json::from_slice(&fs::read(entry?.path())?)?;
        rows.insert(figures.case.clone(), Row { machine: machine.clone(), figures });
    }
    Ok(())
}

fn markdown(rows: &Rows) -> String {
    let mut page = "# bench limits\n\nThe release binary on private servers, everything on one machine. Each event was counted \
                    by a `read_committed` librdkafka: once, in order, none lost. Memory is the relay's peak (`VmHWM`). Silence is \
                    the longest time between two answers of the relay that Postgres saw, sampled four times a second; Postgres \
                    would have cut the stream after 5 s. Times are those of the machine with whatever else it did.\n\
                    Again: `cargo xtask bench limits --full`\n\n\
                    | what | events | peak MiB | until confirmed, s | silence, s | |\n| --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for Row { figures, .. } in rows.values() {
        let Figures { full, what, events, seconds, rss_kib, silence_ms, note, .. } = figures;
        let silence = silence_ms.map_or("-".to_owned(), |ms| format!("{:.1}", ms as f64 / 1e3));
        let what = if *full { what.clone() } else { format!("{what} (small form)") };
        let mib = *rss_kib as f64 / 1024.0;
        page += &format!("| {what} | {events} | **{mib:.1}** | {seconds:.1} | {silence} | {note} |\n");
    }
    page += "\n";
    let mut machines: Vec<String> = rows.values().map(|row| line(&row.machine)).collect();
    machines.sort();
    machines.dedup();
    page + &machines.join("\n") + "\n"
}

fn line(machine: &Machine) -> String {
    let Machine { cpu, memory_mib, kernel, commit, .. } = machine;
    let cores = machine.cores();
    format!(
        "Commit {commit}. {cpu}, {cores} for everything, {memory_mib} MiB, {kernel}; Postgres 18, Kafka 4.3.1."
    )
}
