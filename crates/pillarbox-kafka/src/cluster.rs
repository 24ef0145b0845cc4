//! A cluster: its brokers, the metadata we remember, and connections by (broker, purpose).
//!
//! A broker works on one request of a connection at a time, so a commit must never stand behind a batch, nor a
//! batch behind an admin call: each `Purpose` has its own connection. Metadata is asked for when it is missing
//! or when an answer said that it is stale, never on the hot path.
//!
//! It never creates a topic (auto-creation is switched off in every request) and never decides about a retry.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{ApiKey, FindCoordinatorRequest, MetadataRequest, MetadataResponse};
use pillarbox_tls::Tls;
use uuid::Uuid;

use crate::admin::{text, topic_name};
use crate::connection::Connection;
use crate::error::{Error, ErrorCode};
use crate::protocol::Call;
use crate::sasl::{Credentials, Sasl};

/// Where and how to connect.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// `host:port` each; any one that answers is enough.
    pub brokers: Vec<String>,
    /// Sent with every request; shows in the broker's logs and quotas.
    pub client_id: String,
    /// Limit for TCP connect plus handshake, per broker.
    pub connect_timeout: Duration,
    /// Limit for an ordinary request.
    pub request_timeout: Duration,
    /// How connections are secured; none is plaintext.
    pub tls: Option<Tls>,
    /// How connections log in; none is not at all.
    pub sasl: Option<Sasl>,
}

impl ClusterConfig {
    /// The given brokers with the defaults: 5 s to connect, 30 s per request.
    pub fn new(brokers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            brokers: brokers.into_iter().map(Into::into).collect(),
            client_id: "pillarbox".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            tls: None,
            sasl: None,
        }
    }
}

/// Key type of FindCoordinator for transactional ids.
const KEY_TRANSACTION: i8 = 1;

/// FindCoordinator version from which it takes and gives lists.
const COORDINATOR_LISTS: i16 = 4;

/// What a connection is for; two purposes never share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// Produce.
    Data,
    /// InitProducerId, EndTxn.
    Coordinator,
    /// Metadata, admin, offsets.
    Admin,
}

impl Purpose {
    fn carries_transactions(self) -> bool {
        match self {
            Self::Data | Self::Coordinator => true,
            Self::Admin => false,
        }
    }
}

/// What is known of one topic. `partitions[i]` is partition `i`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMetadata {
    /// Topic name.
    pub name: String,
    /// Changes when a topic is deleted and created again.
    pub id: Uuid,
    /// By partition number.
    pub partitions: Vec<PartitionMetadata>,
}

/// Leader and replicas of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// Broker id of the leader, none while there is none.
    pub leader: Option<i32>,
    /// Counts the elections; a broker that answers for another epoch is not the leader we mean.
    pub leader_epoch: i32,
    /// Number of replicas assigned.
    pub replicas: usize,
    /// Number of replicas in sync.
    pub in_sync: usize,
}

/// A handle on a cluster; clones share metadata and connections.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    config: ClusterConfig,
    credentials: Option<Arc<Credentials>>,
    known: Mutex<Known>,
    connections: Mutex<HashMap<(Arc<str>, Purpose), SharedSlot>>,
    /// See [`Cluster::breaks`].
    breaks: AtomicU64,
}

/// One connection to be; the lock makes concurrent callers wait for one attempt instead of making several.
type SharedSlot = Arc<tokio::sync::Mutex<Option<Connection>>>;

#[derive(Default)]
struct Known {
    brokers: HashMap<i32, Arc<str>>,
    controller: Option<i32>,
    cluster_id: String,
    transaction_version: i16,
    topics: HashMap<String, Arc<TopicMetadata>>,
}

impl Cluster {
    /// Connects to the first broker that answers and reads cluster id, brokers and features.
    ///
    /// Errors: [`Error::NoBroker`] with the last attempt inside, or [`Error::TlsOrSaslExpected`] and [`Error::Tls`] themselves.
    pub async fn connect(config: ClusterConfig) -> Result<Self, Error> {
        let credentials = config.sasl.clone().map(|sasl| Arc::new(Credentials::new(sasl)));
        let inner = Inner {
            config,
            credentials,
            known: Mutex::default(),
            connections: Mutex::default(),
            breaks: AtomicU64::new(0),
        };
        let cluster = Self { inner: Arc::new(inner) };
        cluster.refresh(&[]).await.map_err(expect_sasl)?;
        Ok(cluster)
    }

