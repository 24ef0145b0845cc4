//! Results on disk: JSON for programs, Markdown for people, both with the machine.
//!
//! Must never overwrite a recorded result unless told so: without `--record` results go to a folder git does not see.

use std::fs;

use anyhow::Context;
use serde::Serialize;

use crate::machine::Machine;
use crate::servers::Versions;
use crate::{Common, tree};

/// A result with everything needed to judge it.
#[derive(Debug, Serialize)]
struct Document<'a, T> {
    bench: &'a str,
    /// The command that makes it again.
    command: String,
    machine: Machine,
    versions: &'a Versions,
    result: &'a T,
}

/// Writes a result and prints its Markdown.
pub(crate) fn write(
    common: &Common,
    name: &str,
    versions: &Versions,
    result: &impl Serialize,
    markdown: &str,
) -> anyhow::Result<()> {
    let machine = Machine::look(common.awake);
    let name = &file_name(common, name);
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--record").collect();
    let command = format!("cargo xtask bench {}", arguments.join(" "));
    let page = format!("# bench {name}\n\n{}\n\n{markdown}", header(&machine, versions, &command));
    println!("{page}");
    let dir = tree::root().join(if common.record { "bench/results" } else { "bench/results/tmp" });
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let document = Document { bench: name, command, machine, versions, result };
    let json = serde_json::to_string_pretty(&document)? + "\n";
    for (ending, text) in [("json", json), ("md", page)] {
        let path = dir.join(format!("{name}.{ending}"));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("bench: wrote {}", path.display());
    }
    Ok(())
}

/// Writes a picture beside the result of the same name.
pub(crate) fn picture(common: &Common, name: &str, svg: &str) -> anyhow::Result<()> {
    let dir = tree::root().join(if common.record { "bench/results" } else { "bench/results/tmp" });
    let path = dir.join(format!("{}.svg", file_name(common, name)));
    fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("bench: wrote {}", path.display());
    Ok(())
}

/// Figures of cores that are kept awake never replace others.
pub(crate) fn file_name(common: &Common, name: &str) -> String {
    if common.awake { format!("{name}-awake") } else { name.to_owned() }
}

fn header(machine: &Machine, versions: &Versions, command: &str) -> String {
    let Machine { cpu, memory_mib, kernel, at, commit, .. } = machine;
    let cores = machine.cores();
    let Versions { postgres, kafka } = versions;
    format!(
        "{at}, commit {commit}. {cpu}, {cores} for everything (servers, relay, load, reader), {memory_mib} MiB, \
         {kernel}; Postgres {postgres}, Kafka {kafka}, loopback, no TLS, fsync on.\nAgain: `{command}`"
    )
}
