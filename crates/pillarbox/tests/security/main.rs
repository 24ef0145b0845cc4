//! A locked-down Postgres and a locked-down Kafka: what passes, end to end, and what each mistake is called.
//!
//! ```text
//! servers with certificates made here --> what `setup --print-sql` and `check --print-acls` say is done, word for word
//!     --> setup, check, run, an event                        arrival
//!     --> a file with one thing wrong, setup and check        mistakes
//! ```
//! Every password in here is a canary: [`said::pillarbox`] searches all that a command says, log included, before
//! anything else is looked at.

#[expect(dead_code, reason = "each ring of tests uses a part of it")]
#[path = "../harness/mod.rs"]
mod harness;
#[path = "../refusals/said.rs"]
mod said;

mod arrival;
mod mistakes;
mod servers;
