//! `check`: looks at everything a pipeline depends on and says what is wrong, why it matters and
//! how to repair it.
//!
//! Reads only: no lock, no transactional id, no topic is touched, so that it may run beside the
//! relay at any time. Never a guess: what could not be looked at is not reported as well.

mod acls;
mod housekeeping;
mod kafka;
mod postgres;

pub use acls::print_acls;

use crate::config::Config;
use crate::error::{Code, Fault};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// As it should be, but there is something cheaper.
    Advice,
    /// The pipeline runs, but something can hurt it.
    Warning,
    /// The pipeline cannot run, or would halt.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of problem; none when there is none.
    pub code: Option<Code>,
    /// How bad it is.
    pub severity: Severity,
    /// The object: `slot "pillarbox_orders"`.
    pub subject: String,
    /// What was found.
    pub message: String,
    /// Why it is so, or why it matters.
    pub cause: Option<String>,
    /// The exact repair.
    pub fix: Option<String>,
}

impl Finding {
    fn ok(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: None,
            severity: Severity::Ok,
            subject: subject.into(),
            message: message.into(),
            cause: None,
            fix: None,
        }
    }

    fn advice(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Advice, ..Self::ok(subject, message) }
    }

    fn error(code: Code, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: Some(code), severity: Severity::Error, ..Self::ok(subject, message) }
    }

    fn warning(code: Code, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: Some(code), severity: Severity::Warning, ..Self::ok(subject, message) }
    }

    fn fault(subject: impl Into<String>, fault: Fault) -> Self {
        Self { cause: fault.cause, fix: fault.hint, ..Self::error(fault.code, subject, fault.message) }
    }

    fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// Looks at database and cluster, both at once.
pub async fn run(config: &Config) -> Vec<Finding> {
    let (mut findings, source) = postgres::look(config).await;
    // A server that cannot be asked was told of already.
    if source.is_some() {
        findings.extend(housekeeping::look(config).await);
    }
    let (more, checkpoint) = kafka::look(config).await;
    findings.extend(more);
    if let (Some(source), Some(checkpoint)) = (source, checkpoint) {
        // Under traffic all three move. The slot was read before the checkpoint, which is further, or will be in a moment;
        // what the checkpoint must not be ahead of is read again after it.
        findings.push(match postgres::now(config, source).await {
            Ok(source) => kafka::lineage(config, &source, checkpoint).await,
            Err(fault) => Finding::fault(postgres::server(config), fault),
        });
    }
    findings
}
