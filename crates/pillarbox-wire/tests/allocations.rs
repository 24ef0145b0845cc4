//! The hot path allocates nothing per row: counted, not believed.
//!
//! In a binary of its own, because the counter is its allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use pillarbox_wire::header::{ID, PB_POS, PbPos};
use pillarbox_wire::partition::partition_for_key;
use pillarbox_wire::pgoutput::{Column, Message};
use pillarbox_wire::record_batch::{BatchBuilder, Header, ProducerIdentity, stamp};
use pillarbox_wire::topic::validate_topic_name;
use pillarbox_wire::{Epoch, Lsn, Position, Sequence};

thread_local! {
    /// Of this thread alone: the one that runs tests has its own, at times that nobody knows.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

struct Counting;

// SAFETY: every call goes unchanged to the system's allocator; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const ROWS: u32 = 1_000;

/// An outbox row as Postgres sends it.
fn insert() -> Vec<u8> {
    let payload = [b'x'; 300];
    let columns: [&[u8]; 4] = [b"00000000-0000-0000-0000-000000000001", b"order", b"customer-17", &payload];
    let mut message = b"I\0\0\x40\x07N\0\x04".to_vec();
    for column in columns {
        message.push(b't');
        message.extend((column.len() as u32).to_be_bytes());
        message.extend(column);
    }
    message
}

/// What the relay does with each row, and what it does once per batch.
fn fill(message: &[u8], batch: &mut BatchBuilder, pb_pos: &mut Vec<u8>) {
    for index in 0..ROWS {
        let Ok(Message::Insert { new, .. }) = Message::decode(black_box(message)) else {
            panic!("an insert")
        };
        let mut columns = new.columns();
        let mut column = || match columns.next() {
            Some(Column::Text(value)) => value,
            other => panic!("a text column, not {other:?}"),
        };
        let (id, topic, key, payload) = (column(), column(), column(), column());
        validate_topic_name(topic).expect("a legal topic");
        black_box(partition_for_key(key, 12));
        let position = Position { epoch: Epoch(1), commit_lsn: Lsn(0x16_B374_D848), index };
        pb_pos.clear();
        PbPos { pipeline: "orders", position, sequence: Sequence(u64::from(index)) }.write_to(pb_pos);
        let headers =
            [Header { name: ID, value: Some(id) }, Header { name: PB_POS, value: Some(pb_pos.as_slice()) }];
        black_box(batch.record_len(7, Some(key), Some(payload), &headers));
        batch.append(7, Some(key), Some(payload), &headers).expect("fits");
    }
    stamp(batch.finish(), ProducerIdentity { producer_id: 1, producer_epoch: 0 }, 0);
}

#[test]
fn rows_cost_no_allocation_after_the_first_batch() {
    let message = insert();
    let (mut batch, mut pb_pos) = (BatchBuilder::new(), Vec::new());
    let before_first = ALLOCATIONS.get();
    fill(&message, &mut batch, &mut pb_pos);
    let after_first = ALLOCATIONS.get();
    assert!(after_first > before_first, "the counter counts: the first batch grows its buffer");

    batch.clear();
    fill(&message, &mut batch, &mut pb_pos);
    let buffer = batch.take();
    batch = BatchBuilder::with_buffer(buffer);
    fill(&message, &mut batch, &mut pb_pos);
    assert_eq!(ALLOCATIONS.get() - after_first, 0, "in {} rows", 2 * ROWS);
}
