//! The sink thread: what the producer's machine says is done, requests are answered, sets come back. As `sink/commit.rs`
//! and `producer/{mod,io}.rs` do it.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use pillarbox_kafka::producer::Failure;
use pillarbox_kafka::producer::state::{Action, IdSlot, Input, Machine};
use pillarbox_relay::error::Fault;
use pillarbox_relay::pipeline::intake::{CommittedSet, SealedSet, SetEnd};
use pillarbox_relay::position::checkpoint::{Delta, Table, parse_position};
use pillarbox_relay::position::lineage::SourceFacts;
use pillarbox_relay::sink::lost_fault;
use pillarbox_relay::sink::record::Recorder;
use pillarbox_relay::sink::tail::Tail;
use pillarbox_wire::record_batch::ProducerIdentity;

use crate::kafka::log::Batch;
use crate::kafka::{CHECKPOINT, Reply, Request};
use crate::mistakes::Mistake;
use crate::records;
use crate::relay::produce::Producing;
use crate::relay::reader::{Command, Plan};
use crate::relay::start::REQUEST_TIMEOUT;
use crate::world::{Event, Flight, MS, Refusal, S, World};

/// Where the sink is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Looking,
    Fencing,
    ReadingAgain,
    CommittingEpoch,
    Streaming,
}

/// What an unanswered request is for.
#[derive(Debug, Clone)]
pub(crate) enum Pending {
    Connect,
    Offsets,
    Fetch,
    Describe,
    Mark,
    Init {
        id: usize,
        attempt: u32,
    },
    Join,
    /// The items of one Produce.
    Produce(Vec<usize>),
    End(usize),
    Renew(usize),
    /// Nobody waits.
    Stray,
}

/// Something to be done later.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    Init {
        id: usize,
        attempt: u32,
    },
    /// What the machine said, after its pause.
    Act(Action),
    /// Some items once more.
    Again(Vec<usize>),
    /// The produce under way is over.
    Produced,
    /// A request could not even be sent.
    Unsent(Input),
    /// The database is asked once more.
    Refresh,
    Fail(Box<Fault>),
}

/// A set as the sink holds it.
pub(crate) struct Sealed {
    pub(crate) end: SetEnd,
    pub(crate) delta: Delta,
    bytes: usize,
    /// Topic, partition, batch.
    batches: Vec<(String, i32, Vec<u8>)>,
}

impl Sealed {
    pub(crate) fn from(set: SealedSet) -> Self {
        let batches = set.batches.into_iter();
        let batches = batches.map(|batch| (batch.topic.name.clone(), batch.partition, batch.bytes.to_vec()));
        Self { end: set.end, delta: set.delta, bytes: set.bytes, batches: batches.collect() }
    }

    /// A checkpoint without events.
    pub(crate) fn alone(end: SetEnd, delta: Delta) -> Self {
        Self { end, delta, bytes: 0, batches: Vec::new() }
    }
}

/// A submitted transaction.
pub(crate) struct Held {
    pub(crate) key: u64,
    /// Partition and batch; the checkpoint is the last.
    pub(crate) parts: Vec<(usize, Rc<Batch>)>,
    end: SetEnd,
    bytes: usize,
    whole: bool,
    /// Not of the reader.
    alone: bool,
}

pub(crate) struct Sink {
    pub(crate) facts: SourceFacts,
    pub(crate) stage: Stage,
    pub(crate) leaders: Vec<Option<usize>>,
    pub(crate) homes: Vec<usize>,
    pub(crate) pending: BTreeMap<u64, (usize, Pending)>,
    /// A connection that carried transactions has broken.
    pub(crate) broken: bool,
    pub(crate) tail: Option<Tail>,
    pub(crate) before: Option<Table>,
    /// What is judged once more, on what the database says now.
    pub(crate) read: Option<Table>,
    pub(crate) refreshed: bool,
    pub(crate) marks_left: usize,
    pub(crate) fencing_since: Duration,
    pub(crate) identities: Vec<Option<ProducerIdentity>>,
    pub(crate) machine: Option<Machine>,
    pub(crate) machine_since: Duration,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) plan: Option<Box<Plan>>,
    pub(crate) waiting: VecDeque<Sealed>,
    pub(crate) held: VecDeque<Held>,
    pub(crate) producing: Option<Producing>,
    /// Next sequences by id, epoch and partition, where an id keeps its epoch by mistake.
    pub(crate) sequences: BTreeMap<(usize, i16, usize), i32>,
}

impl Sink {
    pub(crate) fn new(facts: SourceFacts, now: Duration, ids: usize) -> Self {
        Self {
            facts,
            stage: Stage::Looking,
            leaders: Vec::new(),
            homes: Vec::new(),
            pending: BTreeMap::new(),
            broken: false,
            tail: None,
            before: None,
            read: None,
            refreshed: false,
            marks_left: 0,
            fencing_since: now,
            identities: vec![None; ids],
            machine: None,
            machine_since: now,
            recorder: None,
            plan: None,
            waiting: VecDeque::new(),
            held: VecDeque::new(),
            producing: None,
            sequences: BTreeMap::new(),
        }
    }
}

