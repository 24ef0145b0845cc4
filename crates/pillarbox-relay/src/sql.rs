//! The ordinary SQL connection, and what a running relay does over it: advancing the lineage, by
//! which the database is told from its clones, and looking at the publication.
//!
//! Lives on the third runtime and may be slow or broken without harm to the stream. Must never be
//! needed to relay an event.

use std::fmt;
use std::ops::Deref;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::error::DbError;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::config::{self, TlsMode, Transport};
use crate::error::{Code, Fault};
use crate::source::{
    Attempt, Publication, PublicationState, PublishedTable, ServerError, SourceError, offers_tls,
    publication_query, published_table_query, server_fault, tls_fault, tls_required,
};
use secured::Connector;

mod secured;

/// Prefix of the logical messages that carry `<pipeline>:<nonce>` through WAL.
pub const LINEAGE_PREFIX: &str = "pillarbox.lineage";

/// Connecting takes milliseconds; longer than this is a server that cannot be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// An upsert of one row.
const ADVANCE_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of every SQL session. Nothing of ours may wait for ever or hold up vacuum, and names
/// are written in full. What is answered is on the server's disk (a nonce that a checkpoint holds must
/// not be lost in a crash), and a standby that is down holds nothing up.
const SESSION_OPTIONS: &str = "-c search_path=pg_catalog -c synchronous_commit=local -c statement_timeout=30s -c lock_timeout=10s \
    -c idle_in_transaction_session_timeout=30s -c standard_conforming_strings=on -c datestyle=ISO \
    -c quote_all_identifiers=off";

/// An SQL connection; its task ends with it.
pub struct Session {
    client: Client,
    task: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The task only moves bytes: aborted in the middle, the server rolls back.
        self.task.abort();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    /// Connects as the role for SQL.
    ///
    /// # Errors
    /// The same faults as a replication connection's.
    pub async fn connect(settings: &config::Postgres, application_name: &str) -> Result<Self, Fault> {
        let settings = &settings.for_sql();
        let attempt = format!("cannot connect to database \"{}\" on {}", settings.database, settings.host);
        let attempt = Attempt { message: &attempt, settings };
        let mut refused = None;
        for way in settings.tls.transports(&settings.host) {
            match Self::connect_by(*way, settings, application_name, &attempt).await {
                Err(fault) if another_way_may_help(fault.code) => refused = refused.or(Some(fault)),
                result => return result,
            }
        }
        let fault = refused.unwrap_or_else(|| Fault::new(Code::PgNoEntry, attempt.message));
        if settings.tls.mode == TlsMode::Disable {
            let asked = settings.clone();
            let offered = blocking(move || offers_tls(&asked, Instant::now() + CONNECT_TIMEOUT)).await?;
            return Err(if offered { tls_required(fault) } else { fault });
        }
        Err(fault)
    }

    async fn connect_by(
        way: Transport,
        settings: &config::Postgres,
        application_name: &str,
        attempt: &Attempt<'_>,
    ) -> Result<Self, Fault> {
        let config = client_config(settings, application_name, way);
        let connecting = async {
            if way == Transport::Plaintext {
                let opened = config.connect(NoTls).await;
                let (client, connection) = opened.map_err(|error| fault(&error, attempt))?;
                return Ok(Self { client, task: tokio::spawn(connection) });
            }
            let connector = Connector::new(settings).map_err(|failure| tls_fault(&failure, attempt))?;
            let opened = config.connect(connector).await;
            let (client, connection) = opened.map_err(|error| fault(&error, attempt))?;
            Ok(Self { client, task: tokio::spawn(connection) })
        };
        let late = |_| Fault::new(Code::PgUnreachable, attempt.message).because("no answer in time");
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(late)?
    }
}

/// As of the replication connection: the server was reached and did not want this connection.
fn another_way_may_help(code: Code) -> bool {
    matches!(
        code,
        Code::PgNoEntry
            | Code::PgCertificateUntrusted
            | Code::PgCertificateName
            | Code::PgCertificateExpired
            | Code::PgClientCertificate
            | Code::PgTlsFailed
    )
}

