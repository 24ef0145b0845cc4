//! `pillarbox tap`: events as a `read_committed` consumer sees them, on stdout.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, ValueEnum};
use pillarbox_kafka::Cluster;
use pillarbox_relay::config::Config;
use pillarbox_relay::error::{Code, Fault};
use pillarbox_relay::sink;

use super::ConfigFile;
use crate::report::Failure;
use crate::tap::event::Event;
use crate::tap::{Follower, From, Go, read_all};

/// How often a follower looks for topics that got their first event.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Only this topic; may be given several times [default: all the pipeline has written to]
    #[arg(long, value_name = "TOPIC")]
    topic: Vec<String>,
    /// End after so many events
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// Begin with the oldest event and end with the newest, unless --follow is given too
    #[arg(long)]
    from_beginning: bool,
    /// Wait for further events (the default without --from-beginning)
    #[arg(long)]
    follow: bool,
    /// The format [default: table on a terminal, ndjson otherwise]
    #[arg(short, long, value_enum)]
    output: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Ndjson,
}

impl Arguments {
    pub(super) fn wants_json(&self) -> bool {
        self.output == Some(Format::Ndjson)
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.file.load()?.config;
        super::block_on(self.tap(&config))
    }

    async fn tap(self, config: &Config) -> Result<(), Failure> {
        if self.count == Some(0) {
            return Ok(());
        }
        let cluster = sink::connect(config).await?;
        let format = self.output.unwrap_or_else(default_format);
        let mut printer = Printer { format, left: self.count, outcome: Ok(()) };
        printer.heading()?;
        let outcome = if self.from_beginning && !self.follow {
            let topics = self.topics(&cluster, config).await?;
            read_all(&cluster, &topics, |event| Ok(printer.print(&event))).await
        } else {
            self.follow(cluster, config, &mut printer).await
        };
        printer.outcome?;
        Ok(outcome?)
    }

    /// Prints until the count is reached; without one only a signal ends it.
    async fn follow(&self, cluster: Cluster, config: &Config, printer: &mut Printer) -> Result<(), Fault> {
        let mut follower = Follower::new(cluster.clone());
        let mut from = if self.from_beginning { From::Beginning } else { From::Now };
        let mut discovery = tokio::time::interval(DISCOVERY_INTERVAL);
        loop {
            tokio::select! {
                _ = discovery.tick() => {
                    follower.add(&self.topics(&cluster, config).await?, from).await?;
                    // A topic that turns up later is new: all of it came after the start.
                    from = From::Beginning;
                }
                events = follower.next() => {
                    for event in events? {
                        if printer.print(&event) == Go::Stop {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    async fn topics(&self, cluster: &Cluster, config: &Config) -> Result<BTreeSet<String>, Fault> {
        if !self.topic.is_empty() {
            return Ok(self.topic.iter().cloned().collect());
        }
        match sink::read_checkpoint(cluster, config).await? {
            // Dead letters are no events.
            Some(mut table) => {
                table.topics.remove(&config.dead_letter_topic());
                Ok(table.topics.into_keys().collect())
            }
            None => Err(Fault::new(
                Code::CheckpointMissing,
                format!("topic {} holds no checkpoint", config.checkpoint_topic()),
            )
            .hint("run `pillarbox setup`, or choose a topic with --topic")),
        }
    }
}

fn default_format() -> Format {
    if std::io::stdout().is_terminal() { Format::Table } else { Format::Ndjson }
}

/// Counts down while it prints; a closed pipe ends the command.
struct Printer {
    format: Format,
    left: Option<u64>,
    outcome: Result<(), Failure>,
}

impl Printer {
    fn heading(&mut self) -> Result<(), Failure> {
        match self.format {
            Format::Table => super::print(format!("{}\n", Event::heading()).as_bytes()),
            Format::Ndjson => Ok(()),
        }
    }

    fn print(&mut self, event: &Event) -> Go {
        let line = match self.format {
            Format::Table => event.row(),
            Format::Ndjson => event.json().to_string(),
        };
        self.outcome = super::print(format!("{line}\n").as_bytes());
        self.left = self.left.map(|left| left - 1);
        if self.outcome.is_err() || self.left == Some(0) { Go::Stop } else { Go::On }
    }
}
