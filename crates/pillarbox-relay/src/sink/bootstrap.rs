//! Checkpoints that a relay does not come to by itself: the first one, and one that an operator declares. Only
//! commands write them, never `run`.

use pillarbox_failpoint::{Step, hit};
use pillarbox_kafka::Cluster;
use pillarbox_kafka::producer::Producer;
use pillarbox_wire::lsn::{Lsn, SystemId, TimelineId};

use super::commit::{Clock, Tag, unix_ms};
use super::markers;
use super::read::{End, read};
use super::record::Recorder;
use super::recover::{checkpoint_topic, commit_alone, fence, position as former, present};
use crate::config::Config;
use crate::error::Fault;
use crate::pipeline::intake::SetEnd;
use crate::position::checkpoint::{PositionRecord, Table, VERSION};

/// Where a pipeline begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstCheckpoint {
    /// `IDENTIFY_SYSTEM`.
    pub system_id: SystemId,
    /// `IDENTIFY_SYSTEM`.
    pub timeline: TimelineId,
    /// The slot's `confirmed_flush_lsn`: events of transactions that commit from there on are
    /// relayed.
    pub resume_lsn: Lsn,
    /// Go on from an existing checkpoint in a new epoch at `resume_lsn` (an operator declared it);
    /// otherwise an existing checkpoint is left alone.
    pub replace: bool,
}

/// Writes it. The checkpoint topic exists. True when it was written, false when there was one.
///
/// # Errors
/// When Kafka does not answer or refuses.
pub async fn bootstrap(config: &Config, cluster: &Cluster, first: &FirstCheckpoint) -> Result<bool, Fault> {
    let found = read(cluster, config, End::Committed).await?;
    if found.is_some() && !first.replace {
        return Ok(false);
    }
    let mut producer: Producer<Tag> = fence(cluster, config).await?;
    let mut table = read(cluster, config, End::HighWatermark).await?.unwrap_or_default();
    if table.position.is_some() && !first.replace {
        return Ok(false);
    }
    let position = position(config, first, &table);
    table.position = Some(position.clone());
    let end = SetEnd::from(&position);
    let mut recorder = Recorder::new(checkpoint_topic(cluster, config).await?, table, position);
    commit_alone(&mut producer, &mut recorder, Clock::start(), &end).await?;
    Ok(true)
}

/// Goes on from another position than the checkpoint's, which `decide` makes of it once everybody is fenced.
///
/// # Errors
/// What `decide` says; there is no checkpoint; or Kafka does not answer or refuses. Nothing has changed then.
pub(crate) async fn declare(
    config: &Config,
    cluster: &Cluster,
    decide: impl FnOnce(&PositionRecord) -> Result<PositionRecord, Fault>,
) -> Result<PositionRecord, Fault> {
    markers::complete(cluster, config, read(cluster, config, End::Committed).await?).await?;
    let mut producer: Producer<Tag> = fence(cluster, config).await?;
    hit(Step::AcceptFenced);
    let mut table = present(read(cluster, config, End::HighWatermark).await?, config)?;
    let declared = decide(former(&table))?;
    table.position = Some(declared.clone());
    let mut recorder = Recorder::new(checkpoint_topic(cluster, config).await?, table, declared.clone());
    commit_alone(&mut producer, &mut recorder, Clock::start(), &SetEnd::from(&declared)).await?;
    hit(Step::AcceptCommitted);
    // A commit is answered before its marker is in the log: whoever looks next must find it.
    read(cluster, config, End::HighWatermark).await?;
    Ok(declared)
}

fn position(config: &Config, first: &FirstCheckpoint, table: &Table) -> PositionRecord {
    let former = table.position.as_ref();
    PositionRecord {
        v: VERSION,
        epoch: former.map_or(1, |position| position.epoch + 1),
        // Zero, not the slot's position: a transaction may commit exactly there.
        commit_lsn: Lsn::ZERO,
        commit_ms: None,
        index: None,
        part: None,
        resume_lsn: first.resume_lsn,
        published_end_lsn: Lsn::ZERO,
        system_id: first.system_id.to_string(),
        timeline: first.timeline.0,
        lineage_nonce: None,
        slot: config.postgres.slot.clone(),
        generation: config.generation(),
        paused: false,
        snapshot_offset: None,
        at: unix_ms(),
    }
}
