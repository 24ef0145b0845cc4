//! What a server that speaks TLS shows and whom it trusts, as PEM texts: for Postgres and for Kafka.
//!
//! Must never show a key in its debug form.

/// A server's certificate, its key, and the authority whose clients it accepts.
#[derive(Clone)]
pub struct ServerTls {
    /// The server's certificate chain.
    pub certificate: String,
    /// Its key (PKCS #8).
    pub key: String,
    /// The authority of client certificates.
    pub clients: Option<String>,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerTls")
    }
}
