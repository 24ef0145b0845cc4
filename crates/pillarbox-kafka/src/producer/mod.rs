//! The transactional producer: whole transactions in, commits out in the same order, exactly once (KIP-890, "TV2";
//! the older protocol where a cluster has no other).
//!
//! ```text
//!  submit --> state (pure: when to produce, end, repeat, abort, replay, give up)
//!                |  actions                 ^ inputs
//!                v                          |
//!             io: Produce in stages (plan, encode), EndTxn, InitProducerId
//!                                           |
//!  next  <-- Committed (in submit order) | Lost (everything handed back)
//! ```
//! It uses several transactional ids in turn, because a broker answers EndTxn before the markers are written and then
//! holds up the next Produce of the *same* id. After [`Outcome::Lost`] the producer is finished: make a new one,
//! which fences this one, and let the checkpoint say what was committed.
//!
//! It never drops, reorders or edits a batch (but for the producer fields and the checksum), and never reports a
//! commit that the coordinator did not confirm.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use pillarbox_failpoint::{Step, hit};
use pillarbox_wire::record_batch::ProducerIdentity;
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::error::{Error, ErrorCode};

use encode::Part;
use held::Held;
use io::{Job, Limits, Wire};
use state::{Action, IdSlot, Input, Machine, Protocol, TxnKey};

mod encode;
mod held;
mod io;
mod plan;
pub mod state;
mod verdict;

pub use verdict::{Cause, Failure, LostReason, Verdict};

/// How [`Producer::init`] is set up.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// Transactional ids are `<id_prefix><n>`, e.g. `pillarbox.orders.0`.
    pub id_prefix: String,
    /// Ids this producer owns and fences, whether used or not: a predecessor may have used more.
    pub ids_owned: u8,
    /// Ids in rotation, and so the most transactions in the machine.
    pub ids_in_use: u8,
    /// After this the coordinator aborts an open transaction; it bounds how long a dead relay blocks readers. Also
    /// how long the producer tries without a commit before it is lost.
    pub transaction_timeout: Duration,
    /// Limit for EndTxn and InitProducerId, and the broker's limit for acknowledging a Produce.
    pub request_timeout: Duration,
}

impl ProducerConfig {
    /// Eight ids owned, four in use, 30 s per transaction, 10 s per request.
    pub fn new(id_prefix: impl Into<String>) -> Self {
        Self {
            id_prefix: id_prefix.into(),
            ids_owned: 8,
            ids_in_use: 4,
            transaction_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(10),
        }
    }
}

/// A topic by name and id; the id makes a topic that was deleted and created again an error.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicRef {
    /// Topic name.
    pub name: String,
    /// Topic id.
    pub id: Uuid,
}

/// One finished, unstamped record batch (see [`pillarbox_wire::record_batch`]) for one partition.
pub struct Batch {
    /// Where it goes.
    pub topic: Arc<TopicRef>,
    /// Partition number.
    pub partition: i32,
    /// The batch; producer id, epoch, sequence and checksum are written here.
    pub bytes: BytesMut,
    /// Records in it; the next batch of the same partition counts on from there.
    pub records: u32,
}

impl Batch {
    /// Takes the buffer of a `BatchBuilder` without copying it.
    pub fn from_vec(topic: Arc<TopicRef>, partition: i32, batch: Vec<u8>, records: u32) -> Self {
        Self { topic, partition, bytes: BytesMut::from(Bytes::from(batch)), records }
    }

    /// The buffer back, for a `BatchBuilder` to write into.
    pub fn into_vec(self) -> Vec<u8> {
        self.bytes.into()
    }
}

/// What becomes visible together.
pub struct Transaction<T> {
    /// Several batches of one partition stand in order.
    pub data: Vec<Batch>,
    /// The checkpoint: written last.
    pub last: Batch,
    /// The caller's own.
    pub tag: T,
}

/// A committed transaction.
pub struct Committed<T> {
    /// As submitted; the buffers are unique again (stamped).
    pub transaction: Transaction<T>,
    /// Offset of the first record of each batch of `data`; -1 where the broker did not say it.
    pub base_offsets: Vec<i64>,
    /// Offset of the first record of `last`.
    pub last_base_offset: i64,
    /// From the first request to the last acknowledgement, replays included.
    pub produce_wait: Duration,
    /// From EndTxn to its answer, repetitions included.
    pub end_txn_wait: Duration,
}

