//! What the relay's own code makes of WAL and of a checkpoint: computed by [`Intake`], [`Table`] and [`judge`], once for
//! each different start, and remembered, so that states hold numbers instead of tables.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pillarbox_kafka::Uuid;
use pillarbox_relay::config::{Compression, Config, Kafka, Outbox, Postgres, TableName, Topics, Transaction};
use pillarbox_relay::error::Fault;
use pillarbox_relay::pipeline::intake::{CommittedSet, Intake, Now, SealedSet, Taken};
use pillarbox_relay::position::checkpoint::{Delta, PositionRecord, Table, VERSION, encode};
use pillarbox_relay::position::lineage::{SourceFacts, judge};
use pillarbox_relay::route::{Topic, TopicLimits};
use pillarbox_wire::header::PbPos;
use pillarbox_wire::lsn::{Lsn, PgTimestamp, SystemId, TimelineId};
use pillarbox_wire::position::Epoch;

use crate::cluster::{BatchKey, CHECKPOINT};
use crate::wal::{self, DATA_PARTITIONS, Event, START, TOPIC, Written};

const NOW: Now = Now { monotonic: Duration::from_secs(100), unix_ms: 1_700_000_000_000 };
const PIPELINE: &str = "model";

/// What one partition gets in one Kafka transaction.
#[derive(Clone, Debug)]
pub(crate) enum Batch {
    /// Events, with the sequences that their headers carry.
    Events(Vec<(Event, u64)>),
    /// Records of the checkpoint, and the position among them.
    Checkpoint(Vec<(String, Vec<u8>)>, Box<PositionRecord>),
}

/// A sealed set: batches by partition, the checkpoint last.
pub(crate) type Set = Vec<(usize, BatchKey)>;

/// A relay from its start on, if nothing goes wrong.
#[derive(Debug)]
pub(crate) struct Life {
    /// In the order in which they are sealed.
    pub(crate) sets: Vec<Set>,
    /// What may be confirmed after as many commits.
    pub(crate) confirmed: Vec<Lsn>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LifeKey(u16);

/// All that was computed.
#[derive(Default)]
struct Known {
    batches: Vec<Arc<Batch>>,
    batch_keys: HashMap<String, BatchKey>,
    lives: Vec<Arc<Life>>,
    life_keys: HashMap<String, LifeKey>,
}

pub(crate) struct Lives {
    wal: &'static [Written],
    config: Config,
    known: Mutex<Known>,
    /// The batch of the checkpoint that `setup` wrote.
    pub(crate) first: BatchKey,
}

impl Lives {
    pub(crate) fn new(wal: &'static [Written], events_max: usize) -> Self {
        let config = config(Transaction { events_max, ..Transaction::default() });
        let mut lives = Self { wal, config, known: Mutex::default(), first: BatchKey(0) };
        lives.first = lives.checkpoint(&Delta::default(), &first_position());
        lives
    }

    pub(crate) fn batch(&self, key: BatchKey) -> Arc<Batch> {
        Arc::clone(&self.known().batches[usize::from(key.0)])
    }

    pub(crate) fn life(&self, key: LifeKey) -> Arc<Life> {
        Arc::clone(&self.known().lives[usize::from(key.0)])
    }

    /// The table that these batches of the checkpoint topic hold, by the relay's own reading.
    pub(crate) fn read(&self, committed: &[BatchKey]) -> Table {
        let mut table = Table::default();
        for key in committed {
            let batch = self.batch(*key);
            let Batch::Checkpoint(records, _) = &*batch else { panic!("events in the checkpoint topic") };
            for (key, value) in records {
                table.apply(key, Some(value)).expect("the relay reads what it writes");
            }
        }
        table
    }

    /// A relay that starts with this table, while the slot is confirmed here.
    ///
    /// # Errors
    /// The relay halts.
    pub(crate) fn start(&self, table: &Table, confirmed: Lsn) -> Result<LifeKey, Fault> {
        let position = table.position.as_ref().expect("setup wrote a position");
        judge(&facts(self.wal.len(), confirmed), position)?;
        Ok(self.live(table, table, confirmed))
    }

    /// The same without the filter: it forgets what the checkpoint covers.
    pub(crate) fn start_unfiltered(&self, table: &Table, confirmed: Lsn) -> LifeKey {
        let mut forgetful = table.clone();
        let position = forgetful.position.as_mut().expect("setup wrote a position");
        (position.commit_lsn, position.index, position.part) = (Lsn::ZERO, None, None);
        self.live(&forgetful, table, confirmed)
    }

    /// A checkpoint as of the slot: what was published up to there, and nothing about anything later.
    pub(crate) fn table_of_slot(&self, confirmed: Lsn) -> Table {
        let first = self.read(&[self.first]);
        let life = self.life(self.live(&first, &first, START));
        let commits = life.confirmed.iter().position(|lsn| *lsn >= confirmed);
        let commits = commits.expect("the slot is never ahead of WAL");
        let checkpoints = life.sets[..commits].iter().map(|set| set[set.len() - 1].1);
        self.read(&[self.first].into_iter().chain(checkpoints).collect::<Vec<_>>())
    }

    fn live(&self, resumed: &Table, written: &Table, from: Lsn) -> LifeKey {
        let name = format!("{from} {resumed:?}");
        if let Some(known) = self.known().life_keys.get(&name) {
            return *known;
        }
        let life = Arc::new(self.play(resumed, written, from));
        let mut known = self.known();
        let key = LifeKey(known.lives.len() as u16);
        known.lives.push(life);
        *known.life_keys.entry(name).or_insert(key)
    }

