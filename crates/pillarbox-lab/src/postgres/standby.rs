//! A server that follows another one, and takes over from it.
//!
//! ```text
//! primary -- storage snapshot --> copy, slots removed -- standby.signal --> streams from a physical slot -- promote --> primary
//! ```
//! From 17 on it keeps copies of the primary's failover slots. Must never have a slot that was merely copied with the
//! files: it would stand where nobody knows.

use std::fs;

use super::{Postgres, PostgresOptions};
use crate::LabError;
use crate::account::{give, server_account};
use crate::folder::Temporary;

/// The database that slots are synchronised through; any will do.
const SYNC_DATABASE: &str = "postgres";
/// How long a promotion may take.
const PROMOTION_SECONDS_MAX: u32 = 60;
/// Since when servers copy slots.
const SLOT_SYNC_SINCE: u32 = 17;

impl Postgres {
    /// Starts a standby of this server, which streams from a physical slot of this name, made here. Its version and
    /// settings are this server's, and `settings` on top. The folder is a temporary one.
    pub fn standby(&mut self, slot: &str, settings: &[(&str, &str)]) -> Result<Self, LabError> {
        let made = format!("SELECT pg_create_physical_replication_slot({}, true)", super::literal(slot));
        self.execute("postgres", &made)?;
        let account = server_account()?;
        let temporary = Temporary::new("pg", account)?;
        let data = temporary.path().join("data");
        self.copy_data_dir_to(&data)?;
        without_slots(&data)?;
        let signal = data.join("standby.signal");
        fs::write(&signal, "").map_err(LabError::io("write", &signal))?;
        give(&signal, account)?;
        let conninfo = format!(
            "host=127.0.0.1 port={} user=postgres dbname={SYNC_DATABASE} application_name={slot}",
            self.port
        );
        let mut options =
            PostgresOptions { data_dir: Some(data.clone()), port: None, ..self.options.clone() }
                .setting("primary_conninfo", &conninfo)
                .setting("primary_slot_name", slot)
                .setting("hot_standby_feedback", "on");
        if self.version() >= SLOT_SYNC_SINCE {
            // Of the primary's settings this one makes no sense here.
            options =
                options.setting("sync_replication_slots", "on").setting("synchronized_standby_slots", "");
        }
        for (name, value) in settings {
            options = options.setting(name, value);
        }
        let mut standby = Self::start(options)?;
        standby._temporary = Some(temporary);
        Ok(standby)
    }

    /// Makes a standby a primary, on a timeline of its own.
    pub fn promote(&self) -> Result<(), LabError> {
        match self
            .query_one("postgres", &format!("SELECT pg_promote(true, {PROMOTION_SECONDS_MAX})"))?
            .as_str()
        {
            "t" => Ok(()),
            _ => Err(LabError::State { name: self.name(), state: "still a standby" }),
        }
    }
}

fn without_slots(data: &std::path::Path) -> Result<(), LabError> {
    let folder = data.join("pg_replslot");
    for entry in fs::read_dir(&folder).map_err(LabError::io("read", &folder))? {
        let path = entry.map_err(LabError::io("read", &folder))?.path();
        fs::remove_dir_all(&path).map_err(LabError::io("remove", &path))?;
    }
    Ok(())
}
