//! What must hold, held against every decision of a coordinator, every marker, every confirmed position and every halt.
//!
//! | name | what |
//! | --- | --- |
//! | once, in order | a committed event is the next one of its partition in commit order, each once, by decision and by what a consumer sees |
//! | whole | what is committed is exactly what the checkpoint in the same Kafka transaction covers; inside a source transaction only where that is too large |
//! | dense | sequences grow by one; parts count up |
//! | confirmed is committed | the slot never passes the committed `resume_lsn`, nor an event that is not committed |
//! | stops rather than skips | once history was cut behind something published, nothing more is committed |
//! | goes on | no relay halts but then |

use pillarbox_relay::error::{Code, Fault};
use pillarbox_relay::position::checkpoint::PositionRecord;
use pillarbox_wire::lsn::Lsn;

use crate::kafka::CHECKPOINT;
use crate::kafka::coordinator::Ended;
use crate::kafka::log::{Batch, Log};
use crate::postgres::{EventId, Expected};
use crate::records::EventRecord;

/// Something that must not be.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    pub(crate) what: String,
}

pub(crate) type Verdict = Result<(), Violation>;

fn broken<T>(rule: &'static str, what: String) -> Result<T, Violation> {
    Err(Violation { rule, what })
}

/// Events by partition.
pub(crate) type History = Vec<Vec<Expected>>;

#[derive(Debug)]
pub(crate) struct Checker {
    /// Committed events of each partition.
    committed: Vec<Vec<EventId>>,
    /// How many of the current history's are among them.
    cursor: Vec<usize>,
    /// Of each former history, how many of each partition the current one shares with it.
    common: Vec<Vec<usize>>,
    /// Events were published that are in no database any more: so many of each partition still are.
    ghosts: Option<Vec<usize>>,
    /// What a consumer has seen: entries of the log, and events.
    seen: Vec<(usize, usize)>,
    sequences: Vec<u64>,
    pub(crate) position: PositionRecord,
    /// The source transaction committed in part, and its parts.
    parts: (u64, u32),
    events_max: usize,
}

impl Checker {
    pub(crate) fn new(partitions: usize, position: PositionRecord, events_max: usize) -> Self {
        Self {
            committed: vec![Vec::new(); partitions],
            cursor: vec![0; partitions],
            common: Vec::new(),
            ghosts: None,
            seen: vec![(0, 0); partitions],
            sequences: vec![0; partitions],
            position,
            parts: (0, 0),
            events_max,
        }
    }

    /// History was cut: so much is left of it.
    pub(crate) fn cut(&mut self, left: &History) {
        let left: Vec<usize> = left.iter().map(Vec::len).collect();
        self.common.push(vec![usize::MAX; left.len()]);
        for common in &mut self.common {
            lower(common, &left);
        }
        if self.ghosts.is_some() || is_beyond(&self.cursor, &left) {
            lower(self.ghosts.get_or_insert_with(|| left.clone()), &left);
        }
    }

    /// Events were published that are in no database any more.
    pub(crate) fn has_ghosts(&self) -> bool {
        self.ghosts.is_some()
    }

    /// An operator accepted the cut.
    pub(crate) fn accepted(&mut self, position: PositionRecord) {
        if let Some(kept) = self.ghosts.take() {
            lower(&mut self.cursor, &kept);
        }
        self.position = position;
        self.parts = (0, 0);
    }

    /// A coordinator decides to commit what was written under this identity, asked by a relay that reads `history`;
    /// `former`: which of the former ones that is.
    pub(crate) fn decided(
        &mut self,
        ended: &Ended,
        logs: &[Log],
        history: &History,
        former: Option<usize>,
    ) -> Verdict {
        if former.is_none() && self.has_ghosts() {
            return broken("stops rather than skips", "committed behind a cut".into());
        }
        let checkpoints: Vec<_> = logs[CHECKPOINT].open_data(ended.identity).collect();
        let [checkpoint] = checkpoints[..] else {
            return broken("whole", format!("a Kafka transaction with {} checkpoints", checkpoints.len()));
        };
        let Batch::Checkpoint(_, position) = &**checkpoint else { unreachable!("events among checkpoints") };
        let mut part = None;
        for partition in (0..logs.len()).filter(|partition| *partition != CHECKPOINT) {
            for batch in logs[partition].open_data(ended.identity) {
                let Batch::Events(events) = &**batch else { unreachable!("a checkpoint among events") };
                for event in events {
                    self.event(partition, event, &history[partition], position)?;
                    part = Some((event.id.transaction, event.part)).max(part);
                }
            }
        }
        self.parts(part, position)?;
        self.covers(position, history)?;
        // A new epoch goes back to the fork: nothing behind it was published.
        let same = position.epoch == self.position.epoch;
        if position.epoch < self.position.epoch || same && position.resume_lsn < self.position.resume_lsn {
            return broken("confirmed is committed", "the checkpoint went back".into());
        }
        self.position = PositionRecord::clone(position);
        // A relay that still reads a history that was cut publishes what is in no database any more.
        if let Some(common) = former.map(|former| &self.common[former])
            && is_beyond(&self.cursor, common)
        {
            let common = common.clone();
            lower(self.ghosts.get_or_insert_with(|| common.clone()), &common);
        }
        Ok(())
    }

