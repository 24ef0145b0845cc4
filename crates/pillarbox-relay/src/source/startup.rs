//! From a fresh socket to a session that is ready for queries: startup packet, authentication,
//! the server's version.
//!
//! The password goes to the server in the way that the server asks for and nowhere else.

use std::io;
use std::time::Instant;

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;

use super::channel::{Binding, Channel};
use super::error::SourceError;
use super::message::{Fields, split_cstr, take};
use super::options::SESSION_OPTIONS;
use crate::config::{self, ChannelBinding};

/// What the server says of a new session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Session {
    /// As `server_version_num` spells it.
    pub(super) version: u32,
    /// Of the process that serves it.
    pub(super) pid: i32,
}

/// Opens a session.
pub(super) fn open_session(
    channel: &mut Channel,
    settings: &config::Postgres,
    application_name: &str,
    deadline: Instant,
) -> Result<Session, SourceError> {
    let parameters = [
        ("user", settings.user.as_str()),
        ("database", settings.database.as_str()),
        ("replication", "database"),
        ("application_name", application_name),
        ("client_encoding", "UTF8"),
        ("options", SESSION_OPTIONS),
    ];
    send(channel, deadline, |buffer| frontend::startup_message(parameters, buffer))?;
    authenticate(channel, settings, deadline)?;
    await_ready(channel, deadline)
}

fn send(
    channel: &mut Channel,
    deadline: Instant,
    build: impl FnOnce(&mut BytesMut) -> io::Result<()>,
) -> Result<(), SourceError> {
    let mut buffer = BytesMut::new();
    build(&mut buffer).map_err(|_| SourceError::Unsendable)?;
    channel.send(&buffer, deadline)
}

/// The number that begins an authentication message, by its meaning.
mod request {
    pub(super) const OK: i32 = 0;
    pub(super) const CLEARTEXT: i32 = 3;
    pub(super) const MD5: i32 = 5;
    pub(super) const GSS: i32 = 7;
    pub(super) const SSPI: i32 = 9;
    pub(super) const SASL: i32 = 10;
    pub(super) const SASL_CONTINUE: i32 = 11;
    pub(super) const SASL_FINAL: i32 = 12;
}

fn authenticate(
    channel: &mut Channel,
    settings: &config::Postgres,
    deadline: Instant,
) -> Result<(), SourceError> {
    let (kind, data) = receive_request(channel, deadline)?;
    let must_bind = settings.tls.channel_binding == ChannelBinding::Require;
    if must_bind && kind != request::SASL {
        return Err(SourceError::BindingMissing("the server asks for no SCRAM login"));
    }
    if kind == request::OK {
        return Ok(());
    }
    let password =
        || settings.password.as_ref().map(config::Secret::expose).ok_or(SourceError::PasswordMissing);
    match kind {
        request::CLEARTEXT => {
            let password = password()?;
            send(channel, deadline, |buffer| frontend::password_message(password.as_bytes(), buffer))?;
        }
        request::MD5 => {
            let salt = take::<4>(&mut &data[..])?;
            let hash = md5_hash(settings.user.as_bytes(), password()?.as_bytes(), salt);
            send(channel, deadline, |buffer| frontend::password_message(hash.as_bytes(), buffer))?;
        }
        request::SASL => {
            let offered = Offered::parse(&data)?;
            let (name, binding) = choose(settings.tls.channel_binding, &offered, channel.binding())?;
            scram(channel, ScramSha256::new(password()?.as_bytes(), binding), name, deadline)?;
        }
        request::GSS => return Err(SourceError::AuthenticationUnsupported("GSSAPI")),
        request::SSPI => return Err(SourceError::AuthenticationUnsupported("SSPI")),
        _ => return Err(SourceError::AuthenticationUnsupported("a method this version does not know")),
    }
    match receive_request(channel, deadline)? {
        (request::OK, _) => Ok(()),
        _ => Err(SourceError::Malformed("an authentication that does not end")),
    }
}

/// The SASL mechanisms of the server that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Offered {
    scram: bool,
    scram_plus: bool,
}

impl Offered {
    fn parse(mechanisms: &[u8]) -> Result<Self, SourceError> {
        let mut offered = Self::default();
        let mut rest = mechanisms;
        loop {
            let name;
            (name, rest) = split_cstr(rest)?;
            if name.is_empty() {
                return Ok(offered);
            }
            offered.scram |= name == SCRAM_SHA_256.as_bytes();
            offered.scram_plus |= name == SCRAM_SHA_256_PLUS.as_bytes();
        }
    }
}

/// The strongest mechanism that both sides have. What is said of the other one is part of the proof: whoever
/// takes it out of the offer on the way is found out.
fn choose(
    wanted: ChannelBinding,
    offered: &Offered,
    binding: Binding,
) -> Result<(&'static str, sasl::ChannelBinding), SourceError> {
    let bound = match binding {
        Binding::Plaintext if wanted == ChannelBinding::Require => {
            return Err(SourceError::BindingMissing("the connection is not encrypted"));
        }
        _ if wanted == ChannelBinding::Disable => None,
        Binding::EndPoint(hash) => Some(hash),
        Binding::Plaintext | Binding::None => None,
    };
    match bound {
        Some(hash) if offered.scram_plus => {
            Ok((SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash)))
        }
        _ if wanted == ChannelBinding::Require => {
            Err(SourceError::BindingMissing("the server or its certificate cannot do it"))
        }
        _ if !offered.scram => {
            Err(SourceError::AuthenticationUnsupported("a SASL mechanism other than SCRAM-SHA-256"))
        }
        Some(_) => Ok((SCRAM_SHA_256, sasl::ChannelBinding::unrequested())),
        None => Ok((SCRAM_SHA_256, sasl::ChannelBinding::unsupported())),
    }
}

