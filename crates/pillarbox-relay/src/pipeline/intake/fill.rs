//! What happens to events once they are read: routed, encoded, counted, sealed.
//!
//! Holds everything behind the outbox stage, so that a row may borrow the decoder and the extractor
//! while it is taken. Never knows what a frame looks like.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pillarbox_failpoint::{Step, hit};
use pillarbox_kafka::producer::{Batch, TopicRef};
use pillarbox_wire::lsn::{Lsn, PgTimestamp};
use pillarbox_wire::position::{Epoch, Position, Sequence};

use super::fault::{append_fault, route_fault, too_large_fault};
use super::letters::{Letters, Replayed};
use super::record::{NO_HEADERS, Texts, headers, record_time};
use super::repin::Repin;
use super::{CommittedSet, Now, SETS_MAX, SealedSet, SetEnd, Taken};
use crate::batch::{BatchSet, Content, POOL_BYTES_MAX, Record};
use crate::config::{Config, Outbox, Transaction as Limits};
use crate::decode::{Committed, Row, Transaction};
use crate::error::Fault;
use crate::outbox::{Event, OwnHeaders};
use crate::pipeline::arrivals::Arrivals;
use crate::pipeline::pace::{Due, Filling, Heat, Pacer};
use crate::position::checkpoint::{BUCKET_SLOTS, Delta, Table, TopicRecord};
use crate::position::confirm::Ledger;
use crate::position::lineage::is_newer;
use crate::route::{Destination, RouteError, Router, Topic};
use crate::sql::LINEAGE_PREFIX;

/// The open source transaction, as far as it concerns splitting.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Open {
    /// Events of this transaction in the filling set.
    pub(super) events: usize,
    /// Their bytes.
    bytes: usize,
    /// Parts sealed before.
    parts: u32,
    /// Whether this run published anything of it.
    published: bool,
    /// The last ordinal taken.
    last_index: u32,
    /// When it committed.
    commit_ms: Option<i64>,
}

/// What happens to events once they are read: everything behind the outbox stage.
pub(super) struct Fill {
    pub(super) pipeline: String,
    pub(super) epoch: Epoch,
    limits: Limits,
    /// The transaction that the checkpoint ends inside of, and the parts of it that are published.
    resumed: Option<(Lsn, u32)>,
    header_names: Vec<Vec<String>>,
    pub(super) router: Router,
    topic_refs: Vec<Arc<TopicRef>>,
    pub(super) sequences: Vec<u64>,
    pub(super) set: BatchSet,
    transactions: usize,
    /// When the oldest unsealed thing came in.
    pub(super) since: Option<Duration>,
    /// The transaction that must not share a set with earlier ones.
    pub(super) settle_before: Option<Lsn>,
    pub(super) open: Option<Open>,
    pub(super) end: SetEnd,
    pending_nonce: Option<String>,
    pub(super) sealed: usize,
    sealed_bytes: usize,
    pub(super) ready: Vec<SealedSet>,
    pacer: Pacer,
    pub(super) heat: Heat,
    pub(super) ledger: Ledger,
    pub(super) texts: Texts,
    pub(super) letters: Letters,
    pub(super) repin: Repin,
    pub(super) retimed: u64,
    /// Where the ids of events are noted, for those who wait for them.
    pub(super) arrivals: Option<Arc<Arrivals>>,
}

impl Fill {
    pub(super) fn new(config: &Config, epoch: Epoch, table: &Table, topics: Vec<Topic>, now: Now) -> Self {
        let position = table.position.as_ref().expect("an intake starts from a checkpoint");
        let sources = config.sources();
        let names = |outbox: &Outbox| outbox.header_names().map(str::to_owned).collect();
        let mut fill = Self {
            pipeline: config.pipeline.to_string(),
            epoch,
            limits: config.kafka.transaction.clone(),
            resumed: position.index.map(|_| (position.commit_lsn, position.part.unwrap_or(1))),
            header_names: sources.iter().map(names).collect(),
            router: Router::new(&sources, Vec::new()),
            topic_refs: Vec::new(),
            sequences: table.sequences.clone(),
            set: BatchSet::new(config.kafka.compression),
            transactions: 0,
            since: None,
            settle_before: None,
            open: None,
            end: SetEnd::from(position),
            pending_nonce: None,
            sealed: 0,
            sealed_bytes: 0,
            ready: Vec::new(),
            pacer: Pacer::default(),
            heat: Heat::default(),
            ledger: Ledger::new(position.resume_lsn, now.monotonic),
            texts: Texts::default(),
            letters: Letters::new(config),
            repin: Repin::default(),
            retimed: 0,
            arrivals: None,
        };
        topics.into_iter().for_each(|topic| fill.learn(topic));
        fill
    }