impl World {
    /// A request on its way; what the network does to it is decided here.
    pub(crate) fn send(
        &mut self,
        relay: usize,
        broker: usize,
        request: Request,
        pending: Pending,
        timeout: Duration,
    ) {
        let now = self.agenda.now;
        let era = self.era(relay);
        self.tokens += 1;
        let token = self.tokens;
        if let Some(sink) = &mut self.relays[relay].sink {
            sink.pending.insert(token, (broker, pending));
        }
        self.trace
            .line(now, format_args!("relay {relay} -> broker {broker}: {}", crate::servers::Brief(&request)));
        if !self.kafka.up[broker] {
            let delay = self.dice.between(MS, 5 * MS);
            return self.agenda.after(delay, Event::Answer(era, token, Reply::Broken));
        }
        self.agenda.after(timeout, Event::Expire(era, token));
        let lane = broker * 2 + usize::from(matches!(request, Request::Produce { .. }));
        let mut delay = self.dice.between(MS / 10, MS);
        let (mut lost, mut answer_is_lost, mut copied, mut refusal) = (false, false, false, None);
        if !self.is_healed() && self.dice.one_in(self.scenario.request_fault) {
            match self.dice.below(6) {
                0 => lost = true,
                1 => answer_is_lost = true,
                2 => copied = true,
                3 => refusal = Some(Refusal::Before),
                4 => refusal = Some(Refusal::After),
                _ => delay = self.dice.between(10 * MS, 14 * S),
            }
        }
        let flight = Flight { era, token: Some(token), broker, request, tries: 0, answer_is_lost, refusal };
        if copied || (lost && self.dice.one_in(2)) {
            let late = self.dice.between(MS, 20 * S);
            self.agenda.after(late, Event::Arrive(Flight { token: None, ..flight.clone() }));
        }
        if lost {
            return;
        }
        // One connection keeps the order.
        let arrives = self.lanes[relay][lane].max(now + delay);
        if delay < 20 * MS {
            self.lanes[relay][lane] = arrives;
        }
        self.agenda.at(arrives, Event::Arrive(flight));
    }

    /// A broker dies: what was asked of it stays unanswered.
    pub(crate) fn break_connections(&mut self, broker: usize) {
        for relay in 0..self.relays.len() {
            self.break_connection(relay, broker);
        }
    }

    pub(crate) fn break_connection(&mut self, relay: usize, broker: usize) {
        let era = self.era(relay);
        let Some(sink) = &mut self.relays[relay].sink else { return };
        sink.broken = true;
        let open: Vec<u64> =
            sink.pending.iter().filter(|(_, (at, _))| *at == broker).map(|(token, _)| *token).collect();
        for token in open {
            self.agenda.after(MS, Event::Answer(era, token, Reply::Broken));
        }
    }

    pub(crate) fn answer(&mut self, relay: usize, token: u64, reply: Reply) {
        let Some(sink) = &mut self.relays[relay].sink else { return };
        let Some((_, pending)) = sink.pending.remove(&token) else { return };
        if matches!(reply, Reply::Broken) && sink.machine.is_some() {
            sink.broken = true;
        }
        match pending {
            Pending::Join => self.joined(relay, reply),
            Pending::Produce(items) => self.produced(relay, &items, reply),
            Pending::End(id) => {
                let broken = sink.broken;
                self.feed(relay, Input::Ended { id: IdSlot(id), result: result(reply), broken });
            }
            Pending::Renew(id) => self.feed(relay, Input::Renewed { id: IdSlot(id), result: result(reply) }),
            Pending::Stray => {}
            pending => self.recover(relay, pending, reply),
        }
    }

    pub(crate) fn job(&mut self, relay: usize, job: Job) {
        match job {
            Job::Init { id, attempt } => self.init(relay, id, attempt),
            Job::Act(action) => self.perform(relay, action),
            Job::Again(items) => self.produce_again(relay, items),
            Job::Produced => self.produce_ends(relay),
            Job::Unsent(input) => self.feed(relay, input),
            Job::Refresh => self.refresh(relay),
            Job::Fail(fault) => self.sink_fails(relay, *fault),
        }
    }

