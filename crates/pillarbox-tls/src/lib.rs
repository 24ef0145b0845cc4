//! TLS for both ends of the relay: whom a connection trusts, who it says it is, and why a handshake failed.
//!
//! ```text
//! Tls (paths, how much is verified) --client_config, at every connect--> rustls::ClientConfig
//! rustls::Error, io::Error          --failure-->                         Failure (one kind a repair)
//! ```
//! A crate of its own, because the clients of Postgres and of Kafka both need it and neither is below the other.
//!
//! Files are read at every connect: a certificate that was renewed is used by the next connection, without a restart.
//! Roots of the platform are read once, they are hundreds.
//!
//! It must never open a socket, and never show a key.

mod binding;
mod failure;
mod files;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;

pub use binding::server_end_point;
pub use failure::Failure;

/// How much of the server's certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Nothing: encrypted, but to whomever answers.
    Nothing,
    /// That a trusted authority issued it, for whatever name.
    Chain,
    /// That, and that it was issued for the host that we connect to.
    #[default]
    Full,
}

/// Whom a connection trusts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Roots {
    /// The authorities of the operating system.
    #[default]
    Platform,
    /// Those in this PEM file, and no other.
    File(PathBuf),
}

/// Who we are, for servers that ask: a chain and its key, PEM each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Our certificate, then the intermediate ones.
    pub certificate: PathBuf,
    /// Its key, without a passphrase.
    pub key: PathBuf,
}

/// How connections to one server are secured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// How much of the server's certificate is verified.
    pub verify: Verify,
    /// Whom we trust.
    pub roots: Roots,
    /// Who we are.
    pub identity: Option<Identity>,
}

impl Tls {
    /// What a TLS session is opened with; reads the files anew.
    ///
    /// # Errors
    /// [`Failure::File`] when one of them cannot be used.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, Failure> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = self.verifier(&provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::of(&error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(Identity { certificate, key }) => {
                let (chain, secret) = (files::certificates(certificate)?, files::key(key)?);
                let mismatch = |error: rustls::Error| {
                    files::unusable(certificate, format!("it does not fit {}: {error}", key.display()))
                };
                builder.with_client_auth_cert(chain, secret).map_err(mismatch)?
            }
        };
        Ok(Arc::new(config))
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, Failure> {
        if self.verify == Verify::Nothing {
            return Ok(Arc::new(verify::Nobody::new(provider)));
        }
        let (roots, place) = match &self.roots {
            Roots::Platform => (files::platform_roots(), PathBuf::from("the platform's certificates")),
            Roots::File(path) => (files::roots(path)?, path.clone()),
        };
        let authority = verify::authority(roots, provider).map_err(|why| files::unusable(&place, why))?;
        Ok(match self.verify {
            Verify::Full => authority,
            Verify::Chain | Verify::Nothing => Arc::new(verify::AnyName(authority)),
        })
    }
}

/// The name that a certificate must have been issued for: a DNS name or an IP address (without brackets).
///
/// # Errors
/// [`Failure::Name`] when no certificate can name it.
pub fn server_name(host: &str) -> Result<ServerName<'static>, Failure> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| Failure::Name { why: format!("`{host}` is neither a DNS name nor an IP address") })
}
