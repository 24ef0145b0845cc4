//! One connection to one broker: requests are pipelined, answers come in order.
//!
//! ```text
//! caller --start--> queue (bounded) --driver--> socket
//! caller <--oneshot-- pending (in order) <--driver-- socket
//! ```
//! One driver task owns the socket. When it ends, for whatever reason, everything outstanding fails at once, and
//! each error says whether its request may have reached the broker. A request that is not answered in time closes
//! the connection, because all later answers stand behind the missing one.
//!
//! It never retries, never reconnects and never looks into a request.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::error::{Error, ErrorCode};
use crate::protocol::Call;
use stream::{ByteReader, ByteWriter};

mod stream;

/// Largest answer accepted, in bytes. A fetch may exceed its own limit by one record batch, and
/// `message.max.bytes` is rarely beyond 100 MiB; a length beyond this is a hostile or a foreign protocol
/// (a TLS alert read as a length is 352 MB).
pub const FRAME_BYTES_MAX: usize = 128 << 20;

/// Requests that may wait on one connection. The producer pipelines five; admin calls come one by one.
const OUTSTANDING_MAX: usize = 256;

/// Bytes the read buffer grows by when no frame length is known yet.
const READ_BYTES: usize = 64 << 10;

/// Buffers handed to one vectored write; Linux takes 1,024, and beyond a few dozen nothing is gained.
const WRITE_SLICES: usize = 64;

/// A broker closes what nobody uses for ten minutes. A connection that was quiet for this long before it ended had
/// nothing under way, not even a transaction's markers: those take milliseconds.
const QUIET: Duration = Duration::from_secs(60);

/// Highest version of an api per connection, from ApiVersions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Versions {
    ranges: Vec<(i16, i16, i16)>,
    /// Finalized level of `transaction.version`, 0 if the broker names none.
    pub(crate) transaction_version: i16,
}

impl Versions {
    fn from_answer(answer: &ApiVersionsResponse) -> Self {
        let ranges =
            answer.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version)).collect();
        let level = answer.finalized_features.iter().find(|feature| &*feature.name == "transaction.version");
        Self { ranges, transaction_version: level.map_or(0, |feature| feature.max_version_level) }
    }

    /// The highest version both sides speak.
    fn pick(&self, api: ApiKey, ours: (i16, i16)) -> Option<i16> {
        let (_, min, max) = self.ranges.iter().find(|(key, ..)| *key == api as i16)?;
        let version = ours.1.min(*max);
        (version >= ours.0 && version >= *min).then_some(version)
    }
}

/// A handle; clones share the connection, and the connection closes with the last of them.
#[derive(Clone)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Outgoing>,
    versions: Arc<Versions>,
}

struct Shared {
    broker: String,
    client_id: String,
    request_timeout: Duration,
    correlation: AtomicI32,
    pending: Mutex<VecDeque<Pending>>,
    used: Mutex<Instant>,
    death: OnceLock<Death>,
    kill: Notify,
}

/// The end of a connection; the first cause stands.
#[derive(Clone, Copy)]
struct Death {
    kind: io::ErrorKind,
    at: Instant,
}

struct Outgoing {
    parts: Vec<Bytes>,
    pending: Pending,
}

struct Pending {
    correlation: i32,
    api: ApiKey,
    answer: oneshot::Sender<Result<Bytes, Error>>,
}

impl Pending {
    fn fail(self, shared: &Shared, kind: io::ErrorKind, possibly_sent: bool) {
        let broker = shared.broker.clone();
        // The waiter may have gone; nobody else needs the error.
        let _ = self.answer.send(Err(Error::Transport { broker, api: self.api, possibly_sent, kind }));
    }
}

/// A request on its way; await [`Reply::frame`] for the answer.
pub(crate) struct Reply {
    connection: Connection,
    api: ApiKey,
    timeout: Duration,
    answer: oneshot::Receiver<Result<Bytes, Error>>,
}

