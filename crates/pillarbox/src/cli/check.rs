//! `pillarbox check`: everything that can be verified without sending an event.

use std::io::IsTerminal;

use clap::Args;
use pillarbox_relay::check::{self, Finding, Severity};
use pillarbox_relay::error::ExitCode;
use serde_json::json;

use super::{ConfigFile, Output};
use crate::report::{Failure, Level, colour, headline, indent};

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
    /// Print the Kafka ACLs that the pipeline needs, and do nothing
    #[arg(long)]
    print_acls: bool,
}

impl Arguments {
    pub(super) fn wants_json(&self) -> bool {
        self.output == Output::Json
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.file.load()?.config;
        if self.print_acls {
            return super::print(check::print_acls(&config).as_bytes());
        }
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
    // An error without a code is an error all the same.
    let exits: Vec<ExitCode> =
        errors.map(|finding| finding.code.map_or(ExitCode::Negative, |code| code.exit())).collect();
    if exits.contains(&ExitCode::Unavailable) {
        return Err(Failure::Answered(ExitCode::Unavailable));
    }
    if exits.is_empty() { Ok(()) } else { Err(Failure::Answered(ExitCode::Negative)) }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Advice => "advice",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

/// Errors, warnings and advice with cause and fix; what is in order as a line each, if asked for.
fn table(findings: &[Finding], verbose: bool, painted: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let message = format!("{}: {}", finding.subject, finding.message);
        let level = match finding.severity {
            Severity::Error => Level::Error,
            Severity::Warning => Level::Warning,
            Severity::Advice => Level::Advice,
            Severity::Ok if verbose => {
                text.push_str(&format!("ok: {message}\n"));
                continue;
            }
            Severity::Ok => continue,
        };
        text.push_str(&headline(level, finding.code, &message, painted));
        text.extend(finding.cause.iter().map(|cause| format!("  cause: {}\n", indent(cause))));
        text.extend(finding.fix.iter().map(|fix| format!("  fix: {}\n", indent(fix))));
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    text.push_str(&format!(
        "{} errors, {} warnings, {} in order\n",
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Ok) + count(Severity::Advice)
    ));
    text
}

fn json(findings: &[Finding]) -> String {
    let list: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "severity": word(finding.severity),
                "code": finding.code.map(|code| code.to_string()),
                "subject": finding.subject,
                "message": finding.message,
                "cause": finding.cause,
                "fix": finding.fix,
            })
        })
        .collect();
    format!("{:#}\n", json!(list))
}

#[cfg(test)]
mod tests {
    use pillarbox_relay::error::Code;

    use super::*;

    fn finding(severity: Severity, code: Option<Code>) -> Finding {
        Finding {
            code,
            severity,
            subject: "slot \"s\"".to_owned(),
            message: "it is so".to_owned(),
            cause: None,
            fix: code.map(|_| "do this\nthen that".to_owned()),
        }
    }

    #[test]
    fn findings_in_words() {
        let findings = [
            finding(Severity::Ok, None),
            Finding { fix: Some("do less".to_owned()), ..finding(Severity::Advice, None) },
            finding(Severity::Warning, Some(Code::PgSetting)),
            finding(Severity::Error, Some(Code::SlotMissing)),
        ];
        assert_eq!(
            table(&findings, false, false),
            "advice: slot \"s\": it is so\n  fix: do less\n\
             warning[PB-1022]: slot \"s\": it is so\n  fix: do this\n        then that\n\
             error[PB-1013]: slot \"s\": it is so\n  fix: do this\n        then that\n\
             1 errors, 1 warnings, 2 in order\n"
        );
        assert!(table(&findings, true, false).starts_with("ok: slot \"s\": it is so\n"));
    }

    #[test]
    fn the_verdict_is_the_exit_code() {
        let exit = |findings: &[Finding]| verdict(findings).err().map(|failure| failure.exit());
        assert_eq!(exit(&[finding(Severity::Warning, Some(Code::SlotMissing))]), None);
        let halted = finding(Severity::Error, Some(Code::SlotMissing));
        assert_eq!(exit(std::slice::from_ref(&halted)), Some(ExitCode::Negative));
        let down = finding(Severity::Error, Some(Code::KafkaUnreachable));
        assert_eq!(exit(&[halted, down]), Some(ExitCode::Unavailable));
    }
}
