//! The rule: what was applied last and what is given now decide what happens. Nothing else does.
//!
//! ```text
//! stored (p, s), given (P, S)       decision
//! nothing                           apply        FirstContact::One: only S = 1, else a gap
//! S <= s     and P <= p             duplicate
//! S == s + 1 and P >  p             apply
//! S >  s + 1 and P >  p             gap          OnGap::Warn: apply
//! anything else                     another history, or a corrupt one
//! ```
//!
//! A larger epoch is a larger position, so that a failover needs no rule of its own: events from before it are
//! duplicates, the first one after it is the next sequence. Must never look at offsets, ids or clocks.

use std::error::Error;
use std::fmt;

use pillarbox_wire::{Position, Sequence};

use crate::header::Header;

/// Position and sequence of one event. The sequence fits a `bigint`, 0 to 2^63 - 1; 0 is before the first event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    position: Position,
    sequence: Sequence,
}

impl Mark {
    /// `None` for a sequence above 2^63 - 1.
    #[must_use]
    pub const fn new(position: Position, sequence: Sequence) -> Option<Self> {
        if sequence.0 > i64::MAX as u64 { None } else { Some(Self { position, sequence }) }
    }

    /// Where the event stands in the history of the database.
    #[must_use]
    pub const fn position(self) -> Position {
        self.position
    }

    /// Its number in the partition.
    #[must_use]
    pub const fn sequence(self) -> Sequence {
        self.sequence
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.position, self.sequence)
    }
}

/// Which sequence is taken where nothing was applied yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FirstContact {
    /// Whatever comes: for a consumer that begins in the middle of a topic, or after its retention.
    #[default]
    Any,
    /// Only the first event there ever was: for a consumer that must have them all.
    One,
}

/// What becomes of an event before which others are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnGap {
    /// It is refused: the partition stops until somebody has decided.
    #[default]
    Refuse,
    /// It is applied, and the decision says what is missing: for compacted topics, where holes are ordinary.
    Warn,
}

/// How strict a consumer is. The default takes any first event and refuses every gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rules {
    /// The first event of a partition.
    pub first_contact: FirstContact,
    /// A gap.
    pub on_gap: OnGap,
}

/// What to do with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "an event must be applied if, and only if, the decision says so"]
pub enum Decision {
    /// Apply it.
    Apply,
    /// Apply it, and know that others are missing. Only where [`OnGap::Warn`] asks for it.
    ApplyDespiteGap(Gap),
    /// It was applied before: skip it, and go on.
    Duplicate,
}

impl Decision {
    /// True unless it is a duplicate.
    #[must_use]
    pub const fn applies(self) -> bool {
        !matches!(self, Decision::Duplicate)
    }
}

/// The sequences that are missing, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gap {
    /// The first missing sequence.
    pub first: Sequence,
    /// The last one.
    pub last: Sequence,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "sequence {}", self.first)
        } else {
            write!(f, "sequences {} to {}", self.first, self.last)
        }
    }
}

/// In which way an event contradicts what was applied last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Contradiction {
    /// A later event with a sequence that was used before: the topic was made anew, or the checkpoint restored.
    SequenceUsedBefore,
    /// A higher sequence from an epoch that had ended: a mirror, or a topic that joins two histories.
    EpochEnded,
    /// A higher sequence at an earlier position of the same epoch: a clone of the database that writes too.
    PositionWentBack,
}

/// Why an event may neither be applied nor skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Events before it are missing.
    Gap(Gap),
    /// It is not of the history that was applied so far.
    Foreign(Contradiction),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gap(gap) => return write!(f, "{gap} missing before the event"),
            Self::Foreign(Contradiction::SequenceUsedBefore) => {
                "another history: a later position comes with a sequence that was used before"
            }
            Self::Foreign(Contradiction::EpochEnded) => {
                "another history: a higher sequence comes from an epoch that had ended"
            }
            Self::Foreign(Contradiction::PositionWentBack) => {
                "another history: a higher sequence comes with an earlier position"
            }
        })
    }
}

impl Error for Refusal {}

/// What was applied last of one source, in one partition, by one consumer. One value is all there is to remember: 24
/// bytes and the flag whether there is any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    last: Option<Mark>,
}

impl State {
    /// Nothing was applied yet.
    pub const FRESH: State = State { last: None };

