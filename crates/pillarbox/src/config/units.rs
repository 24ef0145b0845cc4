//! Sizes and durations as people write them.

use std::time::Duration;

/// `16MiB`, `500kB`, `1024`: bytes.
///
/// # Errors
/// What was expected; the text itself is not repeated.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let expected = || "expected a size such as 16MiB, 500kB or 1048576".to_owned();
    let (number, unit) = split(text).ok_or_else(expected)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(expected()),
    };
    number.checked_mul(factor).ok_or_else(expected)
}

/// `30s`, `500ms`, `2m`: a duration always has its unit.
///
/// # Errors
/// What was expected; the text itself is not repeated.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a duration such as 30s, 500ms or 2m".to_owned();
    let (number, unit) = split(text).ok_or_else(expected)?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
    .ok_or_else(expected)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, text[digits..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in
            [("16MiB", Some(16 << 20)), ("1 GB", Some(1_000_000_000)), ("7", Some(7)), ("0b", Some(0))]
        {
            assert_eq!(bytes(text).ok(), size, "{text}");
        }
        for text in ["", "MiB", "1.5MiB", "-1", "1 TiB", "99999999999999999999", "18446744073709551615kb"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [("30s", 30_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["30", "", "s", "1d", "-1s", "0x1s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
