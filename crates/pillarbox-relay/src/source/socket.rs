//! The byte stream to the server: the one place that knows whether it is TCP, TLS or a Unix socket.
//! Always non-blocking underneath; a wait has a deadline. Never interprets a byte.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::error::SourceError;
use super::link::Way;
use super::tls::TlsStream;
use crate::config;

/// Silence after which the kernel probes the peer. A dead host must be noticed before its slot's
/// WAL becomes a problem, not within a second.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
/// Time between probes; with [`KEEPALIVE_PROBES`] a dead peer is noticed after 35 s of silence.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
/// Sent bytes that nobody acknowledges for this long end the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// What the kernel may hold of what a server on this host has sent. See [`Way::Loopback`].
pub(crate) const LOOPBACK_BUFFER: usize = 128 << 10;

/// A connected, non-blocking byte stream.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream>),
}

/// Where `settings` points to, for people: `db:5432` or the path of a Unix socket.
pub(super) fn address(settings: &config::Postgres) -> String {
    if settings.host.starts_with('/') {
        format!("{}/.s.PGSQL.{}", settings.host.trim_end_matches('/'), settings.port)
    } else if settings.host.contains(':') {
        format!("[{}]:{}", settings.host, settings.port)
    } else {
        format!("{}:{}", settings.host, settings.port)
    }
}

impl Socket {
    /// Connects before `deadline`, trying every address that the name resolves to. The resolver
    /// itself has the system's own limit.
    pub(super) fn connect(settings: &config::Postgres, deadline: Instant) -> Result<Self, SourceError> {
        let address = address(settings);
        let socket = if settings.host.starts_with('/') {
            UnixStream::connect(&address).map(Socket::Unix)
        } else {
            let resolved = (settings.host.as_str(), settings.port).to_socket_addrs();
            let candidates =
                resolved.map_err(|source| SourceError::Resolve { address: address.clone(), source })?;
            connect_any(candidates, deadline).map(Socket::Tcp)
        };
        let socket =
            socket.map_err(|source| SourceError::Unreachable { address: address.clone(), source })?;
        socket.prepare().map_err(|source| SourceError::Unreachable { address, source })?;
        Ok(socket)
    }

    fn prepare(&self) -> io::Result<()> {
        match self {
            Socket::Unix(socket) => socket.set_nonblocking(true),
            // Secured only after it was prepared.
            Socket::Tls(_) => Ok(()),
            Socket::Tcp(socket) => {
                socket.set_nodelay(true)?;
                sockopt::set_socket_keepalive(socket, true)?;
                sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
                sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
                sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
                sockopt::set_tcp_user_timeout(socket, USER_TIMEOUT.as_millis() as u32)?;
                if is_loopback(socket) {
                    sockopt::set_socket_recv_buffer_size(socket, LOOPBACK_BUFFER)?;
                }
                socket.set_nonblocking(true)
            }
        }
    }

    pub(super) fn way(&self) -> Way {
        match self {
            Socket::Unix(_) => Way::Unix,
            Socket::Tcp(socket) if is_loopback(socket) => Way::Loopback,
            Socket::Tls(stream) if is_loopback(stream.socket()) => Way::Loopback,
            Socket::Tcp(_) | Socket::Tls(_) => Way::Network,
        }
    }

    /// Bytes were received and not read, so that a wait for the kernel could be one for ever.
    pub(super) fn holds_bytes(&self) -> bool {
        matches!(self, Socket::Tls(stream) if stream.holds_bytes())
    }

    /// More may be waiting than the last read brought, although it found room for it.
    pub(super) fn was_filled(&self) -> bool {
        matches!(self, Socket::Tls(stream) if stream.was_filled())
    }

    /// Waits until the socket is readable. `false` when `deadline` passed first.
    pub(super) fn wait_readable(&self, deadline: Instant) -> io::Result<bool> {
        if self.holds_bytes() {
            return Ok(true);
        }
        wait(self.as_fd(), PollFlags::IN, deadline)
    }

