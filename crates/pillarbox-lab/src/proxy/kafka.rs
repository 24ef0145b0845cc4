//! Kafka as far as triggers need it: the head of every request, and in four of them and their answers a little more.
//!
//! Written against <https://kafka.apache.org/protocol>. Must never decode a record.

use bytes::Bytes;
use kafka_protocol::messages::{
    AddPartitionsToTxnResponse, ApiKey, EndTxnResponse, InitProducerIdResponse, ProduceResponse,
    ResponseHeader,
};
use kafka_protocol::protocol::Decodable;
use uuid::Uuid;

use super::cursor::Cursor;

/// Produce names topics by id from here on.
const PRODUCE_BY_ID: i16 = 13;
/// Requests with compact lengths: since these versions.
const PRODUCE_FLEXIBLE: i16 = 9;
const END_TXN_FLEXIBLE: i16 = 3;

/// A request, as sent.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) api: i16,
    pub(super) version: i16,
    pub(super) correlation: i32,
    /// All of it, its length included.
    pub(super) frame: Bytes,
}

/// A frame is a length and so many bytes.
pub(super) const LENGTH_BYTES: usize = 4;

impl Request {
    pub(super) fn parse(frame: Bytes) -> Option<Self> {
        let mut head = Cursor(frame.get(LENGTH_BYTES..)?);
        let (api, version, correlation) = (head.i16()?, head.i16()?, head.i32()?);
        Some(Self { api, version, correlation, frame })
    }

    /// What stands behind the head, with compact lengths.
    fn body(&self) -> Option<Cursor<'_>> {
        let mut cursor = Cursor(self.frame.get(LENGTH_BYTES + 8..)?);
        cursor.string()?;
        cursor.tags()?;
        Some(cursor)
    }

    /// Whether an EndTxn commits; none where it is something else.
    pub(super) fn commits(&self) -> Option<bool> {
        if self.api != ApiKey::EndTxn as i16 || self.version < END_TXN_FLEXIBLE {
            return None;
        }
        let mut body = self.body()?;
        body.compact()?;
        body.i64()?;
        body.i16()?;
        Some(body.u8()? != 0)
    }

    /// Whether a Produce writes to this topic.
    pub(super) fn produces_to(&self, name: &str, id: Uuid) -> bool {
        self.api == ApiKey::Produce as i16 && self.topics(name, id).unwrap_or(false)
    }

    fn topics(&self, name: &str, id: Uuid) -> Option<bool> {
        if self.version < PRODUCE_FLEXIBLE {
            return None;
        }
        let mut body = self.body()?;
        body.compact()?;
        body.i16()?;
        body.i32()?;
        for _ in 1..body.uvarint()? {
            let found = match self.version >= PRODUCE_BY_ID {
                true => body.take(16)? == id.as_bytes(),
                false => body.compact()? == Some(name.as_bytes()),
            };
            if found {
                return Some(true);
            }
            for _ in 1..body.uvarint()? {
                body.i32()?;
                body.compact()?;
                body.tags()?;
            }
            body.tags()?;
        }
        Some(false)
    }
}

/// The correlation id of an answer.
pub(super) fn answered(frame: &[u8]) -> Option<i32> {
    Cursor(frame.get(LENGTH_BYTES..)?).i32()
}

/// The different codes in an answer to a request of this api and version; none where it is not looked into.
pub(super) fn codes(api: i16, version: i16, frame: &Bytes) -> Vec<i16> {
    let mut codes = read_codes(api, version, frame).unwrap_or_default();
    codes.sort_unstable();
    codes.dedup();
    codes
}

fn read_codes(api: i16, version: i16, frame: &Bytes) -> Option<Vec<i16>> {
    let api = ApiKey::try_from(api).ok()?;
    let mut rest = frame.slice(LENGTH_BYTES.min(frame.len())..);
    ResponseHeader::decode(&mut rest, api.response_header_version(version)).ok()?;
    let rest = &mut rest;
    Some(match api {
        ApiKey::Produce => {
            let answer = ProduceResponse::decode(rest, version).ok()?;
            let partitions = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
            partitions.map(|partition| partition.error_code).collect()
        }
        ApiKey::EndTxn => vec![EndTxnResponse::decode(rest, version).ok()?.error_code],
        ApiKey::InitProducerId => vec![InitProducerIdResponse::decode(rest, version).ok()?.error_code],
        ApiKey::AddPartitionsToTxn => {
            let answer = AddPartitionsToTxnResponse::decode(rest, version).ok()?;
            let topics = answer.results_by_topic_v3_and_below;
            let partitions = topics.iter().flat_map(|topic| &topic.results_by_partition);
            partitions.map(|partition| partition.partition_error_code).collect()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
    use kafka_protocol::messages::{EndTxnRequest, ProduceRequest, RequestHeader, TopicName};
    use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};

    use super::*;

    fn request<Q: Encodable + HeaderVersion>(api: ApiKey, version: i16, request: &Q) -> Request {
        let mut body = BytesMut::new();
        let header = RequestHeader::default()
            .with_request_api_key(api as i16)
            .with_request_api_version(version)
            .with_correlation_id(7)
            .with_client_id(Some(StrBytes::from_static_str("somebody")));
        header.encode(&mut body, Q::header_version(version)).expect("a header");
        request.encode(&mut body, version).expect("a body");
        let mut frame = BytesMut::new();
        frame.put_i32(i32::try_from(body.len()).expect("short"));
        frame.extend_from_slice(&body);
        Request::parse(frame.freeze()).expect("a request")
    }

    #[test]
    fn an_end_says_which() {
        for (version, commit) in [(3, true), (4, false), (5, true), (5, false)] {
            let end = EndTxnRequest::default().with_producer_epoch(3).with_committed(commit);
            let end = request(ApiKey::EndTxn, version, &end);
            assert_eq!((end.api, end.version, end.correlation), (26, version, 7));
            assert_eq!(end.commits(), Some(commit), "version {version}");
        }
    }

    #[test]
    fn a_produce_says_where() {
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for version in [9, 11, 12, 13] {
            let topic = |name: &str, id| {
                let named = TopicProduceData::default().with_partition_data(vec![
                    PartitionProduceData::default().with_records(Some(Bytes::from_static(b"12345"))),
                    PartitionProduceData::default().with_index(1).with_records(Some(Bytes::new())),
                ]);
                match version >= PRODUCE_BY_ID {
                    true => named.with_topic_id(id),
                    false => named.with_name(TopicName(StrBytes::from_string(name.to_owned()))),
                }
            };
            let topics = vec![topic("one", one), topic("two", two)];
            let produce =
                request(ApiKey::Produce, version, &ProduceRequest::default().with_topic_data(topics));
            assert!(produce.produces_to("one", one) && produce.produces_to("two", two), "version {version}");
            assert!(!produce.produces_to("three", Uuid::from_u128(3)), "version {version}");
            assert_eq!(produce.commits(), None);
        }
    }

    #[test]
    fn no_prefix_of_a_request_panics() {
        let end = request(ApiKey::EndTxn, 5, &EndTxnRequest::default());
        // The last byte, no tagged fields, is not looked at.
        for length in 0..end.frame.len() - 1 {
            if let Some(request) = Request::parse(end.frame.slice(..length)) {
                assert_eq!(request.commits(), None, "{length} bytes");
                assert!(!request.produces_to("one", Uuid::nil()));
            }
            assert!(codes(26, 5, &end.frame.slice(..length)).len() <= 1);
        }
    }
}