impl Connection {
    /// Connects to `host:port` and negotiates versions; all of it within `connect_timeout`.
    pub(crate) async fn open(
        broker: &str,
        client_id: &str,
        connect_timeout: Duration,
        request_timeout: Duration,
    ) -> Result<Self, Error> {
        let opening = async {
            let (mut reader, mut writer) =
                stream::open(broker).await.map_err(|error| match error.kind() {
                    io::ErrorKind::InvalidInput => Error::BrokerAddress { address: broker.to_owned() },
                    kind => Error::Connect { broker: broker.to_owned(), kind },
                })?;
            let versions = handshake(broker, client_id, &mut reader, &mut writer).await?;
            Ok((reader, writer, versions))
        };
        let timed_out = |_| Error::ConnectTimeout { broker: broker.to_owned(), after: connect_timeout };
        let (reader, writer, versions) =
            tokio::time::timeout(connect_timeout, opening).await.map_err(timed_out)??;
        let shared = Arc::new(Shared {
            broker: broker.to_owned(),
            client_id: client_id.to_owned(),
            request_timeout,
            correlation: AtomicI32::new(0),
            pending: Mutex::new(VecDeque::new()),
            used: Mutex::new(Instant::now()),
            death: OnceLock::new(),
            kill: Notify::new(),
        });
        let (queue, requests) = mpsc::channel(OUTSTANDING_MAX);
        // Ends when every handle is gone, when the socket breaks, or when a request times out; on its end
        // everything outstanding fails. Dropping the runtime does the same through the dropped senders.
        tokio::spawn(drive(Arc::clone(&shared), requests, reader, writer));
        Ok(Self { shared, queue, versions: Arc::new(versions) })
    }

    /// `host:port` this connection was opened with.
    pub(crate) fn broker(&self) -> &str {
        &self.shared.broker
    }

    /// False once the socket broke; outstanding requests have failed by then.
    pub(crate) fn is_alive(&self) -> bool {
        self.shared.death.get().is_none() && !self.queue.is_closed()
    }

    /// It ended soon after it was used: whoever was at the other end may have died in the middle of something.
    pub(crate) fn broke_in_use(&self) -> bool {
        let used = *self.shared.used.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.death.get().is_some_and(|death| death.at.saturating_duration_since(used) < QUIET)
    }

    /// Finalized level of `transaction.version`.
    pub(crate) fn transaction_version(&self) -> i16 {
        self.versions.transaction_version
    }

    /// The version a call of `Q` will use here.
    pub(crate) fn version_of<Q: Call>(&self) -> Result<i16, Error> {
        self.version_within::<Q>(Q::VERSIONS)
    }

    /// The highest version of a narrower range (both inclusive) that the broker speaks too.
    pub(crate) fn version_within<Q: Call>(&self, range: (i16, i16)) -> Result<i16, Error> {
        self.versions
            .pick(Q::API, range)
            .ok_or_else(|| Error::UnsupportedVersion { broker: self.shared.broker.clone(), api: Q::API })
    }

    /// One request, one answer.
    pub(crate) async fn call<Q: Call>(&self, request: &Q) -> Result<Q::Answer, Error> {
        self.call_within(request, self.shared.request_timeout).await
    }

    /// As [`Self::call`], with a limit of its own (long polls).
    pub(crate) async fn call_within<Q: Call>(
        &self,
        request: &Q,
        timeout: Duration,
    ) -> Result<Q::Answer, Error> {
        self.call_in(request, self.version_of::<Q>()?, timeout).await
    }

    /// As [`Self::call_within`], in this version.
    pub(crate) async fn call_in<Q: Call>(
        &self,
        request: &Q,
        version: i16,
        timeout: Duration,
    ) -> Result<Q::Answer, Error> {
        let mut body = BytesMut::new();
        request.encode(&mut body, version).map_err(|_| Error::Encode { api: Q::API, version })?;
        let reply = self.start(Q::API, version, Q::header_version(version), vec![body.freeze()], timeout)?;
        self.decode::<Q>(reply.frame().await?, version)
    }

