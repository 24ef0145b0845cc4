//! What can go wrong on the way to Postgres, and the table that turns it into a [`Fault`].
//!
//! Decides by SQLSTATE and by the name of the server's function, never by text, which is
//! localised. DETAIL is repeated only where it speaks of slots, roles and settings: elsewhere it
//! can quote a row.

use std::fmt;
use std::io;

use pillarbox_tls::Failure;
use thiserror::Error;

use super::buffer::FRAME_BYTES_MAX;
use super::socket::address;
use crate::config::{self, Transport};
use crate::error::{Code, Fault};

/// Why the connection or the stream cannot go on.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The host name has no address.
    #[error("{address} cannot be resolved: {source}")]
    Resolve {
        /// Host and port.
        address: String,
        /// The resolver's reason.
        source: io::Error,
    },
    /// Nobody answers at the address.
    #[error("{address} cannot be reached: {source}")]
    Unreachable {
        /// Host and port, or the path of a Unix socket.
        address: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The server did not answer in time; the connection is unusable.
    #[error("the server did not answer in time")]
    TimedOut,
    /// The server closed the connection without a word.
    #[error("the server closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    /// The server refused, with its reasons.
    #[error("{0}")]
    Server(Box<ServerError>),
    /// The server has no entry for a connection without TLS, but offers TLS.
    #[error("{0}")]
    TlsRequired(Box<ServerError>),
    /// The server speaks no TLS, and the settings demand it.
    #[error("the server does not offer TLS")]
    TlsNotOffered,
    /// The connection could not be secured.
    #[error("{0}")]
    Tls(Failure),
    /// The settings demand that a login is bound to the connection.
    #[error("channel_binding=require cannot be met: {0}")]
    BindingMissing(&'static str),
    /// The server wants a password and none is configured.
    #[error("the server asks for a password and none is configured")]
    PasswordMissing,
    /// The server wants a way of authentication that we do not have.
    #[error("the server asks for {0}, which is not supported")]
    AuthenticationUnsupported(&'static str),
    /// SCRAM: the server could not prove that it knows the password.
    #[error("the server could not prove that it knows the password")]
    ServerUnproven,
    /// Something else than Postgres answers.
    #[error("what answers does not speak the Postgres protocol")]
    NotPostgres,
    /// A message is longer than [`FRAME_BYTES_MAX`].
    #[error("a message of {bytes} bytes exceeds the limit of {FRAME_BYTES_MAX}")]
    FrameTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The server sent something that is not in the protocol.
    #[error("the server sent {0}")]
    Malformed(&'static str),
    /// A name contains a NUL character.
    #[error("a name contains a NUL character")]
    Unsendable,
    /// An earlier query on this connection was not answered to its end.
    #[error("an earlier query on this connection was not answered")]
    OutOfStep,
}

/// An ErrorResponse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`.
    pub severity: String,
    /// Five characters.
    pub sqlstate: String,
    /// The primary text, localised.
    pub message: String,
    /// More; may quote values, see [`SourceError::fault`].
    pub detail: Option<String>,
    /// The server's advice.
    pub hint: Option<String>,
    /// The function of the server that raised it.
    pub routine: String,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.sqlstate)?;
        match &self.detail {
            Some(detail) if self.detail_is_harmless() => write!(f, ": {detail}"),
            _ => Ok(()),
        }
    }
}

impl ServerError {
    /// Classes whose DETAIL speaks of objects and settings, never of values in rows.
    fn detail_is_harmless(&self) -> bool {
        ["28", "3D", "3F", "42", "53", "55", "57"].iter().any(|class| self.sqlstate.starts_with(class))
    }

    /// `pg_hba.conf` has no entry that fits, or one that rejects.
    pub(super) fn refuses_host(&self) -> bool {
        self.sqlstate == "28000" && self.routine == "ClientAuthentication"
    }
}

/// What was attempted and with which settings: the names that messages and hints need.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// What was attempted on which object, lower case: `cannot stream from slot "s"`.
    pub message: &'a str,
    /// The settings in use.
    pub settings: &'a config::Postgres,
}

impl SourceError {
    /// A broken socket, or what the TLS on it met.
    pub(super) fn broken(error: io::Error) -> Self {
        Failure::of_io(&error).map_or(Self::Broken(error), Self::Tls)
    }

    /// The server was reached and did not want this connection; it may want one that is secured otherwise.
    pub(super) fn another_way_may_help(&self) -> bool {
        match self {
            Self::Server(error) => error.refuses_host(),
            Self::Tls(failure) => !matches!(failure, Failure::File { .. }),
            _ => false,
        }
    }