    /// Reads what is there. `None` when that is nothing; `Some(0)` at the end of the stream.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            let result = match self {
                Socket::Tcp(socket) => socket.read(buffer),
                Socket::Unix(socket) => socket.read(buffer),
                Socket::Tls(stream) => stream.read(buffer),
            };
            match result {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes all of `bytes` before `deadline`, else fails with `TimedOut`; then the stream is
    /// unusable, since a message may be cut.
    pub(super) fn write_all(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            let result = match self {
                Socket::Tcp(socket) => socket.write(bytes),
                Socket::Unix(socket) => socket.write(bytes),
                Socket::Tls(stream) => return stream.write_all(bytes, deadline),
            };
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !wait(self.as_fd(), PollFlags::OUT, deadline)? {
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
        match self {
            Socket::Tcp(socket) => socket.shutdown(std::net::Shutdown::Write),
            Socket::Unix(socket) => socket.shutdown(std::net::Shutdown::Write),
            Socket::Tls(stream) => stream.shutdown_write(deadline),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
            Socket::Tls(stream) => stream.as_fd(),
        }
    }
}

/// Whether what is sent never leaves this host.
fn is_loopback(socket: &TcpStream) -> bool {
    matches!((socket.peer_addr(), socket.local_addr()), (Ok(peer), Ok(local)) if is_one_host(peer, local))
}

/// A host that reaches its own address of a network does so through loopback, too.
fn is_one_host(peer: SocketAddr, local: SocketAddr) -> bool {
    let (peer, local) = (peer.ip().to_canonical(), local.ip().to_canonical());
    peer.is_loopback() || peer == local
}

/// Waits for the kernel; `false` when `deadline` passed first.
pub(super) fn wait(fd: BorrowedFd<'_>, interest: PollFlags, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::from_borrowed_fd(fd, interest)];
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn connect_any(candidates: impl Iterator<Item = SocketAddr>, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address");
    for candidate in candidates {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(&candidate, left) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// `duration` for the kernel; the longest possible wait when it does not fit.
pub(super) fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn settings(host: &str, port: u16) -> config::Postgres {
        config::Postgres {
            host: host.into(),
            port,
            user: "u".into(),
            password: None,
            database: "d".into(),
            slot: "s".into(),
            publication: "p".into(),
            tls: config::PostgresTls::default(),
            sql: None,
        }
    }

    #[test]
    fn a_server_on_this_host_finds_a_small_buffer() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let deadline = Instant::now() + Duration::from_secs(30);
        let socket = Socket::connect(&settings("127.0.0.1", port), deadline).expect("connected");
        assert_eq!(socket.way(), Way::Loopback);
        // The kernel takes twice of it, for what it keeps besides.
        assert_eq!(sockopt::socket_recv_buffer_size(socket.as_fd()), Ok(2 * LOOPBACK_BUFFER));
    }

    #[test]
    fn one_host_has_many_addresses() {
        for (peer, local, expected) in [
            ("127.0.0.1:5432", "127.0.0.1:40000", true),
            ("[::1]:5432", "[::1]:40000", true),
            ("[::ffff:127.0.0.1]:5432", "[::ffff:127.0.0.1]:40000", true),
            ("10.0.0.7:5432", "10.0.0.7:40000", true),
            ("10.0.0.7:5432", "10.0.0.8:40000", false),
            ("[fd00::7]:5432", "[fd00::8]:40000", false),
        ] {
            let parsed = |text: &str| text.parse::<SocketAddr>().expect("an address");
            assert_eq!(is_one_host(parsed(peer), parsed(local)), expected, "{peer} from {local}");
        }
    }

    #[test]
    fn addresses_for_people() {
        let settings = |host: &str| settings(host, 5432);
        assert_eq!(address(&settings("db")), "db:5432");
        assert_eq!(address(&settings("::1")), "[::1]:5432");
        assert_eq!(address(&settings("/run/pg/")), "/run/pg/.s.PGSQL.5432");
    }
}
