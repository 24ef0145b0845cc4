//! The model Postgres: WAL in the order of commits, apart from it what queries see; a slot; walsenders; a standby that
//! follows.
//!
//! ```text
//!  write -> inserted -> flushed -> streamed        what a walsender sends
//!                          |  \--> replicated      what a promotion keeps
//!                          +-----> visible         what SQL sees: later, if commits wait for a standby
//! ```
//! | event | WAL | slot |
//! | --- | --- | --- |
//! | crash | cut to what was flushed | falls back to what was persisted |
//! | restart | as it is | as it is |
//! | promotion | cut to what was replicated, a new timeline | as it was synchronized last |
//!
//! Must never send what was not flushed, and never a transaction that commits before the confirmed position.

use std::rc::Rc;
use std::time::Duration;

use pillarbox_relay::position::lineage::SourceFacts;
use pillarbox_wire::lsn::{Lsn, SystemId, TimelineId};

use crate::frames;
use crate::scenario::{PIPELINE, Scenario};

/// Wall clock at the beginning of a run, milliseconds since 1970.
pub(crate) const EPOCH_MS: i64 = 1_700_000_000_000;
/// Microseconds from 1970 to 2000, where Postgres counts from.
const PG_EPOCH_MICROS: i64 = 946_684_800_000_000;
/// Where WAL begins.
pub(crate) const START: Lsn = Lsn(0x1000);
/// A commit record.
const COMMIT_BYTES: u64 = 48;

/// What recovery writes at its end.
const RECOVERY_BYTES: u64 = 112;

/// An event, as its writer knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventId {
    pub(crate) transaction: u64,
    pub(crate) ordinal: u32,
}

impl EventId {
    pub(crate) fn payload(self) -> String {
        format!("{{\"t\": {}, \"e\": {}}}", self.transaction, self.ordinal)
    }

    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok()?;
        let (transaction, ordinal) =
            text.strip_prefix("{\"t\": ")?.strip_suffix('}')?.split_once(", \"e\": ")?;
        Some(Self { transaction: transaction.parse().ok()?, ordinal: ordinal.parse().ok()? })
    }
}

/// What a partition must hold, in this order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) id: EventId,
    pub(crate) commit_lsn: Lsn,
    pub(crate) end_lsn: Lsn,
    pub(crate) index: u32,
    /// Events of its transaction.
    pub(crate) of: usize,
}

/// A change that a transaction makes.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// An outbox row: topic, key.
    Event(usize, u32),
    /// A row of another table: counted, no event.
    Row,
    Lineage(String),
}

#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) commit_lsn: Lsn,
    pub(crate) end_lsn: Lsn,
    pub(crate) frames: Vec<Rc<[u8]>>,
}

#[derive(Debug)]
pub(crate) struct Nonce {
    pub(crate) sequence: i64,
    pub(crate) text: String,
    end_lsn: Lsn,
    pub(crate) written_at: Duration,
    pub(crate) visible: bool,
}

/// A walsender with the slot.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) number: u64,
    /// Whom it serves.
    pub(crate) era: u64,
    /// The next transaction, and the next frame in it.
    next: usize,
    frame: usize,
    pub(crate) sent: Lsn,
    pub(crate) replied_at: Duration,
    pub(crate) replies: u64,
    /// Parcels that were not taken yet.
    pub(crate) outstanding: u32,
    /// When the last parcel arrives.
    pub(crate) arrives: Duration,
    relations: bool,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) confirmed: Lsn,
    pub(crate) persisted: Lsn,
    pub(crate) session: Option<Session>,
}

#[derive(Debug)]
pub(crate) struct Postgres {
    pub(crate) wal: Vec<Transaction>,
    pub(crate) inserted: Lsn,
    pub(crate) flushed: Lsn,
    /// What the standby has, and where its copy of the slot stands.
    pub(crate) replicated: Lsn,
    pub(crate) synchronized: Lsn,
    pub(crate) timeline: u32,
    pub(crate) history: Vec<(TimelineId, Lsn)>,
    pub(crate) slot: Slot,
    /// Down until then.
    pub(crate) up_at: Duration,
    /// How often it went down: no session outlives that.
    pub(crate) downs: u64,
    /// Commits that wait for a standby are not visible before.
    pub(crate) stalled_until: Duration,
    pub(crate) nonces: Vec<Nonce>,
    pub(crate) expected: Vec<Vec<Expected>>,
    next_number: u64,
    next_session: u64,
    /// A walsender sends only what the standby has.
    holds_for_standby: bool,
}

/// A piece of the stream.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Data(Rc<[u8]>, i64),
    Keepalive {
        wal_end: Lsn,
        asked: bool,
    },
    /// The server ends the stream, or the connection breaks.
    End,
}

