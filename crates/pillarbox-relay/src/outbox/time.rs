//! Dates and timestamps as Postgres prints them with `datestyle=ISO`.
//!
//! `2001-02-03 04:05:06.789+05:30`, years beyond 9999 and ` BC` included. Never
//! looks at a clock or a time zone: without an offset a timestamp is taken as UTC, as Debezium does.

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instant(pub(super) i64);

impl Instant {
    /// Milliseconds since 1970, rounded down.
    pub(super) fn millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// `2001-02-03T04:05:06.789Z` with so many digits behind the second, 6 at most.
    pub(super) fn write_iso(self, digits: usize, out: &mut Vec<u8>) {
        let seconds = self.0.div_euclid(MICROS_PER_SECOND);
        let micros = self.0.rem_euclid(MICROS_PER_SECOND);
        let (year, month, day) = civil(seconds.div_euclid(SECONDS_PER_DAY));
        let second = seconds.rem_euclid(SECONDS_PER_DAY);
        let year = match year {
            0..=9999 => format!("{year:04}"),
            10_000.. => format!("+{year}"),
            _ => format!("-{:04}", -year),
        };
        let time = format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
        let fraction = if digits == 0 { String::new() } else { format!(".{micros:06}") };
        let fraction = &fraction[..fraction.len().min(digits + 1)];
        let text = format!("{year}-{month:02}-{day:02}T{time}{fraction}Z");
        out.extend_from_slice(text.as_bytes());
    }
}

/// Days since 1970.
pub(super) fn parse_date(text: &[u8]) -> Option<i64> {
    let (days, rest) = date(std::str::from_utf8(text).ok()?)?;
    rest.is_empty().then_some(days)
}

/// Microseconds since midnight; Postgres has a 24:00.
pub(super) fn parse_time(text: &[u8]) -> Option<i64> {
    clock(std::str::from_utf8(text).ok()?)
}

/// A finite timestamp with or without an offset.
pub(super) fn parse_timestamp(text: &[u8]) -> Option<Instant> {
    let (text, before_christ) = split_era(std::str::from_utf8(text).ok()?);
    let (day, time) = text.split_once(' ')?;
    let day = if before_christ { format!("{day} BC") } else { day.to_owned() };
    let (days, rest) = date(&day)?;
    if !rest.is_empty() {
        return None;
    }
    let end = time.find(['+', '-']).unwrap_or(time.len());
    let (time, offset) = time.split_at(end);
    let seconds = days * SECONDS_PER_DAY - signed_offset(offset)?;
    seconds.checked_mul(MICROS_PER_SECOND)?.checked_add(clock(time)?).map(Instant)
}

/// Microseconds of `hh:mm:ss.ffffff`.
fn clock(text: &str) -> Option<i64> {
    let (text, fraction) = text.split_once('.').unwrap_or((text, ""));
    let micros: i64 = match fraction.len() {
        0 => 0,
        len @ 1..=6 => fraction.parse::<i64>().ok()? * 10_i64.pow(6 - u32::try_from(len).ok()?),
        _ => return None,
    };
    Some(hms(text)? * MICROS_PER_SECOND + micros)
}

fn split_era(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |text| (text, true))
}

/// Days since 1970, and what follows the date.
fn date(text: &str) -> Option<(i64, &str)> {
    let (text, before_christ) = split_era(text);
    let (year, rest) = text.split_once('-')?;
    let (month, rest) = rest.split_once('-')?;
    let (day, rest) = rest.split_at_checked(2)?;
    let year: i64 = year.parse().ok()?;
    // The year before 1 is 1 BC.
    let year = if before_christ { 1 - year } else { year };
    Some((days(year, month.parse().ok()?, day.parse().ok()?)?, rest))
}

/// Seconds of `hh:mm:ss`, `hh:mm` or `hh`.
fn hms(text: &str) -> Option<i64> {
    let mut seconds = 0;
    for (part, unit) in text.splitn(3, ':').zip([3600, 60, 1]) {
        seconds += part.parse::<i64>().ok()? * unit;
    }
    Some(seconds)
}

fn signed_offset(text: &str) -> Option<i64> {
    match text.split_at_checked(1) {
        None => Some(0),
        Some(("-", offset)) => hms(offset).map(|seconds| -seconds),
        Some((_, offset)) => hms(offset),
    }
}

/// Days since 1970 of a date of the proleptic Gregorian calendar, counted from 1 March of year 0.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year.abs() > 300_000 {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468)
}

/// The date, days after 1970.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * of_era + of_era / 4 - of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_postgres_prints() {
        for (text, micros) in [
            ("1970-01-01 00:00:00", Some(0)),
            ("1969-12-31 23:59:59.999999", Some(-1)),
            ("2000-02-29 12:00:00.5", Some(951_825_600_500_000)),
            ("2001-02-03 04:05:06+05:30", Some(981_153_306_000_000)),
            ("2001-02-03 04:05:06-08", Some(981_201_906_000_000)),
            ("1890-01-01 00:00:00+00:53:28", Some(-2_524_524_808_000_000)),
            ("0001-12-31 00:00:00 BC", Some(-62_135_683_200_000_000)),
            ("10000-01-01 00:00:00", Some(253_402_300_800_000_000)),
            ("infinity", None),
            ("2001-13-01 00:00:00", None),
            ("2001-01-01", None),
            ("", None),
        ] {
            assert_eq!(parse_timestamp(text.as_bytes()).map(|instant| instant.0), micros, "{text}");
        }
        for (text, days) in [
            ("1970-01-01", Some(0)),
            ("2000-03-01", Some(11_017)),
            ("0001-12-31 BC", Some(-719_163)),
            ("x", None),
        ] {
            assert_eq!(parse_date(text.as_bytes()), days, "{text}");
        }
    }

    #[test]
    fn times_of_day() {
        for (text, micros) in [
            ("00:00:00", Some(0)),
            ("04:05:06.5", Some(14_706_500_000)),
            ("24:00:00", Some(86_400_000_000)),
            ("", None),
        ] {
            assert_eq!(parse_time(text.as_bytes()), micros, "{text}");
        }
    }

    #[test]
    fn iso_text() {
        for (text, digits, iso) in [
            ("2001-02-03 04:05:06.789+05:30", 6, "2001-02-02T22:35:06.789000Z"),
            ("2001-02-03 04:05:06.7+00", 3, "2001-02-03T04:05:06.700Z"),
            ("2000-02-29 00:00:00+00", 0, "2000-02-29T00:00:00Z"),
            ("1969-12-31 23:59:59.999999+00", 6, "1969-12-31T23:59:59.999999Z"),
            ("12000-01-01 00:00:00+00", 0, "+12000-01-01T00:00:00Z"),
        ] {
            let mut out = Vec::new();
            parse_timestamp(text.as_bytes()).unwrap().write_iso(digits, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), iso, "{text}");
        }
    }
}
