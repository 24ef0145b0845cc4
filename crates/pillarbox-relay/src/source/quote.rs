//! Names and texts as SQL and as the replication grammar spell them.
//!
//! Every session of ours has `standard_conforming_strings` on, so that doubling the quote is all
//! there is; a NUL cannot be sent at all and is refused where the message is built.

/// `name` as a quoted identifier, for SQL and for replication commands.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `text` as a string literal, for SQL and for replication commands.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled_and_nothing_else_changes() {
        for (text, identifier, literal) in [
            ("orders", "\"orders\"", "'orders'"),
            ("Or ders", "\"Or ders\"", "'Or ders'"),
            ("a\"b", "\"a\"\"b\"", "'a\"b'"),
            ("a'b", "\"a'b\"", "'a''b'"),
            ("a\\'b", "\"a\\'b\"", "'a\\''b'"),
            ("", "\"\"", "''"),
        ] {
            assert_eq!(quote_identifier(text), identifier);
            assert_eq!(quote_literal(text), literal);
        }
    }

    #[test]
    fn a_publication_is_quoted_twice_in_its_option() {
        assert_eq!(quote_literal(&quote_identifier("it's \"p\"")), "'\"it''s \"\"p\"\"\"'");
    }
}
