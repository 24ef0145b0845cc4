//! What would become of the pipeline if a standby were promoted now.

use super::Limits;
use crate::check::Finding;
use crate::config::Config;
use crate::error::Code;
use crate::setup::{PostgresFacts, SERVER_VERSION_MIN};
use crate::source::quote_identifier;

/// Slots can be copied to standbys from this version on.
const FAILOVER_SLOTS_SINCE: u32 = 170_000;

/// Nothing without standbys, and nothing where the role may not see them.
pub(super) fn judge(config: &Config, facts: &PostgresFacts, limits: &Limits) -> Option<Finding> {
    let slot = facts.slot.as_ref().filter(|slot| limits.standbys > 0 && !slot.is_lost())?;
    let name = quote_identifier(&config.postgres.slot);
    let subject = format!("slot {name}");
    if (SERVER_VERSION_MIN..FAILOVER_SLOTS_SINCE).contains(&facts.server_version) {
        return Some(
            Finding::warning(Code::PgSetting, subject, "does not exist on the standbys")
                .because("Postgres copies slots to standbys from version 17 on: a promoted standby has none")
                .fix("the extension pg_failover_slots, or Patroni's permanent slots; docs/failover.md says what to do without"),
        );
    }
    if !slot.failover {
        return Some(
            Finding::warning(Code::PgSetting, subject, "is not copied to the standbys")
                .because("it was made without `failover`: a promoted standby has no such slot")
                .fix(format!(
                    "stop the relay, then over a replication connection (psql \"replication=database dbname=...\"): ALTER_REPLICATION_SLOT {name} (FAILOVER true)"
                )),
        );
    }
    (!limits.waits_for_standbys).then(|| {
        Finding::warning(Code::PgSetting, "synchronized_standby_slots", "is empty, and standbys follow this server")
            .because("events can be published before a standby has their transactions; if it is promoted, they stay in Kafka and are in no database (PB-3002)")
            .fix("ALTER SYSTEM SET synchronized_standby_slots = 'the_standby_s_slot'; SELECT pg_reload_conf();")
    })
}
