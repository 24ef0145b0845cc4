//! A submitted transaction while it is in the machine: stamped, shared with the requests under way, given back.
//!
//! Batches are stamped at submit, while the transaction before is still being acknowledged, and once more only when
//! the identity changed (a replay). It never looks at a record.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pillarbox_wire::record_batch::{ProducerIdentity, stamp};

use super::encode::Part;
use super::state::TxnKey;
use super::{Batch, Transaction};

/// The batches, the last of which is the checkpoint, and what is measured about them.
pub(crate) struct Held<T> {
    pub(crate) key: TxnKey,
    tag: T,
    parts: Vec<Part>,
    /// Records of each part.
    records: Vec<u32>,
    stamped: ProducerIdentity,
    /// Of each part, once all are acknowledged.
    pub(crate) base_offsets: Vec<i64>,
    pub(crate) clock: Clock,
}

/// When its stages were reached, replays included.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    pub(crate) produced_first: Option<Instant>,
    pub(crate) acked: Option<Instant>,
    pub(crate) ended_first: Option<Instant>,
}

impl Clock {
    pub(crate) fn produce_wait(&self) -> Duration {
        between(self.produced_first, self.acked)
    }

    pub(crate) fn end_txn_wait(&self, now: Instant) -> Duration {
        between(self.ended_first, Some(now))
    }
}

fn between(from: Option<Instant>, to: Option<Instant>) -> Duration {
    from.zip(to).map_or(Duration::ZERO, |(from, to)| to.saturating_duration_since(from))
}

impl<T> Held<T> {
    /// Stamps every batch for `identity`, which is what the id will have unless something fails.
    pub(crate) fn new(key: TxnKey, transaction: Transaction<T>, identity: ProducerIdentity) -> Self {
        let Transaction { mut data, last, tag } = transaction;
        data.push(last);
        let records = data.iter().map(|batch| batch.records).collect();
        let mut sequences = Sequences::default();
        let parts = data.into_iter().map(|mut batch| {
            let sequence = sequences.next(&batch);
            stamp(&mut batch.bytes, identity, sequence);
            Part { topic: batch.topic, partition: batch.partition, bytes: batch.bytes.freeze() }
        });
        let parts = parts.collect();
        Self {
            key,
            tag,
            parts,
            records,
            stamped: identity,
            base_offsets: Vec::new(),
            clock: Clock::default(),
        }
    }

    /// The parts to be sent under `identity`, sharing the buffers.
    pub(crate) fn stamped_parts(&mut self, identity: ProducerIdentity) -> Vec<Part> {
        if self.stamped != identity {
            self.restamp(identity);
        }
        self.parts.clone()
    }

    fn restamp(&mut self, identity: ProducerIdentity) {
        let parts = std::mem::take(&mut self.parts);
        let mut sequences = Sequences::default();
        let parts = parts.into_iter().zip(&self.records).map(|(part, records)| {
            let mut batch = unshared(part, *records);
            let sequence = sequences.next(&batch);
            stamp(&mut batch.bytes, identity, sequence);
            Part { topic: batch.topic, partition: batch.partition, bytes: batch.bytes.freeze() }
        });
        self.parts = parts.collect();
        self.stamped = identity;
    }

    /// Bytes of all batches.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes.len() as u64).sum()
    }

    /// The same with the base offsets of its data.
    pub(crate) fn give_back_with_offsets(mut self) -> (Transaction<T>, Vec<i64>) {
        let mut base_offsets = std::mem::take(&mut self.base_offsets);
        base_offsets.resize(self.parts.len() - 1, -1);
        (self.give_back(), base_offsets)
    }

    /// As it was submitted, but stamped.
    pub(crate) fn give_back(self) -> Transaction<T> {
        let batches = self.parts.into_iter().zip(self.records).map(|(part, records)| unshared(part, records));
        let mut data: Vec<Batch> = batches.collect();
        let last = data.pop().expect("a transaction has its checkpoint");
        Transaction { data, last, tag: self.tag }
    }
}

/// Copies only if a dead connection still holds the buffer.
fn unshared(part: Part, records: u32) -> Batch {
    Batch { topic: part.topic, partition: part.partition, bytes: BytesMut::from(part.bytes), records }
}

/// Base sequences: from 0 for each partition of a transaction, since every transaction has an epoch of its own.
#[derive(Default)]
struct Sequences(HashMap<(uuid::Uuid, i32), u32>);

impl Sequences {
    fn next(&mut self, batch: &Batch) -> i32 {
        let next = self.0.entry((batch.topic.id, batch.partition)).or_default();
        let sequence = *next;
        *next = next.wrapping_add(batch.records);
        // Kafka's sequences wrap from i32::MAX to 0.
        (sequence & i32::MAX as u32) as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producer::TopicRef;
    use pillarbox_wire::record_batch::BatchBuilder;
    use std::sync::Arc;

    fn batch(topic: &Arc<TopicRef>, partition: i32, records: u32) -> Batch {
        let mut builder = BatchBuilder::new();
        for _ in 0..records {
            builder.append(1, Some(b"k"), Some(b"v"), &[]).unwrap();
        }
        builder.finish();
        Batch::from_vec(Arc::clone(topic), partition, builder.take(), records)
    }

    fn sequence(bytes: &[u8]) -> (i64, i16, i32) {
        let id = i64::from_be_bytes(bytes[43..51].try_into().unwrap());
        let epoch = i16::from_be_bytes(bytes[51..53].try_into().unwrap());
        (id, epoch, i32::from_be_bytes(bytes[53..57].try_into().unwrap()))
    }

    #[test]
    fn sequences_count_per_partition_and_survive_a_new_identity() {
        let topic = Arc::new(TopicRef { name: "t".to_owned(), id: uuid::Uuid::from_u128(1) });
        let data = vec![batch(&topic, 0, 3), batch(&topic, 1, 2), batch(&topic, 0, 4)];
        let transaction = Transaction { data, last: batch(&topic, 2, 1), tag: "tag" };
        let first = ProducerIdentity { producer_id: 7, producer_epoch: 1 };
        let second = ProducerIdentity { producer_id: 9, producer_epoch: 0 };
        let mut held = Held::new(TxnKey(0), transaction, first);
        let of = |parts: Vec<Part>| parts.iter().map(|part| sequence(&part.bytes)).collect::<Vec<_>>();
        assert_eq!(of(held.stamped_parts(first)), [(7, 1, 0), (7, 1, 0), (7, 1, 3), (7, 1, 0)]);
        assert_eq!(of(held.stamped_parts(second)), [(9, 0, 0), (9, 0, 0), (9, 0, 3), (9, 0, 0)]);
        let back = held.give_back();
        assert_eq!((back.data.len(), back.last.partition, back.tag), (3, 2, "tag"));
    }

    #[test]
    fn buffers_come_back_without_a_copy() {
        let topic = Arc::new(TopicRef { name: "t".to_owned(), id: uuid::Uuid::from_u128(1) });
        let last = batch(&topic, 0, 1);
        let at = last.bytes.as_ptr();
        let identity = ProducerIdentity { producer_id: 7, producer_epoch: 1 };
        let mut held = Held::new(TxnKey(0), Transaction { data: Vec::new(), last, tag: () }, identity);
        drop(held.stamped_parts(identity));
        let back = held.give_back().last.into_vec();
        assert_eq!(back.as_ptr(), at);
    }
}
