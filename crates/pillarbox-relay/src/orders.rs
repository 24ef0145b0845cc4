//! Orders to the relay that must take effect at a place in the history of the database: a command leaves them in
//! WAL, as transactional logical messages, and waits until the relay has carried out everything up to there.
//!
//! ```text
//! emit(order), emit(order), ... -> flush(order that commits a checkpoint) -> resume_lsn of the checkpoint >= now
//! ```
//! An order is carried out once, by the relay alone, in the Kafka transaction that moves the checkpoint past it;
//! whoever dies in between changes nothing about that. Commands write nothing to Kafka.

use std::time::{Duration, Instant};

use pillarbox_kafka::Cluster;
use pillarbox_wire::lsn::Lsn;

use crate::config::Config;
use crate::error::{Code, Fault};
use crate::sink;
use crate::source::Attempt;
use crate::sql::{self, Session};

/// How often the checkpoint is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

const EMIT: &str = "SELECT pg_logical_emit_message(true, $1, $2::bytea)::text";
const NOW: &str = "SELECT pg_current_wal_insert_lsn()::text";

/// A session that gives orders.
pub(crate) struct Orders<'a> {
    pub(crate) config: &'a Config,
    pub(crate) cluster: &'a Cluster,
    pub(crate) session: Session,
    /// A relay that streams carries an order out within milliseconds; one that starts needs seconds, and what is due
    /// before.
    timeout: Duration,
}

impl<'a> Orders<'a> {
    pub(crate) async fn open(
        config: &'a Config,
        cluster: &'a Cluster,
        program: &'static str,
        timeout: Duration,
    ) -> Result<Self, Fault> {
        let session = Session::connect(&config.postgres, program).await?;
        Ok(Self { config, cluster, session, timeout })
    }

    /// Leaves an order.
    pub(crate) async fn emit(&self, prefix: &str, content: &[u8]) -> Result<(), Fault> {
        let emitted = self.session.query_one(EMIT, &[&prefix, &content]).await;
        emitted.map(drop).map_err(|error| self.fault(&error))
    }

    /// Leaves an order that makes the relay commit a checkpoint, and waits until everything committed
    /// before it is carried out; `hint` says what to look at when that takes too long.
    pub(crate) async fn settle(&self, prefix: &str, flush: &[u8], hint: &str) -> Result<(), Fault> {
        let row = self.session.query_one(NOW, &[]).await;
        let lsn: String = row.and_then(|row| row.try_get(0)).map_err(|error| self.fault(&error))?;
        let lsn: Lsn =
            lsn.parse().map_err(|error| Fault::new(Code::Internal, "not an LSN").because(error))?;
        // Without events the checkpoint would move every ten seconds only.
        self.emit(prefix, flush).await?;
        let since = Instant::now();
        loop {
            let table = sink::read_checkpoint(self.cluster, self.config).await?;
            if table.and_then(|table| table.position).is_some_and(|position| position.resume_lsn >= lsn) {
                return Ok(());
            }
            if since.elapsed() > self.timeout {
                let message = format!("the pipeline did not come to {lsn} within {:?}", self.timeout);
                return Err(Fault::new(Code::PipelineBusy, message).hint(hint));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    pub(crate) fn fault(&self, error: &tokio_postgres::Error) -> Fault {
        let message = "cannot leave an order for the relay in the database";
        sql::fault(error, &Attempt { message, settings: &self.config.postgres })
    }
}
