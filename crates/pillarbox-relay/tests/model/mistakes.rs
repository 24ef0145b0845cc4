//! What a relay could do wrong, planted: the model must find each.

/// One departure from what the relay does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mistake {
    /// Older protocol: an id keeps its epoch for its next transaction.
    EpochKept,
    /// Start goes on with the epochs it finds instead of raising them, so that nobody is fenced.
    NotFenced,
    /// The checkpoint is read before the predecessors are fenced, not after.
    ReadBeforeFencing,
    /// Nothing but the slot says what was published.
    CheckpointInSlot,
    /// A set is confirmed when its commit is asked for, not when it is answered.
    ConfirmedEarly,
    /// A transaction is ended once it is acknowledged, whatever became of those before it.
    EndsOutOfOrder,
    /// What the checkpoint covers is published again.
    NotFiltered,
}
