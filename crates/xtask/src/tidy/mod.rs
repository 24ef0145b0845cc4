//! `cargo xtask tidy`: the house style, held by a program. The rules are pure functions over the text of the tree.
//!
//! ```text
//! git ls-files -> Source (text, tokens, functions) -> shape | words | layers  ┐
//!                                             manifests, commit subjects ─────┼─> findings
//!                       marks on tests against the list of faults and its page ───┘
//! ```
//! Must never change a file, and never accept an exception that is no longer needed: the lists in `exceptions` only
//! shrink.

mod exceptions;
mod history;
mod layers;
mod shape;
mod source;
mod words;

use std::fmt;

use anyhow::bail;

use self::source::Source;
use crate::{faults, tree};

/// Something the house style does not want.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    /// From 1; 0 where the finding is about the file as a whole.
    line: usize,
    /// True where it is worth a look, but no reason to stop.
    warning: bool,
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Finding {
        Finding { path: path.into(), line, warning: false, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.warning { "warning" } else { "tidy" };
        match self.line {
            0 => write!(f, "{kind}: {}: {}", self.path, self.message),
            line => write!(f, "{kind}: {}:{line}: {}", self.path, self.message),
        }
    }
}

/// Holds the style against the tree and prints what it finds.
pub(crate) fn run() -> anyhow::Result<()> {
    let sources = read_tree()?;
    let mut findings = check(&sources);
    findings.extend(history::check(&history::subjects()?));
    findings.sort();
    findings.dedup();
    for finding in &findings {
        eprintln!("{finding}");
    }
    let lengths = shape::function_lengths(&sources);
    eprintln!("tidy: {} files; {lengths}", sources.len());
    match findings.iter().filter(|f| !f.warning).count() {
        0 => Ok(()),
        count => bail!("{count} findings; the rules are in CONTRIBUTING.md"),
    }
}

/// Every rule about files.
fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = sources
        .iter()
        .flat_map(|source| [shape::check(source), words::check(source), layers::check(source)])
        .flatten()
        .collect();
    findings.extend(exceptions::stale(sources));
    let wrong = faults::check(files(sources)).into_iter();
    findings.extend(wrong.map(|wrong| Finding::new(&wrong.path, wrong.line, wrong.message)));
    findings
}

/// Writes the page of faults from the tree as it is.
pub(crate) fn write_faults() -> anyhow::Result<()> {
    faults::write(files(&read_tree()?))
}

fn files(sources: &[Source]) -> impl Iterator<Item = faults::File<'_>> + Clone {
    sources.iter().map(|source| (source.path.as_str(), source.text.as_str()))
}

/// The files git knows or would take in, so that a rule speaks up before the commit and not after it.
fn read_tree() -> anyhow::Result<Vec<Source>> {
    let mut git = tree::command("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let list = tree::output(&mut git)?;
    let mut sources = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        // A file that is deleted but not yet committed is still listed; a binary file has no style.
        let Ok(bytes) = std::fs::read(tree::root().join(path)) else { continue };
        let Ok(text) = String::from_utf8(bytes) else { continue };
        sources.push(Source::new(path, text));
    }
    Ok(sources)
}