    pub(super) fn learn(&mut self, mut topic: Topic) {
        if !topic.recorded {
            topic.first_slot = self.router.next_slot();
        }
        let slots = (topic.first_slot + topic.partitions) as usize;
        if self.sequences.len() < slots {
            self.sequences.resize(slots, 0);
        }
        self.topic_refs.push(Arc::new(TopicRef { name: topic.name.clone(), id: topic.id }));
        self.router.learn(topic);
    }

    #[cfg(test)]
    pub(super) fn spare_bytes(&self) -> usize {
        self.set.spare_bytes()
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.open.is_none() && self.since.is_none() && self.sealed == 0
    }

    /// A nonce that the database has now. While frames are not taken (a pause, a backlog), the
    /// checkpoint must not stay at one that every clone has passed.
    pub(super) fn lineage(&mut self, nonce: String, now: Now) {
        if is_newer(&nonce, self.end.lineage_nonce.as_deref()) {
            self.end.lineage_nonce = Some(nonce);
            self.since.get_or_insert(now.monotonic);
        }
    }

    /// A lineage nonce that came back through WAL; other messages give no events.
    pub(super) fn take_lineage(&mut self, prefix: &str, content: &[u8]) {
        if prefix != LINEAGE_PREFIX {
            return;
        }
        let text = std::str::from_utf8(content).unwrap_or_default();
        if let Some((pipeline, nonce)) = text.split_once(':')
            && pipeline == self.pipeline
        {
            self.pending_nonce = Some(nonce.to_owned());
        }
    }

    pub(super) fn begin(&mut self, transaction: Option<Transaction>, sent_at: PgTimestamp, now: Now) {
        if let Some(Transaction { commit_time, .. }) = transaction {
            let age_micros = sent_at.to_unix_micros().saturating_sub(commit_time.to_unix_micros());
            self.heat.begun(Duration::from_micros(age_micros.try_into().unwrap_or(0)));
        }
        let commit_lsn = transaction.map(|transaction| transaction.commit_lsn);
        if commit_lsn.is_some() && commit_lsn == self.settle_before && self.since.is_some() {
            self.seal(self.end.clone(), now);
        }
        let resumed = self.resumed.filter(|(inside, _)| Some(*inside) == commit_lsn);
        // A transaction that is resumed inside needs a closing checkpoint even if nothing follows.
        let parts = resumed.map_or(0, |(_, parts)| parts);
        let commit_ms = transaction.map(|transaction| transaction.commit_time.to_unix_millis());
        self.open = Some(Open { parts, published: resumed.is_some(), commit_ms, ..Open::default() });
    }

    pub(super) fn commit(&mut self, committed: Committed, now: Now) {
        let open = self.open.take().unwrap_or_default();
        self.ledger.keepalive(committed.end_lsn, false);
        if open.published {
            self.end.commit_lsn = committed.commit_lsn;
            self.end.commit_ms = open.commit_ms;
            self.end.published_end_lsn = committed.end_lsn;
            self.end.index = None;
            self.end.part = None;
            self.transactions += 1;
            self.since.get_or_insert(now.monotonic);
        }
        self.end.resume_lsn = self.end.resume_lsn.max(committed.end_lsn);
        if let Some(nonce) = self.pending_nonce.take() {
            self.lineage(nonce, now);
            // Every few seconds an idle pipeline confirms what it has seen.
            self.since.get_or_insert(now.monotonic);
        }
    }

