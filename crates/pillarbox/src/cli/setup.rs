//! `pillarbox setup`: makes database and cluster ready for a pipeline, or a consumer's database for `accept`.
//!
//! What it did, or would do, is data on stdout; what is going on is talk on stderr.

use std::io::IsTerminal;

use clap::Args;
use pillarbox_relay::error::Fault;
use pillarbox_relay::setup::{self, Options, Progress, Report, Step};
use serde_json::json;

use super::{ConfigFile, Output};
use crate::config::server;
use crate::report::Failure;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Install the consumer's side in this database instead (a libpq URI); needs no configuration file
    #[arg(long, value_name = "URL", conflicts_with_all = ["config", "adopt_slot"])]
    consumer: Option<String>,
    /// Print the SQL for an administrator to run, and do nothing
    #[arg(long, conflicts_with_all = ["dry_run", "adopt_slot"])]
    print_sql: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Begin at the position of a slot that exists already; what lies before it is given up
    #[arg(long)]
    adopt_slot: bool,
    /// The format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl Arguments {
    pub(super) fn wants_json(&self) -> bool {
        self.output == Output::Json
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        if let Some(url) = &self.consumer {
            return self.consumer(url);
        }
        let config = self.file.load()?.config;
        if self.print_sql {
            return super::print(setup::print_sql(&config).as_bytes());
        }
        let options = Options { dry_run: self.dry_run, adopt_slot: self.adopt_slot };
        let (tell, shown) = (self.output == Output::Table, self.output);
        super::block_on(async move {
            let report = apply(&config, options, tell).await?;
            print(&report, shown, "the pipeline is set up")
        })
    }

    fn consumer(&self, url: &str) -> Result<(), Failure> {
        if self.print_sql {
            return super::print(setup::print_consumer_sql().as_bytes());
        }
        let settings = server("--consumer", url)?;
        let (dry_run, shown) = (self.dry_run, self.output);
        super::block_on(async move {
            let report = setup::apply_consumer(&settings, dry_run).await?;
            if shown == Output::Table && report.applied && !report.steps.is_empty() {
                eprintln!("note: each role that consumes needs:\n{}", setup::CONSUMER_GRANTS);
            }
            print(&report, shown, "the consumer's side is set up")
        })
    }
}

fn print(report: &Report, output: Output, ready: &str) -> Result<(), Failure> {
    let text = match output {
        Output::Table => table(report, ready),
        Output::Json => json(report),
    };
    super::print(text.as_bytes())
}

async fn apply(
    config: &pillarbox_relay::config::Config,
    options: Options,
    tell: bool,
) -> Result<Report, Fault> {
    let terminal = std::io::stderr().is_terminal();
    let mut progress = |progress: Progress<'_>| match progress {
        // A step takes milliseconds, except where a lock or an open transaction holds it up.
        Progress::Doing(step) if terminal => eprintln!("{} ...", step.title),
        Progress::Note(note) if tell => eprintln!("note: {note}"),
        Progress::Doing(_) | Progress::Done(_) | Progress::Note(_) => {}
    };
    setup::apply(config, options, &mut progress).await
}

fn table(report: &Report, ready: &str) -> String {
    if report.steps.is_empty() {
        return format!("nothing to do: {ready}\n");
    }
    let word = if report.applied { "done" } else { "would" };
    let mut text = String::new();
    for Step { kind, title, sql } in &report.steps {
        text.push_str(&format!("{word}  {:<17} {title}\n", kind.to_string()));
        if let Some(sql) = sql.as_ref().filter(|_| !report.applied) {
            sql.lines().for_each(|line| text.push_str(&format!("        {line}\n")));
        }
    }
    if let Some(lsn) = report.begins_at {
        text.push_str(&format!("the pipeline begins at {lsn}\n"));
    }
    text
}

fn json(report: &Report) -> String {
    let steps: Vec<_> = report
        .steps
        .iter()
        .map(|step| json!({ "kind": step.kind.to_string(), "title": step.title, "sql": step.sql }))
        .collect();
    let begins_at = report.begins_at.map(|lsn| lsn.to_string());
    format!("{:#}\n", json!({ "applied": report.applied, "begins_at": begins_at, "steps": steps }))
}
