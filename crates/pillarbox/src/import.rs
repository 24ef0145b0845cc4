//! A Debezium connector as `pillarbox.yaml`, and what became of each of its keys.
//!
//! ```text
//! file or Connect -> source (keys) -> router, tables, database, known (what each means)
//!                                  -> draft (YAML) -> read back by `config` -> YAML and report
//! ```
//! What is written is a configuration that `config validate` takes: an option that it refuses is taken out again, and its
//! key is unsupported with the reader's own words. Only TLS and logins stay where they are refused: nobody shall connect
//! without protection because a file is not there yet. Never copies a secret, never connects to Postgres or Kafka.

pub(crate) mod connect;
mod database;
mod draft;
mod fate;
mod known;
mod report;
mod router;
pub(crate) mod source;
mod tables;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use pillarbox_relay::config::PipelineName;
use pillarbox_relay::error::Code;

use self::draft::Draft;
use self::fate::{Entry, Fate, Keys};
pub(crate) use self::report::report;
use self::source::Connector;
use crate::config::interpret;
use crate::config::problem::{Problem, Problems};
use crate::config::secret::Outside;

/// What the user says beside the connector.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    pub(crate) brokers: Vec<String>,
    pub(crate) pipeline: Option<String>,
    /// Outbox tables, `schema.table`; empty: those of the connector.
    pub(crate) tables: Vec<String>,
    /// Leave unknown keys out.
    pub(crate) lenient: bool,
}

/// A connector as a configuration.
#[derive(Debug)]
pub(crate) struct Imported {
    pub(crate) yaml: String,
    /// Every key with its fate.
    pub(crate) entries: Vec<Entry>,
    /// What no key says.
    pub(crate) notes: Vec<String>,
}

impl Imported {
    /// Whether something that decides about events could not be followed.
    pub(crate) fn falls_short(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.fate, Some(Fate::Unsupported { .. })))
    }
}

/// Sections that are never taken out.
const PROTECTION: [&str; 3] = ["postgres.tls", "kafka.tls", "kafka.sasl"];

/// Longest name of a pipeline.
const PIPELINE_MAX: usize = 40;

/// Imports a connector; `from` is its file or URL without credentials.
///
/// # Errors
/// It is no outbox connector for Postgres, or has keys that nobody knows.
pub(crate) fn import(connector: &Connector, choices: &Choices, from: &str) -> Result<Imported, Problems> {
    let refuse = |list| Problems { file: from.to_owned(), source: String::new(), list };
    let mut keys = Keys::new(connector);
    class(&mut keys).map_err(|problem| refuse(vec![problem]))?;
    let mut routers = router::read(&mut keys);
    if routers.is_empty() {
        return Err(refuse(vec![no_router()]));
    }
    let mut notes = router::converters(connector, &mut keys, &mut routers);
    let tables = tables::read(&mut keys, &routers, &choices.tables);
    tables::rest(&mut keys);
    let mut draft = Draft { pipeline: pipeline(connector, choices), tables, ..Draft::default() };
    draft.routers = routers.into_iter().map(|router| router.settings).collect();
    database::postgres(&mut keys, &mut draft.root);
    notes.extend(database::stream(&mut keys, &mut draft.root));
    notes.extend(database::kafka(&mut keys, &mut draft.root, &choices.brokers));
    known::settle(&mut keys);
    let mut problems = unknown(&mut keys, choices.lenient);
    if draft.tables.is_empty() {
        problems.push(no_table(&keys));
    }
    if !problems.is_empty() {
        return Err(refuse(problems));
    }
    let heading = format!("Imported from {from}\nby `pillarbox import debezium`.");
    let yaml = legal(draft, &mut keys, &heading)?;
    Ok(Imported { yaml, entries: keys.entries, notes })
}

fn class(keys: &mut Keys) -> Result<(), Problem> {
    let Some(class) = keys.value("connector.class") else { return Ok(()) };
    if class.ends_with("PostgresConnector") {
        keys.settle("connector.class", Fate::Default("Postgres".to_owned()));
        return Ok(());
    }
    let problem =
        Problem::new(Code::ConfigUnsupported, "connector.class", "this is no connector for Postgres");
    Err(problem.hint("only io.debezium.connector.postgresql.PostgresConnector can be imported"))
}

