//! Kafka: a coordinator a transactional id, and the logs of three partitions.
//!
//! ```text
//!                Produce, or Join            EndTxn                 all markers written
//! Empty ------------------------> Ongoing ---------> PrepareCommit ---------------------> CompleteCommit
//!   ^  InitProducerId                |  EndTxn, or   PrepareAbort                         CompleteAbort
//!   |                                |  InitProducerId  ^                                      |
//!   |                                +------------------+                                      |
//!   +------------------------------------ InitProducerId --------------------------------------+
//! ```
//! With the newer protocol each end raises the epoch, and a partition joins with its first batch. With the older one
//! only InitProducerId raises it, and partitions join by a request of their own. Markers are written late, one by one,
//! in any order; a `read_committed` reader sees nothing behind the first record without one.
//!
//! Requests arrive whole, in any order, and long after their sender has gone.

use pillarbox_kafka::ErrorCode;

use crate::wal::DATA_PARTITIONS;

/// The checkpoint topic's partition, after those with events.
pub(crate) const CHECKPOINT: usize = DATA_PARTITIONS;
/// All partitions.
pub(crate) const PARTITIONS: usize = DATA_PARTITIONS + 1;

/// A set of partitions, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Parts(u8);

impl Parts {
    pub(crate) fn only(partition: usize) -> Self {
        Self(1 << partition)
    }

    pub(crate) fn of(partitions: impl Iterator<Item = usize>) -> Self {
        partitions.fold(Self::default(), |all, partition| all.with(Self::only(partition)))
    }

    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn has(self, partition: usize) -> bool {
        self.0 & (1 << partition) != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..PARTITIONS).filter(move |partition| self.has(*partition))
    }
}

/// Which of the batches in [`crate::catalog`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BatchKey(pub(crate) u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Request {
    /// AddPartitionsToTxn.
    Join {
        id: usize,
        epoch: i16,
        parts: Parts,
    },
    Produce {
        id: usize,
        epoch: i16,
        partition: usize,
        batch: BatchKey,
    },
    EndTxn {
        id: usize,
        epoch: i16,
        commit: bool,
    },
    /// InitProducerId of somebody who expects this epoch.
    Renew {
        id: usize,
        epoch: i16,
    },
}

impl Request {
    pub(crate) fn identity(&self) -> (usize, i16) {
        match *self {
            Self::Join { id, epoch, .. }
            | Self::Produce { id, epoch, .. }
            | Self::EndTxn { id, epoch, .. }
            | Self::Renew { id, epoch } => (id, epoch),
        }
    }
}

/// What a broker says: the epoch for the id's next transaction, or a code.
pub(crate) type Answer = Result<i16, ErrorCode>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Empty,
    Ongoing,
    Prepare { commit: bool },
    Complete { commit: bool },
}

/// A transactional id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Coordinator {
    epoch: i16,
    phase: Phase,
    /// Ongoing: those that joined. Prepare: those without a marker yet.
    parts: Parts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Entry {
    Record { id: usize, epoch: i16, batch: BatchKey },
    Marker { id: usize, commit: bool },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cluster {
    kip890: bool,
    ids: Vec<Coordinator>,
    logs: [Vec<Entry>; PARTITIONS],
}

/// How a reader looks at a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// As `read_committed` sees it now.
    Visible,
    /// What coordinators have decided to commit, with or without markers.
    Decided,
}

impl Cluster {
    pub(crate) fn new(ids: usize, kip890: bool) -> Self {
        let unused = Coordinator { epoch: 0, phase: Phase::Empty, parts: Parts::default() };
        Self { kip890, ids: vec![unused; ids], logs: Default::default() }
    }

    pub(crate) fn epochs(&self) -> Vec<i16> {
        self.ids.iter().map(|id| id.epoch).collect()
    }

    /// The request can do nothing any more, and nobody waits for its answer.
    pub(crate) fn is_spent(&self, request: &Request) -> bool {
        let (id, epoch) = request.identity();
        epoch < self.ids[id].epoch
    }

    /// The request waits at the broker until markers are written. (A client would be told so, and repeat it.)
    pub(crate) fn holds_back(&self, request: &Request) -> bool {
        let (id, epoch) = request.identity();
        let Coordinator { phase: Phase::Prepare { commit: was }, epoch: next, .. } = self.ids[id] else {
            return false;
        };
        match *request {
            Request::EndTxn { commit, .. } => epoch + self.raised() == next && commit == was,
            Request::Produce { .. } => self.kip890 && epoch == next,
            Request::Join { .. } | Request::Renew { .. } => epoch == next,
        }
    }

    /// By how much an end raises the epoch.
    fn raised(&self) -> i16 {
        i16::from(self.kip890)
    }

    /// Carries out a request that is not held back.
    pub(crate) fn take(&mut self, request: &Request) -> Answer {
        assert!(!self.holds_back(request), "it waits");
        match *request {
            Request::Join { id, epoch, parts } => self.join(id, epoch, parts),
            Request::Produce { id, epoch, partition, batch } => self.produce(id, epoch, partition, batch),
            Request::EndTxn { id, epoch, commit } => self.end(id, epoch, commit),
            Request::Renew { id, epoch } if epoch != self.ids[id].epoch => Err(ErrorCode::PRODUCER_FENCED),
            Request::Renew { id, .. } => self.init(id).ok_or(ErrorCode::CONCURRENT_TRANSACTIONS),
        }
    }

