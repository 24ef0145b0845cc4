//! Parked events: one that cannot be applied waits aside, with all later ones of its key, and the partition goes on.
//!
//! ```text
//!             admit ------------------------------> Apply: your effect
//!   record -> admit, its key has parked events ---> Parked: waits behind them (no reason: it never failed)
//!             your effect failed: roll back,
//!             then park in a new transaction -----> waits, with the reason
//!
//!   lanes -> replay takes the first of a key out -> your effect, then the next one of the key
//!            it failed again: roll back, then failed, with the reason
//!            discard: the effect never happens; audited in pillarbox.consumer_discards
//! ```
//!
//! Parking an event accepts it: its place in the partition is taken, and the row in `pillarbox.consumer_parked` stands for
//! the effect that is owed. Each transition is one transaction of the caller, so that an event is at any time either not
//! accepted, or applied, or parked.
//!
//! | what happens | what follows |
//! | --- | --- |
//! | crash between rollback and `park` | nothing was accepted: the event comes again |
//! | crash inside `park`, or after `replay` before COMMIT | rolled back: as before |
//! | redelivery of a parked event | a duplicate: its row stands for it |
//! | `replay` of the last event of a key while the next one arrives | it parks behind; a later `replay` takes it, in order |
//! | two replay the same event | the second waits, and then finds nothing |
//!
//! Order holds within a key, of one source, in one partition. Events without a key are parked alone: nothing waits for
//! them. All services of one consumer must `admit`: one that only `accept`s would apply later events of a parked key.
//! Must never hand out an event before the earlier ones of its key.

use super::database::{Row, Transaction, Value};
use super::{Error, Event, Inbox, bigint, mark, parse};
use crate::header::Header;
use crate::state::{Decision, Gap, Mark};

/// Longest reason that is kept, in bytes: a message, not a log.
const REASON_BYTES_MAX: usize = 2_000;

const ANY: &str = "SELECT EXISTS (SELECT FROM pillarbox.consumer_parked \
    WHERE consumer = $1 AND source = $2 AND topic = $3 AND partition = $4)::int";
/// By hash, because a key can be longer than an index entry; and by the key, because hashes are not proof.
const KEY: &str = "SELECT EXISTS (SELECT FROM pillarbox.consumer_parked \
    WHERE consumer = $1 AND source = $2 AND topic = $3 AND partition = $4 \
      AND sha256(key) = sha256($5) AND key = $5)::int";
const PARK: &str = "INSERT INTO pillarbox.consumer_parked (consumer, source, topic, partition, position, sequence, \
      kafka_offset, key, value, header_names, header_values, reason, attempts, tried_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, ($12 IS NOT NULL)::int, \
      CASE WHEN $12 IS NOT NULL THEN clock_timestamp() END) \
    ON CONFLICT (consumer, topic, partition, source, position) DO NOTHING";
const LANES: &str = "SELECT source, topic, partition, position, sequence, reason, attempts, waiting \
    FROM (SELECT p.*, count(*) OVER of_key - 1 AS waiting, row_number() OVER (of_key ORDER BY position) AS place \
          FROM pillarbox.consumer_parked p WHERE consumer = $1 \
          WINDOW of_key AS (PARTITION BY source, topic, partition, key, \
                         CASE WHEN key IS NULL THEN position END)) lane \
    WHERE place = 1 ORDER BY tried_at NULLS FIRST, topic, partition, source, position LIMIT $2";
const REPLAY: &str = "DELETE FROM pillarbox.consumer_parked p \
    WHERE consumer = $1 AND source = $2 AND topic = $3 AND partition = $4 AND position = $5 \
      AND NOT EXISTS (SELECT FROM pillarbox.consumer_parked earlier \
          WHERE earlier.consumer = p.consumer AND earlier.source = p.source AND earlier.topic = p.topic \
            AND earlier.partition = p.partition AND sha256(earlier.key) = sha256(p.key) AND earlier.key = p.key \
            AND earlier.position < p.position) \
    RETURNING kafka_offset, key, value, header_names, header_values, reason, attempts";
