//! What the comparison found: counts, and the first examples of each kind. Must never hold a key or a value.

use std::collections::BTreeMap;
use std::fmt;

/// Examples kept of each kind: enough to see a pattern, few enough to read.
pub const EXAMPLES_MAX: usize = 5;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// A committed event is in no record.
    Lost,
    /// A committed event is in a second record.
    Duplicated,
    /// A record holds an event that was rolled back.
    RolledBack,
    /// A record holds an event that nobody wrote.
    Unknown,
    /// A record stands after one that was committed or written later.
    Reordered,
    /// A sequence number was skipped.
    SequenceGap,
    /// A sequence number came again, or went back.
    SequenceRepeated,
    /// A position is not above the one before it in its partition.
    PositionBack,
    /// Positions do not follow the order of commits across partitions, or do not mark one transaction.
    PositionWrong,
    /// The record is in another topic than its event names.
    WrongTopic,
    /// The record is in another partition than its key names.
    WrongPartition,
    /// The key differs.
    WrongKey,
    /// The value differs.
    WrongValue,
    /// A record without id or position, or read out of offset order.
    Malformed,
}

/// The result of a comparison.
#[derive(Debug, Clone)]
pub struct Report {
    /// Committed source transactions.
    pub transactions: usize,
    /// Committed events.
    pub events: usize,
    /// Records read.
    pub observed: usize,
    findings: BTreeMap<Finding, (u64, Vec<String>)>,
}

impl Report {
    pub(super) fn new(transactions: usize, events: usize) -> Self {
        Self { transactions, events, observed: 0, findings: BTreeMap::new() }
    }

    /// Counts a fault, and keeps the example where it is one of the first.
    pub(super) fn add(&mut self, finding: Finding, example: impl FnOnce() -> String) {
        let (count, examples) = self.findings.entry(finding).or_default();
        *count += 1;
        if examples.len() < EXAMPLES_MAX {
            examples.push(example());
        }
    }

    /// True if nothing was found.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// How often this kind was found.
    pub fn count(&self, finding: Finding) -> u64 {
        self.findings.get(&finding).map_or(0, |(count, _)| *count)
    }

    /// The kinds that were found, with their counts.
    pub fn counts(&self) -> impl Iterator<Item = (Finding, u64)> {
        self.findings.iter().map(|(finding, (count, _))| (*finding, *count))
    }

    /// The first examples of a kind.
    pub fn examples(&self, finding: Finding) -> &[String] {
        self.findings.get(&finding).map_or(&[], |(_, examples)| examples)
    }

    /// Panics with the report unless it is clean: for tests.
    ///
    /// # Panics
    /// Where something was found.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.is_clean(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_clean() { "exactly once, in commit order" } else { "NOT as committed" };
        let Self { transactions, events, observed, .. } = self;
        write!(f, "{verdict}: {events} events of {transactions} transactions, {observed} records read")?;
        for (finding, (count, examples)) in &self.findings {
            write!(f, "\n  {finding:?}: {count}")?;
            for example in examples {
                write!(f, "\n    {example}")?;
            }
        }
        Ok(())
    }
}
