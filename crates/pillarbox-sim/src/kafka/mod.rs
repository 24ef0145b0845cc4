//! The model Kafka: brokers with leaders and coordinators, what they make of a request when it arrives.
//!
//! A broker that is down answers nothing; one that does not lead any more says so. Brokers lose nothing that they
//! acknowledged. Where the scenario says so, a marker is lost with a partition that has no leader at that moment, as
//! Kafka 4.3.1 loses it.

pub(crate) mod coordinator;
pub(crate) mod log;

use std::rc::Rc;
use std::time::Duration;

use pillarbox_kafka::ErrorCode;
use pillarbox_kafka::markers::{Ending, State};
use pillarbox_kafka::reader::Record;
use pillarbox_wire::record_batch::ProducerIdentity;

use coordinator::{Coordinator, Ended, Phase};
use log::{Batch, Log};

/// Brokers of the cluster.
pub(crate) const BROKERS: usize = 3;
/// The partition of the checkpoint topic.
pub(crate) const CHECKPOINT: usize = 0;
/// How long a leader repeats on its own what must wait for markers.
const CONCURRENT_PAUSE: Duration = Duration::from_millis(20);
const CONCURRENT_TRIES: u32 = 10;
/// A fetch waits this long before it looks again.
const FETCH_PAUSE: Duration = Duration::from_millis(50);

/// One batch on its way.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Its index in the transaction.
    pub(crate) item: usize,
    pub(crate) partition: usize,
    pub(crate) sequence: i32,
    pub(crate) batch: Rc<Batch>,
}

#[derive(Debug, Clone)]
pub(crate) enum Request {
    Metadata,
    /// AddPartitionsToTxn.
    Join {
        id: usize,
        identity: ProducerIdentity,
        parts: Vec<usize>,
    },
    Produce {
        id: usize,
        identity: ProducerIdentity,
        parts: Vec<Part>,
    },
    EndTxn {
        id: usize,
        identity: ProducerIdentity,
        commit: bool,
    },
    /// InitProducerId, of somebody who expects this identity.
    Init {
        id: usize,
        expected: Option<ProducerIdentity>,
    },
    /// ListOffsets of the checkpoint topic.
    Offsets {
        stable: bool,
    },
    Fetch {
        from: i64,
        to: i64,
    },
    /// DescribeTransactions and DescribeProducers.
    Describe,
    /// WriteTxnMarkers.
    Mark {
        partition: usize,
        open: ProducerIdentity,
        commit: bool,
    },
}

/// What an id's coordinator and the partitions say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Described {
    /// State and epoch by id.
    pub(crate) ids: Vec<Option<(State, i16)>>,
    /// Open transactions: partition and identity.
    pub(crate) open: Vec<(usize, ProducerIdentity)>,
}

#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Metadata {
        leaders: Vec<Option<usize>>,
        coordinators: Vec<usize>,
    },
    Code(ErrorCode),
    Identity(ProducerIdentity),
    /// Item, code, base offset.
    Produced(Vec<(usize, ErrorCode, i64)>),
    Offset(i64),
    Records(Vec<Record>),
    Described(Described),
    /// The connection broke, or stayed silent.
    Broken,
}

/// What a request leads to at the broker.
#[derive(Debug)]
pub(crate) enum Taken {
    Answer(Reply),
    /// It waits there.
    Again(Duration),
}

/// What the coordinators have decided since somebody looked.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    pub(crate) id: usize,
    pub(crate) ended: Ended,
}

#[derive(Debug)]
pub(crate) struct Kafka {
    pub(crate) kip890: bool,
    /// EndTxn(abort) of a transaction that nothing has joined succeeds.
    pub(crate) aborts_nothing: bool,
    pub(crate) loses_markers: bool,
    pub(crate) up: [bool; BROKERS],
    /// Of each partition.
    pub(crate) leaders: Vec<Option<usize>>,
    /// Of each id.
    pub(crate) homes: Vec<usize>,
    /// Until when a coordinator is being loaded, by id.
    pub(crate) loading: Vec<Duration>,
    pub(crate) ids: Vec<Coordinator>,
    pub(crate) logs: Vec<Log>,
    pub(crate) decisions: Vec<Decision>,
    /// Lost markers: partition, what they end, and how.
    pub(crate) lost: Vec<(usize, ProducerIdentity, bool)>,
}

