//! What a replication session asks for, whatever the defaults of server, database and role are.

/// Settings of every session, in the syntax of the startup parameter `options`.
pub(super) const SESSION_OPTIONS: &str = "-c wal_sender_timeout=60s \
    -c bytea_output=hex \
    -c extra_float_digits=1 \
    -c datestyle=ISO \
    -c intervalstyle=postgres \
    -c standard_conforming_strings=on \
    -c quote_all_identifiers=off \
    -c client_min_messages=warning";

/// Options of pgoutput, after the quoted publication. Version 1: whole transactions, in commit
/// order, after their commit; the later versions interleave transactions that may still abort.
pub(super) const PROTOCOL_VERSION: &str = "1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_setting_after_setting() {
        let words: Vec<&str> = SESSION_OPTIONS.split(' ').collect();
        for pair in words.chunks(2) {
            assert_eq!(pair[0], "-c");
            assert!(pair[1].contains('='), "{}", pair[1]);
        }
    }
}
