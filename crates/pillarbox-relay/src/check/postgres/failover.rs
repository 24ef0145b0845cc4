//! What would become of the pipeline if a standby were promoted now.

use super::Limits;
use crate::check::Finding;
use crate::config::Config;
use crate::error::Code;
use crate::setup::{PostgresFacts, SERVER_VERSION_MIN};
use crate::source::quote_identifier;

/// Slots can be copied to standbys from this version on.
const FAILOVER_SLOTS_SINCE: u32 = 170_000;

/// Nothing without standbys, but for those that are waited for, and nothing where the role may not see them.
pub(super) fn judge(config: &Config, facts: &PostgresFacts, limits: &Limits) -> Vec<Finding> {
    let Some(slot) = facts.slot.as_ref().filter(|slot| !slot.is_lost()) else { return Vec::new() };
    let name = quote_identifier(&config.postgres.slot);
    let copied = match (limits.standbys > 0, slot.failover) {
        (true, false) => Some(never_copied(&name, facts.server_version)),
        (true, true) if limits.copies == 0 => Some(not_copied_now(&name)),
        _ => None,
    };
    let ahead = limits.standbys > 0 && slot.failover && !limits.waits_for_standbys;
    let waits = slot.failover && !limits.awaited.is_empty();
    let more = [ahead.then(may_be_ahead), waits.then(|| stands_still(&limits.awaited))];
    copied.into_iter().chain(more.into_iter().flatten()).collect()
}

fn never_copied(name: &str, server_version: u32) -> Finding {
    let subject = format!("slot {name}");
    if (SERVER_VERSION_MIN..FAILOVER_SLOTS_SINCE).contains(&server_version) {
        return Finding::warning(Code::PgSetting, subject, "does not exist on the standbys")
            .because("Postgres copies slots to standbys from version 17 on: a promoted standby has none")
            .fix("the extension pg_failover_slots, or Patroni's permanent slots; docs/failover.md says what to do without");
    }
    Finding::warning(Code::PgSetting, subject, "is not copied to the standbys")
        .because("it was made without `failover`: a promoted standby has no such slot")
        .fix(format!(
            "stop the relay, then over a replication connection (psql \"replication=database dbname=...\"): ALTER_REPLICATION_SLOT {name} (FAILOVER true)"
        ))
}

/// A standby with a copy keeps what the copy needs, and says so through its physical slot; one without says nothing.
fn not_copied_now(name: &str) -> Finding {
    Finding::warning(Code::PgSetting, format!("slot {name}"), "has no copy on any standby yet")
        .because("a standby copies it only with sync_replication_slots, hot_standby_feedback, primary_slot_name and a dbname in primary_conninfo: one promoted without a copy has no such slot")
        .fix("on the standby: ALTER SYSTEM SET sync_replication_slots = on; ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf();")
}

fn may_be_ahead() -> Finding {
    Finding::warning(Code::PgSetting, "synchronized_standby_slots", "is empty, and standbys follow this server")
        .because("events can be published before a standby has their transactions; if it is promoted, they stay in Kafka and are in no database (PB-3002)")
        .fix("ALTER SYSTEM SET synchronized_standby_slots = 'the_standby_s_slot'; SELECT pg_reload_conf();")
}

fn stands_still(awaited: &str) -> Finding {
    let message = format!("names {awaited}, from which no standby streams");
    Finding::warning(Code::PgSetting, "synchronized_standby_slots", message)
        .because("the relay gets no transaction that such a standby does not have: events wait for it")
        .fix("start that standby, correct its primary_slot_name, or take the name out of the setting")
}
