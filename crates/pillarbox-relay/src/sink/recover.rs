//! Start, steps 2 to 4, on the sink thread while the reader holds the slot.
//!
//! ```text
//! read checkpoint -> judge -> complete what brokers ended in part -> InitProducerId for all eight ids
//!                      |                        (`markers`)                  |
//!                      +---- halt, nothing was touched                       v
//!                                           stream <- judge again <- read again
//!                                                          +---- halt
//! ```
//!
//! Judging comes first because a clone of the database must not fence production; it comes again
//! because the predecessor may have committed between the first read and its fencing, or before it
//! where the markers of its last commit were not written yet. Whether the slot is ahead can only be
//! said then. A new epoch is committed in a transaction of its own before any event can use it.

use std::sync::Arc;
use std::time::Instant;

use pillarbox_failpoint::{Step, hit};
use pillarbox_kafka::Cluster;
use pillarbox_kafka::producer::{Outcome, Producer, ProducerConfig, TopicRef, Transaction};
use tokio::sync::mpsc;

use super::commit::{Clock, Sink, Tag};
use super::read::{End, read};
use super::record::Recorder;
use super::{connect, kafka_fault, markers, topics};
use crate::config::{Config, TRANSACTION_IDS_OWNED};
use crate::error::{Code, Fault};
use crate::lineage::source;
use crate::pipeline::board::Board;
use crate::pipeline::intake::SetEnd;
use crate::pipeline::messages::{Command, Event, HandedSet, Outlet, Plan};
use crate::position::checkpoint::{Delta, PositionRecord, Table};
use crate::position::lineage::{SourceFacts, judge, judge_unfenced};
use crate::position::recognition::Recognition;

/// What the sink thread needs.
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) facts: SourceFacts,
    pub(crate) sets: mpsc::Receiver<HandedSet>,
    pub(crate) reader: Outlet,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) board: Arc<Board>,
}

/// The thread's main function. Ends when the reader is gone, or with a fault.
pub(crate) async fn run(context: Context) -> Option<Fault> {
    let Context { config, facts, mut sets, reader, events, board } = context;
    let recovered = tokio::select! {
        recovered = recover(&config, facts.clone(), &board) => recovered,
        // Nothing is sealed before streaming: this only ends when the reader does.
        _ = sets.recv() => return None,
    };
    let ended = match recovered {
        Ok(Recovered { producer, recorder, clock, plan }) => {
            hit(Step::Recovered);
            board.arrivals.began(&facts, &plan.table);
            reader.send(Command::Stream(Box::new(plan)));
            let _ = events.send(Event::Recovered).await;
            Sink { producer, recorder, clock, sets, reader, board }.run().await
        }
        Err(fault) => Err(fault),
    };
    ended.err()
}

struct Recovered {
    producer: Producer<Tag>,
    recorder: Recorder,
    clock: Clock,
    plan: Plan,
}

/// Says which step of a start is under way, and how long each took.
struct Steps<'a> {
    board: &'a Board,
    since: Instant,
}

impl<'a> Steps<'a> {
    fn first(board: &'a Board, step: &'static str) -> Self {
        board.begin_step(step);
        Self { board, since: Instant::now() }
    }

    fn next(&mut self, step: &'static str) {
        let done = self.board.begin_step(step);
        tracing::debug!(took = ?self.since.elapsed(), "start: {done}");
        self.since = Instant::now();
    }
}

async fn recover(config: &Config, facts: SourceFacts, board: &Board) -> Result<Recovered, Fault> {
    let mut facts = facts;
    let mut steps = Steps::first(board, "connecting to Kafka");
    let cluster = connect(config).await?;
    hit(Step::KafkaConnected);
    if cluster.transaction_version() < 2 {
        tracing::warn!(
            code = %Code::KafkaTransactionVersion,
            version = cluster.transaction_version(),
            "brokers without transaction.version 2 are served with the older protocol"
        );
    }
    steps.next("reading the checkpoint");
    // Without a visible checkpoint there is nobody to harm; a hidden one is found after fencing.
    let before = read(&cluster, config, End::Committed).await?;
    if let Some(position) = before.as_ref().and_then(|table| table.position.as_ref()) {
        upheld(config, &mut facts, |facts| judge_unfenced(facts, position)).await?;
    }
    hit(Step::CheckpointRead);
    steps.next("looking for transactions that brokers ended in part");
    markers::complete(&cluster, config, before).await?;
    hit(Step::MarkersComplete);
    steps.next("taking over the transactional ids");
    let mut producer = fence(&cluster, config).await?;
    steps.next("reading the checkpoint to its end");
    let mut table = present(read(&cluster, config, End::HighWatermark).await?, config)?;
    let now = upheld(config, &mut facts, |facts| judge(facts, position(&table))).await?;
    hit(Step::CheckpointReadAgain);
    let recognition = Recognition::of(position(&table), facts.confirmed_flush_lsn, &config.generation());
    generation(config, position(&table))?;
    steps.next("looking at the topics");
    let topics = topics::recorded(&cluster, &table).await?;
    steps.next("committing a new epoch");
    let new_epoch = now.epoch != position(&table).epoch;
    let position = now.record(position(&table), &config.postgres.slot, &config.generation());
    table.position = Some(position.clone());
    let clock = Clock::start();
    let mut recorder =
        Recorder::new(checkpoint_topic(&cluster, config).await?, table.clone(), position.clone());
    if new_epoch {
        tracing::warn!(
            epoch = now.epoch,
            timeline = now.timeline.0,
            "the database has a new timeline, starting a new epoch"
        );
        commit_alone(&mut producer, &mut recorder, clock, &SetEnd::from(&position)).await?;
        hit(Step::EpochCommitted);
    }
    steps.next("streaming");
    tracing::info!(
        epoch = position.epoch,
        commit_lsn = %position.commit_lsn,
        index = position.index,
        resume_lsn = %position.resume_lsn,
        topics = topics.len(),
        "resuming from the checkpoint"
    );
    Ok(Recovered { producer, recorder, clock, plan: Plan { table, epoch: now.epoch, topics, recognition } })
}

