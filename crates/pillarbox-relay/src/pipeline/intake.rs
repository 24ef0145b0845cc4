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

mod fault;
mod fill;
mod letters;
mod record;
mod repin;
mod set;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use pillarbox_failpoint::{Step, hit};
use pillarbox_wire::lsn::{Lsn, PgTimestamp};
use pillarbox_wire::position::Epoch;

use self::fault::{decode_fault, message_fault, outbox_fault, update_fault};
use self::fill::Fill;
pub use self::letters::LettersSeen;
pub use self::set::{CommittedSet, SealedSet, SetEnd};
use super::arrivals::Arrivals;
use super::pace::Due;
use crate::config::{Config, Updates};
use crate::dead_letters::order;
use crate::decode::{Change, Decoder, Note, Row, Transaction};
use crate::error::Fault;
use crate::outbox::{Extractor, MessageReader, OwnHeaders};
use crate::position::checkpoint::Table;
use crate::position::filter::Covered;
use crate::position::recognition::Recognition;
use crate::repartition;
use crate::route::{Topic, WantedTopic};

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
    NeedsTopic(WantedTopic),
}

/// Updates of outbox rows, which give no events: an outbox is written once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpdatesSeen {
    /// Those that deserve a warning.
    pub warnings: u64,
    /// Those that deserve an error.
    pub errors: u64,
}

