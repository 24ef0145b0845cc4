//! Who we are, told to the broker: after the handshake, and again before the broker's patience ends (KIP-368).
//!
//! ```text
//! SaslHandshake(mechanism) -> SaslAuthenticate(message) .. -> session, maybe with an end
//! ```
//! Runs inside the driver, which sends nothing else meanwhile: during a login the broker takes any other request for
//! a fault. Requests that were written before are answered first. A session is renewed when nine tenths of it have
//! passed; one that cannot be renewed ends the connection, and the next one says why.
//!
//! Must never log or return what was sent, nor what a broker says about it.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::driver::write_all;
use super::stream::ByteWriter;
use super::{Head, Pending, Shared, Versions, decode_answer};
use crate::error::{Error, ErrorCode};
use crate::protocol::Call;
use crate::sasl::{Answered, Credentials};

/// Shortest time between two logins on a connection: a broker that grants less would be asked without pause.
const RENEWAL_MIN: Duration = Duration::from_millis(100);

/// What a login needs of its connection.
pub(super) struct Login<'a> {
    pub(super) shared: &'a Shared,
    pub(super) versions: &'a Versions,
    pub(super) writer: &'a mut ByteWriter,
}

impl Login<'_> {
    /// Logs in within `limit`; when to do so again, if the broker sets an end.
    pub(super) async fn run(
        &mut self,
        credentials: &Credentials,
        limit: Duration,
    ) -> Result<Option<Instant>, Error> {
        let late = |_| Error::ConnectTimeout { broker: self.shared.broker.clone(), after: limit };
        let started = Instant::now();
        let login = tokio::time::timeout(limit, self.log_in(credentials)).await;
        let lifetime = login.unwrap_or_else(|elapsed| Err(late(elapsed)))?;
        Ok(lifetime.map(|lifetime| started + (lifetime / 10 * 9).max(RENEWAL_MIN)))
    }

    async fn log_in(&mut self, credentials: &Credentials) -> Result<Option<Duration>, Error> {
        let broker = self.shared.broker.clone();
        let mut exchange = credentials.begin().await?;
        let mechanism = exchange.mechanism();
        let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
        let answer = self.call(&request).await?;
        match ErrorCode(answer.error_code) {
            ErrorCode::NONE => {}
            // The second: a listener that takes no logins at all.
            ErrorCode::UNSUPPORTED_SASL_MECHANISM | ErrorCode::ILLEGAL_SASL_STATE => {
                let offered: Vec<&str> = answer.mechanisms.iter().map(|name| &**name).collect();
                return Err(Error::SaslMechanism { broker, mechanism, offered: offered.join(", ") });
            }
            code => return Err(Error::Api { api: SaslHandshakeRequest::API, object: broker, code }),
        }
        let refused = || Error::Authentication { broker: self.shared.broker.clone(), mechanism };
        let mut message = exchange.first();
        loop {
            let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(message));
            let answer = self.call(&request).await?;
            match ErrorCode(answer.error_code) {
                ErrorCode::NONE => {}
                ErrorCode::SASL_AUTHENTICATION_FAILED => return Err(refused()),
                code => return Err(Error::Api { api: SaslAuthenticateRequest::API, object: broker, code }),
            }
            match exchange.answer(&answer.auth_bytes) {
                Answered::Next(next) => message = next,
                Answered::Done => {
                    let lifetime = u64::try_from(answer.session_lifetime_ms).unwrap_or(0);
                    return Ok((lifetime > 0).then(|| Duration::from_millis(lifetime)));
                }
                Answered::Unproven => return Err(refused()),
            }
        }
    }

    /// One request, past the queue.
    async fn call<Q: Call>(&mut self, request: &Q) -> Result<Q::Answer, Error> {
        let broker = || self.shared.broker.clone();
        let version = self
            .versions
            .pick(Q::API, Q::VERSIONS)
            .ok_or_else(|| Error::UnsupportedVersion { broker: broker(), api: Q::API })?;
        let unsendable = || Error::Encode { api: Q::API, version };
        let mut body = BytesMut::new();
        request.encode(&mut body, version).map_err(|_| unsendable())?;
        let correlation = self.shared.next_correlation();
        let head = Head {
            api: Q::API,
            version,
            header_version: Q::header_version(version),
            correlation,
            client_id: &self.shared.client_id,
        };
        let head = head.encode(body.len()).ok_or_else(unsendable)?;
        let (sender, answer) = oneshot::channel();
        self.shared.pending().push_back(Pending { correlation, api: Q::API, answer: sender });
        let broken = |kind: io::ErrorKind| Error::Transport {
            broker: broker(),
            api: Q::API,
            possibly_sent: true,
            kind,
        };
        write_all(self.writer, &[head, body.freeze()]).await.map_err(|error| broken(error.kind()))?;
        let frame = answer.await.unwrap_or_else(|_| Err(broken(self.shared.death_kind())))?;
        decode_answer::<Q>(frame, version).ok_or_else(|| Error::Malformed { broker: broker(), api: Q::API })
    }
}
