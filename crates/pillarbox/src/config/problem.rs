//! What is wrong with a configuration: every problem of a file at once, each with its place.
//!
//! Never holds a secret: whoever makes a message quotes only literals of options that are not one.

use pillarbox_relay::error::{Code, ExitCode};

/// Where something stands in the file: 1-based line and column in characters, and how many
/// characters wide it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) width: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    /// The option, e.g. `kafka.transaction.ids`; empty = the file as a whole.
    pub(crate) option: String,
    pub(crate) place: Option<Place>,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(code: Code, option: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code, option: option.into(), place: None, message: message.into(), hint: None }
    }

    #[must_use]
    pub(crate) fn at(mut self, place: Option<Place>) -> Self {
        // A place of line 0 is no place: the document is empty.
        self.place = place.filter(|place| place.line > 0);
        self
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// All problems of one file.
#[derive(Debug)]
pub(crate) struct Problems {
    /// The file as the user named it.
    pub(crate) file: String,
    /// Its text, for snippets; empty when it could not be read.
    pub(crate) source: String,
    /// At least one, in the order of the file.
    pub(crate) list: Vec<Problem>,
}

impl Problems {
    /// How the process ends: configuration.
    pub(crate) fn exit(&self) -> ExitCode {
        ExitCode::Config
    }

    /// The line of a place with what could be a secret blanked: the text after a key that ends in
    /// `password` or `secret`, and the password of a URL.
    pub(crate) fn line(&self, place: Place) -> Option<String> {
        let line = self.source.lines().nth(place.line.checked_sub(1)?)?;
        Some(blank_url_password(&blank_password_value(line)))
    }
}

/// Keys whose values are secrets end in one of these.
const SECRET_KEYS: [&str; 2] = ["password", "secret"];

/// `password: x` to `password: ***`, up to a comma or brace of a flow map, keeping `${...}`.
fn blank_password_value(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    let next =
        |text: &str| SECRET_KEYS.iter().filter_map(|key| text.find(key).map(|at| at + key.len())).min();
    while let Some(end) = next(rest) {
        let (head, tail) = rest.split_at(end);
        out.push_str(head);
        let lead = tail.len() - tail.trim_start_matches(['"', '\'', ' ']).len();
        let Some(value) = tail[lead..].strip_prefix(':') else {
            rest = tail;
            continue;
        };
        out.push_str(&tail[..=lead]);
        let blank = value.len() - value.trim_start().len();
        out.push_str(&value[..blank]);
        let value = &value[blank..];
        let end = value_end(value);
        out.push_str(if value[..end].starts_with("${") || end == 0 { &value[..end] } else { "***" });
        rest = &value[end..];
    }
    out + rest
}

/// Where a scalar ends: its closing quote, or the comma, brace or comment after it.
fn value_end(value: &str) -> usize {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote) {
            return inner.find(quote).map_or(value.len(), |end| end + 2);
        }
    }
    if value.starts_with("${") {
        return value.find('}').map_or(value.len(), |end| end + 1);
    }
    let end = [", ", "}", " #"].iter().filter_map(|stop| value.find(stop)).min();
    end.unwrap_or(value.len())
}

/// `://user:secret@` to `://user:***@`, also where the password holds `@` itself.
fn blank_url_password(line: &str) -> String {
    let Some(start) = line.find("://").map(|at| at + 3) else { return line.to_owned() };
    let end = line[start..].find(char::is_whitespace).map_or(line.len(), |end| start + end);
    let authority = &line[start..end];
    match (authority.find(':'), authority.rfind('@')) {
        (Some(colon), Some(at)) if colon < at => {
            format!("{}:***{}", &line[..start + colon], &line[start + at..])
        }
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snippet_shows_no_secret() {
        for (line, shown) in [
            ("  password: hunter2", "  password: ***"),
            ("  password: \"a, b}\" # x", "  password: *** # x"),
            ("  password: ${env:PW}", "  password: ${env:PW}"),
            ("{ url: x, password: hunter2, slot: y }", "{ url: x, password: ***, slot: y }"),
            ("{\"password\": \"hunter2\"}", "{\"password\": ***}"),
            ("  password:", "  password:"),
            (
                "{ client_secret: hunter2, password: hunter2, x: 1 }",
                "{ client_secret: ***, password: ***, x: 1 }",
            ),
            ("url: postgres://u:hun:te@r2@h/db # x", "url: postgres://u:***@h/db # x"),
            ("url: postgres://u@h/db", "url: postgres://u@h/db"),
            ("listen: 127.0.0.1:1", "listen: 127.0.0.1:1"),
        ] {
            let problems = Problems { file: String::new(), source: line.to_owned(), list: Vec::new() };
            let place = Place { line: 1, column: 1, width: 1 };
            assert_eq!(problems.line(place).as_deref(), Some(shown));
        }
    }
}
