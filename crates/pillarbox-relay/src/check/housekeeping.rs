//! The tables that are kept small: whether they can be, and for how long writers have partitions.

use super::Finding;
use crate::config::{Config, Housekeeping, Partitions};
use crate::error::Code;
use crate::housekeeping::{Outlook, look_ahead};

pub(super) async fn look(config: &Config) -> Vec<Finding> {
    match look_ahead(config).await {
        Ok(outlooks) => outlooks
            .into_iter()
            .map(|(table, outlook)| {
                let subject = format!("housekeeping of {table}");
                match outlook {
                    Ok(outlook) => judge(subject, &outlook),
                    Err(fault) => Finding::fault(subject, fault),
                }
            })
            .collect(),
        Err(fault) => vec![Finding::fault("housekeeping", fault)],
    }
}

fn judge(subject: String, outlook: &Outlook) -> Finding {
    match &outlook.how {
        Housekeeping::Partitions(wanted) => judge_ahead(subject, wanted, outlook.covered_seconds),
        Housekeeping::None | Housekeeping::Delete(_) => {
            Finding::ok(subject, "relayed rows are deleted while a relay streams")
        }
    }
}

/// With less than half of what is wanted nobody has made partitions for a while.
fn judge_ahead(subject: String, wanted: &Partitions, covered_seconds: u64) -> Finding {
    let wanted = wanted.interval.as_secs().saturating_mul(wanted.ahead.into());
    let message = format!("partitions for new rows reach {covered_seconds} s ahead");
    if covered_seconds >= wanted / 2 {
        return Finding::ok(subject, message);
    }
    Finding::warning(Code::HousekeepingUnfit, subject, message)
        .because("a running relay makes them, in any state; writers fail when there is none for their row")
        .fix("start a relay: pillarbox run; see its status for what keeps it from making partitions")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Severity;

    #[test]
    fn partitions_that_run_out_are_a_warning() {
        let wanted = Partitions::default();
        for (days, severity) in
            [(7, Severity::Ok), (4, Severity::Ok), (3, Severity::Warning), (0, Severity::Warning)]
        {
            let finding = judge_ahead("t".to_owned(), &wanted, days * 86_400);
            assert_eq!(finding.severity, severity, "{days}");
        }
    }
}
