//! From settings to a socket: plaintext, or TLS after the server agreed to it.
//!
//! | way | the server answers S | the server answers N |
//! | --- | --- | --- |
//! | plaintext | (not asked) | (not asked) |
//! | TLS if offered | TLS | plaintext |
//! | TLS | TLS | an error |
//!
//! Whether another way is tried after an error is the caller's decision, by [`SourceError::another_way_may_help`].
//! Nothing that the server sent before the handshake is ever taken for an answer inside it: a single byte is read.

use std::time::Instant;

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use super::error::SourceError;
use super::socket::Socket;
use super::tls::TlsStream;
use crate::config::{self, Transport};

/// Connects to the server this way.
pub(super) fn connect(
    settings: &config::Postgres,
    way: Transport,
    deadline: Instant,
) -> Result<Socket, SourceError> {
    let mut socket = Socket::connect(settings, deadline)?;
    if way == Transport::Plaintext {
        return Ok(socket);
    }
    match (ask(&mut socket, deadline)?, way, socket) {
        (true, _, Socket::Tcp(stream)) => TlsStream::handshake(stream, settings, deadline)
            .map_err(SourceError::broken)?
            .map(|stream| Socket::Tls(Box::new(stream)))
            .map_err(SourceError::Tls),
        (false, Transport::TlsIfOffered, socket) => Ok(socket),
        _ => Err(SourceError::TlsNotOffered),
    }
}

/// True when the server at `settings` would speak TLS. Used to explain a refusal, never to connect.
pub(crate) fn offers_tls(settings: &config::Postgres, deadline: Instant) -> bool {
    Socket::connect(settings, deadline).and_then(|mut socket| ask(&mut socket, deadline)).unwrap_or(false)
}

/// Whether the server speaks TLS; then the next byte is the handshake's.
fn ask(socket: &mut Socket, deadline: Instant) -> Result<bool, SourceError> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request, deadline).map_err(SourceError::broken)?;
    let mut answer = [0];
    loop {
        if !socket.wait_readable(deadline).map_err(SourceError::broken)? {
            return Err(SourceError::TimedOut);
        }
        match (socket.read(&mut answer).map_err(SourceError::broken)?, answer) {
            (None, _) => {}
            (Some(0), _) => return Err(SourceError::Closed),
            (Some(_), [b'S']) => return Ok(true),
            (Some(_), [b'N']) => return Ok(false),
            (Some(_), _) => return Err(SourceError::NotPostgres),
        }
    }
}
