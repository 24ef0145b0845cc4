//! JSON as Connect's JsonConverter writes it without schemas: compact, text escaped as Jackson does.
//!
//! Never changes what a text says.

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Writes a quoted string. Characters beyond the basic plane become escaped surrogates, others stand
/// as they are unless JSON forbids it.
pub(super) fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| needs_escape(*byte)) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        rest = &rest[escape(rest, out)..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn needs_escape(byte: u8) -> bool {
    byte < b' ' || matches!(byte, b'"' | b'\\') || byte >= 0xf0
}

/// Writes the first character of `text`; gives how many bytes it has.
fn escape(text: &[u8], out: &mut Vec<u8>) -> usize {
    let short = match text[0] {
        b'"' => b'"',
        b'\\' => b'\\',
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        byte if byte < b' ' => {
            write_unit(u16::from(byte), out);
            return 1;
        }
        byte => {
            let four = text.get(..4).and_then(|four| std::str::from_utf8(four).ok());
            let Some(character) = four.and_then(|four| four.chars().next()) else {
                // Postgres sends UTF-8; whatever this is goes on as it came.
                out.push(byte);
                return 1;
            };
            character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| write_unit(*unit, out));
            return 4;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
    1
}

fn write_unit(unit: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\u");
    out.extend([12, 8, 4, 0].map(|shift| HEX[usize::from(unit >> shift) & 0xf]));
}

/// Writes bytes as a quoted string of base64.
pub(super) fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    base64(bytes, out);
    out.push(b'"');
}

/// Writes bytes as base64.
pub(super) fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        let mut group = [18, 12, 6, 0].map(|shift| BASE64[(bits >> shift) as usize & 0x3f]);
        group[chunk.len() + 1..].fill(b'=');
        out.extend_from_slice(&group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_jackson_does() {
        for (text, json) in [
            ("plain é \u{2028}/", "\"plain é \u{2028}/\""),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("\u{8}\t\n\u{c}\r\u{1}\u{1f}\u{7f}", "\"\\b\\t\\n\\f\\r\\u0001\\u001F\u{7f}\""),
            ("x😀y", r#""x\uD83D\uDE00y""#),
        ] {
            let mut out = Vec::new();
            write_string(text.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), json);
            assert_eq!(serde_json::from_str::<String>(json).unwrap(), text);
        }
    }

    #[test]
    fn base64_is_padded() {
        for (bytes, json) in
            [(&b""[..], "\"\""), (b"f", "\"Zg==\""), (b"fo", "\"Zm8=\""), (b"\x00\xffA", "\"AP9B\"")]
        {
            let mut out = Vec::new();
            write_base64(bytes, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), json);
        }
    }
}
