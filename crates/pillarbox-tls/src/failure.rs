//! Why a connection could not be secured, by what repairs it.
//!
//! | kind | usually |
//! | --- | --- |
//! | `File` | a path is wrong, or a file is not what it should be |
//! | `Untrusted` | the authority that issued the certificate is not the configured one |
//! | `Name` | the certificate was issued for another host |
//! | `Expired` | the certificate's time is over, or has not begun |
//! | `Refused` | the server does not accept our certificate, or misses one |
//! | `NotTls` | the port speaks plaintext |
//! | `Closed` | the server hung up during the handshake |
//! | `Handshake` | no common version or cipher |
//!
//! Texts are those of the TLS library: they speak of certificates, names and times, never of keys.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A file with certificates or a key cannot be used.
    #[error("{path}: {why}")]
    File {
        /// Which.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// No authority that we trust has issued the server's certificate.
    #[error("the server's certificate is not trusted: {why}")]
    Untrusted {
        /// The library's reason.
        why: String,
    },
    /// The server's certificate is not for the host that we connect to.
    #[error("the server's certificate is for another host: {why}")]
    Name {
        /// The names there are.
        why: String,
    },
    /// The server's certificate is not valid now.
    #[error("the server's certificate is out of date: {why}")]
    Expired {
        /// Since when, or until when.
        why: String,
    },
    /// The server does not accept our certificate, or wants one.
    #[error("the server does not accept our certificate: {why}")]
    Refused {
        /// The server's alert.
        why: String,
    },
    /// What answers does not speak TLS.
    #[error("what answers does not speak TLS")]
    NotTls,
    /// The server hung up during the handshake.
    #[error("the server closed the connection during the TLS handshake")]
    Closed,
    /// The two sides have no way in common, or one broke the protocol.
    #[error("the TLS handshake failed: {why}")]
    Handshake {
        /// The library's reason.
        why: String,
    },
}

impl Failure {
    /// What an error of the TLS library means.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(reason) => certificate(reason),
            Error::InvalidMessage(_) => Self::NotTls,
            Error::AlertReceived(alert) if blames_our_certificate(*alert) => {
                Self::Refused { why: error.to_string() }
            }
            _ => Self::Handshake { why: error.to_string() },
        }
    }

    /// What an error of a secured stream means; none when it is only the network's.
    pub fn of_io(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Error>().map(Self::of)
    }

    /// As [`Self::of_io`], for an error during the handshake: there a server that hangs up says something, too.
    pub fn of_handshake(error: &io::Error) -> Option<Self> {
        Self::of_io(error).or_else(|| {
            let hung_up = matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            );
            hung_up.then_some(Self::Closed)
        })
    }
}

fn certificate(reason: &CertificateError) -> Failure {
    let why = reason.to_string();
    match reason {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Failure::Expired { why },
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Failure::Name { why }
        }
        _ => Failure::Untrusted { why },
    }
}

/// Alerts by which a server says that our certificate is missing or not good enough (RFC 8446, 6.2).
fn blames_our_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_of_the_kind_that_repairs_it() {
        let invalid = |reason| Failure::of(&Error::InvalidCertificate(reason));
        let alert = |alert| Failure::of(&Error::AlertReceived(alert));
        assert!(matches!(invalid(CertificateError::UnknownIssuer), Failure::Untrusted { .. }));
        assert!(matches!(invalid(CertificateError::Revoked), Failure::Untrusted { .. }));
        assert!(matches!(invalid(CertificateError::NotValidForName), Failure::Name { .. }));
        assert!(matches!(invalid(CertificateError::Expired), Failure::Expired { .. }));
        assert!(matches!(invalid(CertificateError::NotValidYet), Failure::Expired { .. }));
        assert!(matches!(alert(AlertDescription::CertificateRequired), Failure::Refused { .. }));
        assert!(matches!(alert(AlertDescription::ProtocolVersion), Failure::Handshake { .. }));
        let garbage = Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert_eq!(Failure::of(&garbage), Failure::NotTls);
    }

    #[test]
    fn the_network_is_no_failure_of_ours_except_in_a_handshake() {
        let eof = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(Failure::of_io(&eof), None);
        assert_eq!(Failure::of_handshake(&eof), Some(Failure::Closed));
        assert_eq!(Failure::of_handshake(&io::ErrorKind::TimedOut.into()), None);
        let wrapped =
            io::Error::new(io::ErrorKind::InvalidData, Error::InvalidCertificate(CertificateError::Expired));
        assert!(matches!(Failure::of_io(&wrapped), Some(Failure::Expired { .. })));
    }
}
