//! EventRouter, option for option, as settings of an outbox table; the converters, which decide about its bytes; and
//! other transformations, which cannot be followed.

use serde_json::json;

use super::draft::Settings;
use super::fate::{EVENT_ROUTER, Fate, Keys, provided};
use super::source::Connector;

/// A router of the connector.
#[derive(Debug)]
pub(super) struct Router {
    pub(super) alias: String,
    pub(super) settings: Settings,
}

/// Options with a column or a text: (Debezium's, ours, Debezium's default).
const TEXTS: &[(&str, &str, &str)] = &[
    ("table.field.event.id", "columns.id", "id"),
    ("table.field.event.key", "columns.key", "aggregateid"),
    ("table.field.event.type", "columns.type", "type"),
    ("table.field.event.payload", "columns.payload", "payload"),
    ("table.field.event.timestamp", "columns.timestamp", ""),
    ("table.field.event.schema.version", "columns.schema_version", ""),
    ("route.by.field", "topic.by", "aggregatetype"),
    ("route.topic.regex", "topic.regex", "(?<routedByValue>.*)"),
    ("route.topic.replacement", "topic.replacement", "outbox.event.${routedByValue}"),
    ("tracing.span.context.field", "trace", ""),
];

/// The words of an option: (Debezium's, ours); the first is the default of both.
type Words = &'static [(&'static str, &'static str)];

/// Options with few words: (Debezium's, ours, words).
const WORDS: &[(&str, &str, Words)] = &[
    ("table.field.additional.missing", "missing_columns", &[("error", "stop"), ("ignore", "ignore")]),
    ("table.op.invalid.behavior", "on_update", &[("warn", "warn"), ("error", "error"), ("fatal", "stop")]),
    ("route.tombstone.on.empty.payload", "empty_payload", &[("false", "keep"), ("true", "tombstone")]),
    ("table.json.payload.null.behavior", "json_nulls", &[("ignore", "drop"), ("optional_bytes", "keep")]),
    (
        "table.json.payload.empty.array.behavior",
        "json_empty_arrays",
        &[("ignore", "drop"), ("optional_string", "keep")],
    ),
];

/// Options without a counterpart: they decide nothing about an event.
const IDLE: &[(&str, &str)] = &[
    ("tracing.operation.name", "there is no span of our own"),
    ("tracing.with.context.field.only", "there is no span of our own"),
    ("field.name.adjustment.mode", "JSON has no illegal field names"),
];

/// Reads every transformation; gives the routers in their order.
pub(super) fn read(keys: &mut Keys) -> Vec<Router> {
    let listed = keys.value("transforms").unwrap_or_default();
    let aliases = listed.split(',').map(str::trim).filter(|alias| !alias.is_empty());
    let mut routers = Vec::new();
    for alias in aliases {
        let class = keys.value(&format!("transforms.{alias}.type")).unwrap_or_default();
        if class == EVENT_ROUTER {
            routers.push(Router { alias: alias.to_owned(), settings: router(keys, alias) });
        } else {
            other(keys, alias, &class);
        }
    }
    let names: Vec<&str> = routers.iter().map(|router| router.alias.as_str()).collect();
    keys.settle("transforms", Fate::Mapped(format!("outbox (from {})", names.join(", "))));
    routers
}

fn router(keys: &mut Keys, alias: &str) -> Settings {
    let mut settings = Settings::default();
    let key = |option: &str| format!("transforms.{alias}.{option}");
    keys.settle(&key("type"), Fate::Mapped("outbox".to_owned()));
    for (theirs, ours, default) in TEXTS {
        let Some(value) = keys.value(&key(theirs)) else { continue };
        if value == *default {
            keys.settle(&key(theirs), Fate::Default(format!("outbox.{ours}")));
            continue;
        }
        if provided(&value).is_some() {
            let why = "a config provider of Kafka holds it";
            keys.settle(&key(theirs), Fate::unsupported(why, "write the value itself"));
            continue;
        }
        keys.settle(&key(theirs), Fate::Mapped(format!("outbox.{ours}: {value}")));
        settings.set(ours, value, &key(theirs));
    }
    expand(keys, &mut settings, &key);
    for (theirs, ours, words) in WORDS {
        word(keys, &mut settings, &key(theirs), ours, words);
    }
    if let Some(value) = keys.value(&key("table.fields.additional.placement")) {
        let fate = placements(&mut settings, &value, &key("table.fields.additional.placement"));
        keys.settle(&key("table.fields.additional.placement"), fate);
    }
    for (option, why) in IDLE {
        keys.settle(&key(option), Fate::ignored(*why));
    }
    settings
}

