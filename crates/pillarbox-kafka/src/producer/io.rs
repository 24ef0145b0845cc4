//! What the machine decides, done: Produce in stages, EndTxn, InitProducerId. Straight-line requests.
//!
//! Nothing here decides what a failure leads to; it only says how far things got. A refused request is repeated in
//! one case: `CONCURRENT_TRANSACTIONS` with nothing pipelined behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, ApiKey, EndTxnRequest, InitProducerIdRequest, ProducerId, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use pillarbox_failpoint::{Step, hit};
use pillarbox_wire::record_batch::ProducerIdentity;

use crate::admin::{millis, topic_name};
use crate::cluster::{Cluster, Purpose};
use crate::connection::Connection;
use crate::error::{Error, ErrorCode};

use super::TopicRef;
use super::encode::Part;
use super::state::{IdSlot, Input, Protocol, Reached};
use super::verdict::{Cause, Failure, LostReason, Verdict};

mod produce;

/// Versions of EndTxn by protocol: the version tells the coordinator which one the client speaks.
const END_KIP890: (i16, i16) = (5, 5);
const END_OLDER: (i16, i16) = (3, 4);

/// Looks at a topic before all brokers are asked whether it is gone: one may lag behind the controller.
const ABSENCE_ATTEMPTS: u32 = 3;
/// Looks at it while they disagree.
const LAG_ATTEMPTS: u32 = 25;
const ABSENCE_PAUSE: Duration = Duration::from_millis(40);

/// What all requests of one producer share.
pub(crate) struct Wire {
    cluster: Cluster,
    /// Transactional ids by slot.
    ids: Vec<String>,
    /// Broker id of each one's coordinator, once found.
    coordinators: Mutex<Vec<Option<i32>>>,
    /// [`Cluster::breaks`] at the start.
    breaks: u64,
    limits: Limits,
    protocol: Protocol,
}

/// How long things may take.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// An open transaction, by the coordinator's clock.
    pub(crate) transaction: Duration,
    /// EndTxn and InitProducerId; the broker's limit for acknowledging a Produce.
    pub(crate) request: Duration,
}

/// One transaction to be produced; the last part is the checkpoint.
pub(crate) struct Job {
    pub(crate) id: IdSlot,
    pub(crate) identity: ProducerIdentity,
    pub(crate) parts: Vec<Part>,
    pub(crate) pause: Duration,
    pub(crate) refresh: bool,
}

impl Wire {
    pub(crate) fn new(cluster: Cluster, ids: Vec<String>, limits: Limits, protocol: Protocol) -> Self {
        let coordinators = Mutex::new(vec![None; ids.len()]);
        let breaks = cluster.breaks();
        Self { cluster, ids, coordinators, breaks, limits, protocol }
    }

    /// A connection that carried transactions has broken since the start.
    fn is_broken(&self) -> bool {
        self.cluster.breaks() != self.breaks
    }

    /// A connection for a request that must not be sent once one has broken: see `state`.
    async fn connection(&self, broker: i32, purpose: Purpose, api: ApiKey) -> Result<Connection, Error> {
        let connection = self.cluster.connection(broker, purpose).await?;
        if self.is_broken() {
            let broker = connection.broker().to_owned();
            let kind = std::io::ErrorKind::ConnectionAborted;
            return Err(Error::Transport { broker, api, possibly_sent: false, kind });
        }
        Ok(connection)
    }

    /// Writes every batch and reports once nothing is outstanding any more.
    pub(crate) async fn produce(self: Arc<Self>, job: Job) -> (Input, Vec<i64>) {
        pause(job.pause).await;
        let parts = job.parts;
        if let Err(verdict) = self.know_leaders(&parts, job.refresh).await {
            return (Input::Produced { result: Err(verdict), reached: Reached::Nothing }, Vec::new());
        }
        if self.protocol == Protocol::Older
            && let Err(error) = self.add_partitions(job.id, job.identity, &parts).await
        {
            let result = Err(Verdict::of_error(&error));
            return (Input::Produced { result, reached: Reached::Unsure }, Vec::new());
        }
        hit(Step::ProduceReady);
        let tally = produce::stages(&self, &self.ids[job.id.0], &parts).await;
        let base_offsets = tally.base_offsets(parts.len());
        let (result, reached) = tally.result(parts.len());
        (Input::Produced { result, reached }, base_offsets)
    }

