//! A mutation as its file says it: what it breaks, the tests that must notice, and exact lines to be replaced.
//!
//! ```text
//! What is wrong in the product now.
//! test: -p CRATE --lib PATH      arguments of `cargo test`, a line each
//! file: crates/...
//! <<<
//! lines as they stand in the file, once
//! ===
//! lines in their place
//! >>>
//! ```
//! Must never guess where lines belong: those that do not stand there exactly once are an error.

use anyhow::{Context, bail, ensure};

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mutation {
    pub(super) name: String,
    pub(super) what: String,
    /// Arguments of `cargo test`.
    pub(super) tests: Vec<String>,
    /// The file to be changed.
    pub(super) file: String,
    hunks: Vec<Hunk>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Hunk {
    before: String,
    after: String,
}

impl Mutation {
    pub(super) fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let (mut tests, mut file, mut hunks) = (Vec::new(), None, Vec::new());
        let mut lines = text.lines();
        let what = lines.next().context("the file is empty")?.to_owned();
        while let Some(line) = lines.next() {
            if let Some(test) = line.strip_prefix("test: ") {
                tests.push(test.to_owned());
            } else if let Some(path) = line.strip_prefix("file: ") {
                ensure!(file.replace(path.to_owned()).is_none(), "it changes more than one file");
            } else if line == "<<<" {
                let before = until(&mut lines, "===")?;
                hunks.push(Hunk { before, after: until(&mut lines, ">>>")? });
            } else {
                bail!("a line that means nothing: {line}");
            }
        }
        ensure!(!tests.is_empty(), "no test is named");
        ensure!(!hunks.is_empty(), "it changes nothing");
        Ok(Self { name: name.to_owned(), what, tests, file: file.context("no file is named")?, hunks })
    }

    /// The file's text with the mutation in it.
    pub(super) fn apply(&self, text: &str) -> anyhow::Result<String> {
        let mut text = text.to_owned();
        for Hunk { before, after } in &self.hunks {
            let found = text.matches(before).count();
            let first = before.trim().lines().next().unwrap_or_default();
            ensure!(found == 1, "mutation {}: found {found} times in {}: {first} ...", self.name, self.file);
            text = text.replacen(before, after, 1);
        }
        Ok(text)
    }
}

fn until<'a>(lines: &mut impl Iterator<Item = &'a str>, end: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    for line in lines {
        if line == end {
            return Ok(text);
        }
        ensure!(!["<<<", "===", ">>>"].contains(&line), "`{end}` is missing before `{line}`");
        text.push_str(line);
        text.push('\n');
    }
    bail!("`{end}` is missing")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "Wrong.\ntest: -p a --lib\ntest: -p b\nfile: a.rs\n<<<\none\ntwo\n===\nthree\n>>>\n<<<\nfour\n===\n>>>\n";

    #[test]
    fn lines_are_replaced_where_they_stand_once() {
        let mutation = Mutation::parse("m", SOUND).unwrap();
        assert_eq!(mutation.tests, ["-p a --lib", "-p b"]);
        assert_eq!(mutation.apply("zero\none\ntwo\nfour\nfive\n").unwrap(), "zero\nthree\nfive\n");
        for (text, times) in [("one\nthree\nfour\n", 0), ("one\ntwo\none\ntwo\nfour\n", 2)] {
            let error = mutation.apply(text).unwrap_err().to_string();
            assert_eq!(error, format!("mutation m: found {times} times in a.rs: one ..."));
        }
    }

    #[test]
    fn a_file_that_says_too_little_is_refused() {
        for (from, to) in [
            ("test: -p a --lib\ntest: -p b\n", ""),
            ("file: a.rs\n", ""),
            ("file: a.rs\n", "file: a.rs\nfile: b.rs\n"),
            ("three\n>>>\n", "three\n"),
            ("file: ", "fill: "),
        ] {
            assert!(Mutation::parse("m", &SOUND.replace(from, to)).is_err(), "{from:?} -> {to:?}");
        }
    }
}