    pub(super) fn take_event(
        &mut self,
        event: &Event<'_>,
        row: &Row<'_>,
        own_headers: OwnHeaders<'_>,
        replayed: Option<Replayed<'_>>,
        now: Now,
    ) -> Result<Taken, Fault> {
        let Row { transaction, index, relation, .. } = *row;
        let to = match self.router.route(event, transaction.commit_lsn) {
            Ok(to) => to,
            Err(RouteError::UnknownTopic(name)) => return Ok(Taken::NeedsTopic(name.into())),
            Err(error) => return Err(route_fault(&error, relation, transaction, index)),
        };
        hit(Step::Routed);
        let limits = self.router.topics()[to.topic.0].limits;
        let open = self.open.unwrap_or_default();
        let commit_ms = transaction.commit_time.to_unix_millis();
        let time = record_time(event.time_ms.unwrap_or(commit_ms), now.unix_ms, &limits);
        let sequence = Sequence(self.sequences[to.slot] + 1);
        let position = Position { epoch: self.epoch, commit_lsn: transaction.commit_lsn, index };
        self.texts.write(&self.pipeline, position, sequence, open.parts + 1, time);
        self.texts.origin(replayed.map(|replayed| replayed.letter));
        let names = &self.header_names[event.outbox];
        let mut places = NO_HEADERS;
        let headers = headers(&mut places, event, names, own_headers, &self.texts);
        let content = Content::new(event.key, event.payload, headers);
        let record = Record { timestamp_ms: time.record_ms, content };
        let bytes = BatchSet::record_bytes(&record, limits.batch_bytes_max).map_err(|batch_bytes| {
            let topic = &self.router.topics()[to.topic.0].name;
            too_large_fault(topic, batch_bytes, limits.batch_bytes_max, relation, transaction, index)
        })?;
        // What belongs to it in the same set.
        let whole = bytes + replayed.map_or(0, |replayed| replayed.verdict_bytes);
        if self.splits(open, whole) {
            return Ok(self.split(now));
        }
        if !self.has_room(whole) {
            return Ok(Taken::NeedsRoom);
        }
        self.set
            .append(to, &record, limits.batch_bytes_max)
            .map_err(|error| append_fault(&error, relation, transaction, index))?;
        self.retimed += u64::from(time.event_ms.is_some());
        self.end.last_commit_ms = Some(commit_ms);
        if let Some(arrivals) = &self.arrivals {
            arrivals.takes(event.id, to.slot, sequence.0);
        }
        self.took(to, sequence, position, bytes, now);
        Ok(Taken::Done)
    }

    pub(super) fn took(
        &mut self,
        to: Destination,
        sequence: Sequence,
        position: Position,
        bytes: usize,
        now: Now,
    ) {
        self.sequences[to.slot] = sequence.0;
        self.published(position, now);
        let open = self.open.as_mut().expect("events come inside transactions");
        open.events += 1;
        open.bytes += bytes;
    }

    /// The checkpoint must cover this place: something of it goes to Kafka.
    pub(super) fn published(&mut self, position: Position, now: Now) {
        self.end.last = Some(position);
        self.since.get_or_insert(now.monotonic);
        let open = self.open.as_mut().expect("events come inside transactions");
        open.published = true;
        open.last_index = position.index;
    }

    /// Whether another `bytes` of the open transaction go beyond what one Kafka transaction takes.
    pub(super) fn splits(&self, open: Open, bytes: usize) -> bool {
        open.events > 0
            && (open.events >= self.limits.events_max || open.bytes + bytes > self.limits.bytes_max)
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        if self.sealed == 0 {
            return true;
        }
        self.sealed < SETS_MAX && self.sealed_bytes + self.set.bytes() + bytes <= POOL_BYTES_MAX
    }

