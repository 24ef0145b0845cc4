//! `pillarbox lineage show|accept`: what was published that the database does not have, and going on all the same.
//!
//! Shows places and ids of events, never keys or payloads.

use clap::{Args, Subcommand};
use pillarbox_kafka::Cluster;
use pillarbox_relay::config::Config;
use pillarbox_relay::error::{Code, ExitCode, Fault};
use pillarbox_relay::lineage::{self, Comparison, Ghost};
use pillarbox_relay::position::acceptance::{Cut, History, acceptable};
use pillarbox_relay::sink;
use pillarbox_wire::lsn::Lsn;
use serde_json::{Value, json};

use super::{ConfigFile, Output};
use crate::report::Failure;

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Compare the database with the checkpoint; list published events that it does not have
    Show(Arguments),
    /// Let the pipeline go on behind the cut, in a new epoch
    Accept(Accept),
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Where history was cut, if the timeline history does not say: X/X
    #[arg(long, value_name = "LSN", value_parser = lsn)]
    fork: Option<Lsn>,
    /// The format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Accept {
    #[command(flatten)]
    arguments: Arguments,
    /// Say what would be accepted; the same as `show`
    #[arg(long)]
    dry_run: bool,
}

fn lsn(text: &str) -> Result<Lsn, String> {
    text.parse().map_err(|error: pillarbox_wire::lsn::ParseLsnError| error.to_string())
}

impl Command {
    pub(super) fn wants_json(&self) -> bool {
        let (Self::Show(arguments) | Self::Accept(Accept { arguments, .. })) = self;
        arguments.output == Output::Json
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Show(arguments) | Self::Accept(Accept { arguments, dry_run: true }) => {
                let config = arguments.file.load()?.config;
                super::block_on(show(config, arguments.fork, arguments.output))
            }
            Self::Accept(Accept { arguments, .. }) => {
                let config = arguments.file.load()?.config;
                super::block_on(accept(config, arguments.fork, arguments.output))
            }
        }
    }
}

/// Exit code 1 where an operator has something to decide.
async fn show(config: Config, fork: Option<Lsn>, output: Output) -> Result<(), Failure> {
    let cluster = sink::connect(&config).await?;
    let found = lineage::look(&config, &cluster, fork).await?;
    print(&sides(&found, output))?;
    match &found.history {
        History::GoesOn => {
            if output == Output::Table {
                print("the database continues the history that was published\n")?;
            }
            Ok(())
        }
        History::CutSomewhere(fault) => {
            if output == Output::Table {
                print(&format!(
                    "{}: {}\nwhere it was cut is not known: --fork LSN\n",
                    fault.code, fault.message
                ))?;
            }
            Err(Failure::Answered(ExitCode::Negative))
        }
        History::Cut(cut) => {
            let count = ghosts(&cluster, &found, cut, output).await?;
            if output == Output::Table {
                let next = match acceptable(cut, &found.source, &found.checkpoint) {
                    Ok(()) => "`pillarbox lineage accept` goes on without them".to_owned(),
                    Err(fault) => {
                        format!("{}: {}\n{}", fault.code, fault.message, fault.hint.unwrap_or_default())
                    }
                };
                print(&format!(
                    "{}: {}\n{count} published event(s) are in no database any more; {next}\n",
                    cut.fault.code, cut.fault.message
                ))?;
            }
            Err(Failure::Answered(ExitCode::Negative))
        }
    }
}

async fn accept(config: Config, fork: Option<Lsn>, output: Output) -> Result<(), Failure> {
    let cluster = sink::connect(&config).await?;
    let now = lineage::accept(&config, &cluster, fork).await?;
    let text = match output {
        Output::Json => {
            let document = json!({
                "accepted": true,
                "epoch": now.epoch,
                "timeline": now.timeline,
                "resume_lsn": now.resume_lsn.to_string(),
            });
            format!("{document:#}\n")
        }
        Output::Table => format!(
            "accepted: epoch {} goes on from {}\n\
             events that the database does not have stay in their topics; start the relay\n",
            now.epoch, now.resume_lsn
        ),
    };
    super::print(text.as_bytes())
}

/// One line each, as they are found.
async fn ghosts(cluster: &Cluster, found: &Comparison, cut: &Cut, output: Output) -> Result<u64, Failure> {
    let mut told = Ok(());
    let mut heading = output == Output::Table;
    let count = lineage::ghosts(cluster, found, cut, |ghost| {
        let line = match output {
            Output::Json => format!("{}\n", json(&ghost)),
            Output::Table => row(&ghost, std::mem::take(&mut heading)),
        };
        told = print(&line);
        match &told {
            Ok(()) => Ok(()),
            // Ends the walk; what is said is the failure to print.
            Err(_) => Err(Fault::new(Code::Internal, "nobody reads on")),
        }
    })
    .await;
    told?;
    Ok(count?)
}

fn row(ghost: &Ghost, heading: bool) -> String {
    let place = format!("{}/{}@{}", ghost.topic, ghost.partition, ghost.offset);
    let id = ghost.id.as_deref().unwrap_or("-");
    let heading = if heading {
        format!("{:<40} {:<32} ID\n", "TOPIC/PARTITION@OFFSET", "POSITION")
    } else {
        String::new()
    };
    format!("{heading}{place:<40} {:<32} {}\n", ghost.position, id.escape_debug())
}

fn json(ghost: &Ghost) -> Value {
    json!({
        "topic": ghost.topic,
        "partition": ghost.partition,
        "offset": ghost.offset,
        "position": ghost.position.to_string(),
        "id": ghost.id,
    })
}

/// What checkpoint and database say. As JSON one line, which the ghosts follow, one line each.
fn sides(found: &Comparison, output: Output) -> String {
    let Comparison { source, checkpoint, history, .. } = found;
    let fork = match history {
        History::Cut(cut) => Some(cut.fork.to_string()),
        History::GoesOn | History::CutSomewhere(_) => None,
    };
    match output {
        Output::Json => {
            let code = match history {
                History::GoesOn => None,
                History::Cut(cut) => Some(cut.fault.code.to_string()),
                History::CutSomewhere(fault) => Some(fault.code.to_string()),
            };
            let line = json!({
                "checkpoint": {
                    "timeline": checkpoint.timeline,
                    "epoch": checkpoint.epoch,
                    "resume_lsn": checkpoint.resume_lsn.to_string(),
                    "published_end_lsn": checkpoint.published_end_lsn.to_string(),
                },
                "database": {
                    "system_id": source.system_id.to_string(),
                    "timeline": source.timeline.0,
                    "wal_lsn": source.wal_position.to_string(),
                    "confirmed_flush_lsn": source.confirmed_flush_lsn.to_string(),
                },
                "fork": fork,
                "code": code,
            });
            format!("{line}\n")
        }
        Output::Table => format!(
            "checkpoint  timeline {}, epoch {}, relayed up to {}, the last event ends at {}\n\
             database    timeline {}, WAL ends at {}, the slot is confirmed at {}\n\
             fork        {}\n",
            checkpoint.timeline,
            checkpoint.epoch,
            checkpoint.resume_lsn,
            checkpoint.published_end_lsn,
            source.timeline.0,
            source.wal_position,
            source.confirmed_flush_lsn,
            fork.as_deref().unwrap_or("-"),
        ),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    super::print(text.as_bytes())
}