    /// The error as a person meets it.
    pub fn fault(&self, attempt: &Attempt<'_>) -> Fault {
        let settings = attempt.settings;
        let (code, hint) = match self {
            Self::Server(error) => return server_fault(error, attempt),
            Self::Tls(failure) => return tls_fault(failure, attempt),
            Self::TlsRequired(error) => return tls_required(server_fault(error, attempt)),
            Self::TlsNotOffered => (
                Code::PgTlsNotOffered,
                Some("ALTER SYSTEM SET ssl = on, with a certificate, and reload; or write `postgres.tls: disable` where the network may carry plaintext".to_owned()),
            ),
            Self::BindingMissing(_) => (
                Code::PgAuthentication,
                Some("use TLS, the method scram-sha-256 and a certificate signed with RSA or ECDSA; or channel_binding=prefer".to_owned()),
            ),
            Self::Resolve { .. } => (Code::PgUnreachable, Some("check the host in postgres.url".to_owned())),
            Self::Unreachable { .. } | Self::TimedOut => (
                Code::PgUnreachable,
                Some(format!("check that Postgres runs and listens on {}", address(settings))),
            ),
            Self::PasswordMissing => (
                Code::PgAuthentication,
                Some("set postgres.password, or a line in ~/.pgpass (mode 0600)".to_owned()),
            ),
            Self::AuthenticationUnsupported(_) => (
                Code::PgAuthentication,
                Some("use the method scram-sha-256 for this role in pg_hba.conf".to_owned()),
            ),
            Self::ServerUnproven => (
                Code::PgAuthentication,
                Some(format!("make sure that {} is the server you mean", address(settings))),
            ),
            Self::NotPostgres => (Code::PgProtocol, Some("check host and port in postgres.url".to_owned())),
            Self::FrameTooLarge { .. } => (
                Code::EventTooLarge,
                Some(
                    "no event of this size can be relayed: store the payload elsewhere and relay a reference"
                        .to_owned(),
                ),
            ),
            Self::Unsendable => (Code::ConfigValue, None),
            Self::OutOfStep => (Code::Internal, None),
            Self::Closed | Self::Broken(_) | Self::Malformed(_) => (Code::PgProtocol, None),
        };
        let fault = Fault::new(code, attempt.message).because(self);
        match hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }
}

/// A refusal by a server that would have spoken TLS.
pub(crate) fn tls_required(refusal: Fault) -> Fault {
    let hint =
        "set postgres.tls to verify-full, with the authority that issued the server's certificate as ca";
    Fault { code: Code::PgTlsRequired, ..refusal }.hint(hint)
}

/// What keeps a connection from being secured, whatever connection it was to be.
pub(crate) fn tls_fault(failure: &Failure, attempt: &Attempt<'_>) -> Fault {
    let host = &attempt.settings.host;
    let (code, hint) = match failure {
        Failure::File { .. } => (Code::ConfigValue, "check the paths in postgres.tls".to_owned()),
        Failure::Untrusted { .. } => (
            Code::PgCertificateUntrusted,
            "set postgres.tls.ca to the certificate of the authority that issued the server's".to_owned(),
        ),
        Failure::Name { .. } => (
            Code::PgCertificateName,
            format!("connect by a name that the certificate holds, or issue one with subjectAltName {host}"),
        ),
        Failure::Expired { .. } => {
            (Code::PgCertificateExpired, "renew the server's certificate, or correct a clock".to_owned())
        }
        Failure::Refused { .. } => (
            Code::PgClientCertificate,
            "set postgres.tls.cert and key to a certificate that the server's ssl_ca_file has issued"
                .to_owned(),
        ),
        Failure::NotTls | Failure::Closed | Failure::Handshake { .. } => (
            Code::PgTlsFailed,
            "compare ssl_min_protocol_version and ssl_ciphers: this program speaks TLS 1.2 and 1.3"
                .to_owned(),
        ),
    };
    Fault::new(code, attempt.message).because(failure).hint(hint)
}

