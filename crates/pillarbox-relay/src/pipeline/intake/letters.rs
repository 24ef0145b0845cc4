//! Rows that can never be published, and the orders of those who look after them: what `dead_letters`
//! is about, as far as it goes through the stream.
//!
//! | comes | goes into the set |
//! | --- | --- |
//! | a row that is refused, its table says `dead_letter` | the letter, all its chunks |
//! | a message that is refused, `messages` say so | the same, its content as it is |
//! | an order to replay | the event and a verdict; refused again, the verdict alone |
//! | an order to discard | a verdict |
//! | an order to flush | nothing; the set is sealed at the boundary |
//!
//! What belongs together goes into one set, so into one Kafka transaction with the checkpoint.
//! Pure.

use pillarbox_failpoint::{Step, hit};
use pillarbox_wire::header::{self, PbPos};
use pillarbox_wire::pgoutput::{Column, Tuple};
use pillarbox_wire::position::{Position, Sequence};
use pillarbox_wire::record_batch::{BATCH_HEADER_LEN, Header};

use super::fault::{message_fault, outbox_fault};
use super::fill::Fill;
use super::record::{RecordTime, record_time};
use super::{Now, Taken};
use crate::batch::{BatchSet, Content, Record};
use crate::config::{Config, OnError, Outbox};
use crate::dead_letters::letter::{Head, VERDICT_BYTES_MAX, Verdict, cause};
use crate::dead_letters::order::{Order, Shape};
use crate::decode::{Note, Row, Transaction};
use crate::error::{Class, Code, Fault};
use crate::outbox::{self, Extractor, MessageReader, OwnHeaders};
use crate::route::{Destination, TopicLimits};

/// A letter's record is at most this large even where the topic takes more.
const CHUNK_BATCH_BYTES_MAX: usize = 1 << 20;
/// A chunk smaller than this is not worth a record.
const CHUNK_BYTES_MIN: usize = 256;
/// What length fields of a record may add once its value is known, and digits of a chunk's number.
const SLACK_BYTES: usize = 48;

/// Rows that went to dead letters, and orders that came to nothing, since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LettersSeen {
    /// Rows.
    pub letters: u64,
    /// Why the last of them did.
    pub last: Option<Fault>,
    /// Orders that could not be understood.
    pub strange: u64,
}

/// What the filling set has to do with dead letters.
pub(super) struct Letters {
    pub(super) topic: String,
    /// The tables whose rows may become letters.
    outboxes: Vec<Outbox>,
    /// Whether messages may.
    messages: bool,
    pub(super) seen: LettersSeen,
    /// Letters in the filling set.
    pub(super) in_set: usize,
    /// Their records and those of verdicts, which are no events.
    pub(super) records_in_set: usize,
}

impl Letters {
    pub(super) fn new(config: &Config) -> Self {
        let outboxes = config.outbox.iter().filter(|outbox| outbox.on_error == OnError::DeadLetter);
        Self {
            topic: config.dead_letter_topic(),
            outboxes: outboxes.cloned().collect(),
            messages: config
                .messages
                .as_ref()
                .is_some_and(|messages| messages.outbox.on_error == OnError::DeadLetter),
            seen: LettersSeen::default(),
            in_set: 0,
            records_in_set: 0,
        }
    }

    fn outbox(&self, row: &Row<'_>) -> Option<&Outbox> {
        let (schema, name) = (&row.relation.schema, &row.relation.name);
        self.outboxes.iter().find(|outbox| outbox.table.schema == *schema && outbox.table.name == *name)
    }
}

/// Where a record of a letter goes, and what is the same for all records of one change.
#[derive(Clone, Copy)]
struct Desk {
    to: Destination,
    limits: TopicLimits,
    position: Position,
    time: RecordTime,
}

/// An order's verdict, before it is written.
struct Sentence<'a> {
    letter: &'a str,
    verdict: Verdict,
    fault: Option<&'a Fault>,
}

