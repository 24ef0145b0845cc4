//! Waits until a consumer has applied what a [`Receipt`] names: told by the server, without looking again and again.
//!
//! ```text
//! LISTEN -> wait_begin: locks, then a look -> applied? true
//!                          |    ^
//!                          v    | wait_begin again: the connection was made anew
//!                     told of a move of one of its partitions -> applied? true, or on
//!                          |
//!                     the deadline: false                       at the end: every lock is given back
//! ```
//!
//! The locks are what lets a consumer see, at the price of one attempt at a lock, that somebody waits (sql/consumer,
//! `0003_wait.up.sql`). They belong to the session, so the connection is the waiter's own; nothing else may run on it.
//!
//! | what happens | what follows |
//! | --- | --- |
//! | the event is applied before, during or after the first look | true: a move under way is waited for, a later one is told |
//! | the consumer does not come to it in time | false; nothing is left behind |
//! | a transaction of the consumer is open for long | the first look waits for it, at most until the deadline |
//! | the future is dropped | the next wait gives the locks back first; so does the end of the connection |
//! | the connection breaks | `sqlx`: made anew, looked again; `tokio-postgres`: an error, make a new waiter |
//! | an event up to the receipt's is parked | not applied until it is replayed or discarded |
//! | the receipt is of a pipeline that the consumer does not read | an error with code PB005 |
//!
//! A waiter waits for one receipt at a time: a service keeps a few of them, as it keeps a pool of connections. Must never
//! wait inside of a transaction, and never say true for what is not committed.

use std::error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use crate::receipt::Receipt;
use listener::Heard;

mod listener;
#[cfg(feature = "sqlx")]
mod sqlx;
#[cfg(feature = "tokio-postgres")]
mod tokio_postgres;

pub use self::listener::Listener;
#[cfg(feature = "sqlx")]
pub use self::sqlx::Sqlx;
#[cfg(feature = "tokio-postgres")]
pub use self::tokio_postgres::TokioPostgres;

/// Where moves are announced.
const CHANNEL: &str = "pillarbox_applied";
/// `t` or `f`, then the keys by which moves of the receipt's partitions are announced.
const BEGIN: &str = "SELECT concat_ws(' ', pillarbox.wait_begin($1, $2), (SELECT string_agg( \
    pillarbox.wait_key($2, t.source, t.topic, t.partition)::text, ' ') FROM pillarbox.receipt_targets($1) t))";
const APPLIED: &str = "SELECT concat_ws(' ', pillarbox.applied($1, $2))";
/// All: the session is the waiter's own.
const RELEASE: &str = "SELECT concat_ws(' ', pg_advisory_unlock_all()::text, $1, $2)";

/// Why it cannot be said whether something was applied.
#[derive(Debug)]
pub enum WaitError<E> {
    /// The server refused, or the connection broke.
    Database(E),
    /// The connection has ended: make a new waiter.
    Closed,
    /// The functions in the database are not those of this crate.
    Strange,
}

impl<E: fmt::Display> fmt::Display for WaitError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database(error) => write!(f, "cannot wait in the database of the consumer: {error}"),
            Self::Closed => f.write_str("the connection of the waiter has ended; hint: make a new one"),
            Self::Strange => f.write_str(
                "the functions in schema pillarbox answer otherwise than expected; hint: pillarbox setup --consumer",
            ),
        }
    }
}

impl<E: error::Error + 'static> error::Error for WaitError<E> {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Database(error) => Some(error),
            Self::Closed | Self::Strange => None,
        }
    }
}

/// Waits in the database of a consumer, on a connection of its own.
#[derive(Debug)]
pub struct Waiter<L> {
    listener: L,
    listens: bool,
    /// Locks of an earlier wait may still be held.
    holds: bool,
    /// A question was sent, and its answer not yet received.
    asks: bool,
}

