//! What can go wrong in the inbox, with the code that `pillarbox.accept` gives as SQLSTATE, and what to do about it.
//!
//! Must never hold a key, a value or a header other than a well-formed `pb-pos`.

use std::error;
use std::fmt;

use super::Event;
use super::database::Transaction;
use crate::header::{Header, HeaderError};
use crate::state::{Refusal, State};

/// Why an event was neither accepted nor skipped. In every case the transaction must be rolled back.
#[derive(Debug)]
pub enum Error<E> {
    /// The event cannot be told apart from others: it has no usable `pb-pos`.
    Header {
        /// Topic and partition.
        place: String,
        /// What is wrong with it.
        cause: HeaderError,
    },
    /// Events before this one are missing, or it is of another history.
    Refused(Box<Refused>),
    /// A row of the inbox's tables is not one that was written by this program or by `pillarbox.accept`.
    Row {
        /// Topic and partition.
        place: String,
    },
    /// The database failed, or asks for a retry: see [`Error::is_retryable`].
    Database(E),
}

/// An event that was refused, and everything needed to decide what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// The consumer.
    pub consumer: String,
    /// The pipeline.
    pub source: String,
    /// Topic and partition, as `topic-partition`.
    pub place: String,
    /// What was applied last.
    pub stored: State,
    /// The statement that makes the consumer go on with this event: for a person to run, who knows what is lost.
    pub reset: String,
}

impl<E> Error<E> {
    /// `PB001` gap, `PB002` another history, `PB003` no usable header; the SQLSTATEs of `pillarbox.accept`. `None` for
    /// failures of the database.
    #[must_use]
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refused) => Some(match refused.refusal {
                Refusal::Gap(_) => "PB001",
                Refusal::Foreign(_) => "PB002",
            }),
            Self::Header { .. } => Some("PB003"),
            Self::Row { .. } | Self::Database(_) => None,
        }
    }

    /// True where the same transaction, run again from its beginning, can succeed: a serialization failure (40001, at
    /// REPEATABLE READ and above) or a deadlock (40P01).
    #[must_use]
    pub fn is_retryable<T: Transaction<Error = E>>(&self) -> bool {
        let Self::Database(error) = self else { return false };
        matches!(T::sqlstate(error).as_deref(), Some("40001" | "40P01"))
    }

    pub(super) fn refused(
        refusal: Refusal,
        stored: State,
        consumer: &str,
        event: &Event<'_>,
        header: &Header<'_>,
    ) -> Self {
        let (source, topic, partition) = (header.source(), event.topic, event.partition);
        let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
        Self::Refused(Box::new(Refused {
            refusal,
            consumer: consumer.to_owned(),
            source: source.to_owned(),
            place: event.place(),
            stored,
            reset: format!(
                "SELECT pillarbox.accept_reset({}, {}, {partition}, '{source}:{}', 'why')",
                literal(consumer),
                literal(topic),
                header.mark()
            ),
        }))
    }
}

impl<E> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { place, cause } => write!(
                f,
                "PB003 {place}: {cause}; hint: only the relay may write to the topic: find out who else does"
            ),
            Self::Refused(refused) => refused.fmt(f),
            Self::Row { place } => write!(
                f,
                "{place}: a row in the schema pillarbox is not one that a consumer wrote; hint: find out who else \
                 writes to the tables, then set the position with pillarbox.accept_reset"
            ),
            Self::Database(_) => f.write_str("the database of the consumer failed"),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { refusal, consumer, source, place, stored, reset } = self;
        let (code, hint) = match refusal {
            Refusal::Gap(_) => ("PB001", "if the topic still holds what is missing, read it from there"),
            Refusal::Foreign(_) => ("PB002", "was the topic made anew, or the consumer's database restored?"),
        };
        write!(f, "{code} {place}: {refusal}, consumer \"{consumer}\" of \"{source}\" ")?;
        match stored.last() {
            Some(last) => write!(f, "applied {last} last")?,
            None => f.write_str("applied nothing yet")?,
        }
        write!(f, "; hint: {hint}; to go on with this event: {reset}")
    }
}

impl<E: error::Error + 'static> error::Error for Error<E> {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Header { cause, .. } => Some(cause),
            Self::Refused(refused) => Some(&refused.refusal),
            Self::Row { .. } => None,
            Self::Database(error) => Some(error),
        }
    }
}

impl<E> From<E> for Error<E> {
    fn from(error: E) -> Self {
        Self::Database(error)
    }
}