/// Without expansion its options decide nothing.
fn expand(keys: &mut Keys, settings: &mut Settings, key: &dyn Fn(&str) -> String) {
    let name = key("table.expand.json.payload");
    if keys.value(&name).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        settings.set("expand_json", true, &name);
        keys.settle(&name, Fate::Mapped("outbox.expand_json: true".to_owned()));
        return;
    }
    keys.settle(&name, Fate::Default("outbox.expand_json".to_owned()));
    for option in ["table.json.payload.null.behavior", "table.json.payload.empty.array.behavior"] {
        keys.settle(&key(option), Fate::ignored("nothing is expanded"));
    }
}

fn word(keys: &mut Keys, settings: &mut Settings, name: &str, ours: &str, words: Words) {
    let Some(value) = keys.value(name) else { return };
    let value = value.to_ascii_lowercase();
    let fate = match words.iter().position(|(theirs, _)| *theirs == value) {
        Some(0) => Fate::Default(format!("outbox.{ours}: {}", words[0].1)),
        Some(at) => {
            settings.set(ours, words[at].1, name);
            Fate::Mapped(format!("outbox.{ours}: {}", words[at].1))
        }
        None => {
            let known: Vec<&str> = words.iter().map(|(theirs, _)| *theirs).collect();
            Fate::unsupported("Debezium has no such word", format!("write {}", known.join(" or ")))
        }
    };
    keys.settle(name, fate);
}

/// `column:placement[:alias], ...`.
fn placements(settings: &mut Settings, value: &str, key: &str) -> Fate {
    let mut placed = Vec::new();
    for one in value.split(',') {
        let parts: Vec<&str> = one.split(':').map(str::trim).collect();
        let (column, place, name) = match parts[..] {
            [column, place] => (column, place, column),
            [column, place, name] => (column, place, name),
            _ => return wrong_placement(one),
        };
        let listed = json!({ "column": column, "name": name });
        match place.to_ascii_lowercase().as_str() {
            "header" => settings.push("headers", listed, key),
            "envelope" => settings.push("envelope", listed, key),
            "partition" => settings.set("partition", column, key),
            _ => return wrong_placement(one),
        }
        placed.push(format!("{column} as {} {name}", place.to_ascii_lowercase()));
    }
    Fate::Mapped(format!("outbox: {}", placed.join(", ")))
}

fn wrong_placement(one: &str) -> Fate {
    let why = format!("`{}` is no placement", one.trim());
    Fate::unsupported(why, "write column:header, column:envelope or column:partition, perhaps with :alias")
}

/// A transformation of another kind, with all its options.
fn other(keys: &mut Keys, alias: &str, class: &str) {
    let short = class.rsplit('.').next().unwrap_or_default().to_owned();
    let (why, todo) = match short.as_str() {
        "" => ("this transformation has no type".to_owned(), "remove it from `transforms`"),
        "DecodeLogicalDecodingMessageContent" => (
            "logical messages are not taken over by the importer".to_owned(),
            "see docs/debezium.md, what is not taken over",
        ),
        "ExtractNewRecordState" | "ByLogicalTableRouter" => (
            format!("{short} is about changes of tables, which are not relayed"),
            "nothing, where its predicate leaves outbox events alone",
        ),
        "RegexRouter" => (
            "a second routing of topics".to_owned(),
            "put it into outbox.topic.regex and outbox.topic.replacement",
        ),
        _ => (
            format!("{short} would change events behind the router"),
            "let the application write the event as consumers shall see it",
        ),
    };
    for name in keys.open(&format!("transforms.{alias}.")) {
        keys.settle(&name, Fate::unsupported(why.clone(), todo));
    }
}

