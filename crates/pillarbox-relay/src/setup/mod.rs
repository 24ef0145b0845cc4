//! `setup`: makes database and cluster ready for a pipeline, once, and says what it does.
//!
//! ```text
//! read facts (Postgres, Kafka) -> plan (pure) -> schema, grants, table, publication,
//!                                                checkpoint topic, slot, first checkpoint
//! ```
//!
//! The order is the design. The publication comes before the slot, because decoding looks it up as
//! of the position in WAL. The first checkpoint comes last: without it no relay starts, so a setup
//! that was interrupted anywhere leaves nothing that could lose an event. Running it again does
//! what is missing; two at once wait for each other.
//!
//! It must never create a slot for a pipeline that has a checkpoint (the WAL in between would be
//! skipped), never write a checkpoint over another unless the operator says `--adopt-slot`, and
//! never alter a table.
//!
//! The consumer's side is a setup of its own, in another database perhaps: `consumer`.

mod apply;
mod consumer;
mod facts;
mod migrations;
mod plan;
mod roles;
mod shard;
mod statements;

pub use apply::{Options, Progress, Report, apply};
pub use consumer::{CONSUMER_GRANTS, apply_consumer, print_consumer_sql};
pub use facts::{CheckpointFacts, Facts, PostgresFacts, TableFacts};
pub use plan::{Start, Step, StepKind, plan};
pub use statements::print_sql;

pub(crate) use facts::read_postgres;
pub(crate) use migrations::SCHEMA_VERSION;
pub(crate) use plan::SERVER_VERSION_MIN;
pub(crate) use roles::{delete_grants, grants};
pub(crate) use shard::{SAMPLES, verify_key, verify_shard};
pub(crate) use statements::{
    add_to_publication, column_names, qualified, republish, revoke_messages, used_columns,
};