fn no_router() -> Problem {
    let message = "the connector has no EventRouter: it publishes changes of tables, not outbox events";
    let hint = "import a connector with `transforms.<name>.type` io.debezium.transforms.outbox.EventRouter";
    Problem::new(Code::ConfigUnsupported, "transforms", message).hint(hint)
}

/// Why no table is known: the list's own fate says it, where there is one.
fn no_table(keys: &Keys) -> Problem {
    let list = keys.entries.iter().find(|entry| entry.key.name == "table.include.list");
    let why = match list.and_then(|entry| entry.fate.as_ref()) {
        Some(Fate::Unsupported { why, .. }) => format!(": {why}"),
        _ => String::new(),
    };
    Problem::new(Code::ConfigValue, "table.include.list", format!("no outbox table is known{why}"))
        .hint("name it: --table schema.table")
}

fn unknown(keys: &mut Keys, lenient: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    for name in keys.open("") {
        if lenient {
            keys.settle(&name, Fate::ignored("unknown, and left out because of --lenient"));
            continue;
        }
        let written = keys.entries.iter().find(|entry| entry.key.name == name);
        let written = written.map_or(name.as_str(), |entry| entry.key.written.as_str()).to_owned();
        let leave = "--lenient leaves it out";
        let hint = match known::resembling(&name) {
            Some(known) => format!("did you mean `{known}`? {leave}"),
            None => leave.to_owned(),
        };
        problems
            .push(Problem::new(Code::ConfigSyntax, &written, format!("unknown key `{written}`")).hint(hint));
    }
    problems
}

/// A name for the pipeline: the user's, else the connector's, else that of its topics, as far as it is legal.
fn pipeline(connector: &Connector, choices: &Choices) -> String {
    if let Some(name) = &choices.pipeline {
        return name.clone();
    }
    let prefix = || connector.value("topic.prefix").or_else(|| connector.value("database.server.name"));
    let name = connector.name.as_deref().or_else(prefix).unwrap_or_default().to_ascii_lowercase();
    let legal = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '_' };
    let name: String = name.chars().map(legal).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let name: String = name.chars().take(PIPELINE_MAX).collect();
    if name.parse::<PipelineName>().is_ok() { name } else { "outbox".to_owned() }
}

/// The file, without the options that its reader refuses.
fn legal(mut draft: Draft, keys: &mut Keys, heading: &str) -> Result<String, Problems> {
    // What the user exports is not known here; any legal value will do.
    let env = |name: &str| match name {
        "PGPORT" => Some("5432".to_owned()),
        "PGSSLMODE" => None,
        "KAFKA_BROKERS" => Some("kafka:9092".to_owned()),
        _ => Some("unknown".to_owned()),
    };
    loop {
        let yaml = draft.yaml(heading);
        let outside = Outside { env: &env, base: PathBuf::new() };
        let Err(problems) = interpret("the imported configuration", yaml.clone(), outside) else {
            return Ok(yaml);
        };
        // A file with a secret is elsewhere, as it should be.
        let real = problems.list.iter().filter(|problem| problem.code != Code::ConfigSecret).cloned();
        let (protection, others): (Vec<Problem>, Vec<Problem>) =
            real.partition(|problem| section(&problem.option).is_some());
        protection.iter().for_each(|problem| unprotected(&draft, keys, problem));
        if others.is_empty() {
            return Ok(yaml);
        }
        for problem in others {
            let Some(setting) = draft.remove(&problem.option) else { return Err(problems) };
            let fate = refused(&problem);
            // A value that the user gave here is not the connector's.
            if setting.keys.iter().any(|key| key == "--kafka") {
                return Err(problems);
            }
            setting.keys.iter().for_each(|key| keys.overrule(key, fate.clone()));
        }
    }
}

fn refused(problem: &Problem) -> Fate {
    let todo = problem.hint.as_deref().unwrap_or("set this option by hand").to_owned();
    Fate::unsupported(problem.message.clone(), todo)
}

/// The section of protection that an option belongs to.
fn section(option: &str) -> Option<&'static str> {
    PROTECTION.into_iter().find(|section| option.starts_with(section))
}

/// Says of every key of a section of protection that it is refused.
fn unprotected(draft: &Draft, keys: &mut Keys, problem: &Problem) {
    let of = section(&problem.option);
    for setting in draft.root.0.iter().filter(|setting| section(&setting.option) == of) {
        setting.keys.iter().for_each(|key| keys.overrule(key, refused(problem)));
    }
}
