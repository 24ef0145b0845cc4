//! What callgrind writes: own costs of functions and inclusive costs of calls, names compressed.
//!
//! ```text
//! fn=(7) name          the function that the next lines belong to; `(7)` alone from the second time on
//! 120 4                line, own cost
//! cfn=(9) name         calls this function:
//! calls=3 88           how often
//! 121 60               line, cost of those calls with all that they did
//! ```
//! Format: <https://valgrind.org/docs/manual/cl-format.html>. Must never take a line that it does not know for a cost.

use std::collections::HashMap;

use anyhow::{Context, ensure};

/// A function by its number in the file.
type Function = usize;

/// Counts of one run.
#[derive(Debug, Default)]
pub(super) struct Costs {
    events: u64,
    names: HashMap<Function, String>,
    own: HashMap<Function, u64>,
    calls: HashMap<(Function, Function), u64>,
}

impl Costs {
    /// Of a run that relayed `events`.
    pub(super) fn parse(text: &str, events: u64) -> anyhow::Result<Self> {
        ensure!(events > 0, "no event was relayed");
        let mut costs = Costs { events, ..Costs::default() };
        let (mut function, mut callee) = (0, None);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                function = costs.function(name)?;
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = Some(costs.function(name)?);
            } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
                let Some((_, cost)) = line.split_once(' ') else { continue };
                let cost: u64 = cost.trim().parse().with_context(|| format!("no cost: {line}"))?;
                match callee.take() {
                    Some(callee) => *costs.calls.entry((function, callee)).or_default() += cost,
                    None => *costs.own.entry(function).or_default() += cost,
                }
            }
        }
        Ok(costs)
    }

    /// `(7) name`, or `(7)` where the name is known.
    fn function(&mut self, text: &str) -> anyhow::Result<Function> {
        let number = text.strip_prefix('(').and_then(|text| text.split_once(')'));
        let (number, name) = number.with_context(|| format!("no function: {text}"))?;
        let number = number.parse().with_context(|| format!("no number: {text}"))?;
        if !name.is_empty() {
            self.names.insert(number, name.trim().to_owned());
        }
        Ok(number)
    }

    /// All that was counted.
    pub(super) fn total(&self) -> u64 {
        self.own.values().sum()
    }

    /// A cost divided by events, rounded.
    pub(super) fn an_event(&self, cost: u64) -> u64 {
        (cost + self.events / 2) / self.events
    }

    fn is(&self, function: Function, patterns: &[&str]) -> bool {
        let name = self.names.get(&function).map(String::as_str).unwrap_or_default();
        patterns.iter().any(|pattern| is_called(name, pattern))
    }

    /// What these functions cost with all that they call, without calls of those that `inside` names.
    pub(super) fn without(&self, functions: &[&str], inside: &[&str]) -> u64 {
        let mut cost = 0;
        for (function, own) in self.own.iter().filter(|(function, _)| self.is(**function, functions)) {
            cost += own + self.called_by(*function, inside);
        }
        cost
    }

    fn called_by(&self, function: Function, without: &[&str]) -> u64 {
        let calls = self.calls.iter().filter(|((caller, _), _)| *caller == function);
        calls.filter(|((_, callee), _)| !self.is(*callee, without)).map(|(_, cost)| cost).sum()
    }

    /// Functions by what they cost by themselves.
    pub(super) fn dearest(&self, count: usize) -> Vec<(&str, u64)> {
        let name = |function| self.names.get(function).map(String::as_str).unwrap_or("?");
        let mut functions: Vec<_> = self.own.iter().map(|(function, own)| (name(function), *own)).collect();
        functions.sort_by_key(|(name, own)| (std::cmp::Reverse(*own), *name));
        functions.truncate(count);
        functions
    }
}

/// Whether a name ends with the pattern, at the border of a word.
fn is_called(name: &str, pattern: &str) -> bool {
    name.strip_suffix(pattern).is_some_and(|before| before.is_empty() || before.ends_with("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# callgrind format
events: Ir
fl=(1) a.rs
fn=(1) stages::drain
10 5
cfn=(2) relay::Decoder::decode
calls=2 20
11 100
fn=(2)
20 60
fi=(2) inlined.rs
+3 20
fe=(1)
cfn=(3) memcpy
calls=2 0
* 20
fn=(3)
0 20
";

    #[test]
    fn own_costs_and_calls_are_told_apart() {
        let costs = Costs::parse(TEXT, 10).unwrap();
        assert_eq!(costs.total(), 105);
        assert_eq!(costs.without(&["Decoder::decode"], &[]), 100);
        assert_eq!(costs.without(&["Decoder::decode"], &["memcpy"]), 80);
        assert_eq!(costs.without(&["drain"], &["Decoder::decode"]), 5);
        assert_eq!(costs.without(&["coder::decode"], &[]), 0);
        assert_eq!(costs.dearest(1), [("relay::Decoder::decode", 80)]);
        assert_eq!(costs.an_event(105), 11);
    }

    #[test]
    fn a_run_without_events_is_an_error() {
        assert!(Costs::parse(TEXT, 0).is_err());
    }
}
