//! The socket half of a replication stream: waiting, reading, confirming.
//!
//! Must never block longer than the limits named here, and never send an LSN that it was not told.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pillarbox_wire::lsn::{Lsn, PgTimestamp};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::error::SourceError;
use super::frames::Frames;
use super::socket::{Socket, timespec};
use super::wake::Wake;

/// A status is 39 bytes and the walsender reads replies even while it sends: not being able to
/// write one for this long means that the server or the network is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a close waits for the server to have read the last status and to have let go of the slot: it does so at once
/// unless its machine is busy or its disk is.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// CopyData around a standby status update: type, length, 34 bytes.
const STATUS_BYTES: usize = 1 + 4 + 34;

/// An open replication stream. Two halves, so that a status can be sent while a frame is borrowed.
#[derive(Debug)]
pub struct Stream {
    /// The socket.
    pub link: Link,
    /// The bytes received from it.
    pub frames: Frames,
}

/// The socket of a replication stream.
#[derive(Debug)]
pub struct Link {
    socket: Socket,
    /// See [`Link::has_more`].
    more: bool,
}

/// What lies between the server and us, which decides when a socket of a backlog is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A Unix socket: it holds a number of messages rather than of bytes.
    Unix,
    /// TCP within this host. Here the kernel delivers each message at once, as a segment of its own, at the sender's
    /// cost, unless the receiver's buffer is full: so that is kept small.
    Loopback,
    /// A network: the kernel chooses the buffers by its delay.
    Network,
}

/// Why a wait ended; both false when the time was over (or a signal came).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness {
    /// A read will return bytes, or the end of the stream.
    pub readable: bool,
    /// [`Wake::wake`] was called since the last wait.
    pub woken: bool,
}

impl Link {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, more: false }
    }

    /// Waits for bytes (only if `want_read`), for `wake`, or for `timeout` (nanoseconds count).
    /// May return early with nothing.
    ///
    /// # Errors
    /// When the kernel refuses to wait, which it does not do for good descriptors.
    pub fn wait(&self, wake: &Wake, want_read: bool, timeout: Duration) -> io::Result<Readiness> {
        let wake_fd = PollFd::from_borrowed_fd(wake.fd(), PollFlags::IN);
        let socket_fd = PollFd::new(&self.socket, PollFlags::IN);
        let mut fds = [wake_fd, socket_fd];
        // Decrypted bytes that the kernel knows nothing of: only look whether there is a wake, too.
        let held = want_read && self.socket.holds_bytes();
        let timeout = if held { Duration::ZERO } else { timeout };
        // A socket that is not wanted is left out: its hang-up would end every wait at once.
        let count = if want_read { 2 } else { 1 };
        match poll(&mut fds[..count], Some(&timespec(timeout))) {
            Ok(0) | Err(Errno::INTR) => return Ok(Readiness { readable: held, woken: false }),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let readable = held || want_read && !fds[1].revents().is_empty();
        let woken = !fds[0].revents().is_empty() && wake.take();
        Ok(Readiness { readable, woken })
    }

    /// Receives once, without waiting. 0 when nothing is there, or when whole frames fill the
    /// buffer and must be taken first.
    ///
    /// # Errors
    /// [`SourceError::Closed`] at the end of the stream, [`SourceError::Broken`].
    pub fn read_into(&mut self, frames: &mut Frames) -> Result<usize, SourceError> {
        let buffer = frames.buffer();
        let room = buffer.room();
        let most = room.len();
        if most == 0 {
            return Ok(0);
        }
        let read = self.socket.read(room).map_err(SourceError::broken)?;
        self.more = read == Some(most) || read.is_some() && self.socket.was_filled();
        match read {
            None => Ok(0),
            Some(0) => Err(SourceError::Closed),
            Some(bytes) => {
                buffer.received(bytes);
                Ok(bytes)
            }
        }
    }

    /// What lies between the server and us.
    pub fn way(&self) -> Way {
        self.socket.way()
    }

    /// Whether the last read was bounded by a buffer of ours: more may be waiting.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// Sends a standby status update that confirms everything before `flushed`;
    /// [`Lsn::ZERO`] confirms nothing but keeps the connection alive.
    ///
    /// # Errors
    /// [`SourceError::Broken`]; then the stream is over.
    pub fn send_status(&mut self, flushed: Lsn, reply_requested: bool) -> Result<(), SourceError> {
        let status = encode_status(flushed, now(), reply_requested);
        self.socket.write_all(&status, Instant::now() + WRITE_TIMEOUT).map_err(SourceError::broken)
    }

    /// Ends the stream in good order, so that the server has seen the last status and frees the
    /// slot at once. Takes a second at most; a failure only means that the server finds out by itself.
    pub fn close(mut self) {
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        // CopyDone, Terminate.
        let goodbye = [b'c', 0, 0, 0, 4, b'X', 0, 0, 0, 4];
        if self.socket.write_all(&goodbye, deadline).is_err() || self.socket.shutdown_write(deadline).is_err()
        {
            return;
        }
        // Closing with unread bytes resets the connection, which can overtake the status.
        let mut scratch = [0; 16 << 10];
        while Instant::now() < deadline && matches!(self.socket.wait_readable(deadline), Ok(true)) {
            if matches!(self.socket.read(&mut scratch), Ok(Some(0)) | Err(_)) {
                return;
            }
        }
    }
}

