//! The one way back: what has been committed to Kafka decides what may be confirmed to Postgres.
//!
//! | file | decides |
//! | --- | --- |
//! | [`checkpoint`] | what Kafka remembers of a pipeline, and how it is read back |
//! | [`lineage`] | whether the database in front of us is the one the checkpoint speaks of |
//! | [`recognition`] | whether the stream still holds the transaction that was published last |
//! | [`acceptance`] | where history was cut, and how to go on once an operator accepts it |
//! | [`filter`] | which changes a checkpoint already covers |
//! | [`confirm`] | the one LSN that may be confirmed |
//!
//! Invariants of the relay, each asserted in release where the value is at hand:
//!
//! * **I1** events and checkpoint are in one Kafka transaction (`sink` submits nothing else),
//! * **I2** the slot's `confirmed_flush_lsn` never passes the committed `resume_lsn` ([`confirm`]),
//! * **I3** one writer (the slot is the leader lock, `InitProducerId` fences the predecessor),
//! * **I4** an index is a function of the WAL only (`decode` counts), a sequence is the committed
//!   one + 1 (`batch` counts from the checkpoint),
//! * **I5** nothing is confirmed before EndTxn succeeded ([`confirm`] only learns of commits).
//!
//! | crash | Kafka holds | slot | after the restart |
//! | --- | --- | --- | --- |
//! | before or while producing | an open transaction, aborted by `InitProducerId` | old | re-streamed, published once |
//! | after produce, before EndTxn | the same | old | the same |
//! | EndTxn sent, unanswered | either outcome; `InitProducerId` waits for it | old | the checkpoint tells, the filter drops what it covers |
//! | committed, not confirmed | committed | old | re-streamed, filtered |
//! | confirmed | committed | new | goes on |
//! | Postgres crashes | unchanged | may fall back to its last checkpoint | filtered |
//! | inside a split transaction | the parts before, `index` set | old | the whole transaction is re-streamed, `index` filters |
//!
//! Never goes backwards, never knows a socket or a clock.

pub mod acceptance;
pub mod checkpoint;
pub mod confirm;
pub mod filter;
pub mod lineage;
pub mod recognition;