/// See the module.
pub struct Intake {
    decoder: Decoder,
    extractor: Extractor,
    messages: Option<MessageReader>,
    strays: u64,
    covered: Covered,
    recognition: Recognition,
    fill: Fill,
    updates: UpdatesSeen,
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
            extractor: Extractor::new(config.sources()),
            messages: config.messages.clone().map(MessageReader::new),
            strays: 0,
            covered: position.covered(),
            recognition: Recognition::NOTHING,
            fill: Fill::new(config, epoch, table, topics, now),
            updates: UpdatesSeen::default(),
        }
    }

    /// The stream must show that it is of the history that was published.
    pub fn recognise(&mut self, recognition: Recognition) {
        self.recognition = recognition;
    }

    /// The transaction that commits at `commit_lsn` holds an event that could not be published: it
    /// must not share a set with those before it.
    pub fn settle_before(&mut self, commit_lsn: Lsn) {
        self.fill.settle_before = Some(commit_lsn);
    }

    /// From now on the ids of events are noted there.
    pub fn note_ids(&mut self, arrivals: Arc<Arrivals>) {
        self.fill.arrivals = Some(arrivals);
    }

    /// Commit LSN of the transaction that the stream is in.
    pub fn open_commit_lsn(&self) -> Option<Lsn> {
        self.decoder.transaction().map(|transaction| transaction.commit_lsn)
    }

    /// Where the next row stands, in words: for a frame that cannot even be received.
    pub fn next_place(&self) -> Option<String> {
        let (transaction, index) = self.decoder.next_change()?;
        Some(format!("row {index} of the transaction at {}", transaction.commit_lsn))
    }

    /// Takes the payload of an XLogData frame, sent at `sent_at` by the server's clock.
    ///
    /// # Errors
    /// A fault that names the row; nothing of the frame was taken.
    pub fn take(&mut self, data: &[u8], sent_at: PgTimestamp, now: Now) -> Result<Taken, Fault> {
        let taken = match self.decoder.decode(data).map_err(decode_fault)? {
            // Not counted: places in a transaction are the same whatever filter it was decoded with.
            Change::Insert(row)
                if !self.covered.covers(row.transaction.commit_lsn, u32::MAX)
                    && self
                        .extractor
                        .is_foreign(&row)
                        .map_err(|error| outbox_fault(&error, row.transaction, row.index))? =>
            {
                return Ok(Taken::Done);
            }
            Change::Insert(row) if self.covered.covers(row.transaction.commit_lsn, row.index) => Taken::Done,
            Change::Insert(row) => {
                let taken = take_row(&mut self.extractor, &mut self.fill, &row, OwnHeaders::default(), now);
                taken.or_else(|fault| self.fill.refuse(&row, fault, now))?
            }
            Change::Message(note) => {
                let messages = &mut self.messages;
                take_message(messages, &mut self.extractor, &mut self.fill, self.covered, &note, now)?
            }
            Change::Update { transaction, index, relation } => {
                let covered = self.covered.covers(transaction.commit_lsn, index);
                match self.extractor.on_update(relation).filter(|_| !covered) {
                    Some(Updates::Stop) => return Err(update_fault(relation, transaction, index)),
                    Some(Updates::Warn) => self.updates.warnings += 1,
                    Some(Updates::Error) => self.updates.errors += 1,
                    None => {}
                }
                Taken::Done
            }
            Change::Passed => Taken::Done,
            Change::Begin => {
                let transaction = self.decoder.transaction();
                if let Some(Transaction { commit_lsn, commit_time }) = transaction {
                    self.recognition.transaction(commit_lsn, commit_time.to_unix_millis())?;
                }
                self.fill.begin(transaction, sent_at, now);
                return Ok(Taken::Done);
            }
            Change::Commit(committed) => {
                self.fill.commit(committed, now);
                return Ok(Taken::Done);
            }
            Change::Stray { prefix } => {
                let ours = self.messages.as_ref().is_some_and(|messages| messages.is_event(prefix));
                self.strays += u64::from(ours);
                return Ok(Taken::Done);
            }
            Change::Nothing => return Ok(Taken::Done),
        };
        if taken == Taken::Done {
            hit(Step::Decoded);
            self.decoder.advance().map_err(decode_fault)?;
        }
        Ok(taken)
    }

    /// The database has a new lineage nonce: the next checkpoint carries it.
    pub fn lineage(&mut self, nonce: String, now: Now) {
        self.fill.lineage(nonce, now);
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
    ///
    /// # Errors
    /// It is of another history than what was published.
    pub fn keepalive(&mut self, wal_end: Lsn, asked: bool) -> Result<(), Fault> {
        self.recognition.reached(wal_end)?;
        self.fill.ledger.keepalive(wal_end, asked);
        Ok(())
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
        // In another history it would be a gap.
        if self.recognition.is_pending() { Lsn::ZERO } else { self.fill.ledger.confirmed() }
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

    /// Rows that went to dead letters so far.
    pub fn letters(&self) -> &LettersSeen {
        &self.fill.letters.seen
    }

    /// Updates of outbox rows so far.
    pub fn updates(&self) -> UpdatesSeen {
        self.updates
    }

    /// Rows of other shards so far.
    pub fn foreign(&self) -> u64 {
        self.extractor.foreign()
    }

    /// Messages that would be events had they been written in a transaction.
    pub fn strays(&self) -> u64 {
        self.strays
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

/// A message: an order, an event, the lineage, or nothing of ours.
fn take_message(
    messages: &mut Option<MessageReader>,
    extractor: &mut Extractor,
    fill: &mut Fill,
    covered: Covered,
    note: &Note<'_>,
    now: Now,
) -> Result<Taken, Fault> {
    let event = messages.as_ref().is_some_and(|messages| messages.is_event(note.prefix));
    if !event && ![order::PREFIX, repartition::PREFIX].contains(&note.prefix) {
        fill.take_lineage(note.prefix, note.content);
        return Ok(Taken::Done);
    }
    if covered.covers(note.transaction.commit_lsn, note.index) {
        return Ok(Taken::Done);
    }
    match (note.prefix, messages) {
        (order::PREFIX, messages) => fill.take_order(extractor, messages.as_mut(), note, now),
        (repartition::PREFIX, _) => Ok(fill.take_repartition(note, now)),
        (_, Some(messages)) => {
            let taken = take_note(messages, extractor, fill, note, now);
            taken.or_else(|fault| fill.refuse_message(note, fault, now))
        }
        (_, None) => Ok(Taken::Done),
    }
}

/// A message that is an event.
fn take_note(
    messages: &mut MessageReader,
    extractor: &mut Extractor,
    fill: &mut Fill,
    note: &Note<'_>,
    now: Now,
) -> Result<Taken, Fault> {
    let (row, own_headers) = messages.read(note).map_err(|error| message_fault(&error, note))?;
    take_row(extractor, fill, &row, own_headers, now)
}

/// A row, of a table or made of a message, on its way into the set; takes nothing of another table.
fn take_row<'a>(
    extractor: &'a mut Extractor,
    fill: &mut Fill,
    row: &Row<'a>,
    own_headers: OwnHeaders<'a>,
    now: Now,
) -> Result<Taken, Fault> {
    let extracted = extractor.extract(row);
    match extracted.map_err(|error| outbox_fault(&error, row.transaction, row.index))? {
        Some(event) => fill.take_event(&event, row, own_headers, None, now),
        None => Ok(Taken::Done),
    }
}
