//! The TLS half of a socket: records in, plaintext out, without ever waiting.
//!
//! ```text
//! kernel --one read--> inbound --session--> the caller's buffer
//! ```
//! A read takes from the kernel once, as the plaintext socket does: how often the walsender is woken is decided by
//! the caller alone. What was decrypted and found no room is announced by [`TlsStream::holds_bytes`], because the
//! kernel knows nothing of it. A buffer of our own stands between, because the session itself reads 4 KiB at a time.
//!
//! Must never interpret the plaintext, and never go on after an error: a record may be cut.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use pillarbox_tls::Failure;
use rustix::event::PollFlags;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::buffer::BUFFER_BYTES;
use super::socket::wait;
use crate::config;

/// A secured, non-blocking stream.
pub(super) struct TlsStream {
    socket: TcpStream,
    session: ClientConnection,
    inbound: Box<[u8]>,
    start: usize,
    end: usize,
    /// The last read ended because the caller's buffer was full.
    holds_bytes: bool,
    /// The server said that nothing more comes.
    closed: bool,
}

impl std::fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsStream")
    }
}

impl TlsStream {
    /// Secures a connected, non-blocking socket, before `deadline`.
    ///
    /// # Errors
    /// Outside: the network or the deadline. Inside: what is wrong with the two sides.
    pub(super) fn handshake(
        socket: TcpStream,
        settings: &config::Postgres,
        deadline: Instant,
    ) -> io::Result<Result<Self, Failure>> {
        let prepared = settings.tls.secured.client_config().and_then(|config| {
            let name: ServerName<'static> = pillarbox_tls::server_name(&settings.host)?;
            ClientConnection::new(config, name).map_err(|error| Failure::of(&error))
        });
        let session = match prepared {
            Ok(session) => session,
            Err(failure) => return Ok(Err(failure)),
        };
        let inbound = vec![0; BUFFER_BYTES].into_boxed_slice();
        let mut stream =
            Self { socket, session, inbound, start: 0, end: 0, holds_bytes: false, closed: false };
        match stream.shake_hands(deadline) {
            Ok(()) => Ok(Ok(stream)),
            Err(error) => Failure::of_handshake(&error).map(Err).ok_or(error),
        }
    }