    /// `mark` was applied last.
    #[must_use]
    pub const fn at(mark: Mark) -> Self {
        State { last: Some(mark) }
    }

    /// What was applied last.
    #[must_use]
    pub const fn last(&self) -> Option<Mark> {
        self.last
    }

    /// Decides, and remembers the event if it applies. The state must be kept with the effect, in one transaction.
    ///
    /// The header has to be of the source, topic and partition that this state is of.
    ///
    /// # Errors
    /// [`Refusal`]; the state is then what it was.
    pub fn accept(&mut self, given: &Header<'_>, rules: Rules) -> Result<Decision, Refusal> {
        let decision = self.decide(given.mark(), rules)?;
        if decision.applies() {
            self.last = Some(given.mark());
        }
        Ok(decision)
    }

    fn decide(&self, given: Mark, rules: Rules) -> Result<Decision, Refusal> {
        let Some(last) = self.last else { return first_contact(given, rules) };
        match (given.sequence > last.sequence, given.position > last.position) {
            (false, false) => Ok(Decision::Duplicate),
            (true, true) => in_order(last.sequence.next(), given.sequence, rules),
            (false, true) => Err(Refusal::Foreign(Contradiction::SequenceUsedBefore)),
            (true, false) if given.position.epoch < last.position.epoch => {
                Err(Refusal::Foreign(Contradiction::EpochEnded))
            }
            (true, false) => Err(Refusal::Foreign(Contradiction::PositionWentBack)),
        }
    }
}

fn first_contact(given: Mark, rules: Rules) -> Result<Decision, Refusal> {
    match rules.first_contact {
        FirstContact::Any => Ok(Decision::Apply),
        FirstContact::One => in_order(Sequence(1), given.sequence, rules),
    }
}

/// `given` is `next` or beyond it.
fn in_order(next: Sequence, given: Sequence, rules: Rules) -> Result<Decision, Refusal> {
    if given == next {
        return Ok(Decision::Apply);
    }
    let gap = Gap { first: next, last: Sequence(given.0 - 1) };
    match rules.on_gap {
        OnGap::Refuse => Err(Refusal::Gap(gap)),
        OnGap::Warn => Ok(Decision::ApplyDespiteGap(gap)),
    }
}

