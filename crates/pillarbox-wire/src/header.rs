//! The record headers of the wire contract, version 1: their names, and the text of `pb-pos`.
//!
//! Consumers in any language read these; a change here is a change of the contract.

use std::error::Error;
use std::fmt;

use crate::position::{POSITION_HEX_LEN, Position, Sequence};
use crate::topic::{PIPELINE_NAME_LEN_MAX, PipelineName};

/// The event id as text.
pub const ID: &str = "id";
/// Position and sequence of the event: a [`PbPos`].
pub const PB_POS: &str = "pb-pos";
/// Number of the part, from 2, on events of a source transaction that had to be split.
pub const PB_PART: &str = "pb-part";
/// Commit time in milliseconds since 1970, where the Kafka timestamp had to be another.
pub const PB_TS: &str = "pb-ts";
/// On a replayed event, and on the verdict over a dead letter: the `pb-pos` of that dead letter.
pub const PB_ORIG_POS: &str = "pb-orig-pos";
/// On the first record of a dead letter, and on a refusal to replay it: the code of the reason, `PB-nnnn`.
pub const PB_REASON: &str = "pb-reason";
/// Beside [`PB_REASON`]: the reason in words, which hold nothing of the row.
pub const PB_CAUSE: &str = "pb-cause";
/// On the first record of a dead letter: the table of the row, for people.
pub const PB_TABLE: &str = "pb-table";
/// On the first record of a dead letter: schema, table and columns of the row, as JSON.
pub const PB_ROW: &str = "pb-row";
/// On the first record of a dead letter: bytes of the whole row.
pub const PB_SIZE: &str = "pb-size";
/// On every record of a dead letter: `n/m`, this is chunk n of m.
pub const PB_CHUNK: &str = "pb-chunk";
/// On a record that says what became of the dead letter that [`PB_ORIG_POS`] names.
pub const PB_VERDICT: &str = "pb-verdict";

/// Most decimal digits of a `u64`.
const DECIMAL_LEN_MAX: usize = 20;

/// Longest text of a [`PbPos`] in bytes.
pub const PB_POS_LEN_MAX: usize = PIPELINE_NAME_LEN_MAX + 1 + POSITION_HEX_LEN + 1 + DECIMAL_LEN_MAX;

/// The value of the header [`PB_POS`]: `<pipeline>:<position>:<sequence>`.
///
/// For example `orders:0000000100000016b374d84800000002:48213`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PbPos<'a> {
    /// Name of the pipeline that wrote the event; see [`PipelineName`].
    pub pipeline: &'a str,
    /// Where the event stands in the history of the database.
    pub position: Position,
    /// Where it stands in its partition.
    pub sequence: Sequence,
}

/// A text that is not a [`PbPos`]; says which part, never the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsePbPosError {
    /// The first part that is missing or malformed.
    pub part: &'static str,
}

impl fmt::Display for ParsePbPosError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expected = "<pipeline>:<32 lower-case hex digits>:<decimal number>";
        write!(f, "not a pb-pos header: bad {}, expected {expected}", self.part)
    }
}

impl Error for ParsePbPosError {}

impl<'a> PbPos<'a> {
    /// Reads the text; strict, so that each value has one text.
    ///
    /// # Errors
    /// [`ParsePbPosError`] for anything that [`PbPos::write_to`] does not write.
    pub fn parse(text: &'a str) -> Result<Self, ParsePbPosError> {
        let bad = |part| ParsePbPosError { part };
        let mut parts = text.splitn(3, ':');
        let pipeline = parts.next().filter(|name| PipelineName::validate(name).is_ok());
        let position = parts.next().and_then(|hex| hex.parse().ok());
        let sequence = parts.next().and_then(parse_decimal);
        Ok(PbPos {
            pipeline: pipeline.ok_or(bad("pipeline name"))?,
            position: position.ok_or(bad("position"))?,
            sequence: sequence.map(Sequence).ok_or(bad("sequence"))?,
        })
    }

    /// Appends the text, at most [`PB_POS_LEN_MAX`] bytes; allocates only where `text` has to grow.
    #[inline]
    pub fn write_to(&self, text: &mut Vec<u8>) {
        let mut hex = [0; POSITION_HEX_LEN];
        self.position.write_hex(&mut hex);
        text.extend_from_slice(self.pipeline.as_bytes());
        text.push(b':');
        text.extend_from_slice(&hex);
        text.push(b':');
        write_decimal(self.sequence.0, text);
    }
}

