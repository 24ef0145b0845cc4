//! Free TCP ports on loopback, outside the range from which the kernel gives ports to clients: a server that
//! is down for a moment would find its port taken by some connection. A port is free when it was looked at,
//! not for ever: callers that start a server on it try again with another when the server says it is taken. A process is
//! given no port twice: a server of it that is down for a moment finds its port free.

use std::collections::HashSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::LabError;

/// Starts tried with other ports before giving up: a collision needs two tests to pick the same port within
/// one server start, so three in a row mean something else is wrong.
pub(crate) const STARTS_MAX: usize = 3;

/// Below stand the ports of well-known services.
const FIRST: u16 = 10_000;
/// Fewer ports than this below the clients' range make collisions between tests likely.
const RANGE_MIN: u16 = 4_000;
/// Where Linux begins to give ports to clients unless it says otherwise.
const CLIENTS_FIRST: u16 = 32_768;

/// Those that this process was given.
static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// `count` different ports nobody listens on at this moment, on 127.0.0.1.
pub fn free(count: usize) -> Result<Vec<u16>, LabError> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let held = match servers(clients_first()) {
        Some(range) => listen_within(&range, &given, count),
        None => Vec::new(),
    };
    let held = if held.len() == count { held } else { listen_anywhere(&given, count)? };
    let ports: Vec<u16> = held.iter().map(port).collect();
    given.extend(&ports);
    Ok(ports)
}

/// The ports that no client gets, where that leaves enough of them.
fn servers(clients_first: u16) -> Option<Range<u16>> {
    (clients_first >= FIRST + RANGE_MIN).then_some(FIRST..clients_first)
}

fn clients_first() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(CLIENTS_FIRST)
}

/// Up to `count` listeners, from a random port on: tests that run at once look in different places.
fn listen_within(range: &Range<u16>, given: &HashSet<u16>, count: usize) -> Vec<TcpListener> {
    let length = u64::from(range.end - range.start);
    let begin = range.start + u16::try_from(RandomState::new().hash_one(()) % length).unwrap_or(0);
    let ports = (begin..range.end).chain(range.start..begin).filter(|port| !given.contains(port));
    ports.filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()).take(count).collect()
}

fn listen_anywhere(given: &HashSet<u16>, count: usize) -> Result<Vec<TcpListener>, LabError> {
    // What is held is not offered again.
    let (mut held, mut others) = (Vec::new(), Vec::new());
    while held.len() < count {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(LabError::io("bind", "127.0.0.1:0"))?;
        if given.contains(&port(&listener)) { others.push(listener) } else { held.push(listener) }
    }
    Ok(held)
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().map_or(0, |address| address.port())
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

    #[test]
    fn no_port_is_given_twice() {
        // Runs of 16 that begin anywhere: by chance some would meet.
        let given: HashSet<u16> = (0..100).flat_map(|_| free(16).expect("ports")).collect();
        assert_eq!(given.len(), 1_600);
    }

    #[test]
    fn no_client_gets_them() {
        let Some(range) = servers(clients_first()) else { return };
        assert!(free(16).expect("ports").iter().all(|port| range.contains(port)));
    }

    #[test]
    fn a_machine_that_gives_all_ports_to_clients_leaves_none() {
        assert_eq!(servers(1_024), None);
        assert_eq!(servers(CLIENTS_FIRST), Some(FIRST..CLIENTS_FIRST));
    }
}
