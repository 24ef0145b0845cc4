//! The reader's decisions: what each frame of the stream adds to the set that is filling, and when
//! that set is sealed.
//!
//! ```text
//! frame -> decode -> (covered by the checkpoint? drop) -> outbox -> route -> batch
//!                                                                    |
//! commit, clock, keepalive ------------------------------------------+--> sealed set + its checkpoint
//! ```
//!
//! Pure: no socket, no clock, no thread; the same code runs under a simulator. A frame that cannot
//! be taken yet changes nothing and is presented again:
//!
//! | answer | the caller |
//! | --- | --- |
//! | [`Taken::Done`] | goes on with the next frame |
//! | [`Taken::Again`] | presents the frame again: a part of a huge transaction was sealed before it |
//! | [`Taken::NeedsRoom`] | waits until a sealed set was committed, then presents the frame again |
//! | [`Taken::NeedsTopic`] | finds out about the topic, [`Intake::learn`], presents it again |
//! | an error | halts (or reconnects) at this frame: nothing of it was taken |

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pillarbox_kafka::producer::{Batch, TopicRef};
use pillarbox_wire::header;
use pillarbox_wire::lsn::Lsn;
use pillarbox_wire::position::{Epoch, Position, Sequence};
use pillarbox_wire::record_batch::Header;

use super::pace::{Due, Filling, Heat, Pacer};
use crate::batch::{BatchSet, POOL_BYTES_MAX, Record};
use crate::config::{Config, Outbox, Transaction as Limits};
use crate::decode::{Change, Committed, DecodeError, Decoder, Description, Transaction};
use crate::error::{Code, Fault};
use crate::outbox::{Event, Extractor, HEADERS_MAX, OutboxError};
use crate::position::checkpoint::{BUCKET_SLOTS, Delta, PositionRecord, Table, TopicRecord};
use crate::position::confirm::Ledger;
use crate::position::filter::Covered;
use crate::route::{Destination, RouteError, Router, Topic, TopicLimits};
use crate::sql::LINEAGE_PREFIX;

/// Sealed sets that may wait for the sink or be in it.
pub const SETS_MAX: usize = 8;

/// Time as the caller sees it.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Since an arbitrary origin, monotonic.
    pub monotonic: Duration,
    /// Wall clock, milliseconds since 1970.
    pub unix_ms: i64,
}

/// What became of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It was taken.
    Done,
    /// A part of a huge transaction was sealed: present it again.
    Again,
    /// The pool is full: present it again after a commit.
    NeedsRoom,
    /// Present it again once this topic is known.
    NeedsTopic(String),
}

/// Where a sealed set ends: the position part of its checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetEnd {
    /// Commit LSN of the last transaction with events.
    pub commit_lsn: Lsn,
    /// The last published ordinal, inside a split transaction.
    pub index: Option<u32>,
    /// The part's number, inside a split transaction.
    pub part: Option<u32>,
    /// What may be confirmed once the set is committed.
    pub resume_lsn: Lsn,
    /// End LSN of the last whole transaction with events.
    pub published_end_lsn: Lsn,
    /// The last lineage nonce that came through WAL.
    pub lineage_nonce: Option<String>,
    /// Whether an operator paused the pipeline.
    pub paused: bool,
    /// Position of the last event.
    pub last: Option<Position>,
}

impl From<&PositionRecord> for SetEnd {
    fn from(position: &PositionRecord) -> Self {
        Self {
            commit_lsn: position.commit_lsn,
            index: position.index,
            part: position.part,
            resume_lsn: position.resume_lsn,
            published_end_lsn: position.published_end_lsn,
            lineage_nonce: position.lineage_nonce.clone(),
            paused: position.paused,
            last: None,
        }
    }
}

/// A set on its way to the sink: exactly one Kafka transaction.
pub struct SealedSet {
    /// Finished batches, those of one partition in order.
    pub batches: Vec<Batch>,
    /// The checkpoint's position.
    pub end: SetEnd,
    /// What the checkpoint's table gains.
    pub delta: Delta,
    /// Events in it.
    pub events: usize,
    /// Source transactions that ended in it with events.
    pub transactions: usize,
    /// Record bytes in it.
    pub bytes: usize,
}

