//! Free TCP ports on loopback. A port is free when it was looked at, not for ever: callers that start a
//! server on it try again with another when the server says it is taken.

use std::net::{Ipv4Addr, TcpListener};

use crate::LabError;

/// Starts tried with other ports before giving up: a collision needs two tests to pick the same port within
/// one server start, so three in a row mean something else is wrong.
pub(crate) const STARTS_MAX: usize = 3;

/// `count` different ports nobody listens on at this moment, on 127.0.0.1.
pub fn free(count: usize) -> Result<Vec<u16>, LabError> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held: Vec<TcpListener> =
        (0..count).map(bind).collect::<Result<_, _>>().map_err(LabError::io("bind", "127.0.0.1:0"))?;
    let port = |listener: &TcpListener| Ok(listener.local_addr()?.port());
    held.iter().map(port).collect::<Result<_, _>>().map_err(LabError::io("bind", "127.0.0.1:0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ() {
        let mut ports = free(16).expect("ports");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 16);
    }
}
