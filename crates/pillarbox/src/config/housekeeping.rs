//! The `housekeeping` section of an outbox table: how it is kept small.
//!
//! Each mode has its own options; those of another mode are unknown, so that nobody relies on one
//! that does nothing.

use std::time::Duration;

use pillarbox_relay::config::{Batches, Housekeeping, Partitions};
use serde_json::{Value, json};

use super::outbox::column_name;
use super::reader::Section;
use super::units::duration;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Shorter partitions would come and go faster than is worth their catalog rows.
const INTERVAL_MIN: Duration = Duration::from_secs(60);
/// Longer ones would not keep the table small.
const INTERVAL_MAX: Duration = Duration::from_secs(31 * 24 * 3600);
/// Most partitions ahead: catalogs and plans grow with them.
const AHEAD_MAX: u32 = 100;
/// With less, writers whose clock or transaction lags would be refused.
const KEEP_MIN: Duration = Duration::from_secs(60);
const KEEP_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Rows of one DELETE at most: it must end well within the statement timeout.
const BATCH_MAX: u32 = 100_000;
const PAUSE_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
enum Mode {
    None,
    Partitions,
    Delete,
}

const MODE: &[(&str, Mode)] =
    &[("none", Mode::None), ("partitions", Mode::Partitions), ("delete", Mode::Delete)];

/// The section of `outbox`; the default where it is absent, or something was reported.
pub(super) fn read(outbox: &Section<'_>) -> Housekeeping {
    let Some(section) = outbox.section("housekeeping") else { return Housekeeping::None };
    let mode = section.required("mode", "write mode: partitions, or mode: delete");
    let how = match mode.and_then(|_| section.choice("mode", MODE)) {
        // Its options cannot be judged without it.
        None => return Housekeeping::None,
        Some(Mode::None) => Housekeeping::None,
        Some(Mode::Partitions) => Housekeeping::Partitions(partitions(&section)),
        Some(Mode::Delete) => Housekeeping::Delete(batches(&section)),
    };
    section.finish();
    how
}

fn partitions(section: &Section<'_>) -> Partitions {
    let default = Partitions::default();
    Partitions {
        column: section.parse("column", column_name).unwrap_or(default.column),
        interval: section.parse("interval", interval).unwrap_or(default.interval),
        ahead: section.integer("ahead", 1, AHEAD_MAX).unwrap_or(default.ahead),
        keep: section.parse("keep", |text| within(text, KEEP_MIN, KEEP_MAX)).unwrap_or(default.keep),
    }
}

/// Bounds are whole seconds.
fn interval(text: &str) -> Result<Duration, String> {
    let found = within(text, INTERVAL_MIN, INTERVAL_MAX)?;
    if found.subsec_nanos() > 0 { Err("expected whole seconds".to_owned()) } else { Ok(found) }
}

fn batches(section: &Section<'_>) -> Batches {
    let default = Batches::default();
    let pause = section.parse("pause", |text| within(text, Duration::ZERO, PAUSE_MAX));
    Batches {
        rows_max: section.integer("batch", 1, BATCH_MAX).unwrap_or(default.rows_max),
        pause: pause.unwrap_or(default.pause),
    }
}

fn within(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let found = duration(text)?;
    if found < min || found > max {
        return Err(format!("expected {} to {}", spelled(min), spelled(max)));
    }
    Ok(found)
}

/// As the file would spell it.
fn spelled(duration: Duration) -> String {
    match duration.as_secs() {
        _ if duration.subsec_nanos() > 0 => format!("{}ms", duration.as_millis()),
        seconds if duration >= DAY && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds => format!("{seconds}s"),
    }
}

/// As the file would spell it.
pub(super) fn shown(how: &Housekeeping) -> Value {
    match how {
        Housekeeping::None => json!({ "mode": "none" }),
        Housekeeping::Partitions(partitions) => json!({
            "mode": "partitions",
            "column": partitions.column,
            "interval": spelled(partitions.interval),
            "ahead": partitions.ahead,
            "keep": spelled(partitions.keep),
        }),
        Housekeeping::Delete(batches) => json!({
            "mode": "delete",
            "batch": batches.rows_max,
            "pause": spelled(batches.pause),
        }),
    }
}
