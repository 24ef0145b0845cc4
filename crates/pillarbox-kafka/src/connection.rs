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
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsResponse, ResponseHeader};
use kafka_protocol::protocol::{Decodable, HeaderVersion};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::cluster::ClusterConfig;
use crate::error::Error;
use crate::guard::{Form, Guarded};
use crate::protocol::Call;
use crate::sasl::Credentials;
use driver::{Session, drive};

mod driver;
mod handshake;
mod login;
mod stream;

/// Largest answer accepted, in bytes. A fetch may exceed its own limit by one record batch, and
/// `message.max.bytes` is rarely beyond 100 MiB; a length beyond this is a hostile or a foreign protocol
/// (a TLS alert read as a length is 352 MB).
pub const FRAME_BYTES_MAX: usize = 128 << 20;

/// Requests that may wait on one connection. The producer pipelines five; admin calls come one by one.
const OUTSTANDING_MAX: usize = 256;

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
    connect_timeout: Duration,
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
    /// Connects to `host:port` and negotiates versions, then logs in; each within `connect_timeout`.
    pub(crate) async fn open(
        broker: &str,
        config: &ClusterConfig,
        credentials: Option<Arc<Credentials>>,
    ) -> Result<Self, Error> {
        let (client_id, connect_timeout) = (config.client_id.as_str(), config.connect_timeout);
        let opening = async {
            let (mut reader, mut writer) = stream::open(broker, config.tls.as_ref()).await?;
            let versions = handshake::handshake(broker, client_id, &mut reader, &mut writer).await?;
            Ok((reader, writer, versions))
        };
        let timed_out = |_| Error::ConnectTimeout { broker: broker.to_owned(), after: connect_timeout };
        let (reader, writer, versions) =
            tokio::time::timeout(connect_timeout, opening).await.map_err(timed_out)??;
        let shared = Arc::new(Shared {
            broker: broker.to_owned(),
            client_id: client_id.to_owned(),
            request_timeout: config.request_timeout,
            connect_timeout,
            correlation: AtomicI32::new(0),
            pending: Mutex::new(VecDeque::new()),
            used: Mutex::new(Instant::now()),
            death: OnceLock::new(),
            kill: Notify::new(),
        });
        let (queue, requests) = mpsc::channel(OUTSTANDING_MAX);
        // Ends when every handle is gone, when the socket breaks, or when a request times out; on its end
        // everything outstanding fails. Dropping the runtime does the same through the dropped senders.
        let versions = Arc::new(versions);
        let (opened, open) = oneshot::channel();
        let session = Session { versions: Arc::clone(&versions), credentials, opened };
        tokio::spawn(drive(Arc::clone(&shared), requests, reader, writer, session));
        match open.await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(Error::Connect { broker: broker.to_owned(), kind: shared.death_kind() }),
        }
        Ok(Self { shared, queue, versions })
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
        let correlation = self.shared.next_correlation();
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
    fn next_correlation(&self) -> i32 {
        self.correlation.fetch_add(1, Ordering::Relaxed)
    }

    fn pending(&self) -> MutexGuard<'_, VecDeque<Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn death_kind(&self) -> io::ErrorKind {
        self.death.get().map_or(io::ErrorKind::NotConnected, |death| death.kind)
    }

    fn die(&self, kind: io::ErrorKind) {
        let _ = self.death.set(Death { kind, at: Instant::now() });
    }

    /// The connection is over: what was sent has failed.
    fn fail_written(&self, ended: &io::Result<()>) {
        let kind = ended.as_ref().err().map_or(io::ErrorKind::NotConnected, io::Error::kind);
        self.die(kind);
        let written = std::mem::take(&mut *self.pending());
        for pending in written {
            pending.fail(self, self.death_kind(), true);
        }
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

/// Decodes an answer frame, header and body.
pub(crate) fn decode_answer<Q: Call>(mut frame: Bytes, version: i16) -> Option<Q::Answer> {
    let header_version = Q::Answer::header_version(version);
    ResponseHeader::decode(&mut frame, header_version).ok()?;
    // The header of ApiVersions is never flexible, so that anybody can read it; its body is.
    let flexible = header_version >= 1 || Q::API == ApiKey::ApiVersions && version >= 3;
    let form = if flexible { Form::Flexible } else { Form::Older };
    Q::Answer::decode(&mut Guarded::new(frame, form), version).ok()
}
