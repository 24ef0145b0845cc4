//! `cargo xtask faults`: writes `docs/faults.md`, which fault is brought about by which test, what held, and what the
//! operator was told.
//!
//! ```text
//! doc comments of tests -> marks ─┐
//! list of faults        -> rows ──┴─> page -> docs/faults.md      `tidy` compares, and names rows without a test
//! ```
//! The text of a row stands with its test, so that it is read by whoever changes the test. Must never accept a fault
//! that no test brings about, and never write what a test does not say.

mod marks;
mod page;
mod rows;

use std::path::Path;

use anyhow::{Context, bail};

use self::marks::Mark;
use crate::tree;

/// The page, relative to the root.
const PAGE: &str = "docs/faults.md";

/// A file of the tree: its path and its text.
pub(crate) type File<'a> = (&'a str, &'a str);

/// Something about the marks or the page that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// The file.
    pub(crate) path: String,
    /// From 1; 0 where it is about the file as a whole.
    pub(crate) line: usize,
    /// What, and what to do.
    pub(crate) message: String,
}

impl Wrong {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

/// Writes the page from these files.
pub(crate) fn write<'a>(files: impl Iterator<Item = File<'a>>) -> anyhow::Result<()> {
    let (marks, wrong) = read(files);
    for wrong in &wrong {
        eprintln!("faults: {}:{}: {}", wrong.path, wrong.line, wrong.message);
    }
    let path = tree::root().join(Path::new(PAGE));
    std::fs::write(&path, page::render(&marks)).with_context(|| format!("cannot write {PAGE}"))?;
    eprintln!("faults: {} rows by {} tests in {PAGE}", rows::ROWS.len(), marks.len());
    if wrong.is_empty() { Ok(()) } else { bail!("{} findings", wrong.len()) }
}

/// What is wrong with the marks in these files, with the list of rows, and with the page among them.
pub(crate) fn check<'a>(files: impl Iterator<Item = File<'a>> + Clone) -> Vec<Wrong> {
    let (marks, mut wrong) = read(files.clone());
    let written = files.clone().find(|(path, _)| *path == PAGE).map(|(_, text)| text);
    if written != Some(page::render(&marks).as_str()) {
        wrong.push(Wrong::new(PAGE, 0, "is not what the tests say: `cargo xtask faults` writes it"));
    }
    wrong
}

/// The marks, by row, and what is wrong with them.
fn read<'a>(files: impl Iterator<Item = File<'a>>) -> (Vec<Mark>, Vec<Wrong>) {
    let (mut marks, mut wrong) = (Vec::new(), Vec::new());
    for (path, text) in files.filter(|(path, _)| path.ends_with(".rs")) {
        for found in marks::of_file(path, text) {
            match found {
                Ok(mark) => marks.push(mark),
                Err(error) => wrong.push(error),
            }
        }
    }
    // By where the test is, so that the page does not depend on the order of the files.
    marks.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    wrong.extend(rows::compare(&marks));
    (marks, wrong)
}
