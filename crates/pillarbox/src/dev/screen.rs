//! What `dev` shows: a live screen on a terminal, one plain line a second elsewhere.
//!
//! Shows positions and counts, never a payload. Plain ANSI: cursor home, clear to the end.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use pillarbox_relay::pipeline::status::Status;

use super::TOPIC;
use super::ledger::{Pace, Sighting, Totals};
use crate::http::state_word;

const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K\n";
const CLEAR_REST: &str = "\x1b[J";

/// What does not change while it runs.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) config_file: PathBuf,
    pub(super) postgres_url: String,
    pub(super) kafka: String,
    pub(super) http: String,
}

impl Setting {
    /// How to send an event, and how to read it.
    pub(super) fn instructions(&self) -> String {
        let insert = "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES \
                      (gen_random_uuid(), 'order', 'me', 'Hello', '{\"hello\": \"world\"}')";
        format!(
            "send an event:   psql {} -c \"{}\"\nread events:     pillarbox tap -c {}\nask the relay:   \
             curl {}/api/v1/status\n",
            self.postgres_url,
            insert.replace('"', "\\\""),
            self.config_file.display(),
            self.http,
        )
    }
}

/// One moment.
pub(super) struct Moment<'a> {
    pub(super) up: Duration,
    pub(super) status: &'a Status,
    pub(super) pace: Pace,
    pub(super) totals: Totals,
    pub(super) recent: &'a [Sighting],
}

/// The place where moments are shown.
pub(super) struct Screen {
    live: bool,
    setting: Setting,
}

impl Screen {
    /// Takes over the terminal, if stdout is one.
    pub(super) fn open(setting: Setting) -> Self {
        let live = std::io::stdout().is_terminal();
        if live {
            put(ENTER);
        } else {
            eprint!("{}", setting.instructions());
        }
        Self { live, setting }
    }

    /// Shows a moment.
    pub(super) fn show(&self, moment: &Moment<'_>) {
        if self.live {
            let text = live(&self.setting, moment).replace('\n', CLEAR_LINE);
            put(&format!("{HOME}{text}{CLEAR_REST}"));
        } else {
            put(&line(moment));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.live {
            put(LEAVE);
        }
    }
}

/// A reader that went away does not stop the servers: the next signal does.
fn put(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// `events/s=… p50_ms=… p99_ms=… lag_bytes=…`
fn line(moment: &Moment<'_>) -> String {
    let Moment { status, pace, totals, .. } = moment;
    format!(
        "events/s={:.0} p50_ms={:.2} p99_ms={:.2} lag_bytes={} state={} committed={} seen={} violations={}\n",
        pace.events_per_second,
        ms(pace.p50),
        ms(pace.p99),
        status.lag_bytes,
        state_word(status.state).replace(' ', "_"),
        totals.committed,
        totals.seen,
        totals.violations(),
    )
}

fn live(setting: &Setting, moment: &Moment<'_>) -> String {
    let Moment { up, status, pace, totals, recent } = moment;
    let seconds = up.as_secs();
    let mut text = format!(
        "pillarbox dev    {}    up {:02}:{:02}:{:02}    Ctrl-C stops all of it\n\n",
        state_word(status.state),
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    let _ = writeln!(text, "  postgres  {}", setting.postgres_url);
    let _ = writeln!(text, "  kafka     {}", setting.kafka);
    let _ = writeln!(text, "  http      {}\n", setting.http);
    let _ = writeln!(
        text,
        "  {:.0} events/s    commit to visible: p50 {:.2} ms, p99 {:.2} ms    lag {} bytes",
        pace.events_per_second,
        ms(pace.p50),
        ms(pace.p99),
        status.lag_bytes
    );
    let _ = writeln!(
        text,
        "  {} committed, {} rolled back, {} seen by a read_committed consumer\n  {} duplicated, {} ghosts, \
         {} out of order, {} sequence gaps\n",
        totals.committed,
        totals.rolled_back,
        totals.seen,
        totals.duplicated,
        totals.ghosts,
        totals.reordered,
        totals.gaps
    );
    if let Some(fault) = &status.fault {
        let _ = writeln!(text, "  {}: {}\n", fault.code, fault.message);
    }
    for Sighting { partition, offset, position } in *recent {
        let _ = writeln!(text, "  {TOPIC}/{partition} @{offset:<10} {position}");
    }
    text.push('\n');
    text.push_str(&setting.instructions());
    text
}

/// What is said at the end.
pub(super) fn summary(totals: &Totals, lost: usize) -> String {
    format!(
        "{} committed, {} rolled back, {} seen, {} of them written by others\n{lost} lost, {} duplicated, {} \
         ghosts, {} out of order, {} sequence gaps\n",
        totals.committed,
        totals.rolled_back,
        totals.seen,
        totals.foreign,
        totals.duplicated,
        totals.ghosts,
        totals.reordered,
        totals.gaps
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> Setting {
        Setting {
            config_file: "/tmp/x/pillarbox.yaml".into(),
            postgres_url: "postgres://postgres@127.0.0.1:1/shop".to_owned(),
            kafka: "127.0.0.1:2".to_owned(),
            http: "http://127.0.0.1:3".to_owned(),
        }
    }

    #[test]
    fn a_plain_line() {
        let status = Status::new("dev");
        let pace = Pace {
            events_per_second: 199.6,
            p50: Duration::from_micros(1_840),
            p99: Duration::from_micros(4_321),
        };
        let totals = Totals { committed: 9, seen: 8, ..Totals::default() };
        let up = Duration::from_secs(3_661);
        let moment = Moment { up, status: &status, pace, totals, recent: &[] };
        assert_eq!(
            line(&moment),
            "events/s=200 p50_ms=1.84 p99_ms=4.32 lag_bytes=0 state=starting committed=9 seen=8 violations=0\n"
        );
        let text = live(&setting(), &moment);
        assert!(
            text.contains("up 01:01:01") && text.contains("pillarbox tap -c /tmp/x/pillarbox.yaml"),
            "{text}"
        );
    }

    #[test]
    fn the_insert_survives_a_shell() {
        let text = setting().instructions();
        assert!(text.contains(r#"'{\"hello\": \"world\"}')""#), "{text}");
    }
}