    /// Metadata for every topic of the transaction: asked for when told to or when a leader is unknown.
    async fn know_leaders(&self, parts: &[Part], refresh: bool) -> Result<(), Verdict> {
        let known = |part: &Part| self.cluster.leader(&part.topic.name, part.partition).is_some();
        if !refresh && parts.iter().all(known) {
            return Ok(());
        }
        let mut names: Vec<&str> = parts.iter().map(|part| part.topic.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        for attempt in 1.. {
            let answers = self.cluster.refresh(&names).await.map_err(|error| Verdict::of_error(&error))?;
            let refused = answers.iter().find(|answer| answer.code.is_authorization());
            if let Some(refused) = refused {
                return Err(Verdict::of_produce(refused.code, &refused.name));
            }
            let current = |part: &&Part| {
                self.cluster.topic(&part.topic.name).is_some_and(|topic| topic.id == part.topic.id)
            };
            let Some(gone) = parts.iter().find(|part| !current(part)) else { break };
            if attempt >= ABSENCE_ATTEMPTS && self.is_gone(&gone.topic).await? {
                return Err(Verdict::Lose(LostReason::TopicGone { name: gone.topic.name.clone() }));
            }
            if attempt >= LAG_ATTEMPTS {
                let cause =
                    Cause { api: ApiKey::Metadata, code: Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) };
                return Err(Verdict::Replay { cause, slow: true });
            }
            tokio::time::sleep(ABSENCE_PAUSE).await;
        }
        match parts.iter().all(known) {
            true => Ok(()),
            false => {
                let code = Some(ErrorCode::LEADER_NOT_AVAILABLE);
                Err(Verdict::Replay { cause: Cause { api: ApiKey::Metadata, code }, slow: true })
            }
        }
    }

    /// No broker that can be reached knows a topic of this name and id.
    async fn is_gone(&self, topic: &TopicRef) -> Result<bool, Verdict> {
        let views = self.cluster.topic_everywhere(&topic.name).await;
        let views = views.map_err(|error| Verdict::of_error(&error))?;
        let said = |code: i16| ErrorCode(code) == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION || code == 0;
        let known = |view: &MetadataResponseTopic| view.error_code == 0 && view.topic_id == topic.id;
        Ok(!views.iter().any(known) && views.iter().all(|view| said(view.error_code)))
    }

