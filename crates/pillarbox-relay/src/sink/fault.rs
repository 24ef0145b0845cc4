//! How errors of the Kafka client look to a person: code, cause, hint.

use pillarbox_kafka::Error;

use crate::error::{Code, Fault};

/// The fault for an error of the Kafka client; `attempt` says what was attempted on which object.
pub fn kafka_fault(error: &Error, attempt: &str) -> Fault {
    let (code, hint) = match error {
        Error::TlsOrSaslExpected { .. } => (
            Code::KafkaTlsOrSasl,
            "this version speaks plaintext only: point kafka.brokers at a PLAINTEXT listener",
        ),
        _ if error.is_authorization() => (
            Code::KafkaAuthorization,
            "the relay needs Write and Describe on its transactional ids and topics, Read on its checkpoint topic, Create and DescribeConfigs",
        ),
        _ if error.is_unreachable() => (
            Code::KafkaUnreachable,
            "check kafka.brokers and that the brokers' advertised.listeners can be reached",
        ),
        _ => (Code::KafkaProtocol, "see the broker's log; the relay tries again"),
    };
    Fault::new(code, attempt).because(error).hint(hint)
}
