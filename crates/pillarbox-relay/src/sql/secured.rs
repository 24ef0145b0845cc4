//! TLS for the SQL connection: what the Postgres client needs to know of our TLS, and nothing else.
//!
//! Must never decide whether TLS is used; the settings do.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pillarbox_tls::Failure;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};

use crate::config;

/// How the client says that the server answered N. It has no other way to tell.
pub(super) const NOT_OFFERED: &str = "server does not support TLS";

/// Secures a connection as the settings say.
#[derive(Clone)]
pub(super) struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Connector {
    pub(super) fn new(settings: &config::Postgres) -> Result<Self, Failure> {
        let name = pillarbox_tls::server_name(&settings.host)?;
        Ok(Self { config: settings.tls.secured.client_config()?, name })
    }
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Stream;
    type TlsConnect = Self;
    type Error = Failure;

    fn make_tls_connect(&mut self, _: &str) -> Result<Self, Failure> {
        Ok(self.clone())
    }
}

impl TlsConnect<Socket> for Connector {
    type Stream = Stream;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Self::Error>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let connecting = tokio_rustls::TlsConnector::from(self.config).connect(self.name, socket);
            connecting.await.map(Stream).map_err(|error| match Failure::of_handshake(&error) {
                Some(failure) => failure.into(),
                None => error.into(),
            })
        })
    }
}

/// A secured connection.
pub(super) struct Stream(tokio_rustls::client::TlsStream<Socket>);

impl tokio_postgres::tls::TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        let certificate = self.0.get_ref().1.peer_certificates().and_then(<[_]>::first);
        certificate
            .and_then(|certificate| pillarbox_tls::server_end_point(certificate))
            .map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// What went wrong with TLS, from the cause of a client's error: during the handshake, or an alert after it.
pub(super) fn failure(source: &(dyn Error + 'static)) -> Option<Failure> {
    let own = source.downcast_ref::<Failure>().cloned();
    own.or_else(|| source.downcast_ref::<io::Error>().and_then(Failure::of_io))
}
