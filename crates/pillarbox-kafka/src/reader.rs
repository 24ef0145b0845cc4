//! Reads one partition from an offset, as a `read_committed` or `read_uncommitted` consumer sees it.
//!
//! Control batches and aborted records return nothing but move the position: always continue from
//! [`PartitionReader::position`], never from "last offset + 1". The reader owns its connection, because a long poll
//! blocks it. It follows leader changes, and it refuses to go on in a topic that was deleted and created again.
//!
//! It commits no offsets and knows no group.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{ApiKey, BrokerId, FetchRequest, FetchResponse};
pub use kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;
use uuid::Uuid;

use crate::admin::{leader_of, millis, topic_name};
use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::error::{Error, ErrorCode};

mod batch;
pub(crate) mod visible;

/// Fetch version from which topics are named by id.
const FETCH_BY_ID: i16 = 13;

/// Consecutive failures (no leader, broken connection) before [`PartitionReader::poll`] gives up.
const FAILURES_MAX: u32 = 100;

/// Pause after such a failure.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// Which records a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Records of committed transactions and plain records, up to the last stable offset.
    ReadCommitted,
    /// Everything up to the high watermark, aborted records included.
    ReadUncommitted,
}

/// How to fetch.
#[derive(Clone, Copy, Debug)]
pub struct ReaderOptions {
    /// Which records to see.
    pub isolation: Isolation,
    /// How long the broker may hold a fetch that finds nothing.
    pub max_wait: Duration,
    /// Bytes per fetch; one batch may exceed it.
    pub max_bytes: u32,
}

impl Default for ReaderOptions {
    /// Read-committed, half a second, 4 MiB.
    fn default() -> Self {
        Self { isolation: Isolation::ReadCommitted, max_wait: Duration::from_millis(500), max_bytes: 4 << 20 }
    }
}

/// One record. `Debug` shows sizes, never contents.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Offset in the partition.
    pub offset: i64,
    /// Milliseconds since 1970: the producer's, or the broker's where the topic says so.
    pub timestamp_ms: i64,
    /// Key; none and empty are different.
    pub key: Option<Bytes>,
    /// Value; none is a tombstone.
    pub value: Option<Bytes>,
    /// In written order; a name may appear more than once.
    pub headers: Vec<(StrBytes, Option<Bytes>)>,
}

impl Record {
    /// The value of the first header of this name, if it has one.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let (_, value) = self.headers.iter().find(|(key, _)| &**key == name)?;
        value.as_deref()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("offset", &self.offset)
            .field("timestamp_ms", &self.timestamp_ms)
            .field("key_bytes", &self.key.as_ref().map(Bytes::len))
            .field("value_bytes", &self.value.as_ref().map(Bytes::len))
            .field("headers", &self.headers.len())
            .finish()
    }
}

/// The answer to one fetch.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Visible records at or after the position asked for.
    pub records: Vec<Record>,
    /// Where the next fetch begins; moves over control batches and aborted records too.
    pub next_offset: i64,
    /// End of what is replicated.
    pub high_watermark: i64,
    /// End of what a `read_committed` consumer may see.
    pub last_stable_offset: i64,
    /// First offset still in the log.
    pub log_start_offset: i64,
}

/// A position in one partition. Dropping it closes its connection.
pub struct PartitionReader {
    cluster: Cluster,
    topic: String,
    topic_id: Option<Uuid>,
    partition: i32,
    position: i64,
    options: ReaderOptions,
    /// The leader's connection and the leader epoch it was chosen by.
    link: Option<(Connection, i32)>,
    failures: u32,
}

impl PartitionReader {
    /// A reader at `offset`; nothing is asked yet.
    pub fn new(cluster: Cluster, topic: &str, partition: i32, offset: i64, options: ReaderOptions) -> Self {
        let topic = topic.to_owned();
        Self { cluster, topic, topic_id: None, partition, position: offset, options, link: None, failures: 0 }
    }

    /// Where the next fetch begins.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Continues at another offset.
    pub fn seek(&mut self, offset: i64) {
        self.position = offset;
    }

    /// One fetch; waits up to `max_wait` for data and may return no records. Retries over leader changes and broken
    /// connections for about five seconds. Dropping the future loses nothing: the position moves with the answer.
    ///
    /// Errors: `OFFSET_OUT_OF_RANGE`, `UNKNOWN_TOPIC_OR_PARTITION`, `UNKNOWN_TOPIC_ID` (the topic was created anew),
    /// authorization, [`Error::CorruptBatch`], or the last transport error.
    pub async fn poll(&mut self) -> Result<Fetched, Error> {
        loop {
            match self.fetch().await {
                Ok(fetched) => {
                    self.failures = 0;
                    self.position = fetched.next_offset;
                    return Ok(fetched);
                }
                Err(error) => self.recover(error).await?,
            }
        }
    }

    /// Reads until the position reaches `end_offset` (a high watermark, as a rule), within `limit`.
    pub async fn read_to(&mut self, end_offset: i64, limit: Duration) -> Result<Vec<Record>, Error> {
        let deadline = Instant::now() + limit;
        let mut records = Vec::new();
        while self.position < end_offset {
            match tokio::time::timeout_at(deadline, self.poll()).await {
                Ok(fetched) => records.extend(fetched?.records),
                Err(_) => {
                    let topic = self.topic.clone();
                    let what = "reading to the end";
                    return Err(Error::Deadline { what, topic, partition: self.partition, after: limit });
                }
            }
        }
        Ok(records)
    }