    /// Submits what was sealed, as far as ids are free.
    pub(crate) fn submit(&mut self, relay: usize) {
        loop {
            let now = self.intake_now();
            let cut = self.is(Mistake::CutInside);
            let Some(sink) = &mut self.relays[relay].sink else { return };
            let (Some(machine), Some(recorder)) = (&sink.machine, &mut sink.recorder) else { return };
            if !machine.can_submit() {
                return;
            }
            let Some(mut set) = sink.waiting.pop_front() else { return };
            if cut && set.batches.len() > 1 && sink.stage == Stage::Streaming {
                // The first batch goes alone, as if the set ended there: the rest follows, and is the one that counts.
                let rest = set.batches.split_off(1);
                let rest = Sealed {
                    batches: rest,
                    end: set.end.clone(),
                    delta: set.delta.clone(),
                    bytes: set.bytes,
                };
                sink.waiting.push_front(rest);
                set.bytes = usize::MAX;
            }
            let checkpoint = recorder.checkpoint(&set.end, &set.delta, now);
            let (key, _) = machine.next_identity();
            let mut parts: Vec<(usize, Rc<Batch>)> = Vec::new();
            for (topic, partition, bytes) in &set.batches {
                let events = Batch::Events(records::events(bytes));
                parts.push((self.scenario.partition_of(topic, *partition), Rc::new(events)));
            }
            let records = records::checkpoint(&checkpoint.batch.bytes);
            let (_, position) = records.last().expect("a checkpoint has a position");
            let position = parse_position("position", position).expect("as it was written");
            parts.push((CHECKPOINT, Rc::new(Batch::Checkpoint(records, Box::new(position)))));
            let alone = sink.stage == Stage::CommittingEpoch || set.bytes == usize::MAX;
            let Sealed { end, bytes, .. } = set;
            sink.held.push_back(Held { key: key.0, parts, end, bytes, whole: checkpoint.whole, alone });
            self.feed(relay, Input::Submitted);
        }
    }

    /// Tells the machine, and does what it says.
    pub(crate) fn feed(&mut self, relay: usize, input: Input) {
        let now = self.agenda.now;
        let Some(sink) = &mut self.relays[relay].sink else { return };
        let Some(machine) = &mut sink.machine else { return };
        for action in machine.step(now - sink.machine_since, input) {
            let (Action::Produce { pause, .. } | Action::EndTxn { pause, .. } | Action::Renew { pause, .. }) =
                &action
            else {
                self.perform(relay, action);
                continue;
            };
            match pause.is_zero() {
                true => self.perform(relay, action),
                false => {
                    let era = self.era(relay);
                    self.agenda.after(*pause, Event::Later(era, Job::Act(action)));
                }
            }
        }
        self.submit(relay);
    }

    fn perform(&mut self, relay: usize, action: Action) {
        match action {
            Action::Produce { txn, id, identity, refresh, .. } => {
                self.produce(relay, txn.0, id.0, identity, refresh);
            }
            Action::EndTxn { id, identity, commit, refresh, .. } => {
                let Some(sink) = &mut self.relays[relay].sink else { return };
                if refresh {
                    sink.homes[id.0] = self.kafka.homes[id.0];
                }
                if sink.broken && !commit {
                    let input = Input::Ended { id, result: Err(Failure::NoAnswer), broken: true };
                    let era = self.era(relay);
                    return self.agenda.after(MS / 10, Event::Later(era, Job::Unsent(input)));
                }
                let home = sink.homes[id.0];
                let request = Request::EndTxn { id: id.0, identity, commit };
                self.send(relay, home, request, Pending::End(id.0), REQUEST_TIMEOUT);
            }
            Action::Renew { id, identity, refresh, .. } => {
                let Some(sink) = &mut self.relays[relay].sink else { return };
                if refresh {
                    sink.homes[id.0] = self.kafka.homes[id.0];
                }
                if sink.broken {
                    let input = Input::Renewed { id, result: Err(Failure::NoAnswer) };
                    let era = self.era(relay);
                    return self.agenda.after(MS / 10, Event::Later(era, Job::Unsent(input)));
                }
                let home = sink.homes[id.0];
                let request = Request::Init { id: id.0, expected: Some(identity) };
                self.send(relay, home, request, Pending::Renew(id.0), REQUEST_TIMEOUT);
            }
            Action::Committed { txn, last_base_offset } => self.committed(relay, txn.0, last_base_offset),
            Action::Lost { reason } => {
                self.trace.line(self.agenda.now, format_args!("relay {relay}: lost, {reason}"));
                let era = self.era(relay);
                let fault = Box::new(lost_fault(&reason));
                self.agenda.after(Duration::ZERO, Event::Later(era, Job::Fail(fault)));
            }
        }
    }

    fn committed(&mut self, relay: usize, key: u64, last_base_offset: i64) {
        let Some(sink) = &mut self.relays[relay].sink else { return };
        let held = sink.held.pop_front().expect("a commit of something submitted");
        assert_eq!(held.key, key, "commits come in submit order");
        if held.whole
            && let Some(recorder) = &mut sink.recorder
        {
            recorder.rewritten(last_base_offset);
        }
        if sink.stage == Stage::CommittingEpoch {
            sink.stage = Stage::Streaming;
            return self.recovered(relay);
        }
        if !held.alone {
            let set = CommittedSet { end: held.end, bytes: held.bytes, buffers: Vec::new() };
            self.command(relay, Command::Committed(set));
        }
    }
}

/// What the coordinator's answer is for the machine.
fn result(reply: Reply) -> Result<ProducerIdentity, Failure> {
    match reply {
        Reply::Identity(identity) => Ok(identity),
        Reply::Code(code) => Err(Failure::Answered { code, object: String::new() }),
        _ => Err(Failure::NoAnswer),
    }
}
