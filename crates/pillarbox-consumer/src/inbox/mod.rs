//! The state as a row of Postgres: `pillarbox.consumer_positions`, one per (consumer, source, topic, partition).
//!
//! ```text
//! BEGIN
//!   accept       UPDATE .. WHERE it is the next one    the usual case: one statement, one row
//!                otherwise lock the row, decide in the core, write it
//!   your effect
//! COMMIT         both, or neither
//! ```
//!
//! | what happens | what follows |
//! | --- | --- |
//! | crash or rollback before COMMIT | neither effect nor state: the event comes again and applies |
//! | crash after COMMIT, before the offset is committed in Kafka | the event comes again and is a duplicate |
//! | two owners of a partition | the second waits for the row until the first has ended, and then skips |
//! | the row appears between look and insert | looked at again; at REPEATABLE READ and above the server asks for a retry |
//! | a gap, another history, no header | an error: roll back, stop the partition, a person decides |
//! | the handler fails for an event again and again | [`parked`]: it waits aside with its key, the partition goes on |
//!
//! The tables come from `pillarbox setup --consumer`, or from `sql/consumer` by hand. READ COMMITTED is enough. Must
//! never write outside of the caller's transaction, and never decide otherwise than [`State::accept`].

use std::collections::BTreeMap;

pub use database::Transaction;
pub use error::{Error, Refused};
pub use parked::{Admission, Lane, Parked, ParkedId, Record};

use crate::header::Header;
use crate::state::{self, Decision, Mark, Rules, State};
use database::{Row, Value};
use pillarbox_wire::{Position, Sequence};

mod database;
mod error;
pub mod parked;
#[cfg(feature = "sqlx")]
mod sqlx;
#[cfg(feature = "tokio-postgres")]
mod tokio_postgres;

/// The row can vanish only by hand, so a second look finds it. More than a few are a fight that an error should end.
const LOOKS_MAX: usize = 4;

/// Nearly every event: the next one, one update of one row. The one row of the rule it knows is the one that applies;
/// everything else is left to the core.
///
/// What is returned announces the move where somebody waits for it, as `pillarbox.accept` does: see
/// `sql/consumer/0003_wait.up.sql`. It needs nothing of that file.
const ADVANCE: &str = "UPDATE pillarbox.consumer_positions \
    SET position = $5, sequence = $6, kafka_offset = $7, updated_at = clock_timestamp() \
    WHERE consumer = $1 AND source = $2 AND topic = $3 AND partition = $4 \
      AND sequence = $6 - 1 AND position < $5 \
    RETURNING CASE WHEN NOT pg_try_advisory_xact_lock(hashtextextended($1 || ' ' || $2 || ' ' || $3 \
        || CASE WHEN $6 % 64 = 0 THEN '' ELSE ' ' || $6 / 64 END, $4)) \
      THEN pg_notify('pillarbox_applied', hashtextextended($1 || ' ' || $2 || ' ' || $3, $4)::text)::text END";
/// Another owner of the partition is waited for here.
const LOCK: &str = "SELECT position, sequence FROM pillarbox.consumer_positions \
    WHERE consumer = $1 AND source = $2 AND topic = $3 AND partition = $4 FOR NO KEY UPDATE";
const FIRST: &str = "INSERT INTO pillarbox.consumer_positions \
    (consumer, source, topic, partition, position, sequence, kafka_offset) \
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (consumer, source, topic, partition) DO NOTHING \
    RETURNING CASE WHEN NOT pg_try_advisory_xact_lock(hashtextextended($1 || ' ' || $2 || ' ' || $3, $4)) \
      THEN pg_notify('pillarbox_applied', hashtextextended($1 || ' ' || $2 || ' ' || $3, $4)::text)::text END";
/// Of a locked row.
const STORE: &str = "UPDATE pillarbox.consumer_positions \
    SET position = $5, sequence = $6, kafka_offset = $7, updated_at = clock_timestamp() \
    WHERE consumer = $1 AND source = $2 AND topic = $3 AND partition = $4 \
    RETURNING CASE WHEN NOT pg_try_advisory_xact_lock(hashtextextended($1 || ' ' || $2 || ' ' || $3, $4)) \
      THEN pg_notify('pillarbox_applied', hashtextextended($1 || ' ' || $2 || ' ' || $3, $4)::text)::text END";