/// Frames in one parcel.
const PARCEL_FRAMES: usize = 12;
/// Parcels under way: what fits into socket buffers.
const PARCELS_MAX: u32 = 3;

impl Postgres {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            wal: Vec::new(),
            inserted: START,
            flushed: START,
            replicated: START,
            synchronized: START,
            timeline: 1,
            history: Vec::new(),
            slot: Slot { confirmed: START, persisted: START, session: None },
            up_at: Duration::ZERO,
            downs: 0,
            stalled_until: Duration::ZERO,
            nonces: Vec::new(),
            expected: vec![Vec::new(); scenario.partitions()],
            next_number: 1,
            next_session: 1,
            holds_for_standby: scenario.holds_for_standby,
        }
    }

    /// Commits a transaction with these changes; `gap`: bytes of WAL before its commit record.
    pub(crate) fn write(&mut self, scenario: &Scenario, changes: &[Change], gap: u64, now: Duration) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let commit_lsn = Lsn(self.inserted.0 + gap);
        let end_lsn = Lsn(commit_lsn.0 + COMMIT_BYTES);
        let commit_micros = EPOCH_MS * 1000 - PG_EPOCH_MICROS + now.as_micros() as i64;
        let of = changes.iter().filter(|change| matches!(change, Change::Event(..))).count();
        let mut frames: Vec<Rc<[u8]>> = vec![frames::begin(commit_lsn, commit_micros).into()];
        for (index, change) in changes.iter().enumerate() {
            frames.push(match change {
                Change::Event(topic, key) => {
                    let id = EventId { transaction: number, ordinal: index as u32 };
                    let key = scenario.key(*key);
                    let partition = scenario.partition(*topic, &key);
                    let index = index as u32;
                    self.expected[partition].push(Expected { id, commit_lsn, end_lsn, index, of });
                    let aggregate = scenario.aggregate(*topic);
                    frames::event(&format!("{number}-{index}"), &aggregate, &key, &id.payload()).into()
                }
                Change::Row => frames::row().into(),
                Change::Lineage(nonce) => {
                    let content = format!("{PIPELINE}:{nonce}");
                    frames::message(self.inserted, pillarbox_relay::sql::LINEAGE_PREFIX, &content).into()
                }
            });
        }
        frames.push(frames::commit(commit_lsn, end_lsn, commit_micros).into());
        self.inserted = end_lsn;
        self.wal.push(Transaction { commit_lsn, end_lsn, frames });
        number
    }

    /// WAL of no interest to anybody.
    pub(crate) fn write_noise(&mut self, bytes: u64) {
        self.inserted = Lsn(self.inserted.0 + bytes);
    }

    /// A new nonce in WAL; it is not visible yet. None while another one is being written.
    pub(crate) fn advance_lineage(&mut self, scenario: &Scenario, salt: u64, now: Duration) -> Option<usize> {
        if self.nonces.last().is_some_and(|nonce| !nonce.visible) {
            return None;
        }
        let sequence = self.nonces.last().map_or(1, |nonce| nonce.sequence + 1);
        let text = format!("{sequence}-{salt:016x}");
        self.write(scenario, &[Change::Lineage(text.clone())], 128, now);
        self.nonces.push(Nonce { sequence, text, end_lsn: self.inserted, written_at: now, visible: false });
        Some(self.nonces.len() - 1)
    }

    pub(crate) fn is_up(&self, now: Duration) -> bool {
        self.up_at <= now
    }

    /// What SQL says.
    pub(crate) fn facts(&self) -> SourceFacts {
        let lineage = self.nonces.iter().rev().find(|nonce| nonce.visible);
        SourceFacts {
            system_id: SystemId(7),
            timeline: TimelineId(self.timeline),
            wal_position: self.flushed,
            history: self.history.clone(),
            confirmed_flush_lsn: self.slot.confirmed,
            lineage: lineage.map(|nonce| (nonce.sequence, nonce.text.clone())),
        }
    }

    /// START_REPLICATION. None: another client streams.
    pub(crate) fn start_replication(&mut self, era: u64, now: Duration) -> Option<u64> {
        if self.slot.session.is_some() {
            return None;
        }
        let from = self.slot.confirmed;
        let number = self.next_session;
        self.next_session += 1;
        self.slot.session = Some(Session {
            number,
            era,
            next: self.wal.partition_point(|transaction| transaction.commit_lsn < from),
            frame: 0,
            sent: from,
            replied_at: now,
            replies: 0,
            outstanding: 0,
            arrives: now,
            relations: false,
        });
        Some(number)
    }

    pub(crate) fn session(&mut self, number: u64) -> Option<&mut Session> {
        self.slot.session.as_mut().filter(|session| session.number == number)
    }

    /// A standby status update. Gives the former confirmed position where it moved.
    pub(crate) fn status(&mut self, session: u64, flushed: Lsn, now: Duration) -> Option<Lsn> {
        let session = self.session(session)?;
        session.replied_at = now;
        session.replies += 1;
        let before = self.slot.confirmed;
        (flushed > before).then(|| {
            self.slot.confirmed = flushed;
            before
        })
    }

    /// How far walsenders send.
    fn limit(&self) -> Lsn {
        if self.holds_for_standby { self.flushed.min(self.replicated) } else { self.flushed }
    }

    /// What the walsender sends next, if anything.
    pub(crate) fn parcel(&mut self, now: Duration) -> Option<Vec<Piece>> {
        let limit = self.limit();
        let sent_at = EPOCH_MS * 1000 - PG_EPOCH_MICROS + now.as_micros() as i64;
        let session = self.slot.session.as_mut()?;
        if session.outstanding >= PARCELS_MAX {
            return None;
        }
        let mut pieces = Vec::new();
        if !session.relations && self.wal.get(session.next).is_some_and(|next| next.end_lsn <= limit) {
            session.relations = true;
            pieces
                .extend([frames::outbox(), frames::other()].map(|frame| Piece::Data(frame.into(), sent_at)));
        }
        while pieces.len() < PARCEL_FRAMES {
            let Some(transaction) = self.wal.get(session.next).filter(|next| next.end_lsn <= limit) else {
                break;
            };
            pieces.push(Piece::Data(Rc::clone(&transaction.frames[session.frame]), sent_at));
            session.frame += 1;
            if session.frame == transaction.frames.len() {
                session.frame = 0;
                session.next += 1;
                session.sent = transaction.end_lsn;
            }
        }
        if pieces.is_empty() {
            return None;
        }
        session.outstanding += 1;
        Some(pieces)
    }

    /// A keepalive: everything before its position was sent.
    pub(crate) fn keepalive(&mut self, asked: bool) -> Option<Piece> {
        let limit = self.limit();
        let session = self.slot.session.as_mut()?;
        let caught_up =
            session.frame == 0 && self.wal.get(session.next).is_none_or(|next| next.end_lsn > limit);
        if caught_up {
            session.sent = session.sent.max(limit);
        }
        Some(Piece::Keepalive { wal_end: session.sent, asked })
    }

    /// Cuts WAL to `end`: what lies behind never happened.
    fn cut(&mut self, end: Lsn) {
        self.wal.retain(|transaction| transaction.end_lsn <= end);
        self.nonces.retain(|nonce| nonce.end_lsn <= end);
        for nonce in &mut self.nonces {
            nonce.visible = true;
        }
        for expected in &mut self.expected {
            expected.retain(|event| event.end_lsn <= end);
        }
        (self.inserted, self.flushed) = (end, end);
        self.slot.session = None;
    }

    /// Recovery ends with a record of its own: no transaction commits exactly there.
    fn end_recovery(&mut self) {
        self.inserted = Lsn(self.inserted.0 + RECOVERY_BYTES);
        self.flushed = self.inserted;
    }

    fn go_down(&mut self, up_at: Duration) {
        self.up_at = up_at;
        self.downs += 1;
    }

    /// kill -9 of the server: comes back at `up_at`.
    pub(crate) fn crash(&mut self, up_at: Duration) {
        self.cut(self.flushed);
        self.end_recovery();
        self.slot.confirmed = self.slot.persisted;
        self.go_down(up_at);
    }

    /// A clean restart.
    pub(crate) fn restart(&mut self, up_at: Duration) {
        self.flushed = self.inserted;
        self.cut(self.flushed);
        self.slot.persisted = self.slot.confirmed;
        self.go_down(up_at);
    }

    /// The standby takes over with what it has. Gives the fork.
    pub(crate) fn promote(&mut self, up_at: Duration) -> Lsn {
        let fork = self.replicated;
        self.cut(fork);
        self.end_recovery();
        self.history.push((TimelineId(self.timeline), fork));
        self.timeline += 1;
        self.slot.confirmed = self.synchronized;
        self.slot.persisted = self.synchronized;
        self.go_down(up_at);
        fork
    }

    /// The standby receives what was flushed up to `lsn`, in whole records.
    pub(crate) fn replicate(&mut self, lsn: Lsn) {
        if lsn > self.flushed {
            return;
        }
        self.replicated = self.replicated.max(lsn);
    }

    /// The standby's copy of the slot follows, as far as the standby has the WAL.
    pub(crate) fn synchronize_slot(&mut self) {
        if self.slot.confirmed <= self.replicated {
            self.synchronized = self.synchronized.max(self.slot.confirmed);
        }
    }
}
