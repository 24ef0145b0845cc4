//! `pillarbox repartition TOPIC`: lets events go to partitions that were added to a topic.

use clap::Args;
use pillarbox_relay::repartition::{Plan, carry_out, plan};
use pillarbox_relay::sink;
use serde_json::json;

use super::{ConfigFile, Output, Patience};
use crate::report::Failure;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// A topic of the pipeline that has more partitions than get events
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// Say what would happen to the keys
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    patience: Patience,
    /// The format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl Arguments {
    pub(super) fn wants_json(&self) -> bool {
        self.output == Output::Json
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.file.load()?.config;
        super::block_on(async {
            let cluster = sink::connect(&config).await?;
            let planned = plan(&config, &cluster, &self.topic).await?;
            let done = planned.is_needed() && !self.dry_run;
            let plan = if done {
                carry_out(&config, &cluster, &planned, self.patience.timeout).await?
            } else {
                planned
            };
            print(&plan, done, self.output)
        })
    }
}

fn print(plan: &Plan, done: bool, output: Output) -> Result<(), Failure> {
    let Plan { topic, pinned, partitions } = plan;
    let text = match output {
        Output::Json => {
            let document = json!({
                "topic": topic,
                "pinned": pinned,
                "partitions": partitions,
                "keys_moved": plan.moved(),
                "done": done,
            });
            format!("{document:#}\n")
        }
        Output::Table if !plan.is_needed() => {
            format!("{topic}: all {pinned} partition(s) get events already\n")
        }
        Output::Table => {
            let verb = if done { "get" } else { "would get" };
            let percent = 100.0 * plan.moved();
            format!(
                "{topic}: {partitions} partitions {verb} events, instead of {pinned}\n\
                 keys: {percent:.0} % go to another partition from here on; their earlier events stay where they are.\n\
                 order: such a key keeps it only for consumers that have read its former partition to the end first.\n"
            )
        }
    };
    super::print(text.as_bytes())
}
