//! The wire formats of Pillarbox: what Postgres sends, what Kafka stores, and the positions that tie them together.
//!
//! ```text
//! XLogData payload -> pgoutput::Message<'_>       (borrowed, nothing copied)
//! key, value, headers -> record_batch::BatchBuilder -> record batch v2, stamped when it is sent
//! Position, Sequence -> header::PbPos             (the text that travels in the header `pb-pos`)
//! key | commit LSN -> partition                   (murmur2, as the Java client)
//! ```
//!
//! This crate must never do I/O, look at a clock, or allocate per row: it borrows from its input and appends to
//! buffers that its caller reuses. It decides nothing: limits, routing and what is safe to confirm belong to the relay.
//!
//! Without the feature `relay` (a default) `pgoutput` and `record_batch` are absent, and so is every dependency: what
//! is left is what a consumer reads. Errors outside of these two therefore write their texts by hand.

#![forbid(unsafe_code)]

pub mod header;
pub mod lsn;
pub mod partition;
#[cfg(feature = "relay")]
pub mod pgoutput;
pub mod position;
#[cfg(feature = "relay")]
pub mod record_batch;
pub mod topic;

pub use lsn::{Lsn, Oid, PgTimestamp, SystemId, TimelineId, Xid};
pub use position::{Epoch, PartitionId, Position, Sequence};
pub use topic::PipelineName;