    /// Seals the part of the open transaction that was taken.
    pub(super) fn split(&mut self, now: Now) -> Taken {
        if self.sealed >= SETS_MAX {
            return Taken::NeedsRoom;
        }
        let open = self.open.as_mut().expect("only an open transaction is split");
        let end = SetEnd {
            commit_lsn: self.end.last.expect("a split part has events").commit_lsn,
            commit_ms: open.commit_ms,
            index: Some(open.last_index),
            part: Some(open.parts + 1),
            ..self.end.clone()
        };
        *open = Open { parts: open.parts + 1, published: true, commit_ms: open.commit_ms, ..Open::default() };
        hit(Step::PartSealed);
        self.seal(end, now);
        Taken::Again
    }

    /// Seals what was taken before the open transaction, nothing of which was.
    pub(super) fn seal_before(&mut self, now: Now) -> Taken {
        if self.sealed >= SETS_MAX {
            return Taken::NeedsRoom;
        }
        self.seal(self.end.clone(), now);
        Taken::Again
    }

    pub(super) fn pace(&mut self, now: Now) -> Due {
        if self.open.is_some() || self.sealed >= SETS_MAX {
            return Due::Later;
        }
        let filling = Filling {
            since: self.since,
            full: self.set.is_full(),
            sealed: self.sealed,
            hot: self.heat.is_hot(),
        };
        let due = self.pacer.due(filling, now.monotonic);
        if due == Due::Now {
            self.seal(self.end.clone(), now);
        } else if self.is_quiet()
            && let Some(wal_end) = self.ledger.idle_due(now.monotonic)
        {
            self.ledger.idle_sealed(now.monotonic);
            self.set.drop_spare();
            self.end.resume_lsn = self.end.resume_lsn.max(wal_end);
            self.seal(self.end.clone(), now);
            hit(Step::IdleSealed);
        }
        due
    }

    pub(super) fn committed(&mut self, set: CommittedSet, now: Now) {
        assert!(self.sealed > 0, "I5: a commit of a set that was never sealed");
        self.sealed -= 1;
        self.sealed_bytes -= set.bytes;
        self.pacer.committed(now.monotonic);
        self.ledger.committed(set.end.resume_lsn, now.monotonic);
        self.set.recycle(set.buffers);
    }

    pub(super) fn seal(&mut self, end: SetEnd, now: Now) {
        let events = self.set.events() - std::mem::take(&mut self.letters.records_in_set);
        let bytes = self.set.bytes();
        let dead_letters = std::mem::take(&mut self.letters.in_set);
        let buckets = self.touched_buckets();
        let mut topics: Vec<(String, TopicRecord)> = std::mem::take(&mut self.repin.moved);
        let mut batches = Vec::new();
        for batch in self.set.seal() {
            topics.extend(self.router.record(batch.topic));
            batches.push(Batch {
                topic: Arc::clone(&self.topic_refs[batch.topic.0]),
                partition: i32::try_from(batch.partition.0).expect("Kafka counts partitions in i32"),
                bytes: BytesMut::from(Bytes::from(batch.bytes)),
                records: batch.records,
            });
        }
        let delta = Delta { topics, buckets };
        let transactions = std::mem::take(&mut self.transactions);
        let filled_for = now.monotonic.saturating_sub(self.since.take().unwrap_or(now.monotonic));
        self.ready.push(SealedSet {
            batches,
            end,
            delta,
            events,
            dead_letters,
            transactions,
            bytes,
            filled_for,
        });
        self.sealed += 1;
        self.sealed_bytes += bytes;
        self.pacer.sealed(now.monotonic);
    }

    pub(super) fn touched_buckets(&self) -> Vec<(usize, Vec<u64>)> {
        let moved = self.repin.moved.iter().flat_map(|(_, topic)| {
            let first = topic.first_slot as usize;
            first..first + topic.partitions as usize
        });
        let slots = self.set.touched().iter().copied().chain(moved);
        let mut buckets: Vec<usize> = slots.map(|slot| slot / BUCKET_SLOTS).collect();
        buckets.sort_unstable();
        buckets.dedup();
        let sequences = |bucket: usize| {
            let first = bucket * BUCKET_SLOTS;
            self.sequences[first..self.sequences.len().min(first + BUCKET_SLOTS)].to_vec()
        };
        buckets.into_iter().map(|bucket| (bucket, sequences(bucket))).collect()
    }
}