const FAILED: &str = "UPDATE pillarbox.consumer_parked \
    SET reason = $6, attempts = attempts + 1, tried_at = clock_timestamp() \
    WHERE consumer = $1 AND source = $2 AND topic = $3 AND partition = $4 AND position = $5";
const DISCARD: &str = "WITH gone AS (DELETE FROM pillarbox.consumer_parked \
      WHERE consumer = $1 AND source = $2 AND topic = $3 AND partition = $4 AND position = $5 RETURNING *) \
    INSERT INTO pillarbox.consumer_discards \
      (consumer, source, topic, partition, position, sequence, kafka_offset, parked_for, reason) \
    SELECT consumer, source, topic, partition, position, sequence, kafka_offset, reason, $6 FROM gone";

/// A whole record, to be parked if need be.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// Where it was read, and its header `pb-pos`.
    pub event: Event<'a>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// All its headers, in order.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// What to do with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a record must be applied if, and only if, it is admitted"]
pub enum Admission {
    /// Apply it, in this transaction.
    Apply,
    /// Apply it, and know that others are missing: see [`Decision::ApplyDespiteGap`].
    ApplyDespiteGap(Gap),
    /// It was applied or parked before: skip it.
    Duplicate,
    /// An earlier event of its key is parked, and now it is too: skip it.
    Parked,
}

impl Admission {
    /// True if the effect has to happen now.
    #[must_use]
    pub const fn applies(self) -> bool {
        matches!(self, Admission::Apply | Admission::ApplyDespiteGap(_))
    }
}

/// Names a parked event of a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ParkedId {
    /// The pipeline.
    pub source: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Position and sequence.
    pub mark: Mark,
}

/// The parked events of one key: the first one, which is the only one that can be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The first event.
    pub first: ParkedId,
    /// Why it failed last; `None` if it never did, because it only waited behind one that is gone.
    pub reason: Option<String>,
    /// How often it failed.
    pub attempts: i32,
    /// How many events wait behind it.
    pub waiting: i64,
}

/// An event that was taken out, to be applied now.
#[derive(Clone)]
pub struct Parked {
    /// Its name.
    pub id: ParkedId,
    /// Its offset, if it was known.
    pub offset: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// All its headers, in order. Names are bytes: a poison event can have one that is not text.
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Why it failed last.
    pub reason: Option<String>,
    /// How often it failed.
    pub attempts: i32,
}

/// Without key, value and headers.
impl std::fmt::Debug for Parked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parked")
            .field("id", &self.id)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

impl Inbox {
    /// [`accept`](Inbox::accept) for a consumer that parks: an event behind a parked one of its key is parked too.
    ///
    /// # Errors
    /// [`Error`]: roll back.
    pub async fn admit<T: Transaction>(
        &self,
        tx: &mut T,
        record: &Record<'_>,
    ) -> Result<Admission, Error<T::Error>> {
        let decision = self.accept(tx, record.event).await?;
        self.settle(tx, record, decision).await
    }