impl<L: Listener> Waiter<L> {
    /// A waiter on a connection that is used for nothing else.
    pub fn new(listener: L) -> Self {
        Self { listener, listens: false, holds: false, asks: false }
    }

    /// Waits until `consumer` has applied everything that the receipt names: true. False once the deadline is over.
    ///
    /// The deadline is a future, so that it is of the caller's runtime: `tokio::time::sleep(Duration::from_secs(5))`.
    ///
    /// # Errors
    /// [`WaitError::Database`]: [`code`](WaitError::code) is PB005 for a receipt of a pipeline that the consumer does not
    /// read. After any error but that one make a new waiter.
    pub async fn wait(
        &mut self,
        receipt: &Receipt,
        consumer: &str,
        deadline: impl Future<Output = ()>,
    ) -> Result<bool, WaitError<L::Error>> {
        let text = receipt.to_string();
        let waited = before(deadline, self.wait_on([&text, consumer])).await;
        match waited {
            Some(Ok(applied)) => self.release().await.map(|()| applied),
            Some(Err(error)) => {
                // What it was is worth more than how the rest went.
                let _ = self.release().await;
                Err(error)
            }
            // The question may wait for a lock, far beyond the deadline: the next wait begins with the release.
            None if self.asks => Ok(false),
            None => self.release().await.map(|()| false),
        }
    }

    async fn ask(&mut self, sql: &'static str, values: [&str; 2]) -> Result<String, WaitError<L::Error>> {
        self.asks = true;
        let answer = self.listener.ask(sql, values).await;
        self.asks = false;
        answer
    }

    async fn wait_on(&mut self, values: [&str; 2]) -> Result<bool, WaitError<L::Error>> {
        if !self.listens {
            self.listener.listen().await?;
            self.listens = true;
        }
        self.release().await?;
        self.holds = true;
        let mut keys = match self.begin(values).await? {
            Begun::Applied => return Ok(true),
            Begun::Waits(keys) => keys,
        };
        loop {
            match self.listener.heard().await? {
                Heard::Told(key) if !keys.contains(&key) => {}
                Heard::Told(_) => {
                    if said(&self.ask(APPLIED, values).await?)? {
                        return Ok(true);
                    }
                }
                Heard::Anew => match self.begin(values).await? {
                    Begun::Applied => return Ok(true),
                    Begun::Waits(again) => keys = again,
                },
            }
        }
    }

    async fn begin(&mut self, values: [&str; 2]) -> Result<Begun, WaitError<L::Error>> {
        let answer = self.ask(BEGIN, values).await?;
        let mut words = answer.split(' ');
        if said(words.next().unwrap_or_default())? {
            return Ok(Begun::Applied);
        }
        Ok(Begun::Waits(words.map(str::to_owned).collect()))
    }

    async fn release(&mut self) -> Result<(), WaitError<L::Error>> {
        if self.holds {
            self.ask(RELEASE, ["", ""]).await?;
            self.holds = false;
        }
        Ok(())
    }
}

impl<E> WaitError<E> {
    /// PB005: the receipt is of a pipeline that the consumer does not read; or another SQLSTATE of the server.
    #[must_use]
    pub fn code<L: Listener<Error = E>>(&self) -> Option<String> {
        match self {
            Self::Database(error) => L::sqlstate(error),
            Self::Closed | Self::Strange => None,
        }
    }
}

/// What the first look brought.
enum Begun {
    Applied,
    /// The keys of its partitions.
    Waits(Vec<String>),
}

fn said<E>(answer: &str) -> Result<bool, WaitError<E>> {
    match answer {
        "t" => Ok(true),
        "f" => Ok(false),
        _ => Err(WaitError::Strange),
    }
}

/// What `work` gives, or `None` if the deadline is over before.
async fn before<T>(deadline: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    let (mut deadline, mut work) = (pin!(deadline), pin!(work));
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        deadline.as_mut().poll(context).map(|()| None)
    })
    .await
}