/// A committed set, on its way back.
pub struct CommittedSet {
    /// Its end.
    pub end: SetEnd,
    /// Its size, as sealed.
    pub bytes: usize,
    /// Buffers to use again.
    pub buffers: Vec<Vec<u8>>,
}

/// The open source transaction, as far as it concerns splitting.
#[derive(Debug, Clone, Copy, Default)]
struct Open {
    /// Events of this transaction in the filling set.
    events: usize,
    /// Their bytes.
    bytes: usize,
    /// Parts sealed before.
    parts: u32,
    /// Whether this run published anything of it.
    published: bool,
    /// The last ordinal taken.
    last_index: u32,
}

/// See the module.
pub struct Intake {
    decoder: Decoder,
    extractor: Extractor,
    covered: Covered,
    fill: Fill,
}

/// What happens to events once they are read: everything behind the outbox stage.
struct Fill {
    pipeline: String,
    epoch: Epoch,
    limits: Limits,
    /// The transaction that the checkpoint ends inside of, and the parts of it that are published.
    resumed: Option<(Lsn, u32)>,
    header_names: Vec<Vec<String>>,
    router: Router,
    topic_refs: Vec<Arc<TopicRef>>,
    sequences: Vec<u64>,
    set: BatchSet,
    transactions: usize,
    /// When the oldest unsealed thing came in.
    since: Option<Duration>,
    /// The transaction that must not share a set with earlier ones.
    settle_before: Option<Lsn>,
    open: Option<Open>,
    end: SetEnd,
    pending_nonce: Option<String>,
    sealed: usize,
    sealed_bytes: usize,
    ready: Vec<SealedSet>,
    pacer: Pacer,
    heat: Heat,
    ledger: Ledger,
    texts: Texts,
    retimed: u64,
}

/// Header values of the record at hand.
#[derive(Default)]
struct Texts {
    position: Vec<u8>,
    part: Vec<u8>,
    time: Vec<u8>,
}

impl Intake {
    /// An intake that goes on where the checkpoint ends. `topics` are the recorded ones.
    ///
    /// # Panics
    /// When the table holds no position: the caller halts on that before.
    pub fn new(config: &Config, epoch: Epoch, table: &Table, topics: Vec<Topic>, now: Now) -> Self {
        let position = table.position.as_ref().expect("an intake starts from a checkpoint");
        Self {
            decoder: Decoder::new(),
            extractor: Extractor::new(config.outbox.clone()),
            covered: position.covered(),
            fill: Fill::new(config, epoch, table, topics, now),
        }
    }

    /// The transaction that commits at `commit_lsn` holds an event that could not be published: it
    /// must not share a set with those before it.
    pub fn settle_before(&mut self, commit_lsn: Lsn) {
        self.fill.settle_before = Some(commit_lsn);
    }

    /// Commit LSN of the transaction that the stream is in.
    pub fn open_commit_lsn(&self) -> Option<Lsn> {
        self.decoder.transaction().map(|transaction| transaction.commit_lsn)
    }

    /// Takes the payload of an XLogData frame.
    ///
    /// # Errors
    /// A fault that names the row; nothing of the frame was taken.
    pub fn take(&mut self, data: &[u8], now: Now) -> Result<Taken, Fault> {
        let taken = match self.decoder.decode(data).map_err(decode_fault)? {
            Change::Insert(row) if self.covered.covers(row.transaction.commit_lsn, row.index) => Taken::Done,
            Change::Insert(row) => {
                let (transaction, index) = (row.transaction, row.index);
                let extracted = self.extractor.extract(&row);
                match extracted.map_err(|error| outbox_fault(&error, transaction, index))? {
                    Some(event) => self.fill.take_event(&event, transaction, index, row.relation, now)?,
                    None => Taken::Done,
                }
            }
            Change::Message(note) => {
                self.fill.take_message(note.prefix, note.content);
                Taken::Done
            }
            Change::Passed => Taken::Done,
            Change::Begin => {
                let transaction = self.decoder.transaction();
                self.fill.begin(transaction, now);
                return Ok(Taken::Done);
            }
            Change::Commit(committed) => {
                self.fill.commit(committed, now);
                return Ok(Taken::Done);
            }
            Change::Stray { .. } | Change::Nothing => return Ok(Taken::Done),
        };
        if taken == Taken::Done {
            self.decoder.advance().map_err(decode_fault)?;
        }
        Ok(taken)
    }

