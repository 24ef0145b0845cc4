//! How each step is brought about. Must never leave a step out: the compiler sees to that.

use pillarbox_failpoint::Step;

use crate::harness::dice::Dice;

/// What makes a relay come to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Each start.
    Start,
    /// Events.
    Load,
    /// A broker that dies between deciding a transaction and writing its markers.
    Broker,
    /// Somebody, or another server, acts.
    Acted,
    /// An operator accepts a cut history.
    Accepted,
}

impl Way {
    /// Whether a relay comes there by itself.
    pub(crate) fn is_alone(self) -> bool {
        matches!(self, Self::Start | Self::Load)
    }
}

/// What makes a relay come to this step.
pub(crate) fn way(step: Step) -> Way {
    match step {
        Step::Connected
        | Step::SlotFree
        | Step::SlotOwned
        | Step::KafkaConnected
        | Step::CheckpointRead
        | Step::MarkersComplete
        | Step::InitSent
        | Step::InitAnswered
        | Step::CheckpointReadAgain
        | Step::Recovered
        | Step::LineageAdvanced => Way::Start,
        Step::Decoded
        | Step::Routed
        | Step::PartSealed
        | Step::SetHandedOver
        | Step::ProduceReady
        | Step::ProduceSent
        | Step::ProduceAnswered
        | Step::CheckpointReady
        | Step::CheckpointWritten
        | Step::EndTxnReady
        | Step::EndTxnSent
        | Step::EndTxnAnswered
        | Step::TableRewritten
        | Step::CommitKnown
        | Step::ConfirmReady
        | Step::Confirmed => Way::Load,
        Step::MarkerWritten => Way::Broker,
        Step::StandingBy
        | Step::LeaderEnded
        | Step::EpochCommitted
        | Step::TopicCreated
        | Step::LetterTaken
        | Step::OrderTaken
        | Step::RepinAsked
        | Step::RepinTaken
        | Step::PauseCommitted
        | Step::IdleSealed
        | Step::RowsDeleted
        | Step::DrainBegun
        | Step::Drained
        | Step::Ended => Way::Acted,
        Step::AcceptFenced | Step::AcceptCommitted => Way::Accepted,
    }
}

/// How often a life may come to this step before it ends there: so that it does within a second or so.
fn hits_max(step: Step) -> u64 {
    match step {
        // One for each transactional id that a pipeline owns.
        Step::InitSent | Step::InitAnswered => 8,
        Step::Decoded | Step::Routed => 1_500,
        Step::PartSealed | Step::CheckpointReady | Step::ConfirmReady | Step::Confirmed => 4,
        Step::SetHandedOver
        | Step::ProduceReady
        | Step::ProduceSent
        | Step::ProduceAnswered
        | Step::CheckpointWritten
        | Step::EndTxnReady
        | Step::EndTxnSent
        | Step::EndTxnAnswered
        | Step::CommitKnown => 30,
        _ => 1,
    }
}

/// Which time a life comes to the step is its last; early ones more often.
pub(crate) fn hit(step: Step, dice: &mut Dice) -> u64 {
    let most = 1 + dice.below(hits_max(step));
    1 + dice.below(most)
}
