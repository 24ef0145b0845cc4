//! One Produce: the stages of the product's own plan, pipelined a broker, tallied by its own tally. As
//! `producer/io/produce.rs` does it.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use pillarbox_kafka::producer::plan::{Item, REQUEST_BYTES_MAX, Stage, plan};
use pillarbox_kafka::producer::state::{Input, Reached};
use pillarbox_kafka::producer::tally::{Answer, Counted, Tally};
use pillarbox_kafka::producer::{Cause, Verdict};
use pillarbox_kafka::{ApiKey, Error, ErrorCode};
use pillarbox_wire::record_batch::ProducerIdentity;

use crate::kafka::log::Batch;
use crate::kafka::{Part, Reply, Request};
use crate::mistakes::Mistake;
use crate::relay::sink::{Job, Pending};
use crate::relay::start::REQUEST_TIMEOUT;
use crate::world::{Event, MS, World};

/// As `producer/io/produce.rs`.
const CONCURRENT_LIMIT: Duration = Duration::from_secs(2);

/// A Produce under way.
pub(crate) struct Producing {
    txn: u64,
    id: usize,
    identity: ProducerIdentity,
    parts: Vec<Part>,
    /// Of each part.
    brokers: Vec<usize>,
    stages: VecDeque<Stage>,
    repeatable: bool,
    since: Duration,
    attempts: u32,
    outstanding: usize,
    tally: Tally,
    /// Joining failed.
    refused: Option<Verdict>,
}

impl World {
    pub(crate) fn produce(
        &mut self,
        relay: usize,
        txn: u64,
        id: usize,
        identity: ProducerIdentity,
        refresh: bool,
    ) {
        let now = self.agenda.now;
        let kip890 = self.kafka.kip890;
        let Some(sink) = &mut self.relays[relay].sink else { return };
        if refresh {
            sink.leaders.clone_from(&self.kafka.leaders);
        }
        let held =
            sink.held.iter().find(|held| held.key == txn).expect("the machine produces what was submitted");
        let leaders: Option<Vec<usize>> =
            held.parts.iter().map(|(partition, _)| sink.leaders[*partition]).collect();
        let Some(brokers) = leaders else {
            let code = Some(ErrorCode::LEADER_NOT_AVAILABLE);
            let verdict = Verdict::Replay { cause: Cause { api: ApiKey::Metadata, code }, slow: true };
            let input = Input::Produced { result: Err(verdict), reached: Reached::Nothing };
            sink.leaders.clone_from(&self.kafka.leaders);
            let era = self.era(relay);
            return self.agenda.after(MS, Event::Later(era, Job::Unsent(input)));
        };
        let parts = stamped(&held.parts, |partition| {
            sink.sequences.get(&(id, identity.producer_epoch, partition)).copied()
        });
        let items: Vec<Item<usize>> = (parts.iter().zip(&brokers))
            .map(|(part, broker)| Item { partition: part.partition, broker: *broker as i32, bytes: 100 })
            .collect();
        let stages = plan(&items, REQUEST_BYTES_MAX).into();
        let joining: Vec<usize> = parts.iter().map(|part| part.partition).collect();
        sink.producing = Some(Producing {
            txn,
            id,
            identity,
            parts,
            brokers,
            stages,
            repeatable: false,
            since: now,
            attempts: 0,
            outstanding: 0,
            tally: Tally::new(),
            refused: None,
        });
        let (home, broken) = (sink.homes[id], sink.broken);
        match kip890 || broken {
            true => self.next_stage(relay),
            false => {
                let request = Request::Join { id, identity, parts: joining };
                self.send(relay, home, request, Pending::Join, REQUEST_TIMEOUT);
            }
        }
    }

    pub(crate) fn joined(&mut self, relay: usize, reply: Reply) {
        let Some(producing) = self.relays[relay].sink.as_mut().and_then(|sink| sink.producing.as_mut())
        else {
            return;
        };
        producing.refused = match reply {
            Reply::Identity(_) => return self.next_stage(relay),
            Reply::Code(code) => Some(Verdict::of_produce(code, "")),
            _ => Some(Verdict::of_error(&silent())),
        };
        self.produce_ends(relay);
    }

    /// Sends the requests of the next stage, or ends.
    fn next_stage(&mut self, relay: usize) {
        let now = self.agenda.now;
        let Some(sink) = &mut self.relays[relay].sink else { return };
        let broken = sink.broken;
        let Some(producing) = &mut sink.producing else { return };
        let Some(stage) = producing.stages.pop_front().filter(|_| !producing.tally.has_failed()) else {
            return self.end_soon(relay);
        };
        if broken {
            let kind = std::io::ErrorKind::ConnectionAborted;
            let error =
                Error::Transport { broker: String::new(), api: ApiKey::Produce, possibly_sent: false, kind };
            producing.tally.fail_with(&error);
            return self.end_soon(relay);
        }
        (producing.repeatable, producing.since, producing.attempts) = (stage.repeatable, now, 0);
        for request in stage.requests {
            self.send_items(relay, request.broker as usize, request.items);
        }
    }

