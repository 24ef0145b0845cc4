//! What can go wrong between us and a broker, with the object named: broker address, api, topic.
//!
//! An error never carries a payload, a key, a header value or a secret. A broker's free-text message is dropped
//! too: it may quote what was sent.

use std::fmt;
use std::io;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use pillarbox_tls::Failure;

/// A Kafka error code with its standard name (<https://kafka.apache.org/protocol#protocol_error_codes>).
///
/// Displays as `UNKNOWN_TOPIC_ID (100)`; a code this version has no name for as `UNKNOWN (4711)`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ErrorCode(pub i16);

macro_rules! error_codes {
    ($($name:ident = $code:literal),* $(,)?) => {
        #[expect(missing_docs, reason = "the names are Kafka's own")]
        impl ErrorCode {
            $(pub const $name: ErrorCode = ErrorCode($code);)*
        }

        impl ErrorCode {
            /// Kafka's name of this code, or `UNKNOWN`.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($code => stringify!($name),)*
                    _ => "UNKNOWN",
                }
            }
        }
    };
}

error_codes! {
    UNKNOWN_SERVER_ERROR = -1,
    NONE = 0,
    OFFSET_OUT_OF_RANGE = 1,
    CORRUPT_MESSAGE = 2,
    UNKNOWN_TOPIC_OR_PARTITION = 3,
    INVALID_FETCH_SIZE = 4,
    LEADER_NOT_AVAILABLE = 5,
    NOT_LEADER_OR_FOLLOWER = 6,
    REQUEST_TIMED_OUT = 7,
    BROKER_NOT_AVAILABLE = 8,
    REPLICA_NOT_AVAILABLE = 9,
    MESSAGE_TOO_LARGE = 10,
    STALE_CONTROLLER_EPOCH = 11,
    OFFSET_METADATA_TOO_LARGE = 12,
    NETWORK_EXCEPTION = 13,
    COORDINATOR_LOAD_IN_PROGRESS = 14,
    COORDINATOR_NOT_AVAILABLE = 15,
    NOT_COORDINATOR = 16,
    INVALID_TOPIC_EXCEPTION = 17,
    RECORD_LIST_TOO_LARGE = 18,
    NOT_ENOUGH_REPLICAS = 19,
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20,
    INVALID_REQUIRED_ACKS = 21,
    TOPIC_AUTHORIZATION_FAILED = 29,
    GROUP_AUTHORIZATION_FAILED = 30,
    CLUSTER_AUTHORIZATION_FAILED = 31,
    INVALID_TIMESTAMP = 32,
    UNSUPPORTED_SASL_MECHANISM = 33,
    ILLEGAL_SASL_STATE = 34,
    UNSUPPORTED_VERSION = 35,
    TOPIC_ALREADY_EXISTS = 36,
    INVALID_PARTITIONS = 37,
    INVALID_REPLICATION_FACTOR = 38,
    INVALID_REPLICA_ASSIGNMENT = 39,
    INVALID_CONFIG = 40,
    NOT_CONTROLLER = 41,
    INVALID_REQUEST = 42,
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43,
    POLICY_VIOLATION = 44,
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45,
    DUPLICATE_SEQUENCE_NUMBER = 46,
    INVALID_PRODUCER_EPOCH = 47,
    INVALID_TXN_STATE = 48,
    INVALID_PRODUCER_ID_MAPPING = 49,
    INVALID_TRANSACTION_TIMEOUT = 50,
    CONCURRENT_TRANSACTIONS = 51,
    TRANSACTION_COORDINATOR_FENCED = 52,
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53,
    SECURITY_DISABLED = 54,
    OPERATION_NOT_ATTEMPTED = 55,
    KAFKA_STORAGE_ERROR = 56,
    SASL_AUTHENTICATION_FAILED = 58,
    UNKNOWN_PRODUCER_ID = 59,
    REASSIGNMENT_IN_PROGRESS = 60,
    TOPIC_DELETION_DISABLED = 73,
    FENCED_LEADER_EPOCH = 74,
    UNKNOWN_LEADER_EPOCH = 75,
    UNSUPPORTED_COMPRESSION_TYPE = 76,
    OFFSET_NOT_AVAILABLE = 78,
    INVALID_RECORD = 87,
    UNSTABLE_OFFSET_COMMIT = 88,
    THROTTLING_QUOTA_EXCEEDED = 89,
    PRODUCER_FENCED = 90,
    UNKNOWN_TOPIC_ID = 100,
    INCONSISTENT_TOPIC_ID = 103,
    TRANSACTIONAL_ID_NOT_FOUND = 105,
    TRANSACTION_ABORTABLE = 120,
}