/// The end of this producer.
pub struct Lost<T> {
    /// Why.
    pub reason: LostReason,
    /// Everything not reported as committed, in submit order. Some of it may be committed: ask the checkpoint.
    pub transactions: Vec<Transaction<T>>,
}

/// What [`Producer::next`] gives.
pub enum Outcome<T> {
    /// The oldest transaction is committed.
    Committed(Committed<T>),
    /// The producer can go no further.
    Lost(Lost<T>),
}

/// Counters since [`Producer::init`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerStats {
    /// Transactions committed.
    pub commits: u64,
    /// Record batches bytes committed.
    pub bytes: u64,
    /// EndTxn(abort) sent, repetitions included.
    pub aborts: u64,
    /// Transactions produced again.
    pub replays: u64,
    /// EndTxn(commit) repeated because it had no useful answer.
    pub end_txn_repeats: u64,
    /// Sum of [`Committed::produce_wait`].
    pub produce_wait: Duration,
    /// Sum of [`Committed::end_txn_wait`].
    pub end_txn_wait: Duration,
}

/// Longest wait of [`Producer::init`] for coordinators that are loading or finishing a predecessor's transaction.
const INIT_LIMIT: Duration = Duration::from_secs(30);

/// What the machine is told, and the base offsets of what was produced.
type Done = (Input, Vec<i64>);

type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// See the module's documentation.
pub struct Producer<T> {
    machine: Machine,
    wire: Arc<Wire>,
    started: Instant,
    held: VecDeque<Held<T>>,
    /// The one transaction that is being produced.
    producing: Option<TxnKey>,
    work: FuturesUnordered<Work>,
    outcomes: VecDeque<Outcome<T>>,
    stats: ProducerStats,
}

