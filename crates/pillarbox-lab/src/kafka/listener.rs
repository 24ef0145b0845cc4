//! A listener of a broker beside the lab's own plaintext one: TLS, logins, or both.
//!
//! Must never show a password or a key in its debug form.

use crate::secured::ServerTls;

/// Name and password of somebody who may log in.
#[derive(Clone)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password, without quotes and backslashes.
    pub password: String,
}

/// A listener.
#[derive(Clone)]
pub struct Listener {
    /// Its name: capital letters.
    pub name: String,
    /// What it shows to clients; without it, it is plaintext.
    pub tls: Option<ServerTls>,
    /// True if clients must show a certificate.
    pub demands_certificates: bool,
    /// Whom PLAIN admits; with anybody in it, or in the cluster's SCRAM users, logins are demanded.
    pub plain: Vec<User>,
    /// True if SCRAM and OAUTHBEARER (unsecured tokens, whatever they say) are taken, too.
    pub sasl: bool,
    /// Settings of this listener alone, e.g. `connections.max.reauth.ms`.
    pub settings: Vec<(String, String)>,
    /// Ports on 127.0.0.1 that clients are told, one a broker: of proxies in front of it. Without them, its own.
    pub advertised: Vec<u16>,
}

impl Listener {
    /// A plaintext one of this name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            tls: None,
            demands_certificates: false,
            plain: Vec::new(),
            sasl: false,
            settings: Vec::new(),
            advertised: Vec::new(),
        }
    }

    /// `NAME:PROTOCOL`.
    pub(super) fn protocol(&self) -> String {
        let protocol = match (&self.tls, self.sasl) {
            (None, false) => "PLAINTEXT",
            (None, true) => "SASL_PLAINTEXT",
            (Some(_), false) => "SSL",
            (Some(_), true) => "SASL_SSL",
        };
        format!("{}:{protocol}", self.name)
    }

    /// Its lines of server.properties.
    pub(super) fn properties(&self) -> Vec<(String, String)> {
        let mut own: Vec<(String, String)> = Vec::new();
        let mut add = |key: &str, value: String| own.push((key.to_owned(), value));
        if let Some(tls) = &self.tls {
            // In a properties file, a line of PEM ends with an escaped line feed.
            let escaped = |pem: &str| pem.trim().replace("\r\n", "\n").replace('\n', "\\n");
            add("ssl.keystore.type", "PEM".to_owned());
            add("ssl.keystore.certificate.chain", escaped(&tls.certificate));
            add("ssl.keystore.key", escaped(&tls.key));
            if let Some(clients) = &tls.clients {
                add("ssl.truststore.type", "PEM".to_owned());
                add("ssl.truststore.certificates", escaped(clients));
            }
            let auth = if self.demands_certificates { "required" } else { "none" };
            add("ssl.client.auth", auth.to_owned());
        }
        if self.sasl {
            let module = |path: &str, options: &str| {
                format!("org.apache.kafka.common.security.{path}LoginModule required{options};")
            };
            let users: String =
                self.plain.iter().map(|user| format!(" user_{}=\"{}\"", user.name, user.password)).collect();
            add("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER".to_owned());
            add("plain.sasl.jaas.config", module("plain.Plain", &users));
            for hash in ["256", "512"] {
                add(&format!("scram-sha-{hash}.sasl.jaas.config"), module("scram.Scram", ""));
            }
            let subject = " unsecuredLoginStringClaim_sub=\"broker\"";
            add("oauthbearer.sasl.jaas.config", module("oauthbearer.OAuthBearer", subject));
        }
        let prefix = format!("listener.name.{}", self.name.to_lowercase());
        let all = own.into_iter().chain(self.settings.iter().cloned());
        all.map(|(key, value)| (format!("{prefix}.{key}"), value)).collect()
    }
}
