//! The tasks of a proxy: one that accepts, one a connection. All end with the proxy's runtime; a connection's task also
//! ends with both its lanes or a reset, and nobody waits for it.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::Protocol;
use super::lane::{self, Writer};
use super::link::{Link, Shared};
use super::weather::{Direction, Kind};

/// Starts to accept.
pub(super) fn accept(runtime: &Runtime, shared: Arc<Shared>, listener: TcpListener) {
    let accepting = async move {
        loop {
            // Out of descriptors, say: the next one may go well.
            let Ok((client, _)) = listener.accept().await else { continue };
            tokio::spawn(connection(Arc::clone(&shared), client));
        }
    };
    runtime.spawn(accepting);
}

async fn connection(shared: Arc<Shared>, client: TcpStream) {
    let mut target = shared.target.subscribe();
    let Ok(Some(address)) = target.wait_for(Option::is_some).await.map(|address| *address) else { return };
    let Ok(server) = connect(address, &client).await else {
        let _ = sockopt::set_socket_linger(&client, Some(std::time::Duration::ZERO));
        return;
    };
    let kind = (shared.protocol != Protocol::Postgres).then_some(Kind::Plain);
    let link = Arc::new(Link::new(client, server, kind));
    shared.add(&link);
    let seed = RandomState::new().hash_one(address);
    tokio::select! {
        () = link.until_reset() => {}
        _ = async {
            tokio::join!(
                lane(&shared, &link, Direction::ToServer, seed),
                lane(&shared, &link, Direction::ToClient, !seed),
            )
        } => {}
    }
}

async fn connect(address: SocketAddr, client: &TcpStream) -> std::io::Result<TcpStream> {
    let server = TcpStream::connect(address).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    Ok(server)
}

async fn lane(shared: &Shared, link: &Link, direction: Direction, seed: u64) {
    let (filled, emptied) = lane::queue();
    let writer = Writer::new(shared, link, direction, seed);
    tokio::join!(lane::read(shared, link, direction, filled), writer.run(emptied));
}
