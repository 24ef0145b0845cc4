//! An idle replication connection: it answers questions and can become a stream.
//!
//! After a timeout or a broken answer it is unusable and says so, because the next answer would be
//! taken for the wrong question's.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use super::channel::Channel;
use super::error::SourceError;
use super::link::Stream;
use super::message::{Fields, parse_data_row};
use super::options::PROTOCOL_VERSION;
use super::quote::{quote_identifier, quote_literal};
use super::{secure, startup};
use crate::config::{self, TlsMode, Transport};

/// The slot must be read from disk and a snapshot be found; seconds on a sick server, never more.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Questions of ours have few rows for an answer; a broken server must not fill the memory.
const ROWS_MAX: usize = 10_000;

/// An idle replication connection.
#[derive(Debug)]
pub struct Connection {
    channel: Channel,
    session: startup::Session,
    in_step: bool,
    /// A query ran: what it left in the session's catalog caches would spoil a stream.
    ran_sql: bool,
}

/// A row of a simple query, all columns as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextRow {
    columns: Vec<Option<String>>,
}

impl TextRow {
    /// Column `index` from 0; `None` when it is NULL or does not exist.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.columns.get(index)?.as_deref()
    }

    /// Column `index`, which the server never leaves empty.
    pub(super) fn require(&self, index: usize) -> Result<&str, SourceError> {
        self.get(index).ok_or(SourceError::Malformed("an answer that lacks a column"))
    }
}

impl Connection {
    /// Connects as a logical walsender client and authenticates, within `timeout`.
    ///
    /// # Errors
    /// Whatever keeps us out, see [`SourceError::fault`].
    pub fn connect(
        settings: &config::Postgres,
        application_name: &str,
        timeout: Duration,
    ) -> Result<Self, SourceError> {
        let deadline = Instant::now() + timeout;
        let mut refused = None;
        for way in settings.tls.transports(&settings.host) {
            match Self::connect_by(*way, settings, application_name, deadline) {
                Err(error) if error.another_way_may_help() => refused = refused.or(Some(error)),
                result => return result,
            }
        }
        Err(match refused {
            Some(SourceError::Server(error))
                if settings.tls.mode == TlsMode::Disable && secure::offers_tls(settings, deadline) =>
            {
                SourceError::TlsRequired(error)
            }
            Some(error) => error,
            None => SourceError::TlsNotOffered,
        })
    }

    fn connect_by(
        way: Transport,
        settings: &config::Postgres,
        application_name: &str,
        deadline: Instant,
    ) -> Result<Self, SourceError> {
        let mut channel = Channel::new(secure::connect(settings, way, deadline)?);
        let session = startup::open_session(&mut channel, settings, application_name, deadline)?;
        Ok(Self { channel, session, in_step: true, ran_sql: false })
    }

    /// As `server_version_num`: 180004 is 18.4.
    pub fn server_version(&self) -> u32 {
        self.session.version
    }

    /// The server's process for this connection, and for its stream.
    pub fn pid(&self) -> i32 {
        self.session.pid
    }

    /// Runs `sql` by the simple protocol; all rows of all its statements. The connection can stream
    /// no more.
    ///
    /// # Errors
    /// [`SourceError::Server`] leaves the connection usable, every other error does not.
    pub fn query(&mut self, sql: &str, timeout: Duration) -> Result<Vec<TextRow>, SourceError> {
        self.ran_sql = true;
        self.exchange(sql, timeout)
    }

    /// Runs a replication command, or SQL for [`Connection::query`].
    pub(super) fn exchange(&mut self, command: &str, timeout: Duration) -> Result<Vec<TextRow>, SourceError> {
        let deadline = Instant::now() + timeout;
        self.ask(command, deadline)?;
        let mut rows = Vec::new();
        let mut refused = None;
        loop {
            let answer = self.channel.receive(deadline)?;
            match answer.tag {
                b'D' if rows.len() == ROWS_MAX => return Err(SourceError::Malformed("too many rows")),
                b'D' => rows.push(TextRow { columns: parse_data_row(answer.body)? }),
                b'E' => refused = Some(Fields::parse(answer.body)?.error()),
                b'Z' => break,
                // RowDescription, CommandComplete, EmptyQueryResponse, ParameterStatus, notices.
                b'T' | b'C' | b'I' | b'S' | b'N' | b'A' => {}
                _ => return Err(SourceError::Malformed("a message that is no answer to a query")),
            }
        }
        self.in_step = true;
        refused.map_or(Ok(rows), |error| Err(SourceError::Server(error)))
    }

    /// Starts to stream from the slot's own position; returns when the server has agreed.
    ///
    /// # Panics
    /// When the connection has run SQL. Decoding takes what a query left in the session's catalog
    /// caches for history: rows of a publication that was replaced since then vanish without a word
    /// (seen on Postgres 16 and 18).
    ///
    /// # Errors
    /// [`SourceError::Server`] with the server's reason: slot missing, in use, invalidated, ...
    pub fn start_replication(mut self, slot: &str, publication: &str) -> Result<Stream, SourceError> {
        assert!(!self.ran_sql, "a connection that has run SQL must not stream");
        let deadline = Instant::now() + START_TIMEOUT;
        self.ask(&start_command(slot, publication), deadline)?;
        loop {
            let answer = self.channel.receive(deadline)?;
            match answer.tag {
                b'W' => return Ok(self.channel.into_stream()),
                b'E' => return Err(SourceError::Server(Fields::parse(answer.body)?.error())),
                b'N' | b'S' => {}
                _ => return Err(SourceError::Malformed("a message that starts no stream")),
            }
        }
    }

    /// Sends a query; the connection is out of step until its answer was read to the end.
    fn ask(&mut self, sql: &str, deadline: Instant) -> Result<(), SourceError> {
        if !self.in_step {
            return Err(SourceError::OutOfStep);
        }
        let mut buffer = BytesMut::new();
        frontend::query(sql, &mut buffer).map_err(|_| SourceError::Unsendable)?;
        self.in_step = false;
        self.channel.send(&buffer, deadline)
    }
}

/// The position is `0/0`: the slot's own. What a checkpoint covers is dropped by the filter, so
/// that the server can never be told to skip more than was confirmed.
fn start_command(slot: &str, publication: &str) -> String {
    format!(
        "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '{PROTOCOL_VERSION}', publication_names {}, messages 'true')",
        quote_identifier(slot),
        quote_literal(&quote_identifier(publication)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_quotes() {
        assert_eq!(
            start_command("pillarbox_orders", "it's \"p\""),
            "START_REPLICATION SLOT \"pillarbox_orders\" LOGICAL 0/0 (proto_version '1', \
             publication_names '\"it''s \"\"p\"\"\"', messages 'true')"
        );
    }
}
