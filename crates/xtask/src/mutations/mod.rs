//! `cargo xtask mutations`: breaks one rule of the relay after the other, in a copy of the tree, and demands that the
//! tests named for it go red. A test that never failed proves nothing.
//!
//! ```text
//! copy of the tree -> the named tests, green -> one mutation -> it compiles -> the named tests, each red -> as before
//! ```
//! The mutations are in `crates/xtask/mutations`, a file each; `mutation` has their form. The copy and what is built
//! from it are in `target/mutations`. Must never touch the tree itself.

mod mutation;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail, ensure};

use crate::tree;
use mutation::Mutation;

/// What was typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only these; all by default
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// What became of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Colour {
    /// What it said first.
    Red(String),
    Green,
}

/// The longest reason that is printed, in characters.
const REASON_CHARS_MAX: usize = 90;

/// Runs them and prints a table; an error if a test stays green.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mutations = chosen(all()?, &options.names)?;
    let copy = Copy::make()?;
    let tests: BTreeSet<&String> = mutations.iter().flat_map(|mutation| &mutation.tests).collect();
    for test in tests {
        eprintln!("== as it is: cargo test {test}");
        ensure!(copy.test(test)? == Colour::Green, "fails without any mutation: cargo test {test}");
    }
    let mut rows = Vec::new();
    for mutation in &mutations {
        rows.extend(copy.with(mutation)?);
    }
    for (name, test, colour) in &rows {
        match colour {
            Colour::Red(reason) => println!("{name:<16} red    cargo test {test}\n{:<23} {reason}", ""),
            Colour::Green => println!("{name:<16} GREEN  cargo test {test}"),
        }
    }
    let green = rows.iter().filter(|(.., colour)| *colour == Colour::Green).count();
    ensure!(green == 0, "{green} of {} tests did not notice that a rule was gone", rows.len());
    Ok(())
}

/// The first line of the first panic.
fn reason(said: &str) -> String {
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at")).skip(1);
    lines.next().unwrap_or("no panic").chars().take(REASON_CHARS_MAX).collect()
}

fn chosen(all: Vec<Mutation>, names: &[String]) -> anyhow::Result<Vec<Mutation>> {
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|mutation| mutation.name == **name)) {
        let known: Vec<&str> = all.iter().map(|mutation| mutation.name.as_str()).collect();
        bail!("no mutation {unknown}; there are: {}", known.join(", "));
    }
    Ok(all.into_iter().filter(|mutation| names.is_empty() || names.contains(&mutation.name)).collect())
}

/// All mutations, by name.
fn all() -> anyhow::Result<Vec<Mutation>> {
    let folder = tree::root().join("crates/xtask/mutations");
    let mut mutations = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = read(&path)?;
        let mutation = Mutation::parse(&name, &text).with_context(|| format!("in {}", path.display()))?;
        mutations.push(mutation);
    }
    mutations.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(mutations)
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// A copy of the tree.
struct Copy {
    root: PathBuf,
    target: PathBuf,
}

impl Copy {
    /// Brings the copy to the state of the tree: what git tracks or would track. Files that are the same stay as they
    /// are, so that only what changed is built again.
    fn make() -> anyhow::Result<Self> {
        let folder = tree::root().join("target/mutations");
        let copy = Self { root: folder.join("tree"), target: folder.join("target") };
        let list = tree::output(tree::command("git").args(["ls-files", "-co", "--exclude-standard"]))?;
        for file in list.lines() {
            let (from, to) = (tree::root().join(file), copy.root.join(file));
            // Deleted, but not yet for git.
            let Ok(bytes) = std::fs::read(&from) else { continue };
            if std::fs::read(&to).is_ok_and(|old| old == bytes) {
                continue;
            }
            std::fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
            std::fs::write(&to, bytes).with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(copy)
    }

    /// Breaks one rule, runs its tests and mends it again.
    fn with(&self, mutation: &Mutation) -> anyhow::Result<Vec<(String, String, Colour)>> {
        eprintln!("== {}: {}", mutation.name, mutation.what);
        let path = self.root.join(&mutation.file);
        let text = read(&path)?;
        write(&path, &mutation.apply(&text)?)?;
        let results = mutation.tests.iter().map(|test| {
            let started = Instant::now();
            let colour = self.test(test)?;
            eprintln!("   {:.0} s: cargo test {test}", started.elapsed().as_secs_f32());
            Ok((mutation.name.clone(), test.clone(), colour))
        });
        let results: anyhow::Result<Vec<_>> = results.collect();
        write(&path, &text)?;
        results.with_context(|| format!("mutation {}", mutation.name))
    }

    /// A test that cannot be built, or a name that no test has, shows nothing: an error.
    fn test(&self, arguments: &str) -> anyhow::Result<Colour> {
        let mut build = self.cargo(arguments);
        let built = build.arg("--no-run").output().context("cannot start cargo")?;
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        ensure!(built.status.success(), "cargo test {arguments} cannot be built:\n{said}");
        let ran = self.cargo(arguments).output().context("cannot start cargo")?;
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        ensure!(!said.contains("running 0 tests"), "no test has this name: cargo test {arguments}");
        match (ran.status.success(), said.contains("test result: FAILED")) {
            (true, false) => Ok(Colour::Green),
            (false, true) => Ok(Colour::Red(reason(&said))),
            _ => bail!("cargo test {arguments} ended without a result:\n{said}"),
        }
    }

    fn cargo(&self, arguments: &str) -> std::process::Command {
        let mut cargo = tree::cargo();
        cargo.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        // Warnings are not the point: a rule that is gone leaves unused code behind.
        cargo.arg("test").args(arguments.split(' ')).env("CARGO_INCREMENTAL", "1");
        cargo
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a mutation would be noticed to be out of date only by those who run all.
    #[test]
    fn every_mutation_finds_its_lines() {
        let mutations = all().unwrap();
        assert!(mutations.len() >= 5, "{} mutations", mutations.len());
        for mutation in mutations {
            let text = read(&tree::root().join(&mutation.file)).unwrap();
            assert_ne!(mutation.apply(&text).unwrap(), text, "{} changes nothing", mutation.name);
        }
    }

    #[test]
    fn a_reason_is_what_a_panic_says_first() {
        let said = "running 1 test\n\nthread 't' (7) panicked at src/a.rs:1:2:\nleft is not right\nmore\n";
        assert_eq!(reason(said), "left is not right");
        assert_eq!(reason("killed"), "no panic");
    }

    #[test]
    fn a_name_that_is_none_is_told() {
        assert_eq!(chosen(all().unwrap(), &[]).unwrap().len(), all().unwrap().len());
        assert_eq!(chosen(all().unwrap(), &["new-epoch".into()]).unwrap().len(), 1);
        let error = chosen(all().unwrap(), &["new-era".into()]).unwrap_err().to_string();
        assert!(error.starts_with("no mutation new-era; there are: confirm-rule, "), "{error}");
    }
}
