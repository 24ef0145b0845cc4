//! Reads options out of the tree, one section at a time, and goes on after a mistake.
//!
//! Each option is asked for by name exactly once; what was not asked for when a section ends is
//! unknown, and the names asked for are the suggestions. Never stops at the first problem, never
//! repeats a value that may be a secret.

use std::cell::RefCell;
use std::str::FromStr;

use pillarbox_relay::error::Code;

use super::problem::{Place, Problem};
use super::secret::{self, Outside};
use super::tree::{Entry, Node, Value};

/// How alike a mistyped name must be to be suggested (Jaro-Winkler, 0 to 1): `slott` and `brokers`
/// for `broker` are above, unrelated words below.
const LIKENESS_MIN: f64 = 0.8;

/// What reading a file shares: the problems so far and where references lead.
pub(crate) struct Context<'a> {
    pub(crate) outside: Outside<'a>,
    pub(crate) problems: RefCell<Vec<Problem>>,
}

impl Context<'_> {
    pub(crate) fn report(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }
}

/// The resolved text of a scalar.
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) place: Place,
    /// It came from outside the file: never repeat it.
    pub(crate) referenced: bool,
}

/// A map of options.
pub(crate) struct Section<'a> {
    context: &'a Context<'a>,
    path: String,
    place: Place,
    entries: &'a [Entry],
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// The map at `node`; `path` is empty for the file itself.
    pub(crate) fn open(context: &'a Context<'a>, path: &str, node: &'a Node) -> Option<Self> {
        let entries: &[Entry] = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            other => {
                let name = if path.is_empty() { "the file" } else { path };
                let message = format!("{name} must be a map of options, found {}", other.kind());
                context.report(Problem::new(Code::ConfigValue, path, message).at(Some(node.place)));
                return None;
            }
        };
        let asked = RefCell::new(Vec::new());
        Some(Self { context, path: path.to_owned(), place: node.place, entries, asked })
    }

    /// Where the section stands.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// The full name of an option of this section.
    pub(crate) fn option(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The option's node, unless it is absent.
    pub(crate) fn node(&self, key: &'static str) -> Option<&'a Node> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
        }
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The option as a section; `None` when absent or reported.
    pub(crate) fn section(&self, key: &'static str) -> Option<Section<'a>> {
        let node = self.node(key)?;
        Section::open(self.context, &self.option(key), node)
    }

    /// The option as text; `None` when absent or reported.
    pub(crate) fn text(&self, key: &'static str) -> Option<Scalar> {
        let node = self.node(key)?;
        scalar(self.context, &self.option(key), node)
    }

    /// The option as text; its absence is reported with `hint`.
    pub(crate) fn required(&self, key: &'static str, hint: &str) -> Option<Scalar> {
        if self.entries.iter().any(|entry| entry.key == key) {
            return self.text(key);
        }
        self.asked.borrow_mut().push(key);
        self.missing(key, hint);
        None
    }

    /// Reports that an option is absent.
    pub(crate) fn missing(&self, key: &str, hint: &str) {
        let option = self.option(key);
        let message = format!("{option} is missing");
        self.context.report(Problem::new(Code::ConfigValue, option, message).at(Some(self.place)).hint(hint));
    }

    /// The option parsed; `None` when absent or reported. `parse` says what it expects and never
    /// repeats the value.
    pub(crate) fn parse<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let scalar = self.text(key)?;
        parsed(self.context, &self.option(key), &scalar, parse)
    }

    /// The option as an integer within bounds; `None` when absent or reported.
    pub(crate) fn integer<T>(&self, key: &'static str, min: T, max: T) -> Option<T>
    where
        T: FromStr + PartialOrd + std::fmt::Display + Copy,
    {
        self.parse(key, |text| {
            let value = text.parse().ok().filter(|value| *value >= min && *value <= max);
            value.ok_or_else(|| format!("expected a whole number from {min} to {max}"))
        })
    }

    /// The option as true or false; `None` when absent or reported.
    pub(crate) fn boolean(&self, key: &'static str) -> Option<bool> {
        self.parse(key, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("expected true or false".to_owned()),
        })
    }

    /// The option as one of some words; `None` when absent or reported.
    pub(crate) fn choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.parse(key, |text| {
            let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
            let known = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
            found.ok_or_else(|| format!("expected {}", known()))
        })
    }

    /// Reports an option that does not fit the others, where it stands or where it would.
    pub(crate) fn wrong(&self, key: &str, message: String, hint: &str) {
        let place = self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.place);
        let option = self.option(key);
        let message = format!("{option}: {message}");
        let problem = Problem::new(Code::ConfigValue, option, message).at(Some(place.unwrap_or(self.place)));
        self.context.report(problem.hint(hint));
    }

    /// Reports what was never asked for.
    pub(crate) fn finish(self) {
        let asked = self.asked.into_inner();
        for entry in self.entries.iter().filter(|entry| !asked.contains(&entry.key.as_str())) {
            let within = if self.path.is_empty() { String::new() } else { format!(" in {}", self.path) };
            let option =
                if self.path.is_empty() { entry.key.clone() } else { format!("{}.{}", self.path, entry.key) };
            let message = format!("unknown option `{}`{within}", entry.key);
            let hint = match nearest(&entry.key, &asked) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("the options here are {}", asked.join(", ")),
            };
            self.context
                .report(Problem::new(Code::ConfigSyntax, option, message).at(Some(entry.place)).hint(hint));
        }
    }
}

/// The resolved text of a node that must be a scalar.
pub(crate) fn scalar(context: &Context<'_>, option: &str, node: &Node) -> Option<Scalar> {
    let problem = |code, message| {
        context.report(Problem::new(code, option, message).at(Some(node.place)));
        None
    };
    match &node.value {
        Value::Scalar(text) => match secret::resolve(text, &context.outside) {
            None => Some(Scalar { text: text.clone(), place: node.place, referenced: false }),
            Some(Ok(text)) => Some(Scalar { text, place: node.place, referenced: true }),
            Some(Err(why)) => problem(Code::ConfigSecret, format!("{option}: {why}")),
        },
        Value::Null => problem(Code::ConfigValue, format!("{option} has no value")),
        other => {
            problem(Code::ConfigValue, format!("{option} must be a single value, found {}", other.kind()))
        }
    }
}

/// Parses a scalar and reports what does not parse.
pub(crate) fn parsed<T>(
    context: &Context<'_>,
    option: &str,
    scalar: &Scalar,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    match parse(&scalar.text) {
        Ok(value) => Some(value),
        Err(expected) => {
            // A value from outside may be a secret that landed in the wrong option.
            let found = if scalar.referenced { String::new() } else { format!(", found `{}`", scalar.text) };
            let message = format!("{option}: {expected}{found}");
            context.report(Problem::new(Code::ConfigValue, option, message).at(Some(scalar.place)));
            None
        }
    }
}

/// The most alike of `names`, if any is alike enough.
fn nearest<'n>(written: &str, names: &[&'n str]) -> Option<&'n str> {
    let likeness = |name: &str| strsim::jaro_winkler(&written.to_ascii_lowercase(), name);
    let best = names.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= LIKENESS_MIN).then_some(best)
}
