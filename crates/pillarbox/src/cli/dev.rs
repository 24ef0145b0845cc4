//! `pillarbox dev`: private servers, sample traffic and the relay, with one command.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::config::units;
use crate::report::Failure;
use crate::{dev, log};

/// Most events a second the sample shop may be asked for: beyond, the shop is what is measured.
const EVENTS_PER_SECOND_MAX: i64 = 20_000;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Keep the servers' data in DIR for the next start
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Port of the HTTP interface; Postgres and Kafka take the next two [default: free ones]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=65_533))]
    port: Option<u16>,
    /// Orders the sample shop commits; 0 = none
    #[arg(long, value_name = "N", default_value_t = 200,
        value_parser = clap::value_parser!(u32).range(0..=EVENTS_PER_SECOND_MAX))]
    events_per_second: u32,
    /// End after so long, such as 30s, with exit code 1 if anything was lost, repeated or reordered
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    duration: Option<Duration>,
    /// Major version of Postgres
    #[arg(long, value_name = "N", default_value_t = 18, value_parser = clap::value_parser!(u32).range(15..=18))]
    postgres_version: u32,
    /// A level or filter, such as debug [default: RUST_LOG, or warn]
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        // The screen shows the state; the log is for what needs a person.
        let level = self.log_level.or_else(|| std::env::var("RUST_LOG").ok()).unwrap_or("warn".to_owned());
        log::start(Some(&level), Some(log::Format::Text))?;
        super::block_on(dev::run(dev::Wish {
            keep: self.keep,
            port: self.port,
            events_per_second: self.events_per_second,
            duration: self.duration,
            postgres_version: self.postgres_version,
        }))
    }
}
