//! Keeps outbox tables small: removes rows that were relayed, never one that was not.
//!
//! ```text
//! look (SQL) -> decide (pure) -> act (SQL)          a round, every few seconds, beside the stream
//! ```
//!
//! **The rule.** A row does not know the LSN of its commit, and no clock tells whether a transaction
//! is still open. So all of it rests on the order of two looks at one server: first that the
//! transaction has ended, then where WAL ends (the *fence*). Its commit lies before the fence. Once
//! the slot's `confirmed_flush_lsn` has reached the fence the transaction was relayed, because
//! nothing is confirmed before it stands in a committed checkpoint (I2, I5). That holds for whoever
//! asks: a relay that was fenced, or two at once, do no harm. Time only says when it is worth asking.
//!
//! Partitions (`mode: partitions`):
//!
//! ```text
//!          now >= upper + keep                    confirmed >= fence
//!  open ------------------------> sealed (fence) --------------------> detaching -> detached -> gone
//!    ^   nothing older is open      |                DETACH CONCURRENTLY    FINALIZE     DROP
//!    +------------------------------+ now < upper: the clock went back
//! ```
//!
//! *Sealed* is a constraint that no row passes, on the partition alone. To add it Postgres waits for
//! everybody who has written to the partition, prepared transactions included, and afterwards nobody
//! can: that, whatever time a writer puts into its row, makes the fence exact. It must come before
//! the detach for a second reason: what a transaction writes to a partition after a concurrent
//! detach began is decoded as a row of a table of its own, which no publication has, and is lost.
//! All stages are in the catalog; only fences are in memory, and a later fence is always right.
//!
//! Deletes (`mode: delete`): every transaction older than `xmin` of a snapshot has ended, prepared
//! ones included, in any database of the cluster. With it goes a fence; once that is confirmed, rows
//! that older transactions wrote are deleted, in the order in which they lie on disk. Rows from
//! before the pipeline began are older, too.
//!
//! | what happens | consequence |
//! | --- | --- |
//! | paused, halted, standing by, draining | nothing is sealed, dropped or deleted; partitions are still made ahead |
//! | no relay at all | nothing; partitions ahead last for `ahead` intervals |
//! | Kafka down | nothing is confirmed: fences are not reached, everything stays |
//! | two relays | an advisory lock lets one at a time; without it the rule holds all the same |
//! | a transaction is open for hours | its partition is not sealed; deletes stop at its transaction id |
//! | server restarted, failed over, connection lost | fences and horizons are forgotten: they mean nothing in another history |
//! | killed between two steps | the next round finds the stage in the catalog and goes on |
//! | a lock is not free in time | the step is given up until the next round; writers wait 200 ms at most, and only those of that partition |
//! | a partition is gone already | it is not seen any more |
//! | a row comes for a sealed or dropped partition | its writer gets an error (23514); never a lost event |
//! | the clock of server or relay jumps ahead | both must agree that a partition is over |
//! | both do, and come back | sealed partitions of the present are unsealed, dropped ones made again, within a round |
//! | the role lacks a privilege | PB-1009 in log, status and `check`; the stream goes on |
//! | a default partition, another key, a plain table | PB-1040 likewise |
//! | the table is not published as a whole | PB-1040; nothing is removed, partitions are still made |
//! | the slot was made anew or moved by hand | the relay halts (PB-3003), so nothing is removed; what `setup --adopt-slot` gives up counts as relayed from then on |
//!
//! Must never be needed to relay an event, never block a writer of the present, never alter a table
//! in `mode: delete`.

mod act;
mod horizon;
mod job;
mod look;
mod outlook;
mod partitions;
mod rounds;

pub(crate) use job::run;
pub use look::Watch;
pub use outlook::{Outlook, look_ahead};
pub use partitions::{Moment, Partition, Stage, Step};
pub use rounds::{Duty, Keeper};
