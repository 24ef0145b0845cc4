//! Stage 6, sink: sealed sets become committed Kafka transactions, each with its checkpoint.
//!
//! | file | is |
//! | --- | --- |
//! | `recover` | Start, steps 2 to 4: read, judge, fence, read again |
//! | `markers` | completes what brokers ended only in part |
//! | `commit` | the sink thread's loop: submit, wait, report |
//! | [`record`] | the checkpoint batch of a transaction |
//! | `read`, [`tail`] | the checkpoint topic, read backwards |
//! | `topics` | what a topic takes, whether it is still the one we know |
//! | `bootstrap` | the first checkpoint of a pipeline, and one that an operator declares |
//!
//! Events and checkpoint are always in one transaction (I1): nothing else is ever submitted. Never
//! reports what is not durable: a set comes back only after EndTxn was answered with success.
//!
//! Failure table (what the producer reports, what the sink does):
//!
//! | reported | done |
//! | --- | --- |
//! | committed | the set goes back to the reader, which may confirm its `resume_lsn` |
//! | fenced, timed out, undecidable | end; the pipeline goes to Start, where the checkpoint decides |
//! | a topic is gone or another | halt |
//! | too large in spite of the limits | end; Start refreshes the limits |
//! | a connection broke | end; Start looks for lost markers, then the checkpoint decides |
//! | unreachable | end; Start waits for Kafka |
//! | not authorised | halt with the ACL to add |

pub(crate) mod bootstrap;
pub(crate) mod commit;
mod fault;
mod markers;
pub(crate) mod read;
pub mod record;
pub(crate) mod recover;
pub mod tail;
pub(crate) mod topics;

pub(crate) use bootstrap::declare;
pub use bootstrap::{FirstCheckpoint, bootstrap};
pub use commit::lost_fault;
pub use fault::kafka_fault;
pub use read::read_checkpoint;

use std::time::Duration;

use pillarbox_kafka::{Cluster, ClusterConfig};

use crate::config::Config;
use crate::error::Fault;

/// A broker that does not take a connection for this long is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A request without an answer for this long has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// Connects to the configured cluster.
///
/// # Errors
/// A fault that names the brokers.
pub async fn connect(config: &Config) -> Result<Cluster, Fault> {
    let brokers = config.kafka.brokers.join(", ");
    Cluster::connect(ClusterConfig {
        brokers: config.kafka.brokers.clone(),
        client_id: format!("pillarbox-{}", config.pipeline),
        connect_timeout: CONNECT_TIMEOUT,
        request_timeout: REQUEST_TIMEOUT,
        tls: config.kafka.tls.clone(),
        sasl: config.kafka.sasl.clone(),
    })
    .await
    .map_err(|error| kafka_fault(&error, &format!("cannot connect to Kafka at {brokers}")))
}
