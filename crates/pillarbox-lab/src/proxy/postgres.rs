//! Postgres as far as triggers need it: the startup packet, and standby status updates.
//!
//! Written against <https://www.postgresql.org/docs/current/protocol-message-formats.html>.

use super::cursor::Cursor;
use super::weather::Kind;

/// Major version 3 in the upper half of the code of a startup packet.
const VERSION: i32 = 3;

/// The kind of the connection that a startup packet opens; none for packets that come before it.
pub(super) fn opens(packet: &[u8]) -> Option<Kind> {
    let mut cursor = Cursor(packet);
    cursor.i32()?;
    if cursor.i32()? >> 16 != VERSION {
        return None;
    }
    let mut parameters = cursor.0.split(|byte| *byte == 0);
    while let (Some(name), Some(value)) = (parameters.next(), parameters.next()) {
        if name == b"replication" {
            let off: [&[u8]; 4] = [b"false", b"off", b"no", b"0"];
            return Some(if off.contains(&value) { Kind::Plain } else { Kind::Stream });
        }
    }
    Some(Kind::Plain)
}

/// Whether a message of a client is a standby status update: `r` in CopyData.
pub(super) fn is_standby_status(message: &[u8]) -> bool {
    message.first() == Some(&b'd') && message.get(5) == Some(&b'r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: i32, parameters: &[u8]) -> Vec<u8> {
        let length = i32::try_from(8 + parameters.len()).expect("short");
        [&length.to_be_bytes(), &code.to_be_bytes(), parameters].concat()
    }

    #[test]
    fn a_startup_packet_says_what_for() {
        let table: [(i32, &[u8], Option<Kind>); 6] = [
            (196_608, b"user\0me\0replication\0database\0\0", Some(Kind::Stream)),
            (196_610, b"replication\0true\0user\0me\0\0", Some(Kind::Stream)),
            (196_608, b"user\0me\0replication\0off\0\0", Some(Kind::Plain)),
            (196_608, b"user\0replication\0\0", Some(Kind::Plain)),
            (80_877_103, b"", None),
            (80_877_102, b"12345678", None),
        ];
        for (code, parameters, kind) in table {
            assert_eq!(opens(&packet(code, parameters)), kind, "{code}");
        }
        assert_eq!(opens(b"123"), None);
    }

    #[test]
    fn a_status_is_told_from_other_messages() {
        assert!(is_standby_status(b"d\0\0\0\x26r0000"));
        assert!(!is_standby_status(b"d\0\0\0\x26h0000"));
        assert!(!is_standby_status(b"Q\0\0\0\x26r0000"));
        assert!(!is_standby_status(b"d"));
    }
}
