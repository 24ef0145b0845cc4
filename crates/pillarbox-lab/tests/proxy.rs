//! Every fault of the proxy, seen with plain sockets.
//!
//! Must never rely on being fast: a limit of time is only ever a lower bound, or the patience of a wait.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use pillarbox_lab::proxy::{Action, ApiKey, Direction, Kind, Protocol, Proxy, Trigger, Weather};

const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for a byte to have come, had it been let through.
const NOTHING: Duration = Duration::from_millis(200);

/// A proxy and the server behind it.
struct Pair {
    proxy: Proxy,
    listener: TcpListener,
}

impl Pair {
    fn new(protocol: Protocol) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let proxy = Proxy::start(protocol).expect("a proxy");
        proxy.forward_to(listener.local_addr().expect("an address").port());
        Self { proxy, listener }
    }

    /// A connection: both its ends.
    fn connect(&self) -> (TcpStream, TcpStream) {
        let before = self.proxy.connections(&Kind::ALL);
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, self.proxy.port())).expect("it listens");
        let (server, _) = self.listener.accept().expect("it connects");
        let since = Instant::now();
        while self.proxy.connections(&Kind::ALL) <= before {
            assert!(since.elapsed() < PATIENCE, "the proxy does not know its connection");
            std::thread::yield_now();
        }
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).expect("a limit");
            end.set_nodelay(true).expect("no delay");
        }
        (client, server)
    }

    fn opaque() -> (Self, TcpStream, TcpStream) {
        let pair = Self::new(Protocol::Opaque);
        let (client, server) = pair.connect();
        (pair, client, server)
    }
}

fn expect(end: &mut TcpStream, bytes: &[u8]) {
    let mut found = vec![0; bytes.len()];
    end.read_exact(&mut found).expect("bytes");
    assert!(found == bytes, "other bytes");
}

/// Nothing comes, not even an end.
fn expect_silence(end: &mut TcpStream) {
    end.set_read_timeout(Some(NOTHING)).expect("a limit");
    let read = end.read(&mut [0]);
    assert!(matches!(&read, Err(error) if error.kind() == ErrorKind::WouldBlock), "{read:?}");
    end.set_read_timeout(Some(PATIENCE)).expect("a limit");
}

fn expect_end(end: &mut TcpStream) {
    assert_eq!(end.read(&mut [0]).expect("an end in order"), 0);
}

fn expect_reset(end: &mut TcpStream) {
    let error = end.read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn bytes_and_ends_pass_as_they_come() {
    let (_pair, mut client, mut server) = Pair::opaque();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| client.write_all(&bytes).expect("a write"));
        expect(&mut server, &bytes);
    });
    server.write_all(b"answer").expect("a write");
    expect(&mut client, b"answer");
    client.shutdown(Shutdown::Write).expect("an end");
    expect_end(&mut server);
    server.write_all(b"more").expect("a write");
    drop(server);
    expect(&mut client, b"more");
    expect_end(&mut client);
}

#[test]
fn a_stall_keeps_bytes_and_ends_until_it_clears() {
    let (pair, mut client, mut server) = Pair::opaque();
    pair.proxy.set_all(Weather::stalled());
    client.write_all(b"early").expect("a write");
    server.write_all(b"answer").expect("a write");
    expect_silence(&mut server);
    expect_silence(&mut client);
    drop(client);
    expect_silence(&mut server);
    assert_eq!(pair.proxy.connections(&Kind::ALL), 1);
    pair.proxy.clear();
    expect(&mut server, b"early");
}

#[test]
fn a_stall_of_one_direction_leaves_the_other() {
    let (pair, mut client, mut server) = Pair::opaque();
    pair.proxy.set(&Kind::ALL, &[Direction::ToServer], Weather::stalled());
    client.write_all(b"question").expect("a write");
    server.write_all(b"unasked").expect("a write");
    expect(&mut client, b"unasked");
    expect_silence(&mut server);
    pair.proxy.clear();
    expect(&mut server, b"question");
}

