//! How errors and findings look: to people as text on stderr, to programs as JSON lines.
//!
//! ```text
//! error[PB-0002]: unknown option `slott` in postgres
//!   --> pillarbox.yaml:3:3
//!    |
//!  3 |   slott: a
//!    |   ^^^^^
//!   hint: did you mean `slot`?
//! ```
//! Colour only repeats what the words say. Never prints to stdout: that is for data.

use std::io::{IsTerminal, Write};

use pillarbox_relay::error::{Code, ExitCode, Fault};
use serde_json::json;

use crate::config::problem::{Problem, Problems};

/// How loud something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Error,
    Warning,
    Advice,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Advice => "advice",
        }
    }

    fn paint(self) -> &'static str {
        match self {
            Level::Error => "\x1b[1;31m",
            Level::Warning => "\x1b[1;33m",
            Level::Advice => "\x1b[1;36m",
        }
    }
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The configuration is wrong.
    Config(Problems),
    /// Something with a code went wrong.
    Fault(Fault),
    /// The same, where the situation demands another exit code than the table says.
    Exit(Fault, ExitCode),
    /// The answer is no, and was already given on stdout or stderr.
    Answered(ExitCode),
}

impl Failure {
    /// How the process ends.
    pub(crate) fn exit(&self) -> ExitCode {
        match self {
            Failure::Config(problems) => problems.exit(),
            Failure::Fault(fault) => fault.code.exit(),
            Failure::Exit(_, code) | Failure::Answered(code) => *code,
        }
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Failure::Config(problems)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Failure::Fault(fault)
    }
}

/// Whether a stream shows colour: a terminal that did not ask for none.
pub(crate) fn colour(terminal: bool) -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    terminal && !dumb && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Tells on stderr why a command failed.
pub(crate) fn tell(failure: &Failure, json: bool) {
    let painted = colour(std::io::stderr().is_terminal());
    let text = match failure {
        Failure::Config(problems) if json => problems_json(problems),
        Failure::Config(problems) => problems_text(problems, painted),
        Failure::Fault(fault) | Failure::Exit(fault, _) if json => fault_json(Level::Error, fault),
        Failure::Fault(fault) | Failure::Exit(fault, _) => fault_text(Level::Error, fault, painted),
        Failure::Answered(_) => return,
    };
    // Nobody is left to tell when stderr is closed.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// A fault as text, several lines.
pub(crate) fn fault_text(level: Level, fault: &Fault, painted: bool) -> String {
    let mut text = headline(level, Some(fault.code), &fault.message, painted);
    if let Some(cause) = &fault.cause {
        text.push_str(&format!("  cause: {}\n", indent(cause)));
    }
    if let Some(hint) = &fault.hint {
        text.push_str(&format!("  hint: {}\n", indent(hint)));
    }
    text
}

/// A fault as one line of JSON.
pub(crate) fn fault_json(level: Level, fault: &Fault) -> String {
    let value = json!({
        "level": level.word(),
        "code": fault.code.to_string(),
        "title": fault.code.title(),
        "message": fault.message,
        "cause": fault.cause,
        "hint": fault.hint,
    });
    format!("{value}\n")
}

/// `error[PB-nnnn]: message`, without the brackets where there is no code.
pub(crate) fn headline(level: Level, code: Option<Code>, message: &str, painted: bool) -> String {
    let word = level.word();
    let code = code.map(|code| format!("[{code}]")).unwrap_or_default();
    if painted {
        format!("{}{word}{code}\x1b[0m\x1b[1m: {message}\x1b[0m\n", level.paint())
    } else {
        format!("{word}{code}: {message}\n")
    }
}

/// Further lines stand under the first.
pub(crate) fn indent(text: &str) -> String {
    text.replace('\n', "\n        ")
}

fn problems_text(problems: &Problems, painted: bool) -> String {
    let mut text: String = problems.list.iter().map(|one| problem_text(problems, one, painted)).collect();
    if problems.list.len() > 1 {
        text.push_str(&format!("{} problems in {}\n", problems.list.len(), problems.file));
    }
    text
}

fn problem_text(problems: &Problems, problem: &Problem, painted: bool) -> String {
    let mut text = headline(Level::Error, Some(problem.code), &problem.message, painted);
    if let Some(place) = problem.place {
        let gutter = " ".repeat(place.line.to_string().len());
        text.push_str(&format!("  --> {}:{}:{}\n", problems.file, place.line, place.column));
        if let Some(line) = problems.line(place) {
            let lead = " ".repeat(place.column.saturating_sub(1));
            // A blanked secret makes the line shorter than the mark was.
            let mark =
                "^".repeat(place.width.min(line.chars().count() + 1 - lead.len().min(line.chars().count())));
            text.push_str(&format!("  {gutter} |\n  {} | {line}\n  {gutter} | {lead}{mark}\n", place.line));
        }
    }
    if let Some(hint) = &problem.hint {
        text.push_str(&format!("  hint: {}\n", indent(hint)));
    }
    text
}

fn problems_json(problems: &Problems) -> String {
    let line = |problem: &Problem| {
        let value = json!({
            "level": "error",
            "code": problem.code.to_string(),
            "title": problem.code.title(),
            "message": problem.message,
            "option": problem.option,
            "file": problems.file,
            "line": problem.place.map(|place| place.line),
            "column": problem.place.map(|place| place.column),
            "hint": problem.hint,
        });
        format!("{value}\n")
    };
    problems.list.iter().map(line).collect()
}

#[cfg(test)]
mod pages;

#[cfg(test)]
pub(crate) fn problems_for_test(problems: &Problems) -> String {
    problems_text(problems, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_in_words() {
        let fault = Fault::new(Code::PgAuthentication, "cannot log in to db:5432 as pillarbox")
            .because("password authentication failed\nsecond line")
            .hint("set postgres.password");
        assert_eq!(
            fault_text(Level::Error, &fault, false),
            "error[PB-1002]: cannot log in to db:5432 as pillarbox\n  \
             cause: password authentication failed\n        second line\n  \
             hint: set postgres.password\n"
        );
        assert!(fault_text(Level::Warning, &fault, true).contains("\x1b[1;33mwarning[PB-1002]\x1b[0m"));
    }

    #[test]
    fn a_fault_for_programs() {
        let fault = Fault::new(Code::SlotMissing, "slot s");
        let value: serde_json::Value = serde_json::from_str(&fault_json(Level::Error, &fault)).unwrap();
        assert_eq!(value["code"], "PB-1013");
        assert_eq!(value["title"], Code::SlotMissing.title());
        assert_eq!(value["hint"], serde_json::Value::Null);
    }
}
