//! The driver of a connection: the one task that owns the socket.
//!
//! ```text
//! login -> write and read, login again before the session ends -> everything outstanding fails
//! ```
//! Its end is the connection's: a broken socket, no handle left, a request that was not answered in time, a login
//! that the broker refused.

use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use pillarbox_failpoint::{Step, hit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::login::Login;
use super::stream::{ByteReader, ByteWriter};
use super::{FRAME_BYTES_MAX, Outgoing, Shared, Versions};
use crate::error::Error;
use crate::sasl::Credentials;

/// Bytes the read buffer grows by when no frame length is known yet.
const READ_BYTES: usize = 64 << 10;

/// Buffers handed to one vectored write; Linux takes 1,024, and beyond a few dozen nothing is gained.
const WRITE_SLICES: usize = 64;

/// What the driver needs to log in, now and again.
pub(super) struct Session {
    pub(super) versions: Arc<Versions>,
    pub(super) credentials: Option<Arc<Credentials>>,
    /// Told once, when requests may be sent or why not.
    pub(super) opened: oneshot::Sender<Result<(), Error>>,
}

/// Logs in, then moves bytes until the socket breaks, the handles are gone, or somebody closes; then fails what is
/// left.
pub(super) async fn drive(
    shared: Arc<Shared>,
    mut requests: mpsc::Receiver<Outgoing>,
    mut reader: ByteReader,
    mut writer: ByteWriter,
    session: Session,
) {
    let Session { versions, credentials, opened } = session;
    let mut lane = Lane { shared: &shared, versions: &versions, credentials, writer: &mut writer };
    let mut reading = pin!(read_loop(&shared, &mut reader));
    let (first, mut ended) = {
        let mut login = pin!(lane.log_in(shared.connect_timeout));
        tokio::select! {
            biased;
            first = &mut login => (first, None),
            // A broker that refuses answers and hangs up: the answer is what counts.
            ended = &mut reading => {
                shared.fail_written(&ended);
                (login.await, Some(ended))
            }
        }
    };
    let refused = first.is_err();
    let renew_at = first.as_ref().ok().copied().flatten();
    // Whoever opened may have gone; then the queue is closed.
    let _ = opened.send(first.map(drop));
    if ended.is_none() && !refused {
        ended = Some(tokio::select! {
            ended = lane.write_loop(&mut requests, renew_at) => ended,
            ended = &mut reading => ended,
            () = shared.kill.notified() => Ok(()),
        });
    }
    shared.fail_written(&ended.unwrap_or(Ok(())));
    requests.close();
    let kind = shared.death_kind();
    while let Ok(unwritten) = requests.try_recv() {
        unwritten.pending.fail(&shared, kind, false);
    }
}

/// The driver's way to the broker.
struct Lane<'a> {
    shared: &'a Shared,
    versions: &'a Versions,
    credentials: Option<Arc<Credentials>>,
    writer: &'a mut ByteWriter,
}

impl Lane<'_> {
    /// When to log in again, if the broker sets an end.
    async fn log_in(&mut self, limit: Duration) -> Result<Option<Instant>, Error> {
        let Some(credentials) = self.credentials.clone() else { return Ok(None) };
        let mut login = Login { shared: self.shared, versions: self.versions, writer: self.writer };
        login.run(&credentials, limit).await
    }

    async fn write_loop(
        &mut self,
        requests: &mut mpsc::Receiver<Outgoing>,
        mut renew_at: Option<Instant>,
    ) -> io::Result<()> {
        loop {
            let outgoing = match renew_at {
                None => requests.recv().await,
                // A queue that is never empty must not put the renewal off.
                Some(at) if at > Instant::now() => match timeout_at(at, requests.recv()).await {
                    Ok(outgoing) => outgoing,
                    Err(_) => continue,
                },
                Some(_) => {
                    renew_at = self.log_in(self.shared.request_timeout).await.map_err(not_renewed)?;
                    continue;
                }
            };
            let Some(outgoing) = outgoing else { return Ok(()) };
            let api = outgoing.pending.api;
            self.shared.pending().push_back(outgoing.pending);
            write_all(self.writer, &outgoing.parts).await?;
            note_sent(api);
        }
    }
}

/// Requests after which the broker's log and ours may differ.
fn note_sent(api: ApiKey) {
    match api {
        ApiKey::InitProducerId => hit(Step::InitSent),
        ApiKey::Produce => hit(Step::ProduceSent),
        ApiKey::EndTxn => hit(Step::EndTxnSent),
        _ => {}
    }
}

/// The connection ends; whoever opens the next one is told the same.
fn not_renewed(error: Error) -> io::Error {
    tracing::warn!(%error, "a login to Kafka could not be renewed");
    io::ErrorKind::PermissionDenied.into()
}

/// Writes all parts in order without joining them.
pub(super) async fn write_all(writer: &mut ByteWriter, parts: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut left = &mut slices[..];
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        let end = left.len().min(WRITE_SLICES);
        let written = writer.write_vectored(&left[..end]).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut left, written);
    }
    // A secured stream may hold the last record back; a plain one has nothing to do.
    writer.flush().await
}

async fn read_loop(shared: &Shared, reader: &mut ByteReader) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        let frame = read_frame(reader, &mut buffer).await?;
        let correlation = frame.get(..4).map(|mut head| head.get_i32());
        let Some(pending) = shared.pending().pop_front() else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if correlation != Some(pending.correlation) {
            pending.fail(shared, io::ErrorKind::InvalidData, true);
            return Err(io::ErrorKind::InvalidData.into());
        }
        // A waiter that gave up leaves its answer to be thrown away.
        let _ = pending.answer.send(Ok(frame));
    }
}

/// The next frame without its length prefix.
pub(super) async fn read_frame(reader: &mut ByteReader, buffer: &mut BytesMut) -> io::Result<Bytes> {
    loop {
        if let Some(mut head) = buffer.get(..4) {
            let length = frame_length(head.get_i32())?;
            if buffer.len() >= 4 + length {
                buffer.advance(4);
                return Ok(buffer.split_to(length).freeze());
            }
            buffer.reserve(4 + length - buffer.len());
        } else {
            buffer.reserve(READ_BYTES);
        }
        if reader.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn frame_length(announced: i32) -> io::Result<usize> {
    match usize::try_from(announced) {
        Ok(length) if length <= FRAME_BYTES_MAX => Ok(length),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "frame length out of range")),
    }
}
