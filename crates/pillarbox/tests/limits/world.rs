//! A relay on servers of its own, and the watch over both.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use pillarbox_lab::{KafkaOptions, PostgresOptions, sql, wal};

use crate::figures::{Figures, size};
use crate::harness::relay::Relay;
use crate::harness::site::{Configuration, Site};

pub(crate) const DATABASE: &str = "postgres";
/// How long anything that comes by itself may take on a machine that does other things too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// How long the load itself may take to arrive.
pub(crate) fn arrival_max() -> Duration {
    size(Duration::from_secs(300), Duration::from_secs(3600))
}
/// A client that says nothing for so long is cut by Postgres.
const SENDER_TIMEOUT: &str = "5s";
/// How often Postgres is asked when it last heard of the relay.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// What Postgres writes when it cuts a silent client.
const CUT: &str = "due to replication timeout";

/// The table most cases use: numbers as ids, and a payload that Kafka gets as it is.
const TABLE: &str = "CREATE TABLE public.limits (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload text)";

/// Servers, with `TABLE` and a Postgres that cuts silent clients.
pub(crate) fn site() -> Site {
    let postgres = PostgresOptions::version(18)
        .setting("wal_sender_timeout", SENDER_TIMEOUT)
        .setting("max_wal_size", "16GB")
        .setting("lc_messages", "C");
    // How often Kafka writes to index files decides how fast the first markers in a partition are (PB-2022).
    let interval = std::env::var("PILLARBOX_INDEX_INTERVAL").ok();
    let settings = interval.map(|bytes| ("log.index.interval.bytes".to_owned(), bytes)).into_iter().collect();
    let kafka = KafkaOptions { heap_mb: size(512, 1024), settings, ..KafkaOptions::default() };
    let site = Site::start(postgres, kafka);
    site.postgres.execute(DATABASE, TABLE).expect("a table");
    site
}

/// A pipeline that streams, watched.
pub(crate) struct World {
    pub(crate) at: Configuration,
    pub(crate) relay: Relay,
    watch: Watch,
    // Last: a failing test shows the relays' logs, which lie in its folder.
    pub(crate) site: Site,
}

impl World {
    /// Streams from `TABLE`.
    pub(crate) fn start(partitions: u32, kafka: &[&str]) -> Self {
        let site = site();
        // The comparison here is by number: nobody reads this one, and it would keep WAL.
        wal::drop_slot(&site.url(), "checker").expect("the judge's slot");
        let at = site.configure_outbox("limits", partitions, kafka, "{ table: public.limits }");
        Self::on(site, at)
    }

    /// Streams as configured.
    pub(crate) fn on(site: Site, at: Configuration) -> Self {
        site.setup(&at);
        let mut relay = site.relay(&at);
        relay.wait_state("streaming", PATIENCE);
        let watch = Watch::start(site.url());
        Self { at, relay, watch, site }
    }

    pub(crate) fn execute(&self, sql: &str) {
        self.site.postgres.execute(DATABASE, sql).expect("the statement succeeds");
    }

    /// Bytes of WAL so far.
    pub(crate) fn wal_bytes(&self) -> u64 {
        let sql = "SELECT pg_current_wal_insert_lsn() - '0/0'";
        self.site.postgres.query_one(DATABASE, sql).expect("an answer").parse().expect("a number")
    }

    /// Ends the watch; Postgres must not have cut the stream, whatever happened.
    pub(crate) fn figures(
        self,
        case: &'static str,
        what: String,
        events: u64,
        took: Duration,
    ) -> (Figures, Site) {
        let Self { relay, watch, site, .. } = self;
        let log =
            fs::read_to_string(site.postgres.data_dir().join("server.log")).expect("the log of Postgres");
        assert!(!log.contains(CUT), "Postgres waited for a status in vain");
        let figures = Figures {
            case,
            what,
            events,
            took,
            rss_kib: relay.rss_max_kib(),
            silence: Some(watch.stop()),
            note: String::new(),
        };
        (figures, site)
    }
}

/// Asks Postgres when it last heard of the relay, again and again.
struct Watch {
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Watch {
    fn start(url: String) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stopped);
        let thread = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !seen.load(Ordering::Relaxed) {
                longest = longest.max(silence(&url).unwrap_or_default());
                std::thread::park_timeout(ASK_EVERY);
            }
            longest
        });
        Self { stopped, thread }
    }

    /// The longest silence.
    fn stop(self) -> Duration {
        self.stopped.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().expect("the watch ends")
    }
}

/// How long ago the relay last answered; `None` where it does not stream. Both clocks are this machine's.
fn silence(url: &str) -> Option<Duration> {
    let sql = "SELECT extract(epoch FROM clock_timestamp() - reply_time) FROM pg_stat_replication";
    let rows = sql::run(url, sql).ok()?;
    let seconds: f64 = rows.first()?.first()?.as_deref()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}
