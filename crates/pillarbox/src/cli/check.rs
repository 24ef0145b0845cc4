//! `pillarbox check`: everything that can be verified without sending an event.

use std::io::IsTerminal;

use clap::Args;
use pillarbox_relay::check::{self, Finding, Severity};
use pillarbox_relay::error::ExitCode;
use serde_json::json;

use super::{ConfigFile, Output};
use crate::report::{Failure, colour};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// The format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Show what is in order, too
    #[arg(short, long)]
    verbose: bool,
}

impl Arguments {
    pub(super) fn wants_json(&self) -> bool {
        self.output == Output::Json
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.file.load()?.config;
        super::block_on(async move {
            let findings = check::run(&config).await;
            let text = match self.output {
                Output::Table => table(&findings, self.verbose, colour(std::io::stdout().is_terminal())),
                Output::Json => json(&findings),
            };
            super::print(text.as_bytes())?;
            verdict(&findings)
        })
    }
}

/// A server that cannot be reached has an exit code of its own; any other error is "no".
fn verdict(findings: &[Finding]) -> Result<(), Failure> {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    let exits: Vec<ExitCode> = errors.map(|finding| finding.code.exit()).collect();
    if exits.contains(&ExitCode::Unavailable) {
        return Err(Failure::Answered(ExitCode::Unavailable));
    }
    if exits.is_empty() { Ok(()) } else { Err(Failure::Answered(ExitCode::Negative)) }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

/// Errors and warnings with cause and fix; what is in order as a line each, if asked for.
fn table(findings: &[Finding], verbose: bool, painted: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let (severity, code, subject) = (finding.severity, finding.code, &finding.subject);
        if severity == Severity::Ok {
            if verbose {
                text.push_str(&format!("ok: {subject}: {}\n", finding.message));
            }
            continue;
        }
        let mut head = format!("{}[{code}]", word(severity));
        if painted {
            let paint = if severity == Severity::Error { "\x1b[1;31m" } else { "\x1b[1;33m" };
            head = format!("{paint}{head}\x1b[0m");
        }
        text.push_str(&format!("{head}: {subject}: {}\n", finding.message));
        text.extend(finding.cause.iter().map(|cause| format!("  cause: {cause}\n")));
        text.extend(finding.fix.iter().map(|fix| format!("  fix: {fix}\n")));
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    text.push_str(&format!(
        "{} errors, {} warnings, {} in order\n",
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Ok)
    ));
    text
}

fn json(findings: &[Finding]) -> String {
    let list: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "severity": word(finding.severity),
                "code": finding.code.to_string(),
                "subject": finding.subject,
                "message": finding.message,
                "cause": finding.cause,
                "fix": finding.fix,
            })
        })
        .collect();
    format!("{:#}\n", json!(list))
}
