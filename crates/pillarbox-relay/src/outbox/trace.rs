//! The propagated trace of an event: W3C headers out of a column.
//!
//! ```text
//! #Thu Nov 26 06:00:00 UTC 2026
//! traceparent=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
//! tracestate=vendor\\=value
//! ```
//!
//! That is how Java stores properties, and what the libraries write that work with Debezium; a bare
//! `traceparent` is taken too. Never halts anything: what cannot be understood is no trace.

use std::ops::Range;

use crate::config::TRACE_HEADERS;

/// Length of a `traceparent` of version 00.
const TRACEPARENT_LEN: usize = 55;

/// Where the header values stand in `out`, behind what it holds, in the order of [`TRACE_HEADERS`].
pub(super) fn read(text: &[u8], out: &mut Vec<u8>) -> [Option<Range<usize>>; TRACE_HEADERS.len()] {
    let mut found = [const { None }; TRACE_HEADERS.len()];
    if is_traceparent(text) {
        found[0] = Some(push(text, out));
        return found;
    }
    for line in text.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let line = line.trim_ascii_start();
        if line.starts_with(b"#") || line.starts_with(b"!") {
            continue;
        }
        let Some(end) = line.iter().position(|byte| matches!(byte, b'=' | b':' | b' ' | b'\t')) else {
            continue;
        };
        let (name, value) = line.split_at(end);
        let Some(at) = TRACE_HEADERS.iter().position(|header| header.as_bytes() == name) else { continue };
        let value = value.trim_ascii_start();
        let value = value.strip_prefix(b"=").or_else(|| value.strip_prefix(b":")).unwrap_or(value);
        let start = out.len();
        unescape(value.trim_ascii_start(), out);
        found[at] = Some(start..out.len());
    }
    // The others say nothing without it.
    let parent = found[0].clone().filter(|parent| is_traceparent(&out[parent.clone()]));
    if parent.is_none() { [const { None }; TRACE_HEADERS.len()] } else { found }
}

fn push(text: &[u8], out: &mut Vec<u8>) -> Range<usize> {
    let start = out.len();
    out.extend_from_slice(text);
    start..out.len()
}

/// Header values are ASCII; of the escapes of properties only the backslash before a character occurs.
fn unescape(text: &[u8], out: &mut Vec<u8>) {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        let byte = if *byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte };
        out.push(*byte);
    }
}

/// `00-<32 hex>-<16 hex>-<2 hex>`; later versions may be longer.
fn is_traceparent(text: &[u8]) -> bool {
    let dash = |at: usize| matches!(at, 2 | 35 | 52);
    let fits = |(at, byte): (usize, &u8)| {
        if dash(at) { *byte == b'-' } else { matches!(byte, b'0'..=b'9' | b'a'..=b'f') }
    };
    let (head, tail) = text.split_at(text.len().min(TRACEPARENT_LEN));
    let tail = tail.is_empty() || (tail[0] == b'-' && !text.starts_with(b"00"));
    head.len() == TRACEPARENT_LEN && head.iter().enumerate().all(fits) && tail && !text.starts_with(b"ff")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn read_texts(text: &str) -> [Option<String>; 3] {
        let mut out = b"before".to_vec();
        let found = read(text.as_bytes(), &mut out);
        found.map(|range| range.map(|range| String::from_utf8(out[range].to_vec()).unwrap()))
    }

    #[test]
    fn properties_and_a_bare_parent() {
        let parent = Some(PARENT.to_owned());
        for (text, expected) in [
            (PARENT.to_owned(), [parent.clone(), None, None]),
            (format!("#date\ntraceparent={PARENT}\n"), [parent.clone(), None, None]),
            (
                format!("tracestate=a\\=b,c\\=d\r\n!x\r\nbaggage = k\\:v \r\ntraceparent: {PARENT}"),
                [parent.clone(), Some("a=b,c=d".into()), Some("k:v ".into())],
            ),
            (format!("traceparents={PARENT}"), [None, None, None]),
            ("traceparent=00-x\ntracestate=a".into(), [None, None, None]),
            (format!("{PARENT}-more"), [None, None, None]),
            (String::new(), [None, None, None]),
        ] {
            assert_eq!(read_texts(&text), expected, "{text}");
        }
    }
}