/// The highest offset, whatever the source: a partition is read in one order, so that all before it was seen.
const OFFSETS: &str = "SELECT partition, max(kafka_offset) FROM pillarbox.consumer_positions \
    WHERE consumer = $1 AND topic = $2 AND partition = ANY ($3) GROUP BY partition ORDER BY partition";

/// Where an event was read, and its header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The value of the header [`PB_POS`](crate::PB_POS), if there is one.
    pub pb_pos: Option<&'a [u8]>,
    /// The offset, if it shall be remembered for [`Inbox::resume_offsets`].
    pub offset: Option<i64>,
}

/// Without the header, which can hold anything.
impl std::fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl Event<'_> {
    fn place(&self) -> String {
        format!("{}-{}", self.topic, self.partition)
    }
}

/// Where to read on in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The partition.
    pub partition: i32,
    /// The offset to seek to; a hint, see [`resume_offset`](crate::resume_offset). `None`: leave it to the group.
    pub offset: Option<i64>,
}

/// One consumer: a name, under which everything that it applied is remembered, and how strict it is.
///
/// Services that share the work share the name. Two that apply the same events to two databases, or in two ways to one,
/// have two names.
#[derive(Clone, Debug)]
pub struct Inbox {
    consumer: String,
    rules: Rules,
}

/// The events of one row, by their index in the batch.
type Lanes<'a> = BTreeMap<(&'a str, i32, &'a str), Vec<usize>>;

impl Inbox {
    /// Takes any first event, refuses gaps.
    #[must_use]
    pub fn new(consumer: impl Into<String>) -> Self {
        Self { consumer: consumer.into(), rules: Rules::default() }
    }

    /// The same consumer with other rules.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// Decides about an event, and remembers it if it applies. Comes first in the transaction; the effect follows in the
    /// same one.
    ///
    /// # Errors
    /// [`Error`]: roll back.
    pub async fn accept<T: Transaction>(
        &self,
        tx: &mut T,
        event: Event<'_>,
    ) -> Result<Decision, Error<T::Error>> {
        let header = parse(&event)?;
        let advanced = self.write(tx, ADVANCE, &event, &header).await?;
        if advanced == 1 {
            return Ok(Decision::Apply);
        }
        let decisions = self.accept_lane(tx, &[(event, header)]).await?;
        Ok(decisions[0])
    }

    /// The same for many events, in the order in which they were read, of any partitions: gives a decision for each. Two
    /// statements a partition, however many events.
    ///
    /// Rows are locked in one fixed order, so that consumers do not deadlock with each other. One event that is refused
    /// refuses all; [`accept`](Inbox::accept) them one by one to get as far as possible.
    ///
    /// # Errors
    /// [`Error`]: roll back.
    pub async fn accept_batch<T: Transaction>(
        &self,
        tx: &mut T,
        events: &[Event<'_>],
    ) -> Result<Vec<Decision>, Error<T::Error>> {
        let mut headers = Vec::with_capacity(events.len());
        let mut lanes: Lanes<'_> = BTreeMap::new();
        for (index, event) in events.iter().enumerate() {
            let header = parse(event)?;
            lanes.entry((event.topic, event.partition, header.source())).or_default().push(index);
            headers.push(header);
        }
        let mut decisions = vec![Decision::Duplicate; events.len()];
        for indices in lanes.values() {
            let lane: Vec<_> = indices.iter().map(|&index| (events[index], headers[index])).collect();
            let decided = self.accept_lane(tx, &lane).await?;
            for (&index, decision) in indices.iter().zip(decided) {
                decisions[index] = decision;
            }
        }
        Ok(decisions)
    }

    /// Where to read on in partitions that were assigned; those of which nothing is known are left out. Needs no
    /// transaction of its own: the row decides, not the offset.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn resume_offsets<T: Transaction>(
        &self,
        tx: &mut T,
        topic: &str,
        partitions: &[i32],
    ) -> Result<Vec<Resume>, Error<T::Error>> {
        let values = [Value::Text(&self.consumer), Value::Text(topic), Value::Ints(partitions)];
        let mut resumes = Vec::with_capacity(partitions.len());
        for row in tx.rows(OFFSETS, &values).await? {
            resumes.push(Resume { partition: row.int(0)?, offset: state::resume_offset(row.long(1)?) });
        }
        Ok(resumes)
    }

