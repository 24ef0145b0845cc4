//! The dry run: what a relay that streams would do now, and why it cannot. Changes nothing.

use super::act;
use super::look::{Looker, Watch};
use super::partitions::{self, Fences, Partition};
use super::rounds::{connect, published, suits_delete, suits_partitions};
use crate::config::{Config, Housekeeping, Outbox, Partitions, TableName};
use crate::error::Fault;

/// What would be done about a table.
#[derive(Debug)]
pub struct Outlook {
    /// The table.
    pub table: TableName,
    /// How it is kept.
    pub how: Housekeeping,
    /// Its partitions.
    pub partitions: Vec<Partition>,
    /// What would be done now. What waits for its fence is not in it.
    pub steps: Vec<String>,
    /// For how long from now there are partitions, in seconds.
    pub covered_seconds: u64,
    /// Rows that would be deleted as soon as WAL is relayed to `watch.wal_insert`.
    pub rows: Option<i64>,
    /// The server at that moment.
    pub watch: Watch,
}

/// Looks at every table that is kept: for each what would be done, or why it cannot.
///
/// # Errors
/// The server cannot be asked.
pub async fn look_ahead(config: &Config) -> Result<Vec<(TableName, Result<Outlook, Fault>)>, Fault> {
    let kept: Vec<&Outbox> =
        config.outbox.iter().filter(|outbox| outbox.housekeeping != Housekeeping::None).collect();
    if kept.is_empty() {
        return Ok(Vec::new());
    }
    let session = connect(config).await?;
    let look = Looker { session: &session, config };
    let mut outlooks = Vec::new();
    for outbox in kept {
        outlooks.push((outbox.table.clone(), one(&look, outbox).await));
    }
    Ok(outlooks)
}

async fn one(look: &Looker<'_>, outbox: &Outbox) -> Result<Outlook, Fault> {
    let table = outbox.table.clone();
    let shape = look.shape(&table).await?;
    let mut outlook = Outlook {
        table: table.clone(),
        how: outbox.housekeeping.clone(),
        partitions: Vec::new(),
        steps: Vec::new(),
        covered_seconds: 0,
        rows: None,
        watch: look.watch().await?,
    };
    match &outbox.housekeeping {
        Housekeeping::None => {}
        Housekeeping::Partitions(wanted) => {
            suits_partitions(look.config, &table, wanted, &shape)?;
            published(look.config, &table, &shape)?;
            outlook.partitions = look.partitions(&table, &shape).await?;
            decide(&mut outlook, wanted);
        }
        Housekeeping::Delete(_) => {
            suits_delete(look.config, &table, &shape)?;
            published(look.config, &table, &shape)?;
            outlook.rows = Some(act::count(look, &table, outlook.watch.xmin).await?);
        }
    }
    Ok(outlook)
}

/// Without fences: those are the relay's.
fn decide(outlook: &mut Outlook, wanted: &Partitions) {
    let Outlook { table, partitions, watch, .. } = &*outlook;
    let mut steps = partitions::missing(table, wanted, partitions, watch);
    steps.extend(partitions::ageing(wanted, partitions, &Fences::new(), watch));
    let until = partitions::covered_until(partitions, watch.now);
    outlook.covered_seconds = until.map_or(0, |until| until.0.saturating_sub(watch.now.0).unsigned_abs());
    outlook.steps = steps.iter().map(act::describe).collect();
}