    /// Postgres sends what commits from `from` on; everything is sealed at once and committed in order.
    fn play(&self, resumed: &Table, written: &Table, from: Lsn) -> Life {
        let mut intake = Intake::new(&self.config, Epoch(1), resumed, vec![topic(resumed)], NOW);
        let mut position = written.position.clone().expect("setup wrote a position");
        let mut sealed = Vec::new();
        for (n, partitions) in self.wal.iter().enumerate().filter(|(n, _)| wal::commit_lsn(*n) >= from) {
            for frame in wal::frames(n, partitions) {
                while intake.take(&frame, PgTimestamp(0), NOW).expect("the model's frames are sound")
                    == Taken::Again
                {}
            }
            intake.flush(NOW);
            sealed.extend(intake.take_sealed());
        }
        let mut life = Life { sets: Vec::new(), confirmed: vec![intake.confirmed()] };
        for set in sealed {
            position = set.end.position(&position, NOW.unix_ms);
            life.sets.push(self.set(&set, &position));
            let SealedSet { end, bytes, .. } = set;
            intake.committed(CommittedSet { end, bytes, buffers: Vec::new() }, NOW);
            life.confirmed.push(intake.confirmed());
        }
        life
    }

    fn set(&self, sealed: &SealedSet, position: &PositionRecord) -> Set {
        let mut set: Set = Vec::new();
        for batch in &sealed.batches {
            let partition = usize::try_from(batch.partition).expect("partitions count from 0");
            let events = events(&batch.bytes);
            assert_eq!(events.len(), batch.records as usize, "every event has a position");
            set.push((partition, self.know(Batch::Events(events))));
        }
        set.push((CHECKPOINT, self.checkpoint(&sealed.delta, position)));
        set
    }

    fn checkpoint(&self, delta: &Delta, position: &PositionRecord) -> BatchKey {
        let mut records = Vec::new();
        encode(delta, position, |key, value| records.push((key.to_owned(), value.to_vec())));
        self.know(Batch::Checkpoint(records, Box::new(position.clone())))
    }

    fn know(&self, batch: Batch) -> BatchKey {
        let mut known = self.known();
        let next = BatchKey(known.batches.len() as u16);
        let name = format!("{batch:?}");
        let key = *known.batch_keys.entry(name).or_insert(next);
        if key == next {
            known.batches.push(Arc::new(batch));
        }
        key
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn config(transaction: Transaction) -> Config {
    let table = TableName { schema: "public".into(), name: "outbox".into() };
    Config {
        pipeline: PIPELINE.parse().expect("a legal name"),
        postgres: Postgres {
            host: "h".into(),
            port: 5432,
            user: "u".into(),
            password: None,
            database: "d".into(),
            slot: "s".into(),
            publication: "p".into(),
            tls: Default::default(),
            sql: None,
        },
        kafka: Kafka {
            brokers: vec![],
            compression: Compression::None,
            tls: None,
            sasl: None,
            topics: Topics::default(),
            transaction,
        },
        outbox: vec![Outbox::debezium(table)],
        messages: None,
    }
}

fn first_position() -> PositionRecord {
    PositionRecord {
        v: VERSION,
        epoch: 1,
        commit_lsn: Lsn::ZERO,
        commit_ms: None,
        index: None,
        part: None,
        resume_lsn: START,
        published_end_lsn: Lsn::ZERO,
        system_id: "7".into(),
        timeline: 1,
        lineage_nonce: None,
        slot: "s".into(),
        generation: String::new(),
        paused: false,
        snapshot_offset: None,
        at: 0,
    }
}

/// The one database there is, all of whose WAL is written.
fn facts(transactions: usize, confirmed: Lsn) -> SourceFacts {
    SourceFacts {
        system_id: SystemId(7),
        timeline: TimelineId(1),
        wal_position: wal::end_lsn(transactions),
        history: Vec::new(),
        confirmed_flush_lsn: confirmed,
        lineage: None,
    }
}

/// The topic with events, recorded or not yet.
fn topic(table: &Table) -> Topic {
    let record = table.topics.get(TOPIC);
    Topic {
        name: TOPIC.into(),
        id: Uuid::nil(),
        partitions: DATA_PARTITIONS as u32,
        first_slot: record.map_or(0, |record| record.first_slot),
        recorded: record.is_some(),
        limits: TopicLimits {
            batch_bytes_max: 100_000,
            retention_ms: None,
            before_max_ms: i64::MAX,
            after_max_ms: i64::MAX,
            compacted: false,
        },
    }
}

/// The `pb-pos` headers of a record batch: each stands behind its length, a varint of one byte.
fn events(batch: &[u8]) -> Vec<(Event, u64)> {
    let begins = format!("{PIPELINE}:");
    let starts = batch.windows(begins.len()).enumerate().filter(|(_, window)| *window == begins.as_bytes());
    let event = |(start, _): (usize, &[u8])| {
        let length = usize::from(batch[start - 1] / 2);
        let text = std::str::from_utf8(&batch[start..start + length]).expect("the header is text");
        let PbPos { position, sequence, .. } = PbPos::parse(text).expect("the header is well formed");
        (Event { commit_lsn: position.commit_lsn, index: position.index }, sequence.0)
    };
    starts.map(event).collect()
}
