//! A real `read_committed` consumer on a thread of its own: what it gets, and when, goes to the
//! ledger.
//!
//! Its own runtime, so that nothing else in the process adds to the latency it measures. Reads
//! each partition in offset order; never sorts.

use std::time::{Duration, Instant};

use futures_util::future::select_all;
use pillarbox_kafka::admin::{self, OffsetOf};
use pillarbox_kafka::reader::{PartitionReader, ReaderOptions, Record};
use pillarbox_kafka::{Cluster, Error};
use pillarbox_relay::config::Config;
use pillarbox_relay::error::{Code, Fault};
use pillarbox_relay::sink;
use pillarbox_wire::header::{self, PbPos};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::{SharedLedger, TOPIC};

/// How often to look for the topic, which the relay creates for the first event.
const DISCOVERY_INTERVAL: Duration = Duration::from_millis(100);

/// A consumer thread.
pub(super) struct Watcher {
    stop: watch::Sender<bool>,
    failed: oneshot::Receiver<Fault>,
    thread: std::thread::JoinHandle<()>,
}

impl Watcher {
    /// Starts it; returns when it knows where to begin, so that nothing written later is missed.
    ///
    /// # Errors
    /// Kafka does not answer.
    pub(super) async fn start(config: Config, ledger: SharedLedger) -> Result<Self, Fault> {
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = oneshot::channel();
        let (fail, failed) = oneshot::channel();
        let work = move || {
            let outcome = consume(&config, &ledger, ready, stopped);
            if let Err(fault) = outcome {
                // Heard by whoever shows the screen, unless it has gone.
                let _ = fail.send(fault);
            }
        };
        let thread = super::task::watch(work)?;
        let watcher = Self { stop, failed, thread };
        match is_ready.await {
            Ok(()) => Ok(watcher),
            Err(_) => Err(watcher.failed.await.unwrap_or_else(|_| gone())),
        }
    }

    /// Waits for the fault that ended it; for ever while it works.
    pub(super) async fn failed(&mut self) -> Fault {
        (&mut self.failed).await.unwrap_or_else(|_| gone())
    }

    /// Ends it.
    pub(super) fn stop(self) {
        self.stop.send_replace(true);
        // A panic has been printed by the thread itself.
        let _ = self.thread.join();
    }
}

fn gone() -> Fault {
    Fault::new(Code::Internal, "the consumer thread has ended")
}

fn consume(
    config: &Config,
    ledger: &SharedLedger,
    ready: oneshot::Sender<()>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::new(Code::Internal, "cannot start the consumer's runtime").because(error))?;
    runtime.block_on(async {
        tokio::select! {
            outcome = read(config, ledger, ready) => outcome,
            _ = stop.wait_for(|stop| *stop) => Ok(()),
        }
    })
}

async fn read(config: &Config, ledger: &SharedLedger, ready: oneshot::Sender<()>) -> Result<(), Fault> {
    let cluster = sink::connect(config).await?;
    let mut partitions = ends(&cluster).await?;
    // The receiver waits for exactly this.
    let _ = ready.send(());
    let mut discovery = tokio::time::interval(DISCOVERY_INTERVAL);
    while partitions.is_empty() {
        discovery.tick().await;
        // A new topic is read from its first event.
        partitions = ends(&cluster).await?.into_iter().map(|(partition, _)| (partition, 0)).collect();
    }
    let readers = partitions.into_iter().map(|(partition, offset)| {
        let reader =
            PartitionReader::new(cluster.clone(), TOPIC, partition, offset, ReaderOptions::default());
        Box::pin(partition_loop(reader, partition, ledger))
    });
    let (error, ..) = select_all(readers).await;
    Err(fault(&error))
}

/// The partitions of the topic and where they end; none while there is no topic.
async fn ends(cluster: &Cluster) -> Result<Vec<(i32, i64)>, Fault> {
    let described = admin::describe_topic(cluster, TOPIC).await.map_err(|error| fault(&error))?;
    let count = described.map_or(0, |topic| i32::try_from(topic.partitions).unwrap_or(i32::MAX));
    let mut ends = Vec::new();
    for partition in 0..count {
        let end = admin::list_offset(cluster, TOPIC, partition, OffsetOf::LatestCommitted).await;
        ends.push((partition, end.map_err(|error| fault(&error))?));
    }
    Ok(ends)
}

/// Reads one partition until that fails.
async fn partition_loop(mut reader: PartitionReader, partition: i32, ledger: &SharedLedger) -> Error {
    loop {
        match reader.poll().await {
            Ok(fetched) => {
                let at = Instant::now();
                let mut ledger = ledger.lock();
                for record in &fetched.records {
                    ledger.seen(partition, record.offset, id(record), position(record), at);
                }
            }
            Err(error) => return error,
        }
    }
}

fn id(record: &Record) -> Option<u128> {
    Uuid::try_parse_ascii(record.header(header::ID)?).ok().map(|id| id.as_u128())
}

fn position(record: &Record) -> Option<PbPos<'_>> {
    PbPos::parse(std::str::from_utf8(record.header(header::PB_POS)?).ok()?).ok()
}

fn fault(error: &Error) -> Fault {
    sink::kafka_fault(error, &format!("cannot read topic {TOPIC}"))
}
