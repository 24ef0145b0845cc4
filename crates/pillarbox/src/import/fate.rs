//! What became of a key, and the keys of a connector with what became of each.
//!
//! Never holds a value of the connector that could be a secret: what is told is what it became here.

use super::source::{Connector, Key};

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// An option of ours says the same: which, and with what value where that is no secret.
    Mapped(String),
    /// It asks for what happens anyway.
    Default(String),
    /// It has no counterpart, and the events do not need it: why.
    Ignored(String),
    /// It decides about the events and cannot be followed.
    Unsupported { why: String, todo: String },
}

impl Fate {
    /// One word for a report.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Fate::Mapped(_) => "mapped",
            Fate::Default(_) => "default",
            Fate::Ignored(_) => "ignored",
            Fate::Unsupported { .. } => "unsupported",
        }
    }

    pub(super) fn ignored(why: impl Into<String>) -> Self {
        Fate::Ignored(why.into())
    }

    pub(super) fn unsupported(why: impl Into<String>, todo: impl Into<String>) -> Self {
        Fate::Unsupported { why: why.into(), todo: todo.into() }
    }
}

/// A key that means another one.
struct Alias {
    /// What is written.
    name: &'static str,
    /// What is meant.
    means: &'static str,
    /// How a report puts it.
    because: &'static str,
}

const OLD: &str = "its name before Debezium 2";
const PLAIN: &str = "there is no such option; Debezium ignores it";

/// Keys of a connector.
const ALIASES: &[Alias] = &[
    Alias { name: "database.server.name", means: "topic.prefix", because: OLD },
    Alias { name: "table.whitelist", means: "table.include.list", because: OLD },
    Alias { name: "table.blacklist", means: "table.exclude.list", because: OLD },
    Alias { name: "schema.whitelist", means: "schema.include.list", because: OLD },
    Alias { name: "schema.blacklist", means: "schema.exclude.list", because: OLD },
];

/// Keys of an EventRouter.
const ROUTER_ALIASES: &[Alias] = &[
    Alias { name: "table.field.event.value", means: "table.field.event.payload", because: PLAIN },
    Alias { name: "table.field.route", means: "route.by.field", because: PLAIN },
    Alias { name: "table.field.payload", means: "table.field.event.payload", because: OLD },
    Alias { name: "table.field.payload.id", means: "table.field.event.key", because: OLD },
    Alias { name: "table.field.schema.version", means: "table.field.event.schema.version", because: OLD },
    Alias { name: "debezium.op.invalid.behavior", means: "table.op.invalid.behavior", because: OLD },
    Alias { name: "debezium.expand.json.payload", means: "table.expand.json.payload", because: OLD },
];

/// The class of the router.
pub(super) const EVENT_ROUTER: &str = "io.debezium.transforms.outbox.EventRouter";

/// A key and what became of it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    /// What it was read as, and why.
    pub(crate) read_as: Option<String>,
    pub(crate) fate: Option<Fate>,
}

/// All keys of a connector.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) entries: Vec<Entry>,
}

impl Keys {
    /// The keys under the names that are meant.
    pub(super) fn new(connector: &Connector) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        for key in &connector.keys {
            let mut entry = Entry { key: key.clone(), read_as: None, fate: None };
            entry.key.written = shown(&key.written);
            if let Some((means, because)) = meant(connector, &key.name) {
                if connector.value(&means).is_some() || entries.iter().any(|other| other.key.name == means) {
                    entry.fate = Some(Fate::ignored(format!("{means} is set too")));
                } else {
                    let option = means.strip_prefix("transforms.").and_then(|rest| rest.split_once('.'));
                    let shown = option.map_or(means.as_str(), |(_, option)| option);
                    entry.read_as = Some(format!("read as {shown} ({because})"));
                    entry.key.name = means;
                }
            }
            entries.push(entry);
        }
        Self { entries }
    }

    /// The value of a key whose fate is open.
    pub(super) fn value(&self, name: &str) -> Option<String> {
        let open = self.entries.iter().find(|entry| entry.key.name == name && entry.fate.is_none());
        open.map(|entry| entry.key.value.trim().to_owned())
    }

    /// Says what became of a key; one that is absent needs no fate, and a first word stands.
    pub(super) fn settle(&mut self, name: &str, fate: Fate) {
        if let Some(entry) = self.entries.iter_mut().find(|e| e.key.name == name && e.fate.is_none()) {
            entry.fate = Some(fate);
        }
    }

    /// Takes a word back: what was written for this key is not legal here.
    pub(super) fn overrule(&mut self, name: &str, fate: Fate) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.key.name == name) {
            entry.fate = Some(fate);
        }
    }

    /// Names of the keys with this prefix whose fate is open.
    pub(super) fn open(&self, prefix: &str) -> Vec<String> {
        let open = self.entries.iter().filter(|e| e.fate.is_none() && e.key.name.starts_with(prefix));
        open.map(|entry| entry.key.name.clone()).collect()
    }
}

