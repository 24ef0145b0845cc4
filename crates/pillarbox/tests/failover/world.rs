//! A pipeline that can be pointed at another server, writers that die with theirs, and the comparison.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use pillarbox_lab::{KafkaOptions, Postgres, PostgresOptions};
use pillarbox_wire::header::{ID, PB_POS, PbPos};
use pillarbox_wire::position::Position;

use crate::harness::records::{Isolation, header, read};
use crate::harness::relay::Relay;
use crate::harness::site::{Answer, Configuration, Site};
use crate::harness::until::until;

/// How long any step may take on a busy machine.
pub(crate) const STEP_MAX: Duration = Duration::from_secs(90);
pub(crate) const PARTITIONS: u32 = 3;
pub(crate) const TOPIC: &str = "outbox.event.order";

/// Servers and a streaming relay.
pub(crate) fn streaming(version: u32) -> (Site, Configuration, Relay) {
    let site = Site::start(PostgresOptions::version(version), KafkaOptions::default());
    // The judge of other tests keeps a slot: nobody reads it here.
    site.postgres.execute("postgres", "SELECT pg_drop_replication_slot('checker')").expect("dropped");
    let configuration = site.configure("orders", PARTITIONS, &[]);
    site.setup(&configuration);
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", STEP_MAX);
    (site, configuration, relay)
}

/// The same pipeline on another server.
pub(crate) fn on(site: &Site, server: &Postgres) -> Configuration {
    let configuration = site.configure("orders", PARTITIONS, &[]);
    let text = fs::read_to_string(&configuration.file).expect("the file");
    let text = text.replace(&site.url(), &server.superuser_url("postgres"));
    fs::write(&configuration.file, text).expect("the file is written");
    configuration
}

/// Commits one row; the error where the server is gone.
fn insert(server_url: &str, n: u64) -> Result<(), pillarbox_lab::LabError> {
    let sql = format!(
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) \
         VALUES (gen_random_uuid(), 'order', 'k-{}', 'made', '{{\"n\": {n}}}')",
        n % 7
    );
    pillarbox_lab::sql::run(server_url, &sql).map(drop)
}

/// Commits rows, one a transaction.
pub(crate) fn write(server: &Postgres, rows: u64) {
    for n in 0..rows {
        insert(&server.superuser_url("postgres"), n).expect("a row");
    }
}

/// Commits rows until its server is gone or it is told to stop.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    rows: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Writer {
    pub(crate) fn start(server: &Postgres) -> Self {
        let (stop, rows) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let url = server.superuser_url("postgres");
        let thread = {
            let (stop, rows) = (Arc::clone(&stop), Arc::clone(&rows));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) && insert(&url, rows.load(Ordering::Relaxed)).is_ok() {
                    rows.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        Self { stop, rows, thread }
    }

    pub(crate) fn wait(&self, rows: u64) {
        until(&format!("{rows} rows"), STEP_MAX, || {
            (self.rows.load(Ordering::Relaxed) >= rows).then_some(())
        });
    }

    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer");
    }
}

/// A record of the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: String,
    pub(crate) position: Position,
    pub(crate) place: String,
}

/// Everything in the topic: each id once; within a partition positions rise and sequences are dense.
pub(crate) fn seen(site: &Site) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    let mut last = [(None, 0); PARTITIONS as usize];
    read(&site.kafka.bootstrap(), TOPIC, Isolation::Committed, |message| {
        use rdkafka::message::Message;
        let text = header(message, PB_POS).expect("every record has its position");
        let pos = PbPos::parse(&text).expect("a position");
        let (position, sequence) = &mut last[message.partition() as usize];
        assert!(*position < Some(pos.position), "{:?} after {position:?}", pos.position);
        assert_eq!(pos.sequence.0, *sequence + 1, "partition {}", message.partition());
        (*position, *sequence) = (Some(pos.position), pos.sequence.0);
        let id = header(message, ID).expect("an id");
        let place = format!("{TOPIC}/{}@{}", message.partition(), message.offset());
        seen.push(Seen { id, position: pos.position, place });
    });
    let ids: BTreeSet<&String> = seen.iter().map(|seen| &seen.id).collect();
    assert_eq!(ids.len(), seen.len(), "an event came twice");
    seen
}

/// The ids of all rows that this server has.
pub(crate) fn rows(server: &Postgres) -> BTreeSet<String> {
    let rows = server.query("postgres", "SELECT id FROM outbox").expect("rows");
    rows.into_iter().map(|row| row[0].clone().expect("an id")).collect()
}

/// Kafka has exactly the rows of this server, and `ghosts`.
pub(crate) fn agree(site: &Site, server: &Postgres, ghosts: &BTreeSet<String>) {
    let published: BTreeSet<String> = seen(site).into_iter().map(|seen| seen.id).collect();
    let rows = rows(server);
    let lost: Vec<_> = rows.difference(&published).collect();
    let more: Vec<_> = published.difference(&rows).filter(|id| !ghosts.contains(*id)).collect();
    assert!(lost.is_empty() && more.is_empty(), "lost {lost:?}, in no database {more:?}");
    println!("{} rows, {} events, {} of them in no database", rows.len(), published.len(), ghosts.len());
}

/// Waits until this server's slot is confirmed up to now.
pub(crate) fn caught_up(server: &Postgres) {
    let now = server.query_one("postgres", "SELECT pg_current_wal_flush_lsn()").expect("an LSN");
    let sql = format!(
        "SELECT confirmed_flush_lsn >= '{now}' FROM pg_replication_slots WHERE slot_name = 'pillarbox_orders'"
    );
    until("the pipeline has caught up", STEP_MAX, || {
        (server.query_one("postgres", &sql).expect("a slot") == "t").then_some(())
    });
}

/// The command halts with this code and a hint.
pub(crate) fn refused(
    site: &Site,
    configuration: &Configuration,
    words: &[&str],
    exit: i32,
    code: &str,
) -> Answer {
    let answer = site.command(words, configuration);
    assert_eq!(answer.code, Some(exit), "{words:?}: {}{}", answer.stdout, answer.stderr);
    assert!(answer.stderr.contains(&format!("[{code}]")), "{words:?}: {}", answer.stderr);
    assert!(answer.stderr.contains("hint: "), "{words:?}: {}", answer.stderr);
    answer
}