/// What a converter does to bytes.
enum Bytes {
    Text,
    Json,
    /// JSON inside `{"schema":..,"payload":..}`.
    Schemas,
    Other(String),
}

fn bytes(connector: &Connector, which: &str) -> Option<Bytes> {
    let class = connector.converter(which)?;
    Some(match class.rsplit('.').next().unwrap_or_default() {
        "StringConverter" | "ByteArrayConverter" | "BinaryDataConverter" | "SimpleHeaderConverter" => {
            Bytes::Text
        }
        "JsonConverter" if connector.schemas(which) => Bytes::Schemas,
        "JsonConverter" => Bytes::Json,
        other => Bytes::Other(other.to_owned()),
    })
}

/// Reads the converters into every router; gives what a user must know that no key says.
pub(super) fn converters(connector: &Connector, keys: &mut Keys, routers: &mut [Router]) -> Vec<String> {
    let mut notes = Vec::new();
    for (which, option) in [("key", "key_format"), ("value", "value_format")] {
        let name = format!("{which}.converter");
        let written = keys.value(&name).is_some();
        let fate = match bytes(connector, which) {
            None => {
                notes.push(format!(
                    "{name} is not in the connector, so the worker's counts; if that is JsonConverter (with \
                     schemas.enable=false), write outbox.{option}: json"
                ));
                continue;
            }
            Some(bytes) => converted(bytes, routers, which, option, &name),
        };
        if let (false, Fate::Unsupported { why, todo }) = (written, &fate) {
            notes.push(format!("Debezium Server's default {which} format is JSON: {why}; {todo}"));
        }
        keys.settle(&name, fate);
    }
    if keys.value("header.converter").is_some() {
        keys.settle("header.converter", header(connector));
    }
    for name in keys.open("") {
        let option = ["key.converter.", "value.converter.", "header.converter."]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if option || name == "format.schemas.enable" {
            keys.settle(&name, Fate::ignored("it belongs to a converter, see there"));
        }
    }
    notes
}

fn converted(bytes: Bytes, routers: &mut [Router], which: &str, option: &str, name: &str) -> Fate {
    match bytes {
        Bytes::Text => {
            let json = ["envelope", "expand_json"];
            let needs = |router: &Router| router.settings.0.iter().any(|s| json.contains(&s.option.as_str()));
            if which == "value" && routers.iter().any(needs) {
                return Fate::unsupported(
                    "this converter writes no JSON, but an envelope or an expanded payload is JSON here",
                    "look at a record with `pillarbox tap`; docs/debezium.md, differences, says what was written",
                );
            }
            Fate::Default(format!("outbox.{option}: text"))
        }
        Bytes::Json => {
            routers.iter_mut().for_each(|router| router.settings.set(option, "json", name));
            Fate::Mapped(format!("outbox.{option}: json"))
        }
        Bytes::Schemas => Fate::unsupported(
            format!(
                "it writes {{\"schema\":..,\"payload\":..}} around every {which}; here a {which} is the text itself"
            ),
            format!(
                "let consumers read {which}s without schemas first ({which}.converter.schemas.enable=false)"
            ),
        ),
        Bytes::Other(class) => Fate::unsupported(
            format!("{class} is not written here; a {which} is text or JSON"),
            "let the application store the bytes as payload (bytea), or move consumers to JSON",
        ),
    }
}

fn header(connector: &Connector) -> Fate {
    match bytes(connector, "header") {
        Some(Bytes::Text) => Fate::Default("headers are text".to_owned()),
        _ => Fate::unsupported("headers are text here", "look at the headers with `pillarbox tap`"),
    }
}