    /// Whether a topic of this name is known.
    pub fn knows_topic(&self, name: &str) -> bool {
        self.fill.router.knows(name)
    }

    /// From now on the topic is known. A topic that is not recorded gets the next free slots.
    pub fn learn(&mut self, topic: Topic) {
        self.fill.learn(topic);
    }

    /// The server's keepalive.
    pub fn keepalive(&mut self, wal_end: Lsn, asked: bool) {
        self.fill.ledger.keepalive(wal_end, asked);
    }

    /// Bytes were read from the stream, or a look found none.
    pub fn heat(&mut self, bytes: usize, now: Now) {
        self.fill.heat.read(bytes, now.monotonic);
    }

    /// Whether the stream is a backlog.
    pub fn is_hot(&self) -> bool {
        self.fill.heat.is_hot()
    }

    /// What was committed and may be confirmed.
    pub fn confirmed(&self) -> Lsn {
        self.fill.ledger.confirmed()
    }

    /// The furthest end of WAL seen.
    pub fn server_lsn(&self) -> Lsn {
        self.fill.ledger.wal_end()
    }

    /// Sealed sets that are not committed yet.
    pub fn in_flight(&self) -> usize {
        self.fill.sealed
    }

    /// Whether the stream stands between two transactions.
    pub fn at_boundary(&self) -> bool {
        self.fill.open.is_none()
    }

    /// Whether nothing is open, filling or in flight.
    pub fn is_quiet(&self) -> bool {
        self.fill.is_quiet()
    }

    /// Whether the filling set is full at a boundary: pace before more frames are taken.
    pub fn is_full(&self) -> bool {
        self.at_boundary() && self.fill.set.is_full()
    }

    /// Events that carry the relay's time instead of their commit time.
    pub fn retimed(&self) -> u64 {
        self.fill.retimed
    }

    /// Seals the set if the pacer says so; called whenever time has passed or frames were taken.
    pub fn pace(&mut self, now: Now) -> Due {
        self.fill.pace(now)
    }

    /// Seals what is complete, whatever the pacer says: the relay drains or pauses.
    pub fn flush(&mut self, now: Now) {
        let fill = &mut self.fill;
        if fill.open.is_none() && fill.since.is_some() && fill.sealed < SETS_MAX {
            fill.seal(fill.end.clone(), now);
        }
    }

    /// Seals a set that says whether the pipeline is paused, at a boundary.
    pub fn seal_paused(&mut self, paused: bool, now: Now) {
        self.fill.end.paused = paused;
        self.fill.seal(self.fill.end.clone(), now);
    }

    /// Takes the sets that were sealed since the last call, in order.
    pub fn take_sealed(&mut self) -> Vec<SealedSet> {
        std::mem::take(&mut self.fill.ready)
    }

    /// A set was committed, in the order they were sealed.
    ///
    /// # Panics
    /// When no set is in flight (I5), or its end lies before what was confirmed (I2).
    pub fn committed(&mut self, set: CommittedSet, now: Now) {
        self.fill.committed(set, now);
    }
}

