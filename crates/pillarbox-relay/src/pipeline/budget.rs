//! Where the reader's time goes: every moment of its loop belongs to one stage, summed up for each set that it hands over.
//!
//! For people only. Never read by a decision, and a look at the clock a stage, never one an event.

use std::time::{Duration, Instant};

/// What the reader does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing: it waits for WAL, for room, or pauses in a backlog.
    Wait,
    /// Receives from the socket.
    Read,
    /// Makes records of frames: decode, outbox, route, encode.
    Take,
    /// Ends batches (compression) and hands them to the sink, which wakes up and may take this core for its own work.
    Seal,
    /// Hears of commits, sends status updates.
    Attend,
}

impl Stage {
    /// All of them, in the order of [`Budget::take`].
    pub(crate) const ALL: [Self; 5] = [Self::Wait, Self::Read, Self::Take, Self::Seal, Self::Attend];

    /// As the metric calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Read => "read",
            Self::Take => "take",
            Self::Seal => "seal",
            Self::Attend => "attend",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Budget {
    at: Instant,
    spent: [Duration; Stage::ALL.len()],
}

impl Budget {
    pub(crate) fn start() -> Self {
        Self { at: Instant::now(), spent: Default::default() }
    }

    /// What has passed since the last call went to this stage.
    pub(crate) fn spent(&mut self, stage: Stage) {
        self.spent_until(stage, Instant::now());
    }

    fn spent_until(&mut self, stage: Stage, now: Instant) {
        self.spent[stage as usize] += now - self.at;
        self.at = now;
    }

    /// What each stage had since the last call, in the order of [`Stage::ALL`].
    pub(crate) fn take(&mut self) -> [Duration; Stage::ALL.len()] {
        std::mem::take(&mut self.spent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_goes_to_one_stage_and_once() {
        let mut budget = Budget::start();
        let begin = budget.at;
        let at = |micros| begin + Duration::from_micros(micros);
        budget.spent_until(Stage::Wait, at(5));
        budget.spent_until(Stage::Read, at(7));
        budget.spent_until(Stage::Seal, at(7));
        budget.spent_until(Stage::Wait, at(10));
        assert_eq!(budget.take().map(|spent| spent.as_micros()), [8, 2, 0, 0, 0]);
        budget.spent_until(Stage::Attend, at(11));
        assert_eq!(budget.take().map(|spent| spent.as_micros()), [0, 0, 0, 0, 1]);
    }

    #[test]
    fn stages_stand_where_they_are_listed() {
        for (place, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, place, "{stage:?}");
        }
    }
}