fn client_config(
    settings: &config::Postgres,
    application_name: &str,
    way: Transport,
) -> tokio_postgres::Config {
    use tokio_postgres::config::{ChannelBinding, SslMode};
    let mut config = tokio_postgres::Config::new();
    // A host that begins with a slash is a directory with a Unix socket here, too.
    config
        .host(&settings.host)
        .port(settings.port)
        .user(&settings.user)
        .dbname(&settings.database)
        .application_name(application_name)
        .options(SESSION_OPTIONS)
        .connect_timeout(CONNECT_TIMEOUT)
        .ssl_mode(match way {
            Transport::Plaintext => SslMode::Disable,
            Transport::TlsIfOffered => SslMode::Prefer,
            Transport::Tls => SslMode::Require,
        })
        .channel_binding(match settings.tls.channel_binding {
            config::ChannelBinding::Disable => ChannelBinding::Disable,
            config::ChannelBinding::Prefer => ChannelBinding::Prefer,
            config::ChannelBinding::Require => ChannelBinding::Require,
        });
    if let Some(password) = &settings.password {
        config.password(password.expose());
    }
    config
}

/// An error of the SQL connection as a person meets it.
pub fn fault(error: &tokio_postgres::Error, attempt: &Attempt<'_>) -> Fault {
    if let Some(error) = error.as_db_error() {
        return server_fault(&server_error(error), attempt);
    }
    let source = std::error::Error::source(error);
    if let Some(failure) = source.and_then(secured::failure) {
        return tls_fault(&failure, attempt);
    }
    if source.is_some_and(|source| source.to_string() == secured::NOT_OFFERED) {
        return SourceError::TlsNotOffered.fault(attempt);
    }
    let must_bind = attempt.settings.tls.channel_binding == config::ChannelBinding::Require;
    let code = match source.and_then(|source| source.downcast_ref::<std::io::Error>()) {
        Some(_) => Code::PgUnreachable,
        // The library has no word of its own for either.
        None if (attempt.settings.password.is_none() || must_bind) && !error.is_closed() => {
            Code::PgAuthentication
        }
        None => Code::PgProtocol,
    };
    let fault = Fault::new(code, attempt.message);
    match source {
        Some(source) => fault.because(source),
        None => fault.because(error),
    }
}

fn server_error(error: &DbError) -> ServerError {
    ServerError {
        severity: error.severity().to_owned(),
        sqlstate: error.code().code().to_owned(),
        message: error.message().to_owned(),
        detail: error.detail().map(str::to_owned),
        hint: error.hint().map(str::to_owned),
        routine: error.routine().unwrap_or_default().to_owned(),
    }
}

/// A value that the lineage had once: `<seq>-<16 hex digits>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// The text as it stands in the row, the message and the checkpoint.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The writer of `pillarbox.lineage`. Connects when it is needed and again after a failure.
#[derive(Debug)]
pub struct Lineage {
    settings: config::Postgres,
    application_name: String,
    session: Option<Session>,
}

/// One statement is one transaction: the row and the message in WAL stand or fall together. Its commit waits for no
/// standby ([`SESSION_OPTIONS`]): the stream does not either, and a nonce that a checkpoint has seen while no query does is
/// taken for that of a copy. Across a failover nonces are not compared.
const ADVANCE: &str = "WITH advanced AS ( \
        INSERT INTO pillarbox.lineage AS l (pipeline, seq, nonce) VALUES ($1, 1, '1-' || $2) \
        ON CONFLICT (pipeline) DO UPDATE \
        SET seq = l.seq + 1, nonce = (l.seq + 1)::text || '-' || $2, updated_at = now() \
        RETURNING nonce) \
    SELECT a.nonce, pg_logical_emit_message(true, $3, $1 || ':' || a.nonce) FROM advanced a";

impl Lineage {
    /// A writer that has not connected yet.
    pub fn new(settings: &config::Postgres, application_name: &str) -> Self {
        Self { settings: settings.clone(), application_name: application_name.to_owned(), session: None }
    }

