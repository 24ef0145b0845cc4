//! Asks an HTTP interface, a relay's or Kafka Connect's: one request, one answer, connection closed.
//!
//! Speaks HTTP/1.0, so that the answer ends where the connection ends. No redirects, no TLS, bounded
//! in time and size.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Verb;

/// How long a connection may take: the relay is on this machine or near it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a question may take: it is answered from memory.
const GET_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a verb may take: a pause commits what is open first.
const POST_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest answer: a status is about one kilobyte.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// `GET path`.
///
/// # Errors
/// Nobody listens there, or does not speak HTTP.
pub(crate) async fn get(address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    timeout(GET_TIMEOUT, exchange(address, "GET", path)).await?
}

/// Posts a verb.
///
/// # Errors
/// Nobody listens there, or does not speak HTTP.
pub(crate) async fn post(address: SocketAddr, verb: Verb) -> std::io::Result<Answer> {
    timeout(POST_TIMEOUT, exchange(address, "POST", verb.path())).await?
}

/// `GET path` of another program's HTTP interface; `more` is further lines of the head, each ended.
///
/// # Errors
/// Nobody listens there, or does not speak HTTP.
pub(crate) async fn get_from(host: &str, port: u16, path: &str, more: &str) -> std::io::Result<Answer> {
    let asked = async {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await??;
        ask(stream, &format!("GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n{more}\r\n")).await
    };
    timeout(GET_TIMEOUT, asked).await?
}

async fn exchange(address: SocketAddr, method: &str, path: &str) -> std::io::Result<Answer> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(reachable(address))).await??;
    ask(stream, &format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n")).await
}

async fn ask(mut stream: TcpStream, request: &str) -> std::io::Result<Answer> {
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await?;
    parse(&bytes).ok_or_else(|| std::io::Error::other("the answer is not HTTP"))
}

/// Where to connect: a relay that listens on every address is asked on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback =
            if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    address
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut words = head.lines().next()?.split(' ');
    let status = words.next().filter(|version| version.starts_with("HTTP/1.")).and(words.next())?;
    Some(Answer { status: status.parse().ok()?, body: bytes[end + 4..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let answer = parse(b"HTTP/1.0 503 Service Unavailable\r\na: b\r\n\r\nhalted\n").unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (503, b"halted\n".as_slice()));
        for wrong in ["", "HTTP/1.0 200 OK\r\n", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 x\r\n\r\n"] {
            assert!(parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }

    #[test]
    fn an_unspecified_address_is_asked_on_loopback() {
        assert_eq!(reachable("0.0.0.0:1".parse().unwrap()), "127.0.0.1:1".parse().unwrap());
        assert_eq!(reachable("[::]:1".parse().unwrap()), "[::1]:1".parse().unwrap());
        assert_eq!(reachable("10.0.0.1:1".parse().unwrap()), "10.0.0.1:1".parse().unwrap());
    }
}
