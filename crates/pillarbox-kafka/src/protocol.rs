//! The apis this client calls, each tied to its answer and to the versions we speak.
//!
//! The codec's own `Request` trait exists only where broker-side code is compiled in; this one asks for less. A
//! range narrower than the codec's says why.

use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, ApiKey, ApiVersionsRequest, ApiVersionsResponse,
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteRecordsRequest, DeleteRecordsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    DescribeConfigsRequest, DescribeConfigsResponse, DescribeProducersRequest, DescribeProducersResponse,
    DescribeTransactionsRequest, DescribeTransactionsResponse, EndTxnRequest, EndTxnResponse, FetchRequest,
    FetchResponse, FindCoordinatorRequest, FindCoordinatorResponse, InitProducerIdRequest,
    InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
    ProduceRequest, ProduceResponse, SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest,
    SaslHandshakeResponse, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};

/// A request type, its answer and the versions we are able to send.
pub(crate) trait Call: Encodable + HeaderVersion {
    /// Api key on the wire.
    const API: ApiKey;
    /// Lowest and highest version we speak, both inclusive.
    const VERSIONS: (i16, i16);
    /// What the broker sends back.
    type Answer: Decodable + HeaderVersion;
}

macro_rules! calls {
    ($($api:ident: $request:ty => $answer:ty, $min:literal ..= $max:literal;)*) => {
        $(impl Call for $request {
            const API: ApiKey = ApiKey::$api;
            const VERSIONS: (i16, i16) = ($min, $max);
            type Answer = $answer;
        })*
    };
}

calls! {
    ApiVersions: ApiVersionsRequest => ApiVersionsResponse, 0..=4;
    // v1 is followed by SaslAuthenticate; v0 by bare messages.
    SaslHandshake: SaslHandshakeRequest => SaslHandshakeResponse, 1..=1;
    // From v1 on: the life of the session (KIP-368).
    SaslAuthenticate: SaslAuthenticateRequest => SaslAuthenticateResponse, 1..=2;
    // From v10 on: topic ids.
    Metadata: MetadataRequest => MetadataResponse, 10..=13;
    // From v3 on: expected producer id and epoch (KIP-360).
    InitProducerId: InitProducerIdRequest => InitProducerIdResponse, 3..=5;
    // From v5 on KIP-890: the answer carries the next producer id and epoch. The producer chooses within the range.
    EndTxn: EndTxnRequest => EndTxnResponse, 3..=5;
    // From v9 on flexible. v12 joins partitions to the transaction implicitly (KIP-890), v13 names topics by id. The
    // producer chooses within the range.
    Produce: ProduceRequest => ProduceResponse, 9..=13;
    // From v4 on for brokers among themselves.
    AddPartitionsToTxn: AddPartitionsToTxnRequest => AddPartitionsToTxnResponse, 0..=3;
    FindCoordinator: FindCoordinatorRequest => FindCoordinatorResponse, 2..=6;
    Fetch: FetchRequest => FetchResponse, 11..=17;
    ListOffsets: ListOffsetsRequest => ListOffsetsResponse, 4..=10;
    CreateTopics: CreateTopicsRequest => CreateTopicsResponse, 4..=7;
    DeleteTopics: DeleteTopicsRequest => DeleteTopicsResponse, 3..=6;
    DeleteRecords: DeleteRecordsRequest => DeleteRecordsResponse, 1..=2;
    CreatePartitions: CreatePartitionsRequest => CreatePartitionsResponse, 1..=3;
    DescribeConfigs: DescribeConfigsRequest => DescribeConfigsResponse, 1..=4;
    DescribeTransactions: DescribeTransactionsRequest => DescribeTransactionsResponse, 0..=0;
    DescribeProducers: DescribeProducersRequest => DescribeProducersResponse, 0..=0;
    WriteTxnMarkers: WriteTxnMarkersRequest => WriteTxnMarkersResponse, 1..=1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::protocol::Message;

    fn inside<C: Call + Message>() {
        let (min, max) = <C as Call>::VERSIONS;
        let codec = <C as Message>::VERSIONS;
        assert!(codec.min <= min && min <= max && max <= codec.max, "{:?}", C::API);
    }

    #[test]
    fn every_range_lies_inside_the_codecs() {
        inside::<ApiVersionsRequest>();
        inside::<SaslHandshakeRequest>();
        inside::<SaslAuthenticateRequest>();
        inside::<MetadataRequest>();
        inside::<InitProducerIdRequest>();
        inside::<EndTxnRequest>();
        inside::<AddPartitionsToTxnRequest>();
        inside::<ProduceRequest>();
        inside::<FindCoordinatorRequest>();
        inside::<FetchRequest>();
        inside::<ListOffsetsRequest>();
        inside::<CreateTopicsRequest>();
        inside::<DeleteTopicsRequest>();
        inside::<DeleteRecordsRequest>();
        inside::<CreatePartitionsRequest>();
        inside::<DescribeTransactionsRequest>();
        inside::<DescribeProducersRequest>();
        inside::<WriteTxnMarkersRequest>();
        inside::<DescribeConfigsRequest>();
    }
}
