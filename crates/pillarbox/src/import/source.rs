//! What a connector is told: JSON (`{name, config}` or flat) or Java properties, of Kafka Connect or Debezium Server.
//!
//! Debezium Server's keys get the names that they have in a connector, so that every later step knows one set. Pure
//! text; an error never repeats a value.

use pillarbox_relay::error::Code;
use serde_json::Value;

use crate::config::problem::Problem;

/// The converters that Debezium Server's formats stand for.
const FORMATS: &[(&str, &str)] = &[
    ("json", "org.apache.kafka.connect.json.JsonConverter"),
    ("simplestring", "org.apache.kafka.connect.storage.StringConverter"),
    ("binary", "io.debezium.converters.BinaryDataConverter"),
];

/// What Debezium Server does where no format is named.
const SERVER_FORMAT: &str = "json";

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// As the file has it.
    pub(crate) written: String,
    /// As a connector has it.
    pub(crate) name: String,
    pub(crate) value: String,
}

/// A connector's configuration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Connector {
    pub(crate) name: Option<String>,
    /// In the order of the file; those of JSON by name.
    pub(crate) keys: Vec<Key>,
    /// Debezium Server, which brings its own converters and sink.
    pub(crate) server: bool,
}

/// Reads a configuration.
///
/// # Errors
/// It is neither JSON of a known shape nor properties.
pub(crate) fn parse(text: &str) -> Result<Connector, Problem> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let mut connector = if text.starts_with('{') { json(text)? } else { properties(text)? };
    if connector.keys.is_empty() {
        let problem = Problem::new(Code::ConfigSyntax, "", "the file holds no connector configuration");
        return Err(problem.hint("name a connector's JSON, or properties with debezium.source.* keys"));
    }
    if connector.keys.iter().any(|key| key.written.starts_with("debezium.")) {
        from_server(&mut connector);
    }
    Ok(connector)
}

fn json(text: &str) -> Result<Connector, Problem> {
    let syntax = |message: String| Problem::new(Code::ConfigSyntax, "", message);
    let root: Value = serde_json::from_str(text).map_err(|error| {
        // The category only: the library quotes what it found.
        let place = format!("line {}, column {}", error.line(), error.column());
        syntax(format!("not valid JSON at {place}"))
    })?;
    let config = if root["config"].is_object() { &root["config"] } else { &root };
    let Some(map) = config.as_object() else { return Err(syntax("expected a JSON object".to_owned())) };
    let mut keys = Vec::new();
    for (name, value) in map {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            Value::Null => continue,
            Value::Array(_) | Value::Object(_) => {
                let message = format!("`{name}` is no single value");
                return Err(syntax(message).hint("name a connector's JSON: {\"name\": .., \"config\": {..}}"));
            }
        };
        keys.push(Key { written: name.clone(), name: name.clone(), value });
    }
    let name = root["name"].as_str().map(str::to_owned);
    Ok(Connector { name, keys, server: false })
}

fn properties(text: &str) -> Result<Connector, Problem> {
    let mut keys: Vec<Key> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let mut logical = line.trim_start().to_owned();
        if logical.is_empty() || logical.starts_with(['#', '!']) {
            continue;
        }
        while ends_open(&logical) {
            logical.pop();
            let Some((_, more)) = lines.next() else { break };
            logical.push_str(more.trim_start());
        }
        let Some((name, value)) = property(&logical) else {
            let message = format!("line {}: an escape that is none", number + 1);
            return Err(Problem::new(Code::ConfigSyntax, "", message));
        };
        // The last one counts, as in Java.
        keys.retain(|key| key.written != name);
        keys.push(Key { written: name.clone(), name, value });
    }
    let name = keys.iter().find(|key| key.name == "name").map(|key| key.value.clone());
    Ok(Connector { name, keys, server: false })
}

/// Whether a line goes on in the next: it ends in an odd number of backslashes.
fn ends_open(line: &str) -> bool {
    (line.len() - line.trim_end_matches('\\').len()) % 2 == 1
}

/// Key and value of a logical line.
fn property(line: &str) -> Option<(String, String)> {
    let mut escaped = false;
    let end = line.char_indices().find(|(_, c)| {
        let ends = !escaped && (matches!(c, '=' | ':') || c.is_whitespace());
        escaped = !escaped && *c == '\\';
        ends
    });
    let (name, rest) = line.split_at(end.map_or(line.len(), |(at, _)| at));
    let rest = rest.trim_start();
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start();
    Some((unescape(name)?, unescape(value)?.trim_end().to_owned()))
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'f' => '\u{c}',
            'u' => {
                let hex: String = chars.by_ref().take(4).collect();
                char::from_u32(u32::from_str_radix(&hex, 16).ok()?)?
            }
            // Java drops the backslash before any other character.
            other => other,
        });
    }
    Some(out)
}