    /// Joins the partitions to the transaction, as brokers without KIP-890 need it before the first Produce. The id has
    /// been renewed since its last transaction, so nothing of that is left to wait for.
    async fn add_partitions(
        &self,
        id: IdSlot,
        identity: ProducerIdentity,
        parts: &[Part],
    ) -> Result<(), Error> {
        let mut partitions: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
        for part in parts {
            partitions.entry(&part.topic.name).or_default().insert(part.partition);
        }
        let topics = partitions.into_iter().map(|(name, partitions)| {
            AddPartitionsToTxnTopic::default()
                .with_name(topic_name(name))
                .with_partitions(partitions.into_iter().collect())
        });
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.transactional_id(id))
            .with_v3_and_below_producer_id(ProducerId(identity.producer_id))
            .with_v3_and_below_producer_epoch(identity.producer_epoch)
            .with_v3_and_below_topics(topics.collect());
        let coordinator = self.coordinator(id, false).await?;
        let connection =
            self.connection(coordinator, Purpose::Coordinator, ApiKey::AddPartitionsToTxn).await?;
        let answer = connection.call_within(&request, self.limits.request).await?;
        for topic in &answer.results_by_topic_v3_and_below {
            for partition in &topic.results_by_partition {
                let code = ErrorCode(partition.partition_error_code);
                // The others were not tried because of one: that one says why.
                if code != ErrorCode::OPERATION_NOT_ATTEMPTED {
                    code.check(ApiKey::AddPartitionsToTxn, || topic.name.0.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// EndTxn under exactly this identity; gives the identity of the id's next transaction.
    pub(crate) async fn end_txn(
        self: Arc<Self>,
        id: IdSlot,
        identity: ProducerIdentity,
        commit: bool,
        wait: Duration,
        refresh: bool,
    ) -> Input {
        pause(wait).await;
        let request = EndTxnRequest::default()
            .with_transactional_id(self.transactional_id(id))
            .with_producer_id(ProducerId(identity.producer_id))
            .with_producer_epoch(identity.producer_epoch)
            .with_committed(commit);
        let result = self.ask_end(id, identity, &request, refresh).await.map_err(Failure::of);
        Input::Ended { id, result, broken: self.is_broken() }
    }

    async fn ask_end(
        &self,
        id: IdSlot,
        identity: ProducerIdentity,
        request: &EndTxnRequest,
        refresh: bool,
    ) -> Result<ProducerIdentity, Error> {
        let coordinator = self.coordinator(id, refresh).await?;
        let connection = match request.committed {
            true => self.cluster.connection(coordinator, Purpose::Coordinator).await?,
            false => self.connection(coordinator, Purpose::Coordinator, ApiKey::EndTxn).await?,
        };
        let versions = if self.protocol == Protocol::Kip890 { END_KIP890 } else { END_OLDER };
        let version = connection.version_within::<EndTxnRequest>(versions)?;
        hit(Step::EndTxnReady);
        let answer = connection.call_in(request, version, self.limits.request).await?;
        ErrorCode(answer.error_code).check(ApiKey::EndTxn, || self.ids[id.0].clone())?;
        hit(Step::EndTxnAnswered);
        if self.protocol == Protocol::Older {
            return Ok(identity);
        }
        let next =
            ProducerIdentity { producer_id: answer.producer_id.0, producer_epoch: answer.producer_epoch };
        let broker = || connection.broker().to_owned();
        // Version 5 always names the next identity; without it the id cannot be used again.
        if next.producer_id < 0 {
            return Err(Error::Malformed { broker: broker(), api: ApiKey::EndTxn });
        }
        Ok(next)
    }

    /// InitProducerId, fenced by the expected identity, so that it cannot take the id from a new owner.
    pub(crate) async fn renew(
        self: Arc<Self>,
        id: IdSlot,
        identity: ProducerIdentity,
        wait: Duration,
        refresh: bool,
    ) -> Input {
        pause(wait).await;
        let result = self.ask_identity(id, Some(identity), refresh).await.map_err(Failure::of);
        Input::Renewed { id, result }
    }

    /// InitProducerId; without an expected identity it fences whoever had the id and finishes its transaction.
    pub(crate) async fn ask_identity(
        &self,
        id: IdSlot,
        expected: Option<ProducerIdentity>,
        refresh: bool,
    ) -> Result<ProducerIdentity, Error> {
        let coordinator = self.coordinator(id, refresh).await?;
        let connection = self.connection(coordinator, Purpose::Coordinator, ApiKey::InitProducerId).await?;
        let expected = expected.unwrap_or(ProducerIdentity { producer_id: -1, producer_epoch: -1 });
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(self.transactional_id(id)))
            .with_transaction_timeout_ms(millis(self.limits.transaction))
            .with_producer_id(ProducerId(expected.producer_id))
            .with_producer_epoch(expected.producer_epoch);
        let answer = connection.call_within(&request, self.limits.request).await?;
        ErrorCode(answer.error_code).check(ApiKey::InitProducerId, || self.ids[id.0].clone())?;
        Ok(ProducerIdentity { producer_id: answer.producer_id.0, producer_epoch: answer.producer_epoch })
    }

    async fn coordinator(&self, id: IdSlot, refresh: bool) -> Result<i32, Error> {
        let known = self.coordinators.lock().unwrap_or_else(PoisonError::into_inner)[id.0];
        if let Some(known) = known.filter(|_| !refresh) {
            return Ok(known);
        }
        let found = self.cluster.find_coordinator(&self.ids[id.0]).await?;
        self.coordinators.lock().unwrap_or_else(PoisonError::into_inner)[id.0] = Some(found);
        Ok(found)
    }

    fn transactional_id(&self, id: IdSlot) -> TransactionalId {
        TransactionalId(StrBytes::from_string(self.ids[id.0].clone()))
    }
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}
