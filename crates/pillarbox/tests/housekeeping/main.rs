//! Outbox tables stay small and nothing is lost by it: on the oldest and the newest server, the built binary on real
//! servers, read by librdkafka.
//!
//! ```text
//! servers + a table with `housekeeping` --> writers, old partitions, open transactions --> relay
//!                                                        what is left in the table, what is in the topic
//! ```
//! | file | shows |
//! | --- | --- |
//! | `inserts` | insert and delete in one transaction: nothing but the insert is sent |
//! | `partitions` | partitions come ahead of time and go when relayed, never before; writers do not notice |
//! | `stages` | whoever is killed, paused or halted: the rule holds by itself |
//! | `deletes` | rows go in batches when relayed, never before |
//! | `wal` | an idle database on a busy cluster holds little WAL |
//!
//! Must never judge by what the relay says where a server can be asked.

#[expect(dead_code, reason = "each ring of tests uses a part of it")]
#[path = "../harness/mod.rs"]
mod harness;

mod deletes;
mod inserts;
mod partitions;
mod stages;
mod wal;
mod world;
