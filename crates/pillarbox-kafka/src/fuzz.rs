//! What fuzzing feeds: the readers of everything that a broker says. Arbitrary bytes are a value or an error.
//!
//! Only with the feature `fuzz`. Must never do anything that the client does not do with what it receives, but for the
//! checksums, which are made right: a fuzzer cannot guess them.

use bytes::{Buf, Bytes};
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteRecordsRequest, DeleteTopicsRequest, DescribeConfigsRequest, DescribeProducersRequest,
    DescribeTransactionsRequest, EndTxnRequest, FetchRequest, FindCoordinatorRequest, InitProducerIdRequest,
    ListOffsetsRequest, MetadataRequest, ProduceRequest, SaslAuthenticateRequest, SaslHandshakeRequest,
    WriteTxnMarkersRequest,
};

use crate::connection::decode_answer;
use crate::protocol::Call;
use crate::reader::visible;

/// Where a batch's length, checksum and what that covers stand.
const LENGTH_AT: usize = 8;
const CRC_AT: usize = 17;
const COVERED_FROM: usize = 21;

type Decode = fn(Bytes, i16) -> bool;

/// Every answer, with the versions that we ask for.
const ANSWERS: [(Decode, (i16, i16)); 19] = [
    of::<ApiVersionsRequest>(),
    of::<SaslHandshakeRequest>(),
    of::<SaslAuthenticateRequest>(),
    of::<MetadataRequest>(),
    of::<FindCoordinatorRequest>(),
    of::<InitProducerIdRequest>(),
    of::<AddPartitionsToTxnRequest>(),
    of::<ProduceRequest>(),
    of::<EndTxnRequest>(),
    of::<FetchRequest>(),
    of::<ListOffsetsRequest>(),
    of::<CreateTopicsRequest>(),
    of::<DeleteTopicsRequest>(),
    of::<CreatePartitionsRequest>(),
    of::<DeleteRecordsRequest>(),
    of::<DescribeConfigsRequest>(),
    of::<DescribeProducersRequest>(),
    of::<DescribeTransactionsRequest>(),
    of::<WriteTxnMarkersRequest>(),
];

const fn of<Q: Call>() -> (Decode, (i16, i16)) {
    (|frame, version| decode_answer::<Q>(frame, version).is_some(), Q::VERSIONS)
}

/// An answer: the first byte chooses the request, the second its version, the rest is the frame. True if it decodes.
pub fn answer(bytes: &[u8]) -> bool {
    let Some(([request, version], frame)) = bytes.split_first_chunk() else { return false };
    let (decode, (lowest, highest)) = ANSWERS[usize::from(*request) % ANSWERS.len()];
    let version = lowest + i16::from(*version) % (highest - lowest + 1);
    decode(Bytes::copy_from_slice(frame), version)
}

/// The batches of a fetch. True if all of them decode.
pub fn records(bytes: &[u8]) -> bool {
    let mut log = bytes.to_vec();
    seal(&mut log);
    visible::records(log.into(), 0, vec![(1, 0)]).is_ok()
}

/// Gives every whole batch the checksum of what it holds.
fn seal(mut log: &mut [u8]) {
    while log.len() > COVERED_FROM {
        let announced = (&log[LENGTH_AT..]).get_i32();
        let Some(end) = usize::try_from(announced).ok().and_then(|length| length.checked_add(LENGTH_AT + 4))
        else {
            return;
        };
        if end <= COVERED_FROM || end > log.len() {
            return;
        }
        let (batch, rest) = log.split_at_mut(end);
        let crc = crc32c::crc32c(&batch[COVERED_FROM..]);
        batch[CRC_AT..COVERED_FROM].copy_from_slice(&crc.to_be_bytes());
        log = rest;
    }
}
