//! Values of columns, by what their types mean: as text, as a number, as JSON.
//!
//! A consumer of Debezium finds what it found before: booleans are `true` and `false`, dates days,
//! times and timestamps without zone microseconds (milliseconds up to a precision of 3), timestamps
//! with zone ISO text in UTC, floating-point numbers as Java prints them, bytea base64 in JSON. Other
//! types are their text. Never reads a value that no configuration names.

use pillarbox_wire::lsn::Oid;
use pillarbox_wire::pgoutput::Column;

use super::json;
use super::number::{write_f32, write_f64};
use super::time::{parse_date, parse_time, parse_timestamp};

pub(super) const NOT_INSERTED: &str = "an inserted row has no value for it";

/// What a column's type means for a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its text, whatever it is.
    Text,
    Bytea,
    Bool,
    Integer,
    Float4,
    Float8,
    Date,
    /// Without time zone; milliseconds for a precision up to 3.
    Time {
        millis: bool,
    },
    Timestamp {
        millis: bool,
    },
    /// With as many digits behind the second.
    TimestampTz {
        digits: usize,
    },
}

impl Kind {
    /// By the type's oid and modifier, see `pg_type.dat`; the modifier of a timestamp is its precision.
    pub(super) fn of(type_oid: Oid, modifier: i32) -> Self {
        match type_oid.0 {
            16 => Self::Bool,
            17 => Self::Bytea,
            20 | 21 | 23 | 26 => Self::Integer,
            700 => Self::Float4,
            701 => Self::Float8,
            1082 => Self::Date,
            1083 => Self::Time { millis: (0..=3).contains(&modifier) },
            1114 => Self::Timestamp { millis: (0..=3).contains(&modifier) },
            1184 => Self::TimestampTz { digits: usize::try_from(modifier).map_or(6, |digits| digits.min(6)) },
            _ => Self::Text,
        }
    }

    /// Whether the stream's bytes are the value.
    pub(super) fn is_verbatim(self) -> bool {
        matches!(self, Self::Text | Self::Integer)
    }
}

/// Where a value is: in the row itself, or from here on in the scratch buffer.
pub(super) enum Plain<'a> {
    Input(&'a [u8]),
    Scratch(usize),
}

/// A column as text (bytea as bytes), perhaps behind what the scratch buffer holds; `None` = NULL.
#[inline]
pub(super) fn plain<'a>(
    column: Column<'a>,
    kind: Kind,
    scratch: &mut Vec<u8>,
) -> Result<Option<Plain<'a>>, &'static str> {
    match column {
        Column::Null => Ok(None),
        Column::Text(bytes) | Column::Binary(bytes) if kind.is_verbatim() => Ok(Some(Plain::Input(bytes))),
        Column::Text(text) => {
            let start = scratch.len();
            convert(text, kind, scratch)?;
            Ok(Some(Plain::Scratch(start)))
        }
        Column::Binary(_) => Err("it is sent in binary form"),
        Column::Unchanged => Err(NOT_INSERTED),
    }
}

fn convert(text: &[u8], kind: Kind, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let start = out.len();
    let converted = match kind {
        Kind::Text | Kind::Integer => None,
        Kind::Bytea => return unhex(text, out),
        Kind::Bool => {
            out.extend_from_slice(if text == b"t" { b"true" } else { b"false" });
            Some(())
        }
        Kind::Float4 => parse(text).map(|float| write_f32(float, out)),
        Kind::Float8 => parse(text).map(|float| write_f64(float, out)),
        Kind::Date => parse_date(text).map(|days| out.extend_from_slice(days.to_string().as_bytes())),
        Kind::Time { millis } => parse_time(text).map(|micros| write_micros(micros, millis, out)),
        Kind::Timestamp { millis } => infinite(text, millis)
            .or_else(|| {
                parse_timestamp(text).map(|instant| if millis { instant.millis() } else { instant.0 })
            })
            .map(|number| out.extend_from_slice(number.to_string().as_bytes())),
        Kind::TimestampTz { digits } => parse_timestamp(text).map(|instant| instant.write_iso(digits, out)),
    };
    // What has no such form, as the infinite date, is its text: no event halts for the form of a value.
    if converted.is_none() {
        out.truncate(start);
        out.extend_from_slice(text);
    }
    Ok(())
}

