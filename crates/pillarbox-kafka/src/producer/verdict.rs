//! What a broker's answer means for a transaction: the failure tables, as pure functions.
//!
//! They never decide when to act; that is the machine's part.

use kafka_protocol::messages::ApiKey;

use crate::error::{Error, ErrorCode};

/// What was answered last before we gave up; no code = no answer at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cause {
    /// The request.
    pub api: ApiKey,
    /// The broker's code, none if the connection broke or stayed silent.
    pub code: Option<ErrorCode>,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            Some(code) => write!(f, "{:?} answered {code}", self.api),
            None => write!(f, "{:?} had no answer", self.api),
        }
    }
}

/// Why the producer can go no further. The checkpoint decides which transactions were committed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum LostReason {
    /// Another owner took our transactional ids, or the coordinator fenced us after a timeout.
    #[error("fenced: another producer owns the transactional ids, or a transaction timed out")]
    Fenced,
    /// The coordinator ended the transaction without us.
    #[error("the transaction timed out on the coordinator")]
    TimedOut,
    /// A topic was deleted, or deleted and created again.
    #[error("topic `{name}` is gone or has another topic id")]
    TopicGone {
        /// Topic name.
        name: String,
    },
    /// A batch is larger than the topic allows: limits changed.
    #[error("topic `{topic}` refused a batch as too large")]
    TooLarge {
        /// Topic name.
        topic: String,
    },
    /// The topic refuses a record as it is (invalid record, timestamp, compression).
    #[error("topic `{topic}` refused a batch: {code}")]
    Rejected {
        /// Topic name.
        topic: String,
        /// Kafka's code.
        code: ErrorCode,
    },
    /// No commit succeeded within the limit; `last` is what was met last.
    #[error("no commit succeeded in time, last: {last}")]
    Unreachable {
        /// What was met last.
        last: Cause,
    },
    /// A connection broke while transactions were under way: the broker behind it may have died, and with it the
    /// markers of what it had already decided. Whoever goes on looks for them first ([`crate::markers`]).
    #[error("{cause}: a broker may have died with transactions under way")]
    Disconnected {
        /// What was under way.
        cause: Cause,
    },
    /// An ACL is missing.
    #[error("not authorized for `{object}`: {code}")]
    Authorization {
        /// Topic or transactional id.
        object: String,
        /// Kafka's code.
        code: ErrorCode,
    },
    /// An answer that proves neither a commit nor an abort.
    #[error("{cause}, which proves nothing about the transaction")]
    Undecidable {
        /// What was answered.
        cause: Cause,
    },
}

impl LostReason {
    /// Nothing may be aborted or committed any more, not even the earlier transactions: our identity is void, or
    /// going on could hide what became of the transactions before.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Fenced | Self::TimedOut | Self::Undecidable { .. } | Self::Disconnected { .. })
    }
}

/// What a failed Produce means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Abort and produce again.
    Replay {
        /// What was answered.
        cause: Cause,
        /// Pause even before the first replay.
        slow: bool,
    },
    /// Abort and hand back.
    Lose(LostReason),
}

impl Verdict {
    /// Of two verdicts on one transaction, a loss outweighs a replay and the final loss any other.
    pub(crate) fn worse(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Lose(reason), _) if reason.is_final() => self,
            (_, Self::Lose(reason)) if reason.is_final() => other,
            (Self::Lose(_), _) => self,
            (_, Self::Lose(_)) => other,
            _ => self,
        }
    }

    /// The produce table, for a code other than `NONE`.
    pub fn of_produce(code: ErrorCode, topic: &str) -> Self {
        let topic = || topic.to_owned();
        let cause = Cause { api: ApiKey::Produce, code: Some(code) };
        match code {
            ErrorCode::INVALID_PRODUCER_EPOCH | ErrorCode::PRODUCER_FENCED => Self::Lose(LostReason::Fenced),
            ErrorCode::INVALID_TXN_STATE => Self::Lose(LostReason::TimedOut),
            ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE => {
                Self::Lose(LostReason::TooLarge { topic: topic() })
            }
            ErrorCode::INVALID_RECORD
            | ErrorCode::INVALID_TIMESTAMP
            | ErrorCode::UNSUPPORTED_COMPRESSION_TYPE
            | ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT
            | ErrorCode::POLICY_VIOLATION => Self::Lose(LostReason::Rejected { topic: topic(), code }),
            code if code.is_authorization() => {
                Self::Lose(LostReason::Authorization { object: topic(), code })
            }
            // Its checksum did not fit when it arrived: altered on its way.
            ErrorCode::CORRUPT_MESSAGE
            | ErrorCode::NOT_ENOUGH_REPLICAS
            | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND
            | ErrorCode::REQUEST_TIMED_OUT
            | ErrorCode::LEADER_NOT_AVAILABLE => Self::Replay { cause, slow: true },
            // An abort with a new epoch clears whatever the sequence check or the coordinator minded.
            ErrorCode::TRANSACTION_ABORTABLE
            | ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
            | ErrorCode::DUPLICATE_SEQUENCE_NUMBER
            | ErrorCode::UNKNOWN_PRODUCER_ID => Self::Replay { cause, slow: false },
            code if code.is_retriable() => Self::Replay { cause, slow: false },
            _ => Self::Lose(LostReason::Undecidable { cause }),
        }
    }

    /// A Produce, or what had to precede it, without an answer.
    pub fn of_error(error: &Error) -> Self {
        match error {
            Error::Api { code, object, .. } => Self::of_produce(*code, object),
            Error::UnsupportedVersion { api, .. } | Error::Encode { api, .. } => {
                let cause = Cause { api: *api, code: Some(ErrorCode::UNSUPPORTED_VERSION) };
                Self::Lose(LostReason::Undecidable { cause })
            }
            _ => Self::Lose(LostReason::Disconnected { cause: Cause { api: ApiKey::Produce, code: None } }),
        }
    }
}