    /// Decodes an answer frame of `Q` as it came from [`Reply::frame`].
    pub(crate) fn decode<Q: Call>(&self, frame: Bytes, version: i16) -> Result<Q::Answer, Error> {
        decode_answer::<Q>(frame, version)
            .ok_or_else(|| Error::Malformed { broker: self.shared.broker.clone(), api: Q::API })
    }

    /// Queues a request whose body is already encoded; requests leave in the order of these calls.
    pub(crate) fn start(
        &self,
        api: ApiKey,
        version: i16,
        header_version: i16,
        body: Vec<Bytes>,
        timeout: Duration,
    ) -> Result<Reply, Error> {
        *self.shared.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let correlation = self.shared.correlation.fetch_add(1, Ordering::Relaxed);
        let length = body.iter().map(Bytes::len).sum();
        let head = Head { api, version, header_version, correlation, client_id: &self.shared.client_id };
        let mut parts = Vec::with_capacity(body.len() + 1);
        parts.push(head.encode(length).ok_or(Error::Encode { api, version })?);
        parts.extend(body);
        let (sender, answer) = oneshot::channel();
        let outgoing = Outgoing { parts, pending: Pending { correlation, api, answer: sender } };
        self.queue.try_send(outgoing).map_err(|refused| {
            let kind = match refused {
                mpsc::error::TrySendError::Full(_) => io::ErrorKind::WouldBlock,
                mpsc::error::TrySendError::Closed(_) => self.shared.death_kind(),
            };
            Error::Transport { broker: self.shared.broker.clone(), api, possibly_sent: false, kind }
        })?;
        Ok(Reply { connection: self.clone(), api, timeout, answer })
    }
}

impl Reply {
    /// Waits for the answer; on a timeout the connection is closed.
    pub(crate) async fn frame(self) -> Result<Bytes, Error> {
        let shared = &self.connection.shared;
        match tokio::time::timeout(self.timeout, self.answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::Transport {
                broker: shared.broker.clone(),
                api: self.api,
                possibly_sent: true,
                kind: shared.death_kind(),
            }),
            Err(_) => {
                shared.close(io::ErrorKind::TimedOut);
                Err(Error::RequestTimeout {
                    broker: shared.broker.clone(),
                    api: self.api,
                    after: self.timeout,
                })
            }
        }
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, VecDeque<Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn death_kind(&self) -> io::ErrorKind {
        self.death.get().map_or(io::ErrorKind::NotConnected, |death| death.kind)
    }

    fn die(&self, kind: io::ErrorKind) {
        let _ = self.death.set(Death { kind, at: Instant::now() });
    }

    fn close(&self, kind: io::ErrorKind) {
        self.die(kind);
        self.kill.notify_one();
    }
}

/// The fields of a request header.
struct Head<'a> {
    api: ApiKey,
    version: i16,
    header_version: i16,
    correlation: i32,
    client_id: &'a str,
}

impl Head<'_> {
    /// Length prefix and request header for a body of `body` bytes; none if the frame would exceed an i32.
    fn encode(&self, body: usize) -> Option<Bytes> {
        let flexible = self.header_version >= 2;
        let header = 10 + self.client_id.len() + usize::from(flexible);
        let mut buffer = BytesMut::with_capacity(4 + header);
        buffer.put_i32(i32::try_from(header + body).ok()?);
        buffer.put_i16(self.api as i16);
        buffer.put_i16(self.version);
        buffer.put_i32(self.correlation);
        buffer.put_i16(i16::try_from(self.client_id.len()).ok()?);
        buffer.put_slice(self.client_id.as_bytes());
        if flexible {
            buffer.put_u8(0);
        }
        Some(buffer.freeze())
    }
}

fn decode_answer<Q: Call>(mut frame: Bytes, version: i16) -> Option<Q::Answer> {
    ResponseHeader::decode(&mut frame, Q::Answer::header_version(version)).ok()?;
    Q::Answer::decode(&mut frame, version).ok()
}

