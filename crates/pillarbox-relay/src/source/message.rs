//! The few backend messages that matter here, borrowed from the buffer. Pure; malformed input is
//! an error, never a panic, and is not quoted in it.

use super::error::{ServerError, SourceError};

/// A notice of the server. Its text may be in any language: decide by `sqlstate` and `routine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice<'a> {
    /// `WARNING`, `NOTICE`, ..., not localised.
    pub severity: &'a str,
    /// Five characters.
    pub sqlstate: &'a str,
    /// The primary text.
    pub message: &'a str,
    /// The function of the server that raised it; `LoadPublications` means skipped rows.
    pub routine: &'a str,
}

/// A field of ErrorResponse or NoticeResponse that is not UTF-8.
const UNREADABLE: &str = "(text in another encoding)";

/// All fields of ErrorResponse and NoticeResponse that are used.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Fields<'a> {
    severity: &'a str,
    sqlstate: &'a str,
    message: &'a str,
    detail: Option<&'a str>,
    hint: Option<&'a str>,
    routine: &'a str,
}

impl<'a> Fields<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, SourceError> {
        let mut fields = Self::default();
        let mut rest = body;
        loop {
            let (&kind, tail) = rest.split_first().ok_or(SourceError::Malformed("a notice without end"))?;
            if kind == 0 {
                return Ok(fields);
            }
            let text;
            (text, rest) = split_cstr(tail)?;
            let text = std::str::from_utf8(text).unwrap_or(UNREADABLE);
            match kind {
                b'V' => fields.severity = text,
                // Localised; `V` follows or precedes it on every supported server.
                b'S' if fields.severity.is_empty() => fields.severity = text,
                b'C' => fields.sqlstate = text,
                b'M' => fields.message = text,
                b'D' => fields.detail = Some(text),
                b'H' => fields.hint = Some(text),
                b'R' => fields.routine = text,
                _ => {}
            }
        }
    }

    pub(super) fn notice(self) -> Notice<'a> {
        Notice {
            severity: self.severity,
            sqlstate: self.sqlstate,
            message: self.message,
            routine: self.routine,
        }
    }

    pub(super) fn error(self) -> Box<ServerError> {
        Box::new(ServerError {
            severity: self.severity.to_owned(),
            sqlstate: self.sqlstate.to_owned(),
            message: self.message.to_owned(),
            detail: self.detail.map(str::to_owned),
            hint: self.hint.map(str::to_owned),
            routine: self.routine.to_owned(),
        })
    }
}

/// Splits at the first NUL, which belongs to neither part.
pub(super) fn split_cstr(bytes: &[u8]) -> Result<(&[u8], &[u8]), SourceError> {
    let end = bytes.iter().position(|&b| b == 0).ok_or(SourceError::Malformed("a text without end"))?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

/// Takes `N` bytes off the front.
pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], SourceError> {
    let Some((head, tail)) = bytes.split_first_chunk::<N>() else {
        return Err(SourceError::Malformed("a message that is too short"));
    };
    *bytes = tail;
    Ok(*head)
}

/// The columns of a DataRow as text; `None` is NULL.
pub(super) fn parse_data_row(body: &[u8]) -> Result<Vec<Option<String>>, SourceError> {
    let mut rest = body;
    let columns = i16::from_be_bytes(take(&mut rest)?);
    let mut row = Vec::new();
    for _ in 0..columns {
        let Ok(bytes) = usize::try_from(i32::from_be_bytes(take(&mut rest)?)) else {
            row.push(None);
            continue;
        };
        let (value, tail) =
            rest.split_at_checked(bytes).ok_or(SourceError::Malformed("a column that is too short"))?;
        let text =
            std::str::from_utf8(value).map_err(|_| SourceError::Malformed("a column that is not UTF-8"))?;
        row.push(Some(text.to_owned()));
        rest = tail;
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_prefer_the_severity_that_is_not_localised() {
        let body = b"SFEHLER\0VERROR\0C42704\0Mnope\0Dthe detail\0Hthe hint\0Rroutine\0Ffile.c\0\0";
        let error = Fields::parse(body).expect("fields").error();
        assert_eq!(error.severity, "ERROR");
        assert_eq!(error.sqlstate, "42704");
        assert_eq!(error.detail.as_deref(), Some("the detail"));
        assert_eq!(error.hint.as_deref(), Some("the hint"));
        assert_eq!(error.routine, "routine");
    }

    #[test]
    fn fields_survive_another_encoding() {
        assert_eq!(Fields::parse(b"M\xe4\0\0").expect("fields").notice().message, UNREADABLE);
    }

    #[test]
    fn data_rows_tell_null_from_empty() {
        let body = b"\0\x03\xff\xff\xff\xff\0\0\0\0\0\0\0\x02ab";
        let row = parse_data_row(body).expect("a row");
        assert_eq!(row, [None, Some(String::new()), Some("ab".to_owned())]);
    }

    #[test]
    fn cut_messages_are_errors() {
        let row = b"\0\x03\xff\xff\xff\xff\0\0\0\0\0\0\0\x02ab";
        for end in 0..row.len() {
            assert!(parse_data_row(&row[..end]).is_err(), "{end}");
        }
        let fields = b"SERROR\0Mnope\0\0";
        for end in 0..fields.len() {
            assert!(Fields::parse(&fields[..end]).is_err(), "{end}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_row_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_data_row(&bytes);
            let _ = Fields::parse(&bytes).map(Fields::notice);
        }
    }
}