    fn event(
        &mut self,
        partition: usize,
        event: &EventRecord,
        expected: &[Expected],
        position: &PositionRecord,
    ) -> Verdict {
        let EventRecord { id, position: at, sequence, .. } = event;
        let next = expected.get(self.cursor[partition]);
        if next.is_none_or(|next| (next.id, next.commit_lsn, next.index) != (*id, at.commit_lsn, at.index)) {
            let what =
                format!("partition {partition}: {id:?} at {at}, expected {:?}", next.map(|next| next.id));
            return broken("once, in order", what);
        }
        if *sequence != self.sequences[partition] + 1 || at.epoch.0 != position.epoch {
            let what =
                format!("partition {partition}: {id:?} has sequence {sequence} and epoch {}", at.epoch.0);
            return broken("dense", what);
        }
        self.sequences[partition] = *sequence;
        self.cursor[partition] += 1;
        self.committed[partition].push(*id);
        Ok(())
    }

    /// `newest`: the last source transaction of the set, and the part its events say they are.
    fn parts(&mut self, newest: Option<(u64, u32)>, position: &PositionRecord) -> Verdict {
        let Some((transaction, part)) = newest else { return Ok(()) };
        let before = if self.parts.0 == transaction { self.parts.1 } else { 0 };
        if part != before + 1 {
            return broken("dense", format!("part {part} of transaction {transaction} behind {before}"));
        }
        if position.index.is_some() && position.part != Some(part) {
            return broken("dense", format!("the checkpoint speaks of part {:?}, not {part}", position.part));
        }
        self.parts = (transaction, part);
        Ok(())
    }

    /// Exactly what the position covers is committed.
    fn covers(&self, position: &PositionRecord, history: &History) -> Verdict {
        let covered = position.covered();
        for (partition, expected) in history.iter().enumerate() {
            let is_covered = |event: &Expected| covered.covers(event.commit_lsn, event.index);
            let count = expected.partition_point(is_covered);
            if count != self.cursor[partition] {
                let what = format!(
                    "partition {partition}: {} committed, the checkpoint at {} {:?} covers {count}",
                    self.cursor[partition], covered.commit_lsn, covered.index
                );
                return broken("whole", what);
            }
            let last = count.checked_sub(1).map(|last| expected[last]);
            let small =
                |event: Expected| event.commit_lsn == covered.commit_lsn && event.of <= self.events_max;
            if covered.index.is_some() && last.is_some_and(small) {
                return broken("whole", format!("the transaction at {} was split", covered.commit_lsn));
            }
        }
        Ok(())
    }

    /// A marker was written: what a consumer sees is what was decided, in the same order.
    pub(crate) fn visible(&mut self, partition: usize, log: &Log) -> Verdict {
        let (mut entry, mut events) = self.seen[partition];
        let stable = log.stable_entry();
        for data in
            log.data.get(entry..stable).unwrap_or_default().iter().filter(|data| data.committed == Some(true))
        {
            let Batch::Events(batch) = &*data.batch else { continue };
            for event in batch {
                if self.committed[partition].get(events) != Some(&event.id) {
                    let what =
                        format!("partition {partition}: a consumer sees {:?} out of its turn", event.id);
                    return broken("once, in order", what);
                }
                events += 1;
            }
        }
        entry = entry.max(stable);
        self.seen[partition] = (entry, events);
        Ok(())
    }

    /// The slot was confirmed.
    pub(crate) fn confirmed(&self, confirmed: Lsn, expected: &History) -> Verdict {
        if confirmed > self.position.resume_lsn {
            let what = format!("the slot is at {confirmed}, the checkpoint at {}", self.position.resume_lsn);
            return broken("confirmed is committed", what);
        }
        for (partition, expected) in expected.iter().enumerate() {
            let next = expected.get(self.cursor[partition]);
            if next.is_some_and(|next| next.commit_lsn < confirmed) && !self.has_ghosts() {
                let what =
                    format!("the slot is at {confirmed}, {:?} is not committed", next.map(|next| next.id));
                return broken("confirmed is committed", what);
            }
        }
        Ok(())
    }

    pub(crate) fn halted(&self, fault: &Fault) -> Verdict {
        if self.has_ghosts() && fault.code == Code::TimelineDiverged {
            return Ok(());
        }
        broken("goes on", format!("a relay halts: {} {}", fault.code, fault.message))
    }

    /// What is missing of everything that was committed to Postgres.
    pub(crate) fn missing(&self, expected: &History) -> Option<String> {
        for (partition, expected) in expected.iter().enumerate() {
            let (_, seen) = self.seen[partition];
            if seen < self.committed[partition].len() || self.cursor[partition] < expected.len() {
                return Some(format!(
                    "partition {partition}: {} of {} events committed, {} behind the last stable offset",
                    self.cursor[partition],
                    expected.len(),
                    self.committed[partition].len() - seen
                ));
            }
        }
        None
    }
}

fn is_beyond(counts: &[usize], limits: &[usize]) -> bool {
    counts.iter().zip(limits).any(|(count, limit)| count > limit)
}

fn lower(counts: &mut [usize], limits: &[usize]) {
    for (count, limit) in counts.iter_mut().zip(limits) {
        *count = (*count).min(*limit);
    }
}
