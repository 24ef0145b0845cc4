//! The relay's own code from frames to stamped batches, in the order of its reader and of its sink.
//!
//! A set is stamped where the sink would send it, and committed at once. Never looks at a clock.

use std::sync::Arc;
use std::time::Duration;

use pillarbox_relay::config::{
    Compression, Config, Kafka, Outbox, Postgres, PostgresTls, TableName, Topics, Transaction,
};
use pillarbox_relay::pipeline::arrivals::Arrivals;
use pillarbox_relay::pipeline::intake::{CommittedSet, Intake, Now, Taken};
use pillarbox_relay::position::checkpoint::{PositionRecord, Table, VERSION};
use pillarbox_relay::route::{Topic, TopicLimits};
use pillarbox_relay::source::{Frame, Frames};
use pillarbox_wire::lsn::Lsn;
use pillarbox_wire::position::Epoch;
use pillarbox_wire::record_batch::{ProducerIdentity, record_count, stamp};

use crate::traffic::SENT_AT;

/// Frames taken before the clock is looked at again, as in the reader.
const FRAMES_PER_LOOK: usize = 64;
/// Partitions of the topic.
const PARTITIONS: u32 = 12;
/// Time that passes with each look: some 300,000 events a second.
const LOOK: Duration = Duration::from_micros(200);
/// The wall clock: when the traffic is sent.
const UNIX_MS: i64 = SENT_AT / 1000 + 946_684_800_000;
const IDENTITY: ProducerIdentity = ProducerIdentity { producer_id: 4711, producer_epoch: 3 };

/// See the module.
pub(crate) struct Relay {
    frames: Frames,
    intake: Intake,
    now: Now,
    committed: usize,
}

impl Relay {
    pub(crate) fn new() -> Self {
        let now = Now { monotonic: Duration::from_secs(100), unix_ms: UNIX_MS };
        let mut intake = Intake::new(&config(), Epoch(1), &first(), vec![topic()], now);
        intake.note_ids(Arc::new(Arrivals::new("orders")));
        Self { frames: Frames::new(), intake, now, committed: 0 }
    }

    /// Events that were committed.
    pub(crate) fn committed(&self) -> usize {
        self.committed
    }

    /// Receives bytes as if from a socket; gives how many.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> usize {
        let received = self.frames.receive(bytes);
        assert!(received > 0, "frames are taken before more is received");
        self.intake.heat(received, self.now);
        received
    }

    /// Does all that the received bytes ask for.
    pub(crate) fn take_all(&mut self) {
        while self.look() {
            self.settle();
        }
    }

    fn look(&mut self) -> bool {
        self.now.monotonic += LOOK;
        for taken in 0..FRAMES_PER_LOOK {
            if self.intake.is_full() {
                return true;
            }
            match self.frames.next().expect("well formed") {
                Some(Frame::XLogData { data, sent_at, .. }) => {
                    let taken = self.intake.take(data, sent_at, self.now).expect("a legal row");
                    assert_eq!(taken, Taken::Done);
                }
                Some(_) => {}
                None => return taken > 0,
            }
        }
        true
    }

    fn settle(&mut self) {
        self.intake.pace(self.now);
        for set in self.intake.take_sealed() {
            self.committed += set.events;
            let mut buffers = Vec::with_capacity(set.batches.len());
            for mut batch in set.batches {
                stamp(&mut batch.bytes, IDENTITY, 0);
                assert!(record_count(&batch.bytes) > 0);
                buffers.push(Vec::from(batch.bytes));
            }
            self.intake.committed(CommittedSet { end: set.end, bytes: set.bytes, buffers }, self.now);
        }
    }
}

fn config() -> Config {
    let table = TableName { schema: "public".into(), name: "outbox".into() };
    Config {
        pipeline: "orders".parse().expect("a legal name"),
        postgres: Postgres {
            host: "nowhere".into(),
            port: 5432,
            user: "u".into(),
            password: None,
            database: "d".into(),
            slot: "pillarbox_orders".into(),
            publication: "pillarbox_orders".into(),
            tls: PostgresTls::default(),
            sql: None,
        },
        kafka: Kafka {
            brokers: Vec::new(),
            compression: Compression::None,
            tls: None,
            sasl: None,
            topics: Topics::default(),
            transaction: Transaction::default(),
        },
        outbox: vec![Outbox::debezium(table)],
        messages: None,
    }
}

/// The checkpoint of a pipeline that was set up and has published nothing.
fn first() -> Table {
    let position = PositionRecord {
        v: VERSION,
        epoch: 1,
        commit_lsn: Lsn::ZERO,
        commit_ms: None,
        index: None,
        part: None,
        resume_lsn: Lsn(10),
        published_end_lsn: Lsn::ZERO,
        system_id: "1".into(),
        timeline: 1,
        lineage_nonce: None,
        slot: "pillarbox_orders".into(),
        generation: String::new(),
        paused: false,
        snapshot_offset: None,
        at: 0,
    };
    Table { position: Some(position), ..Table::default() }
}

fn topic() -> Topic {
    let limits = TopicLimits {
        batch_bytes_max: 1_048_588,
        retention_ms: Some(7 * 24 * 3_600_000),
        before_max_ms: i64::MAX,
        after_max_ms: 3_600_000,
        compacted: false,
    };
    let name = "outbox.event.order".into();
    Topic { name, id: uuid::Uuid::nil(), partitions: PARTITIONS, first_slot: 0, recorded: false, limits }
}
