//! The stages of one Produce: requests to several brokers at once, pipelined per broker, tallied per partition.
//!
//! It returns only when no request is outstanding any more, so that whatever comes next cannot overtake it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kafka_protocol::messages::{ApiKey, ProduceRequest, ProduceResponse};
use kafka_protocol::protocol::HeaderVersion;
use pillarbox_failpoint::{Step, hit};

use crate::admin::millis;
use crate::cluster::Purpose;
use crate::connection::{Connection, Reply};
use crate::error::{Error, ErrorCode};
use crate::producer::encode::{PRODUCE_BY_ID, Part, produce_body};
use crate::producer::plan::{Item, REQUEST_BYTES_MAX, Request, Stage, plan};
use crate::producer::state::{Protocol, markers_pause};
use crate::producer::tally::{Answer, Counted, Tally};
use crate::producer::verdict::{Cause, Verdict};

use super::{Wire, pause};

/// Produce requests under way on one connection; the broker keeps the order of five batches per partition.
const PIPELINE_MAX: usize = 5;

/// Versions of Produce by protocol: from 12 on, a partition joins the transaction with its first batch.
const PRODUCE_KIP890: (i16, i16) = (12, 13);
const PRODUCE_OLDER: (i16, i16) = (9, 11);

/// How long a request refused with `CONCURRENT_TRANSACTIONS` is repeated: markers take milliseconds, and where they
/// take longer (a broker is down) there is nothing to gain from asking more often than replays do.
const CONCURRENT_LIMIT: Duration = Duration::from_secs(2);

/// What all requests of one transaction share.
struct Run<'a> {
    wire: &'a Wire,
    transactional_id: &'a str,
    parts: &'a [Part],
    /// Set by the first failure: nothing further is sent, what is under way is awaited.
    failed: AtomicBool,
}

/// Produces all parts; leaders are known.
pub(super) async fn stages(wire: &Wire, transactional_id: &str, parts: &[Part]) -> Tally {
    let run = Run { wire, transactional_id, parts, failed: AtomicBool::new(false) };
    let mut tally = Tally::new();
    let Some(items) = run.items() else {
        let code = Some(ErrorCode::LEADER_NOT_AVAILABLE);
        tally.fail(Verdict::Replay { cause: Cause { api: ApiKey::Metadata, code }, slow: true });
        return tally;
    };
    for stage in plan(&items, REQUEST_BYTES_MAX) {
        if tally.awaits_checkpoint(parts.len()) {
            hit(Step::CheckpointReady);
        }
        run.stage(&stage, &mut tally).await;
        if tally.has_failed() {
            break;
        }
    }
    tally
}

