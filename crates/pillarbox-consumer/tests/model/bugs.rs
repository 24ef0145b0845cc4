//! Mistakes that consumers make, to be planted into the model.

use pillarbox_consumer::{FirstContact, Header, Mark, OnGap, Rules, State};

use crate::world::Row;

pub(crate) const STRICT: Rules = Rules { first_contact: FirstContact::One, on_gap: OnGap::Refuse };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// One watermark for the topic: what a slower partition still has to say is taken for old.
    OneRowForAllPartitions,
    /// `>=` in place of `>`.
    AcceptsEqual,
    /// The row is read without waiting for another owner.
    NoRowLock,
    /// Higher offsets are new: but what is sent again has new offsets too.
    OffsetDecides,
    /// The effect commits before the row.
    EffectFirst,
    /// The row commits before the effect.
    RowFirst,
    /// Only LSNs are compared, and they repeat after a failover.
    EpochIgnored,
    /// Any higher sequence is the next one.
    GapIgnored,
    /// Only sequences are compared, and another history has them too.
    PositionIgnored,
    /// Later events of a parked key are applied.
    KeyDoesNotWait,
    /// Any parked event can be replayed.
    ReplayOutOfOrder,
    /// The effect of a replay commits before the event is taken out.
    ReplayBeforeTakingOut,
    /// A parked event leaves the row where it was.
    ParkWithoutAccepting,
}

/// What an owner does with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Apply(State),
    Skip,
    Stop,
}

/// The decision of the crate.
pub(crate) fn decide(row: Row, header: &Header<'_>) -> Verdict {
    let mut state = row.state;
    match state.accept(header, STRICT) {
        Ok(decision) if decision.applies() => Verdict::Apply(state),
        Ok(_) => Verdict::Skip,
        Err(_) => Verdict::Stop,
    }
}

impl Bug {
    /// The mistaken decision; `None` where the decision is not the mistake.
    pub(crate) fn decide(self, row: Row, header: &Header<'_>, offset: usize) -> Option<Verdict> {
        let given = header.mark();
        let if_so = |applies: bool| if applies { Verdict::Apply(State::at(given)) } else { Verdict::Skip };
        let last = row.state.last();
        let compare = |newer: fn(Mark, Mark) -> bool| if_so(last.is_none_or(|last| newer(given, last)));
        match self {
            Bug::OneRowForAllPartitions | Bug::GapIgnored => {
                Some(compare(|given, last| given.position() > last.position()))
            }
            Bug::AcceptsEqual => (last == Some(given)).then(|| if_so(true)),
            Bug::OffsetDecides => Some(if_so(row.offset.is_none_or(|last| offset > last))),
            Bug::EpochIgnored => {
                Some(compare(|given, last| given.position().commit_lsn > last.position().commit_lsn))
            }
            Bug::PositionIgnored => {
                last.filter(|last| last.sequence().next() == given.sequence()).map(|_| if_so(true))
            }
            _ => None,
        }
    }
}