    /// Never from inside the machine's own step.
    fn end_soon(&mut self, relay: usize) {
        let era = self.era(relay);
        self.agenda.after(Duration::ZERO, Event::Later(era, Job::Produced));
    }

    fn send_items(&mut self, relay: usize, broker: usize, items: Vec<usize>) {
        let Some(producing) = self.relays[relay].sink.as_mut().and_then(|sink| sink.producing.as_mut())
        else {
            return;
        };
        producing.outstanding += 1;
        let parts = items.iter().map(|item| producing.parts[*item].clone()).collect();
        let request = Request::Produce { id: producing.id, identity: producing.identity, parts };
        self.send(relay, broker, request, Pending::Produce(items), REQUEST_TIMEOUT * 2);
    }

    pub(crate) fn produced(&mut self, relay: usize, items: &[usize], reply: Reply) {
        let now = self.agenda.now;
        let Some(producing) = self.relays[relay].sink.as_mut().and_then(|sink| sink.producing.as_mut())
        else {
            return;
        };
        producing.outstanding -= 1;
        let may_repeat = producing.repeatable && now.saturating_sub(producing.since) < CONCURRENT_LIMIT;
        let parts = producing.parts.len();
        let mut waiting = Vec::new();
        match reply {
            Reply::Produced(results) => {
                for item in items {
                    let answer =
                        results.iter().find(|(of, ..)| of == item).map(|(_, code, offset)| (*code, *offset));
                    let of = Answer { item: *item, parts, topic: "", may_repeat };
                    if producing.tally.answered(of, answer) == Counted::Waiting {
                        waiting.push(*item);
                    }
                }
            }
            Reply::Code(code) => producing.tally.fail(Verdict::of_produce(code, "")),
            _ => producing.tally.fail_with(&silent()),
        }
        if !waiting.is_empty() && !producing.tally.has_failed() {
            producing.outstanding += 1;
            producing.attempts += 1;
            let era = self.era(relay);
            return self.agenda.after(5 * MS, Event::Later(era, Job::Again(waiting)));
        }
        if producing.outstanding == 0 {
            self.next_stage(relay);
        }
    }

    pub(crate) fn produce_again(&mut self, relay: usize, items: Vec<usize>) {
        let Some(producing) = self.relays[relay].sink.as_mut().and_then(|sink| sink.producing.as_mut())
        else {
            return;
        };
        producing.outstanding -= 1;
        let broker = producing.brokers[items[0]];
        self.send_items(relay, broker, items);
    }

    pub(crate) fn produce_ends(&mut self, relay: usize) {
        let (early, kept) = (self.is(Mistake::EndsOutOfOrder), self.is(Mistake::EpochKept));
        let Some(sink) = &mut self.relays[relay].sink else { return };
        let Some(producing) = sink.producing.take() else { return };
        let Producing { txn, id, identity, parts, tally, refused, .. } = producing;
        let (result, reached) = match refused {
            Some(verdict) => (Err(verdict), Reached::Unsure),
            None => tally.result(parts.len()),
        };
        if result.is_ok() && kept {
            for part in &parts {
                let key = (id, identity.producer_epoch, part.partition);
                sink.sequences.insert(key, part.sequence + part.batch.len());
            }
        }
        let behind = sink.held.front().is_some_and(|oldest| oldest.key < txn);
        let home = sink.homes[id];
        if early && behind && result.is_ok() {
            let request = Request::EndTxn { id, identity, commit: true };
            self.send(relay, home, request, Pending::Stray, REQUEST_TIMEOUT);
        }
        self.feed(relay, Input::Produced { result, reached });
    }
}

/// Batches with their sequences: each transaction has an epoch of its own, unless by mistake.
fn stamped(batches: &[(usize, Rc<Batch>)], first: impl Fn(usize) -> Option<i32>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::with_capacity(batches.len());
    for (item, (partition, batch)) in batches.iter().enumerate() {
        let before = parts.iter().rev().find(|part| part.partition == *partition);
        let sequence = match before {
            Some(before) => before.sequence + before.batch.len(),
            None => first(*partition).unwrap_or(0),
        };
        parts.push(Part { item, partition: *partition, sequence, batch: Rc::clone(batch) });
    }
    parts
}

fn silent() -> Error {
    Error::RequestTimeout { broker: String::new(), api: ApiKey::Produce, after: REQUEST_TIMEOUT }
}
