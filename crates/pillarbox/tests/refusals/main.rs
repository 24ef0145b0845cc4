//! What bad input gets: an exit code, a `PB-nnnn`, words that name the object, a hint that repairs it, and never a
//! payload or a password.
//!
//! ```text
//! servers + a file with one thing wrong --> setup | check | run --exit-on-halt --> Said --> expectations
//! ```
//! Real servers, the built binary. Must never accept an output that shows a canary: each [`said::Said`] is searched
//! before anything else is looked at.

#[expect(dead_code, reason = "each ring of tests uses a part of it")]
#[path = "../harness/mod.rs"]
mod harness;

mod files;
mod history;
mod logins;
mod publications;
mod rows;
mod said;
mod tls;
mod unreachable;
