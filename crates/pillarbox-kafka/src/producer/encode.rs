//! The body of a Produce request, written around the batches instead of over them: no batch is copied.
//!
//! Versions 9 to 12 (topics by name) and 13 (by id) only; all are "flexible" (compact lengths, tagged fields). The
//! codec's encoder is the oracle in the tests. Pure.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::TopicRef;

/// Produce version from which topics are named by id.
pub(crate) const PRODUCE_BY_ID: i16 = 13;

/// acks: all in-sync replicas.
const ACKS_ALL: i16 = -1;

/// One stamped batch.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) topic: Arc<TopicRef>,
    pub(crate) partition: i32,
    pub(crate) bytes: Bytes,
}

/// The body in pieces; the batches are among them as they are.
pub(crate) fn produce_body(
    version: i16,
    transactional_id: &str,
    timeout_ms: i32,
    parts: &[&Part],
) -> Vec<Bytes> {
    let topics = by_topic(parts);
    let mut body =
        Pieces { pieces: Vec::with_capacity(2 * parts.len() + 1), open: BytesMut::with_capacity(256) };
    body.open.reserve(64 * parts.len());
    compact_string(&mut body.open, transactional_id);
    body.open.put_i16(ACKS_ALL);
    body.open.put_i32(timeout_ms);
    uvarint(&mut body.open, topics.len() + 1);
    for (topic, parts) in topics {
        match version >= PRODUCE_BY_ID {
            true => body.open.put_slice(topic.id.as_bytes()),
            false => compact_string(&mut body.open, &topic.name),
        }
        uvarint(&mut body.open, parts.len() + 1);
        for part in parts {
            body.open.put_i32(part.partition);
            uvarint(&mut body.open, part.bytes.len() + 1);
            body.insert(part.bytes.clone());
            uvarint(&mut body.open, 0);
        }
        uvarint(&mut body.open, 0);
    }
    uvarint(&mut body.open, 0);
    body.finish()
}

/// Grouped by topic in order of first appearance.
fn by_topic<'a>(parts: &[&'a Part]) -> Vec<(&'a TopicRef, Vec<&'a Part>)> {
    let mut topics: Vec<(&TopicRef, Vec<&Part>)> = Vec::new();
    for part in parts {
        match topics.iter_mut().find(|(topic, _)| **topic == *part.topic) {
            Some((_, parts)) => parts.push(part),
            None => topics.push((&part.topic, vec![part])),
        }
    }
    topics
}

struct Pieces {
    pieces: Vec<Bytes>,
    open: BytesMut,
}

impl Pieces {
    fn insert(&mut self, bytes: Bytes) {
        self.pieces.push(self.open.split().freeze());
        self.pieces.push(bytes);
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.pieces.push(self.open.freeze());
        self.pieces
    }
}

fn compact_string(into: &mut BytesMut, text: &str) {
    uvarint(into, text.len() + 1);
    into.put_slice(text.as_bytes());
}

fn uvarint(into: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        into.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    into.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
    use kafka_protocol::messages::{ProduceRequest, TopicName, TransactionalId};
    use kafka_protocol::protocol::{Encodable, StrBytes};
    use uuid::Uuid;

    fn text(value: &str) -> StrBytes {
        StrBytes::from_string(value.to_owned())
    }

    fn part(topic: &Arc<TopicRef>, partition: i32, length: usize) -> Part {
        Part { topic: Arc::clone(topic), partition, bytes: Bytes::from(vec![7; length]) }
    }

    fn codec(version: i16, topics: &[(&TopicRef, Vec<&Part>)]) -> Vec<u8> {
        let data = topics.iter().map(|(topic, parts)| {
            let partitions = parts.iter().map(|part| {
                PartitionProduceData::default()
                    .with_index(part.partition)
                    .with_records(Some(part.bytes.clone()))
            });
            TopicProduceData::default()
                .with_name(TopicName(text(&topic.name)))
                .with_topic_id(topic.id)
                .with_partition_data(partitions.collect())
        });
        let request = ProduceRequest::default()
            .with_transactional_id(Some(TransactionalId(text("pillarbox.t.0"))))
            .with_acks(-1)
            .with_timeout_ms(1_234)
            .with_topic_data(data.collect());
        let mut expected = BytesMut::new();
        request.encode(&mut expected, version).unwrap();
        expected.to_vec()
    }

    #[test]
    fn bytes_are_the_codecs() {
        let a = Arc::new(TopicRef { name: "orders".to_owned(), id: Uuid::from_u128(1) });
        let b = Arc::new(TopicRef { name: "x".repeat(200), id: Uuid::from_u128(2) });
        let parts = [part(&a, 0, 100), part(&b, 3, 0), part(&a, 1, 20_000)];
        let refs: Vec<&Part> = parts.iter().collect();
        let grouped = [(&*a, vec![&parts[0], &parts[2]]), (&*b, vec![&parts[1]])];
        for version in 9..=13 {
            let ours = produce_body(version, "pillarbox.t.0", 1_234, &refs).concat();
            assert_eq!(ours, codec(version, &grouped), "version {version}");
        }
    }
}
