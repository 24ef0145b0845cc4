//! Logins to a broker: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 and OAUTHBEARER, as messages only.
//!
//! | mechanism | first | then |
//! | --- | --- | --- |
//! | PLAIN | name and password | done |
//! | SCRAM | name and nonce | proof, and the broker's own proof |
//! | OAUTHBEARER | a token | done, or an empty answer to the reason why not |
//!
//! SCRAM is our own: of the crates at hand none has SHA-512, which is what brokers are set up with. Only a token is
//! fetched over the network, by `oauth`. Must never show a secret: debug forms name the user and nothing else.

pub mod oauth;
mod scram;

use std::fmt;

pub use oauth::OAuth;
use oauth::TokenSource;
use scram::{Hash, Scram};

use crate::error::Error;

/// Name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub username: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login {{ username: {:?} }}", self.username)
    }
}

/// How to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sasl {
    /// The password itself: over TLS only.
    Plain(Login),
    /// A proof of the password.
    ScramSha256(Login),
    /// The same, with the larger hash.
    ScramSha512(Login),
    /// A token of an identity provider.
    OAuthBearer(OAuth),
}

impl Sasl {
    /// Kafka's name of the mechanism.
    pub fn mechanism(&self) -> &'static str {
        match self {
            Self::Plain(_) => "PLAIN",
            Self::ScramSha256(_) => "SCRAM-SHA-256",
            Self::ScramSha512(_) => "SCRAM-SHA-512",
            Self::OAuthBearer(_) => "OAUTHBEARER",
        }
    }

    /// Whoever listens to a plaintext connection can log in with what he hears.
    pub fn needs_tls(&self) -> bool {
        matches!(self, Self::Plain(_) | Self::OAuthBearer(_))
    }
}

/// What all connections of a cluster log in with; keeps the token.
pub(crate) struct Credentials {
    sasl: Sasl,
    tokens: Option<TokenSource>,
}

impl Credentials {
    pub(crate) fn new(sasl: Sasl) -> Self {
        let tokens = match &sasl {
            Sasl::OAuthBearer(oauth) => Some(TokenSource::new(oauth.clone())),
            Sasl::Plain(_) | Sasl::ScramSha256(_) | Sasl::ScramSha512(_) => None,
        };
        Self { sasl, tokens }
    }

    /// A new exchange; with a token that is good for a while.
    pub(crate) async fn begin(&self) -> Result<Exchange, Error> {
        let state = match (&self.sasl, &self.tokens) {
            (Sasl::Plain(login), _) => State::Plain(login.clone()),
            (Sasl::ScramSha256(login), _) => State::Scram(Box::new(Scram::new(Hash::Sha256, login))),
            (Sasl::ScramSha512(login), _) => State::Scram(Box::new(Scram::new(Hash::Sha512, login))),
            (Sasl::OAuthBearer(_), tokens) => {
                let tokens = tokens.as_ref().ok_or(Error::Token { why: "no source".to_owned() })?;
                State::Bearer(tokens.message().await?)
            }
        };
        Ok(Exchange { mechanism: self.sasl.mechanism(), state })
    }
}

/// A login under way.
pub(crate) struct Exchange {
    mechanism: &'static str,
    state: State,
}

enum State {
    Plain(Login),
    Scram(Box<Scram>),
    Bearer(Vec<u8>),
}

/// What an answer of the broker leads to.
pub(crate) enum Answered {
    /// Send this.
    Next(Vec<u8>),
    /// Logged in.
    Done,
    /// The broker could not prove that it knows the password, or makes no sense.
    Unproven,
}

impl Exchange {
    pub(crate) fn mechanism(&self) -> &'static str {
        self.mechanism
    }

    /// The first message.
    pub(crate) fn first(&self) -> Vec<u8> {
        match &self.state {
            State::Plain(login) => format!("\0{}\0{}", login.username, login.password).into_bytes(),
            State::Scram(scram) => scram.first(),
            State::Bearer(message) => message.clone(),
        }
    }

    /// Takes an answer that came without an error.
    pub(crate) fn answer(&mut self, bytes: &[u8]) -> Answered {
        match &mut self.state {
            State::Plain(_) => Answered::Done,
            State::Scram(scram) => scram.answer(bytes),
            // A reason why not: the broker refuses for good only after this one byte.
            State::Bearer(_) if !bytes.is_empty() => Answered::Next(vec![1]),
            State::Bearer(_) => Answered::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_debug_form_shows_a_secret() {
        let login = || Login { username: "relay".into(), password: "hunter2".into() };
        let oauth = OAuth {
            token_url: "https://id.example/token".into(),
            client_id: "relay".into(),
            client_secret: "hunter2".into(),
            scope: None,
            extensions: Vec::new(),
            tls: pillarbox_tls::Tls::default(),
        };
        for sasl in [
            Sasl::Plain(login()),
            Sasl::ScramSha256(login()),
            Sasl::ScramSha512(login()),
            Sasl::OAuthBearer(oauth),
        ] {
            let text = format!("{sasl:?}");
            assert!(text.contains("relay") && !text.contains("hunter2"), "{text}");
        }
    }
}
