//! What is to be done about the partitions of a table: pure.
//!
//! Knows no clock and no server: both are in [`Watch`]. Must never take out what has no fence that
//! was reached.

use std::collections::BTreeMap;
use std::time::Duration;

use pillarbox_wire::lsn::Lsn;

use super::look::Watch;
use crate::config::{Partitions, TableName};

const DAY_SECONDS: i64 = 86_400;

/// A point in time: seconds since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

impl Moment {
    fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)))
    }
}

/// Where a partition is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Takes rows.
    Open,
    /// Takes no rows any more.
    Sealed,
    /// Being detached; an earlier attempt did not finish.
    Detaching,
    /// A table of its own, sealed.
    Detached,
}

/// A partition as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its object id.
    pub oid: u32,
    /// Its name.
    pub table: TableName,
    /// Lower bound, if it has one.
    pub lower: Option<Moment>,
    /// Upper bound, if it has one.
    pub upper: Option<Moment>,
    /// Where it is in its life.
    pub stage: Stage,
}

/// Something to do about a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make one for `from <= time < to`.
    Create {
        /// Its name.
        table: TableName,
        /// Lower bound.
        from: Moment,
        /// Upper bound.
        to: Moment,
    },
    /// Let no more rows in.
    Seal(TableName),
    /// Let rows in again.
    Unseal(TableName),
    /// Take it out of the table.
    Detach(TableName),
    /// Finish taking it out.
    Finalize(TableName),
    /// Drop what was taken out.
    Drop(TableName),
}

impl Step {
    /// Whether writers of the present could be refused without it.
    pub(super) fn is_for_writers(&self) -> bool {
        matches!(self, Self::Create { .. } | Self::Unseal(_))
    }
}

/// For each sealed partition an end of WAL that was read after it was seen sealed. Belongs to one
/// session.
pub(super) type Fences = BTreeMap<u32, Lsn>;

/// Learns the fences of partitions that are seen sealed for the first time. `watch` is younger than
/// `partitions`.
pub(super) fn fence(fences: &mut Fences, partitions: &[Partition], watch: &Watch) {
    fences.retain(|oid, _| partitions.iter().any(|partition| partition.oid == *oid && is_sealed(partition)));
    for partition in partitions.iter().filter(|partition| is_sealed(partition)) {
        fences.entry(partition.oid).or_insert(watch.wal_insert);
    }
}

pub(super) fn is_sealed(partition: &Partition) -> bool {
    partition.stage != Stage::Open
}

/// Takes part in the table, whether it takes rows or not.
pub(super) fn is_attached(partition: &Partition) -> bool {
    matches!(partition.stage, Stage::Open | Stage::Sealed)
}

/// Partitions that are missing between now and as far ahead as is wanted.
pub(super) fn missing(
    table: &TableName,
    wanted: &Partitions,
    partitions: &[Partition],
    watch: &Watch,
) -> Vec<Step> {
    let interval = i64::try_from(wanted.interval.as_secs()).unwrap_or(i64::MAX).max(1);
    let first = watch.now.0.div_euclid(interval) * interval;
    let there = bounds(partitions.iter().filter(|partition| is_attached(partition)));
    let mut steps = Vec::new();
    for n in 0..=i64::from(wanted.ahead) {
        let (mut from, mut to) = (Moment(first + n * interval), Moment(first + (n + 1) * interval));
        // Bounds of partitions that somebody else made need not be multiples of ours.
        for (lower, upper) in &there {
            if *lower <= from {
                from = from.max(*upper);
            } else {
                to = to.min(*lower);
            }
        }
        if from < to {
            steps.push(Step::Create { table: name(table, from, interval), from, to });
        }
    }
    steps
}

/// Until when there is a partition that takes rows, without a gap from now on; `None` when there is
/// none for now.
pub(super) fn covered_until(partitions: &[Partition], now: Moment) -> Option<Moment> {
    let open = bounds(partitions.iter().filter(|partition| partition.stage == Stage::Open));
    let reach = open.iter().fold(
        now,
        |reach, (lower, upper)| {
            if *lower <= reach { reach.max(*upper) } else { reach }
        },
    );
    (reach > now).then_some(reach)
}

/// Ascending; open ends reach as far as one can count.
fn bounds<'a>(partitions: impl Iterator<Item = &'a Partition>) -> Vec<(Moment, Moment)> {
    let bound = |partition: &Partition| {
        (partition.lower.unwrap_or(Moment(i64::MIN)), partition.upper.unwrap_or(Moment(i64::MAX)))
    };
    let mut bounds: Vec<_> = partitions.map(bound).collect();
    bounds.sort_unstable();
    bounds
}

/// What the stages of the partitions call for. Only for a relay that streams.
pub(super) fn ageing(
    wanted: &Partitions,
    partitions: &[Partition],
    fences: &Fences,
    watch: &Watch,
) -> Vec<Step> {
    let relayed = |partition: &Partition| {
        let fence = fences.get(&partition.oid);
        fence.zip(watch.confirmed).is_some_and(|(fence, confirmed)| confirmed >= *fence)
    };
    let step = |partition: &Partition| {
        let table = partition.table.clone();
        match partition.stage {
            Stage::Open if is_over(partition, wanted.keep, watch) => Some(Step::Seal(table)),
            Stage::Sealed if partition.upper.is_some_and(|upper| watch.now < upper) => {
                Some(Step::Unseal(table))
            }
            Stage::Sealed if relayed(partition) => Some(Step::Detach(table)),
            Stage::Detaching if relayed(partition) => Some(Step::Finalize(table)),
            Stage::Detached if relayed(partition) => Some(Step::Drop(table)),
            Stage::Open | Stage::Sealed | Stage::Detaching | Stage::Detached => None,
        }
    };
    partitions.iter().filter_map(step).collect()
}

/// No writer has a reason to write to it any more: its time is over by both clocks, and by the
/// beginnings of the transactions that are open.
fn is_over(partition: &Partition, keep: Duration, watch: &Watch) -> bool {
    partition.upper.is_some_and(|upper| {
        upper.plus(keep) <= watch.now.min(watch.relay_now)
            && watch.oldest_transaction.is_none_or(|begun| begun >= upper)
    })
}

/// Postgres cuts longer names off, in the middle of the part that tells them apart.
const NAME_BYTES_MAX: usize = 63;

/// `outbox_p20261126`, with the time of day where days are not enough.
fn name(table: &TableName, from: Moment, interval: i64) -> TableName {
    let (year, month, day) = civil(from.0.div_euclid(DAY_SECONDS));
    let second = from.0.rem_euclid(DAY_SECONDS);
    let mut suffix = format!("_p{year:04}{month:02}{day:02}");
    if interval % DAY_SECONDS != 0 || second != 0 {
        suffix.push_str(&format!("t{:02}{:02}{:02}", second / 3600, second / 60 % 60, second % 60));
    }
    let mut name = table.name.clone();
    while name.len() + suffix.len() > NAME_BYTES_MAX {
        name.pop();
    }
    TableName { schema: table.schema.clone(), name: name + &suffix }
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 0000-03-01, so that the leap day is the last of its year; 146,097 days are 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + later, month, day_of_month)
}

#[cfg(test)]
mod tests;
