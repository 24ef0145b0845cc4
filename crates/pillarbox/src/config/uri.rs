//! A libpq connection URI: `postgres://user:password@host:port/database?param=value`.
//!
//! Follows the manual's "Connection URIs": every part is optional and percent-encoded. Pure text;
//! an error never repeats the URI, which may hold a password.

use pillarbox_relay::config::{ChannelBinding, TlsMode};
use pillarbox_relay::error::Code;

/// The parts that were written; what is absent is for the environment and the defaults.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Uri {
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) tls_mode: Option<TlsMode>,
    pub(crate) channel_binding: Option<ChannelBinding>,
    /// `sslrootcert`, `sslcert`, `sslkey`, `passfile`: paths.
    pub(crate) ca: Option<String>,
    pub(crate) certificate: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) password_file: Option<String>,
}

/// Why a URI cannot be used: not legal, or legal and not supported by this version.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UriError {
    pub(crate) code: Code,
    pub(crate) message: String,
}

fn illegal<T>(message: impl Into<String>) -> Result<T, UriError> {
    Err(UriError { code: Code::ConfigValue, message: message.into() })
}

fn unsupported<T>(message: impl Into<String>) -> Result<T, UriError> {
    Err(UriError { code: Code::ConfigUnsupported, message: message.into() })
}

impl Uri {
    /// Parses a URI.
    ///
    /// # Errors
    /// The first rule that `text` breaks.
    pub(crate) fn parse(text: &str) -> Result<Self, UriError> {
        let Some(rest) = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme))
        else {
            return illegal("expected a URI such as postgres://user@host:5432/database");
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let mut uri = Uri { database: some(decode(database)?), ..Uri::default() };
        let address = match authority.rsplit_once('@') {
            Some((login, address)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                (uri.user, uri.password) = (some(decode(user)?), some(decode(password)?));
                address
            }
            None => authority,
        };
        uri.address(address)?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            uri.parameter(pair)?;
        }
        Ok(uri)
    }

    fn address(&mut self, address: &str) -> Result<(), UriError> {
        if address.contains(',') {
            return unsupported("a URI with several hosts is not supported by this version");
        }
        let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':').unwrap_or(port)),
            None => address.rsplit_once(':').unwrap_or((address, "")),
        };
        self.host = some(decode(host)?);
        if !port.is_empty() {
            self.port = Some(parse_port(port)?);
        }
        Ok(())
    }

    fn parameter(&mut self, pair: &str) -> Result<(), UriError> {
        let Some((name, value)) = pair.split_once('=') else {
            return illegal("every parameter of the URI needs a value");
        };
        let value = decode(value)?;
        match name {
            "host" => self.host = some(value),
            "port" => self.port = Some(parse_port(&value)?),
            "user" => self.user = some(value),
            "password" => self.password = some(value),
            "dbname" => self.database = some(value),
            "sslmode" => self.tls_mode = Some(word(name, &value)?),
            "channel_binding" => self.channel_binding = Some(word(name, &value)?),
            "sslrootcert" => self.ca = some(value),
            "sslcert" => self.certificate = some(value),
            "sslkey" => self.key = some(value),
            "passfile" => self.password_file = some(value),
            // What JDBC writes, and libpq takes.
            "ssl" if value == "true" => self.tls_mode = Some(TlsMode::Require),
            "gssencmode" if matches!(value.as_str(), "disable" | "prefer") => {}
            _ if LIBPQ_PARAMETERS.contains(&name) => {
                return unsupported(format!("URI parameter {name} is not supported by this version"));
            }
            _ => return illegal(format!("the URI has an unknown parameter `{name}`")),
        }
        Ok(())
    }
}

/// Parameters that libpq knows and this version does not act upon.
const LIBPQ_PARAMETERS: &[&str] = &[
    "application_name",
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssencmode",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "options",
    "replication",
    "require_auth",
    "service",
    "ssl",
    "sslcrl",
    "sslnegotiation",
    "sslpassword",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
];

/// A parameter that is one of a few words.
///
/// # Errors
/// Every other word.
pub(crate) fn word<T: std::str::FromStr<Err = String>>(name: &str, value: &str) -> Result<T, UriError> {
    value.parse().or_else(|expected| illegal(format!("{name}: {expected}")))
}

