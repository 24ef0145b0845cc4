//! Read-your-writes, end to end: a write, its token or its id, the relay's answer, a consumer, and the wait.
//!
//! ```text
//! emit + COMMIT --> token() or id --> relay: GET /api/v1/events --> receipt --> consumer's database: wait()
//! ```
//! Must never apply an event otherwise than a consumer does: read from Kafka, accepted first in the transaction.

#[expect(dead_code, reason = "each ring of tests uses a part of it")]
#[path = "../harness/mod.rs"]
mod harness;

mod endpoint;
mod example;
mod race;
mod world;

use std::time::Duration;

/// How long any step may take on a busy machine.
const STEP_MAX: Duration = Duration::from_secs(60);