impl ErrorCode {
    /// The same request may succeed later without anybody acting.
    pub const fn is_retriable(self) -> bool {
        matches!(
            self,
            Self::UNKNOWN_TOPIC_OR_PARTITION
                | Self::LEADER_NOT_AVAILABLE
                | Self::NOT_LEADER_OR_FOLLOWER
                | Self::REQUEST_TIMED_OUT
                | Self::BROKER_NOT_AVAILABLE
                | Self::REPLICA_NOT_AVAILABLE
                | Self::NETWORK_EXCEPTION
                | Self::COORDINATOR_LOAD_IN_PROGRESS
                | Self::COORDINATOR_NOT_AVAILABLE
                | Self::NOT_COORDINATOR
                | Self::NOT_ENOUGH_REPLICAS
                | Self::NOT_ENOUGH_REPLICAS_AFTER_APPEND
                | Self::NOT_CONTROLLER
                | Self::CONCURRENT_TRANSACTIONS
                | Self::KAFKA_STORAGE_ERROR
                | Self::FENCED_LEADER_EPOCH
                | Self::UNKNOWN_LEADER_EPOCH
                | Self::OFFSET_NOT_AVAILABLE
                | Self::THROTTLING_QUOTA_EXCEEDED
                | Self::UNKNOWN_TOPIC_ID
                | Self::INCONSISTENT_TOPIC_ID
        )
    }

    /// An ACL is missing, or the connection is not authenticated.
    pub const fn is_authorization(self) -> bool {
        matches!(
            self,
            Self::TOPIC_AUTHORIZATION_FAILED
                | Self::GROUP_AUTHORIZATION_FAILED
                | Self::CLUSTER_AUTHORIZATION_FAILED
                | Self::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
                | Self::SASL_AUTHENTICATION_FAILED
        )
    }

    /// The partition's leader is elsewhere or not known yet: ask for metadata again.
    pub const fn is_stale_metadata(self) -> bool {
        matches!(
            self,
            Self::UNKNOWN_TOPIC_OR_PARTITION
                | Self::LEADER_NOT_AVAILABLE
                | Self::NOT_LEADER_OR_FOLLOWER
                | Self::REPLICA_NOT_AVAILABLE
                | Self::KAFKA_STORAGE_ERROR
                | Self::FENCED_LEADER_EPOCH
                | Self::UNKNOWN_LEADER_EPOCH
                | Self::UNKNOWN_TOPIC_ID
                | Self::INCONSISTENT_TOPIC_ID
        )
    }

    /// `Err` unless this is `NONE`; the object is the topic, id or broker the answer was about.
    pub(crate) fn check(self, api: ApiKey, object: impl FnOnce() -> String) -> Result<(), Error> {
        if self == Self::NONE {
            return Ok(());
        }
        Err(Error::Api { api, object: object(), code: self })
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Everything this crate returns as an error. `Clone`, because one dead connection fails every request on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address of a broker is not `host:port`.
    #[error("broker address `{address}` is not host:port")]
    BrokerAddress {
        /// As configured.
        address: String,
    },
    /// No TCP connection to this broker.
    #[error("cannot connect to broker {broker}: {kind}")]
    Connect {
        /// `host:port`.
        broker: String,
        /// What the operating system said.
        kind: io::ErrorKind,
    },
    /// TCP connect and handshake did not finish in time.
    #[error("no connection to broker {broker} within {after:?}")]
    ConnectTimeout {
        /// `host:port`.
        broker: String,
        /// The limit that passed.
        after: Duration,
    },
    /// The broker answered the plaintext handshake with something that is not Kafka, or not at all.
    #[error("broker {broker} does not speak plaintext Kafka on this port; it probably expects TLS or SASL")]
    TlsOrSaslExpected {
        /// `host:port`.
        broker: String,
    },
    /// The connection could not be secured.
    #[error("broker {broker}: {failure}")]
    Tls {
        /// `host:port`.
        broker: String,
        /// Why.
        failure: Failure,
    },
    /// The broker does not take this way to log in.
    #[error("broker {broker} does not take {mechanism}; it offers {}", if offered.is_empty() { "no login on this port" } else { offered })]
    SaslMechanism {
        /// `host:port`.
        broker: String,
        /// What we asked for.
        mechanism: &'static str,
        /// What it offers; empty if it takes no logins.
        offered: String,
    },
    /// The broker refused the login, or could not prove that it knows the password itself.
    #[error("broker {broker} refuses the login by {mechanism}")]
    Authentication {
        /// `host:port`.
        broker: String,
        /// How we tried.
        mechanism: &'static str,
    },
    /// The identity provider gave no token.
    #[error("no token from the identity provider: {why}")]
    Token {
        /// What went wrong, without what was sent or answered.
        why: String,
    },
    /// The connection broke before the answer arrived.
    #[error("connection to broker {broker} broke during {api:?}: {kind}")]
    Transport {
        /// `host:port`.
        broker: String,
        /// The request that waited.
        api: ApiKey,
        /// False only if no byte of the request can have reached the broker.
        possibly_sent: bool,
        /// What broke it.
        kind: io::ErrorKind,
    },
    /// No answer in time; the connection is closed, since answers come in order.
    #[error("broker {broker} did not answer {api:?} within {after:?}")]
    RequestTimeout {
        /// `host:port`.
        broker: String,
        /// The request that waited.
        api: ApiKey,
        /// The limit that passed.
        after: Duration,
    },
    /// A frame's length prefix is beyond the limit or negative.
    #[error("broker {broker} announced a frame of {bytes} bytes, the limit is {limit}")]
    FrameTooLarge {
        /// `host:port`.
        broker: String,
        /// As announced.
        bytes: i64,
        /// [`crate::connection::FRAME_BYTES_MAX`].
        limit: usize,
    },
    /// An answer that does not decode. The cause is a bug or a corrupted stream.
    #[error("broker {broker} sent a malformed answer to {api:?}")]
    Malformed {
        /// `host:port`.
        broker: String,
        /// The request it answers.
        api: ApiKey,
    },
    /// We could not encode a request (a value beyond what the protocol can carry).
    #[error("cannot encode {api:?} version {version}")]
    Encode {
        /// The request.
        api: ApiKey,
        /// The negotiated version.
        version: i16,
    },
    /// Broker and client share no version of this api.
    #[error("broker {broker} offers no version of {api:?} that this client speaks")]
    UnsupportedVersion {
        /// `host:port`.
        broker: String,
        /// The api.
        api: ApiKey,
    },
    /// The broker answered with an error code.
    #[error("{api:?} of `{object}`: {code}")]
    Api {
        /// The request.
        api: ApiKey,
        /// Topic, transactional id or broker the answer is about.
        object: String,
        /// Kafka's code.
        code: ErrorCode,
    },
    /// No leader is known for this partition.
    #[error("partition {partition} of topic `{topic}` has no leader")]
    NoLeader {
        /// Topic name.
        topic: String,
        /// Partition number.
        partition: i32,
    },
    /// No broker of the cluster could be reached; `last` is what the last attempt met.
    #[error("no broker of the cluster can be reached ({tried} tried); last: {last}")]
    NoBroker {
        /// Addresses tried.
        tried: usize,
        /// The last attempt's error.
        last: Box<Error>,
    },
    /// A record batch read back is not valid (CRC, lengths, unknown codec).
    #[error("corrupt record batch at offset {offset} of `{topic}`/{partition}: {what}")]
    CorruptBatch {
        /// Topic name.
        topic: String,
        /// Partition number.
        partition: i32,
        /// Base offset of the batch.
        offset: i64,
        /// Which check failed.
        what: &'static str,
    },
    /// A wait with a deadline ended without reaching its goal.
    #[error("{what} of `{topic}`/{partition} did not finish within {after:?}")]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// Topic name.
        topic: String,
        /// Partition number.
        partition: i32,
        /// The limit that passed.
        after: Duration,
    },
}

