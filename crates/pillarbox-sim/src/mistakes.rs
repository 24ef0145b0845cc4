//! What a relay could do wrong, planted: the simulation must find each.

/// One departure from what the relay does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mistake {
    /// A set is confirmed when it is handed to the sink, not when it is committed.
    ConfirmedEarly,
    /// What the checkpoint covers is published again.
    NotFiltered,
    /// A transaction is ended once it is acknowledged, whatever became of those before it.
    EndsOutOfOrder,
    /// Older protocol: an id keeps its epoch for its next transaction.
    EpochKept,
    /// A start does not ask whether history was cut.
    LineageUnchecked,
    /// Sequences begin anew with every start.
    SequencesForgotten,
    /// A set is cut inside a source transaction, and its checkpoint does not say so.
    CutInside,
    /// Start goes on with the epochs it finds: nobody is fenced.
    NotFenced,
    /// The checkpoint is read before the predecessors are fenced, not after.
    ReadBeforeFencing,
    /// Nobody looks for lost markers before fencing.
    MarkersForgotten,
    /// What the database says of itself is asked before the slot is owned, not after.
    FactsBeforeSlot,
    /// A start takes the slot's position for that of its stream when the server has crashed meanwhile.
    SlotFellBack,
    /// A start halts by what the database said of itself a while ago.
    FactsNotRefreshed,
    /// The commit of a new lineage waits for a standby, while its stream does not.
    LineageWaits,
    /// A standby never ends a leader that is silent: it waits for the server to do so.
    StandbyWaits,
    /// Nothing is ever confirmed.
    NeverConfirms,
}