    /// Gives `pipeline` its next nonce and sends it through WAL. The nonce comes back in the
    /// stream as a transactional message with prefix [`LINEAGE_PREFIX`].
    ///
    /// # Errors
    /// A fault; the next call connects anew.
    pub async fn advance(&mut self, pipeline: &str) -> Result<Nonce, Fault> {
        let session = match self.session.take() {
            Some(session) if !session.is_closed() => session,
            _ => Session::connect(&self.settings, &self.application_name).await?,
        };
        let message = format!("cannot advance the lineage of pipeline \"{pipeline}\"");
        let attempt = Attempt { message: &message, settings: &self.settings };
        let random = random_hex();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&pipeline, &random, &LINEAGE_PREFIX];
        let answer = tokio::time::timeout(ADVANCE_TIMEOUT, session.query_one(ADVANCE, &parameters)).await;
        let row = match answer {
            Ok(row) => row.map_err(|error| fault(&error, &attempt))?,
            Err(_) => return Err(Fault::new(Code::PgUnreachable, message).because("no answer in time")),
        };
        let nonce = row.try_get(0).map_err(|error| fault(&error, &attempt))?;
        self.session = Some(session);
        Ok(Nonce(nonce))
    }

    /// What the publication does for these tables, and where WAL ends at this moment; nothing where
    /// there is no connection: the next advance makes one.
    ///
    /// # Errors
    /// A fault; the next advance connects anew.
    pub async fn publication(
        &mut self,
        tables: &[config::TableName],
    ) -> Result<Option<(PublicationState, String)>, Fault> {
        let Some(session) = self.session.take().filter(|session| !session.is_closed()) else {
            return Ok(None);
        };
        let name = &self.settings.publication;
        let message = format!("cannot look at publication \"{name}\"");
        let answer = tokio::time::timeout(ADVANCE_TIMEOUT, published(&session, name, tables)).await;
        let found = match answer {
            Ok(found) => found
                .map_err(|error| fault(&error, &Attempt { message: &message, settings: &self.settings }))?,
            Err(_) => return Err(Fault::new(Code::PgUnreachable, message).because("no answer in time")),
        };
        self.session = Some(session);
        Ok(Some(found))
    }
}

/// The same as [`Connection::publication`](crate::source::Connection::publication) asks.
async fn published(
    session: &Session,
    name: &str,
    tables: &[config::TableName],
) -> Result<(PublicationState, String), tokio_postgres::Error> {
    let end = session.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.try_get(0)?;
    let Some(row) = session.query_opt(&publication_query(name), &[]).await? else {
        return Ok((PublicationState::Missing, end));
    };
    let mut found = Publication {
        inserts: row.try_get(0)?,
        changes: row.try_get(2)?,
        via_root: row.try_get(1)?,
        tables: Vec::new(),
    };
    for table in tables {
        let rows = session.query(&published_table_query(name, table), &[]).await?;
        let own: Vec<bool> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let place = own.iter().position(|own| *own);
        let row_filter = place.map(|place| rows[place].try_get(1)).transpose()?.flatten();
        let is_own = place.is_some();
        found.tables.push(PublishedTable {
            table: table.clone(),
            published: is_own,
            named: place.map(|place| rows[place].try_get(3)).transpose()?.unwrap_or(false),
            under_partition_names: !is_own && !rows.is_empty(),
            row_filter,
            columns: Vec::new(),
        });
    }
    Ok((PublicationState::Present(found), end))
}

/// 16 hexadecimal digits, 64 random bits: those of a version 4 UUID that carry no version.
fn random_hex() -> String {
    let digits = Uuid::new_v4().simple().to_string();
    format!("{}{}", &digits[..12], &digits[28..])
}

/// Runs a task that blocks (a replication connection always does) beside the runtime, and waits
/// for it. Dropping the wait leaves the task to its own time limits.
///
/// # Errors
/// [`Code::Internal`] when it panicked.
pub(crate) async fn blocking<T: Send + 'static>(
    task: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    let joined = tokio::task::spawn_blocking(task).await;
    joined.map_err(|_| Fault::new(Code::Internal, "a task beside the runtime panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_are_random_and_of_the_agreed_shape() {
        let (one, two) = (random_hex(), random_hex());
        assert_eq!(one.len(), 16);
        assert!(one.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        assert_ne!(one, two);
    }

    #[test]
    fn a_session_shows_nothing_of_itself() {
        let settings = config::Postgres {
            host: "db".into(),
            port: 5432,
            user: "u".into(),
            password: Some(config::Secret::new("hunter2")),
            database: "d".into(),
            slot: "s".into(),
            publication: "p".into(),
            tls: config::PostgresTls::default(),
            sql: None,
        };
        let lineage = format!("{:?}", Lineage::new(&settings, "pillarbox/x"));
        assert!(!lineage.contains("hunter2"), "{lineage}");
    }
}
