//! Servers that mean harm, or are broken in the same way: each ends in an error, in time and in little memory.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use pillarbox_relay::source::{Connection, SourceError};

use crate::refusals::settings;

/// A message: its type, its length, its body.
fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

/// What opens every session: no password, and the server's version.
fn greeting() -> Vec<u8> {
    [message(b'R', &0_i32.to_be_bytes()), message(b'S', b"server_version\x0018.1\0")].concat()
}

/// Answers the first message of its one client, then says the same again and again until that hangs up.
fn serve(first: Vec<u8>, again: Vec<u8>) -> (TcpListener, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let accepting = listener.try_clone().expect("a handle");
    let talking = std::thread::spawn(move || {
        let (mut client, _): (TcpStream, _) = accepting.accept().expect("a client");
        let _ = client.read(&mut [0; 512]).expect("a first message");
        let much = again.repeat(1 + 4096 / again.len().max(1));
        if client.write_all(&first).is_ok() && !again.is_empty() {
            while client.write_all(&much).is_ok() {}
        }
        // One that has said all waits until the client hangs up.
        let _ = client.read(&mut [0; 512]);
    });
    (listener, talking)
}

fn connect(first: Vec<u8>, again: Vec<u8>, timeout: Duration) -> SourceError {
    let (listener, talking) = serve(first, again);
    let mut settings = settings(&listener);
    settings.tls.mode = pillarbox_relay::config::TlsMode::Disable;
    let error = Connection::connect(&settings, "pillarbox/test", timeout).expect_err("no server");
    talking.join().expect("it ends");
    error
}

#[test]
fn talk_without_end_meets_the_deadline() {
    let setting = message(b'S', b"TimeZone\0UTC\0");
    let notice = message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mhello\0\0");
    let keepalive = message(b'd', &[&b"k"[..], &[0; 17]].concat());
    for again in [setting, notice, keepalive] {
        let error = connect(greeting(), again, Duration::from_millis(300));
        assert!(matches!(error, SourceError::TimedOut), "{error:?}");
    }
}

#[test]
fn a_length_bomb_is_refused_when_it_is_announced() {
    for (length, large) in [(i32::MAX, true), (-1, false), (3, false)] {
        let bomb = [&b"S"[..], &length.to_be_bytes(), &[b'x'; 64]].concat();
        let error = connect([greeting(), bomb].concat(), Vec::new(), Duration::from_secs(30));
        let refused = match error {
            SourceError::FrameTooLarge { .. } => large,
            SourceError::Malformed(_) => !large,
            _ => false,
        };
        assert!(refused, "{length}: {error:?}");
    }
}
