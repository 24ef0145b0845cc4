//! What a waiter needs of a driver: to listen, to ask, to hear.
//!
//! Two drivers implement it, and nobody else can: a connection that others use too would give away the waiter's locks. Must
//! never begin a transaction.

use std::error;
use std::future::Future;

use super::WaitError;

/// Keeps [`Listener`] to the drivers of this crate.
pub trait Sealed {}

/// What was heard.
#[derive(Debug)]
pub enum Heard {
    /// A notification, with its payload.
    Told(String),
    /// The connection is another one: whatever was said meanwhile is lost, and so are the locks.
    Anew,
}

/// A connection that can listen: one of `tokio-postgres` or of `sqlx`.
pub trait Listener: Sealed + Send {
    /// The driver's error.
    type Error: error::Error + Send + Sync + 'static;

    #[doc(hidden)]
    fn listen(&mut self) -> impl Future<Output = Result<(), WaitError<Self::Error>>> + Send;

    /// Runs a statement with two texts; gives the text that it answers.
    #[doc(hidden)]
    fn ask(
        &mut self,
        sql: &'static str,
        values: [&str; 2],
    ) -> impl Future<Output = Result<String, WaitError<Self::Error>>> + Send;

    #[doc(hidden)]
    fn heard(&mut self) -> impl Future<Output = Result<Heard, WaitError<Self::Error>>> + Send;

    #[doc(hidden)]
    fn sqlstate(error: &Self::Error) -> Option<String>;
}