impl Run<'_> {
    fn items(&self) -> Option<Vec<Item<(uuid::Uuid, i32)>>> {
        let item = |part: &Part| {
            let broker = self.wire.cluster.leader(&part.topic.name, part.partition)?;
            Some(Item { partition: (part.topic.id, part.partition), broker, bytes: part.bytes.len() })
        };
        self.parts.iter().map(item).collect()
    }

    async fn stage(&self, stage: &Stage, tally: &mut Tally) {
        let mut brokers: Vec<i32> = stage.requests.iter().map(|request| request.broker).collect();
        brokers.sort_unstable();
        brokers.dedup();
        let lanes = brokers.iter().map(|broker| {
            let requests = stage.requests.iter().filter(|request| request.broker == *broker).collect();
            self.lane(*broker, requests, stage.repeatable)
        });
        for lane in join_all(lanes).await {
            tally.merge(lane);
        }
    }

    /// All requests of one stage to one broker, in order, several under way.
    async fn lane(&self, broker: i32, requests: Vec<&Request>, repeatable: bool) -> Tally {
        let mut tally = Tally::new();
        let connection = match self.wire.connection(broker, Purpose::Data, ApiKey::Produce).await {
            Ok(connection) => connection,
            Err(error) => {
                self.failed.store(true, Ordering::Relaxed);
                tally.fail_with(&error);
                return tally;
            }
        };
        let mut window = Window::new();
        for request in requests {
            if self.failed.load(Ordering::Relaxed) {
                break;
            }
            if window.len() >= PIPELINE_MAX {
                self.settle_front(&connection, &mut window, repeatable, &mut tally).await;
            }
            window.push_back((request.items.clone(), self.send(&connection, &request.items)));
        }
        while !window.is_empty() {
            self.settle_front(&connection, &mut window, repeatable, &mut tally).await;
        }
        tally
    }

    async fn settle_front(
        &self,
        connection: &Connection,
        window: &mut Window,
        repeatable: bool,
        tally: &mut Tally,
    ) {
        let Some((items, sent)) = window.pop_front() else { return };
        self.settle(connection, items, sent, repeatable, tally).await;
        if tally.has_failed() {
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    /// Awaits one answer; repeats the partitions that are still waiting for an earlier transaction's markers.
    async fn settle(
        &self,
        connection: &Connection,
        mut items: Vec<usize>,
        mut sent: Result<Sent, Error>,
        repeatable: bool,
        tally: &mut Tally,
    ) {
        let started = Instant::now();
        for attempt in 0.. {
            let may_repeat = repeatable && started.elapsed() < CONCURRENT_LIMIT;
            let answer = match sent {
                Ok(sent) => sent.answer(connection).await,
                Err(error) => Err(error),
            };
            let waiting = match answer {
                Ok(answer) => self.count(&answer, &items, may_repeat, tally),
                Err(error) => return tally.fail_with(&error),
            };
            if waiting.is_empty() || tally.has_failed() {
                return;
            }
            pause(markers_pause(attempt)).await;
            items = waiting;
            sent = self.send(connection, &items);
        }
    }

    fn send(&self, connection: &Connection, items: &[usize]) -> Result<Sent, Error> {
        let older = self.wire.protocol == Protocol::Older;
        let versions = if older { PRODUCE_OLDER } else { PRODUCE_KIP890 };
        let version = connection.version_within::<ProduceRequest>(versions)?;
        let parts: Vec<&Part> = items.iter().map(|item| &self.parts[*item]).collect();
        let timeout = self.wire.limits.request;
        let body = produce_body(version, self.transactional_id, millis(timeout), &parts);
        let header = ProduceRequest::header_version(version);
        // Data and acknowledgement may each take the broker's limit.
        let reply = connection.start(ApiKey::Produce, version, header, body, timeout * 2)?;
        Ok(Sent { reply, version })
    }

    /// Tallies one answer; gives the items to be sent once more.
    fn count(&self, answer: &Answered, items: &[usize], may_repeat: bool, tally: &mut Tally) -> Vec<usize> {
        let waits = |item: &usize| {
            let part = &self.parts[*item];
            let of = Answer { item: *item, parts: self.parts.len(), topic: &part.topic.name, may_repeat };
            tally.answered(of, answer.of(part)) == Counted::Waiting
        };
        items.iter().copied().filter(waits).collect()
    }
}

/// Requests under way on one connection: the items of each, and whether it left.
type Window = VecDeque<(Vec<usize>, Result<Sent, Error>)>;

struct Sent {
    reply: Reply,
    version: i16,
}

impl Sent {
    async fn answer(self, connection: &Connection) -> Result<Answered, Error> {
        let frame = self.reply.frame().await?;
        let response = connection.decode::<ProduceRequest>(frame, self.version)?;
        hit(Step::ProduceAnswered);
        Ok(Answered { response, by_id: self.version >= PRODUCE_BY_ID })
    }
}

struct Answered {
    response: ProduceResponse,
    by_id: bool,
}

impl Answered {
    /// Code and base offset for a batch's partition.
    fn of(&self, part: &Part) -> Option<(ErrorCode, i64)> {
        let topic = self.response.responses.iter().find(|topic| match self.by_id {
            true => topic.topic_id == part.topic.id,
            false => *topic.name.0 == *part.topic.name,
        })?;
        let partition = topic.partition_responses.iter().find(|found| found.index == part.partition)?;
        Some((ErrorCode(partition.error_code), partition.base_offset))
    }
}