impl Fill {
    /// A row was refused: a letter, or the fault where its table stops the pipeline.
    pub(super) fn refuse(&mut self, row: &Row<'_>, fault: Fault, now: Now) -> Result<Taken, Fault> {
        let Some(outbox) = self.letters.outbox(row).filter(|_| fault.class() == Class::Reject) else {
            return Err(fault);
        };
        let id = id_of(row, outbox);
        self.keep(row, id, fault, now)
    }

    /// A message was refused: a letter with its content, or the fault.
    pub(super) fn refuse_message(&mut self, note: &Note<'_>, fault: Fault, now: Now) -> Result<Taken, Fault> {
        if !self.letters.messages || fault.class() != Class::Reject {
            return Err(fault);
        }
        let relation = Shape::message(note.prefix).description();
        let row = one_column(note.content);
        let (tuple, _) = Tuple::decode(&row).expect("a row of one column");
        let Note { transaction, index, .. } = *note;
        let row = Row { transaction, index, relation: &relation, tuple };
        let id = outbox::emitted_id(note.content);
        self.keep(&row, id.as_deref().map(str::as_bytes), fault, now)
    }

    /// Writes the letter.
    fn keep(&mut self, row: &Row<'_>, id: Option<&[u8]>, fault: Fault, now: Now) -> Result<Taken, Fault> {
        let head = Head::new(row, &fault, id);
        let Some(desk) = self.desk(row.transaction, row.index, now) else { return Ok(self.needs_desk()) };
        let bytes = row.tuple.as_bytes();
        let (overhead, chunk_bytes) = chunk_bytes(&desk, &head)?;
        let chunks = bytes.len().div_ceil(chunk_bytes).max(1);
        let whole = bytes.len() + chunks * overhead;
        let open = self.open.unwrap_or_default();
        if self.splits(open, whole) {
            return Ok(self.split(now));
        }
        if !self.has_room(whole) {
            return Ok(Taken::NeedsRoom);
        }
        let mut rest = bytes;
        for number in 1..=chunks {
            let (chunk, tail) = rest.split_at(rest.len().min(chunk_bytes));
            rest = tail;
            let place = format!("{number}/{chunks}");
            let mut headers = vec![Header { name: header::PB_CHUNK, value: Some(place.as_bytes()) }];
            if number == 1 {
                headers.extend(head.headers());
            }
            self.append_letter(&desk, &headers, Some(chunk), now)?;
        }
        self.letters.in_set += 1;
        self.letters.seen.letters += 1;
        self.letters.seen.last = Some(fault);
        hit(Step::LetterTaken);
        Ok(Taken::Done)
    }

    /// An order from those who look after dead letters.
    pub(super) fn take_order(
        &mut self,
        extractor: &mut Extractor,
        messages: Option<&mut MessageReader>,
        note: &Note<'_>,
        now: Now,
    ) -> Result<Taken, Fault> {
        // Whoever may write messages could order what nobody configured.
        if self.letters.outboxes.is_empty()
            && !self.letters.messages
            && !self.router.knows(&self.letters.topic)
        {
            return Ok(Taken::Done);
        }
        let order = match Order::parse(note.content, &self.pipeline) {
            Ok(Some(order)) => order,
            Ok(None) => return Ok(Taken::Done),
            Err(_) => {
                self.letters.seen.strange += 1;
                return Ok(Taken::Done);
            }
        };
        match order {
            Order::Flush => {
                self.since.get_or_insert(now.monotonic);
                Ok(Taken::Done)
            }
            Order::Discard { letter } => {
                let sentence = Sentence { letter: &letter, verdict: Verdict::Discarded, fault: None };
                self.take_verdict(note, &sentence, now)
            }
            Order::Replay { letter, shape, tuple } => {
                let relation = shape.description();
                let Note { transaction, index, .. } = *note;
                let row = Row { transaction, index, relation: &relation, tuple };
                if self.desk(transaction, index, now).is_none() {
                    return Ok(self.needs_desk());
                }
                let taken = if shape.is_message() {
                    self.replay_message(extractor, messages, &row, &letter, now)
                } else {
                    self.replay(extractor, &row, OwnHeaders::default(), &letter, now)
                };
                self.judge(taken, note, &letter, now)
            }
        }
    }

