//! The ratchet: what an event may cost, by shape, in `bench/instructions.toml`. It goes down by itself never, up never
//! without a commit that says why.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// What another compiler patch or another libc's memcpy may add, in percent.
const SLACK_PERCENT: u64 = 3;

const HEAD: &str = "\
# Instructions that the relay may spend on an event, kernel not counted; 3 % more fail `cargo xtask instructions`.
# Written by `cargo xtask instructions --record`. What is in it: docs/performance.md.
";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ratchet {
    recorded: BTreeMap<String, u64>,
}

/// How a count stands to the recorded one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// Beyond the slack.
    Worse { limit: u64 },
    /// So much better that the ratchet should follow.
    Better { recorded: u64 },
    /// Within the slack.
    Same,
}

impl Ratchet {
    pub(super) fn read(root: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path(root)).unwrap_or_default();
        Self::parse(&text)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut recorded = BTreeMap::new();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let (name, number) =
                line.split_once('=').with_context(|| format!("no `name = number`: {line}"))?;
            let number = number.trim().parse().with_context(|| format!("no number: {line}"))?;
            recorded.insert(name.trim().trim_matches('"').to_owned(), number);
        }
        Ok(Self { recorded })
    }

    /// A shape that is not recorded may cost nothing.
    pub(super) fn compare(&self, name: &str, count: u64) -> Compared {
        let recorded = self.recorded.get(name).copied().unwrap_or(0);
        let limit = recorded + recorded * SLACK_PERCENT / 100;
        if count > limit {
            Compared::Worse { limit }
        } else if count < recorded - recorded * SLACK_PERCENT / 100 {
            Compared::Better { recorded }
        } else {
            Compared::Same
        }
    }

    pub(super) fn set(&mut self, name: &str, count: u64) {
        self.recorded.insert(name.to_owned(), count);
    }

    pub(super) fn write(&self, root: &Path) -> anyhow::Result<()> {
        let lines = self.recorded.iter().map(|(name, count)| format!("\"{name}\" = {count}\n"));
        let text: String = std::iter::once(HEAD.to_owned()).chain(lines).collect();
        std::fs::write(path(root), text).context("cannot write bench/instructions.toml")
    }
}

fn path(root: &Path) -> PathBuf {
    root.join("bench/instructions.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_percent_are_the_slack() {
        let ratchet = Ratchet::parse("# comment\n\"10 rows\" = 1000\n").unwrap();
        for (count, expected) in [
            (1030, Compared::Same),
            (1031, Compared::Worse { limit: 1030 }),
            (970, Compared::Same),
            (969, Compared::Better { recorded: 1000 }),
        ] {
            assert_eq!(ratchet.compare("10 rows", count), expected, "{count}");
        }
        assert_eq!(ratchet.compare("another", 1), Compared::Worse { limit: 0 });
    }
}