/// Moves bytes until the socket breaks, the handles are gone, or somebody closes; then fails what is left.
async fn drive(
    shared: Arc<Shared>,
    mut requests: mpsc::Receiver<Outgoing>,
    mut reader: ByteReader,
    mut writer: ByteWriter,
) {
    let ended = tokio::select! {
        ended = write_loop(&shared, &mut requests, &mut writer) => ended,
        ended = read_loop(&shared, &mut reader) => ended,
        () = shared.kill.notified() => Ok(()),
    };
    if let Err(error) = ended {
        shared.die(error.kind());
    }
    shared.die(io::ErrorKind::NotConnected);
    let kind = shared.death_kind();
    requests.close();
    let written = std::mem::take(&mut *shared.pending());
    for pending in written {
        pending.fail(&shared, kind, true);
    }
    while let Ok(unwritten) = requests.try_recv() {
        unwritten.pending.fail(&shared, kind, false);
    }
}

async fn write_loop(
    shared: &Shared,
    requests: &mut mpsc::Receiver<Outgoing>,
    writer: &mut ByteWriter,
) -> io::Result<()> {
    while let Some(outgoing) = requests.recv().await {
        shared.pending().push_back(outgoing.pending);
        write_all(writer, &outgoing.parts).await?;
    }
    Ok(())
}

/// Writes all parts in order without joining them.
async fn write_all(writer: &mut ByteWriter, parts: &[Bytes]) -> io::Result<()> {
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
    Ok(())
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
async fn read_frame(reader: &mut ByteReader, buffer: &mut BytesMut) -> io::Result<Bytes> {
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

/// ApiVersions on a fresh stream. Whatever is not a Kafka answer means that the port speaks something else.
async fn handshake(
    broker: &str,
    client_id: &str,
    reader: &mut ByteReader,
    writer: &mut ByteWriter,
) -> Result<Versions, Error> {
    let foreign = |_| Error::TlsOrSaslExpected { broker: broker.to_owned() };
    let malformed = || Error::TlsOrSaslExpected { broker: broker.to_owned() };
    let mut version = ApiVersionsRequest::VERSIONS.1;
    loop {
        let frame = exchange_versions(client_id, version, reader, writer).await.map_err(foreign)?;
        // A broker that does not know the version answers in version 0, with code 35 and its range.
        let code = frame.get(4..6).map(|mut code| code.get_i16()).ok_or_else(malformed)?;
        match ErrorCode(code) {
            ErrorCode::NONE => {
                let answer = decode_answer::<ApiVersionsRequest>(frame, version).ok_or_else(malformed)?;
                return Ok(Versions::from_answer(&answer));
            }
            ErrorCode::UNSUPPORTED_VERSION if version > 0 => {
                let answer = decode_answer::<ApiVersionsRequest>(frame, 0).ok_or_else(malformed)?;
                let offered = Versions::from_answer(&answer).pick(ApiKey::ApiVersions, (0, version - 1));
                version = offered.unwrap_or(0);
            }
            code => return Err(Error::Api { api: ApiKey::ApiVersions, object: broker.to_owned(), code }),
        }
    }
}

async fn exchange_versions(
    client_id: &str,
    version: i16,
    reader: &mut ByteReader,
    writer: &mut ByteWriter,
) -> io::Result<Bytes> {
    let request = ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str("pillarbox"))
        .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
    let mut body = BytesMut::new();
    request.encode(&mut body, version).map_err(|_| io::ErrorKind::InvalidInput)?;
    let head = Head {
        api: ApiKey::ApiVersions,
        version,
        header_version: ApiVersionsRequest::header_version(version),
        correlation: -1,
        client_id,
    };
    let head = head.encode(body.len()).ok_or(io::ErrorKind::InvalidInput)?;
    write_all(writer, &[head, body.freeze()]).await?;
    read_frame(reader, &mut BytesMut::new()).await
}
