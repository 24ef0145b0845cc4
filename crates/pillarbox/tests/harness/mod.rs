//! What tests of the built binary share: private servers, relays as child processes, and the judge.
//!
//! ```text
//! Site::start -> Site::configure -> setup -> Site::relay ... faults ... -> Site::caught_up -> Site::judge
//! ```
//! | file | holds |
//! | --- | --- |
//! | `site` | Postgres, Kafka, configuration files, one-shot commands, the comparison at the end |
//! | `relay` | a running `pillarbox run`: killed with the test, its log shown when the test fails |
//! | `records` | topics read with librdkafka for what the judge does not look at |
//! | `until` | waiting for something to become true, with a deadline |
//! | `dice` | everything random, from one seed that is printed |
//!
//! Must never leave a process behind, and never reach into the relay: only what a user has, that is files,
//! commands, signals and HTTP.

pub(crate) mod dice;
pub(crate) mod records;
pub(crate) mod relay;
pub(crate) mod site;
pub(crate) mod until;
