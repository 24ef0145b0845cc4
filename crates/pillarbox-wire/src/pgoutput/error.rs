//! What can be wrong with a pgoutput message: says where, never what it held.

use thiserror::Error;

/// A message that is not pgoutput as we asked for it. None of these passes with a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// No byte at all.
    #[error("pgoutput message is empty")]
    Empty,
    /// A streamed (`S` `E` `c` `A`) or two-phase (`b` `P` `K` `r` `p`) message. A slot that was created with
    /// `two_phase` sends the latter unasked.
    #[error("pgoutput message '{}' belongs to a streamed or two-phase transaction", .tag.escape_ascii())]
    Unsupported {
        /// First byte of the message.
        tag: u8,
    },
    /// A message that no protocol version up to 4 knows.
    #[error("pgoutput message '{}' is unknown", .tag.escape_ascii())]
    UnknownTag {
        /// First byte of the message.
        tag: u8,
    },
    /// The message ends inside a field.
    #[error("pgoutput message '{}' ends inside {field}", .tag.escape_ascii())]
    Truncated {
        /// First byte of the message.
        tag: u8,
        /// The field.
        field: &'static str,
    },
    /// The message goes on after its last field.
    #[error("pgoutput message '{}' has {bytes} bytes too many", .tag.escape_ascii())]
    Trailing {
        /// First byte of the message.
        tag: u8,
        /// How many bytes are left.
        bytes: usize,
    },
    /// A name is not UTF-8, although the session asks for it.
    #[error("pgoutput message '{}' has a {field} that is not UTF-8", .tag.escape_ascii())]
    NotUtf8 {
        /// First byte of the message.
        tag: u8,
        /// The field.
        field: &'static str,
    },
    /// A field has a value that the protocol does not define: a negative count, an unknown kind or flag.
    #[error("pgoutput message '{}' has an undefined {field}", .tag.escape_ascii())]
    Invalid {
        /// First byte of the message.
        tag: u8,
        /// The field.
        field: &'static str,
    },
}
