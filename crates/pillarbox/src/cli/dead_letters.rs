//! `pillarbox dead-letters`: looks at rows that could not be published, and decides about them.
//!
//! Rows and payloads go to stdout, where they were asked for, and never to stderr.

use std::borrow::Cow;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use pillarbox_relay::config::Config;
use pillarbox_relay::dead_letters::command::{Act, Which, carry_out};
use pillarbox_relay::dead_letters::letter::{Letter, State};
use pillarbox_relay::dead_letters::{list, row};
use pillarbox_relay::error::{Code, ExitCode, Fault};
use pillarbox_relay::outbox::{Part, emitted_parts};
use pillarbox_relay::sink;
use pillarbox_wire::pgoutput::{Column, Tuple};
use pillarbox_wire::position::Position;
use serde_json::{Map, Value, json};

use super::{ConfigFile, Output, Patience};
use crate::report::Failure;

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the open ones
    List(List),
    /// Print the row of one
    Show(Show),
    /// Publish their rows again, at a new position: after all that was published for their keys meanwhile
    Replay(Decide),
    /// Close them without publishing
    Discard(Decide),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    file: ConfigFile,
    /// The closed ones, too
    #[arg(long)]
    all: bool,
    /// The format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    file: ConfigFile,
    /// Its position, as `list` prints it
    #[arg(value_parser = position)]
    position: Position,
    /// Print this column alone, as Postgres sent it
    #[arg(long, value_name = "NAME", conflicts_with = "output")]
    column: Option<String>,
    /// The format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Decide {
    #[command(flatten)]
    file: ConfigFile,
    /// Their positions, as `list` prints them
    #[arg(value_name = "POSITION", value_parser = position, required_unless_present = "all")]
    positions: Vec<Position>,
    /// All that are open
    #[arg(long, conflicts_with = "positions")]
    all: bool,
    /// Say which it would be, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    patience: Patience,
    /// The format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl Command {
    pub(super) fn wants_json(&self) -> bool {
        let output = match self {
            Command::List(List { output, .. })
            | Command::Show(Show { output, .. })
            | Command::Replay(Decide { output, .. })
            | Command::Discard(Decide { output, .. }) => output,
        };
        *output == Output::Json
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        super::block_on(async {
            match self {
                Command::List(arguments) => arguments.run().await,
                Command::Show(arguments) => arguments.run().await,
                Command::Replay(arguments) => arguments.run(Act::Replay).await,
                Command::Discard(arguments) => arguments.run(Act::Discard).await,
            }
        })
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let config = self.file.load()?.config;
        let cluster = sink::connect(&config).await?;
        let mut letters = list(&cluster, &config).await?;
        letters.retain(|letter| self.all || letter.state == State::Open);
        print(&letters, self.output)
    }
}

impl Show {
    async fn run(self) -> Result<(), Failure> {
        let config = self.file.load()?.config;
        let cluster = sink::connect(&config).await?;
        let letters = list(&cluster, &config).await?;
        let letter = letters.iter().find(|letter| letter.position == self.position).ok_or_else(|| {
            Fault::new(Code::DeadLetterUnknown, format!("there is no dead letter {}", self.position))
                .hint("`pillarbox dead-letters list --all` shows all of them")
        })?;
        let columns = row(&cluster, &config, letter).await?;
        let whole = [&letter.shape.count().unwrap_or(0).to_be_bytes()[..], &columns].concat();
        let tuple = Tuple::decode(&whole).map(|(tuple, _)| tuple).map_err(|error| {
            let message = format!("dead letter {} is damaged", letter.position);
            Fault::new(Code::DeadLetterTopicUnfit, message).because(error)
        })?;
        let values = values(letter, tuple);
        match (&self.column, self.output) {
            (Some(name), _) => {
                let found = values.iter().find(|(column, _)| column == name).ok_or_else(|| {
                    let table = letter.shape.name();
                    Fault::new(Code::ColumnMissing, format!("the row of {table} has no column `{name}`"))
                        .hint("leave --column out to see them all")
                })?;
                super::print(found.1.as_deref().unwrap_or_default())
            }
            (None, Output::Json) => {
                let mut document = json(letter);
                document["row"] = row_json(&values);
                super::print(format!("{document:#}\n").as_bytes())
            }
            (None, Output::Table) => {
                super::print((heading() + &line(letter) + &row_text(&values)).as_bytes())
            }
        }
    }
}

impl Decide {
    async fn run(self, act: Act) -> Result<(), Failure> {
        let config: Config = self.file.load()?.config;
        let which = if self.all { Which::Open } else { Which::These(self.positions) };
        let cluster = sink::connect(&config).await?;
        if self.dry_run {
            let chosen = which.among(list(&cluster, &config).await?)?;
            return print(&chosen, self.output);
        }
        let letters = carry_out(&config, &cluster, act, &which, self.patience.timeout).await?;
        print(&letters, self.output)?;
        if letters.iter().any(|letter| letter.state == State::Open) {
            eprintln!("some were refused again, and stay: see the reason above");
            return Err(Failure::Answered(ExitCode::Negative));
        }
        Ok(())
    }
}

