//! What tests say of themselves: three lines of documentation on a test function.
//!
//! ```text
//! /// fault: 13, 15 what happens
//! /// and goes on
//! /// holds: what is still true, over as
//! /// many lines as it takes
//! /// told: what the operator sees
//! #[test]
//! fn name() {
//! ```
//! Must never guess: a mark that is not complete is an error at its line.

use super::Wrong;

/// Opens a mark.
const FAULT: &str = "fault: ";
const HOLDS: &str = "holds: ";
const TOLD: &str = "told: ";

/// Test targets that need a feature: without it they are not built.
const FEATURES: &[(&str, &str)] = &[("crash", "failpoints")];

/// A test that brings about a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) rows: Vec<u16>,
    pub(super) name: String,
    pub(super) holds: String,
    pub(super) told: String,
    pub(super) path: String,
    pub(super) line: usize,
    /// Arguments of `cargo test`.
    pub(super) command: String,
}

/// All marks of a Rust file.
pub(super) fn of_file(path: &str, text: &str) -> Vec<Result<Mark, Wrong>> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let opens = lines.iter().enumerate().filter(|(_, line)| documentation(line).is_some_and(opens_a_mark));
    opens.map(|(at, _)| mark(path, &lines, at).map_err(|what| Wrong::new(path, at + 1, what))).collect()
}

fn opens_a_mark(words: &str) -> bool {
    words.starts_with(FAULT)
}

/// The words of a line of documentation.
fn documentation(line: &str) -> Option<&str> {
    line.strip_prefix("///").map(str::trim)
}

/// The mark that opens in this line.
fn mark(path: &str, lines: &[&str], at: usize) -> Result<Mark, String> {
    let words: Vec<&str> = lines[at..].iter().map_while(|line| documentation(line)).collect();
    let (rows, mut name) = numbered(words[0].trim_start_matches(FAULT))?;
    let mut parts = [String::new(), String::new()];
    let mut part = None;
    for word in &words[1..] {
        let begins = [HOLDS, TOLD].iter().position(|begin| word.starts_with(begin.trim_end()));
        if let Some(begins) = begins {
            part = Some(begins);
        }
        let word = begins.map_or(*word, |begins| word[[HOLDS, TOLD][begins].trim_end().len()..].trim_start());
        let text = part.map_or(&mut name, |part| &mut parts[part]);
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
    let [holds, told] = parts;
    if holds.is_empty() || told.is_empty() {
        return Err("a fault says what `holds:` and what the operator is `told:`".to_owned());
    }
    let test = test_name(&lines[at + words.len()..])?;
    let command = command(path, test)?;
    Ok(Mark { rows, name, holds, told, path: path.to_owned(), line: at + 1, command })
}

/// `13, 15 what happens`.
fn numbered(text: &str) -> Result<(Vec<u16>, String), String> {
    let mut rows = Vec::new();
    let mut rest = text;
    let name = loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, behind) = rest.split_at(digits);
        rows.push(number.parse().map_err(|_| format!("`{rest}` begins with no number"))?);
        match behind.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None => break behind.trim_start(),
        }
    };
    if name.is_empty() { Err("a fault has a short name".to_owned()) } else { Ok((rows, name.to_owned())) }
}

/// The function behind the attributes.
fn test_name<'a>(lines: &[&'a str]) -> Result<&'a str, String> {
    let is_test = |line: &&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    let attributes = lines.iter().take_while(|line| line.starts_with("#["));
    if !attributes.clone().any(is_test) {
        return Err("a fault is brought about by a test: `#[test]` follows".to_owned());
    }
    let function = lines.get(attributes.count()).copied().unwrap_or_default();
    let name = function.trim_start_matches("pub(crate) ").trim_start_matches("async ").strip_prefix("fn ");
    let name = name.and_then(|rest| rest.split(['(', '<']).next());
    name.ok_or_else(|| format!("`{function}` is no function"))
}

/// How this one test is run.
fn command(path: &str, test: &str) -> Result<String, String> {
    let parts: Vec<&str> = path.split('/').collect();
    let (krate, kind, target) = match parts.as_slice() {
        ["crates", krate, "tests", target, ..] => (krate, "--test", target.trim_end_matches(".rs")),
        ["crates", krate, "src", ..] => (krate, "--lib", ""),
        _ => return Err("a mark stands in a test of a crate".to_owned()),
    };
    let feature = FEATURES.iter().find(|(needs, _)| *needs == target);
    let feature = feature.map(|(_, feature)| format!(" --features {feature}")).unwrap_or_default();
    let target = if target.is_empty() { kind.to_owned() } else { format!("{kind} {target}") };
    Ok(format!("-p {krate}{feature} {target} {test}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "crates/pillarbox/tests/faults/slots.rs";

    /// Lines of a file; `|` stands for the slashes, so that this file has no marks itself.
    fn found(path: &str, lines: &[&str]) -> Vec<Result<Mark, Wrong>> {
        let text: String = lines.iter().map(|line| format!("{}\n", line.replace('|', "///"))).collect();
        of_file(path, &text)
    }

    #[test]
    fn a_mark_is_read_with_everything_it_says() {
        let lines = [
            "| fault: 13, 15 2 slots",
            "| are gone",
            "| holds: nothing",
            "| lost",
            "| told: PB-1013",
            "#[test]",
            "fn gone() {",
        ];
        let mark = found(PATH, &lines).remove(0).expect("a mark");
        assert_eq!(mark.rows, [13, 15]);
        assert_eq!([&*mark.name, &*mark.holds, &*mark.told], ["2 slots are gone", "nothing lost", "PB-1013"]);
        assert_eq!((mark.line, &*mark.command), (1, "-p pillarbox --test faults gone"));
    }

    #[test]
    fn targets_are_found_by_their_path() {
        let lines = ["| fault: 1 a", "| holds: b", "| told: c", "#[tokio::test]", "async fn t() {"];
        let cases = [
            ("crates/a/tests/b.rs", "-p a --test b t"),
            ("crates/a/src/b/c.rs", "-p a --lib t"),
            ("crates/pillarbox/tests/crash/main.rs", "-p pillarbox --features failpoints --test crash t"),
        ];
        for (path, command) in cases {
            assert_eq!(found(path, &lines).remove(0).expect("a mark").command, command);
        }
    }

    #[test]
    fn each_planted_mistake_is_found() {
        let test = ["#[test]", "fn t() {"];
        let cases: [(&[&str], &str); 6] = [
            (&["| fault: x", "| holds: a", "| told: b"], "no number"),
            (&["| fault: 13", "| holds: a", "| told: b"], "a short name"),
            (&["| fault: 13, a", "| holds: a", "| told: b"], "no number"),
            (&["| fault: 13 a", "| told: b"], "says what `holds:`"),
            (&["| fault: 13 a", "| holds: b"], "`told:`"),
            (&["| fault: 13 a", "| holds: b", "| told: c", "fn f() {"], "`#[test]` follows"),
        ];
        for (lines, expected) in cases {
            let wrong = found(PATH, &[lines, &test].concat()).remove(0).expect_err(expected);
            assert!(wrong.message.contains(expected), "{expected}: {wrong:?}");
        }
    }
}
