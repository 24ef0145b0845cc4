//! The `pillarbox.yaml` in the making: settings with the keys they come from, and its text.
//!
//! A setting that the configuration reader refuses is taken out again, and its keys learn why.

use serde_json::{Map, Value, json};

/// An option with its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Setting {
    /// Such as `postgres.slot`; of an outbox table, such as `topic`.
    pub(super) option: String,
    pub(super) value: Value,
    /// The keys of the connector that it comes from.
    pub(super) keys: Vec<String>,
}

/// Settings of one kind, in the order in which they are written.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Settings(pub(super) Vec<Setting>);

impl Settings {
    /// Sets an option for a key. Several keys may make one option.
    pub(super) fn set(&mut self, option: &str, value: impl Into<Value>, key: &str) {
        let value = value.into();
        match self.0.iter_mut().find(|setting| setting.option == option) {
            Some(setting) => {
                setting.value = value;
                setting.keys.push(key.to_owned());
            }
            None => {
                self.0.push(Setting { option: option.to_owned(), value, keys: vec![key.to_owned()] });
            }
        }
    }

    /// Adds to a list.
    pub(super) fn push(&mut self, option: &str, value: Value, key: &str) {
        match self.0.iter_mut().find(|setting| setting.option == option) {
            Some(Setting { value: Value::Array(list), .. }) => list.push(value),
            _ => self.set(option, json!([value]), key),
        }
    }

    /// Takes out the setting that `option` is, or is a part of.
    pub(super) fn remove(&mut self, option: &str) -> Option<Setting> {
        let inside = |setting: &Setting| {
            let rest = option.strip_prefix(setting.option.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        // An option such as `outbox.topic` is refused where its parts stand in several settings.
        let around =
            |setting: &Setting| setting.option.strip_prefix(option).is_some_and(|rest| rest.starts_with('.'));
        let at = self.0.iter().position(inside).or_else(|| self.0.iter().position(around))?;
        Some(self.0.remove(at))
    }
}

/// An outbox table and the router whose settings it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// `schema.table`.
    pub(super) name: String,
    /// Index of the router.
    pub(super) router: usize,
}

/// The file in the making.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) pipeline: String,
    /// Everything but the tables.
    pub(super) root: Settings,
    /// What each router says of its tables.
    pub(super) routers: Vec<Settings>,
    pub(super) tables: Vec<Table>,
}

impl Draft {
    /// Takes out what `option` of the written file is.
    pub(super) fn remove(&mut self, option: &str) -> Option<Setting> {
        let Some(rest) = option.strip_prefix("outbox") else { return self.root.remove(option) };
        let (table, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((number, rest)) => (number.parse().ok()?, rest),
            None => (0, rest),
        };
        let router = self.tables.get::<usize>(table)?.router;
        self.routers[router].remove(rest.trim_start_matches('.'))
    }

    /// The file.
    pub(super) fn yaml(&self, heading: &str) -> String {
        let mut text: String = heading.lines().map(|line| format!("# {line}\n")).collect();
        text.push_str(&format!("pipeline: {}\n", scalar(&self.pipeline)));
        let mut root = Map::new();
        for setting in &self.root.0 {
            insert(&mut root, &setting.option, setting.value.clone());
        }
        for section in ["postgres", "kafka", "messages", "http"] {
            if let Some(value) = root.get(section) {
                text.push_str(&format!("{section}:\n"));
                block(&mut text, value, "  ");
            }
        }
        text.push_str("outbox:\n");
        for table in &self.tables {
            let mut map = Map::new();
            for setting in &self.routers[table.router].0 {
                insert(&mut map, &setting.option, setting.value.clone());
            }
            let several = self.tables.len() > 1;
            let (first, indent) = if several { ("  - ", "    ") } else { ("  ", "  ") };
            text.push_str(&format!("{first}table: {}\n", scalar(&table.name)));
            block(&mut text, &Value::Object(map), indent);
        }
        text
    }
}

/// `a.b.c` as maps inside maps.
fn insert(map: &mut Map<String, Value>, option: &str, value: Value) {
    match option.split_once('.') {
        None => {
            map.insert(option.to_owned(), value);
        }
        Some((head, rest)) => {
            let inner = map.entry(head).or_insert_with(|| json!({}));
            if let Value::Object(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// A map, an option a line; what is deeper stands in the line.
fn block(text: &mut String, value: &Value, indent: &str) {
    for (name, value) in value.as_object().into_iter().flatten() {
        text.push_str(&format!("{indent}{name}: {}\n", flow(value)));
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let inner: Vec<String> = map.iter().map(|(name, v)| format!("{name}: {}", flow(v))).collect();
            format!("{{ {} }}", inner.join(", "))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// Text as a YAML scalar: plain where that is beyond doubt, else in double quotes, which JSON's are.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'));
    let word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if plain && !word.contains(&text.to_ascii_lowercase().as_str()) {
        text.to_owned()
    } else {
        Value::String(text.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(tables: &[&str]) -> Draft {
        let mut root = Settings::default();
        root.set("postgres.slot", "debezium", "slot.name");
        root.set("kafka.topics.partitions", 3, "topic.creation.default.partitions");
        let mut router = Settings::default();
        router.set("topic.by", "kind", "a");
        router.set("topic.replacement", "${routedByValue}-x", "b");
        router.push("headers", json!({ "column": "type", "name": "yes" }), "c");
        let table = |name: &&str| Table { name: (*name).to_owned(), router: 0 };
        Draft {
            pipeline: "p".into(),
            root,
            routers: vec![router],
            tables: tables.iter().map(table).collect(),
        }
    }

    #[test]
    fn a_file() {
        assert_eq!(
            draft(&["public.outbox"]).yaml("one\ntwo"),
            "# one\n# two\npipeline: p\npostgres:\n  slot: debezium\nkafka:\n  topics: { partitions: 3 }\noutbox:\n  \
             table: public.outbox\n  headers: [{ column: type, name: \"yes\" }]\n  \
             topic: { by: kind, replacement: \"${routedByValue}-x\" }\n"
        );
        assert!(draft(&["a.b", "a.c"]).yaml("").contains("outbox:\n  - table: a.b\n    headers"));
    }

    #[test]
    fn an_option_is_taken_out_by_its_place_in_the_file() {
        let mut draft = draft(&["a.b", "a.c"]);
        assert_eq!(draft.remove("outbox[1].headers[0].name").unwrap().keys, ["c"]);
        assert_eq!(draft.remove("outbox[0].topic").unwrap().keys, ["a"]);
        assert_eq!(draft.remove("outbox.topic").unwrap().keys, ["b"]);
        assert_eq!(draft.remove("postgres.slot").unwrap().keys, ["slot.name"]);
        assert_eq!(draft.remove("postgres.slot"), None);
        assert_eq!(draft.remove("kafka.topic"), None);
    }
}
