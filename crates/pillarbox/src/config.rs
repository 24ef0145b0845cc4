//! From the file a user wrote to the [`Config`] the relay runs, in one step that reports every
//! problem at once.
//!
//! ```text
//! file -> tree (YAML with places) -> sections (one file each) -> Config, or Problems
//! ```
//!
//! Options, defaults and limits of version 1 are read here and nowhere else. Never connects to
//! anything; never prints.

mod housekeeping;
mod kafka;
mod messages;
mod outbox;
mod pgpass;
mod postgres;
pub(crate) mod problem;
mod reader;
pub(crate) mod secret;
pub(crate) mod show;
mod tls;
mod tree;
pub(crate) mod units;
mod uri;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pillarbox_relay::config::{Config, PipelineName};
use pillarbox_relay::error::Code;

use problem::{Problem, Problems};
use reader::{Context, Section, parsed};
use secret::Outside;

/// The file that is read when none is named.
pub(crate) const DEFAULT_FILE: &str = "pillarbox.yaml";

/// Where the HTTP interface listens when the file does not say: loopback, because it has no login.
const DEFAULT_LISTEN: &str = "127.0.0.1:8686";

/// Longest configuration file: the largest sensible one has a few hundred lines.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a file says.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// Where the HTTP interface listens; `None` = off.
    pub(crate) listen: Option<SocketAddr>,
}

/// Reads, resolves and checks a file.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn load(file: &Path) -> Result<Loaded, Problems> {
    let env = |name: &str| std::env::var(name).ok();
    let base = file.parent().map(Path::to_owned).unwrap_or_default();
    let source = read(file).map_err(|problem| Problems {
        file: file.display().to_string(),
        source: String::new(),
        list: vec![problem],
    })?;
    interpret(&file.display().to_string(), source, Outside { env: &env, base })
}

/// The settings of a server of which only a libpq URI is given; the `PG*` environment and `~/.pgpass` fill in.
/// `option` names it in messages. What only a pipeline has means nothing in them.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn server(option: &str, url: &str) -> Result<pillarbox_relay::config::Postgres, Problems> {
    let env = |name: &str| std::env::var(name).ok();
    let outside = Outside { env: &env, base: PathBuf::new() };
    let context = Context { outside, problems: RefCell::new(Vec::new()) };
    let place = problem::Place::default();
    let value = tree::Node { value: tree::Value::Scalar(url.to_owned()), place };
    let entry = tree::Entry { key: "url".to_owned(), place, value };
    let node = tree::Node { value: tree::Value::Map(vec![entry]), place };
    let read =
        Section::open(&context, "", &node).and_then(|section| postgres::read(&context, &section, "consumer"));
    let list = context.problems.into_inner();
    read.filter(|_| list.is_empty()).ok_or(Problems { file: option.to_owned(), source: String::new(), list })
}

fn read(file: &Path) -> Result<String, Problem> {
    let unreadable = |why: String| {
        let hint =
            format!("name the file with -c FILE, or write one: the smallest has four lines ({DEFAULT_FILE})");
        let message = format!("cannot read {}: {why}", file.display());
        Problem::new(Code::ConfigUnreadable, "", message).hint(hint)
    };
    let size = std::fs::metadata(file).map_err(|error| unreadable(error.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(unreadable(format!("it has {size} bytes, at most {FILE_BYTES_MAX} are allowed")));
    }
    std::fs::read_to_string(file).map_err(|error| unreadable(error.to_string()))
}

/// What `source` means; `file` is its name in messages.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn interpret(file: &str, source: String, outside: Outside<'_>) -> Result<Loaded, Problems> {
    let context = Context { outside, problems: RefCell::new(Vec::new()) };
    let loaded = match tree::parse(&source) {
        Ok(root) => sections(&context, &root),
        Err(problem) => {
            context.report(problem);
            None
        }
    };
    let mut list = context.problems.into_inner();
    list.sort_by_key(|problem| problem.place.map_or((0, 0), |place| (place.line, place.column)));
    match loaded {
        Some(loaded) if list.is_empty() => Ok(loaded),
        _ => {
            assert!(!list.is_empty(), "a configuration was refused without a problem");
            Err(Problems { file: file.to_owned(), source, list })
        }
    }
}

fn sections(context: &Context<'_>, node: &tree::Node) -> Option<Loaded> {
    let root = Section::open(context, "", node)?;
    let pipeline = root.required("pipeline", "write pipeline: orders").and_then(|scalar| {
        parsed(context, "pipeline", &scalar, |text| {
            text.parse::<PipelineName>()
                .map_err(|_| "expected 1 to 40 of a-z 0-9 _, beginning with a letter".to_owned())
        })
    });
    // Names that depend on the pipeline are checked even when its own name is wrong.
    let name = pipeline.as_ref().map_or("unnamed", |name| name.as_str());
    let postgres = postgres_section(context, &root, name);
    let kafka = match root.section("kafka") {
        Some(section) => {
            let kafka = kafka::read(context, &section);
            section.finish();
            kafka
        }
        None => {
            missing_section(&root, "kafka", "write kafka: { brokers: [\"host:9092\"] }");
            None
        }
    };
    // A pipeline of messages alone has no table.
    let outbox = match (root.node("outbox"), root.node("messages")) {
        (None, Some(_)) => Some(Vec::new()),
        _ => outbox::read(context, &root),
    };
    let messages = messages::read(context, &root);
    let listen = listen(context, &root);
    root.finish();
    let config = Config {
        pipeline: pipeline?,
        postgres: postgres?,
        kafka: kafka?,
        outbox: outbox?,
        messages: messages?,
    };
    Some(Loaded { config, listen: listen? })
}

fn postgres_section(
    context: &Context<'_>,
    root: &Section<'_>,
    pipeline: &str,
) -> Option<pillarbox_relay::config::Postgres> {
    // Absent: everything comes from the PG* environment.
    static ABSENT: tree::Node =
        tree::Node { value: tree::Value::Null, place: problem::Place { line: 0, column: 0, width: 0 } };
    let node = root.node("postgres").unwrap_or(&ABSENT);
    let section = Section::open(context, "postgres", node)?;
    let read = postgres::read(context, &section, pipeline);
    section.finish();
    read
}

/// Reports an absent section; one of the wrong kind was reported when it was opened.
fn missing_section(root: &Section<'_>, key: &'static str, hint: &str) {
    if root.node(key).is_none() {
        root.missing(key, hint);
    }
}

/// `Some(None)` = off.
fn listen(context: &Context<'_>, root: &Section<'_>) -> Option<Option<SocketAddr>> {
    let default = || DEFAULT_LISTEN.parse().ok();
    let Some(node) = root.node("http") else { return Some(default()) };
    let section = Section::open(context, "http", node)?;
    let present = section.node("listen").is_some();
    let listen = section.parse("listen", |text| match text {
        "off" => Ok(None),
        _ => text
            .parse()
            .map(Some)
            .map_err(|_| "expected address:port such as 127.0.0.1:8686, or off".to_owned()),
    });
    section.finish();
    if present { listen } else { Some(default()) }
}