impl Error {
    /// The same call may succeed later without anybody acting.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Api { code, .. } => code.is_retriable(),
            Self::NoLeader { .. } | Self::Deadline { .. } => true,
            _ => self.is_unreachable(),
        }
    }

    /// No working connection to a broker: refused, broken, silent.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::ConnectTimeout { .. } => true,
            Self::Transport { .. } | Self::RequestTimeout { .. } => true,
            Self::NoBroker { last, .. } => last.is_unreachable(),
            _ => false,
        }
    }

    /// What answered on this address is not a broker that we can talk to; another address may be.
    pub(crate) fn is_foreign(&self) -> bool {
        matches!(self, Self::TlsOrSaslExpected { .. } | Self::BrokerAddress { .. } | Self::Tls { .. })
    }

    /// Credentials or ACLs are missing.
    pub fn is_authorization(&self) -> bool {
        match self {
            Self::Api { code, .. } => code.is_authorization(),
            _ => false,
        }
    }

    /// Whether the request may have had an effect on the broker although this error came back.
    pub fn possibly_sent(&self) -> bool {
        match self {
            Self::Transport { possibly_sent, .. } => *possibly_sent,
            Self::RequestTimeout { .. } | Self::Malformed { .. } | Self::FrameTooLarge { .. } => true,
            Self::Api { .. } => true,
            _ => false,
        }
    }

    /// Kafka's error code, if a broker answered with one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Api { code, .. } => Some(*code),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_display_with_their_standard_name() {
        assert_eq!(ErrorCode(100).to_string(), "UNKNOWN_TOPIC_ID (100)");
        assert_eq!(ErrorCode(-1).to_string(), "UNKNOWN_SERVER_ERROR (-1)");
        assert_eq!(ErrorCode(4711).to_string(), "UNKNOWN (4711)");
    }

    #[test]
    fn names_agree_with_the_codec() {
        use kafka_protocol::error::ResponseError;
        for code in -1..=150 {
            if code == 0 || ErrorCode(code).name() == "UNKNOWN" {
                continue;
            }
            let theirs = match ResponseError::try_from_code(code) {
                Some(ResponseError::Unknown(_)) | None => continue,
                Some(known) => format!("{known:?}"),
            };
            let ours = ErrorCode(code).name().replace('_', "").to_lowercase();
            assert_eq!(ours, theirs.to_lowercase(), "code {code}");
        }
    }
}
