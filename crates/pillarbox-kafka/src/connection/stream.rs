//! The single place where a byte stream to a broker is made: TCP with `TCP_NODELAY`.
//!
//! Encryption and authentication belong here: a TLS stream would be split into the same two halves. It never
//! sends a byte of its own.

use std::io;

use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes from the broker.
pub(crate) type ByteReader = OwnedReadHalf;
/// Bytes to the broker.
pub(crate) type ByteWriter = OwnedWriteHalf;

/// Connects to `host:port`.
pub(crate) async fn open(address: &str) -> io::Result<(ByteReader, ByteWriter)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream.into_split())
}
