//! Request and answer over a socket, message by message, before a stream begins.
//!
//! Every wait has the caller's deadline. Must never interpret what it carries.

use std::io;
use std::time::Instant;

use super::error::SourceError;
use super::frames::Frames;
use super::link::Link;
use super::link::Stream;
use super::socket::Socket;

/// A socket and the bytes received from it.
#[derive(Debug)]
pub(super) struct Channel {
    socket: Socket,
    frames: Frames,
}

/// A whole backend message.
pub(super) struct Answer<'a> {
    pub(super) tag: u8,
    pub(super) body: &'a [u8],
}

/// What a login over a connection can be bound to.
pub(super) enum Binding {
    /// There is no TLS.
    Plaintext,
    /// The server's certificate has no hash of its own.
    None,
    /// The hash of the server's certificate.
    EndPoint(Vec<u8>),
}

impl Channel {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, frames: Frames::new() }
    }

    pub(super) fn send(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), SourceError> {
        self.socket.write_all(bytes, deadline).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => SourceError::TimedOut,
            _ => SourceError::broken(error),
        })
    }

    /// The next message, whole. A server that talks without end does not put the deadline off.
    pub(super) fn receive(&mut self, deadline: Instant) -> Result<Answer<'_>, SourceError> {
        let message = loop {
            if let Some(message) = self.frames.buffer().take()? {
                break message;
            }
            if Instant::now() >= deadline {
                return Err(SourceError::TimedOut);
            }
            self.fill(deadline)?;
        };
        Ok(Answer { tag: message.tag, body: self.frames.buffer().get(message.body) })
    }

    fn fill(&mut self, deadline: Instant) -> Result<(), SourceError> {
        if !self.socket.wait_readable(deadline).map_err(SourceError::broken)? {
            return Err(SourceError::TimedOut);
        }
        let buffer = self.frames.buffer();
        match self.socket.read(buffer.room()).map_err(SourceError::broken)? {
            None => Ok(()),
            Some(0) => Err(SourceError::Closed),
            Some(bytes) => {
                buffer.received(bytes);
                Ok(())
            }
        }
    }

    /// What a login can be bound to; none without TLS.
    pub(super) fn binding(&self) -> Binding {
        match &self.socket {
            Socket::Tls(stream) => stream.binding().map_or(Binding::None, Binding::EndPoint),
            Socket::Tcp(_) | Socket::Unix(_) => Binding::Plaintext,
        }
    }

    /// From now on the server speaks by itself; bytes that came with the last answer are kept.
    pub(super) fn into_stream(self) -> Stream {
        Stream { link: Link::new(self.socket), frames: self.frames }
    }
}
