//! The relay's work on each event, without a server: bytes of a replication stream become stamped record batches.
//!
//! ```text
//! bytes as a walsender sends them -> frames -> decode -> outbox -> route -> batch -> seal -> stamp
//!                                    \____________________ counted: `drain` ____________________/
//! ```
//! `cargo xtask instructions` runs it under callgrind, which counts inside `drain` only. It is the relay's own code in
//! the reader's order, in the state of a backlog; what it leaves out is the kernel (sockets), and what is done per set
//! and not per event (Produce, EndTxn, the checkpoint). Nothing in it depends on a clock or on chance, so that two runs
//! count the same.

mod relay;
mod traffic;

use std::process::ExitCode;

use pillarbox_relay::batch::FILL_EVENTS;
use relay::Relay;
use traffic::Traffic;

/// Bytes of one read in a backlog, and so one that ends inside a row.
const READ_BYTES: usize = 40_000;
/// Bytes of traffic made at once.
const TRAFFIC_BYTES: usize = 1 << 20;

fn main() -> ExitCode {
    let arguments: Vec<usize> = std::env::args().skip(1).filter_map(|number| number.parse().ok()).collect();
    let [events, rows, payload] = arguments[..] else {
        eprintln!("usage: stages EVENTS ROWS_PER_TRANSACTION PAYLOAD_BYTES");
        return ExitCode::from(2);
    };
    let mut traffic = Traffic::new(rows, payload);
    let mut relay = Relay::new();
    relay.receive(&traffic.description());
    // Until buffers have grown.
    while traffic.events() < events / 2 {
        feed(&mut relay, traffic.next(TRAFFIC_BYTES), Relay::take_all);
    }
    let before = traffic.events();
    while traffic.events() - before < events {
        feed(&mut relay, traffic.next(TRAFFIC_BYTES), drain);
    }
    let held_back = traffic.events() - relay.committed();
    assert!(held_back <= FILL_EVENTS + rows, "events were lost on the way: {held_back}");
    // Read by the caller: what was counted.
    println!("{}", traffic.events() - before);
    ExitCode::SUCCESS
}

/// Receives a read's worth after the other, which is the kernel's work, and lets the relay do its own.
fn feed(relay: &mut Relay, mut bytes: &[u8], mut work: impl FnMut(&mut Relay)) {
    while !bytes.is_empty() {
        let received = relay.receive(&bytes[..bytes.len().min(READ_BYTES)]);
        bytes = &bytes[received..];
        work(relay);
    }
}

/// What callgrind counts.
#[inline(never)]
fn drain(relay: &mut Relay) {
    relay.take_all();
}
