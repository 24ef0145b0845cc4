//! One blocking HTTP exchange with a server on loopback, for its REST or status pages. HTTP/1.0, connection closed.
//! Not for anything that a test is about. Must never retry.

use std::io::{Error, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// Sends a request, `body` as JSON; gives status code and body of the answer.
pub fn exchange(
    port: u16,
    method: &str,
    path: &str,
    body: &str,
    answer_max: Duration,
) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), answer_max)?;
    stream.set_read_timeout(Some(answer_max))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let broken = || Error::other("the answer is not HTTP");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(broken)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(broken)?;
    Ok((code, body.to_owned()))
}
