//! The numbers Postgres speaks in: WAL positions, transaction ids, timelines, oids, its timestamps.
//!
//! They are types so that one kind is never compared with another. A commit LSN and an end LSN share the type
//! [`Lsn`] but not the meaning: the end of one transaction can equal the commit of the next, so never compare the two.

use std::error::Error;
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// A position in the write-ahead log, in bytes since the beginning of the cluster.
///
/// Text form as Postgres prints it (`%X/%X`): `16/B374D848`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `0/0`, which Postgres calls invalid: "no position".
    pub const ZERO: Lsn = Lsn(0);

    /// True for `0/0`.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The position `bytes` further on; `None` beyond the last one.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Lsn> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Lsn(sum)),
            None => None,
        }
    }

    /// Bytes of WAL from `earlier` to here; zero when `earlier` is not earlier.
    #[must_use]
    pub const fn saturating_sub(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not an LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseLsnError;

impl fmt::Display for ParseLsnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an LSN: expected two hexadecimal numbers of 1 to 8 digits, as in 16/B374D848")
    }
}

impl Error for ParseLsnError {}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    /// As `pg_lsn_in`: two groups of 1 to 8 hexadecimal digits of either case; unlike it, no surrounding white space.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (high, low) = text.split_once('/').ok_or(ParseLsnError)?;
        Ok(Lsn(u64::from(parse_half(high)?) << 32 | u64::from(parse_half(low)?)))
    }
}

fn parse_half(digits: &str) -> Result<u32, ParseLsnError> {
    // `from_str_radix` would also take a sign.
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ParseLsnError);
    }
    u32::from_str_radix(digits, 16).map_err(|_| ParseLsnError)
}

/// A transaction id as pgoutput carries it: 32 bits, without the epoch of `xid8`; it wraps around.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Xid(pub u32);

/// A timeline of the cluster's history; it grows by one with each promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TimelineId(pub u32);

/// An object id: a relation or a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Oid(pub u32);

/// The system identifier of a cluster: given by `initdb`, kept through failover, shared by every physical copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for SystemId {
    type Err = ParseIntError;

    /// Decimal, as `IDENTIFY_SYSTEM` and `pg_control_system()` print it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(SystemId)
    }
}

/// Microseconds from the Unix epoch (1970) to the Postgres epoch (2000-01-01 UTC): 10,957 days.
const POSTGRES_EPOCH_UNIX_MICROS: i64 = 946_684_800_000_000;

/// A point in time as Postgres sends it: microseconds since 2000-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PgTimestamp(pub i64);

impl PgTimestamp {
    /// Milliseconds since 1970-01-01 UTC, rounded down; a time near the ends of the range stays at the end.
    #[must_use]
    #[inline]
    pub const fn to_unix_millis(self) -> i64 {
        self.to_unix_micros().div_euclid(1_000)
    }

    /// Microseconds since 1970-01-01 UTC; a time near the end of the range stays at the end.
    #[must_use]
    #[inline]
    pub const fn to_unix_micros(self) -> i64 {
        self.0.saturating_add(POSTGRES_EPOCH_UNIX_MICROS)
    }

    /// From microseconds since 1970-01-01 UTC; a time near the beginning of the range stays at the beginning.
    #[must_use]
    pub const fn from_unix_micros(micros: i64) -> Self {
        PgTimestamp(micros.saturating_sub(POSTGRES_EPOCH_UNIX_MICROS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_text_is_as_postgres_prints_it() {
        for (lsn, text) in [
            (0, "0/0"),
            (1, "0/1"),
            (0x16_B374_D848, "16/B374D848"),
            (0x1_0000_0000, "1/0"),
            (0xA_0000_00FF, "A/FF"),
            (u64::MAX, "FFFFFFFF/FFFFFFFF"),
        ] {
            assert_eq!(Lsn(lsn).to_string(), text);
            assert_eq!(format!("{:?}", Lsn(lsn)), text);
            assert_eq!(text.parse(), Ok(Lsn(lsn)));
        }
    }

    #[test]
    fn lsn_parsing_takes_either_case_and_leading_zeros_as_pg_lsn_does() {
        assert_eq!("16/b374d848".parse(), Ok(Lsn(0x16_B374_D848)));
        assert_eq!("00000016/000000FF".parse(), Ok(Lsn(0x16_0000_00FF)));
    }

    #[test]
    fn lsn_parsing_refuses_what_is_not_one() {
        for text in [
            "",
            "/",
            "0",
            "0/",
            "/0",
            "+1/0",
            "0/-1",
            "0/0/0",
            " 0/0",
            "0/0 ",
            "123456789/0",
            "0/000000001",
            "g/0",
            "0/é",
        ] {
            assert_eq!(text.parse::<Lsn>(), Err(ParseLsnError), "{text:?}");
        }
    }

    #[test]
    fn lsn_arithmetic_keeps_to_its_range() {
        assert_eq!(Lsn(8).checked_add(8), Some(Lsn(16)));
        assert_eq!(Lsn(u64::MAX).checked_add(1), None);
        assert_eq!(Lsn(24).saturating_sub(Lsn(8)), 16);
        assert_eq!(Lsn(8).saturating_sub(Lsn(24)), 0);
        assert!(Lsn::ZERO.is_zero() && !Lsn(1).is_zero());
        assert_eq!(Lsn::default(), Lsn::ZERO);
    }

    #[test]
    fn system_id_is_an_unsigned_decimal() {
        assert_eq!("18446744073709551615".parse(), Ok(SystemId(u64::MAX)));
        assert_eq!(SystemId(7_400_000_000_000_000_001).to_string(), "7400000000000000001");
        assert!("-1".parse::<SystemId>().is_err());
    }

    #[test]
    fn timestamps_count_from_two_thousand() {
        assert_eq!(PgTimestamp(0).to_unix_millis(), 946_684_800_000);
        assert_eq!(PgTimestamp(1_999).to_unix_millis(), 946_684_800_001);
        assert_eq!(PgTimestamp::from_unix_micros(0).to_unix_millis(), 0);
        assert_eq!(PgTimestamp::from_unix_micros(-1).to_unix_millis(), -1, "rounded down, not towards zero");
        assert_eq!(PgTimestamp(i64::MAX).to_unix_millis(), i64::MAX / 1_000);
        assert_eq!(PgTimestamp::from_unix_micros(i64::MIN), PgTimestamp(i64::MIN));
    }
}
