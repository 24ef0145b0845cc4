//! `pillarbox run`: the relay, until a signal ends it.

use std::time::Duration;

use clap::Args;
use pillarbox_relay::pipeline::{Ended, Options, State};

use super::ConfigFile;
use crate::log;
use crate::relay::Relay;
use crate::report::Failure;
use crate::signals::Signals;

/// How long servers may be unreachable before the first streaming: long enough for an orchestrator
/// that starts all at once, short enough to notice a wrong address.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// How long a drain may take: below the 30 s after which orchestrators kill.
const DRAIN_DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// End with exit code 65 when a person must act, instead of staying up and not ready
    #[arg(long)]
    exit_on_halt: bool,
    /// A level or filter, such as debug or pillarbox_relay=debug,info [default: RUST_LOG, or info]
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
    /// How log lines look [default: text on a terminal, json otherwise]
    #[arg(long, value_enum)]
    log_format: Option<log::Format>,
}

impl Arguments {
    pub(super) fn run(self) -> Result<(), Failure> {
        let loaded = self.file.load()?;
        log::start(self.log_level.as_deref(), self.log_format)?;
        let options = Options {
            start_deadline: START_DEADLINE,
            drain_deadline: DRAIN_DEADLINE,
            exit_on_halt: self.exit_on_halt,
        };
        super::block_on(async move {
            let mut signals = Signals::catch()?;
            let pipeline = loaded.config.pipeline.to_string();
            let listen = loaded.listen.map_or_else(|| "off".to_owned(), |address| address.to_string());
            if loaded.listen.is_some_and(|address| !address.ip().is_loopback()) {
                tracing::warn!(
                    http = listen,
                    "anyone who reaches this address may pause the pipeline: there is no login"
                );
            }
            let relay = Relay::start(loaded, options).await?;
            tracing::info!(version = env!("CARGO_PKG_VERSION"), pipeline, http = listen, "pillarbox starts");
            supervise(relay, &mut signals, self.exit_on_halt).await
        })
    }
}

/// Waits for the end of the pipeline or for a signal, which makes it drain.
async fn supervise(relay: Relay, signals: &mut Signals, exit_on_halt: bool) -> Result<(), Failure> {
    let mut state = relay.state();
    let over = |state| state == State::Stopped || exit_on_halt && state == State::Halted;
    tokio::select! {
        _ = state.wait_for(|state| over(*state)) => {}
        name = signals.next() => {
            tracing::info!(signal = name, "draining; a second signal ends at once");
            relay.stop();
        }
    }
    match signals.or_exit(relay.ended()).await {
        Ended::Stopped => Ok(()),
        Ended::Halted(fault) | Ended::Unreachable(fault) => Err(fault.into()),
    }
}
