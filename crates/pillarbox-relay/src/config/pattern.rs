//! Debezium's rule for topics: a regular expression over a column and a replacement.
//!
//! ```text
//! value --(whole value matches)--> replacement of its first match
//!       \-(it does not)----------> the value itself
//! ```
//!
//! Both are written as for Java. What Java and Rust read alike is kept, what they read differently is
//! translated where that is exact (`\d \w \s \b .`), and everything else is refused with a reason:
//! an expression never means something else here than it did there. Never guesses.

use std::fmt;

use regex::{CaptureLocations, Regex};

use super::topic::topic_char;

/// What `.` matches in Java: everything but these ends of lines.
const ANY: &str = r"[^\n\r\u{85}\u{2028}\u{2029}]";

/// A rule for topics. Two are equal when they are written alike.
#[derive(Clone)]
pub struct TopicPattern {
    regex: String,
    replacement: String,
    /// Finds what is replaced; group 0 is the match.
    first: Regex,
    /// Matches whole values only.
    whole: Regex,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Group(usize),
}

/// Why a rule is not legal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicPatternError {
    /// Java has it; here it is missing or means something else.
    #[error("`{found}` at character {at} of the regex is not supported: {why}")]
    Unsupported {
        /// What is written.
        found: String,
        /// 1-based character position.
        at: usize,
        /// Why.
        why: &'static str,
    },
    /// No regular expression.
    #[error("the regex is not legal: {0}")]
    Regex(String),
    /// Not Java's syntax of replacements.
    #[error("character {at} of the replacement: {why}")]
    Replacement {
        /// 1-based character position.
        at: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// Text that no topic name may contain.
    #[error("character {found:?} is not allowed in a topic name")]
    Illegal {
        /// The character.
        found: char,
    },
}

/// Memory that applying a rule needs, used again for every row.
#[derive(Debug, Default)]
pub struct PatternScratch {
    locations: Option<CaptureLocations>,
    text: Vec<u8>,
}

impl TopicPattern {
    /// Reads a rule written for Java.
    ///
    /// # Errors
    /// What is wrong with it, or what of it cannot be done here.
    pub fn parse(regex: &str, replacement: &str) -> Result<Self, TopicPatternError> {
        let translated = translate(regex)?;
        let compile =
            |text: &str| Regex::new(text).map_err(|error| TopicPatternError::Regex(last_line(&error)));
        let first = compile(&translated)?;
        let whole = compile(&format!(r"\A(?:{translated})\z"))?;
        let parts = parse_replacement(replacement, &first)?;
        Ok(Self { regex: regex.to_owned(), replacement: replacement.to_owned(), first, whole, parts })
    }

    /// The regular expression as it was written.
    pub fn regex(&self) -> &str {
        &self.regex
    }

    /// The replacement as it was written.
    pub fn replacement(&self) -> &str {
        &self.replacement
    }

    /// Turns the value in `name` into the topic's name.
    pub fn apply(&self, name: &mut Vec<u8>, scratch: &mut PatternScratch) {
        // A value that is not text is no topic's name either.
        let Ok(value) = std::str::from_utf8(name) else { return };
        if !self.whole.is_match(value) {
            return;
        }
        let kept = scratch.locations.take().filter(|kept| kept.len() == self.first.captures_len());
        let mut locations = kept.unwrap_or_else(|| self.first.capture_locations());
        let Some(found) = self.first.captures_read(&mut locations, value) else { return };
        let text = &mut scratch.text;
        text.clear();
        text.extend_from_slice(&name[..found.start()]);
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.extend_from_slice(literal.as_bytes()),
                Part::Group(group) => {
                    // A group that took no part is nothing.
                    let (start, end) = locations.get(*group).unwrap_or((0, 0));
                    text.extend_from_slice(&name[start..end]);
                }
            }
        }
        text.extend_from_slice(&name[found.end()..]);
        scratch.locations = Some(locations);
        std::mem::swap(name, text);
    }
}