/// A key as it may be shown: one that masks columns has its salt in its name.
fn shown(written: &str) -> String {
    const SALT: &str = ".with.salt.";
    written.find(SALT).map_or_else(|| written.to_owned(), |at| format!("{}***", &written[..at + SALT.len()]))
}

/// What a key is read as, and why.
fn meant(connector: &Connector, name: &str) -> Option<(String, &'static str)> {
    if let Some(alias) = ALIASES.iter().find(|alias| alias.name == name) {
        return Some((alias.means.to_owned(), alias.because));
    }
    let (transform, option) = name.strip_prefix("transforms.")?.split_once('.')?;
    if connector.value(&format!("transforms.{transform}.type")) != Some(EVENT_ROUTER) {
        return None;
    }
    let alias = ROUTER_ALIASES.iter().find(|alias| alias.name == option)?;
    Some((format!("transforms.{transform}.{}", alias.means), alias.because))
}

/// A value that Kafka's config providers fill in: `${provider:path:key}`, never `${group}` of a pattern.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Provided<'a> {
    pub(super) provider: &'a str,
    /// Path and key, or only the key.
    pub(super) rest: &'a str,
}

/// Whether a value comes from outside, in whole or in part.
pub(super) fn provided(value: &str) -> Option<Provided<'_>> {
    let start = value.find("${")? + 2;
    let inner = &value[start..start + value[start..].find('}')?];
    match inner.split_once(':') {
        Some((provider, rest)) => Some(Provided { provider, rest }),
        // Debezium Server: a variable of the environment.
        None if inner.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_') => {
            Some(Provided { provider: "env", rest: inner })
        }
        None => None,
    }
}

/// The reference of ours that stands for a secret: the provider's own where there is a counterpart, else a variable.
/// Gives what the user must know as well.
pub(super) fn secret(value: &str, variable: &str) -> (String, String) {
    let whole = value.starts_with("${") && value.ends_with('}');
    match provided(value).filter(|_| whole) {
        Some(Provided { provider: "env", rest }) if !rest.contains(':') => {
            (format!("${{env:{rest}}}"), format!("from the environment variable {rest}, as before"))
        }
        Some(Provided { provider: "directory" | "dir", rest }) if rest.contains(':') => {
            let path = rest.replacen(':', "/", 1);
            (format!("${{file:{path}}}"), format!("from the file {path}, as before"))
        }
        Some(_) => (
            format!("${{env:{variable}}}"),
            format!("a config provider of Kafka holds it: export {variable} with the secret"),
        ),
        None => (
            format!("${{env:{variable}}}"),
            format!("the secret itself was not copied: export {variable} with it"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_from_outside() {
        let found = |text| provided(text).map(|p| (p.provider, p.rest));
        assert_eq!(
            found("${file:/opt/pg.properties:password}"),
            Some(("file", "/opt/pg.properties:password"))
        );
        assert_eq!(found("${env:PW}"), Some(("env", "PW")));
        assert_eq!(found("x${vault:a:b}y"), Some(("vault", "a:b")));
        assert_eq!(found("${DB_HOST}"), Some(("env", "DB_HOST")));
        for plain in ["${routedByValue}-events", "plain", "${", "$1"] {
            assert_eq!(found(plain), None, "{plain}");
        }
    }

    #[test]
    fn secrets_are_never_copied() {
        for (value, reference) in [
            ("hunter2", "${env:PGPASSWORD}"),
            ("${env:DB_PW}", "${env:DB_PW}"),
            ("${DB_PW}", "${env:DB_PW}"),
            ("${file:/opt/pg.properties:pw}", "${env:PGPASSWORD}"),
            ("${directory:/run/secrets:pg}", "${file:/run/secrets/pg}"),
            ("hunter2${env:X}", "${env:PGPASSWORD}"),
            ("${env:X:hunter2}", "${env:PGPASSWORD}"),
        ] {
            let (found, told) = secret(value, "PGPASSWORD");
            assert_eq!(found, reference, "{value}");
            assert!(!told.contains("hunter2"));
        }
    }
}
