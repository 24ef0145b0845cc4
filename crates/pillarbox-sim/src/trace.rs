//! What happened, line by line, where somebody wants to read it; and a number that two runs of one seed must share.

use std::fmt;
use std::time::Duration;

/// A run's record.
#[derive(Debug)]
pub(crate) struct Trace {
    lines: Option<Vec<String>>,
    hash: u64,
}

impl Trace {
    pub(crate) fn new(kept: bool) -> Self {
        Self { lines: kept.then(Vec::new), hash: 0xcbf2_9ce4_8422_2325 }
    }

    /// A line, made only where lines are kept.
    pub(crate) fn line(&mut self, now: Duration, text: fmt::Arguments<'_>) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>12.6}  {text}", now.as_secs_f64()));
        }
    }

    /// Something that happened, as a number.
    pub(crate) fn note(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
