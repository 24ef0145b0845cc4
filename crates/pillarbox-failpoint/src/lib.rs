//! Failpoints: the steps in the life of a relay at which a test may end the process, as `kill -9` would.
//!
//! ```text
//! connect -> own the slot -> read the checkpoint -> fence -> stream: decode -> route -> seal -> produce -> end
//!                                                              ^                                        |
//!                                                              +-------------- confirm <----------------+
//! ```
//! A place in the code says [`hit`]`(Step::..)`. Without the feature `armed`, which no default build has, that is an
//! empty function. With it, the environment chooses one step, one of the times it is reached, and possibly a
//! server that dies first:
//!
//! | variable | says |
//! | --- | --- |
//! | `PILLARBOX_FAILPOINT=end_txn_sent:3` | abort the third time that an EndTxn has been written to its socket |
//! | `PILLARBOX_FAILPOINT_VICTIM=4711` | kill that process (SIGKILL) just before |
//! | `PILLARBOX_FAILPOINT_DELAY=1500` | stand still for so many microseconds before all that |
//!
//! The list is an enum, so that a test can walk all of it and a misspelt step cannot exist; a name that is none ends
//! the process at its first step. [`hit`] gives nothing back: no decision can depend on it, hence pure code may
//! have steps too. It never returns an error, never unwinds, never runs a destructor.

#![forbid(unsafe_code)]

#[cfg(feature = "armed")]
mod armed;

/// Declares the steps with their names in the environment.
macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident = $name:literal,)*) => {
        /// A step in the life of a relay, in the order in which it lives.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Step {
            $($(#[$doc])* $step,)*
        }

        impl Step {
            /// All of them.
            pub const ALL: &'static [Step] = &[$(Step::$step,)*];

            /// What the environment calls it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Step::$step => $name,)*
                }
            }
        }
    };
}

steps! {
    /// A connection to Postgres is there, nothing was asked.
    Connected = "connected",
    /// The slot is used by another; each look at it.
    StandingBy = "standing_by",
    /// A leader that was silent for too long was ended.
    LeaderEnded = "leader_ended",
    /// The slot is free and what the lineage checks need is known.
    SlotFree = "slot_free",
    /// `START_REPLICATION` was answered: the slot is ours.
    SlotOwned = "slot_owned",
    /// Kafka answers.
    KafkaConnected = "kafka_connected",
    /// The checkpoint was read and judged, nobody is fenced.
    CheckpointRead = "checkpoint_read",
    /// A marker that brokers had lost was written.
    MarkerWritten = "marker_written",
    /// No transaction of a predecessor is ended only in part any more.
    MarkersComplete = "markers_complete",
    /// An InitProducerId left for its socket; eight in a start.
    InitSent = "init_sent",
    /// A transactional id is ours; eight in a start.
    InitAnswered = "init_answered",
    /// The checkpoint was read again, all predecessors are fenced.
    CheckpointReadAgain = "checkpoint_read_again",
    /// A new epoch was committed, no event uses it yet.
    EpochCommitted = "epoch_committed",
    /// Everything is known from which the stream goes on.
    Recovered = "recovered",
    /// The database has a new lineage nonce.
    LineageAdvanced = "lineage_advanced",
    /// A row or message was decoded.
    Decoded = "decoded",
    /// A topic was created, no event is in it.
    TopicCreated = "topic_created",
    /// An event was given its topic and partition.
    Routed = "routed",
    /// A row was refused, its letter is in the set.
    LetterTaken = "letter_taken",
    /// An order about a letter was carried out, its verdict is in the set.
    OrderTaken = "order_taken",
    /// A topic whose pin shall move is asked for anew.
    RepinAsked = "repin_asked",
    /// A pin was moved, the set has its record.
    RepinTaken = "repin_taken",
    /// A part of a large source transaction is complete.
    PartSealed = "part_sealed",
    /// Nothing was to be published for a while: a set is sealed that holds a position alone.
    IdleSealed = "idle_sealed",
    /// A sealed set goes to the sink.
    SetHandedOver = "set_handed_over",
    /// A transaction has its id, nothing was sent.
    ProduceReady = "produce_ready",
    /// A Produce left for its socket; several in a transaction.
    ProduceSent = "produce_sent",
    /// A Produce was answered.
    ProduceAnswered = "produce_answered",
    /// All events of a transaction are written, its checkpoint is not: it does not ride along with them.
    CheckpointReady = "checkpoint_ready",
    /// The checkpoint of a transaction is written.
    CheckpointWritten = "checkpoint_written",
    /// Everything is written, the end is not asked for.
    EndTxnReady = "end_txn_ready",
    /// An EndTxn left for its socket.
    EndTxnSent = "end_txn_sent",
    /// An EndTxn was answered with success.
    EndTxnAnswered = "end_txn_answered",
    /// A transaction is committed that rewrote the whole checkpoint table.
    TableRewritten = "table_rewritten",
    /// The sink knows that a set is committed, the reader does not.
    CommitKnown = "commit_known",
    /// A pause, or its end, is committed, and nobody was told.
    PauseCommitted = "pause_committed",
    /// There is a position to confirm.
    ConfirmReady = "confirm_ready",
    /// A position was confirmed to Postgres.
    Confirmed = "confirmed",
    /// Housekeeping deleted rows that were relayed.
    RowsDeleted = "rows_deleted",
    /// `lineage accept` has fenced all relays, nothing is decided.
    AcceptFenced = "accept_fenced",
    /// `lineage accept` has committed where to go on, nobody was told.
    AcceptCommitted = "accept_committed",
    /// The relay shall drain.
    DrainBegun = "drain_begun",
    /// All is committed, the last status was sent.
    Drained = "drained",
    /// The pipeline is over, the process is not.
    Ended = "ended",
}

/// The relay has come to this step. Does nothing, unless it was built with `armed` and the environment chose the step.
#[inline(always)]
pub fn hit(step: Step) {
    #[cfg(feature = "armed")]
    armed::hit(step);
    #[cfg(not(feature = "armed"))]
    let _ = step;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_those_of_the_steps() {
        let names: HashSet<&str> = Step::ALL.iter().map(|step| step.name()).collect();
        assert_eq!(names.len(), Step::ALL.len());
        for step in Step::ALL {
            assert_eq!(step.name().replace('_', ""), format!("{step:?}").to_lowercase());
        }
    }
}