    fn replay(
        &mut self,
        extractor: &mut Extractor,
        row: &Row<'_>,
        own_headers: OwnHeaders<'_>,
        letter: &str,
        now: Now,
    ) -> Result<Taken, Fault> {
        match extractor.extract_once(row) {
            Ok(Some(event)) => {
                let replayed = Replayed { letter, verdict_bytes: VERDICT_BYTES_MAX };
                self.take_event(&event, row, own_headers, Some(replayed), now)
            }
            Ok(None) => {
                let name = Shape::new(row.relation).name();
                let message = format!("{name} is no outbox of this pipeline any more");
                Err(Fault::new(Code::TableMissing, message))
            }
            Err(error) => Err(outbox_fault(&error, row.transaction, row.index)),
        }
    }

    /// The content is read as if it stood where it stood then: a plain message may have its id from
    /// its place.
    fn replay_message(
        &mut self,
        extractor: &mut Extractor,
        messages: Option<&mut MessageReader>,
        kept: &Row<'_>,
        letter: &str,
        now: Now,
    ) -> Result<Taken, Fault> {
        let prefix = kept.relation.name.as_str();
        let Some(messages) = messages.filter(|messages| messages.is_event(prefix)) else {
            let message = format!("messages with prefix {prefix} are no events of this pipeline any more");
            return Err(Fault::new(Code::BadMessage, message));
        };
        let (Some(Column::Text(content)), Ok(then)) = (kept.tuple.columns().next(), PbPos::parse(letter))
        else {
            return Err(Fault::new(Code::BadMessage, "the order's content or letter is damaged"));
        };
        let transaction = Transaction { commit_lsn: then.position.commit_lsn, ..kept.transaction };
        let note = Note { transaction, index: then.position.index, prefix, content };
        let (row, own_headers) = messages.read(&note).map_err(|error| message_fault(&error, &note))?;
        let row = Row { transaction: kept.transaction, index: kept.index, ..row };
        self.replay(extractor, &row, own_headers, letter, now)
    }

    /// What became of a replay goes behind it.
    fn judge(
        &mut self,
        taken: Result<Taken, Fault>,
        note: &Note<'_>,
        letter: &str,
        now: Now,
    ) -> Result<Taken, Fault> {
        match &taken {
            Ok(Taken::Done) => {
                let sentence = Sentence { letter, verdict: Verdict::Replayed, fault: None };
                self.write_verdict(note, &sentence, now)
            }
            Ok(_) => taken,
            Err(fault) => {
                let sentence = Sentence { letter, verdict: Verdict::Refused, fault: Some(fault) };
                self.take_verdict(note, &sentence, now)
            }
        }
    }

    fn take_verdict(&mut self, note: &Note<'_>, sentence: &Sentence<'_>, now: Now) -> Result<Taken, Fault> {
        if self.splits(self.open.unwrap_or_default(), VERDICT_BYTES_MAX) {
            return Ok(self.split(now));
        }
        if !self.has_room(VERDICT_BYTES_MAX) {
            return Ok(Taken::NeedsRoom);
        }
        self.write_verdict(note, sentence, now)
    }

    fn write_verdict(&mut self, note: &Note<'_>, sentence: &Sentence<'_>, now: Now) -> Result<Taken, Fault> {
        let Some(desk) = self.desk(note.transaction, note.index, now) else { return Ok(self.needs_desk()) };
        let text = |name, value| Header { name, value: Some(value) };
        let mut headers = vec![
            text(header::PB_ORIG_POS, sentence.letter.as_bytes()),
            text(header::PB_VERDICT, sentence.verdict.word().as_bytes()),
        ];
        let (code, words) = sentence.fault.map(|fault| (fault.code.to_string(), cause(fault))).unzip();
        headers.extend(code.as_ref().map(|code| text(header::PB_REASON, code.as_bytes())));
        headers.extend(words.as_ref().map(|words| text(header::PB_CAUSE, words.as_bytes())));
        self.append_letter(&desk, &headers, None, now)?;
        hit(Step::OrderTaken);
        Ok(Taken::Done)
    }

