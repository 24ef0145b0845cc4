//! A connection of `tokio-postgres`, driven by whoever waits on it.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Error};

use super::listener::{Heard, Listener, Sealed};
use super::{CHANNEL, WaitError};

/// A client, and what its connection says.
///
/// The connection is not spawned: it moves while [`Waiter::wait`](super::Waiter::wait) is polled, and only then.
///
/// ```no_run
/// use pillarbox_consumer::wait::{TokioPostgres, Waiter};
///
/// # async fn make(url: &str) -> Result<(), tokio_postgres::Error> {
/// let (client, mut connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
/// let mut waiter = Waiter::new(TokioPostgres::new(client, move |context| connection.poll_message(context)));
/// # Ok(())
/// # }
/// ```
pub struct TokioPostgres<F> {
    client: Client,
    poll_message: F,
    /// Notifications that came while a question was under way.
    told: Vec<String>,
}

impl<F> TokioPostgres<F>
where
    F: FnMut(&mut Context<'_>) -> Poll<Option<Result<AsyncMessage, Error>>> + Send,
{
    /// `poll_message` is that of the client's connection.
    pub fn new(client: Client, poll_message: F) -> Self {
        Self { client, poll_message, told: Vec::new() }
    }
}

impl<F> fmt::Debug for TokioPostgres<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioPostgres").finish_non_exhaustive()
    }
}

impl<F> Sealed for TokioPostgres<F> {}

impl<F> Listener for TokioPostgres<F>
where
    F: FnMut(&mut Context<'_>) -> Poll<Option<Result<AsyncMessage, Error>>> + Send,
{
    type Error = Error;

    async fn listen(&mut self) -> Result<(), WaitError<Error>> {
        let listen = format!("LISTEN {CHANNEL}");
        driven(&mut self.poll_message, &mut self.told, self.client.batch_execute(&listen)).await
    }

    async fn ask(&mut self, sql: &'static str, values: [&str; 2]) -> Result<String, WaitError<Error>> {
        let [first, second] = values;
        let values: [(&(dyn ToSql + Sync), Type); 2] = [(&first, Type::TEXT), (&second, Type::TEXT)];
        let rows = self.client.query_typed(sql, &values);
        let rows = driven(&mut self.poll_message, &mut self.told, rows).await?;
        let row = rows.first().ok_or(WaitError::Strange)?;
        row.try_get(0).map_err(WaitError::Database)
    }

    async fn heard(&mut self) -> Result<Heard, WaitError<Error>> {
        // A question follows for whichever of them it was.
        if let Some(told) = self.told.pop() {
            return Ok(Heard::Told(told));
        }
        poll_fn(|context| {
            loop {
                match (self.poll_message)(context) {
                    Poll::Ready(Some(Ok(AsyncMessage::Notification(told)))) => {
                        return Poll::Ready(Ok(Heard::Told(told.payload().to_owned())));
                    }
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(WaitError::Database(error))),
                    Poll::Ready(None) => return Poll::Ready(Err(WaitError::Closed)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    fn sqlstate(error: &Error) -> Option<String> {
        error.code().map(|code| code.code().to_owned())
    }
}

/// The answer to a question, while the connection moves.
async fn driven<T>(
    mut poll_message: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<AsyncMessage, Error>>>,
    told: &mut Vec<String>,
    question: impl Future<Output = Result<T, Error>>,
) -> Result<T, WaitError<Error>> {
    let mut question = pin!(question);
    poll_fn(|context| {
        loop {
            if let Poll::Ready(answer) = question.as_mut().poll(context) {
                return Poll::Ready(answer.map_err(WaitError::Database));
            }
            match poll_message(context) {
                Poll::Ready(Some(Ok(AsyncMessage::Notification(notification)))) => {
                    let payload = notification.payload().to_owned();
                    if !told.contains(&payload) {
                        told.push(payload);
                    }
                }
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(WaitError::Database(error))),
                Poll::Ready(None) => return Poll::Ready(Err(WaitError::Closed)),
                // It may have brought the answer just now.
                Poll::Pending => return question.as_mut().poll(context).map_err(WaitError::Database),
            }
        }
    })
    .await
}
