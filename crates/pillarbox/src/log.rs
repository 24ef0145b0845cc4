//! Where log lines go: stderr, as text for people and as JSON for programs.
//!
//! Never to stdout, which is data; never a payload, key, header value or secret.

use std::io::IsTerminal;

use clap::ValueEnum;
use pillarbox_relay::error::{Code, Fault};
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Starts logging; `level` wins over `RUST_LOG`, which wins over `info`.
///
/// # Errors
/// The level is no filter, or logging was started before.
pub(crate) fn start(level: Option<&str>, format: Option<Format>) -> Result<(), Fault> {
    let env = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = level.map(str::to_owned).or(env).unwrap_or_else(|| "info".to_owned());
    let filter = EnvFilter::try_new(&filter).map_err(|error| {
        Fault::new(Code::ConfigValue, format!("`{filter}` is not a log level"))
            .because(error)
            .hint("use error, warn, info, debug or trace, or a filter such as pillarbox_relay=debug,info")
    })?;
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { Format::Text } else { Format::Json });
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Told where the line could not be written, that is stderr itself: a full disk would end the relay.
        .log_internal_errors(false);
    let started = match format {
        Format::Text => subscriber.with_ansi(crate::report::colour(terminal)).with_target(false).try_init(),
        Format::Json => subscriber.json().flatten_event(true).with_ansi(false).try_init(),
    };
    started.map_err(|error| Fault::new(Code::Internal, "cannot start logging").because(error))
}
