//! How long a stream may say nothing. The kernel notices a dead host; it does not notice a dead middle box, or a server
//! that hangs: somebody acknowledges bytes on their behalf. So Postgres itself has to say something.
//!
//! ```text
//!           10 s              20 s                      the walsender waits for us, or nobody answers
//! heard ---------> asked -----------> looked up by SQL -----------------------------------------------> given up
//!   ^                |                    |
//!   +--- any byte ---+                    | it is busy: a transaction can take long to decode
//!   +-------------------------------------+
//! ```
//! A walsender answers within milliseconds, except while it decodes what gives nothing to send; then it may look for
//! questions only every half of `wal_sender_timeout`, or not at all. To give it up would begin the same work anew,
//! for ever. While the relay does not read, for lack of room or because it is paused, it cannot know.
//!
//! No clock: `now` is an input.

use std::time::Duration;

use crate::error::{Code, Fault};

/// Silence before the server is asked: an idle one is, each time.
const ASK_AFTER: Duration = Duration::from_secs(10);
/// How long the answer may take; with the former, as long as sent bytes may stay unacknowledged.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Since when nothing was heard.
#[derive(Debug)]
pub(crate) struct Silence {
    heard_at: Duration,
    asked_at: Option<Duration>,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    /// Ask the server for an answer.
    Ask,
    /// Look whether it is busy, and else give it up.
    Suspect,
}

impl Silence {
    /// Of a stream that begins now.
    pub(crate) fn new(now: Duration) -> Self {
        Self { heard_at: now, asked_at: None }
    }

    /// Bytes have come, or nobody listened, or the server is busy.
    pub(crate) fn heard(&mut self, now: Duration) {
        *self = Self::new(now);
    }

    /// To be called when everything that has come was read.
    pub(crate) fn look(&mut self, now: Duration) -> Verdict {
        match self.asked_at {
            Some(asked_at) if now.saturating_sub(asked_at) >= ANSWER_MAX => Verdict::Suspect,
            None if now.saturating_sub(self.heard_at) >= ASK_AFTER => {
                self.asked_at = Some(now);
                Verdict::Ask
            }
            _ => Verdict::Fine,
        }
    }
}

/// A stream that is given up.
pub(crate) fn fault(slot: &str) -> Fault {
    Fault::new(Code::PgProtocol, format!("Postgres says nothing on the stream from slot \"{slot}\""))
        .because("it was asked, has not answered and is not busy, or cannot be reached any more")
        .hint("see whether the server hangs, or what between it and the relay drops connections")
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_silent_stream_is_asked_once_and_then_suspected() {
        let mut silence = Silence::new(100 * S);
        assert_eq!(silence.look(109 * S), Verdict::Fine);
        assert_eq!(silence.look(110 * S), Verdict::Ask);
        assert_eq!(silence.look(111 * S), Verdict::Fine);
        assert_eq!(silence.look(129 * S), Verdict::Fine);
        assert_eq!(silence.look(130 * S), Verdict::Suspect);
    }

    #[test]
    fn an_answer_begins_it_anew() {
        let mut silence = Silence::new(Duration::ZERO);
        assert_eq!(silence.look(10 * S), Verdict::Ask);
        silence.heard(20 * S);
        assert_eq!(silence.look(29 * S), Verdict::Fine);
        assert_eq!(silence.look(30 * S), Verdict::Ask);
    }

    #[test]
    fn a_relay_that_was_stopped_itself_asks_first() {
        let mut silence = Silence::new(Duration::ZERO);
        assert_eq!(silence.look(9_999 * S), Verdict::Ask);
        assert_eq!(silence.look(10_018 * S), Verdict::Fine);
    }
}