fn write_micros(micros: i64, millis: bool, out: &mut Vec<u8>) {
    let number = if millis { micros / 1000 } else { micros };
    out.extend_from_slice(number.to_string().as_bytes());
}

/// What Debezium writes for timestamps that never end: milliseconds of Java's driver, which overflow
/// as microseconds.
fn infinite(text: &[u8], millis: bool) -> Option<i64> {
    match (text, millis) {
        (b"infinity", true) => Some(9_223_372_036_825_200_000),
        (b"-infinity", true) => Some(-9_223_372_036_832_400_000),
        (b"infinity", false) => Some(i64::MAX),
        (b"-infinity", false) => Some(i64::MIN),
        _ => None,
    }
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A value as text becomes JSON.
pub(super) fn write_json(plain: Option<&[u8]>, kind: Kind, out: &mut Vec<u8>) {
    let Some(plain) = plain else { return out.extend_from_slice(b"null") };
    match kind {
        Kind::Text | Kind::TimestampTz { .. } => json::write_string(plain, out),
        Kind::Bytea => json::write_base64(plain, out),
        // Infinity and NaN are no JSON numbers.
        Kind::Bool
        | Kind::Integer
        | Kind::Float4
        | Kind::Float8
        | Kind::Date
        | Kind::Time { .. }
        | Kind::Timestamp { .. } => {
            let last = plain.last().copied().unwrap_or(b'-');
            let bare = last.is_ascii_digit() || kind == Kind::Bool;
            if bare { out.extend_from_slice(plain) } else { json::write_string(plain, out) }
        }
    }
}

/// A column that holds a partition; `None` = NULL.
pub(super) fn partition(column: Column<'_>, kind: Kind) -> Result<Option<u32>, &'static str> {
    match column {
        Column::Null => Ok(None),
        Column::Text(text) if kind == Kind::Integer => parse(text).map(Some).ok_or("it is no partition"),
        Column::Unchanged => Err(NOT_INSERTED),
        Column::Text(_) | Column::Binary(_) => Err("a partition is an integer"),
    }
}

/// A column that holds a time, in milliseconds since 1970; `None` = NULL or infinity.
pub(super) fn unix_millis(column: Column<'_>, kind: Kind) -> Result<Option<i64>, &'static str> {
    match (column, kind) {
        (Column::Null, _) => Ok(None),
        (Column::Text(b"infinity" | b"-infinity"), Kind::Timestamp { .. } | Kind::TimestampTz { .. }) => {
            Ok(None)
        }
        (Column::Text(text), Kind::Timestamp { .. } | Kind::TimestampTz { .. }) => {
            parse_timestamp(text).map(|instant| Some(instant.millis())).ok_or("it is no timestamp")
        }
        (Column::Unchanged, _) => Err(NOT_INSERTED),
        (Column::Text(_) | Column::Binary(_), _) => Err("a record's time is a timestamp"),
    }
}

/// Decodes bytea's hex output, `\x6162`, behind what the buffer holds.
fn unhex(text: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let hex = text.strip_prefix(b"\\x").ok_or("bytea is not in hex format")?;
    if !hex.len().is_multiple_of(2) {
        return Err("bytea has half a byte");
    }
    out.reserve(hex.len() / 2);
    for pair in hex.chunks_exact(2) {
        let (high, low) = (NIBBLES[pair[0] as usize], NIBBLES[pair[1] as usize]);
        if (high | low) > 0xf {
            return Err("bytea has a character that is not hex");
        }
        out.push(high << 4 | low);
    }
    Ok(())
}

const NIBBLES: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut at = 0;
    while at < 10 {
        table[b'0' as usize + at] = at as u8;
        at += 1;
    }
    let mut at = 0;
    while at < 6 {
        table[b'a' as usize + at] = 10 + at as u8;
        table[b'A' as usize + at] = 10 + at as u8;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unhex_reads_what_postgres_writes() {
        let mut out = vec![1];
        assert_eq!(unhex(b"\\x00ffAb", &mut out), Ok(()));
        assert_eq!(out, [1, 0, 0xff, 0xab]);
        for bad in [&b"6162"[..], b"\\x6", b"\\x6g", b""] {
            assert!(unhex(bad, &mut Vec::new()).is_err(), "{bad:?}");
        }
    }

    /// (oid, modifier, text of Postgres, as text, as JSON)
    const VALUES: &[(u32, i32, &str, &str, &str)] = &[
        (25, -1, "a\"b", "a\"b", "\"a\\\"b\""),
        (2950, -1, "0-1", "0-1", "\"0-1\""),
        (16, -1, "t", "true", "true"),
        (16, -1, "f", "false", "false"),
        (23, -1, "-5", "-5", "-5"),
        (17, -1, "\\x00ff41", "\0\u{fffd}A", "\"AP9B\""),
        (701, -1, "1.5e-05", "1.5E-5", "1.5E-5"),
        (701, -1, "NaN", "NaN", "\"NaN\""),
        (701, -1, "-Infinity", "-Infinity", "\"-Infinity\""),
        (700, -1, "0.1", "0.1", "0.1"),
        (1082, -1, "1970-01-03", "2", "2"),
        (1082, -1, "infinity", "infinity", "\"infinity\""),
        (1114, -1, "1970-01-01 00:00:01.5", "1500000", "1500000"),
        (1114, 3, "1970-01-01 00:00:01.5", "1500", "1500"),
        (
            1184,
            -1,
            "2001-02-03 04:05:06.5+02",
            "2001-02-03T02:05:06.500000Z",
            "\"2001-02-03T02:05:06.500000Z\"",
        ),
        (1184, 0, "2001-02-03 04:05:06+02", "2001-02-03T02:05:06Z", "\"2001-02-03T02:05:06Z\""),
        (1184, -1, "infinity", "infinity", "\"infinity\""),
        (1083, -1, "04:05:06.5", "14706500000", "14706500000"),
        (1083, 3, "04:05:06.5", "14706500", "14706500"),
        (1114, -1, "infinity", "9223372036854775807", "9223372036854775807"),
        (1114, 3, "-infinity", "-9223372036832400000", "-9223372036832400000"),
        (1700, -1, "1.50", "1.50", "\"1.50\""),
    ];

    #[test]
    fn values_are_what_their_types_mean() {
        for (oid, modifier, text, as_text, as_json) in VALUES {
            let kind = Kind::of(Oid(*oid), *modifier);
            let mut scratch = Vec::new();
            let value = match plain(Column::Text(text.as_bytes()), kind, &mut scratch).unwrap().unwrap() {
                Plain::Input(bytes) => bytes.to_vec(),
                Plain::Scratch(start) => scratch.split_off(start),
            };
            assert_eq!(String::from_utf8_lossy(&value), *as_text, "{oid}");
            let mut json = Vec::new();
            write_json(Some(&value), kind, &mut json);
            assert_eq!(String::from_utf8_lossy(&json), *as_json, "{oid}");
        }
    }

    #[test]
    fn partitions_and_times_have_their_types() {
        assert_eq!(partition(Column::Text(b"3"), Kind::Integer), Ok(Some(3)));
        assert_eq!(partition(Column::Null, Kind::Integer), Ok(None));
        assert!(partition(Column::Text(b"-1"), Kind::Integer).is_err());
        assert!(partition(Column::Text(b"3"), Kind::Text).is_err());
        let kind = Kind::Timestamp { millis: false };
        assert_eq!(unix_millis(Column::Text(b"1970-01-01 00:00:01.5"), kind), Ok(Some(1500)));
        assert_eq!(unix_millis(Column::Text(b"infinity"), kind), Ok(None));
        assert!(unix_millis(Column::Text(b"5"), Kind::Integer).is_err());
    }
}