    /// The id the cluster was formatted with; empty if the brokers name none.
    pub fn cluster_id(&self) -> String {
        self.known().cluster_id.clone()
    }

    /// Finalized `transaction.version`: 2 is KIP-890, less is the older protocol.
    pub fn transaction_version(&self) -> i16 {
        self.known().transaction_version
    }

    /// The configuration this cluster was connected with.
    pub fn config(&self) -> &ClusterConfig {
        &self.inner.config
    }

    /// Ids of the brokers last seen.
    pub fn brokers(&self) -> Vec<i32> {
        let mut ids: Vec<i32> = self.known().brokers.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// What is remembered of a topic; no request.
    pub fn topic(&self, name: &str) -> Option<Arc<TopicMetadata>> {
        self.known().topics.get(name).cloned()
    }

    /// Leader of a partition as remembered; no request.
    pub(crate) fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        self.leadership(topic, partition).map(|(leader, _)| leader)
    }

    /// Leader and leader epoch as remembered; no request.
    pub(crate) fn leadership(&self, topic: &str, partition: i32) -> Option<(i32, i32)> {
        let known = self.known();
        let partition = known.topics.get(topic)?.partitions.get(usize::try_from(partition).ok()?)?;
        Some((partition.leader?, partition.leader_epoch))
    }

    /// Asks for brokers and the named topics. Topics that do not exist are forgotten; per-topic errors come back
    /// with their code.
    pub(crate) async fn refresh(&self, topics: &[&str]) -> Result<Vec<TopicAnswer>, Error> {
        let named = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let wanted = topics.iter().map(named);
        let answer = self.metadata(Some(wanted.collect())).await?;
        Ok(self.remember(&answer))
    }