/// A verdict that halts is passed once more on what the server says now: the checkpoint just read may be newer than
/// `facts`, where another relay has led meanwhile.
async fn upheld<T>(
    config: &Config,
    facts: &mut SourceFacts,
    judge: impl Fn(&SourceFacts) -> Result<T, Fault>,
) -> Result<T, Fault> {
    if let Ok(verdict) = judge(facts) {
        return Ok(verdict);
    }
    let (now, _) = source(config).await?;
    *facts = facts.renewed(now)?;
    judge(facts)
}

pub(super) fn present(table: Option<Table>, config: &Config) -> Result<Table, Fault> {
    table.filter(|table| table.position.is_some()).ok_or_else(|| {
        Fault::new(
            Code::CheckpointMissing,
            format!("topic {} holds no checkpoint", config.checkpoint_topic()),
        )
        .hint("run `pillarbox setup` if the pipeline is new; after another tool has used the slot, `pillarbox setup --adopt-slot`")
    })
}

pub(super) fn position(table: &Table) -> &PositionRecord {
    table.position.as_ref().expect("checked when it was read")
}

/// Fences and finishes every predecessor, whatever number of ids it used.
pub(crate) async fn fence<T>(cluster: &Cluster, config: &Config) -> Result<Producer<T>, Fault> {
    Producer::init(
        cluster.clone(),
        ProducerConfig {
            id_prefix: config.transactional_id_prefix(),
            ids_owned: TRANSACTION_IDS_OWNED,
            ids_in_use: config.kafka.transaction.ids,
            transaction_timeout: config.kafka.transaction.timeout,
            request_timeout: super::REQUEST_TIMEOUT,
        },
    )
    .await
    .map_err(|error| {
        let ids = format!("{}0..{}", config.transactional_id_prefix(), TRANSACTION_IDS_OWNED - 1);
        kafka_fault(&error, &format!("cannot take over the transactional ids {ids}"))
    })
}

/// Routing may change at a boundary only: inside a split transaction the parts would not match.
fn generation(config: &Config, position: &PositionRecord) -> Result<(), Fault> {
    let generation = config.generation();
    if generation == position.generation {
        return Ok(());
    }
    if position.index.is_some() {
        let message = format!(
            "outbox settings changed while the transaction at {} is published in part",
            position.commit_lsn
        );
        return Err(Fault::new(Code::GenerationChanged, message).hint(
            "start once with the former settings until the transaction is complete, then change them",
        ));
    }
    tracing::info!(from = position.generation, to = generation, "outbox settings have changed");
    Ok(())
}

/// The checkpoint topic as the producer addresses it.
pub(crate) async fn checkpoint_topic(cluster: &Cluster, config: &Config) -> Result<Arc<TopicRef>, Fault> {
    let name = config.checkpoint_topic();
    let described = pillarbox_kafka::admin::describe_topic(cluster, &name)
        .await
        .map_err(|error| kafka_fault(&error, &format!("cannot describe topic {name}")))?;
    let id = described
        .ok_or_else(|| {
            Fault::new(Code::CheckpointTopicMissing, format!("checkpoint topic {name} does not exist"))
        })?
        .id;
    Ok(Arc::new(TopicRef { name, id }))
}

/// Commits a checkpoint without events.
pub(crate) async fn commit_alone(
    producer: &mut Producer<Tag>,
    recorder: &mut Recorder,
    clock: Clock,
    end: &SetEnd,
) -> Result<(), Fault> {
    let checkpoint = recorder.checkpoint(end, &Delta::default(), clock.now());
    let tag = Tag::alone(end.clone(), checkpoint.whole);
    producer.submit(Transaction { data: Vec::new(), last: checkpoint.batch, tag });
    match producer.next().await {
        Outcome::Committed(committed) => {
            if committed.transaction.tag.is_whole() {
                recorder.rewritten(committed.last_base_offset);
            }
            Ok(())
        }
        Outcome::Lost(lost) => Err(super::commit::lost_fault(&lost.reason)),
    }
}
