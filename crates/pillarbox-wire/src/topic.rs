//! Names that Kafka or the pipeline must accept: topics and pipelines.
//!
//! Checks here are pure text rules; whether a topic exists is another question, and never asked here.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

/// Longest topic name in bytes: a broker names a directory after topic and partition, and file names end at 255 bytes.
pub const TOPIC_NAME_LEN_MAX: usize = 249;

/// Longest pipeline name in bytes; it must leave room in a replication slot's name (63) and in topic names.
pub const PIPELINE_NAME_LEN_MAX: usize = 40;

/// Why a topic name is not legal. The name itself is left out: it may be made of a row's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicNameError {
    /// No character at all.
    Empty,
    /// More than [`TOPIC_NAME_LEN_MAX`] bytes.
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// `.` or `..`.
    Dots,
    /// A byte outside `[a-zA-Z0-9._-]`.
    IllegalCharacter {
        /// Offset of the first such byte.
        at: usize,
    },
}

impl fmt::Display for TopicNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("topic name is empty"),
            Self::TooLong { len } => {
                write!(f, "topic name has {len} bytes, at most {TOPIC_NAME_LEN_MAX} are allowed")
            }
            Self::Dots => f.write_str("topic name is \".\" or \"..\""),
            Self::IllegalCharacter { at } => {
                write!(f, "topic name has an illegal character at byte {at}, allowed are a-z A-Z 0-9 . _ -")
            }
        }
    }
}

impl Error for TopicNameError {}

/// Kafka's rule (`org.apache.kafka.common.internals.Topic.validate`): 1 to 249 of `[a-zA-Z0-9._-]`, not `.` or `..`.
///
/// # Errors
/// The first rule that `name` breaks.
pub fn validate_topic_name(name: impl AsRef<[u8]>) -> Result<(), TopicNameError> {
    let name = name.as_ref();
    match name {
        b"" => return Err(TopicNameError::Empty),
        b"." | b".." => return Err(TopicNameError::Dots),
        _ if name.len() > TOPIC_NAME_LEN_MAX => return Err(TopicNameError::TooLong { len: name.len() }),
        _ => {}
    }
    let illegal = |b: &u8| !(b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    match name.iter().position(illegal) {
        Some(at) => Err(TopicNameError::IllegalCharacter { at }),
        None => Ok(()),
    }
}

/// The name of a pipeline, `[a-z][a-z0-9_]{0,39}`: it names the slot, the publication, topics and a header.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipelineName(Box<str>);

/// A text that is not a pipeline name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipelineNameError;

impl fmt::Display for PipelineNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = "of a-z 0-9 _, beginning with a letter";
        write!(f, "not a pipeline name: expected 1 to {PIPELINE_NAME_LEN_MAX} {rule}")
    }
}

impl Error for PipelineNameError {}

impl PipelineName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks the rule without making a name.
    ///
    /// # Errors
    /// [`PipelineNameError`] when `name` breaks it.
    pub fn validate(name: &str) -> Result<(), PipelineNameError> {
        let [first, rest @ ..] = name.as_bytes() else { return Err(PipelineNameError) };
        let legal = first.is_ascii_lowercase()
            && rest.len() < PIPELINE_NAME_LEN_MAX
            && rest.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_');
        if legal { Ok(()) } else { Err(PipelineNameError) }
    }
}

impl FromStr for PipelineName {
    type Err = PipelineNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        PipelineName::validate(name)?;
        Ok(PipelineName(name.into()))
    }
}

impl fmt::Display for PipelineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names() {
        let longest = "a".repeat(TOPIC_NAME_LEN_MAX);
        let too_long = "a".repeat(TOPIC_NAME_LEN_MAX + 1);
        for (name, expected) in [
            ("a", Ok(())),
            ("outbox.event.Order-2_x", Ok(())),
            ("__pillarbox.orders", Ok(())),
            ("...", Ok(())),
            (&longest, Ok(())),
            ("", Err(TopicNameError::Empty)),
            (".", Err(TopicNameError::Dots)),
            ("..", Err(TopicNameError::Dots)),
            (&too_long, Err(TopicNameError::TooLong { len: 250 })),
            ("a b", Err(TopicNameError::IllegalCharacter { at: 1 })),
            ("orders/eu", Err(TopicNameError::IllegalCharacter { at: 6 })),
            ("é", Err(TopicNameError::IllegalCharacter { at: 0 })),
            ("a\0", Err(TopicNameError::IllegalCharacter { at: 1 })),
        ] {
            assert_eq!(validate_topic_name(name), expected, "{name:?}");
            assert_eq!(validate_topic_name(name.as_bytes()), expected, "{name:?}");
        }
    }

    #[test]
    fn pipeline_names() {
        let longest = "a".repeat(PIPELINE_NAME_LEN_MAX);
        for name in ["a", "orders", "orders_eu_2", "a_", longest.as_str()] {
            let parsed: PipelineName = name.parse().expect(name);
            assert_eq!((parsed.as_str(), parsed.to_string().as_str()), (name, name));
        }
        let too_long = "a".repeat(PIPELINE_NAME_LEN_MAX + 1);
        for name in ["", "_a", "1a", "A", "aB", "a-b", "a.b", "a b", "é", "aé", &too_long] {
            assert_eq!(name.parse::<PipelineName>(), Err(PipelineNameError), "{name:?}");
        }
    }
}
