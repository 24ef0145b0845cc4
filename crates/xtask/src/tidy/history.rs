//! Rules about commits: the subject says where and what, and fits into one line of a log.
//!
//! Must never look further back than a contributor can still change without rewriting shared history.

use super::Finding;
use crate::tree;

/// How many commits are looked at.
const COMMITS: usize = 20;
/// The longest subject, in characters: fits beside a hash and a graph in 80 columns.
const SUBJECT_MAX: usize = 60;

/// Hash and subject of the newest commits, merges left out.
pub(super) fn subjects() -> anyhow::Result<Vec<(String, String)>> {
    let mut git = tree::command("git");
    git.args(["log", "--no-merges", "--format=%h %s", &format!("-{COMMITS}")]);
    let log = tree::output(&mut git)?;
    let split =
        |line: &str| line.split_once(' ').map(|(hash, subject)| (hash.to_owned(), subject.to_owned()));
    Ok(log.lines().filter_map(split).collect())
}

pub(super) fn check(subjects: &[(String, String)]) -> Vec<Finding> {
    let problem = |(hash, subject): &(String, String)| {
        let length = subject.chars().count();
        let message = match subject.split_once(": ") {
            _ if length > SUBJECT_MAX => format!("subject has {length} characters, at most {SUBJECT_MAX}"),
            Some((area, _)) if !area.is_empty() && !area.contains(' ') => return None,
            _ => "subject reads `area: what it does`".into(),
        };
        Some(Finding::new(&format!("commit {hash}"), 0, message))
    };
    subjects.iter().filter_map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_too_long_or_without_area_is_found() {
        let long = format!("wire: {}", "x".repeat(SUBJECT_MAX - 5));
        for subject in [long.as_str(), "Fix the thing", "fix the thing: again", ": nothing"] {
            assert_eq!(check(&[("abc".into(), subject.into())]).len(), 1, "{subject}");
        }
        let fits = format!("wire: {}", "x".repeat(SUBJECT_MAX - 6));
        assert!(check(&[("abc".into(), fits), ("def".into(), "relay/sink: say why".into())]).is_empty());
    }
}
