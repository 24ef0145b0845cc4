//! The log of a partition: batches, markers, what is open, what each producer wrote last.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use pillarbox_kafka::ErrorCode;
use pillarbox_kafka::reader::Record;
use pillarbox_relay::position::checkpoint::PositionRecord;
use pillarbox_wire::record_batch::ProducerIdentity;

use crate::records::EventRecord;

/// What a batch holds.
#[derive(Debug)]
pub(crate) enum Batch {
    Events(Vec<EventRecord>),
    /// Keys and values, and the position among them.
    Checkpoint(Vec<(Vec<u8>, Vec<u8>)>, Box<PositionRecord>),
}

impl Batch {
    pub(crate) fn len(&self) -> i32 {
        match self {
            Self::Events(events) => events.len() as i32,
            Self::Checkpoint(records, _) => records.len() as i32,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Data {
    pub(crate) offset: i64,
    pub(crate) identity: ProducerIdentity,
    sequence: i32,
    pub(crate) batch: Rc<Batch>,
    /// As its marker says.
    pub(crate) committed: Option<bool>,
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) data: Vec<Data>,
    end: i64,
    /// By producer id: epoch and next sequence.
    producers: BTreeMap<i64, (i16, i32)>,
    /// By producer id: epoch of the open transaction and its first entry in `data`.
    open: BTreeMap<i64, (i16, usize)>,
}

impl Log {
    pub(crate) fn end(&self) -> i64 {
        self.end
    }

    /// The last stable offset.
    pub(crate) fn stable(&self) -> i64 {
        self.open.values().map(|(_, first)| self.data[*first].offset).min().unwrap_or(self.end)
    }

    /// The entry in `data` before which everything is decided.
    pub(crate) fn stable_entry(&self) -> usize {
        self.open.values().map(|(_, first)| *first).min().unwrap_or(self.data.len())
    }

    pub(crate) fn is_open(&self, identity: ProducerIdentity) -> bool {
        self.open.get(&identity.producer_id).is_some_and(|(epoch, _)| *epoch == identity.producer_epoch)
    }

    /// Identities with an open transaction.
    pub(crate) fn open(&self) -> impl Iterator<Item = ProducerIdentity> {
        self.open.iter().map(|(producer_id, (epoch, _))| ProducerIdentity {
            producer_id: *producer_id,
            producer_epoch: *epoch,
        })
    }

    /// Whether the epoch is not an old one here.
    pub(crate) fn admits(&self, identity: ProducerIdentity) -> Result<(), ErrorCode> {
        match self.producers.get(&identity.producer_id) {
            Some((epoch, _)) if identity.producer_epoch < *epoch => Err(ErrorCode::INVALID_PRODUCER_EPOCH),
            _ => Ok(()),
        }
    }

    /// Appends, unless it is here already.
    pub(crate) fn append(
        &mut self,
        identity: ProducerIdentity,
        sequence: i32,
        batch: &Rc<Batch>,
    ) -> Result<i64, ErrorCode> {
        let ProducerIdentity { producer_id, producer_epoch } = identity;
        let copy = self
            .data
            .iter()
            .rev()
            .take(5)
            .find(|data| data.identity == identity && data.sequence == sequence);
        if let Some(copy) = copy {
            return Ok(copy.offset);
        }
        let expected = match self.producers.get(&producer_id) {
            Some((epoch, next)) if *epoch == producer_epoch => *next,
            _ => 0,
        };
        if sequence != expected {
            return Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        }
        let offset = self.end;
        self.end += i64::from(batch.len());
        self.producers.insert(producer_id, (producer_epoch, sequence + batch.len()));
        self.open.entry(producer_id).or_insert((producer_epoch, self.data.len()));
        self.data.push(Data { offset, identity, sequence, batch: Rc::clone(batch), committed: None });
        Ok(offset)
    }

    /// The marker of a transaction that was written under `identity`; `epoch` is the coordinator's by now.
    pub(crate) fn end_transaction(&mut self, identity: ProducerIdentity, epoch: i16, commit: bool) {
        self.mark(identity, commit);
        let kept = self.producers.entry(identity.producer_id).or_insert((epoch, 0));
        if kept.0 < epoch {
            *kept = (epoch, 0);
        }
    }

    /// A marker for what is open under this identity.
    pub(crate) fn mark(&mut self, identity: ProducerIdentity, commit: bool) {
        self.end += 1;
        let Some((_, first)) = self.open.remove(&identity.producer_id) else { return };
        for data in &mut self.data[first..] {
            if data.identity.producer_id == identity.producer_id && data.committed.is_none() {
                data.committed = Some(commit);
            }
        }
    }

    /// The batches of an open transaction.
    pub(crate) fn open_data(&self, identity: ProducerIdentity) -> impl Iterator<Item = &Rc<Batch>> {
        let first = self.open.get(&identity.producer_id).map_or(self.data.len(), |(_, first)| *first);
        let ours = move |data: &&Data| data.identity == identity && data.committed.is_none();
        self.data[first..].iter().filter(ours).map(|data| &data.batch)
    }

    /// Committed checkpoint records of `from..to`.
    pub(crate) fn committed_records(&self, from: i64, to: i64) -> Vec<Record> {
        let begins = self.data.partition_point(|data| data.offset + i64::from(data.batch.len()) <= from);
        let mut records = Vec::new();
        for data in self.data[begins..].iter().filter(|data| data.committed == Some(true)) {
            let Batch::Checkpoint(pairs, _) = &*data.batch else { continue };
            for (at, (key, value)) in pairs.iter().enumerate() {
                let offset = data.offset + at as i64;
                if (from..to).contains(&offset) {
                    records.push(Record {
                        offset,
                        timestamp_ms: 0,
                        key: Some(Bytes::copy_from_slice(key)),
                        value: Some(Bytes::copy_from_slice(value)),
                        headers: Vec::new(),
                    });
                }
            }
        }
        records
    }
}
