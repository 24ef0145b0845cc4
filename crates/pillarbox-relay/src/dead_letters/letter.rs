//! What stands in the topic of dead letters, and what its records add up to.
//!
//! | record | headers | value |
//! | --- | --- | --- |
//! | first of a letter | `pb-pos`, `pb-chunk: 1/m`, `pb-reason`, `pb-cause`, `pb-table`, `pb-row`, `pb-size`, `id` | the row's first bytes |
//! | the m - 1 others | `pb-pos`, `pb-chunk: n/m` | the bytes that follow |
//! | verdict | `pb-pos`, `pb-orig-pos`, `pb-verdict`, `pb-reason` and `pb-cause` if refused | null |
//!
//! The row is kept as the stream wrote it, all columns of it, so that it can be judged anew under
//! another configuration: for each column `n`, or `t` with a 32-bit length and the text. No record has a
//! key: on a compacted topic, which would lose chunks, brokers refuse them. Pure.

use pillarbox_kafka::reader::Record;
use pillarbox_wire::header::{self, PbPos};
use pillarbox_wire::position::Position;
use pillarbox_wire::record_batch::Header;

use super::order::Shape;
use crate::decode::Row;
use crate::error::Fault;

/// Longest cause in a header: a fault's words are a line or two.
const CAUSE_BYTES_MAX: usize = 1 << 10;
/// Longest event id in a header; a longer one is still in the row.
const ID_BYTES_MAX: usize = 255;
/// A verdict's record takes at most this: two positions, a cause, names.
pub const VERDICT_BYTES_MAX: usize = 2 << 10;

/// What the headers of a letter's first record say.
pub struct Head {
    reason: String,
    cause: String,
    table: String,
    row: Vec<u8>,
    size: String,
    id: Option<Vec<u8>>,
}

impl Head {
    /// For a row that was refused with `fault`.
    pub fn new(row: &Row<'_>, fault: &Fault, id: Option<&[u8]>) -> Self {
        let shape = Shape::new(row.relation);
        Self {
            reason: fault.code.to_string(),
            cause: cause(fault),
            table: shape.name(),
            row: serde_json::to_vec(&shape).expect("names always serialise"),
            size: row.tuple.as_bytes().len().to_string(),
            id: id.filter(|id| id.len() <= ID_BYTES_MAX).map(<[u8]>::to_vec),
        }
    }

    /// Behind `pb-pos` and `pb-chunk`.
    pub fn headers(&self) -> Vec<Header<'_>> {
        let texts = [
            (header::PB_REASON, self.reason.as_bytes()),
            (header::PB_CAUSE, self.cause.as_bytes()),
            (header::PB_TABLE, self.table.as_bytes()),
            (header::PB_ROW, &self.row),
            (header::PB_SIZE, self.size.as_bytes()),
        ];
        let id = self.id.as_deref().map(|id| (header::ID, id));
        texts.into_iter().chain(id).map(|(name, value)| Header { name, value: Some(value) }).collect()
    }
}

/// Why, in words that hold nothing of the row.
pub fn cause(fault: &Fault) -> String {
    let mut text = fault.message.clone();
    if let Some(cause) = &fault.cause {
        text.push_str(": ");
        text.push_str(cause);
    }
    text.truncate(text.floor_char_boundary(CAUSE_BYTES_MAX));
    text
}

/// What became of an order, as its record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its event is published, in the same transaction.
    Replayed,
    /// A person gave it up.
    Discarded,
    /// It still cannot be published: the letter stays open.
    Refused,
}

impl Verdict {
    /// The value of `pb-verdict`.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Replayed => "replayed",
            Verdict::Discarded => "discarded",
            Verdict::Refused => "refused",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Verdict::Replayed, Verdict::Discarded, Verdict::Refused].into_iter().find(|v| v.word() == word)
    }
}

/// Whether somebody still has to look at a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Yes.
    Open,
    /// No: it was published at this position.
    Replayed(Position),
    /// No: it was given up at this position.
    Discarded(Position),
}

/// Why a row could not be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// `PB-nnnn`.
    pub code: String,
    /// In words.
    pub cause: String,
}

/// A dead letter, without its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Its `pb-pos`.
    pub pb_pos: String,
    /// The position of the row.
    pub position: Position,
    /// When the row was committed, milliseconds since 1970.
    pub committed_ms: i64,
    /// Why it could not be published: the first time, or the last time a replay was refused.
    pub reason: Reason,
    /// Replays that were refused.
    pub refusals: u32,
    /// The table and its columns.
    pub shape: Shape,
    /// The event id, where the row has one that is short.
    pub id: Option<String>,
    /// Bytes of the row.
    pub size: u64,
    /// Records that hold them.
    pub chunks: u32,
    /// Offset of the first of them.
    pub offset: i64,
    /// Whether it is open.
    pub state: State,
}

/// The letters in the records so far.
#[derive(Debug, Default)]
pub struct Letters(Vec<Letter>);

impl Letters {
    /// Takes the next record of the topic. What no version of the relay wrote is passed over.
    pub fn take(&mut self, record: &Record) {
        let Some(position) =
            text(record, header::PB_POS).and_then(|text| PbPos::parse(text).ok().map(|pos| pos.position))
        else {
            return;
        };
        match text(record, header::PB_VERDICT).and_then(Verdict::from_word) {
            Some(verdict) => self.judge(record, verdict, position),
            None => self.0.extend(first(record, position)),
        }
    }

    /// All of them, in order of position.
    pub fn into_vec(self) -> Vec<Letter> {
        self.0
    }

    fn judge(&mut self, record: &Record, verdict: Verdict, position: Position) {
        let letter = text(record, header::PB_ORIG_POS);
        let Some(letter) = self.0.iter_mut().rev().find(|found| Some(found.pb_pos.as_str()) == letter) else {
            return;
        };
        match verdict {
            Verdict::Replayed => letter.state = State::Replayed(position),
            Verdict::Discarded => letter.state = State::Discarded(position),
            Verdict::Refused => {
                letter.refusals += 1;
                letter.reason = reason(record).unwrap_or_else(|| letter.reason.clone());
            }
        }
    }
}

/// The letter that begins with this record, if one does.
fn first(record: &Record, position: Position) -> Option<Letter> {
    let (number, chunks) = chunk(record)?;
    let time = text(record, header::PB_TS).and_then(|text| text.parse().ok());
    (number == 1).then_some(())?;
    Some(Letter {
        pb_pos: text(record, header::PB_POS)?.to_owned(),
        position,
        committed_ms: time.unwrap_or(record.timestamp_ms),
        reason: reason(record)?,
        refusals: 0,
        shape: serde_json::from_slice(record.header(header::PB_ROW)?).ok()?,
        id: text(record, header::ID).map(str::to_owned),
        size: text(record, header::PB_SIZE)?.parse().ok()?,
        chunks,
        offset: record.offset,
        state: State::Open,
    })
}

/// Which chunk a record is, and of how many.
pub fn chunk(record: &Record) -> Option<(u32, u32)> {
    let (number, all) = text(record, header::PB_CHUNK)?.split_once('/')?;
    Some((number.parse().ok()?, all.parse().ok()?))
}

fn reason(record: &Record) -> Option<Reason> {
    let word = |name| text(record, name).map(str::to_owned);
    Some(Reason { code: word(header::PB_REASON)?, cause: word(header::PB_CAUSE)? })
}

fn text<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    std::str::from_utf8(record.header(name)?).ok()
}
