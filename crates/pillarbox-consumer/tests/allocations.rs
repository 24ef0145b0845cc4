//! The decision allocates nothing: counted, not believed.
//!
//! In a binary of its own, because the counter is its allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use pillarbox_consumer::{Header, Rules, State};

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
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn text(sequence: u64) -> String {
    format!("orders:00000001{sequence:016x}00000000:{sequence}")
}

#[test]
fn parsing_and_deciding_allocate_nothing() {
    let mut log: Vec<Option<String>> = (1..1_000).map(|sequence| Some(text(sequence))).collect();
    // What is refused costs nothing either: a duplicate, a gap, another history, no header.
    log.extend([
        Some(text(7)),
        Some(text(5_000)),
        Some(text(500).replace(":500", ":1000")),
        Some("bad".into()),
        None,
    ]);
    let mut state = State::FRESH;
    let mut applied = 0;
    let before = ALLOCATIONS.get();
    for value in &log {
        let Ok(header) = Header::parse(value.as_deref().map(str::as_bytes)) else { continue };
        applied += u32::from(black_box(state.accept(&header, Rules::default())).is_ok_and(|it| it.applies()));
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert_eq!(applied, 999);
    black_box(text(1));
    assert!(ALLOCATIONS.get() > before, "the counter counts");
}