impl Fill {
    fn new(config: &Config, epoch: Epoch, table: &Table, topics: Vec<Topic>, now: Now) -> Self {
        let position = table.position.as_ref().expect("an intake starts from a checkpoint");
        let templates = config.outbox.iter().map(|outbox| outbox.topic.clone()).collect();
        let names = |outbox: &Outbox| outbox.headers.iter().map(|h| h.name.clone()).collect();
        let mut fill = Self {
            pipeline: config.pipeline.to_string(),
            epoch,
            limits: config.kafka.transaction.clone(),
            resumed: position.index.map(|_| (position.commit_lsn, position.part.unwrap_or(1))),
            header_names: config.outbox.iter().map(names).collect(),
            router: Router::new(templates, Vec::new()),
            topic_refs: Vec::new(),
            sequences: table.sequences.clone(),
            set: BatchSet::new(),
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
            retimed: 0,
        };
        topics.into_iter().for_each(|topic| fill.learn(topic));
        fill
    }

    fn learn(&mut self, mut topic: Topic) {
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

    fn is_quiet(&self) -> bool {
        self.open.is_none() && self.since.is_none() && self.sealed == 0
    }

    /// A lineage nonce that came back through WAL; other messages give no events.
    fn take_message(&mut self, prefix: &str, content: &[u8]) {
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

    fn begin(&mut self, transaction: Option<Transaction>, now: Now) {
        let commit_lsn = transaction.map(|transaction| transaction.commit_lsn);
        if commit_lsn.is_some() && commit_lsn == self.settle_before && self.since.is_some() {
            self.seal(self.end.clone(), now);
        }
        let resumed = self.resumed.filter(|(inside, _)| Some(*inside) == commit_lsn);
        // A transaction that is resumed inside needs a closing checkpoint even if nothing follows.
        let parts = resumed.map_or(0, |(_, parts)| parts);
        self.open = Some(Open { parts, published: resumed.is_some(), ..Open::default() });
    }

    fn commit(&mut self, committed: Committed, now: Now) {
        let open = self.open.take().unwrap_or_default();
        self.ledger.keepalive(committed.end_lsn, false);
        if open.published {
            self.end.commit_lsn = committed.commit_lsn;
            self.end.published_end_lsn = committed.end_lsn;
            self.end.index = None;
            self.end.part = None;
            self.transactions += 1;
            self.since.get_or_insert(now.monotonic);
        }
        self.end.resume_lsn = self.end.resume_lsn.max(committed.end_lsn);
        if let Some(nonce) = self.pending_nonce.take() {
            self.end.lineage_nonce = Some(nonce);
            self.since.get_or_insert(now.monotonic);
        }
    }

    fn take_event(
        &mut self,
        event: &Event<'_>,
        transaction: Transaction,
        index: u32,
        relation: &Description,
        now: Now,
    ) -> Result<Taken, Fault> {
        let to = match self.router.route(event, transaction.commit_lsn) {
            Ok(to) => to,
            Err(RouteError::UnknownTopic(name)) => return Ok(Taken::NeedsTopic(name)),
            Err(error) => return Err(route_fault(&error, relation, transaction, index)),
        };
        let limits = self.router.topics()[to.topic.0].limits;
        let open = self.open.unwrap_or_default();
        let time = record_time(transaction.commit_time.to_unix_millis(), now.unix_ms, &limits);
        let sequence = Sequence(self.sequences[to.slot] + 1);
        let position = Position { epoch: self.epoch, commit_lsn: transaction.commit_lsn, index };
        self.write_texts(position, sequence, open.parts + 1, time);
        let names = &self.header_names[event.outbox];
        let (headers, count) = headers(event, names, &self.texts);
        let record = Record {
            timestamp_ms: time.record_ms,
            key: event.key,
            value: event.payload,
            headers: &headers[..count],
        };
        let bytes = BatchSet::record_bytes(&record, limits.batch_bytes_max).map_err(|batch_bytes| {
            let topic = &self.router.topics()[to.topic.0].name;
            too_large_fault(topic, batch_bytes, limits.batch_bytes_max, relation, transaction, index)
        })?;
        if self.splits(open, bytes) {
            return Ok(self.split(now));
        }
        if !self.has_room(bytes) {
            return Ok(Taken::NeedsRoom);
        }
        self.set.append(to, &record, limits.batch_bytes_max).map_err(|error| {
            Fault::new(Code::BadValue, place(relation, transaction, index)).because(error)
        })?;
        self.took(to, sequence, position, bytes, time, now);
        Ok(Taken::Done)
    }

    fn took(
        &mut self,
        to: Destination,
        sequence: Sequence,
        position: Position,
        bytes: usize,
        time: RecordTime,
        now: Now,
    ) {
        self.sequences[to.slot] = sequence.0;
        self.end.last = Some(position);
        self.retimed += u64::from(time.commit_ms.is_some());
        self.since.get_or_insert(now.monotonic);
        let open = self.open.as_mut().expect("events come inside transactions");
        open.events += 1;
        open.bytes += bytes;
        open.published = true;
        open.last_index = position.index;
    }

    /// Whether another `bytes` of the open transaction go beyond what one Kafka transaction takes.
    fn splits(&self, open: Open, bytes: usize) -> bool {
        open.events > 0
            && (open.events >= self.limits.events_max || open.bytes + bytes > self.limits.bytes_max)
    }

    fn has_room(&self, bytes: usize) -> bool {
        if self.sealed == 0 {
            return true;
        }
        self.sealed < SETS_MAX && self.sealed_bytes + self.set.bytes() + bytes <= POOL_BYTES_MAX
    }

    /// Seals the part of the open transaction that was taken.
    fn split(&mut self, now: Now) -> Taken {
        if self.sealed >= SETS_MAX {
            return Taken::NeedsRoom;
        }
        let open = self.open.as_mut().expect("only an open transaction is split");
        let end = SetEnd {
            commit_lsn: self.end.last.expect("a split part has events").commit_lsn,
            index: Some(open.last_index),
            part: Some(open.parts + 1),
            ..self.end.clone()
        };
        *open = Open { parts: open.parts + 1, published: true, ..Open::default() };
        self.seal(end, now);
        Taken::Again
    }

    fn pace(&mut self, now: Now) -> Due {
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
            self.end.resume_lsn = self.end.resume_lsn.max(wal_end);
            self.seal(self.end.clone(), now);
        }
        due
    }

    fn committed(&mut self, set: CommittedSet, now: Now) {
        assert!(self.sealed > 0, "I5: a commit of a set that was never sealed");
        self.sealed -= 1;
        self.sealed_bytes -= set.bytes;
        self.ledger.committed(set.end.resume_lsn, now.monotonic);
        self.set.recycle(set.buffers);
    }

    fn seal(&mut self, end: SetEnd, now: Now) {
        let (events, bytes) = (self.set.events(), self.set.bytes());
        let buckets = self.touched_buckets();
        let mut topics: Vec<(String, TopicRecord)> = Vec::new();
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
        self.ready.push(SealedSet { batches, end, delta, events, transactions, bytes });
        self.sealed += 1;
        self.sealed_bytes += bytes;
        self.since = None;
        self.pacer.sealed(now.monotonic);
    }

    fn touched_buckets(&self) -> Vec<(usize, Vec<u64>)> {
        let mut buckets: Vec<usize> = self.set.touched().iter().map(|slot| slot / BUCKET_SLOTS).collect();
        buckets.sort_unstable();
        buckets.dedup();
        let sequences = |bucket: usize| {
            let first = bucket * BUCKET_SLOTS;
            self.sequences[first..self.sequences.len().min(first + BUCKET_SLOTS)].to_vec()
        };
        buckets.into_iter().map(|bucket| (bucket, sequences(bucket))).collect()
    }

    fn write_texts(&mut self, position: Position, sequence: Sequence, part: u32, time: RecordTime) {
        let Texts { position: position_text, part: part_text, time: time_text } = &mut self.texts;
        position_text.clear();
        header::PbPos { pipeline: &self.pipeline, position, sequence }.write_to(position_text);
        part_text.clear();
        if part > 1 {
            header::write_decimal(u64::from(part), part_text);
        }
        time_text.clear();
        if let Some(commit_ms) = time.commit_ms {
            time_text.extend_from_slice(commit_ms.to_string().as_bytes());
        }
    }
}

/// Headers of one record: `id`, the configured columns, then Pillarbox's own.
fn headers<'a>(
    event: &Event<'a>,
    names: &'a [String],
    texts: &'a Texts,
) -> ([Header<'a>; HEADERS_MAX + 4], usize) {
    let mut headers = [Header { name: "", value: None }; HEADERS_MAX + 4];
    headers[0] = Header { name: header::ID, value: Some(event.id) };
    let mut count = 1;
    for (name, value) in names.iter().zip(event.headers) {
        headers[count] = Header { name, value };
        count += 1;
    }
    headers[count] = Header { name: header::PB_POS, value: Some(&texts.position) };
    count += 1;
    for (name, text) in [(header::PB_PART, &texts.part), (header::PB_TS, &texts.time)] {
        if !text.is_empty() {
            headers[count] = Header { name, value: Some(text) };
            count += 1;
        }
    }
    (headers, count)
}

/// The time on a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RecordTime {
    record_ms: i64,
    /// The commit time, where the record carries another.
    commit_ms: Option<i64>,
}

