//! One blocking request to one broker, for readiness, topics and groups. Not the product's client: it makes a connection per
//! request, so that it can never hide a fault of that client. Must never retry by itself.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::{
    ApiKey, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    DescribeGroupsRequest, DescribeGroupsResponse, GroupId, LeaveGroupRequest, LeaveGroupResponse,
    MetadataRequest, MetadataResponse, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};

use crate::LabError;

/// Longest wait for one answer: a topic on three brokers that share a core with a compiler.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Largest answer taken: metadata of thousands of partitions is far below it.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Versions that Kafka 3.9 to 4.3 all serve.
const METADATA_VERSION: i16 = 12;
const CREATE_TOPICS_VERSION: i16 = 7;
const DELETE_TOPICS_VERSION: i16 = 6;
const DESCRIBE_GROUPS_VERSION: i16 = 5;
const LEAVE_GROUP_VERSION: i16 = 5;

/// Sends a request to the broker on this loopback port and waits for the answer.
fn call<Q, A>(port: u16, api: ApiKey, version: i16, request: &Q) -> Result<A, LabError>
where
    Q: Encodable + HeaderVersion,
    A: Decodable + HeaderVersion,
{
    let failed = |what: &str| LabError::Kafka { what: format!("{api:?}: {what}") };
    let header = RequestHeader::default()
        .with_request_api_key(api as i16)
        .with_request_api_version(version)
        .with_correlation_id(1)
        .with_client_id(Some(StrBytes::from_static_str("pillarbox-lab")));
    let mut body = BytesMut::new();
    header.encode(&mut body, Q::header_version(version)).map_err(|_| failed("header not encoded"))?;
    request.encode(&mut body, version).map_err(|_| failed("request not encoded"))?;
    let mut answer = exchange(port, &body).map_err(|e| failed(&e.to_string()))?;
    ResponseHeader::decode(&mut answer, A::header_version(version))
        .map_err(|_| failed("answer not understood"))?;
    A::decode(&mut answer, version).map_err(|_| failed("answer not understood"))
}

/// Sends one length-prefixed frame and reads one back.
fn exchange(port: u16, body: &[u8]) -> std::io::Result<Bytes> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    stream.set_nodelay(true)?;
    let length = u32::try_from(body.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), body].concat())?;
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    let length = prefix.as_slice().get_u32() as usize;
    if length > ANSWER_BYTES_MAX {
        return Err(std::io::Error::other("answer too large"));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(Bytes::from(answer))
}

/// Metadata as the broker on this port sees it; of all topics, or of none.
pub(super) fn metadata(port: u16, topics: bool) -> Result<MetadataResponse, LabError> {
    let wanted = if topics { None } else { Some(Vec::new()) };
    let request = MetadataRequest::default().with_topics(wanted).with_allow_auto_topic_creation(false);
    call(port, ApiKey::Metadata, METADATA_VERSION, &request)
}

/// Creates one topic through this broker.
pub(super) fn create_topic(
    port: u16,
    name: &str,
    partitions: u32,
    replicas: u16,
    configs: &[(&str, &str)],
) -> Result<(), LabError> {
    let text = |s: &str| StrBytes::from_string(s.to_owned());
    let config = |(key, value): &(&str, &str)| {
        CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value)))
    };
    let number = |_| LabError::Option { what: format!("topic {name}: too many partitions or replicas") };
    let topic = CreatableTopic::default()
        .with_name(TopicName(text(name)))
        .with_num_partitions(i32::try_from(partitions).map_err(number)?)
        .with_replication_factor(i16::try_from(replicas).map_err(number)?)
        .with_configs(configs.iter().map(config).collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(timeout_ms());
    let answer: CreateTopicsResponse = call(port, ApiKey::CreateTopics, CREATE_TOPICS_VERSION, &request)?;
    refused("create", name, answer.topics.first().map(|t| t.error_code))
}

/// Deletes one topic through this broker.
pub(super) fn delete_topic(port: u16, name: &str) -> Result<(), LabError> {
    let topic = TopicName(StrBytes::from_string(name.to_owned()));
    let request = DeleteTopicsRequest::default()
        .with_topics(vec![DeleteTopicState::default().with_name(Some(topic))])
        .with_timeout_ms(timeout_ms());
    let answer: DeleteTopicsResponse = call(port, ApiKey::DeleteTopics, DELETE_TOPICS_VERSION, &request)?;
    refused("delete", name, answer.responses.first().map(|t| t.error_code))
}

/// Members of a classic group as its coordinator, this broker, knows them.
pub(super) fn group_members(port: u16, group: &str) -> Result<Vec<StrBytes>, LabError> {
    let request = DescribeGroupsRequest::default().with_groups(vec![group_id(group)]);
    let answer: DescribeGroupsResponse =
        call(port, ApiKey::DescribeGroups, DESCRIBE_GROUPS_VERSION, &request)?;
    Ok(answer.groups.into_iter().flat_map(|group| group.members).map(|member| member.member_id).collect())
}

/// Takes members out of a group, as if each had left.
pub(super) fn leave_group(port: u16, group: &str, members: Vec<StrBytes>) -> Result<(), LabError> {
    let identity = |member| MemberIdentity::default().with_member_id(member);
    let request = LeaveGroupRequest::default()
        .with_group_id(group_id(group))
        .with_members(members.into_iter().map(identity).collect());
    let answer: LeaveGroupResponse = call(port, ApiKey::LeaveGroup, LEAVE_GROUP_VERSION, &request)?;
    match answer.error_code {
        0 => Ok(()),
        code => Err(LabError::Kafka { what: format!("cannot empty group {group}: error {code}") }),
    }
}

fn group_id(name: &str) -> GroupId {
    GroupId(StrBytes::from_string(name.to_owned()))
}

/// The broker's own time limit for a request: shorter than ours, so that its answer arrives.
fn timeout_ms() -> i32 {
    i32::try_from((ANSWER_MAX / 2).as_millis()).unwrap_or(i32::MAX)
}

/// Turns an error code into an error.
fn refused(action: &str, name: &str, code: Option<i16>) -> Result<(), LabError> {
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(LabError::Kafka { what: format!("cannot {action} topic {name}: error {code}") }),
        None => Err(LabError::Kafka { what: format!("cannot {action} topic {name}: no answer for it") }),
    }
}