/// Gives Debezium Server's keys the names of a connector's.
fn from_server(connector: &mut Connector) {
    connector.server = true;
    for key in &mut connector.keys {
        key.name = server_name(&key.written);
        let format = matches!(key.name.as_str(), "key.converter" | "value.converter" | "header.converter");
        if format && let Some((_, class)) = FORMATS.iter().find(|(format, _)| *format == key.value) {
            key.value = (*class).to_owned();
        }
        // `\${..}` keeps the server from looking for a variable of that name.
        key.value = key.value.replace("\\${", "${");
    }
}

fn server_name(written: &str) -> String {
    let Some(rest) = written.strip_prefix("debezium.") else { return written.to_owned() };
    for (prefix, name) in [
        ("source.", ""),
        ("sink.kafka.producer.", "producer.override."),
        ("format.schemas.enable", "format.schemas.enable"),
    ] {
        if let Some(rest) = rest.strip_prefix(prefix) {
            return format!("{name}{rest}");
        }
    }
    if let Some(rest) = rest.strip_prefix("format.") {
        let (which, option) = rest.split_once('.').unwrap_or((rest, ""));
        let dot = if option.is_empty() { "" } else { "." };
        return format!("{which}.converter{dot}{option}");
    }
    match rest.split_once('.').map_or(rest, |(head, _)| head) {
        "transforms" | "predicates" => rest.to_owned(),
        _ => written.to_owned(),
    }
}

impl Connector {
    /// The class of a converter: `key` or `value`; `None` where the worker's counts.
    pub(crate) fn converter(&self, which: &str) -> Option<&str> {
        let named = self.value(&format!("{which}.converter"));
        let default = FORMATS.iter().find(|(format, _)| *format == SERVER_FORMAT).map(|(_, class)| *class);
        named.or(default.filter(|_| self.server))
    }

    /// Whether a JSON converter writes schemas: it does unless it is told not to.
    pub(crate) fn schemas(&self, which: &str) -> bool {
        let own = self.value(&format!("{which}.converter.schemas.enable"));
        own.or_else(|| self.value("format.schemas.enable")) != Some("false")
    }

    /// The value of a key.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.keys.iter().find(|key| key.name == name).map(|key| key.value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let connector = parse(text).unwrap();
        connector.keys.into_iter().map(|key| (key.name, key.value)).collect()
    }

    #[test]
    fn every_form_gives_the_same_keys() {
        for (text, name) in [
            (r#"{"name":"c","config":{"slot.name":"s","tasks.max":1}}"#, Some("c")),
            (r#" {"slot.name":"s","tasks.max":"1"}"#, None),
            ("# none\n! none\n\nslot.name = s\ntasks.max:1", None),
            ("slot.name   s\n  tasks\\\n   .max 1", None),
            ("debezium.source.slot.name=s\ndebezium.source.tasks.max=\\u0031", None),
        ] {
            let connector = parse(text).unwrap();
            assert_eq!(connector.name.as_deref(), name, "{text}");
            let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
            assert_eq!(pairs(text), [pair("slot.name", "s"), pair("tasks.max", "1")], "{text}");
        }
    }

    #[test]
    fn keys_of_the_server() {
        for (written, name) in [
            ("debezium.source.database.hostname", "database.hostname"),
            ("debezium.transforms", "transforms"),
            ("debezium.transforms.outbox.type", "transforms.outbox.type"),
            ("debezium.predicates.p.pattern", "predicates.p.pattern"),
            ("debezium.sink.kafka.producer.linger.ms", "producer.override.linger.ms"),
            ("debezium.format.key", "key.converter"),
            ("debezium.format.value.schemas.enable", "value.converter.schemas.enable"),
            ("debezium.format.schemas.enable", "format.schemas.enable"),
            ("debezium.sink.type", "debezium.sink.type"),
            ("quarkus.log.level", "quarkus.log.level"),
        ] {
            assert_eq!(server_name(written), name);
        }
    }

    #[test]
    fn the_server_has_converters_of_its_own() {
        let text = "debezium.source.slot.name=s\n\
                    debezium.transforms.o.route.topic.replacement=\\\\${routedByValue}-x\n\
                    debezium.format.key=simplestring\n";
        let connector = parse(text).unwrap();
        assert_eq!(connector.converter("key"), Some("org.apache.kafka.connect.storage.StringConverter"));
        assert_eq!(connector.converter("value"), Some("org.apache.kafka.connect.json.JsonConverter"));
        assert!(connector.schemas("value"));
        let replacement = connector.value("transforms.o.route.topic.replacement");
        assert_eq!(replacement, Some("${routedByValue}-x"));
        let connector = parse(r#"{"slot.name":"s"}"#).unwrap();
        assert_eq!(connector.converter("value"), None, "the worker's");
    }

    #[test]
    fn what_is_no_connector() {
        for (text, part) in [
            ("{", "not valid JSON at line 1"),
            (r#"{"a": ["hunter2"]}"#, "`a` is no single value"),
            ("", "holds no connector"),
            ("# none", "holds no connector"),
            (r#"{"name":"c","config":{}}"#, "holds no connector"),
            ("a=\\uZZZZ", "line 1"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.message.contains(part), "{text}: {}", problem.message);
            assert!(!problem.message.contains("hunter2"));
        }
    }
}