/// Commit time, unless the topic would refuse it or soon delete a record that old.
fn record_time(commit_ms: i64, now_ms: i64, limits: &TopicLimits) -> RecordTime {
    let age = now_ms.saturating_sub(commit_ms);
    let expiring = limits.retention_ms.is_some_and(|retention| age > retention / 2);
    let refused = age > limits.before_max_ms || age.saturating_neg() > limits.after_max_ms;
    if expiring || refused {
        RecordTime { record_ms: now_ms, commit_ms: Some(commit_ms) }
    } else {
        RecordTime { record_ms: commit_ms, commit_ms: None }
    }
}

fn place(relation: &Description, transaction: Transaction, index: u32) -> String {
    format!(
        "row {index} of the transaction at {} in table {}.{}",
        transaction.commit_lsn, relation.schema, relation.name
    )
}

fn decode_fault(error: DecodeError) -> Fault {
    Fault::new(Code::PgProtocol, "the replication stream cannot be understood").because(error)
}

fn outbox_fault(error: &OutboxError, transaction: Transaction, index: u32) -> Fault {
    let code = match error {
        OutboxError::ColumnMissing { .. } => Code::ColumnMissing,
        OutboxError::Null { .. } => Code::MissingValue,
        OutboxError::Unreadable { .. } => Code::BadValue,
    };
    let at = format!("row {index} of the transaction at {}", transaction.commit_lsn);
    Fault::new(code, format!("{at} cannot become an event")).because(error).hint(match code {
        Code::ColumnMissing => "correct outbox.columns, or add the column to the publication's column list",
        _ => "the pipeline waits at this row; correct the writer, and move past the row only on purpose",
    })
}

fn route_fault(error: &RouteError, relation: &Description, transaction: Transaction, index: u32) -> Fault {
    let (code, hint) = match error {
        RouteError::KeylessCompacted(_) => {
            (Code::KeylessCompacted, "give the rows a key, or set the topic's cleanup.policy to delete")
        }
        RouteError::NullColumn(_) => (Code::MissingValue, "add NOT NULL to the column that names the topic"),
        _ => (Code::IllegalTopic, "topic names have 1 to 249 characters of a-z, A-Z, 0-9, '.', '_' and '-'"),
    };
    let message = format!("{} cannot be routed", place(relation, transaction, index));
    Fault::new(code, message).because(error).hint(hint)
}

fn too_large_fault(
    topic: &str,
    found: usize,
    allowed: usize,
    relation: &Description,
    transaction: Transaction,
    index: u32,
) -> Fault {
    let message = format!(
        "{} makes a batch of {found} bytes, topic {topic} takes {allowed}",
        place(relation, transaction, index)
    );
    Fault::new(Code::EventTooLarge, message)
        .hint(format!("kafka-configs.sh --alter --topic {topic} --add-config max.message.bytes={found}"))
}

#[cfg(test)]
mod tests;