/// Where to read on after `applied`, the highest offset that was applied: at the next one; `None` where nothing was.
///
/// Only a hint that saves reading: if it points too early, the rule skips; if too late, the rule finds a gap. So an offset
/// that is no longer there may be replaced by the earliest one (`auto.offset.reset=earliest`), never by the latest.
#[must_use]
pub const fn resume_offset(applied: Option<i64>) -> Option<i64> {
    match applied {
        Some(offset) => Some(offset.saturating_add(1)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENIENT: Rules = Rules { first_contact: FirstContact::Any, on_gap: OnGap::Refuse };
    const STRICT: Rules = Rules { first_contact: FirstContact::One, on_gap: OnGap::Refuse };
    const WARN: Rules = Rules { first_contact: FirstContact::One, on_gap: OnGap::Warn };
    const APPLY: Result<Decision, Refusal> = Ok(Decision::Apply);
    const DUPLICATE: Result<Decision, Refusal> = Ok(Decision::Duplicate);

    fn text(epoch: u32, lsn: u64, sequence: u64) -> String {
        format!("orders:{epoch:08x}{lsn:016x}00000000:{sequence}")
    }

    fn header(text: &str) -> Header<'_> {
        Header::parse(Some(text.as_bytes())).expect("well-formed")
    }

    fn gap(first: u64, last: u64) -> Gap {
        Gap { first: Sequence(first), last: Sequence(last) }
    }

    fn refused_gap(first: u64, last: u64) -> Result<Decision, Refusal> {
        Err(Refusal::Gap(gap(first, last)))
    }

    fn foreign(contradiction: Contradiction) -> Result<Decision, Refusal> {
        Err(Refusal::Foreign(contradiction))
    }

    /// Epoch 2, LSN 50, sequence 10 was applied last.
    #[test]
    fn every_row_of_the_rule() {
        for (epoch, lsn, sequence, expected) in [
            (2, 60, 11, APPLY),
            (3, 1, 11, APPLY),
            (2, 50, 10, DUPLICATE),
            (2, 40, 9, DUPLICATE),
            (1, 90, 9, DUPLICATE),
            (2, 40, 10, DUPLICATE),
            (2, 50, 9, DUPLICATE),
            (2, 60, 12, refused_gap(11, 11)),
            (3, 1, 20, refused_gap(11, 19)),
            (2, 60, 10, foreign(Contradiction::SequenceUsedBefore)),
            (3, 1, 1, foreign(Contradiction::SequenceUsedBefore)),
            (1, 90, 11, foreign(Contradiction::EpochEnded)),
            (1, 90, 15, foreign(Contradiction::EpochEnded)),
            (2, 50, 11, foreign(Contradiction::PositionWentBack)),
            (2, 40, 12, foreign(Contradiction::PositionWentBack)),
        ] {
            let last = header(&text(2, 50, 10)).mark();
            let given = text(epoch, lsn, sequence);
            let mut state = State::at(last);
            assert_eq!(state.accept(&header(&given), LENIENT), expected, "{given}");
            let now = if expected.is_ok_and(Decision::applies) { header(&given).mark() } else { last };
            assert_eq!(state.last(), Some(now), "{given}");
        }
    }

    #[test]
    fn first_contact() {
        for (sequence, rules, expected) in [
            (1, LENIENT, APPLY),
            (7, LENIENT, APPLY),
            (1, STRICT, APPLY),
            (7, STRICT, refused_gap(1, 6)),
            (7, WARN, Ok(Decision::ApplyDespiteGap(gap(1, 6)))),
        ] {
            let given = text(1, 5, sequence);
            let mut state = State::FRESH;
            assert_eq!(state.accept(&header(&given), rules), expected, "{sequence} {rules:?}");
            assert_eq!(state.last().is_some(), expected.is_ok(), "{sequence} {rules:?}");
        }
    }

    #[test]
    fn a_warning_replaces_a_gap_and_nothing_else() {
        let last = header(&text(2, 50, 10)).mark();
        for (given, expected) in [
            (text(2, 60, 13), Ok(Decision::ApplyDespiteGap(gap(11, 12)))),
            (text(2, 40, 13), foreign(Contradiction::PositionWentBack)),
            (text(2, 40, 9), DUPLICATE),
        ] {
            assert_eq!(State::at(last).accept(&header(&given), WARN), expected, "{given}");
        }
    }

    #[test]
    fn the_last_sequence_there_can_be() {
        let given = text(1, 6, i64::MAX as u64);
        let mut state = State::at(header(&text(1, 5, i64::MAX as u64 - 1)).mark());
        assert_eq!(state.accept(&header(&given), LENIENT), APPLY);
        assert_eq!(state.accept(&header(&given), LENIENT), DUPLICATE);
        assert_eq!(Mark::new(header(&given).position(), Sequence(i64::MAX as u64 + 1)), None);
    }

    #[test]
    fn reading_goes_on_behind_the_last_offset() {
        for (applied, expected) in [(None, None), (Some(0), Some(1)), (Some(i64::MAX), Some(i64::MAX))] {
            assert_eq!(resume_offset(applied), expected);
        }
    }

    proptest! {
        /// Whatever is read again, in whatever jumps back: each event applies once, in order.
        #[test]
        fn redelivery_changes_nothing(
            steps in prop::collection::vec((0_u32..2, 1_u64..9), 1..20),
            seeks in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut epoch = 1;
            let mut lsn = 100;
            let log: Vec<String> = steps.iter().zip(1..).map(|((failover, step), sequence)| {
                epoch += failover;
                // After a failover, LSNs repeat.
                lsn = if *failover == 1 { 50 } else { lsn + step };
                text(epoch, lsn, sequence)
            }).collect();
            let mut state = State::FRESH;
            let mut applied = Vec::new();
            for from in seeks.iter().map(|seek| seek.index(log.len())).chain([0]) {
                let from = from.min(applied.len());
                let to = if applied.len() == log.len() { log.len() } else { applied.len() + 1 };
                for event in &log[from..to.max(from)] {
                    if state.accept(&header(event), STRICT).expect("no gap").applies() {
                        applied.push(event.clone());
                    }
                }
            }
            for event in &log {
                if state.accept(&header(event), STRICT).expect("no gap").applies() {
                    applied.push(event.clone());
                }
            }
            prop_assert_eq!(applied, log);
        }
    }
}
