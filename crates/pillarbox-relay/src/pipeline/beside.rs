//! Beside a leading reader, on the caller's runtime: topic lookups, and lineage updates.
//!
//! What they find goes to the reader or the supervisor as a message. Must never hold up either.

use std::sync::Arc;
use std::time::Duration;

use pillarbox_failpoint::{Step, hit};
use tokio::sync::mpsc;

use super::acquire;
use super::messages::{Command, Event, Outlet};
use super::run::log;
use crate::config::{Config, TableName};
use crate::error::{Class, Code, Fault};
use crate::route::WantedTopic;
use crate::sink;
use crate::sql::Lineage;

/// How often a leader gives the database a new nonce: a clone older than this is recognised.
const LINEAGE_INTERVAL: Duration = Duration::from_secs(10);
/// A topic lookup is tried this often before its fault reaches the reader.
const TOPIC_TRIES: u32 = 5;
/// The wait before the first repeated lookup; it doubles.
const TOPIC_BACKOFF: Duration = Duration::from_millis(200);

/// Finds out about a topic, creates one that never held an event if need be, and tells the reader.
pub(super) async fn look_up_topic(config: Arc<Config>, wanted: WantedTopic, reader: Outlet) {
    let mut backoff = TOPIC_BACKOFF;
    let mut tries = 1;
    let found = loop {
        let found = match sink::connect(&config).await {
            Ok(cluster) => match &wanted.recorded {
                Some(record) => sink::topics::again(&cluster, &wanted.name, record).await,
                None => sink::topics::resolve(&cluster, &config, &wanted.name).await,
            },
            Err(fault) => Err(fault),
        };
        match found {
            Err(fault) if fault.class() == Class::Retry && tries < TOPIC_TRIES => {
                tracing::warn!(code = %fault.code, cause = fault.cause, "{}", fault.message);
                tokio::time::sleep(backoff).await;
                backoff *= 2;
                tries += 1;
            }
            found => break found,
        }
    };
    reader.send(Command::Topic(Box::new(found)));
}

/// Gives the database a new nonce at once and then every [`LINEAGE_INTERVAL`], and looks whether the
/// publication still publishes the outbox tables: where it does not, the stream is silent. A connection
/// that breaks is told: the server may be shutting down while the reader does not look at its socket.
pub(super) async fn advance_lineage(mut lineage: Lineage, config: Arc<Config>, events: mpsc::Sender<Event>) {
    let mut tick = tokio::time::interval(LINEAGE_INTERVAL);
    let mut looked_at = None;
    loop {
        tick.tick().await;
        let advanced = lineage.advance(config.pipeline.as_str()).await;
        let looked = match advanced {
            Ok(nonce) => {
                hit(Step::LineageAdvanced);
                let _ = events.send(Event::Lineage(nonce.to_string())).await;
                look_at_publication(&mut lineage, &config, &mut looked_at).await
            }
            Err(fault) => Err(fault),
        };
        match looked {
            Ok(()) => {}
            Err(fault) if fault.class() == Class::Halt => {
                let _ = events.send(Event::SqlLost(fault)).await;
                return;
            }
            Err(fault) if matches!(fault.code, Code::PgUnreachable | Code::PgProtocol) => {
                let _ = events.send(Event::SqlLost(fault)).await;
                return;
            }
            Err(fault) => log(&fault),
        }
    }
}

/// Halts where rows are written that the stream does not have. `looked_at` is where WAL ended at the last look.
async fn look_at_publication(
    lineage: &mut Lineage,
    config: &Config,
    looked_at: &mut Option<String>,
) -> Result<(), Fault> {
    let tables: Vec<TableName> = config.outbox.iter().map(|outbox| outbox.table.clone()).collect();
    let Some((state, end)) = lineage.publication(&tables).await? else { return Ok(()) };
    let since = looked_at.as_deref().unwrap_or("the start");
    acquire::serves(config, &state).map_err(|fault| {
        let found = fault.cause.as_ref().map(|cause| format!("{cause}; ")).unwrap_or_default();
        fault.because(format!("{found}seen at {end}: rows written since {since} may not have been relayed"))
    })?;
    *looked_at = Some(end);
    Ok(())
}
