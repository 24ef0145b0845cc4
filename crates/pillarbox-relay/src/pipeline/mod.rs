//! The loop and the life of a pipeline: starting, standing by, streaming, draining, halted.
//!
//! | file | is |
//! | --- | --- |
//! | [`state`] | the life as a pure machine |
//! | [`intake`] | what a frame adds to the filling set, when it is sealed: pure |
//! | [`pace`] | the one rule of commit pacing: pure |
//! | `handle` | a running pipeline from outside: stop, pause, resume |
//! | `run` | the supervisor: performs what the machine says |
//! | `beside` | topic lookups and lineage updates |
//! | `acquire` | owns the slot, stands by |
//! | [`standby`] | when a standby ends the leader: pure |
//! | `reader` | the reader thread: its loop; `frames` and `attend` are its parts |
//! | `task` | the one place that starts threads and tasks |
//! | `messages`, `board` | what threads tell each other, and the outside |
//! | `budget`, `remarks` | where the reader's time goes; what it tells of the rows that pass |
//! | [`arrivals`] | what has reached Kafka, for whoever waits for it |
//! | [`status`] | the snapshot for the outside |
//!
//! Two threads on the hot path: the reader (blocking socket) and the sink (its own current-thread
//! runtime). Everything else, SQL, topics, HTTP, lives on the caller's runtime and can delay
//! neither. Holds no rule that belongs to a stage.

pub(crate) mod acquire;
pub mod arrivals;
mod beside;
pub(crate) mod board;
mod budget;
mod handle;
pub mod intake;
pub(crate) mod messages;
pub mod pace;
mod reader;
mod remarks;
mod run;
mod silence;
pub mod standby;
pub mod state;
pub mod status;
mod task;

pub use handle::{Controls, Ended, Handle, Options};
pub use run::start;
pub use status::{FaultView, State, Status};
