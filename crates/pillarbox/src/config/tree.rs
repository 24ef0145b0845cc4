//! The configuration file as a tree of nodes that know where they stand in it.
//!
//! Scalars keep the text that was written: what `0755`, `off` or `1.10` mean is decided by whoever
//! reads the option, never guessed here. Keys are unique, anchors and merges are expanded.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::problem::{Place, Problem};
use pillarbox_relay::error::Code;

/// Deepest nesting of a file: version 1 needs five levels; the rest is room for mistakes that
/// deserve a better message than this limit.
const DEPTH_MAX: usize = 32;

/// A value and where it stands.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) place: Place,
}

/// What a node is.
#[derive(Debug)]
pub(crate) enum Value {
    /// Nothing after the colon, `~` or `null`.
    Null,
    /// The text as written, without quotes.
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a map and its value.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) value: Node,
}

impl Value {
    /// How a message calls it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Parses one YAML document.
///
/// # Errors
/// The first syntax error, as a [`Problem`] with code `PB-0002`.
pub(crate) fn parse(source: &str) -> Result<Node, Problem> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX },
    };
    let parsed: Result<Spanned<Raw>, _> = serde_saphyr::from_str_with_options(source, options);
    match parsed {
        Ok(raw) => Ok(node(raw, source)),
        Err(error) => {
            let place = error.location().and_then(|location| place(location, source));
            // The library ends its message with the location, which the report prints itself.
            let text = error.without_snippet().to_string();
            let text = text.split(" at line ").next().unwrap_or_default().trim_end_matches('.').to_owned();
            Err(Problem::new(Code::ConfigSyntax, "", format!("not valid YAML: {text}")).at(place))
        }
    }
}

/// What serde sees; scalars other than strings are looked up in the source afterwards.
enum Raw {
    Null,
    Text(String),
    Plain(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn node(raw: Spanned<Raw>, source: &str) -> Node {
    let place = place(raw.referenced, source).unwrap_or_default();
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Scalar(text),
        Raw::Plain(fallback) => Value::Scalar(written(raw.defined, source).map_or(fallback, str::to_owned)),
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, source)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    place: self::place(key.referenced, source).unwrap_or_default(),
                    key: key.value,
                    value: node(value, source),
                })
                .collect(),
        ),
    };
    Node { value, place }
}

/// The characters of a plain scalar, as written.
fn written(location: Location, source: &str) -> Option<&str> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let len = usize::try_from(span.byte_len()?).ok()?;
    source.get(start..start.checked_add(len)?).filter(|text| !text.is_empty())
}

fn place(location: Location, source: &str) -> Option<Place> {
    if location == Location::UNKNOWN {
        return None;
    }
    let line = usize::try_from(location.line()).ok()?;
    let column = usize::try_from(location.column()).ok()?;
    // A mark never runs past the end of its line.
    let rest = source.lines().nth(line.checked_sub(1)?)?.chars().count().saturating_sub(column - 1);
    let len = usize::try_from(location.span().len()).unwrap_or(1);
    Some(Place { line, column, width: len.clamp(1, rest.max(1)) })
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(source: &str, key: &str) -> String {
        let Value::Map(entries) = parse(source).unwrap().value else { panic!("a map") };
        let entry = entries.into_iter().find(|entry| entry.key == key).unwrap();
        match entry.value.value {
            Value::Scalar(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scalars_keep_what_was_written() {
        let source =
            "a: 0755\nb: off\nc: 1.10\nd: '0x1F'\ne: \"x\\ty\"\nf: no # comment\ng: 16MiB\nh: 0xFF\n";
        for (key, text) in [
            ("a", "0755"),
            ("b", "off"),
            ("c", "1.10"),
            ("d", "0x1F"),
            ("e", "x\ty"),
            ("f", "no"),
            ("g", "16MiB"),
            ("h", "0xFF"),
        ] {
            assert_eq!(scalar(source, key), text, "{key}");
        }
    }

    #[test]
    fn aliases_keep_what_was_written() {
        assert_eq!(scalar("a: &x 0755\nb: *x\n", "b"), "0755");
    }

    #[test]
    fn nodes_know_their_place() {
        let Value::Map(entries) = parse("a: 1\nbcd:\n  - 22\n").unwrap().value else { panic!("a map") };
        assert_eq!(entries[1].place, Place { line: 2, column: 1, width: 3 });
        let Value::List(items) = &entries[1].value.value else { panic!("a list") };
        assert_eq!(items[0].place, Place { line: 3, column: 5, width: 2 });
    }

    #[test]
    fn syntax_errors_have_a_place() {
        for (source, line) in [("a: [1, 2\nb: 3\n", 2), ("a: 1\na: 2\n", 2), ("a: *nowhere\n", 1)] {
            let problem = parse(source).unwrap_err();
            assert_eq!(problem.code, Code::ConfigSyntax);
            assert_eq!(problem.place.map(|place| place.line), Some(line), "{source}: {problem:?}");
        }
    }
}
