//! How errors of the Kafka client look to a person: code, cause, hint.

use pillarbox_kafka::Error;
use pillarbox_tls::Failure;

use crate::error::{Code, Fault};

/// The fault for an error of the Kafka client; `attempt` says what was attempted on which object.
pub fn kafka_fault(error: &Error, attempt: &str) -> Fault {
    let (code, hint) = match error {
        Error::NoBroker { last, .. } if !last.is_unreachable() => return kafka_fault(last, attempt),
        Error::TlsOrSaslExpected { .. } => (
            Code::KafkaTlsOrSasl,
            "set kafka.tls and kafka.sasl as the listener demands, or point kafka.brokers at another listener",
        ),
        Error::Tls { failure, .. } => tls(failure),
        Error::Authentication { .. } => (
            Code::KafkaAuthentication,
            "check kafka.sasl.username and password; `kafka-configs.sh --describe --entity-type users` lists SCRAM users",
        ),
        Error::SaslMechanism { .. } => {
            (Code::KafkaSaslMechanism, "set kafka.sasl.mechanism to one that the listener offers")
        }
        Error::Token { .. } => (
            Code::KafkaToken,
            "check kafka.sasl.token_url, client_id, client_secret and scope, and that the provider can be reached",
        ),
        _ if error.is_authorization() => (
            Code::KafkaAuthorization,
            "`pillarbox check --print-acls` prints the ACLs that this pipeline needs",
        ),
        _ if error.is_unreachable() => (
            Code::KafkaUnreachable,
            "check kafka.brokers and that the brokers' advertised.listeners can be reached",
        ),
        _ => (Code::KafkaProtocol, "see the broker's log; the relay tries again"),
    };
    Fault::new(code, attempt).because(error).hint(hint)
}

fn tls(failure: &Failure) -> (Code, &'static str) {
    match failure {
        Failure::File { .. } => (Code::ConfigValue, "check the paths in kafka.tls"),
        Failure::Untrusted { .. } => (
            Code::KafkaCertificateUntrusted,
            "set kafka.tls.ca to the certificate of the authority that issued the broker's",
        ),
        Failure::Name { .. } => (
            Code::KafkaCertificateName,
            "name brokers (and advertised.listeners) as their certificates do, or issue ones with these names as subjectAltName",
        ),
        Failure::Expired { .. } => {
            (Code::KafkaCertificateExpired, "renew the broker's certificate, or correct a clock")
        }
        Failure::Refused { .. } => (
            Code::KafkaClientCertificate,
            "set kafka.tls.cert and key to a certificate that the broker's ssl.truststore holds the authority of",
        ),
        Failure::NotTls | Failure::Closed => (
            Code::KafkaTlsNotOffered,
            "point kafka.brokers at an SSL or SASL_SSL listener, or remove kafka.tls where the network may carry plaintext",
        ),
        Failure::Handshake { .. } => {
            (Code::KafkaTlsFailed, "compare ssl.enabled.protocols: this program speaks TLS 1.2 and 1.3")
        }
    }
}