    /// A metadata request to any broker; `None` asks for every topic.
    pub(crate) async fn metadata(
        &self,
        topics: Option<Vec<MetadataRequestTopic>>,
    ) -> Result<MetadataResponse, Error> {
        let request = MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false);
        self.call_any(&request).await
    }

    fn remember(&self, answer: &MetadataResponse) -> Vec<TopicAnswer> {
        let mut known = self.known();
        if !answer.brokers.is_empty() {
            known.brokers = answer
                .brokers
                .iter()
                .map(|broker| (broker.node_id.0, address_of(&broker.host, broker.port)))
                .collect();
        }
        known.controller = (answer.controller_id.0 >= 0).then_some(answer.controller_id.0);
        if let Some(id) = &answer.cluster_id {
            known.cluster_id = id.to_string();
        }
        answer.topics.iter().filter_map(|topic| known.learn(topic)).collect()
    }

    /// Sends to any broker: the controller's stand-in first, then the others, then the configured addresses.
    pub(crate) async fn call_any<Q: Call>(&self, request: &Q) -> Result<Q::Answer, Error> {
        let mut last = None;
        let candidates = self.candidates();
        for address in &candidates {
            match self.call_at(address, request).await {
                Err(error) if error.is_unreachable() || error.is_foreign() => last = Some(error),
                answer => return answer,
            }
        }
        Err(no_broker(candidates.len(), last))
    }

    /// Metadata of one topic as each broker that can be reached knows it. A broker learns of a new or deleted topic
    /// a moment after the controller, so only all of them together say that a topic does not exist.
    pub(crate) async fn topic_everywhere(&self, name: &str) -> Result<Vec<MetadataResponseTopic>, Error> {
        let wanted = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request =
            MetadataRequest::default().with_topics(Some(vec![wanted])).with_allow_auto_topic_creation(false);
        let mut views = Vec::new();
        let mut last = None;
        let addresses = self.broker_addresses();
        let asked = join_all(addresses.iter().map(|address| self.call_at(address, &request))).await;
        for answer in asked {
            match answer {
                Ok(answer) => views.extend(answer.topics.into_iter().next()),
                Err(error) => last = Some(error),
            }
        }
        if views.is_empty() { Err(no_broker(addresses.len(), last)) } else { Ok(views) }
    }

    fn broker_addresses(&self) -> Vec<Arc<str>> {
        self.known().brokers.values().cloned().collect()
    }

    async fn call_at<Q: Call>(&self, address: &Arc<str>, request: &Q) -> Result<Q::Answer, Error> {
        self.connection_at(address, Purpose::Admin).await?.call(request).await
    }

    /// A connection to any broker that can be reached, for requests whose form depends on its version.
    pub(crate) async fn any_connection(&self) -> Result<Connection, Error> {
        let mut last = None;
        let candidates = self.candidates();
        for address in &candidates {
            match self.connection_at(address, Purpose::Admin).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(no_broker(candidates.len(), last))
    }

    fn candidates(&self) -> Vec<Arc<str>> {
        let known = self.known();
        let controller = known.controller.and_then(|id| known.brokers.get(&id));
        let configured = self.inner.config.brokers.iter().map(|address| Arc::from(address.as_str()));
        let mut addresses: Vec<Arc<str>> = Vec::with_capacity(known.brokers.len() + 1);
        for address in controller.into_iter().chain(known.brokers.values()).cloned().chain(configured) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// Sends to one broker over its admin connection.
    pub(crate) async fn call_broker<Q: Call>(&self, broker: i32, request: &Q) -> Result<Q::Answer, Error> {
        self.connection(broker, Purpose::Admin).await?.call(request).await
    }

    /// The shared connection to a broker for one purpose, opened if there is none alive.
    pub(crate) async fn connection(&self, broker: i32, purpose: Purpose) -> Result<Connection, Error> {
        let address = self.address(broker).await?;
        self.connection_at(&address, purpose).await
    }

    /// A connection nobody shares (long polls).
    pub(crate) async fn private_connection(&self, broker: i32) -> Result<Connection, Error> {
        let address = self.address(broker).await?;
        self.open(&address).await
    }

    /// The coordinator of a transactional id. Asking creates `__transaction_state` on a new cluster; 15 until that is
    /// done.
    pub(crate) async fn find_coordinator(&self, transactional_id: &str) -> Result<i32, Error> {
        let key = text(transactional_id);
        let request = FindCoordinatorRequest::default().with_key_type(KEY_TRANSACTION);
        let connection = self.any_connection().await?;
        let lists = connection.version_of::<FindCoordinatorRequest>()? >= COORDINATOR_LISTS;
        let request = match lists {
            true => request.with_coordinator_keys(vec![key]),
            false => request.with_key(key),
        };
        let answer = connection.call(&request).await?;
        let (code, node) = match answer.coordinators.first() {
            Some(coordinator) => (coordinator.error_code, coordinator.node_id.0),
            None => (answer.error_code, answer.node_id.0),
        };
        ErrorCode(code).check(ApiKey::FindCoordinator, || transactional_id.to_owned())?;
        Ok(node)
    }

    /// How many connections for transactions have broken so far, as noticed when they were used again. A broker may
    /// have died behind each of them.
    pub(crate) fn breaks(&self) -> u64 {
        self.inner.breaks.load(Ordering::Relaxed)
    }

    /// Drops connections that are dead already, so that they do not count as [`Self::breaks`] any more.
    pub(crate) async fn forget_dead(&self) {
        let slots: Vec<SharedSlot> = {
            let connections = self.inner.connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.values().cloned().collect()
        };
        for slot in slots {
            slot.lock().await.take_if(|connection| !connection.is_alive());
        }
    }

    async fn address(&self, broker: i32) -> Result<Arc<str>, Error> {
        if let Some(address) = self.known().brokers.get(&broker) {
            return Ok(Arc::clone(address));
        }
        self.refresh(&[]).await?;
        let unknown = || Error::Api {
            api: ApiKey::Metadata,
            object: format!("broker {broker}"),
            code: ErrorCode::BROKER_NOT_AVAILABLE,
        };
        self.known().brokers.get(&broker).cloned().ok_or_else(unknown)
    }

    async fn connection_at(&self, address: &Arc<str>, purpose: Purpose) -> Result<Connection, Error> {
        let slot = {
            let mut connections = self.inner.connections.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(connections.entry((Arc::clone(address), purpose)).or_default())
        };
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| connection.is_alive()) {
            return Ok(connection.clone());
        }
        if slot.take().is_some_and(|dead| purpose.carries_transactions() && dead.broke_in_use()) {
            self.inner.breaks.fetch_add(1, Ordering::Relaxed);
        }
        let connection = self.open(address).await?;
        *slot = Some(connection.clone());
        Ok(connection)
    }

    async fn open(&self, address: &str) -> Result<Connection, Error> {
        let credentials = self.inner.credentials.clone();
        let opened = Connection::open(address, &self.inner.config, credentials).await?;
        self.known().transaction_version = opened.transaction_version();
        Ok(opened)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One topic of a metadata answer.
#[derive(Clone, Debug)]
pub(crate) struct TopicAnswer {
    pub(crate) name: String,
    pub(crate) code: ErrorCode,
    /// Present when `code` is `NONE`.
    pub(crate) topic: Option<Arc<TopicMetadata>>,
}

impl Known {
    fn learn(&mut self, answer: &MetadataResponseTopic) -> Option<TopicAnswer> {
        let name = answer.name.as_ref()?.to_string();
        let code = ErrorCode(answer.error_code);
        let earlier = self.topics.get(&name);
        let topic = (code == ErrorCode::NONE).then(|| {
            let mut topic = topic_metadata(&name, answer);
            if let Some(earlier) = earlier.filter(|earlier| earlier.id == topic.id) {
                topic.keep_newer(earlier);
            }
            Arc::new(topic)
        });
        match &topic {
            Some(topic) => self.topics.insert(name.clone(), Arc::clone(topic)),
            None => self.topics.remove(&name),
        };
        Some(TopicAnswer { name, code, topic })
    }
}

impl TopicMetadata {
    /// A broker that has just started may still tell of elections long over.
    fn keep_newer(&mut self, earlier: &Self) {
        for (partition, earlier) in self.partitions.iter_mut().zip(&earlier.partitions) {
            if earlier.leader_epoch > partition.leader_epoch {
                partition.clone_from(earlier);
            }
        }
    }
}

fn topic_metadata(name: &str, answer: &MetadataResponseTopic) -> TopicMetadata {
    let mut partitions: Vec<_> = answer.partitions.iter().collect();
    partitions.sort_unstable_by_key(|partition| partition.partition_index);
    let partitions = partitions.into_iter().map(|partition| PartitionMetadata {
        leader: (partition.leader_id.0 >= 0).then_some(partition.leader_id.0),
        leader_epoch: partition.leader_epoch,
        replicas: partition.replica_nodes.len(),
        in_sync: partition.isr_nodes.len(),
    });
    TopicMetadata { name: name.to_owned(), id: answer.topic_id, partitions: partitions.collect() }
}

fn address_of(host: &str, port: i32) -> Arc<str> {
    if host.contains(':') { format!("[{host}]:{port}").into() } else { format!("{host}:{port}").into() }
}

fn no_broker(tried: usize, last: Option<Error>) -> Error {
    let last = last.unwrap_or(Error::BrokerAddress { address: String::new() });
    Error::NoBroker { tried, last: Box::new(last) }
}

/// On the very first use, a connection cut after the handshake means that the broker wants SASL.
fn expect_sasl(error: Error) -> Error {
    let Error::NoBroker { last, .. } = &error else { return error };
    match &**last {
        Error::TlsOrSaslExpected { .. } | Error::BrokerAddress { .. } | Error::Tls { .. } => (**last).clone(),
        Error::Transport { broker, api: ApiKey::Metadata, possibly_sent: true, kind } if cut(*kind) => {
            Error::TlsOrSaslExpected { broker: broker.clone() }
        }
        _ => error,
    }
}

fn cut(kind: std::io::ErrorKind) -> bool {
    matches!(kind, std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset)
}
