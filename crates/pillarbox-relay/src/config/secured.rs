//! How the connections to Postgres are secured: libpq's `sslmode` and `channel_binding`, word for word.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use pillarbox_tls::{Identity, Roots, Tls, Verify};

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    /// Plaintext.
    Disable,
    /// Plaintext, and TLS where `pg_hba.conf` does not admit that.
    Allow,
    /// TLS where the server offers it, else plaintext: protects from listeners, not from impostors.
    #[default]
    Prefer,
    /// TLS, to whomever answers; with a `ca`, as `VerifyCa`.
    Require,
    /// TLS to a server whose certificate the `ca` issued.
    VerifyCa,
    /// TLS to the server that the host names.
    VerifyFull,
}

impl TlsMode {
    const WORDS: [(&str, TlsMode); 6] = [
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    /// What is verified when a file with authorities is configured, or none.
    fn verify(self, has_ca: bool) -> Verify {
        match self {
            Self::VerifyFull => Verify::Full,
            Self::VerifyCa => Verify::Chain,
            Self::Require if has_ca => Verify::Chain,
            Self::Require | Self::Disable | Self::Allow | Self::Prefer => Verify::Nothing,
        }
    }
}

impl FromStr for TlsMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::WORDS.iter().find(|(word, _)| *word == text);
        known
            .map(|(_, mode)| *mode)
            .ok_or_else(|| "expected disable, allow, prefer, require, verify-ca or verify-full".to_owned())
    }
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, mode)| mode == self).map_or("", |(word, _)| word);
        f.write_str(word)
    }
}

/// libpq's `channel_binding`: whether a login by SCRAM is bound to the server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where both sides can.
    #[default]
    Prefer,
    /// Always, or no login.
    Require,
}

impl FromStr for ChannelBinding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "disable" => Ok(Self::Disable),
            "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            _ => Err("expected disable, prefer or require".to_owned()),
        }
    }
}

/// How the connections to Postgres are secured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PostgresTls {
    /// When TLS is used.
    pub mode: TlsMode,
    /// Whom a TLS connection trusts and who we are.
    pub secured: Tls,
    /// Whether a login is bound to the connection.
    pub channel_binding: ChannelBinding,
}

/// A way to reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Plaintext.
    Plaintext,
    /// TLS, or plaintext where the server offers none.
    TlsIfOffered,
    /// TLS, or nothing.
    Tls,
}

impl PostgresTls {
    /// From what people write. Without `ca`, the platform's authorities are trusted.
    pub fn new(mode: TlsMode, ca: Option<PathBuf>, identity: Option<Identity>) -> Self {
        let verify = mode.verify(ca.is_some());
        let roots = ca.map_or(Roots::Platform, Roots::File);
        let secured = Tls { verify, roots, identity };
        Self { mode, secured, channel_binding: ChannelBinding::default() }
    }

    /// The ways to try, in this order. A Unix socket is never secured, as with libpq.
    pub fn transports(&self, host: &str) -> &'static [Transport] {
        match self.mode {
            _ if host.starts_with('/') => &[Transport::Plaintext],
            TlsMode::Disable => &[Transport::Plaintext],
            TlsMode::Allow => &[Transport::Plaintext, Transport::TlsIfOffered],
            TlsMode::Prefer => &[Transport::TlsIfOffered, Transport::Plaintext],
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => &[Transport::Tls],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_verify_what_libpq_verifies() {
        for (word, has_ca, verify) in [
            ("disable", true, Verify::Nothing),
            ("allow", true, Verify::Nothing),
            ("prefer", true, Verify::Nothing),
            ("require", false, Verify::Nothing),
            ("require", true, Verify::Chain),
            ("verify-ca", false, Verify::Chain),
            ("verify-full", false, Verify::Full),
        ] {
            let mode: TlsMode = word.parse().expect("a mode");
            assert_eq!(mode.to_string(), word);
            let tls = PostgresTls::new(mode, has_ca.then(|| PathBuf::from("ca.pem")), None);
            assert_eq!(tls.secured.verify, verify, "{word}, ca {has_ca}");
            assert_eq!(tls.transports("/run/pg"), [Transport::Plaintext]);
        }
        assert!("verify".parse::<TlsMode>().is_err());
    }

    #[test]
    fn only_the_modes_that_say_so_fall_back() {
        let ways = |mode| PostgresTls::new(mode, None, None).transports("db").to_vec();
        assert_eq!(ways(TlsMode::Disable), [Transport::Plaintext]);
        assert_eq!(ways(TlsMode::Allow), [Transport::Plaintext, Transport::TlsIfOffered]);
        assert_eq!(ways(TlsMode::Prefer), [Transport::TlsIfOffered, Transport::Plaintext]);
        for mode in [TlsMode::Require, TlsMode::VerifyCa, TlsMode::VerifyFull] {
            assert_eq!(ways(mode), [Transport::Tls]);
        }
    }
}
