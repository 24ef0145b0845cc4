//! `pillarbox housekeeping`: the dry run of what a relay that streams does by itself.
//!
//! Never changes anything.

use std::fmt::Write;

use clap::Args;
use pillarbox_relay::config::{Housekeeping, TableName};
use pillarbox_relay::error::{ExitCode, Fault};
use pillarbox_relay::housekeeping::{Outlook, Partition, Stage, look_ahead};
use pillarbox_relay::pipeline::FaultView;
use serde_json::{Value, json};

use super::{ConfigFile, Output};
use crate::report::Failure;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// The format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

type Answer = (TableName, Result<Outlook, Fault>);

impl Arguments {
    pub(super) fn wants_json(&self) -> bool {
        self.output == Output::Json
    }

    /// Exits 1 when a table cannot be kept as configured.
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.file.load()?.config;
        super::block_on(async move {
            let answers = look_ahead(&config).await?;
            let text = match self.output {
                Output::Table if answers.is_empty() => "no table has housekeeping\n".to_owned(),
                Output::Table => answers.iter().map(table).collect(),
                Output::Json => format!("{:#}\n", json!(answers.iter().map(document).collect::<Vec<_>>())),
            };
            super::print(text.as_bytes())?;
            let fit = answers.iter().all(|(_, outlook)| outlook.is_ok());
            if fit { Ok(()) } else { Err(Failure::Answered(ExitCode::Negative)) }
        })
    }
}

fn mode(how: &Housekeeping) -> &'static str {
    match how {
        Housekeeping::None => "none",
        Housekeeping::Partitions(_) => "partitions",
        Housekeeping::Delete(_) => "delete",
    }
}

fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Open => "open",
        Stage::Sealed => "sealed",
        Stage::Detaching => "detaching",
        Stage::Detached => "detached",
    }
}

fn table((name, outlook): &Answer) -> String {
    let outlook = match outlook {
        Ok(outlook) => outlook,
        Err(fault) => return format!("table {name}\n  {}\n", told(fault)),
    };
    let mut text = format!("table {name}: {}\n", mode(&outlook.how));
    for Partition { table, stage: at, .. } in &outlook.partitions {
        let _ = writeln!(text, "  {:<10} {table}", stage(*at));
    }
    if !outlook.partitions.is_empty() {
        let _ = writeln!(text, "  partitions for new rows reach {} s ahead", outlook.covered_seconds);
    }
    if let Some(rows) = outlook.rows {
        let fence = outlook.watch.wal_insert;
        let _ = writeln!(text, "  would delete {rows} rows once WAL is relayed to {fence}");
    }
    for step in &outlook.steps {
        let _ = writeln!(text, "  would {step}");
    }
    if outlook.partitions.iter().any(|partition| partition.stage != Stage::Open) {
        text.push_str("  what is sealed goes as soon as everything in it was relayed\n");
    }
    text.push_str(&match outlook.watch.confirmed {
        Some(lsn) => format!("  relayed to {lsn}\n"),
        None => "  no relay streams: nothing is removed\n".to_owned(),
    });
    text
}

fn told(fault: &Fault) -> String {
    let hint = fault.hint.as_ref().map(|hint| format!("\n  hint: {hint}"));
    format!("{fault}{}", hint.unwrap_or_default())
}

fn document((name, outlook): &Answer) -> Value {
    let outlook = match outlook {
        Ok(outlook) => outlook,
        Err(fault) => return json!({ "table": name.to_string(), "fault": FaultView::from(fault) }),
    };
    let partition = |partition: &Partition| {
        json!({
            "table": partition.table.to_string(),
            "stage": stage(partition.stage),
            "from": partition.lower.map(|at| at.0),
            "to": partition.upper.map(|at| at.0),
        })
    };
    json!({
        "table": name.to_string(),
        "mode": mode(&outlook.how),
        "partitions": outlook.partitions.iter().map(partition).collect::<Vec<_>>(),
        "covered_seconds": outlook.covered_seconds,
        "would": outlook.steps,
        "rows": outlook.rows,
        "fence": outlook.watch.wal_insert.to_string(),
        "confirmed": outlook.watch.confirmed.map(|lsn| lsn.to_string()),
    })
}
