//! The header `pb-pos` as a consumer needs it: who wrote the event, where it stands, its number.
//!
//! Strict, because a header that is nearly right was not written by the relay. Must never repeat a header in an
//! error: it can hold anything.

use std::error::Error;
use std::fmt;
use std::str;

use pillarbox_wire::header::PbPos;
use pillarbox_wire::{Position, Sequence};

use crate::state::Mark;

/// What the header `pb-pos` says, `<pipeline>:<position>:<sequence>`; borrows the name from the record.
///
/// The sequence is 1 to 2^63 - 1, the numbers that a `bigint` of every database holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    source: &'a str,
    mark: Mark,
}

impl<'a> Header<'a> {
    /// Reads the value of the record's header [`PB_POS`](crate::PB_POS), or its absence.
    ///
    /// # Errors
    /// [`HeaderError`] says which part is missing or malformed.
    pub fn parse(value: Option<&'a [u8]>) -> Result<Self, HeaderError> {
        let text = str::from_utf8(value.ok_or(HeaderError::Missing)?).map_err(|_| HeaderError::NotText)?;
        let PbPos { pipeline, position, sequence } =
            PbPos::parse(text).map_err(|error| HeaderError::Malformed { part: error.part })?;
        let mark = Mark::new(position, sequence).filter(|mark| mark.sequence().0 > 0);
        Ok(Header { source: pipeline, mark: mark.ok_or(HeaderError::SequenceOutOfRange)? })
    }

    /// The pipeline that wrote the event. Positions and sequences of different pipelines have nothing to do with
    /// each other, even in one partition.
    #[must_use]
    pub const fn source(&self) -> &'a str {
        self.source
    }

    /// Position and sequence.
    #[must_use]
    pub const fn mark(&self) -> Mark {
        self.mark
    }

    /// Where the event stands in the history of the database. As text, it is an idempotency key for effects outside of
    /// the consumer's database.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.mark.position()
    }

    /// The number of the event in its partition, from 1, without holes.
    #[must_use]
    pub const fn sequence(&self) -> Sequence {
        self.mark.sequence()
    }
}

/// Why a record has no usable `pb-pos`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The record has no such header, or one without a value.
    Missing,
    /// The value is not UTF-8.
    NotText,
    /// A part is missing, or not in the one form that is written.
    Malformed {
        /// `pipeline name`, `position` or `sequence`.
        part: &'static str,
    },
    /// The sequence is 0 or above 2^63 - 1.
    SequenceOutOfRange,
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FORM: &str = "expected <pipeline>:<32 lower-case hex digits>:<number without leading zeros>";
        match self {
            Self::Missing => f.write_str("no header pb-pos: the record was not written by a relay"),
            Self::NotText => write!(f, "header pb-pos is not text, {FORM}"),
            Self::Malformed { part } => write!(f, "header pb-pos has a missing or bad {part}, {FORM}"),
            Self::SequenceOutOfRange => {
                f.write_str("header pb-pos has a sequence that is not from 1 to 9223372036854775807")
            }
        }
    }
}

impl Error for HeaderError {}

#[cfg(test)]
mod tests {
    use super::*;

    const POSITION: &str = "0000000100000016b374d84800000002";

    fn parse(text: &str) -> Result<Header<'_>, HeaderError> {
        Header::parse(Some(text.as_bytes()))
    }

    #[test]
    fn a_header_of_the_contract() {
        let text = format!("orders:{POSITION}:48213");
        let header = parse(&text).expect("well-formed");
        assert_eq!(header.source(), "orders");
        assert_eq!(header.position().to_string(), POSITION);
        assert_eq!(header.sequence(), Sequence(48_213));
        assert_eq!(header.mark(), Mark::new(header.position(), header.sequence()).expect("in range"));
    }

    #[test]
    fn the_limits_of_a_sequence() {
        for (sequence, expected) in [
            ("1", Ok(Sequence(1))),
            ("9223372036854775807", Ok(Sequence(i64::MAX as u64))),
            ("9223372036854775808", Err(HeaderError::SequenceOutOfRange)),
            ("0", Err(HeaderError::SequenceOutOfRange)),
            ("18446744073709551616", Err(HeaderError::Malformed { part: "sequence" })),
            ("01", Err(HeaderError::Malformed { part: "sequence" })),
            ("+1", Err(HeaderError::Malformed { part: "sequence" })),
            ("-1", Err(HeaderError::Malformed { part: "sequence" })),
            (" 1", Err(HeaderError::Malformed { part: "sequence" })),
            ("", Err(HeaderError::Malformed { part: "sequence" })),
        ] {
            let text = format!("orders:{POSITION}:{sequence}");
            assert_eq!(parse(&text).map(|header| header.sequence()), expected, "{sequence:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(Header::parse(None), Err(HeaderError::Missing));
        assert_eq!(Header::parse(Some(&[0xff])), Err(HeaderError::NotText));
        for (text, part) in [
            (String::new(), "pipeline name"),
            (format!("Orders:{POSITION}:1"), "pipeline name"),
            (format!("{POSITION}:1"), "pipeline name"),
            ("orders".into(), "position"),
            (format!("orders:{}:1", POSITION.to_uppercase()), "position"),
            (format!("orders:{POSITION}"), "sequence"),
            (format!("orders:{POSITION}:1:2"), "sequence"),
        ] {
            assert_eq!(parse(&text), Err(HeaderError::Malformed { part }), "{text:?}");
        }
    }

    #[test]
    fn an_error_never_repeats_the_header() {
        let secret = parse("hunter2!:x:y").expect_err("malformed");
        assert!(!format!("{secret} {secret:?}").contains("hunter2"));
    }
}
