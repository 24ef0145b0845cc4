//! Where an event stands: in the history of the database ([`Position`]) and in its partition ([`Sequence`]).
//!
//! Text order is position order, because consumers compare the text. Nothing here may depend on the clock, on
//! routing, or on how often the relay was restarted.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use crate::lsn::Lsn;

/// The history a position belongs to: starts at 1 and grows only when history changes (failover, accepted lineage,
/// declared cut-over), never on restart. It is not the timeline number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The place of one event in everything that was ever committed; the order of the fields is the order of events.
///
/// Text form: 32 lower-case hexadecimal digits (8 + 16 + 8), e.g. `0000000100000016b374d84800000002`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Which history.
    pub epoch: Epoch,
    /// `Begin.final_lsn` of the source transaction, which equals its `Commit.commit_lsn`.
    pub commit_lsn: Lsn,
    /// Ordinal of the decoded change inside its source transaction, from 0; counts emitted and not emitted changes.
    pub index: u32,
}

/// Length of the text form of a [`Position`] in bytes.
pub const POSITION_HEX_LEN: usize = 32;

/// All eight digits at once, a byte each in one register: every event has four words to write.
#[inline]
const fn hex_digits(word: u32) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let mut nibbles = word as u64;
    nibbles = (nibbles << 16 | nibbles) & 0x0000_ffff_0000_ffff;
    nibbles = (nibbles << 8 | nibbles) & 0x00ff_00ff_00ff_00ff;
    nibbles = (nibbles << 4 | nibbles) & 0x0f0f_0f0f_0f0f_0f0f;
    // 10 and more carry into the upper half, and are letters.
    let letters = ((nibbles + 6 * EACH) >> 4) & EACH;
    (nibbles + b'0' as u64 * EACH + (b'a' - b'0' - 10) as u64 * letters).to_be_bytes()
}

impl Position {
    /// Writes the text form without allocating.
    #[inline]
    pub fn write_hex(&self, text: &mut [u8; POSITION_HEX_LEN]) {
        let commit_lsn = self.commit_lsn.0;
        let words = [self.epoch.0, (commit_lsn >> 32) as u32, commit_lsn as u32, self.index];
        for (word, digits) in words.into_iter().zip(text.as_chunks_mut::<8>().0) {
            *digits = hex_digits(word);
        }
    }

    /// Reads the text form; strict: exactly 32 digits, lower case.
    ///
    /// # Errors
    /// [`ParsePositionError`] for anything that [`Position::write_hex`] does not write.
    pub fn parse_hex(text: &[u8]) -> Result<Self, ParsePositionError> {
        if text.len() != POSITION_HEX_LEN {
            return Err(ParsePositionError);
        }
        let mut bits = 0_u128;
        for &digit in text {
            let nibble = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return Err(ParsePositionError),
            };
            bits = bits << 4 | u128::from(nibble);
        }
        Ok(Self::from_u128(bits))
    }

    const fn to_u128(self) -> u128 {
        (self.epoch.0 as u128) << 96 | (self.commit_lsn.0 as u128) << 32 | self.index as u128
    }

    const fn from_u128(bits: u128) -> Self {
        Position {
            epoch: Epoch((bits >> 96) as u32),
            commit_lsn: Lsn((bits >> 32) as u64),
            index: bits as u32,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.to_u128())
    }
}

/// A text that is not a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsePositionError;

impl fmt::Display for ParsePositionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a position: expected exactly 32 lower-case hexadecimal digits")
    }
}

impl Error for ParsePositionError {}

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Position::parse_hex(text.as_bytes())
    }
}

/// The dense number (+1 per event) of an event within (pipeline, topic, partition); the first is 1, and 0 means "none yet".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The number of the event after this one.
    ///
    /// # Panics
    /// After 2^64 - 1 events, which no partition can hold: a wrapped sequence would be silent corruption.
    #[must_use]
    pub const fn next(self) -> Sequence {
        Sequence(self.0.checked_add(1).expect("a partition holds fewer than 2^64 events"))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A partition of a topic, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position(epoch: u32, commit_lsn: u64, index: u32) -> Position {
        Position { epoch: Epoch(epoch), commit_lsn: Lsn(commit_lsn), index }
    }

    fn hex(position: Position) -> String {
        let mut text = [0; POSITION_HEX_LEN];
        position.write_hex(&mut text);
        String::from_utf8(text.to_vec()).expect("hex digits are ASCII")
    }

    #[test]
    fn text_is_eight_sixteen_eight_digits() {
        for (position, text) in [
            (position(0, 0, 0), "00000000000000000000000000000000"),
            (position(1, 0x16_B374_D848, 2), "0000000100000016b374d84800000002"),
            (position(u32::MAX, 1, 0), "ffffffff000000000000000100000000"),
            (position(0, u64::MAX, 0), "00000000ffffffffffffffff00000000"),
            (position(0, 0, u32::MAX), "000000000000000000000000ffffffff"),
        ] {
            assert_eq!(position.to_string(), text);
            assert_eq!(hex(position), text);
            assert_eq!(text.parse(), Ok(position));
        }
    }

    #[test]
    fn parsing_is_strict() {
        for text in [
            "",
            "0000000100000016b374d8480000000",
            "0000000100000016b374d848000000020",
            "0000000100000016B374D84800000002",
            "0000000100000016b374d8480000000g",
            "+000000100000016b374d84800000002",
            "0000000100000016b374d848000000é",
        ] {
            assert_eq!(text.parse::<Position>(), Err(ParsePositionError), "{text:?}");
        }
    }

    #[test]
    fn sequence_is_dense() {
        assert_eq!(Sequence::default().next(), Sequence(1));
        assert_eq!(Sequence(48_212).next(), Sequence(48_213));
    }

    #[test]
    #[should_panic(expected = "fewer than 2^64")]
    fn sequence_never_wraps() {
        let _ = Sequence(u64::MAX).next();
    }

    proptest! {
        #[test]
        fn text_order_is_position_order(a: (u32, u64, u32), b: (u32, u64, u32)) {
            let (a, b) = (position(a.0, a.1, a.2), position(b.0, b.1, b.2));
            prop_assert_eq!(hex(a).cmp(&hex(b)), a.cmp(&b));
        }

        #[test]
        fn text_order_is_position_order_where_leading_fields_are_equal(same: (u32, u64), a: u32, b: u32, lsn: u64) {
            let (low, high) = (position(same.0, same.1, a), position(same.0, same.1, b));
            prop_assert_eq!(hex(low).cmp(&hex(high)), a.cmp(&b));
            let other = position(same.0, lsn, b);
            prop_assert_eq!(hex(low).cmp(&hex(other)), low.cmp(&other));
        }

        #[test]
        fn text_round_trips(epoch: u32, lsn: u64, index: u32) {
            let position = position(epoch, lsn, index);
            prop_assert_eq!(hex(position).parse(), Ok(position));
            prop_assert_eq!(position.to_string(), hex(position));
        }
    }
}