/// What an error of the server means, whatever connection it came by.
pub(crate) fn server_fault(error: &ServerError, attempt: &Attempt<'_>) -> Fault {
    let code = server_code(error);
    let fault = Fault::new(code, attempt.message).because(error);
    match server_hint(code, attempt.settings).or_else(|| error.hint.clone()) {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}

/// Functions of the server, of several versions, that refuse to allocate more than 1 GB for one value: a row that was
/// stored in binary and is longer than that as text. Trying again changes nothing.
const REFUSE_ALLOCATION: [&str; 9] = [
    "MemoryContextSizeFailure",
    "MemoryContextAlloc",
    "MemoryContextAllocZero",
    "MemoryContextAllocZeroAligned",
    "MemoryContextAllocExtended",
    "palloc",
    "palloc0",
    "palloc_extended",
    "repalloc",
];

/// SQLSTATE, and where one serves several situations the server's function.
fn server_code(error: &ServerError) -> Code {
    match (error.sqlstate.as_str(), error.routine.as_str()) {
        ("28P01", _) => Code::PgAuthentication,
        ("28000", "ClientAuthentication") => Code::PgNoEntry,
        ("28000", _) => Code::PgAuthentication,
        ("3D000", _) => Code::PgNoDatabase,
        ("42501", "InitPostgres" | "CheckSlotPermissions" | "check_permissions") => Code::PgNoReplicationRole,
        ("42501", _) => Code::PgPrivilege,
        ("55006", _) => Code::SlotActive,
        ("42704", "get_publication_oid" | "LoadPublications") => Code::PublicationMissing,
        ("42704", "ReplicationSlotAcquire" | "ReplicationSlotAcquireInternal") => Code::SlotMissing,
        ("55000", "CheckLogicalDecodingRequirements") => Code::PgWalLevel,
        // An invalidated slot comes with a DETAIL that says why; one that is of the wrong kind, of
        // another database or synchronised from a primary comes without, or with advice.
        ("55000", "StartLogicalReplication" | "CreateDecodingContext" | "ReplicationSlotAcquire") => {
            if error.detail.is_some() && error.hint.is_none() { Code::SlotLost } else { Code::SlotUnfit }
        }
        ("58P01", _) => Code::SlotLost,
        ("42P01" | "3F000", _) => Code::NotSetUp,
        ("53300" | "53400", _) => Code::PgLimit,
        ("0A000" | "25006", "CheckLogicalDecodingRequirements" | "PreventCommandDuringRecovery") => {
            Code::PgStandby
        }
        ("25006", _) => Code::PgStandby,
        ("54000", "enlargeStringInfo") => Code::EventTooLarge,
        ("XX000", routine) if REFUSE_ALLOCATION.contains(&routine) => Code::EventTooLarge,
        _ => Code::PgProtocol,
    }
}

fn server_hint(code: Code, settings: &config::Postgres) -> Option<String> {
    let role = super::quote_identifier(&settings.user);
    Some(match code {
        Code::PgAuthentication => format!("check postgres.password and that role {role} may log in"),
        Code::PgNoEntry => hba_hint(settings),
        Code::PgNoDatabase => "check the database in postgres.url".to_owned(),
        Code::PgNoReplicationRole => format!("ALTER ROLE {role} REPLICATION;"),
        Code::PgPrivilege => "run `pillarbox setup --print-sql`: it prints the grants this role needs".to_owned(),
        Code::SlotActive => "another relay streams, or its connection has not been given up yet".to_owned(),
        Code::PublicationMissing => "run `pillarbox setup` if the pipeline is new; what was written without the publication cannot be decoded: see PB-1012".to_owned(),
        Code::SlotMissing => "run `pillarbox setup` if this pipeline has never run; otherwise `pillarbox check` names the gap".to_owned(),
        Code::SlotLost => format!(
            "events are missing from slot {}: `pillarbox check` names the gap; keep max_slot_wal_keep_size at -1, or large enough for the longest outage",
            super::quote_identifier(&settings.slot)
        ),
        Code::SlotUnfit => "use another postgres.slot: it must be a logical slot of this database, with plugin pgoutput and without two_phase".to_owned(),
        Code::PgWalLevel => "ALTER SYSTEM SET wal_level = logical; then restart Postgres".to_owned(),
        Code::NotSetUp => "run `pillarbox setup`".to_owned(),
        Code::PgLimit => "raise max_wal_senders, max_replication_slots or max_connections, or remove what is not used".to_owned(),
        Code::PgStandby => "point postgres.url to the primary".to_owned(),
        Code::EventTooLarge => "Postgres cannot send a row whose text is longer than 1 GB: store the payload elsewhere and relay a reference".to_owned(),
        _ => return None,
    })
}

/// The line for `pg_hba.conf`. A replication connection that names a database is matched by the
/// database's name, not by the keyword `replication`.
fn hba_hint(settings: &config::Postgres) -> String {
    let secured = settings.tls.transports(&settings.host) == [Transport::Tls];
    format!(
        "add to pg_hba.conf: `{} {} {} <address of this host> scram-sha-256`, then `SELECT pg_reload_conf();`{}",
        if secured { "hostssl" } else { "host" },
        super::quote_identifier(&settings.database),
        super::quote_identifier(&settings.user),
        if secured { "; if the server asks for a certificate: set postgres.tls.cert and key" } else { "" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> config::Postgres {
        config::Postgres {
            host: "db".into(),
            port: 5432,
            user: "relay".into(),
            password: Some(config::Secret::new("hunter2")),
            database: "shop".into(),
            slot: "s".into(),
            publication: "p".into(),
            tls: config::PostgresTls::default(),
            sql: None,
        }
    }

    fn server(sqlstate: &str, routine: &str, detail: Option<&str>, hint: Option<&str>) -> ServerError {
        ServerError {
            severity: "ERROR".into(),
            sqlstate: sqlstate.into(),
            message: "die Meldung".into(),
            detail: detail.map(str::to_owned),
            hint: hint.map(str::to_owned),
            routine: routine.into(),
        }
    }

    #[test]
    fn one_table_decides_by_state_and_routine() {
        let invalidated =
            Some("This slot has been invalidated because it exceeded the maximum reserved size.");
        for (sqlstate, routine, detail, hint, code) in [
            ("54000", "enlargeStringInfo", None, None, Code::EventTooLarge),
            ("XX000", "MemoryContextSizeFailure", None, None, Code::EventTooLarge),
            ("XX000", "palloc", None, None, Code::EventTooLarge),
            ("XX000", "XLogReadRecord", None, None, Code::PgProtocol),
            ("53200", "MemoryContextAllocationFailure", None, None, Code::PgProtocol),
            ("28P01", "auth_failed", None, None, Code::PgAuthentication),
            ("28000", "ClientAuthentication", None, None, Code::PgNoEntry),
            ("28000", "InitializeSessionUserId", None, None, Code::PgAuthentication),
            ("3D000", "InitPostgres", None, None, Code::PgNoDatabase),
            ("42501", "InitPostgres", None, None, Code::PgNoReplicationRole),
            ("42501", "CheckSlotPermissions", None, None, Code::PgNoReplicationRole),
            ("42501", "aclcheck_error", None, None, Code::PgPrivilege),
            ("55006", "ReplicationSlotAcquire", None, None, Code::SlotActive),
            ("42704", "ReplicationSlotAcquire", None, None, Code::SlotMissing),
            ("42704", "get_publication_oid", None, None, Code::PublicationMissing),
            ("55000", "CheckLogicalDecodingRequirements", None, None, Code::PgWalLevel),
            ("55000", "StartLogicalReplication", invalidated, None, Code::SlotLost),
            ("55000", "CreateDecodingContext", invalidated, None, Code::SlotLost),
            ("55000", "CreateDecodingContext", None, None, Code::SlotUnfit),
            ("55000", "CreateDecodingContext", Some("synchronised"), Some("use another"), Code::SlotUnfit),
            ("58P01", "XLogFileRead", None, None, Code::SlotLost),
            ("53300", "InitWalSenderSlot", None, None, Code::PgLimit),
            ("53400", "ReplicationSlotCreate", None, None, Code::PgLimit),
            ("57P01", "ProcessInterrupts", None, None, Code::PgProtocol),
            ("57P03", "ProcessStartupPacket", None, None, Code::PgProtocol),
            ("42P01", "parserOpenTable", None, None, Code::NotSetUp),
            ("0A000", "CheckLogicalDecodingRequirements", None, None, Code::PgStandby),
        ] {
            let error = server(sqlstate, routine, detail, hint);
            assert_eq!(server_code(&error), code, "{sqlstate} {routine}");
        }
    }

    #[test]
    fn details_that_can_quote_a_row_are_not_repeated() {
        let quoting = server("23505", "_bt_check_unique", Some("Key (id)=(secret) already exists."), None);
        let settings = settings();
        let attempt = Attempt { message: "cannot do it", settings: &settings };
        let fault = format!("{:?}", SourceError::Server(Box::new(quoting)).fault(&attempt));
        assert!(!fault.contains("secret"), "{fault}");
        let harmless = server("55006", "ReplicationSlotAcquire", Some("by PID 7"), None);
        assert!(harmless.to_string().contains("by PID 7"));
    }

    #[test]
    fn no_fault_shows_the_password_and_hints_name_the_objects() {
        let settings = settings();
        let attempt = Attempt { message: "cannot connect", settings: &settings };
        for error in [
            SourceError::TimedOut,
            SourceError::PasswordMissing,
            SourceError::ServerUnproven,
            SourceError::Server(Box::new(server("28P01", "auth_failed", None, None))),
            SourceError::TlsRequired(Box::new(server("28000", "ClientAuthentication", None, None))),
        ] {
            let fault = error.fault(&attempt);
            assert!(!format!("{fault:?}").contains("hunter2"), "{fault:?}");
            assert!(fault.hint.is_some(), "{fault:?}");
        }
        let limit = SourceError::TlsRequired(Box::new(server("28000", "ClientAuthentication", None, None)));
        assert_eq!(limit.fault(&attempt).code, Code::PgTlsRequired);
    }
}