/// A TCP port.
///
/// # Errors
/// Anything but 1 to 65535.
pub(crate) fn parse_port(text: &str) -> Result<u16, UriError> {
    match text.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => illegal("the port must be a number from 1 to 65535"),
    }
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn decode(text: &str) -> Result<String, UriError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (digit(0), digit(1)) {
            // Two hex digits fit a byte; libpq forbids %00 as well.
            (Some(high), Some(low)) if high + low > 0 => bytes.push((high * 16 + low) as u8),
            _ => return illegal("the URI has a % that is not followed by two hex digits (write %25 for %)"),
        }
        rest = &tail[2..];
    }
    String::from_utf8(bytes).or_else(|_| illegal("the URI is not UTF-8 after percent-decoding"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(
        user: &str,
        password: &str,
        host: &str,
        port: Option<u16>,
        database: &str,
    ) -> Result<Uri, UriError> {
        let part = |text: &str| some(text.to_owned());
        Ok(Uri {
            host: part(host),
            port,
            user: part(user),
            password: part(password),
            database: part(database),
            ..Uri::default()
        })
    }

    #[test]
    fn legal_uris() {
        for (text, parsed) in [
            ("postgres://", uri("", "", "", None, "")),
            ("postgresql://u@h/d", uri("u", "", "h", None, "d")),
            ("postgres://u:p%40%2f@h:5433/d%20b", uri("u", "p@/", "h", Some(5433), "d b")),
            ("postgres://u:p@ss@h/d", uri("u", "p@ss", "h", None, "d")),
            ("postgres://[::1]:5433/d", uri("", "", "::1", Some(5433), "d")),
            ("postgres://[::1]", uri("", "", "::1", None, "")),
            ("postgres://%2Fvar%2Frun/d", uri("", "", "/var/run", None, "d")),
            ("postgres:///d?host=/tmp&port=1&user=a&password=b%26", uri("a", "b&", "/tmp", Some(1), "d")),
            ("postgres://h/d?gssencmode=disable", uri("", "", "h", None, "d")),
        ] {
            assert_eq!(Uri::parse(text), parsed, "{text}");
        }
    }

    #[test]
    fn refused_uris() {
        for (text, code, part) in [
            ("mysql://h/d", Code::ConfigValue, "expected a URI"),
            ("host=h dbname=d", Code::ConfigValue, "expected a URI"),
            ("postgres://h:0/d", Code::ConfigValue, "port"),
            ("postgres://h:x/d", Code::ConfigValue, "port"),
            ("postgres://u:50%@h/d", Code::ConfigValue, "%25"),
            ("postgres://h/d?%00=1", Code::ConfigValue, "unknown parameter"),
            ("postgres://h/%00", Code::ConfigValue, "%25"),
            ("postgres://h/d?sslmode=full", Code::ConfigValue, "sslmode"),
            ("postgres://h/d?channel_binding=no", Code::ConfigValue, "channel_binding: expected disable"),
            ("postgres://h/d?sslcrl=a", Code::ConfigUnsupported, "sslcrl"),
            ("postgres://a,b/d", Code::ConfigUnsupported, "several hosts"),
            ("postgres://h/d?options=-c", Code::ConfigUnsupported, "options"),
            ("postgres://h/d?optoins=-c", Code::ConfigValue, "optoins"),
        ] {
            let error = Uri::parse(text).unwrap_err();
            assert_eq!(error.code, code, "{text}");
            assert!(error.message.contains(part), "{text}: {}", error.message);
        }
    }

    #[test]
    fn parameters_of_tls() {
        let text = "postgres://h/d?sslmode=verify-ca&sslrootcert=%2Fca.pem&sslcert=c&sslkey=k&channel_binding=require&passfile=p";
        let uri = Uri::parse(text).unwrap();
        assert_eq!(
            (uri.tls_mode, uri.channel_binding),
            (Some(TlsMode::VerifyCa), Some(ChannelBinding::Require))
        );
        let paths = [&uri.ca, &uri.certificate, &uri.key, &uri.password_file].map(|path| path.as_deref());
        assert_eq!(paths, [Some("/ca.pem"), Some("c"), Some("k"), Some("p")]);
        assert_eq!(Uri::parse("postgres://h/d?ssl=true").unwrap().tls_mode, Some(TlsMode::Require));
    }
}
