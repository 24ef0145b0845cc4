//! Wakes a reader that waits for its socket. Carries no information: whoever is woken looks at the
//! state it shares with the waker. Never blocks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::socket::timespec;

/// A doorbell between threads: wake-ups before a wait are kept, several become one.
#[derive(Debug, Clone)]
pub struct Wake {
    event: Arc<OwnedFd>,
}

impl Wake {
    /// A doorbell that has not been rung.
    ///
    /// # Errors
    /// When the process has no free file descriptor.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event: Arc::new(event) })
    }

    /// Ends the current or the next [`wait`](super::Link::wait) at once.
    pub fn wake(&self) {
        // The only possible failure is a counter that is full, that is, a doorbell rung already.
        let _ = rustix::io::write(&*self.event, &1_u64.to_ne_bytes());
    }

    /// Waits for a ring, `timeout` at most; true when there was one. May return early.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)];
        matches!(poll(&mut fds, Some(&timespec(timeout))), Ok(1)) && self.take()
    }

    /// True when it was rung since the last call.
    pub(super) fn take(&self) -> bool {
        let mut count = [0_u8; 8];
        rustix::io::read(&*self.event, &mut count).is_ok()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_rings_are_one_and_are_taken_once() {
        let wake = Wake::new().expect("an eventfd");
        assert!(!wake.take());
        let other = wake.clone();
        other.wake();
        other.wake();
        assert!(wake.wait(Duration::from_secs(30)));
        assert!(!wake.wait(Duration::from_micros(50)));
    }
}