/// Written, flushed and applied are one: what is durable in Kafka.
fn encode_status(flushed: Lsn, now: PgTimestamp, reply_requested: bool) -> [u8; STATUS_BYTES] {
    let mut status = [0; STATUS_BYTES];
    status[0] = b'd';
    status[1..5].copy_from_slice(&(STATUS_BYTES as i32 - 1).to_be_bytes());
    status[5] = b'r';
    for field in status[6..30].chunks_exact_mut(8) {
        field.copy_from_slice(&flushed.0.to_be_bytes());
    }
    status[30..38].copy_from_slice(&now.0.to_be_bytes());
    status[38] = u8::from(reply_requested);
    status
}

/// The wall clock, for the server's `reply_time` only.
fn now() -> PgTimestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    PgTimestamp::from_unix_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (Link, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_nonblocking(true).expect("non-blocking");
        (Link::new(Socket::Unix(ours)), theirs)
    }

    #[test]
    fn status_layout() {
        let status = encode_status(Lsn(0x0102_0304_0506_0708), PgTimestamp(-2), true);
        assert_eq!(status[..6], [b'd', 0, 0, 0, 38, b'r']);
        for at in [6, 14, 22] {
            assert_eq!(status[at..at + 8], [1, 2, 3, 4, 5, 6, 7, 8]);
        }
        assert_eq!(status[30..38], (-2_i64).to_be_bytes());
        assert_eq!(status[38], 1);
    }

    #[test]
    fn a_wait_ends_by_bytes_by_wake_or_by_time() {
        use std::io::Write;
        let (link, mut server) = pair();
        let wake = Wake::new().expect("an eventfd");
        let long = Duration::from_secs(30);
        let nothing = link.wait(&wake, true, Duration::from_micros(50)).expect("a wait");
        assert_eq!(nothing, Readiness::default());
        wake.wake();
        let woken = link.wait(&wake, true, long).expect("a wait");
        assert_eq!(woken, Readiness { readable: false, woken: true });
        server.write_all(b"x").expect("a write");
        let readable = link.wait(&wake, true, long).expect("a wait");
        assert_eq!(readable, Readiness { readable: true, woken: false });
        let unwanted = link.wait(&wake, false, Duration::from_micros(50)).expect("a wait");
        assert_eq!(unwanted, Readiness::default());
    }

    #[test]
    fn the_end_of_the_stream_is_an_error_and_silence_is_not() {
        let (mut link, server) = pair();
        let mut frames = Frames::new();
        assert_eq!(link.read_into(&mut frames).expect("silence"), 0);
        drop(server);
        assert!(matches!(link.read_into(&mut frames), Err(SourceError::Closed)));
    }

    #[test]
    fn a_read_that_fills_the_buffer_may_not_be_the_last() {
        use std::io::Write;
        let (mut link, mut server) = pair();
        let mut frames = Frames::new();
        // One message that never ends, and more of it than the buffer holds at first.
        let sent = frames.buffer().room().len() + 1;
        let message = [b"d".as_slice(), &i32::to_be_bytes(1 << 20), &vec![0; sent]].concat();
        let writer = std::thread::spawn(move || server.write_all(&message).map(|()| server));
        let mut filled = 0;
        while frames.buffered() <= sent {
            let most = frames.buffer().room().len();
            let read = link.read_into(&mut frames).expect("bytes");
            assert_eq!(link.has_more(), read == most, "{read} of {most}");
            filled += u32::from(link.has_more());
            assert!(frames.next().expect("well formed").is_none());
        }
        assert!(filled > 0, "the buffer was never full");
        let server = writer.join().expect("no panic").expect("sent");
        while link.read_into(&mut frames).expect("bytes") > 0 {}
        assert!(!link.has_more(), "the socket is empty");
        drop(server);
    }

    #[test]
    fn close_says_goodbye_and_does_not_wait_for_a_server_that_hangs() {
        use std::io::Read;
        let (link, mut server) = pair();
        let before = Instant::now();
        link.close();
        assert!(before.elapsed() < CLOSE_TIMEOUT * 10);
        let mut bytes = Vec::new();
        server.read_to_end(&mut bytes).expect("a read");
        assert_eq!(bytes, [b'c', 0, 0, 0, 4, b'X', 0, 0, 0, 4]);
    }
}