    fn shake_hands(&mut self, deadline: Instant) -> io::Result<()> {
        loop {
            self.flush(deadline)?;
            if !self.session.is_handshaking() {
                return Ok(());
            }
            while self.start == self.end {
                if !wait(self.socket.as_fd(), PollFlags::IN, deadline)? {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                if self.receive()? && self.start == self.end {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            if let Err(error) = self.decrypt() {
                // The alert that tells the server why; the error is what counts.
                let _ = self.flush(deadline);
                return Err(error);
            }
        }
    }

    /// What SCRAM binds a login to; none where the certificate has no hash of its own.
    pub(super) fn binding(&self) -> Option<Vec<u8>> {
        pillarbox_tls::server_end_point(self.session.peer_certificates()?.first()?)
    }

    /// The socket below.
    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// A read will return bytes, or the end, whatever the kernel says.
    pub(super) fn holds_bytes(&self) -> bool {
        self.holds_bytes || self.closed
    }

    /// The kernel filled the whole buffer when it was asked last: it may have more.
    pub(super) fn was_filled(&self) -> bool {
        self.end == self.inbound.len()
    }

    /// As a socket's: what is there, `WouldBlock` when that is nothing, 0 at the end of the stream.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        self.holds_bytes = false;
        loop {
            filled += self.take(&mut buffer[filled..])?;
            if filled == buffer.len() {
                self.holds_bytes = true;
                return Ok(filled);
            }
            if self.start == self.end {
                if filled > 0 || self.closed {
                    return Ok(filled);
                }
                if !self.receive()? {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                if self.start == self.end {
                    return Ok(0);
                }
            }
            self.decrypt()?;
        }
    }

    /// Plaintext that the session has ready.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.session.reader().read(&mut buffer[filled..]) {
                Ok(0) => {
                    self.closed = true;
                    break;
                }
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// One read from the kernel: false when nothing is there; an empty `inbound` is the end of the stream.
    fn receive(&mut self) -> io::Result<bool> {
        loop {
            match self.socket.read(&mut self.inbound) {
                Ok(bytes) => {
                    (self.start, self.end) = (0, bytes);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the session as much of `inbound` as it takes.
    fn decrypt(&mut self) -> io::Result<()> {
        let mut rest = &self.inbound[self.start..self.end];
        let taken = self.session.read_tls(&mut rest)?;
        if taken == 0 {
            // It takes nothing after the server's goodbye.
            (self.start, self.closed) = (self.end, true);
        }
        self.start += taken;
        let processed = self.session.process_new_packets();
        processed.map(drop).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// As a socket's.
    pub(super) fn write_all(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = self.session.writer().write(bytes)?;
            bytes = &bytes[taken..];
            self.flush(deadline)?;
        }
        Ok(())
    }

    fn flush(&mut self, deadline: Instant) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !wait(self.socket.as_fd(), PollFlags::OUT, deadline)? {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells the server that nothing more comes.
    pub(super) fn shutdown_write(&mut self, deadline: Instant) -> io::Result<()> {
        self.session.send_close_notify();
        self.flush(deadline)?;
        self.socket.shutdown(std::net::Shutdown::Write)
    }
}

impl AsFd for TlsStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::time::Duration;

    use pillarbox_lab::certificates::{Authority, Validity};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    use super::*;
    use crate::config::{PostgresTls, TlsMode};

    const LONG: Duration = Duration::from_secs(30);

    /// A server that sends these bytes, says goodbye, and waits for the client's end.
    fn serve(bytes: Vec<u8>) -> (u16, std::thread::JoinHandle<()>) {
        let issued =
            Authority::new("a").and_then(|a| a.server(&["127.0.0.1"], Validity::Current)).expect("issued");
        let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = std::thread::spawn(move || {
            let (socket, _) = listener.accept().expect("a client");
            let session = ServerConnection::new(Arc::new(config)).expect("a session");
            let mut stream = StreamOwned::new(session, socket);
            stream.write_all(&bytes).expect("sent");
            stream.conn.send_close_notify();
            stream.flush().expect("sent");
            let mut rest = Vec::new();
            // The client's goodbye, or the end of the connection.
            let _ = stream.read_to_end(&mut rest);
        });
        (port, server)
    }

    fn connect(port: u16) -> TlsStream {
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        socket.set_nonblocking(true).expect("non-blocking");
        let settings = config::Postgres {
            host: "127.0.0.1".into(),
            port,
            user: "u".into(),
            password: None,
            database: "d".into(),
            slot: "s".into(),
            publication: "p".into(),
            tls: PostgresTls::new(TlsMode::Require, None, None),
            sql: None,
        };
        let stream = TlsStream::handshake(socket, &settings, Instant::now() + LONG);
        stream.expect("the network").expect("a handshake")
    }

    #[test]
    fn what_found_no_room_is_announced_and_nothing_is_lost() {
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
        let (port, server) = serve(bytes.clone());
        let mut stream = connect(port);
        let mut seen = Vec::new();
        let mut held = 0;
        loop {
            if !stream.holds_bytes() {
                // The server is still there: after its goodbye the kernel has nothing to say.
                let came = wait(stream.as_fd(), PollFlags::IN, Instant::now() + LONG).expect("a wait");
                assert!(came, "the end of the stream was waited for");
            }
            let mut buffer = [0; 777];
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => seen.extend_from_slice(&buffer[..read]),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            held += usize::from(stream.holds_bytes());
        }
        assert!(seen == bytes, "{} of {} bytes", seen.len(), bytes.len());
        // The kernel has long been empty for most of these reads.
        assert!(held > bytes.len() / 777 / 2, "{held}");
        stream.shutdown_write(Instant::now() + LONG).expect("a goodbye");
        server.join().expect("the server");
    }
}