impl fmt::Debug for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicPattern({:?}, {:?})", self.regex, self.replacement)
    }
}

impl PartialEq for TopicPattern {
    fn eq(&self, other: &Self) -> bool {
        (&self.regex, &self.replacement) == (&other.regex, &other.replacement)
    }
}

impl Eq for TopicPattern {}

/// The library's message ends with the reason; before it stands the translated expression, which
/// nobody wrote.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let line = text.lines().last().unwrap_or_default().trim();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// A replacement in Java's syntax: `$1`, `${name}`, and a backslash before what stands for itself.
fn parse_replacement(text: &str, regex: &Regex) -> Result<Vec<Part>, TopicPatternError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text.chars().enumerate().peekable();
    while let Some((at, character)) = rest.next() {
        let error = |why| TopicPatternError::Replacement { at: at + 1, why };
        let plain = match character {
            '\\' => rest.next().ok_or_else(|| error("nothing follows the backslash"))?.1,
            '$' => {
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                let after: String = rest.clone().map(|(_, character)| character).collect();
                let (group, len) = group(&after, regex).map_err(error)?;
                parts.push(Part::Group(group));
                rest.by_ref().take(len).for_each(drop);
                continue;
            }
            other => other,
        };
        if !topic_char(plain) {
            return Err(TopicPatternError::Illegal { found: plain });
        }
        literal.push(plain);
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

/// The group that stands behind a dollar, and how many characters its name takes.
fn group(after: &str, regex: &Regex) -> Result<(usize, usize), &'static str> {
    if let Some(named) = after.strip_prefix('{') {
        let end = named.find('}').ok_or("the brace is not closed")?;
        let name = &named[..end];
        let found = regex.capture_names().position(|group| group == Some(name));
        let group = found.ok_or("the regex has no group of this name")?;
        return Ok((group, name.chars().count() + 2));
    }
    // As many digits as still name a group.
    let digit = |text: &str| text.chars().next().and_then(|c| c.to_digit(10)).map(|digit| digit as usize);
    let mut group = digit(after).ok_or("a group's number or {name} must follow the dollar")?;
    if group >= regex.captures_len() {
        return Err("the regex has no group of this number");
    }
    let mut len = 1;
    while let Some(digit) = digit(&after[len..]).filter(|digit| group * 10 + digit < regex.captures_len()) {
        group = group * 10 + digit;
        len += 1;
    }
    Ok((group, len))
}

/// The expression as Rust must read it to mean what Java means.
fn translate(regex: &str) -> Result<String, TopicPatternError> {
    let mut out = String::with_capacity(regex.len());
    let mut scan = Scan { characters: regex.chars().collect(), at: 0, class: 0, quantified: false };
    while scan.at < scan.characters.len() {
        scan.step(&mut out)?;
    }
    Ok(out)
}

struct Scan {
    characters: Vec<char>,
    at: usize,
    /// Depth of nested classes.
    class: usize,
    /// The last thing was a quantifier, and what follows would change it.
    quantified: bool,
}

impl Scan {
    fn step(&mut self, out: &mut String) -> Result<(), TopicPatternError> {
        let quantified = std::mem::take(&mut self.quantified);
        match self.characters[self.at] {
            '\\' => return self.escape(out),
            '[' => self.open_class()?,
            ']' if self.class > 0 => self.class -= 1,
            '&' | '-' | '~' if self.class > 0 && self.doubled() => {
                return Err(self.unsupported(2, "in a class it is an operator in one of the two languages"));
            }
            '(' if self.class == 0 => self.open_group()?,
            '.' if self.class == 0 => {
                out.push_str(ANY);
                self.at += 1;
                return Ok(());
            }
            '+' | '*' if quantified && self.class == 0 => {
                return Err(self.unsupported(1, "possessive quantifiers cannot be done"));
            }
            '?' | '+' | '*' if self.class == 0 => self.quantified = !quantified,
            '}' if self.class == 0 => self.quantified = true,
            _ => {}
        }
        out.push(self.characters[self.at]);
        self.at += 1;
        Ok(())
    }