    /// [`accept_batch`](Inbox::accept_batch) for a consumer that parks.
    ///
    /// If an effect fails, roll back and admit the records one by one, each in a transaction of its own: then the one that
    /// fails can be parked.
    ///
    /// # Errors
    /// [`Error`]: roll back.
    pub async fn admit_batch<T: Transaction>(
        &self,
        tx: &mut T,
        records: &[Record<'_>],
    ) -> Result<Vec<Admission>, Error<T::Error>> {
        let events: Vec<Event<'_>> = records.iter().map(|record| record.event).collect();
        let decisions = self.accept_batch(tx, &events).await?;
        let mut quiet = Vec::new();
        let mut admissions = Vec::with_capacity(records.len());
        for (record, decision) in records.iter().zip(decisions) {
            let header = parse(&record.event)?;
            let lane = (header.source(), record.event.topic, record.event.partition);
            // Nearly always nothing is parked at all: asked once a partition, whose row is locked by now.
            if decision.applies() && !quiet.contains(&lane) && !self.any_parked(tx, record, &header).await? {
                quiet.push(lane);
            }
            admissions.push(match quiet.contains(&lane) {
                true => admission(decision),
                false => self.settle(tx, record, decision).await?,
            });
        }
        Ok(admissions)
    }

    /// Accepts and parks an event whose effect failed: in a new transaction, after the one that failed was rolled back.
    /// Gives false for a duplicate: another owner has applied or parked it meanwhile.
    ///
    /// The reason is kept with the event, up to 2,000 bytes of it; it should hold nothing of the payload.
    ///
    /// # Errors
    /// [`Error`]: roll back.
    pub async fn park<T: Transaction>(
        &self,
        tx: &mut T,
        record: &Record<'_>,
        reason: &str,
    ) -> Result<bool, Error<T::Error>> {
        let decision = self.accept(tx, record.event).await?;
        if decision.applies() {
            self.put_aside(tx, record, Some(&storable(reason))).await?;
        }
        Ok(decision.applies())
    }

    /// The keys that have parked events, with what can be replayed next: those that were tried longest ago first, at most
    /// `lanes_max`.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::Row`].
    pub async fn lanes<T: Transaction>(
        &self,
        tx: &mut T,
        lanes_max: u32,
    ) -> Result<Vec<Lane>, Error<T::Error>> {
        let values = [Value::Text(&self.consumer), Value::Long(Some(i64::from(lanes_max)))];
        let rows = tx.rows(LANES, &values).await?;
        rows.iter().map(|row| self.lane::<T>(row)).collect()
    }

    /// Takes the event out if it is the first one of its key: apply it in this transaction. `None` if it is gone, or if an
    /// earlier one of its key is still there.
    ///
    /// If the effect fails, roll back, and say so with [`replay_failed`](Inbox::replay_failed).
    ///
    /// # Errors
    /// [`Error::Database`]: roll back.
    pub async fn replay<T: Transaction>(
        &self,
        tx: &mut T,
        id: &ParkedId,
    ) -> Result<Option<Parked>, Error<T::Error>> {
        let position = id.mark.position().to_string();
        let rows = tx.rows(REPLAY, &self.name(id, &position)).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let names = row.byte_arrays(3)?.into_iter().map(Option::unwrap_or_default);
        Ok(Some(Parked {
            id: id.clone(),
            offset: row.long(0)?,
            key: row.bytes(1)?,
            value: row.bytes(2)?,
            headers: names.zip(row.byte_arrays(4)?).collect(),
            reason: row.text(5)?,
            attempts: row.int(6)?,
        }))
    }

    /// Notes that the effect of a replay failed, in a new transaction after the one that failed was rolled back. Gives
    /// false if the event is gone.
    ///
    /// # Errors
    /// [`Error::Database`]: roll back.
    pub async fn replay_failed<T: Transaction>(
        &self,
        tx: &mut T,
        id: &ParkedId,
        reason: &str,
    ) -> Result<bool, Error<T::Error>> {
        self.conclude(tx, FAILED, id, reason).await
    }

    /// Gives up the effect of a parked event; those behind it can go on. Who did it, when and why stays in
    /// `pillarbox.consumer_discards`. Gives false if the event is gone.
    ///
    /// # Errors
    /// [`Error::Database`]: roll back.
    pub async fn discard<T: Transaction>(
        &self,
        tx: &mut T,
        id: &ParkedId,
        reason: &str,
    ) -> Result<bool, Error<T::Error>> {
        self.conclude(tx, DISCARD, id, reason).await
    }

    async fn conclude<T: Transaction>(
        &self,
        tx: &mut T,
        statement: &'static str,
        id: &ParkedId,
        reason: &str,
    ) -> Result<bool, Error<T::Error>> {
        let position = id.mark.position().to_string();
        let reason = storable(reason);
        let [consumer, source, topic, partition, position] = self.name(id, &position);
        let values = [consumer, source, topic, partition, position, Value::Text(&reason)];
        Ok(tx.change(statement, &values).await? == 1)
    }

    fn name<'a>(&'a self, id: &'a ParkedId, position: &'a str) -> [Value<'a>; 5] {
        [
            Value::Text(&self.consumer),
            Value::Text(&id.source),
            Value::Text(&id.topic),
            Value::Int(id.partition),
            Value::Text(position),
        ]
    }

