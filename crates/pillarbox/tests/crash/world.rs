//! Servers, a pipeline with two outbox tables, writers, and the verdict on all of it.
//!
//! The writers' table is judged against WAL as a whole. The other one is an operator's: its topics come into being, grow
//! and refuse rows; each of its rows must be in its topic once, too. So must those of a third one that the relay keeps
//! small.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use pillarbox_lab::workload::{Workload, WorkloadOptions};
use pillarbox_lab::{KafkaOptions, PostgresOptions};
use serde_json::Value;

use crate::figures::Figures;
use crate::harness::records::{Isolation, header, read};
use crate::harness::relay::Relay;
use crate::harness::site::{Configuration, Site};
use crate::life::{PATIENCE, Subject};

/// Partitions of each topic of the writers.
const PARTITIONS: u32 = 2;
/// Source transactions of more events are published in parts.
const EVENTS_MAX: &str = "transaction: { max_events: 30 }";
/// A topic that takes two records a batch: sets then have several batches a partition, and the checkpoint comes after
/// them in a Produce of its own.
const NARROW: (&str, &str) = ("outbox.event.customer", "1000");
const DATABASE: &str = "postgres";

const OUTBOXES: &str = "outbox:
  - { table: public.outbox }
  - { table: public.extra, on_error: dead_letter }
  - { table: public.swept, housekeeping: { mode: delete, batch: 10, pause: 1ms } }
";

/// How long the last life may need for all that was written while relays died and brokers started again: writers do not
/// wait for them.
const CAUGHT_UP_MAX: Duration = Duration::from_secs(600);

/// Servers under load, and the relay that dies on them.
pub(crate) struct World {
    pub(crate) subject: Subject,
    pub(crate) at: Configuration,
    load: Workload,
    options: WorkloadOptions,
    /// Rounds so far.
    pub(crate) rounds: u32,
    // Last: a failing test shows the relays' logs, which lie in its folder.
    pub(crate) site: Site,
}

impl World {
    /// Starts everything; the relay streams. Transactions a second: some for each life, and no more than a debug build gets
    /// done between them.
    pub(crate) fn start(seed: u64, rate: f64) -> Self {
        // Recovery without a standby's queries: a restart with `recovery.signal` is a failover without a lost tail.
        let postgres =
            PostgresOptions::version(18).setting("restore_command", "false").setting("hot_standby", "off");
        let mut site = Site::start(postgres, KafkaOptions::default());
        let tables = "CREATE TABLE public.extra (LIKE public.outbox); \
                      CREATE TABLE public.swept (LIKE public.outbox INCLUDING INDEXES); \
                      CREATE TABLE public.swept_ids (id uuid)";
        site.postgres.execute(DATABASE, tables).expect("the tables");
        site.kafka.create_topic(NARROW.0, PARTITIONS, &[("max.message.bytes", NARROW.1)]).expect("a topic");
        let at = configure(&site);
        site.setup(&at);
        let relay = site.relay(&at);
        let options = WorkloadOptions {
            writers: 4,
            transactions: u32::MAX,
            rate: Some(rate),
            seed,
            ..WorkloadOptions::default()
        };
        let load = Workload::start(&site.url(), options.clone()).expect("the writers start");
        let mut world = Self { subject: Subject::new(relay), at, load, options, rounds: 0, site };
        world.subject.wait_streaming();
        world
    }

    /// A second relay of the pipeline.
    pub(crate) fn second(&self) -> Relay {
        self.site.relay(&configure(&self.site))
    }

    /// Runs SQL as one transaction.
    pub(crate) fn write(&self, sql: &str) {
        self.site.postgres.execute(DATABASE, sql).expect("the rows are written");
    }

    /// Changes a topic with a tool of Kafka's.
    pub(crate) fn administer(&self, tool: &str, topic: &str, words: &[&str]) {
        let mut java = self.site.kafka.tool(tool);
        let output = java.args(["--alter", "--topic", topic]).args(words).output().expect("java runs");
        assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Ends the load, lets the pipeline come to its end, and compares.
    pub(crate) fn judge(self) -> Figures {
        // Dropped last: a failing test shows the log in its folder.
        let Self { site, at, load, options, mut subject, .. } = self;
        subject.launch(None);
        load.stop();
        let log = load.finish().expect("the writers know what they committed");
        subject.wait_streaming();
        site.caught_up(&at, CAUGHT_UP_MAX);
        assert_eq!(subject.relay.terminate(PATIENCE).code(), Some(0));
        println!(
            "{} markers that brokers had lost were written",
            subject.relay.log_count("had lost the end")
        );
        let report = site.judge(&log, &options, PARTITIONS);
        report.assert_clean();
        let extra = extra(&site);
        let open = site.command(&["dead-letters", "list", "-o", "json"], &at);
        assert_eq!(serde_json::from_str::<Value>(&open.stdout).expect("JSON"), Value::Array(Vec::new()));
        let mut figures = subject.figures;
        figures.events += u64::try_from(report.observed + extra).expect("a number");
        figures
    }
}

fn configure(site: &Site) -> Configuration {
    let at = site.configure("orders", PARTITIONS, &[EVENTS_MAX]);
    let text = fs::read_to_string(&at.file).expect("the file");
    fs::write(&at.file, text.replace("outbox: { table: public.outbox }\n", OUTBOXES)).expect("the file");
    at
}

/// Every row that was ever in the other tables is in its topic once, with dense sequences; gives their number.
fn extra(site: &Site) -> usize {
    // Of the table that is kept small only the ids are left.
    let sql = "SELECT aggregatetype, id::text FROM public.extra UNION ALL \
               SELECT 'swept', id::text FROM public.swept_ids ORDER BY 2";
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in site.postgres.query(DATABASE, sql).expect("rows") {
        let mut columns = row.into_iter().flatten();
        let (kind, id) = (columns.next().expect("a type"), columns.next().expect("an id"));
        wanted.entry(format!("outbox.event.{kind}")).or_default().push(id);
    }
    for (topic, ids) in &wanted {
        let mut found = Vec::new();
        let mut sequences: BTreeMap<i32, u64> = BTreeMap::new();
        read(&site.kafka.bootstrap(), topic, Isolation::Committed, |message| {
            use rdkafka::message::Message;
            let place = header(message, "pb-pos").expect("pb-pos");
            let sequence: u64 = place.rsplit(':').next().expect("a sequence").parse().expect("a number");
            let before = sequences.insert(message.partition(), sequence);
            // A partition that was added goes on from nothing, others from where they were.
            assert_eq!(sequence, before.unwrap_or(0) + 1, "{topic}/{}: a gap", message.partition());
            found.push(header(message, "id").expect("an id"));
        });
        found.sort();
        assert_eq!(&found, ids, "{topic}: lost or doubled");
    }
    wanted.values().map(Vec::len).sum()
}
