//! How an outbox table is kept small. Never decides what is relayed, and so is no part of the
//! generation.

use std::time::Duration;

/// How an outbox table is kept small.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Housekeeping {
    /// Somebody else does, or rows are deleted in the transaction that inserts them.
    #[default]
    None,
    /// Range partitions by time, made ahead, and dropped when everything in them was relayed.
    Partitions(Partitions),
    /// Rows are deleted, some at a time, when they were relayed.
    Delete(Batches),
}

/// Range partitions by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partitions {
    /// The partition key, a `timestamptz`.
    pub column: String,
    /// What a partition spans, in whole seconds; bounds are multiples of it since 1970, in UTC.
    pub interval: Duration,
    /// Partitions that exist beyond the one of now.
    pub ahead: u32,
    /// How long a partition stays, and takes late rows, behind its upper bound.
    pub keep: Duration,
}

impl Default for Partitions {
    fn default() -> Self {
        Self {
            column: "created_at".into(),
            interval: Duration::from_secs(24 * 3600),
            // A long weekend without any relay must not leave writers without a partition.
            ahead: 7,
            // Longer than clocks differ, and than transactions of an application last.
            keep: Duration::from_secs(3600),
        }
    }
}

/// Deleting in batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batches {
    /// Rows of one DELETE.
    pub rows_max: u32,
    /// The pause after each.
    pub pause: Duration,
}

impl Default for Batches {
    fn default() -> Self {
        // Some milliseconds of work, then longer for everybody else: about 10,000 rows a second.
        Self { rows_max: 1_000, pause: Duration::from_millis(100) }
    }
}