    fn lane<T: Transaction>(&self, row: &T::Row) -> Result<Lane, Error<T::Error>> {
        let (source, topic) = (row.text(0)?.unwrap_or_default(), row.text(1)?.unwrap_or_default());
        let partition = row.int(2)?;
        let mark = mark(row.text(3)?, row.long(4)?);
        let mark = mark.ok_or_else(|| Error::Row { place: format!("{topic}-{partition}") })?;
        Ok(Lane {
            first: ParkedId { source, topic, partition, mark },
            reason: row.text(5)?,
            attempts: row.int(6)?,
            waiting: row.long(7)?.unwrap_or_default(),
        })
    }

    /// Parks an accepted event if its key has parked ones. The row of the partition is locked, so that nobody parks an
    /// earlier event meanwhile.
    async fn settle<T: Transaction>(
        &self,
        tx: &mut T,
        record: &Record<'_>,
        decision: Decision,
    ) -> Result<Admission, Error<T::Error>> {
        let Some(key) = record.key.filter(|_| decision.applies()) else { return Ok(admission(decision)) };
        let header = parse(&record.event)?;
        let [consumer, source, topic, partition] = self.place(record, &header);
        let values = [consumer, source, topic, partition, Value::Bytes(Some(key))];
        if !exists(tx, KEY, &values).await? {
            return Ok(admission(decision));
        }
        self.put_aside(tx, record, None).await?;
        Ok(Admission::Parked)
    }

    async fn any_parked<T: Transaction>(
        &self,
        tx: &mut T,
        record: &Record<'_>,
        header: &Header<'_>,
    ) -> Result<bool, Error<T::Error>> {
        exists(tx, ANY, &self.place(record, header)).await
    }

    fn place<'a>(&'a self, record: &Record<'a>, header: &Header<'a>) -> [Value<'a>; 4] {
        [
            Value::Text(&self.consumer),
            Value::Text(header.source()),
            Value::Text(record.event.topic),
            Value::Int(record.event.partition),
        ]
    }

    async fn put_aside<T: Transaction>(
        &self,
        tx: &mut T,
        record: &Record<'_>,
        reason: Option<&str>,
    ) -> Result<(), Error<T::Error>> {
        let header = parse(&record.event)?;
        let position = header.position().to_string();
        let names: Vec<_> = record.headers.iter().map(|(name, _)| Some(name.as_bytes())).collect();
        let contents: Vec<_> = record.headers.iter().map(|(_, value)| *value).collect();
        let [consumer, source, topic, partition] = self.place(record, &header);
        let values = [
            consumer,
            source,
            topic,
            partition,
            Value::Text(&position),
            Value::Long(Some(bigint(header.sequence()))),
            Value::Long(record.event.offset),
            Value::Bytes(record.key),
            Value::Bytes(record.value),
            Value::ByteArrays(&names),
            Value::ByteArrays(&contents),
            Value::OptionalText(reason),
        ];
        tx.change(PARK, &values).await?;
        Ok(())
    }
}

async fn exists<T: Transaction>(
    tx: &mut T,
    statement: &'static str,
    values: &[Value<'_>],
) -> Result<bool, Error<T::Error>> {
    let rows = tx.rows(statement, values).await?;
    Ok(rows.first().map(|row| row.int(0)).transpose()? == Some(1))
}

const fn admission(decision: Decision) -> Admission {
    match decision {
        Decision::Apply => Admission::Apply,
        Decision::ApplyDespiteGap(gap) => Admission::ApplyDespiteGap(gap),
        Decision::Duplicate => Admission::Duplicate,
    }
}

/// What Postgres takes as text: without NUL, and short. A reason must never be why an event cannot be parked.
fn storable(reason: &str) -> String {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_can_always_be_stored() {
        let long = "é".repeat(REASON_BYTES_MAX);
        for (reason, expected) in [("no account", "no account"), ("a\0b", "a\u{fffd}b"), ("", "")] {
            assert_eq!(storable(reason), expected);
        }
        assert_eq!(storable(&long).len(), REASON_BYTES_MAX);
        assert!(storable(&format!("x{long}")).len() < REASON_BYTES_MAX);
    }
}
