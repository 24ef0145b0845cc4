//! ApiVersions on a fresh stream. Whatever is not a Kafka answer means that the port speaks something else.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest};
use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};
use pillarbox_tls::Failure;

use super::driver::{read_frame, write_all};
use super::stream::{ByteReader, ByteWriter};
use super::{Head, Versions, decode_answer};
use crate::error::{Error, ErrorCode};
use crate::protocol::Call;

/// The versions that the broker speaks.
pub(super) async fn handshake(
    broker: &str,
    client_id: &str,
    reader: &mut ByteReader,
    writer: &mut ByteWriter,
) -> Result<Versions, Error> {
    let secured = matches!(reader, ByteReader::Secured(_));
    let foreign = |error: io::Error| match Failure::of_io(&error) {
        Some(failure) => Error::Tls { broker: broker.to_owned(), failure },
        None if secured => Error::Tls { broker: broker.to_owned(), failure: Failure::Closed },
        None => Error::TlsOrSaslExpected { broker: broker.to_owned() },
    };
    let malformed = || Error::TlsOrSaslExpected { broker: broker.to_owned() };
    let mut version = ApiVersionsRequest::VERSIONS.1;
    loop {
        let frame = exchange(client_id, version, reader, writer).await.map_err(foreign)?;
        // A broker that does not know the version answers in version 0, with code 35 and its range.
        let code = frame.get(4..6).map(|mut code| code.get_i16()).ok_or_else(malformed)?;
        match ErrorCode(code) {
            ErrorCode::NONE => {
                let answer = decode_answer::<ApiVersionsRequest>(frame, version).ok_or_else(malformed)?;
                return Ok(Versions::from_answer(&answer));
            }
            ErrorCode::UNSUPPORTED_VERSION if version > 0 => {
                let answer = decode_answer::<ApiVersionsRequest>(frame, 0).ok_or_else(malformed)?;
                let offered = Versions::from_answer(&answer).pick(ApiKey::ApiVersions, (0, version - 1));
                version = offered.unwrap_or(0);
            }
            code => return Err(Error::Api { api: ApiKey::ApiVersions, object: broker.to_owned(), code }),
        }
    }
}

async fn exchange(
    client_id: &str,
    version: i16,
    reader: &mut ByteReader,
    writer: &mut ByteWriter,
) -> io::Result<Bytes> {
    let request = ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str("pillarbox"))
        .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
    let mut body = BytesMut::new();
    request.encode(&mut body, version).map_err(|_| io::ErrorKind::InvalidInput)?;
    let head = Head {
        api: ApiKey::ApiVersions,
        version,
        header_version: ApiVersionsRequest::header_version(version),
        correlation: -1,
        client_id,
    };
    let head = head.encode(body.len()).ok_or(io::ErrorKind::InvalidInput)?;
    let written = write_all(writer, &[head, body.freeze()]).await;
    // A broker that does not like our certificate says so after the handshake, and then hangs up: its word is
    // there to be read even where nothing can be written any more.
    let answer = read_frame(reader, &mut BytesMut::new()).await;
    match (written, answer) {
        (Err(error), Err(told)) if Failure::of_io(&told).is_none() => Err(error),
        (_, answer) => answer,
    }
}