/// A position, alone or inside a `pb-pos`.
fn position(text: &str) -> Result<Position, String> {
    let alone = text.split(':').nth(1).unwrap_or(text);
    alone.parse().map_err(|error| format!("{error}"))
}

fn print(letters: &[Letter], output: Output) -> Result<(), Failure> {
    let text = match output {
        Output::Json => format!("{:#}\n", Value::Array(letters.iter().map(json).collect())),
        Output::Table if letters.is_empty() => "no dead letters\n".to_owned(),
        Output::Table => letters.iter().fold(heading(), |text, letter| text + &line(letter)),
    };
    super::print(text.as_bytes())
}

fn heading() -> String {
    format!("{:<32} {:<9} {:<7} {:>10} {:<24} WHY\n", "POSITION", "STATE", "REASON", "BYTES", "TABLE")
}

fn line(letter: &Letter) -> String {
    let table = letter.shape.name();
    let (code, cause) = (&letter.reason.code, &letter.reason.cause);
    let (state, size) = (state(letter.state), letter.size);
    let mut line = format!("{} {state:<9} {code:<7} {size:>10} {table:<24} {cause}", letter.position);
    if letter.refusals > 0 {
        let _ = write!(line, " (replay refused {} times)", letter.refusals);
    }
    line + "\n"
}

fn json(letter: &Letter) -> Value {
    let closed_at = match letter.state {
        State::Open => None,
        State::Replayed(at) | State::Discarded(at) => Some(at.to_string()),
    };
    json!({
        "position": letter.position.to_string(),
        "pb_pos": letter.pb_pos,
        "state": state(letter.state),
        "closed_at": closed_at,
        "reason": letter.reason.code,
        "cause": letter.reason.cause,
        "refusals": letter.refusals,
        "table": letter.shape.name(),
        "id": letter.id,
        "bytes": letter.size,
        "chunks": letter.chunks,
        "offset": letter.offset,
        "committed_ms": letter.committed_ms,
    })
}

fn state(state: State) -> &'static str {
    match state {
        State::Open => "open",
        State::Replayed(_) => "replayed",
        State::Discarded(_) => "discarded",
    }
}

/// The row's columns; those that `pillarbox.emit()` packed into a message by their own names.
fn values<'a>(letter: &Letter, tuple: Tuple<'a>) -> Vec<Part<'a>> {
    let names = letter.shape.columns.iter().map(|(name, ..)| name.clone());
    let columns = tuple.columns().map(value);
    let content = columns.clone().next().flatten().filter(|_| letter.shape.is_message());
    content
        .and_then(emitted_parts)
        .unwrap_or_else(|| names.zip(columns.map(|value| value.map(Cow::Borrowed))).collect())
}

fn value(column: Column<'_>) -> Option<&[u8]> {
    match column {
        Column::Text(value) | Column::Binary(value) => Some(value),
        Column::Null | Column::Unchanged => None,
    }
}

/// Text as a string, other bytes in base64 under `<name>_base64`, nothing as null.
fn row_json(values: &[Part<'_>]) -> Value {
    let mut row = Map::new();
    for (name, value) in values {
        match value.as_deref().map(std::str::from_utf8) {
            None => row.insert(name.clone(), Value::Null),
            Some(Ok(text)) => row.insert(name.clone(), json!(text)),
            Some(Err(_)) => row.insert(
                format!("{name}_base64"),
                json!(STANDARD.encode(value.as_deref().unwrap_or_default())),
            ),
        };
    }
    Value::Object(row)
}

/// Control characters are shown, not obeyed.
fn row_text(values: &[Part<'_>]) -> String {
    let mut text = String::new();
    for (name, value) in values {
        let shown = match value.as_deref().map(std::str::from_utf8) {
            None => "(null)".to_owned(),
            Some(Ok(text)) => text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
                if c.is_control() {
                    shown.extend(c.escape_debug())
                } else {
                    shown.push(c)
                }
                shown
            }),
            Some(Err(_)) => format!("({} bytes)", value.as_deref().map_or(0, <[u8]>::len)),
        };
        let _ = writeln!(text, "{name}: {shown}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSITION: &str = "0000000100000016b374d84800000002";

    #[test]
    fn a_position_is_taken_alone_or_from_a_header() {
        assert_eq!(position(POSITION), POSITION.parse().map_err(|_| String::new()));
        assert_eq!(position(&format!("orders:{POSITION}:7")), position(POSITION));
        assert!(position("7").is_err() && position("orders:7:1").is_err());
    }

    #[test]
    fn a_row_obeys_no_control_character() {
        let values = [("a", Some(&b"x\x1b[2J"[..])), ("b", None), ("c", Some(b"\xff"))];
        let values = values.map(|(name, value)| (name.to_owned(), value.map(Cow::Borrowed)));
        assert_eq!(row_text(&values), "a: x\\u{1b}[2J\nb: (null)\nc: (1 bytes)\n");
        assert_eq!(row_json(&values), json!({ "a": "x\u{1b}[2J", "b": null, "c_base64": "/w==" }));
    }
}