    fn escape(&mut self, out: &mut String) -> Result<(), TopicPatternError> {
        let Some(&next) = self.characters.get(self.at + 1) else {
            return Err(self.unsupported(1, "nothing follows the backslash"));
        };
        let text = match (next, self.class > 0) {
            ('d', false) => "[0-9]",
            ('d', true) => "0-9",
            ('D', _) => "[^0-9]",
            ('w', false) => "[a-zA-Z_0-9]",
            ('w', true) => "a-zA-Z_0-9",
            ('W', _) => "[^a-zA-Z_0-9]",
            ('s', false) => r"[ \t\n\x0B\f\r]",
            ('s', true) => r" \t\n\x0B\f\r",
            ('S', _) => r"[^ \t\n\x0B\f\r]",
            ('b', false) if self.characters.get(self.at + 2) != Some(&'{') => r"(?-u:\b)",
            ('A' | 'z', false) | ('t' | 'n' | 'r' | 'f' | 'a' | 'x' | 'u', _) => {
                out.extend(['\\', next]);
                self.at += 2;
                return Ok(());
            }
            ('<' | '>', _) => {
                out.push(next);
                self.at += 2;
                return Ok(());
            }
            (other, _) if other.is_ascii_punctuation() => {
                out.extend(['\\', other]);
                self.at += 2;
                return Ok(());
            }
            _ => return Err(self.unsupported(2, "the two languages differ in it, or one lacks it")),
        };
        out.push_str(text);
        self.at += 2;
        Ok(())
    }

    /// Between square brackets; a POSIX class would be one in Rust alone.
    fn open_class(&mut self) -> Result<(), TopicPatternError> {
        if self.class > 0 && self.characters.get(self.at + 1) == Some(&':') {
            return Err(self.unsupported(2, "write the characters of the class"));
        }
        if let [']', ..] | ['^', ']', ..] = self.characters[self.at + 1..] {
            return Err(self.unsupported(2, "put a backslash before the bracket"));
        }
        self.class += 1;
        Ok(())
    }

    /// `(`, `(?:`, `(?<name>` and `(?i` mean the same; other flags and looking around do not.
    fn open_group(&mut self) -> Result<(), TopicPatternError> {
        let rest = &self.characters[self.at + 1..];
        let named = |rest: &[char]| rest.first().is_some_and(char::is_ascii_alphabetic);
        match rest {
            ['*', ..] => Err(self.unsupported(2, "it is no group")),
            ['?', ':', ..] => Ok(()),
            ['?', '<', name @ ..] if named(name) => Ok(()),
            ['?', 'i', ':' | ')', ..] | ['?', '-', 'i', ':' | ')', ..] => Ok(()),
            ['?', '=' | '!' | '<', ..] => Err(self.unsupported(3, "looking around cannot be done")),
            ['?', '>', ..] => Err(self.unsupported(3, "atomic groups cannot be done")),
            ['?', ..] => Err(self.unsupported(3, "of the flags only i means the same")),
            _ => Ok(()),
        }
    }

    fn doubled(&self) -> bool {
        self.characters.get(self.at + 1) == Some(&self.characters[self.at])
    }