    fn join(&mut self, id: usize, epoch: i16, parts: Parts) -> Answer {
        let coordinator = &mut self.ids[id];
        if coordinator.epoch != epoch {
            return Err(ErrorCode::PRODUCER_FENCED);
        }
        if coordinator.phase == Phase::Ongoing {
            coordinator.parts = coordinator.parts.with(parts);
        } else {
            coordinator.phase = Phase::Ongoing;
            coordinator.parts = parts;
        }
        Ok(epoch)
    }

    /// A leader asks the coordinator before it appends the first batch of a transaction.
    fn produce(&mut self, id: usize, epoch: i16, partition: usize, batch: BatchKey) -> Answer {
        let Coordinator { epoch: current, .. } = self.ids[id];
        if current != epoch {
            return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
        }
        if self.kip890 {
            self.join(id, epoch, Parts::only(partition))?;
        }
        let Coordinator { phase, parts, .. } = self.ids[id];
        if phase != Phase::Ongoing || !parts.has(partition) {
            return Err(ErrorCode::INVALID_TXN_STATE);
        }
        let record = Entry::Record { id, epoch, batch };
        // The sequence in a batch makes a second copy known.
        if !self.logs[partition].contains(&record) {
            self.logs[partition].push(record);
        }
        Ok(epoch)
    }

    fn end(&mut self, id: usize, epoch: i16, commit: bool) -> Answer {
        let raised = self.raised();
        let coordinator = &mut self.ids[id];
        match coordinator.phase {
            Phase::Complete { commit: was } if coordinator.epoch == epoch + raised && was == commit => {
                Ok(coordinator.epoch)
            }
            _ if coordinator.epoch != epoch => Err(ErrorCode::PRODUCER_FENCED),
            Phase::Ongoing => {
                coordinator.phase = Phase::Prepare { commit };
                coordinator.epoch += raised;
                Ok(coordinator.epoch)
            }
            _ => Err(ErrorCode::INVALID_TXN_STATE),
        }
    }

    /// InitProducerId: the new epoch, or none as long as a transaction has to be ended first.
    pub(crate) fn init(&mut self, id: usize) -> Option<i16> {
        let coordinator = &mut self.ids[id];
        match coordinator.phase {
            Phase::Prepare { .. } => None,
            Phase::Ongoing => {
                coordinator.phase = Phase::Prepare { commit: false };
                coordinator.epoch += 1;
                None
            }
            Phase::Empty | Phase::Complete { .. } => {
                *coordinator = Coordinator {
                    epoch: coordinator.epoch + 1,
                    phase: Phase::Empty,
                    parts: Parts::default(),
                };
                Some(coordinator.epoch)
            }
        }
    }

    /// Whether InitProducerId or a request would only wait for markers.
    pub(crate) fn is_ending(&self, id: usize) -> bool {
        matches!(self.ids[id].phase, Phase::Prepare { .. })
    }

    /// Ids with a transaction that nobody has ended.
    pub(crate) fn ongoing(&self) -> impl Iterator<Item = usize> {
        (0..self.ids.len()).filter(|id| self.ids[*id].phase == Phase::Ongoing)
    }

    /// Markers that can be written now: (id, partition).
    pub(crate) fn markers(&self) -> impl Iterator<Item = (usize, usize)> {
        let ending = self.ids.iter().enumerate().filter(|(id, _)| self.is_ending(*id));
        ending.flat_map(|(id, coordinator)| coordinator.parts.iter().map(move |partition| (id, partition)))
    }

    pub(crate) fn write_marker(&mut self, id: usize, partition: usize) {
        let coordinator = &mut self.ids[id];
        let Phase::Prepare { commit } = coordinator.phase else { panic!("a marker that nobody decided") };
        self.logs[partition].push(Entry::Marker { id, commit });
        coordinator.parts = coordinator.parts.without(Parts::only(partition));
        if coordinator.parts.is_empty() {
            coordinator.phase = Phase::Complete { commit };
        }
    }

    /// Whether the last stable offset has reached the end.
    pub(crate) fn is_stable(&self, partition: usize) -> bool {
        self.outcomes(partition).iter().all(|(.., outcome)| outcome.is_some())
    }

    /// Committed batches, in offset order.
    pub(crate) fn committed(&self, partition: usize, view: View) -> Vec<BatchKey> {
        let decided = |id: usize| match self.ids[id].phase {
            Phase::Prepare { commit } if self.ids[id].parts.has(partition) => Some(commit),
            _ => None,
        };
        let mut committed = Vec::new();
        for (id, batch, outcome) in self.outcomes(partition) {
            match outcome.or_else(|| decided(id).filter(|_| view == View::Decided)) {
                Some(true) => committed.push(batch),
                None if view == View::Visible => break,
                _ => {}
            }
        }
        committed
    }

    /// Each batch with its marker's word.
    fn outcomes(&self, partition: usize) -> Vec<(usize, BatchKey, Option<bool>)> {
        let mut outcomes: Vec<(usize, BatchKey, Option<bool>)> = Vec::new();
        for entry in &self.logs[partition] {
            match *entry {
                Entry::Record { id, batch, .. } => outcomes.push((id, batch, None)),
                Entry::Marker { id, commit } => {
                    for (owner, _, outcome) in &mut outcomes {
                        if *owner == id && outcome.is_none() {
                            *outcome = Some(commit);
                        }
                    }
                }
            }
        }
        outcomes
    }
}