impl Kafka {
    pub(crate) fn new(ids: usize, partitions: usize, kip890: bool) -> Self {
        Self {
            kip890,
            aborts_nothing: false,
            loses_markers: false,
            up: [true; BROKERS],
            leaders: (0..partitions).map(|partition| Some(partition % BROKERS)).collect(),
            homes: (0..ids).map(|id| id % BROKERS).collect(),
            loading: vec![Duration::ZERO; ids],
            ids: (0..ids).map(|id| Coordinator::new(id as i64)).collect(),
            logs: (0..partitions).map(|_| Log::default()).collect(),
            decisions: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// By how much an end raises the epoch.
    pub(crate) fn raised(&self) -> i16 {
        i16::from(self.kip890)
    }

    /// A request arrives at a broker that is up. `tries`: how often it has waited there.
    pub(crate) fn take(&mut self, broker: usize, request: &Request, tries: u32, now: Duration) -> Taken {
        match request {
            Request::Metadata => Taken::Answer(Reply::Metadata {
                leaders: self.leaders.clone(),
                coordinators: self.homes.clone(),
            }),
            Request::Produce { id, identity, parts } => {
                self.produce(broker, *id, *identity, parts, tries, now)
            }
            Request::Offsets { stable } => self.led(broker, CHECKPOINT, |log| {
                Taken::Answer(Reply::Offset(if *stable { log.stable() } else { log.end() }))
            }),
            Request::Fetch { from, to } => self.led(broker, CHECKPOINT, |log| {
                if log.stable() < *to {
                    return Taken::Again(FETCH_PAUSE);
                }
                Taken::Answer(Reply::Records(log.committed_records(*from, *to)))
            }),
            Request::Describe => self.describe(now),
            Request::Mark { partition, open, commit } => {
                let (partition, open, commit) = (*partition, *open, *commit);
                if self.leaders[partition] == Some(broker) && self.logs[partition].is_open(open) {
                    self.logs[partition].mark(open, commit);
                }
                Taken::Answer(Reply::Code(ErrorCode::NONE))
            }
            Request::Join { id, .. } | Request::EndTxn { id, .. } | Request::Init { id, .. } => {
                let refusal = if self.homes[*id] != broker {
                    Some(ErrorCode::NOT_COORDINATOR)
                } else if self.loading[*id] > now {
                    Some(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS)
                } else {
                    None
                };
                Taken::Answer(match refusal {
                    Some(code) => Reply::Code(code),
                    None => self.coordinate(request, now),
                })
            }
        }
    }

    fn led(&self, broker: usize, partition: usize, then: impl FnOnce(&Log) -> Taken) -> Taken {
        match self.leaders[partition] == Some(broker) {
            true => then(&self.logs[partition]),
            false => Taken::Answer(Reply::Code(ErrorCode::NOT_LEADER_OR_FOLLOWER)),
        }
    }

    fn coordinate(&mut self, request: &Request, now: Duration) -> Reply {
        let (raised, aborts_nothing) = (self.raised(), self.aborts_nothing);
        let answer = match request {
            Request::Join { id, identity, parts } => {
                self.ids[*id].join(*identity, parts, now).map(|()| *identity)
            }
            Request::EndTxn { id, identity, commit } => {
                let before = self.ids[*id].phase.clone();
                let answer = self.ids[*id].end(*identity, *commit, raised, aborts_nothing);
                self.decided(*id, &before);
                answer
            }
            Request::Init { id, expected } => {
                let before = self.ids[*id].phase.clone();
                let answer = self.ids[*id].init(*expected);
                self.decided(*id, &before);
                answer
            }
            _ => unreachable!("no coordinator's request"),
        };
        answer.map_or_else(Reply::Code, Reply::Identity)
    }

    /// The coordinator aborts a transaction that lasts too long.
    pub(crate) fn time_out(&mut self, id: usize) {
        let before = self.ids[id].phase.clone();
        self.ids[id].time_out();
        self.decided(id, &before);
    }

    fn decided(&mut self, id: usize, before: &Phase) {
        if let (Phase::Ongoing { .. }, Phase::Prepare(ended)) = (before, &self.ids[id].phase) {
            self.decisions.push(Decision { id, ended: ended.clone() });
        }
    }

    fn produce(
        &mut self,
        broker: usize,
        id: usize,
        identity: ProducerIdentity,
        parts: &[Part],
        tries: u32,
        now: Duration,
    ) -> Taken {
        let waits = self.kip890
            && matches!(self.ids[id].phase, Phase::Prepare(_))
            && self.ids[id].identity == identity
            && self.loading[id] <= now;
        if waits && tries < CONCURRENT_TRIES {
            return Taken::Again(CONCURRENT_PAUSE);
        }
        let results = parts.iter().map(|part| {
            let answer = self.append(broker, id, identity, part, now);
            let (code, offset) = answer.map_or_else(|code| (code, -1), |offset| (ErrorCode::NONE, offset));
            (part.item, code, offset)
        });
        Taken::Answer(Reply::Produced(results.collect()))
    }

    /// A leader asks the coordinator before it appends the first batch of a transaction.
    fn append(
        &mut self,
        broker: usize,
        id: usize,
        identity: ProducerIdentity,
        part: &Part,
        now: Duration,
    ) -> Result<i64, ErrorCode> {
        if self.leaders[part.partition] != Some(broker) {
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        self.logs[part.partition].admits(identity)?;
        if !self.logs[part.partition].is_open(identity) {
            if self.loading[id] > now {
                return Err(ErrorCode::NOT_ENOUGH_REPLICAS);
            }
            let coordinator = &mut self.ids[id];
            if self.kip890 {
                coordinator.join(identity, &[part.partition], now)?;
            } else if !coordinator.has(identity, part.partition) {
                return Err(ErrorCode::INVALID_TXN_STATE);
            }
        }
        self.logs[part.partition].append(identity, part.sequence, &part.batch)
    }

    fn describe(&self, now: Duration) -> Taken {
        if self.loading.iter().any(|until| *until > now)
            || self.leaders.iter().any(Option::is_none)
            || self.ids.iter().any(|id| matches!(id.phase, Phase::Prepare(_)))
        {
            return Taken::Again(FETCH_PAUSE);
        }
        let state = |id: &Coordinator| match &id.phase {
            Phase::Complete { commit: true } => State::Ended(Ending::Commit),
            Phase::Complete { commit: false } => State::Ended(Ending::Abort),
            Phase::Prepare(_) => State::Ending,
            Phase::Empty | Phase::Ongoing { .. } => State::Other,
        };
        let ids = self.ids.iter().map(|id| Some((state(id), id.identity.producer_epoch))).collect();
        let open = self.logs.iter().enumerate();
        let open = open.flat_map(|(partition, log)| log.open().map(move |identity| (partition, identity)));
        Taken::Answer(Reply::Described(Described { ids, open: open.collect() }))
    }

    /// A coordinator has a marker written, or loses it. False: later.
    pub(crate) fn write_marker(&mut self, id: usize, partition: usize, now: Duration) -> bool {
        let Phase::Prepare(ended) = &self.ids[id].phase else { return true };
        if !ended.waiting.contains(&partition) {
            return true;
        }
        if self.loading[id] > now || !self.up[self.homes[id]] {
            return false;
        }
        let (identity, commit, epoch) = (ended.identity, ended.commit, self.ids[id].identity.producer_epoch);
        match self.leaders[partition] {
            Some(_) => self.logs[partition].end_transaction(identity, epoch, commit),
            None if self.loses_markers => self.lost.push((partition, identity, commit)),
            None => return false,
        }
        self.ids[id].marked(partition);
        true
    }
}