/// Decimal without sign or leading zeros.
fn parse_decimal(digits: &str) -> Option<u64> {
    let canonical =
        digits.bytes().all(|b| b.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0'));
    if canonical { digits.parse().ok() } else { None }
}

/// Appends `number` in decimal; allocates only where `text` has to grow. For headers such as [`PB_PART`].
pub fn write_decimal(mut number: u64, text: &mut Vec<u8>) {
    let mut digits = [0; DECIMAL_LEN_MAX];
    let mut start = DECIMAL_LEN_MAX;
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lsn::Lsn;
    use crate::position::Epoch;

    const POSITION: Position = Position { epoch: Epoch(1), commit_lsn: Lsn(0x16_B374_D848), index: 2 };

    fn text(pb_pos: PbPos<'_>) -> String {
        let mut text = Vec::new();
        pb_pos.write_to(&mut text);
        String::from_utf8(text).expect("header text is ASCII")
    }

    #[test]
    fn text_of_the_contract() {
        let pb_pos = PbPos { pipeline: "orders", position: POSITION, sequence: Sequence(48_213) };
        assert_eq!(text(pb_pos), "orders:0000000100000016b374d84800000002:48213");
        assert_eq!(PbPos::parse("orders:0000000100000016b374d84800000002:48213"), Ok(pb_pos));
    }

    #[test]
    fn longest_text_is_within_its_limit() {
        let pipeline = "a".repeat(PIPELINE_NAME_LEN_MAX);
        let pb_pos = PbPos { pipeline: &pipeline, position: POSITION, sequence: Sequence(u64::MAX) };
        assert_eq!(text(pb_pos).len(), PB_POS_LEN_MAX);
        assert_eq!(PbPos::parse(&text(pb_pos)), Ok(pb_pos));
    }

    #[test]
    fn parsing_names_the_bad_part() {
        for (text, part) in [
            ("", "pipeline name"),
            ("Orders:0000000100000016b374d84800000002:1", "pipeline name"),
            (":0000000100000016b374d84800000002:1", "pipeline name"),
            ("orders", "position"),
            ("orders:", "position"),
            ("orders:0000000100000016B374D84800000002:1", "position"),
            ("orders:0000000100000016b374d848000000021:1", "position"),
            ("orders:0000000100000016b374d84800000002", "sequence"),
            ("orders:0000000100000016b374d84800000002:", "sequence"),
            ("orders:0000000100000016b374d84800000002:+1", "sequence"),
            ("orders:0000000100000016b374d84800000002:-1", "sequence"),
            ("orders:0000000100000016b374d84800000002:01", "sequence"),
            ("orders:0000000100000016b374d84800000002:1:", "sequence"),
            ("orders:0000000100000016b374d84800000002:18446744073709551616", "sequence"),
        ] {
            assert_eq!(PbPos::parse(text), Err(ParsePbPosError { part }), "{text:?}");
        }
    }

    #[test]
    fn decimals() {
        for number in [0, 1, 9, 10, 99, 100, 12_345, u64::from(u32::MAX), u64::MAX] {
            let mut text = b"n=".to_vec();
            write_decimal(number, &mut text);
            assert_eq!(text, format!("n={number}").into_bytes());
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(pipeline in "[a-z][a-z0-9_]{0,39}", epoch: u32, lsn: u64, index: u32, sequence: u64) {
            let position = Position { epoch: Epoch(epoch), commit_lsn: Lsn(lsn), index };
            let pb_pos = PbPos { pipeline: &pipeline, position, sequence: Sequence(sequence) };
            let text = text(pb_pos);
            prop_assert_eq!(PbPos::parse(&text), Ok(pb_pos));
        }

        #[test]
        fn what_parses_is_what_is_written(arbitrary in "[a-z0]{0,3}:[0-9a-f]{31,33}:[+]?[0-9]{0,21}") {
            if let Ok(pb_pos) = PbPos::parse(&arbitrary) {
                prop_assert_eq!(text(pb_pos), arbitrary);
            }
        }
    }
}
