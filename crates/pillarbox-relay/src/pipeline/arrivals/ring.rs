//! The last so many entries that one thread wrote, for others to search: fixed memory, no lock, no allocation.
//!
//! ```text
//! writer: entry n, then written = n + 1        reader: entry i, then: is written still below i + LEN?
//! ```
//! A writer costs three plain stores; a reader may find an entry overwritten under its eyes, and then passes over it. Must
//! have one writer at a time.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Events and batches that are remembered: a minute at 1,000 a second; 1.5 MiB, which are touched as they fill.
pub(super) const LEN: usize = 1 << 16;

/// What is kept of an event or of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Never 0.
    pub(super) key: u64,
    pub(super) first: u64,
    pub(super) second: u64,
}

/// See the module.
pub(super) struct Ring {
    written: AtomicU64,
    cells: Box<[[AtomicU64; 3]]>,
}

impl Ring {
    pub(super) fn new() -> Self {
        let cells = (0..LEN).map(|_| Default::default()).collect();
        Self { written: AtomicU64::new(0), cells }
    }

    /// How many were ever written.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    fn cell(&self, number: u64) -> &[AtomicU64; 3] {
        #[expect(clippy::cast_possible_truncation, reason = "the length is a power of two")]
        &self.cells[number as usize & (LEN - 1)]
    }

    /// Writes the next entry; only from the thread that writes.
    pub(super) fn push(&self, entry: Entry) {
        let number = self.written.load(Ordering::Relaxed);
        // Whoever sees one of the stores below sees the number that makes it pass over the entry.
        fence(Ordering::Release);
        let cell = self.cell(number);
        for (place, value) in cell.iter().zip([entry.key, entry.first, entry.second]) {
            place.store(value, Ordering::Relaxed);
        }
        self.written.store(number + 1, Ordering::Release);
    }

    /// Searches those written since `since`, the newest first.
    pub(super) fn find(&self, since: u64, mut wanted: impl FnMut(&Entry) -> bool) -> Option<Entry> {
        let written = self.written();
        let oldest = since.max(written.saturating_sub(LEN as u64));
        for number in (oldest..written).rev() {
            let [key, first, second] =
                self.cell(number).each_ref().map(|place| place.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if self.written.load(Ordering::Relaxed) >= number + LEN as u64 {
                // So are all that are older.
                return None;
            }
            let entry = Entry { key, first, second };
            if key != 0 && wanted(&entry) {
                return Some(entry);
            }
        }
        None
    }

    /// Forgets entries; only while nobody writes.
    pub(super) fn forget(&self, unwanted: impl Fn(&Entry) -> bool) {
        for cell in &self.cells {
            let [key, first, second] = cell.each_ref().map(|place| place.load(Ordering::Relaxed));
            if key != 0 && unwanted(&Entry { key, first, second }) {
                cell[0].store(0, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Entry {
        Entry { key: n + 1, first: n, second: !n }
    }

    #[test]
    fn the_last_entries_are_found_the_newest_first() {
        let ring = Ring::new();
        assert_eq!(ring.find(0, |_| true), None);
        let len = LEN as u64;
        for n in 0..len + 10 {
            ring.push(entry(n));
        }
        assert_eq!(ring.written(), len + 10);
        assert_eq!(ring.find(0, |_| true), Some(entry(len + 9)));
        assert_eq!(ring.find(0, |found| found.first == 10), None, "it may be overwritten at any moment");
        assert_eq!(ring.find(0, |found| found.first == 11), Some(entry(11)));
        assert_eq!(ring.find(len + 10, |_| true), None, "none is newer");
        ring.forget(|found| found.first > 11);
        assert_eq!(ring.find(0, |_| true), Some(entry(11)));
    }

    #[test]
    fn a_reader_never_sees_half_an_entry() {
        let ring = Ring::new();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (0..3 * LEN as u64).for_each(|n| ring.push(entry(n))));
            while !writer.is_finished() {
                ring.find(0, |found| {
                    assert_eq!(*found, entry(found.first));
                    false
                });
            }
        });
    }
}