#[test]
fn a_stall_holds_connections_to_come_and_reads_no_more_than_a_network_would() {
    let pair = Pair::new(Protocol::Opaque);
    pair.proxy.set_all(Weather::stalled());
    let (mut client, mut server) = pair.connect();
    client.set_nonblocking(true).expect("non-blocking");
    let mut written = 0;
    let since = Instant::now();
    while since.elapsed() < NOTHING {
        match client.write(&[7; 64 << 10]) {
            Ok(length) => written += length,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    assert!((1..64 << 20).contains(&written), "{written} bytes were taken");
    pair.proxy.clear();
    expect(&mut server, &vec![7; written]);
}

#[test]
fn delays_come_late_and_in_order() {
    let (pair, mut client, mut server) = Pair::opaque();
    let delay = Duration::from_millis(300);
    pair.proxy.set(&Kind::ALL, &[Direction::ToServer], Weather::delayed(delay));
    let since = Instant::now();
    client.write_all(b"late").expect("a write");
    expect(&mut server, b"late");
    assert!(since.elapsed() >= delay);
    pair.proxy.set(&Kind::ALL, &[Direction::ToServer], Weather::jittery(Duration::from_millis(20)));
    let mut times = Vec::new();
    for i in 0..50_u8 {
        let since = Instant::now();
        client.write_all(&[i]).expect("a write");
        expect(&mut server, &[i]);
        times.push(since.elapsed());
    }
    assert!(times.iter().any(|time| *time >= Duration::from_millis(5)), "no jitter: {times:?}");
}

#[test]
fn a_rate_is_a_limit() {
    let (pair, mut client, mut server) = Pair::opaque();
    pair.proxy.set_all(Weather::limited(10_000));
    let since = Instant::now();
    client.write_all(&[1; 5_000]).expect("a write");
    expect(&mut server, &[1; 5_000]);
    assert!(since.elapsed() >= Duration::from_millis(480), "{:?}", since.elapsed());
}

#[test]
fn slices_arrive_one_by_one() {
    let (pair, mut client, mut server) = Pair::opaque();
    // Whole, a small message comes with one read; in slices, now and then with more.
    let mut reads_max = 0;
    pair.proxy.set_all(Weather::sliced(1));
    for _ in 0..50 {
        client.write_all(&[5; 64]).expect("a write");
        let (mut reads, mut left) = (0, 64);
        while left > 0 {
            left -= server.read(&mut [0; 64][..left]).expect("bytes");
            reads += 1;
        }
        reads_max = reads_max.max(reads);
    }
    assert!(reads_max > 1);
}

#[test]
fn a_flapping_link_passes_and_stalls_in_turn() {
    let (pair, mut client, mut server) = Pair::opaque();
    let each = Duration::from_millis(100);
    pair.proxy.set(&Kind::ALL, &[Direction::ToServer], Weather::flapping(each));
    let mut gap = Duration::ZERO;
    let begun = Instant::now();
    while begun.elapsed() < 6 * each {
        let since = Instant::now();
        client.write_all(b"x").expect("a write");
        expect(&mut server, b"x");
        gap = gap.max(since.elapsed());
    }
    assert!(gap >= each / 2, "the longest gap is {gap:?}");
}

#[test]
fn a_reset_reaches_both_ends() {
    let (pair, mut client, mut server) = Pair::opaque();
    client.write_all(b"x").expect("a write");
    expect(&mut server, b"x");
    assert_eq!(pair.proxy.reset(&[Kind::Stream]), 0, "it is of the other kind");
    assert_eq!(pair.proxy.reset(&Kind::ALL), 1);
    expect_reset(&mut client);
    expect_reset(&mut server);
    let (mut client, mut server) = pair.connect();
    drop(pair);
    expect_reset(&mut client);
    expect_reset(&mut server);
}

#[test]
fn a_reset_of_one_end_arrives_behind_its_bytes() {
    let (pair, client, mut server) = Pair::opaque();
    pair.proxy.set_all(Weather::stalled());
    (&client).write_all(b"last words").expect("a write");
    // Unread bytes make the kernel reset instead of ending in order.
    pair.proxy.set(&Kind::ALL, &[Direction::ToClient], Weather::default());
    server.write_all(b"unread").expect("a write");
    client.peek(&mut [0]).expect("they are there");
    drop(client);
    expect_silence(&mut server);
    pair.proxy.clear();
    expect(&mut server, b"last words");
    expect_reset(&mut server);
}

#[test]
fn one_direction_ends_and_the_other_goes_on() {
    let (pair, mut client, mut server) = Pair::opaque();
    assert_eq!(pair.proxy.finish(&Kind::ALL, Direction::ToServer), 1);
    expect_end(&mut server);
    client.write_all(b"into the void").expect("a write");
    server.write_all(b"still here").expect("a write");
    expect(&mut client, b"still here");
}

#[test]
fn one_byte_is_corrupted() {
    let (pair, mut client, mut server) = Pair::opaque();
    assert_eq!(pair.proxy.corrupt(&Kind::ALL, Direction::ToServer), 1);
    client.write_all(&[1, 2, 3]).expect("a write");
    expect(&mut server, &[1, 2 ^ 0xff, 3]);
    client.write_all(&[1, 2, 3]).expect("a write");
    expect(&mut server, &[1, 2, 3]);
    assert_eq!(pair.proxy.corrupted(), 1);
}

#[test]
fn a_stream_of_postgres_has_weather_of_its_own() {
    let pair = Pair::new(Protocol::Postgres);
    let ssl = b"\0\0\0\x08\x04\xd2\x16\x2f";
    let plain = b"\0\0\0\x10\0\x03\0\0user\0u\0\0";
    let stream = b"\0\0\0\x25\0\x03\0\0user\0u\0replication\0database\0\0";
    pair.proxy.set(&[Kind::Stream], &Direction::BOTH, Weather::stalled());
    let (mut client, mut server) = pair.connect();
    client.write_all(&[ssl.as_slice(), plain].concat()).expect("a write");
    expect(&mut server, ssl);
    expect(&mut server, plain);
    let (mut client, mut server) = pair.connect();
    client.write_all(&[ssl.as_slice(), stream].concat()).expect("a write");
    expect(&mut server, ssl);
    expect_silence(&mut server);
    pair.proxy.clear();
    expect(&mut server, stream);
    assert_eq!(pair.proxy.connections(&[Kind::Plain]), 1);

    let caught = pair.proxy.catch(Trigger::StandbyStatus, Action::Hold);
    let status = b"d\0\0\0\x08r\x01\x02\x03";
    client.write_all(b"Q\0\0\0\x06a\0").expect("a write");
    client.write_all(status).expect("a write");
    expect(&mut server, b"Q\0\0\0\x06a\0");
    caught.wait(PATIENCE).expect("it is met");
    expect_silence(&mut server);
    caught.release();
    expect(&mut server, status);
}

/// EndTxn, version 5, and its answer.
fn end_txn(correlation: u8, commit: bool) -> Vec<u8> {
    let head = [0, 26, 0, 5, 0, 0, 0, correlation, 0xff, 0xff, 0];
    let body = [2, b't', 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, u8::from(commit), 0];
    [vec![0, 0, 0, 25], head.to_vec(), body.to_vec()].concat()
}

fn end_txn_answer(correlation: u8, code: u8) -> Vec<u8> {
    let head = [0, 0, 0, correlation, 0];
    let body = [0, 0, 0, 0, 0, code, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 0];
    [vec![0, 0, 0, 22], head.to_vec(), body.to_vec()].concat()
}

#[test]
fn a_held_request_outlives_its_sender_and_its_answer_is_seen() {
    let pair = Pair::new(Protocol::Kafka);
    let (mut client, mut server) = pair.connect();
    let caught = pair.proxy.catch(Trigger::EndTxn { commit: true }, Action::Hold);
    client.write_all(&end_txn(1, false)).expect("a write");
    expect(&mut server, &end_txn(1, false));
    client.write_all(&end_txn(2, true)).expect("a write");
    client.write_all(&end_txn(3, false)).expect("a write");
    caught.wait(PATIENCE).expect("it is met");
    expect_silence(&mut server);
    drop(client);
    expect_silence(&mut server);
    caught.release();
    expect(&mut server, &end_txn(2, true));
    expect(&mut server, &end_txn(3, false));
    expect_silence(&mut server);
    for (correlation, code) in [(1, 0), (2, 90), (3, 0)] {
        server.write_all(&end_txn_answer(correlation, code)).expect("a write");
    }
    assert_eq!(caught.answer(PATIENCE).expect("an answer"), [90]);
    expect_end(&mut server);
    assert_eq!((pair.proxy.answers(ApiKey::EndTxn, 0), pair.proxy.answers(ApiKey::EndTxn, 90)), (2, 1));
}

#[test]
fn an_answer_is_caught_by_its_request() {
    let pair = Pair::new(Protocol::Kafka);
    let (mut client, mut server) = pair.connect();
    let caught = pair.proxy.catch(Trigger::Answer(ApiKey::EndTxn), Action::Reset);
    client.write_all(&end_txn(1, true)).expect("a write");
    expect(&mut server, &end_txn(1, true));
    server.write_all(&end_txn_answer(1, 0)).expect("a write");
    caught.wait(PATIENCE).expect("it is met");
    expect_reset(&mut client);
    expect_reset(&mut server);

    let before = pair.proxy.catch(Trigger::Request(ApiKey::EndTxn), Action::Reset);
    let (mut client, mut server) = pair.connect();
    client.write_all(&end_txn(1, true)).expect("a write");
    before.wait(PATIENCE).expect("it is met");
    expect_reset(&mut server);
    expect_reset(&mut client);
}

#[test]
fn a_request_is_corrupted_on_its_way() {
    let pair = Pair::new(Protocol::Kafka);
    let (mut client, mut server) = pair.connect();
    let caught = pair.proxy.catch(Trigger::EndTxn { commit: false }, Action::Corrupt);
    let [whole, mut altered] = [true, false].map(|commit| end_txn(1, commit));
    client.write_all(&whole).expect("a write");
    client.write_all(&altered).expect("a write");
    expect(&mut server, &whole);
    altered[14] ^= 0xff;
    expect(&mut server, &altered);
    assert!(caught.is_caught() && pair.proxy.corrupted() == 1);
}

#[test]
fn what_is_let_go_holds_nothing() {
    let pair = Pair::new(Protocol::Kafka);
    let (mut client, mut server) = pair.connect();
    drop(pair.proxy.catch(Trigger::EndTxn { commit: true }, Action::Hold));
    client.write_all(&end_txn(1, true)).expect("a write");
    expect(&mut server, &end_txn(1, true));
}