    fn unsupported(&self, len: usize, why: &'static str) -> TopicPatternError {
        let found = self.characters[self.at..].iter().take(len).collect();
        TopicPatternError::Unsupported { found, at: self.at + 1, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(regex: &str, replacement: &str, value: &str) -> String {
        let pattern =
            TopicPattern::parse(regex, replacement).unwrap_or_else(|error| panic!("{regex}: {error}"));
        let mut name = value.as_bytes().to_vec();
        let mut scratch = PatternScratch::default();
        pattern.apply(&mut name, &mut scratch);
        let once = name.clone();
        name = value.as_bytes().to_vec();
        pattern.apply(&mut name, &mut scratch);
        assert_eq!(name, once, "memory that was used before changes nothing");
        String::from_utf8(name).unwrap()
    }

    /// (regex, replacement, value, topic): what Java 17 answers to `matches`, then `replaceFirst`.
    const JAVA: &[(&str, &str, &str, &str)] = &[
        ("(?<routedByValue>.*)", "outbox.event.${routedByValue}", "Order", "outbox.event.Order"),
        ("(?<routedByValue>.*)", "${routedByValue}-events", "Order", "Order-events"),
        ("(.*)", "$1.$0", "a", "a.a"),
        ("(a)(b)", "$2$1", "ab", "ba"),
        ("(a)", "$12", "a", "a2"),
        ("(a)(b)(c)(d)(e)(f)(g)(h)(i)(j)(k)", "$11-$1", "abcdefghijk", "k-a"),
        ("order", "x", "orders", "orders"),
        ("order", "x", "order", "x"),
        ("a|ab", "x", "ab", "xb"),
        ("a*?", "x", "aa", "xaa"),
        ("(a)|(b)", "-$1$2-", "b", "-b-"),
        ("(?i)ORDER", "x", "order", "x"),
        ("(?i:O)rder", "x", "order", "x"),
        (r"v\d+", "x", "v12", "x"),
        (r"v[\d.]+", "x", "v1.2", "x"),
        (r"\w+\.\w+", "x", "a_1.b", "x"),
        (r"\d", "x", "\u{0663}", "\u{0663}"),
        (r"\w", "x", "é", "é"),
        (r"a\sb", "x", "a\u{a0}b", "a\u{a0}b"),
        (r".", "x", "\u{2028}", "\u{2028}"),
        (r"[^a]", "x", "\u{2028}", "x"),
        (r"\ba\b", "x", "a", "x"),
        (r"a\-b\<", "x", "a-b<", "x"),
        (r"[a-c&d]+", "x", "a&d", "x"),
        (r"a{2}", "x", "aa", "x"),
        (r"a{2}?", "x", "aa", "x"),
        (r"(a+)?(b)?", "-$2-", "a", "--"),
        (r"a(.*)", r"\a$1", "ab", "ab"),
    ];

    #[test]
    fn as_java_reads_it() {
        for (regex, replacement, value, expected) in JAVA {
            assert_eq!(topic(regex, replacement, value), *expected, "{regex} {replacement} {value}");
        }
    }

    #[test]
    fn what_means_something_else_is_refused() {
        for regex in [
            "a++",
            "a*+",
            "a?+",
            "a{2}+",
            "a**",
            "(?=a)",
            "(?!a)",
            "(?<=a)",
            "(?<!a)",
            "(?>a)",
            "(?s).",
            "(?m)^a",
            "(?x)a",
            "(?u)a",
            "(?U)a",
            r"\p{L}",
            r"\h",
            r"\R",
            r"\v",
            r"\Z",
            r"\Qa\E",
            r"\B",
            r"\1",
            r"\k<a>",
            r"\b{g}",
            r"[a&&b]",
            r"[a--b]",
            r"[a~~b]",
            r"[]a]",
            r"[[:alpha:]]",
            r"\",
            "(",
            "[a",
            r"\_x\",
        ] {
            assert!(TopicPattern::parse(regex, "x").is_err(), "{regex}");
        }
        for replacement in ["$2", "${none}", "${a", "$", "$x", r"\", "a b", r"\$"] {
            assert!(TopicPattern::parse("(a)", replacement).is_err(), "{replacement}");
        }
        let error = TopicPattern::parse("ab(?=c)", "x").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`(?=` at character 3 of the regex is not supported: looking around cannot be done"
        );
    }
}
