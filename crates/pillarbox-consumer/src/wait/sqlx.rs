//! A listener of `sqlx`, which makes its connection anew when it breaks.

use std::fmt;

use sqlx::Error;
use sqlx::postgres::PgListener;

use super::listener::{Heard, Listener, Sealed};
use super::{CHANNEL, WaitError};

/// A listener that listens to nothing else.
///
/// ```no_run
/// use pillarbox_consumer::wait::{Sqlx, Waiter};
///
/// # async fn make(url: &str) -> Result<(), sqlx::Error> {
/// let mut waiter = Waiter::new(Sqlx::new(sqlx::postgres::PgListener::connect(url).await?));
/// # Ok(())
/// # }
/// ```
pub struct Sqlx {
    listener: PgListener,
}

impl Sqlx {
    /// One that was connected for this.
    pub fn new(listener: PgListener) -> Self {
        Self { listener }
    }
}

impl fmt::Debug for Sqlx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlx").finish_non_exhaustive()
    }
}

impl Sealed for Sqlx {}

impl Listener for Sqlx {
    type Error = Error;

    async fn listen(&mut self) -> Result<(), WaitError<Error>> {
        self.listener.listen(CHANNEL).await.map_err(WaitError::Database)
    }

    async fn ask(&mut self, sql: &'static str, values: [&str; 2]) -> Result<String, WaitError<Error>> {
        let [first, second] = values;
        let query = sqlx::query_scalar(sql).bind(first).bind(second);
        query.fetch_one(&mut self.listener).await.map_err(WaitError::Database)
    }

    async fn heard(&mut self) -> Result<Heard, WaitError<Error>> {
        let heard = self.listener.try_recv().await.map_err(WaitError::Database)?;
        Ok(heard.map_or(Heard::Anew, |told| Heard::Told(told.payload().to_owned())))
    }

    fn sqlstate(error: &Error) -> Option<String> {
        error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
    }
}
