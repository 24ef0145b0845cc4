//! Floating-point numbers as Java prints them (since 19: the shortest digits that read back).
//!
//! `1.5`, `1.0E-5`, `1.0E7`: plain between 10^-3 and 10^7, with an exponent elsewhere, always with a
//! digit behind the point. Never loses a bit.

/// Writes a double as `Double.toString` does.
pub(super) fn write_f64(value: f64, out: &mut Vec<u8>) {
    let two = format!("{value:.1e}");
    let same = two.parse() == Ok(value);
    write(value, pick(format!("{value:e}"), two, same), out);
}

/// Writes a float as `Float.toString` does.
pub(super) fn write_f32(value: f32, out: &mut Vec<u8>) {
    let two = format!("{value:.1e}");
    let same = two.parse() == Ok(value);
    write(f64::from(value), pick(format!("{value:e}"), two, same), out);
}

/// Where one digit is enough Java takes the nearest two that read back the same: a difference among
/// the smallest numbers only, elsewhere the second digit is 0.
fn pick(shortest: String, two: String, same: bool) -> String {
    if same && !shortest.contains('.') { two } else { shortest }
}

/// `text` is the number as `{:e}` prints it.
fn write(value: f64, text: String, out: &mut Vec<u8>) {
    if !value.is_finite() {
        let text: &[u8] = match (value.is_nan(), value > 0.0) {
            (true, _) => b"NaN",
            (false, true) => b"Infinity",
            (false, false) => b"-Infinity",
        };
        return out.extend_from_slice(text);
    }
    let (mantissa, exponent) = text.split_once('e').expect("Rust prints an exponent");
    let exponent: i32 = exponent.parse().expect("Rust prints a number");
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    if mantissa.starts_with('-') {
        out.push(b'-');
    }
    let plain = value == 0.0 || (-3..7).contains(&exponent);
    let (whole, fraction) = if !plain {
        digits.split_at(1)
    } else if exponent < 0 {
        let zeros = exponent.unsigned_abs() as usize - 1;
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', zeros));
        return out.extend_from_slice(digits.trim_end_matches('0').as_bytes());
    } else {
        let whole = exponent.unsigned_abs() as usize + 1;
        if whole >= digits.len() {
            out.extend_from_slice(digits.as_bytes());
            out.extend(std::iter::repeat_n(b'0', whole - digits.len()));
            return out.extend_from_slice(b".0");
        }
        digits.split_at(whole)
    };
    let fraction = fraction.trim_end_matches('0');
    out.extend_from_slice(whole.as_bytes());
    out.push(b'.');
    out.extend_from_slice(if fraction.is_empty() { b"0" } else { fraction.as_bytes() });
    if !plain {
        out.extend_from_slice(format!("E{exponent}").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn java(value: f64) -> String {
        let mut out = Vec::new();
        write_f64(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn as_java_prints_them() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.5, "1.5"),
            (100.0, "100.0"),
            (0.001, "0.001"),
            (0.002, "0.002"),
            (1e-5, "1.0E-5"),
            (123_456.7, "123456.7"),
            (9_999_999.0, "9999999.0"),
            (1e7, "1.0E7"),
            (12_345_678.9, "1.23456789E7"),
            (-1e21, "-1.0E21"),
            (3.402_823_5e38, "3.4028235E38"),
            (2.225_073_858_507_201_4e-308, "2.2250738585072014E-308"),
            (4.9e-324, "4.9E-324"),
            (9_007_199_254_740_993.0, "9.007199254740992E15"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(java(value), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn every_number_reads_back(value: f64) {
            let text = java(value);
            if value.is_nan() {
                proptest::prop_assert_eq!(text, "NaN");
            } else {
                let back: f64 = text.replace("Infinity", "inf").parse().unwrap();
                proptest::prop_assert_eq!(back.to_bits(), value.to_bits());
            }
        }
    }
}