    /// Events of one row, in order; at least one.
    async fn accept_lane<T: Transaction>(
        &self,
        tx: &mut T,
        lane: &[(Event<'_>, Header<'_>)],
    ) -> Result<Vec<Decision>, Error<T::Error>> {
        for _ in 0..LOOKS_MAX {
            let stored = self.lock(tx, &lane[0].0, lane[0].1.source()).await?;
            let (decisions, last) = self.decide(stored, lane)?;
            let Some((event, header)) = last else { return Ok(decisions) };
            let statement = if stored == State::FRESH { FIRST } else { STORE };
            let written = self.write(tx, statement, event, header).await?;
            if written == 1 {
                return Ok(decisions);
            }
        }
        Err(Error::Row { place: lane[0].0.place() })
    }

    /// Pure: what becomes of each event, and the last one that applies.
    #[expect(clippy::type_complexity, reason = "the two halves of one decision, used in one place")]
    fn decide<'l, 'a, E>(
        &self,
        stored: State,
        lane: &'l [(Event<'a>, Header<'a>)],
    ) -> Result<(Vec<Decision>, Option<&'l (Event<'a>, Header<'a>)>), Error<E>> {
        let mut state = stored;
        let mut last = None;
        let mut decisions = Vec::with_capacity(lane.len());
        for entry in lane {
            let (event, header) = entry;
            let decision = state
                .accept(header, self.rules)
                .map_err(|refusal| Error::refused(refusal, state, &self.consumer, event, header))?;
            if decision.applies() {
                last = Some(entry);
            }
            decisions.push(decision);
        }
        Ok((decisions, last))
    }

    async fn lock<T: Transaction>(
        &self,
        tx: &mut T,
        event: &Event<'_>,
        source: &str,
    ) -> Result<State, Error<T::Error>> {
        let key = [
            Value::Text(&self.consumer),
            Value::Text(source),
            Value::Text(event.topic),
            Value::Int(event.partition),
        ];
        let rows = tx.rows(LOCK, &key).await?;
        let Some(row) = rows.first() else { return Ok(State::FRESH) };
        let mark = mark(row.text(0)?, row.long(1)?);
        mark.map(State::at).ok_or_else(|| Error::Row { place: event.place() })
    }

    async fn write<T: Transaction>(
        &self,
        tx: &mut T,
        statement: &'static str,
        event: &Event<'_>,
        header: &Header<'_>,
    ) -> Result<u64, Error<T::Error>> {
        let position = header.position().to_string();
        let values = [
            Value::Text(&self.consumer),
            Value::Text(header.source()),
            Value::Text(event.topic),
            Value::Int(event.partition),
            Value::Text(&position),
            Value::Long(Some(bigint(header.sequence()))),
            Value::Long(event.offset),
        ];
        Ok(tx.change(statement, &values).await?)
    }
}

fn parse<'a, E>(event: &Event<'a>) -> Result<Header<'a>, Error<E>> {
    Header::parse(event.pb_pos).map_err(|cause| Error::Header { place: event.place(), cause })
}

fn mark(position: Option<String>, sequence: Option<i64>) -> Option<Mark> {
    let position: Position = position?.parse().ok()?;
    Mark::new(position, Sequence(u64::try_from(sequence?).ok()?))
}

/// A sequence of a [`Header`] or a [`Mark`] fits: it was checked when it was made.
fn bigint(sequence: Sequence) -> i64 {
    i64::try_from(sequence.0).expect("a mark's sequence is at most 2^63 - 1")
}