/// The exchange itself. Proves the server, too.
fn scram(
    channel: &mut Channel,
    mut scram: ScramSha256,
    mechanism: &str,
    deadline: Instant,
) -> Result<(), SourceError> {
    send(channel, deadline, |buffer| frontend::sasl_initial_response(mechanism, scram.message(), buffer))?;
    let (request::SASL_CONTINUE, challenge) = receive_request(channel, deadline)? else {
        return Err(SourceError::Malformed("a SASL exchange that stops"));
    };
    scram.update(&challenge).map_err(|_| SourceError::Malformed("a SCRAM challenge that cannot be read"))?;
    send(channel, deadline, |buffer| frontend::sasl_response(scram.message(), buffer))?;
    let (request::SASL_FINAL, proof) = receive_request(channel, deadline)? else {
        return Err(SourceError::Malformed("a SASL exchange that stops"));
    };
    scram.finish(&proof).map_err(|_| SourceError::ServerUnproven)
}

fn receive_request(channel: &mut Channel, deadline: Instant) -> Result<(i32, Vec<u8>), SourceError> {
    loop {
        // Whatever else listens there: its first bytes make a nonsensical length.
        let answer = channel.receive(deadline).map_err(|error| match error {
            SourceError::FrameTooLarge { .. } | SourceError::Malformed(_) => SourceError::NotPostgres,
            error => error,
        })?;
        match answer.tag {
            b'R' => {
                let mut rest = answer.body;
                let kind = i32::from_be_bytes(take(&mut rest)?);
                return Ok((kind, rest.to_vec()));
            }
            b'E' => return Err(SourceError::Server(Fields::parse(answer.body)?.error())),
            // A notice, or an older protocol version than the one asked for.
            b'N' | b'v' => {}
            _ => return Err(SourceError::NotPostgres),
        }
    }
}

fn await_ready(channel: &mut Channel, deadline: Instant) -> Result<Session, SourceError> {
    let (mut version, mut pid) = (None, None);
    loop {
        let answer = channel.receive(deadline)?;
        match answer.tag {
            b'S' => {
                let (name, rest) = split_cstr(answer.body)?;
                if name == b"server_version" {
                    version = parse_version(split_cstr(rest)?.0);
                }
            }
            b'E' => return Err(SourceError::Server(Fields::parse(answer.body)?.error())),
            b'K' => pid = Some(i32::from_be_bytes(take(&mut &*answer.body)?)),
            b'Z' => {
                let version = version.ok_or(SourceError::Malformed("a version that cannot be read"))?;
                let pid = pid.ok_or(SourceError::Malformed("a session without a process"))?;
                return Ok(Session { version, pid });
            }
            _ => {}
        }
    }
}

/// `18.4 (Debian 18.4-1)` -> 180004; `19beta1` -> 190000.
fn parse_version(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?;
    let number = |text: &str| {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        text[..digits].parse::<u32>().ok()
    };
    let major = number(text)?;
    let minor = text.split_once('.').and_then(|(_, rest)| number(rest)).unwrap_or(0);
    major.checked_mul(10_000)?.checked_add(minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, number) in [
            ("15.18 (Debian 15.18-0+deb12u1)", Some(150_018)),
            ("18.4", Some(180_004)),
            ("19beta1", Some(190_000)),
            ("17devel", Some(170_000)),
            ("", None),
            ("devel", None),
            ("99999999999", None),
        ] {
            assert_eq!(parse_version(text.as_bytes()), number, "{text}");
        }
    }

    #[test]
    fn the_strongest_mechanism_of_both_sides_is_chosen() {
        let both = Offered::parse(b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0").expect("a list");
        let plain = Offered::parse(b"SCRAM-SHA-256\0\0").expect("a list");
        assert!(Offered::parse(b"OAUTHBEARER").is_err());
        let (disable, prefer, require) =
            (ChannelBinding::Disable, ChannelBinding::Prefer, ChannelBinding::Require);
        let end_point = || Binding::EndPoint(vec![1]);
        for (wanted, offered, binding, chosen) in [
            (prefer, both, end_point(), Some(SCRAM_SHA_256_PLUS)),
            (require, both, end_point(), Some(SCRAM_SHA_256_PLUS)),
            (disable, both, end_point(), Some(SCRAM_SHA_256)),
            (prefer, plain, end_point(), Some(SCRAM_SHA_256)),
            (prefer, both, Binding::None, Some(SCRAM_SHA_256)),
            (prefer, plain, Binding::Plaintext, Some(SCRAM_SHA_256)),
            (require, plain, end_point(), None),
            (require, both, Binding::None, None),
            (require, plain, Binding::Plaintext, None),
            (prefer, Offered::default(), end_point(), None),
        ] {
            let name = choose(wanted, &offered, binding).ok().map(|(name, _)| name);
            assert_eq!(name, chosen, "{wanted:?} {offered:?}");
        }
    }
}