/// Why EndTxn or InitProducerId did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The coordinator answered with a code.
    Answered {
        /// Which.
        code: ErrorCode,
        /// The transactional id.
        object: String,
    },
    /// No answer: it may or may not have been carried out.
    NoAnswer,
}

impl Failure {
    pub(crate) fn of(error: Error) -> Self {
        match error {
            Error::Api { code, object, .. } => Self::Answered { code, object },
            Error::UnsupportedVersion { broker, .. } => {
                Self::Answered { code: ErrorCode::UNSUPPORTED_VERSION, object: broker }
            }
            _ => Self::NoAnswer,
        }
    }

    pub(crate) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Answered { code, .. } => Some(*code),
            Self::NoAnswer => None,
        }
    }

    /// The coordinator table for answers; none = repeat the same request.
    pub(crate) fn coordinator_loss(&self, api: ApiKey) -> Option<LostReason> {
        let Self::Answered { code, object } = self else { return None };
        let cause = Cause { api, code: Some(*code) };
        match *code {
            ErrorCode::CONCURRENT_TRANSACTIONS
            | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
            | ErrorCode::COORDINATOR_NOT_AVAILABLE
            | ErrorCode::NOT_COORDINATOR
            | ErrorCode::BROKER_NOT_AVAILABLE => None,
            ErrorCode::INVALID_PRODUCER_EPOCH | ErrorCode::PRODUCER_FENCED => Some(LostReason::Fenced),
            ErrorCode::INVALID_TXN_STATE => Some(LostReason::TimedOut),
            code if code.is_authorization() => {
                Some(LostReason::Authorization { object: object.clone(), code })
            }
            _ => Some(LostReason::Undecidable { cause }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(code: ErrorCode, slow: bool) -> Verdict {
        Verdict::Replay { cause: Cause { api: ApiKey::Produce, code: Some(code) }, slow }
    }

    #[test]
    fn produce_table() {
        let topic = || "orders".to_owned();
        let undecidable =
            |code| LostReason::Undecidable { cause: Cause { api: ApiKey::Produce, code: Some(code) } };
        let lose = |code: i16| match Verdict::of_produce(ErrorCode(code), "orders") {
            Verdict::Lose(reason) => reason,
            other => panic!("{code}: {other:?}"),
        };
        for code in [47, 90] {
            assert_eq!(lose(code), LostReason::Fenced);
        }
        assert_eq!(lose(48), LostReason::TimedOut);
        for code in [10, 18] {
            assert_eq!(lose(code), LostReason::TooLarge { topic: topic() });
        }
        for code in [32, 76, 87] {
            assert_eq!(lose(code), LostReason::Rejected { topic: topic(), code: ErrorCode(code) });
        }
        for code in [29, 31, 53] {
            assert_eq!(lose(code), LostReason::Authorization { object: topic(), code: ErrorCode(code) });
        }
        for code in [-1, 49, 4711] {
            assert_eq!(lose(code), undecidable(ErrorCode(code)));
        }
        for (code, slow) in
            [(3, false), (6, false), (51, false), (56, false), (74, false), (100, false), (103, false)]
                .into_iter()
                .chain([
                    (2, true),
                    (120, false),
                    (45, false),
                    (59, false),
                    (5, true),
                    (7, true),
                    (19, true),
                    (20, true),
                ])
        {
            assert_eq!(Verdict::of_produce(ErrorCode(code), "orders"), replay(ErrorCode(code), slow));
        }
    }

    #[test]
    fn coordinator_table() {
        let loss = |code: i16| {
            let failure = Failure::Answered { code: ErrorCode(code), object: "id".to_owned() };
            failure.coordinator_loss(ApiKey::EndTxn)
        };
        for code in [51, 14, 15, 16] {
            assert_eq!(loss(code), None, "{code} is repeated");
        }
        assert_eq!(Failure::NoAnswer.coordinator_loss(ApiKey::EndTxn), None);
        assert_eq!(loss(47), Some(LostReason::Fenced));
        assert_eq!(loss(90), Some(LostReason::Fenced));
        assert_eq!(loss(48), Some(LostReason::TimedOut));
        assert!(matches!(loss(53), Some(LostReason::Authorization { .. })));
        for code in [49, 120, -1] {
            assert!(matches!(loss(code), Some(LostReason::Undecidable { .. })), "{code}");
        }
    }

    #[test]
    fn the_worse_verdict_wins_in_either_order() {
        let again = replay(ErrorCode(6), false);
        let large = Verdict::Lose(LostReason::TooLarge { topic: "t".to_owned() });
        let fenced = Verdict::Lose(LostReason::Fenced);
        for (a, b, worse) in
            [(&again, &large, &large), (&large, &fenced, &fenced), (&again, &fenced, &fenced)]
        {
            assert_eq!(&a.clone().worse(b.clone()), worse);
            assert_eq!(&b.clone().worse(a.clone()), worse);
        }
    }
}