impl<T> Producer<T> {
    /// InitProducerId for all owned ids: fences predecessors and finishes their transactions. Retries while
    /// coordinators load or write markers, up to 30 s; a connection that breaks meanwhile ends it.
    ///
    /// A cluster without KIP-890 is served with the older protocol, at the cost of two more requests a transaction:
    /// see [`Cluster::transaction_version`].
    ///
    /// Errors: authorization, transport.
    pub async fn init(cluster: Cluster, config: ProducerConfig) -> Result<Self, Error> {
        let protocol = if cluster.transaction_version() >= 2 { Protocol::Kip890 } else { Protocol::Older };
        let owned = usize::from(config.ids_owned.max(1));
        let in_use = usize::from(config.ids_in_use).clamp(1, owned);
        let ids = (0..owned).map(|n| format!("{}{n}", config.id_prefix)).collect();
        cluster.forget_dead().await;
        let limits = Limits { transaction: config.transaction_timeout, request: config.request_timeout };
        let wire = Arc::new(Wire::new(cluster, ids, limits, protocol));
        let identities = join_all((0..owned).map(|n| first_identity(&wire, IdSlot(n)))).await;
        let identities = identities.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            machine: Machine::new(identities, in_use, config.transaction_timeout, protocol),
            wire,
            started: Instant::now(),
            held: VecDeque::with_capacity(in_use),
            producing: None,
            work: FuturesUnordered::new(),
            outcomes: VecDeque::new(),
            stats: ProducerStats::default(),
        })
    }

    /// An id is free: one more transaction may be submitted.
    pub fn can_submit(&self) -> bool {
        self.machine.can_submit()
    }

    /// Puts a transaction behind all others. Its requests leave while [`Self::next`] is polled.
    ///
    /// # Panics
    /// Unless [`Self::can_submit`].
    pub fn submit(&mut self, transaction: Transaction<T>) {
        assert!(self.can_submit(), "submit without a free id");
        let (key, identity) = self.machine.next_identity();
        self.held.push_back(Held::new(key, transaction, identity));
        self.feed(Input::Submitted);
    }

    /// The next outcome; drives all requests meanwhile, and waits for ever when there is nothing to do. Dropping the
    /// future loses nothing.
    pub async fn next(&mut self) -> Outcome<T> {
        loop {
            if let Some(outcome) = self.outcomes.pop_front() {
                return outcome;
            }
            match self.work.next().await {
                Some((input, base_offsets)) => {
                    self.note_offsets(base_offsets);
                    self.feed(input);
                }
                None => std::future::pending().await,
            }
        }
    }

    /// Transactions submitted and not yet handed back.
    pub fn in_flight(&self) -> usize {
        self.held.len() + self.outcomes.len()
    }

    /// Counters since the start.
    pub fn stats(&self) -> ProducerStats {
        self.stats
    }

    fn feed(&mut self, input: Input) {
        if let Input::Produced { result: Ok(_), .. } = &input {
            self.note_acked();
        }
        for action in self.machine.step(self.started.elapsed(), input) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Produce { txn, id, identity, pause, refresh } => {
                self.producing = Some(txn);
                let parts = self.parts_to_produce(txn, identity);
                let job = Job { id, identity, parts, pause, refresh };
                self.work.push(Box::pin(Arc::clone(&self.wire).produce(job)));
            }
            Action::EndTxn { id, identity, commit, pause, refresh } => {
                self.note_end(commit);
                let wire = Arc::clone(&self.wire);
                self.work.push(Box::pin(async move {
                    (wire.end_txn(id, identity, commit, pause, refresh).await, Vec::new())
                }));
            }
            Action::Renew { id, identity, pause, refresh } => {
                let wire = Arc::clone(&self.wire);
                self.work.push(Box::pin(async move {
                    (wire.renew(id, identity, pause, refresh).await, Vec::new())
                }));
            }
            Action::Committed { txn, last_base_offset } => self.committed(txn, last_base_offset),
            Action::Lost { reason } => {
                self.work.clear();
                let transactions = self.held.drain(..).map(Held::give_back).collect();
                self.outcomes.push_back(Outcome::Lost(Lost { reason, transactions }));
            }
        }
    }

    fn parts_to_produce(&mut self, txn: TxnKey, identity: ProducerIdentity) -> Vec<Part> {
        let held = self.held.iter_mut().find(|held| held.key == txn);
        let held = held.expect("the machine produces what was submitted");
        if held.clock.produced_first.is_some() {
            self.stats.replays += 1;
        }
        held.clock.produced_first.get_or_insert_with(Instant::now);
        held.stamped_parts(identity)
    }

    fn note_acked(&mut self) {
        let held = self.held.iter_mut().find(|held| Some(held.key) == self.producing);
        if let Some(held) = held {
            held.clock.acked = Some(Instant::now());
        }
    }

    /// Of the last attempt: what was aborted before has offsets that nobody sees.
    fn note_offsets(&mut self, base_offsets: Vec<i64>) {
        let held = self.held.iter_mut().find(|held| Some(held.key) == self.producing);
        if let Some(held) = held.filter(|_| !base_offsets.is_empty()) {
            held.base_offsets = base_offsets;
        }
    }

    fn note_end(&mut self, commit: bool) {
        let Some(front) = self.held.front_mut() else { return };
        match (commit, front.clock.ended_first) {
            (false, _) => self.stats.aborts += 1,
            (true, Some(_)) => self.stats.end_txn_repeats += 1,
            (true, None) => front.clock.ended_first = Some(Instant::now()),
        }
    }

    fn committed(&mut self, txn: TxnKey, last_base_offset: i64) {
        let held = self.held.pop_front().expect("a commit of something submitted");
        assert_eq!(held.key, txn, "commits come in submit order");
        let produce_wait = held.clock.produce_wait();
        let end_txn_wait = held.clock.end_txn_wait(Instant::now());
        self.stats.commits += 1;
        self.stats.bytes += held.bytes();
        self.stats.produce_wait += produce_wait;
        self.stats.end_txn_wait += end_txn_wait;
        let (transaction, base_offsets) = held.give_back_with_offsets();
        let committed = Committed { transaction, base_offsets, last_base_offset, produce_wait, end_txn_wait };
        self.outcomes.push_back(Outcome::Committed(committed));
    }
}

/// Repeats InitProducerId until it is answered with an identity, or [`INIT_LIMIT`] has passed.
async fn first_identity(wire: &Wire, id: IdSlot) -> Result<ProducerIdentity, Error> {
    let started = Instant::now();
    let mut attempt = 0;
    loop {
        let error = match wire.ask_identity(id, None, attempt > 0).await {
            Ok(identity) => {
                hit(Step::InitAnswered);
                return Ok(identity);
            }
            Err(error) => error,
        };
        if !error.is_retriable() || error.is_unreachable() || started.elapsed() >= INIT_LIMIT {
            return Err(error);
        }
        let concurrent = error.code() == Some(ErrorCode::CONCURRENT_TRANSACTIONS);
        let pause = if concurrent { state::markers_pause(attempt) } else { state::pause(attempt) };
        tokio::time::sleep(pause).await;
        attempt += 1;
    }
}
