//! The single place where a byte stream to a broker is made: TCP with `TCP_NODELAY`, plain or secured.
//!
//! It never sends a byte of its own.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use pillarbox_tls::{Failure, Tls};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::client::TlsStream;

use crate::error::Error;

/// Bytes from the broker.
pub(crate) enum ByteReader {
    Plain(OwnedReadHalf),
    Secured(ReadHalf<TlsStream<TcpStream>>),
}

/// Bytes to the broker.
pub(crate) enum ByteWriter {
    Plain(OwnedWriteHalf),
    Secured(WriteHalf<TlsStream<TcpStream>>),
}

/// Connects to `host:port`.
pub(crate) async fn open(broker: &str, tls: Option<&Tls>) -> Result<(ByteReader, ByteWriter), Error> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::InvalidInput => Error::BrokerAddress { address: broker.to_owned() },
        kind => Error::Connect { broker: broker.to_owned(), kind },
    };
    let stream = TcpStream::connect(broker).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let Some(tls) = tls else {
        let (reader, writer) = stream.into_split();
        return Ok((ByteReader::Plain(reader), ByteWriter::Plain(writer)));
    };
    let refused = |failure| Error::Tls { broker: broker.to_owned(), failure };
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
    let name = pillarbox_tls::server_name(host.trim_matches(['[', ']'])).map_err(refused)?;
    let connector = tokio_rustls::TlsConnector::from(tls.client_config().map_err(refused)?);
    match connector.connect(name, stream).await {
        Ok(stream) => {
            let (reader, writer) = tokio::io::split(stream);
            Ok((ByteReader::Secured(reader), ByteWriter::Secured(writer)))
        }
        Err(error) => Err(Failure::of_handshake(&error).map_or_else(|| failed(error), refused)),
    }
}

impl AsyncRead for ByteReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_read(cx, buffer),
            Self::Secured(half) => Pin::new(half).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ByteWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_write(cx, bytes),
            Self::Secured(half) => Pin::new(half).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_write_vectored(cx, slices),
            Self::Secured(half) => Pin::new(half).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(half) => half.is_write_vectored(),
            Self::Secured(half) => half.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_flush(cx),
            Self::Secured(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(half) => Pin::new(half).poll_shutdown(cx),
            Self::Secured(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}
