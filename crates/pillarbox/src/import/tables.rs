//! Which tables are outboxes: the connector's list of tables, and the predicates that tell them from others.
//!
//! Debezium's lists are regular expressions over a catalogue that is not here. What is written as plain names is read as
//! such; anything else must be named by the user.

use regex::Regex;

use super::draft::Table;
use super::fate::{Fate, Keys};
use super::router::Router;

/// Predicates that say the same of every row of an outbox: it is no tombstone.
const TOMBSTONE: &str = "RecordIsTombstone";
const TOPIC_NAME: &str = "TopicNameMatches";

/// Reads the tables and gives each its router.
pub(super) fn read(keys: &mut Keys, routers: &[Router], named: &[String]) -> Vec<Table> {
    let filters: Vec<Filter> = routers.iter().map(|router| filter(keys, &router.alias)).collect();
    let prefix = keys.value("topic.prefix").unwrap_or_default();
    let (names, listed) = match named {
        [] => listed(keys),
        named => {
            keys.settle("table.include.list", Fate::ignored("the tables were named with --table"));
            (named.to_vec(), false)
        }
    };
    let (mut tables, mut others) = (Vec::new(), Vec::new());
    for name in names {
        let topic = format!("{prefix}.{name}");
        match filters.iter().position(|filter| filter.takes(&topic)) {
            Some(router) => tables.push(Table { name, router }),
            None => others.push(name),
        }
    }
    if listed && others.is_empty() {
        let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
        keys.settle("table.include.list", Fate::Mapped(format!("outbox.table: {}", names.join(", "))));
    } else if listed {
        keys.settle(
            "table.include.list",
            Fate::unsupported(
                format!(
                    "{} pass the router by: changes of ordinary tables are not relayed",
                    others.join(", ")
                ),
                "keep a connector for them, with a slot and a publication of its own, and without the outbox",
            ),
        );
    }
    tables
}

/// The names of `table.include.list`, and whether it could be read.
fn listed(keys: &mut Keys) -> (Vec<String>, bool) {
    let Some(list) = keys.value("table.include.list") else { return (Vec::new(), false) };
    let names: Option<Vec<String>> =
        list.split(',').map(str::trim).filter(|one| !one.is_empty()).map(plain).collect();
    match names {
        Some(names) => (names, true),
        None => {
            let todo = "name the outbox tables: --table schema.table";
            keys.settle(
                "table.include.list",
                Fate::unsupported("it is a pattern, and the catalogue is not here", todo),
            );
            (Vec::new(), false)
        }
    }
}

/// A pattern that is a name: its dots escaped or not, nothing else special.
fn plain(pattern: &str) -> Option<String> {
    let name = pattern.trim_start_matches('^').trim_end_matches('$').replace("\\.", ".");
    let legal =
        |c: char| !matches!(c, '*' | '+' | '?' | '|' | '\\' | '(' | ')' | '[' | ']' | '{' | '}' | '^');
    // The database may stand before the schema.
    let parts = name.split('.').count();
    (name.chars().all(legal) && parts == 2).then_some(name)
}

/// What a router's predicate lets through.
enum Filter {
    All,
    None,
    Topics { pattern: Regex, negate: bool },
}

impl Filter {
    fn takes(&self, topic: &str) -> bool {
        match self {
            Filter::All => true,
            Filter::None => false,
            Filter::Topics { pattern, negate } => pattern.is_match(topic) != *negate,
        }
    }
}

fn filter(keys: &mut Keys, alias: &str) -> Filter {
    let key = |option: &str| format!("transforms.{alias}.{option}");
    let negate = keys.value(&key("negate")).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let Some(predicate) = keys.value(&key("predicate")) else {
        keys.settle(&key("negate"), Fate::ignored("there is no predicate"));
        return Filter::All;
    };
    let (class_key, pattern_key) =
        (format!("predicates.{predicate}.type"), format!("predicates.{predicate}.pattern"));
    // A predicate may serve several routers: its fate may be known already.
    let look = |keys: &Keys, name: &str| {
        keys.entries.iter().find(|entry| entry.key.name == name).map(|entry| entry.key.value.clone())
    };
    let class = look(keys, &class_key).unwrap_or_default();
    let pattern = look(keys, &pattern_key).and_then(|text| Regex::new(&format!("^(?:{text})$")).ok());
    let (filter, fate) = match (class.rsplit('.').next(), pattern) {
        (Some(TOPIC_NAME), Some(pattern)) => {
            (Filter::Topics { pattern, negate }, Fate::Mapped("decides which tables are outboxes".to_owned()))
        }
        (Some(TOMBSTONE), _) if negate => {
            (Filter::All, Fate::ignored("rows of an outbox are never tombstones"))
        }
        _ => (
            Filter::None,
            Fate::unsupported(
                "which rows it lets through is not known before they come",
                "use TopicNameMatches, or name the outbox tables with --table after removing it",
            ),
        ),
    };
    for name in [&key("predicate"), &key("negate"), &class_key, &pattern_key] {
        keys.settle(name, fate.clone());
    }
    filter
}

/// Predicates that no router names.
pub(super) fn rest(keys: &mut Keys) {
    keys.settle("predicates", Fate::Mapped("see each predicate".to_owned()));
    for name in keys.open("predicates.") {
        let known = [".type", ".pattern", ".name"].iter().any(|end| name.ends_with(end));
        if known {
            keys.settle(&name, Fate::ignored("no router uses this predicate"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_written_as_patterns() {
        for (pattern, name) in [
            ("public.outbox", Some("public.outbox")),
            ("public\\.outbox", Some("public.outbox")),
            ("^public\\.outbox$", Some("public.outbox")),
            ("My Shop.outbox", Some("My Shop.outbox")),
            ("public.(.*)", None),
            ("outbox", None),
            ("a.b.c", None),
            ("public\\..*outbox", None),
        ] {
            assert_eq!(plain(pattern).as_deref(), name, "{pattern}");
        }
    }
}