    async fn recover(&mut self, error: Error) -> Result<(), Error> {
        self.link = None;
        self.failures += 1;
        // An id that vanished is final; everything else about leadership may pass.
        let recreated = error.code() == Some(ErrorCode::UNKNOWN_TOPIC_ID) && self.topic_changed().await?;
        let foreign = matches!(error, Error::TlsOrSaslExpected { .. });
        if recreated || self.failures > FAILURES_MAX || !(error.is_retriable() || foreign) {
            return Err(error);
        }
        tokio::time::sleep(FAILURE_PAUSE).await;
        Ok(())
    }

    async fn topic_changed(&self) -> Result<bool, Error> {
        let answers = self.cluster.refresh(&[&self.topic]).await?;
        let id = answers.first().and_then(|answer| answer.topic.as_ref()).map(|topic| topic.id);
        Ok(id.is_some() && id != self.topic_id)
    }

    async fn fetch(&mut self) -> Result<Fetched, Error> {
        let (connection, leader_epoch) = self.connection().await?;
        let version = connection.version_of::<FetchRequest>()?;
        let request = self.request(version, leader_epoch);
        let limit = self.cluster.config().request_timeout + self.options.max_wait;
        let answer = connection.call_within(&request, limit).await?;
        let data = self.partition_data(answer)?;
        self.visible(data)
    }

    /// The connection to the leader, opened after a question for fresh metadata.
    async fn connection(&mut self) -> Result<(Connection, i32), Error> {
        if let Some(link) = self.link.as_ref().filter(|(connection, _)| connection.is_alive()) {
            return Ok(link.clone());
        }
        let (leader, leader_epoch) = leader_of(&self.cluster, &self.topic, self.partition, true).await?;
        self.pin_topic()?;
        let link = (self.cluster.private_connection(leader).await?, leader_epoch);
        self.link = Some(link.clone());
        Ok(link)
    }

    fn pin_topic(&mut self) -> Result<(), Error> {
        let Some(known) = self.cluster.topic(&self.topic) else { return Ok(()) };
        match self.topic_id {
            Some(pinned) if pinned != known.id => {
                let object = self.topic.clone();
                Err(Error::Api { api: ApiKey::Fetch, object, code: ErrorCode::UNKNOWN_TOPIC_ID })
            }
            _ => {
                self.topic_id = Some(known.id);
                Ok(())
            }
        }
    }

    /// The leader epoch makes a broker that is only a follower (and may lag behind) say so instead of answering.
    fn request(&self, version: i16, leader_epoch: i32) -> FetchRequest {
        let max_bytes = i32::try_from(self.options.max_bytes).unwrap_or(i32::MAX);
        let partition = FetchPartition::default()
            .with_partition(self.partition)
            .with_current_leader_epoch(leader_epoch)
            .with_fetch_offset(self.position)
            .with_partition_max_bytes(max_bytes);
        let topic = FetchTopic::default().with_partitions(vec![partition]);
        let topic = match version >= FETCH_BY_ID {
            true => topic.with_topic_id(self.topic_id.unwrap_or_default()),
            false => topic.with_topic(topic_name(&self.topic)),
        };
        FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(millis(self.options.max_wait))
            .with_min_bytes(1)
            .with_max_bytes(max_bytes)
            .with_isolation_level(i8::from(self.options.isolation == Isolation::ReadCommitted))
            .with_session_epoch(-1)
            .with_topics(vec![topic])
    }

    fn partition_data(&self, answer: FetchResponse) -> Result<PartitionData, Error> {
        let object = || self.topic.clone();
        ErrorCode(answer.error_code).check(ApiKey::Fetch, object)?;
        let data = answer.responses.into_iter().flat_map(|topic| topic.partitions).next();
        let data = data.ok_or_else(|| Error::Api {
            api: ApiKey::Fetch,
            object: object(),
            code: ErrorCode::UNKNOWN_SERVER_ERROR,
        })?;
        ErrorCode(data.error_code).check(ApiKey::Fetch, object)?;
        Ok(data)
    }

    fn visible(&self, mut data: PartitionData) -> Result<Fetched, Error> {
        let bytes = data.records.take().unwrap_or_default();
        let aborted = match self.options.isolation {
            Isolation::ReadCommitted => data.aborted_transactions.take().unwrap_or_default(),
            Isolation::ReadUncommitted => Vec::new(),
        };
        let aborted = aborted.iter().map(|aborted| (aborted.producer_id.0, aborted.first_offset)).collect();
        let seen = visible::records(bytes, self.position, aborted).map_err(|(offset, what)| {
            Error::CorruptBatch { topic: self.topic.clone(), partition: self.partition, offset, what }
        })?;
        Ok(Fetched {
            records: seen.records,
            next_offset: seen.next_offset,
            high_watermark: data.high_watermark,
            last_stable_offset: data.last_stable_offset,
            log_start_offset: data.log_start_offset,
        })
    }
}