    /// Where records of the change at hand go; `None` = the topic is not known yet.
    fn desk(&self, transaction: Transaction, index: u32, now: Now) -> Option<Desk> {
        let to = self.router.find(&self.letters.topic)?;
        let limits = self.router.topics()[to.topic.0].limits;
        let time = record_time(transaction.commit_time.to_unix_millis(), now.unix_ms, &limits);
        let position = Position { epoch: self.epoch, commit_lsn: transaction.commit_lsn, index };
        Some(Desk { to, limits, position, time })
    }

    fn needs_desk(&self) -> Taken {
        Taken::NeedsTopic(self.letters.topic.clone().into())
    }

    fn append_letter(
        &mut self,
        desk: &Desk,
        own: &[Header<'_>],
        value: Option<&[u8]>,
        now: Now,
    ) -> Result<(), Fault> {
        let Desk { to, limits, position, time } = *desk;
        let sequence = Sequence(self.sequences[to.slot] + 1);
        self.texts.write(&self.pipeline, position, sequence, 1, time);
        let mut headers = vec![Header { name: header::PB_POS, value: Some(&self.texts.position) }];
        headers.extend_from_slice(own);
        if !self.texts.time.is_empty() {
            headers.push(Header { name: header::PB_TS, value: Some(&self.texts.time) });
        }
        let record = Record { timestamp_ms: time.record_ms, content: Content::new(None, value, &headers) };
        let bytes = BatchSet::record_bytes(&record, limits.batch_bytes_max).map_err(|_| too_small(desk))?;
        let appended = self.set.append(to, &record, limits.batch_bytes_max);
        appended.map_err(|error| too_small(desk).because(error))?;
        self.retimed += u64::from(time.event_ms.is_some());
        self.took(to, sequence, position, bytes, now);
        self.letters.records_in_set += 1;
        Ok(())
    }
}

/// An event that comes from a dead letter.
#[derive(Clone, Copy)]
pub(super) struct Replayed<'a> {
    /// The letter's `pb-pos`.
    pub(super) letter: &'a str,
    /// What the verdict will take in the same set.
    pub(super) verdict_bytes: usize,
}

/// What a record takes beside its chunk, and how long a chunk may be.
fn chunk_bytes(desk: &Desk, head: &Head) -> Result<(usize, usize), Fault> {
    let longest = [b'0'; header::PB_POS_LEN_MAX];
    let mut headers = head.headers();
    for name in [header::PB_POS, header::PB_CHUNK, header::PB_TS] {
        headers.push(Header {
            name,
            value: Some(&longest[..if name == header::PB_POS { longest.len() } else { 0 }]),
        });
    }
    let record = Record { timestamp_ms: i64::MAX, content: Content::new(None, None, &headers) };
    let empty = BatchSet::record_bytes(&record, usize::MAX).unwrap_or_default();
    let overhead = empty + BATCH_HEADER_LEN + SLACK_BYTES;
    let limit = desk.limits.batch_bytes_max.min(CHUNK_BATCH_BYTES_MAX);
    match limit.checked_sub(overhead) {
        Some(bytes) if bytes >= CHUNK_BYTES_MIN => Ok((overhead, bytes)),
        _ => Err(too_small(desk)),
    }
}

/// Not even a part of a letter fits.
fn too_small(desk: &Desk) -> Fault {
    let message = format!(
        "the topic of dead letters takes batches of {} bytes, too small for a letter at {}",
        desk.limits.batch_bytes_max, desk.position
    );
    Fault::new(Code::EventTooLarge, message)
        .hint("raise its max.message.bytes, to 1048588 if nothing else is wanted")
}

/// A message's content as the stream writes a row of one column.
fn one_column(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("a message is received in one frame");
    [&1_u16.to_be_bytes()[..], b"t", &length.to_be_bytes(), content].concat()
}

/// The event id, for people who look for it.
fn id_of<'a>(row: &Row<'a>, outbox: &Outbox) -> Option<&'a [u8]> {
    let mut columns = row.relation.columns.iter().zip(row.tuple.columns());
    match columns.find(|(column, _)| column.name == outbox.id_column)?.1 {
        Column::Text(id) => Some(id),
        _ => None,
    }
}
