//! A start in the relay's order: the slot, the checkpoint, the verdict, lost markers, fencing, the checkpoint and the
//! verdict again, then the stream. As `pipeline/acquire.rs` and `sink/recover.rs` do it.

use std::time::Duration;

use pillarbox_kafka::ErrorCode;
use pillarbox_kafka::markers::{Ending, Verdict, judge as judge_marker};
use pillarbox_kafka::producer::TopicRef;
use pillarbox_kafka::producer::state::{Machine, Protocol};
use pillarbox_relay::config::TRANSACTION_IDS_OWNED;
use pillarbox_relay::error::{Code, Fault};
use pillarbox_relay::pipeline::intake::SetEnd;
use pillarbox_relay::pipeline::standby::{Leader, Seen};
use pillarbox_relay::pipeline::state::{Gone, Input};
use pillarbox_relay::position::checkpoint::{Delta, PositionRecord, Table, TopicRecord};
use pillarbox_relay::position::lineage::{Continuation, SourceFacts, judge, judge_unfenced};
use pillarbox_relay::position::recognition::Recognition;
use pillarbox_relay::route::{Topic, TopicLimits};
use pillarbox_relay::sink::record::Recorder;
use pillarbox_relay::sink::tail::{Look, Tail};
use pillarbox_wire::lsn::TimelineId;
use pillarbox_wire::record_batch::ProducerIdentity;

use crate::kafka::{CHECKPOINT, Described, Reply, Request};
use crate::mistakes::Mistake;
use crate::relay::reader::{Command, Phase, Plan};
use crate::relay::sink::{Job, Pending, Sealed, Sink, Stage};
use crate::world::{Event, MS, S, World};

/// How often a standby looks at the slot. (The relay does it every 50 ms; here it is a step each.)
const STANDBY_INTERVAL: Duration = Duration::from_millis(200);
/// As `sink/read.rs`.
const READ_TIMEOUT: Duration = Duration::from_secs(6);
/// As `sql.rs`.
const ADVANCE_TIMEOUT: Duration = Duration::from_secs(10);
/// As `producer/mod.rs`.
const INIT_LIMIT: Duration = Duration::from_secs(30);
/// As `sink/mod.rs`.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

fn unreachable(message: &str) -> Fault {
    Fault::new(Code::KafkaUnreachable, message)
}

impl World {
    /// Who has the slot, and is it silent?
    pub(crate) fn look(&mut self, relay: usize) {
        let now = self.agenda.now;
        let up = self.postgres.is_up(now);
        let leader = self.postgres.slot.session.as_ref().map(|session| Leader {
            pid: session.number as i32,
            backend_start: Some(session.number.to_string()),
            reply_time: Some(session.replies.to_string()),
        });
        let Some(reader) = &self.relays[relay].reader else { return };
        if reader.commands.iter().any(|command| matches!(command, Command::Release | Command::Drain)) {
            self.relays[relay].reader = None;
            return self.reader_ends(relay, Gone::Released);
        }
        if !up {
            self.relays[relay].reader = None;
            let fault = Fault::new(Code::PgUnreachable, "no connection");
            return self.reader_ends(relay, Gone::Fault(fault));
        }
        let again = Event::Look(self.era(relay));
        let Phase::Watching(watch) = (match &mut self.relays[relay].reader {
            Some(reader) => &mut reader.phase,
            None => return,
        }) else {
            return;
        };
        match watch.look(leader, now) {
            Seen::Free => {
                let (facts, delay) = (self.postgres.facts(), self.dice.between(2 * MS, 20 * MS));
                self.relays[relay].downs_seen = self.postgres.downs;
                self.agenda.after(delay, Event::TakeSlot(self.era(relay), Box::new(facts)));
                return self.start_step(relay, 2);
            }
            Seen::Stale(_) if self.is(Mistake::StandbyWaits) => {}
            Seen::Stale(leader) => {
                self.trace.line(now, format_args!("relay {relay} ends the leader's walsender"));
                self.close_session(leader.pid as u64);
            }
            Seen::Busy { first: true } => self.live(relay, Input::SlotBusy),
            Seen::Busy { first: false } => {}
        }
        self.agenda.after(STANDBY_INTERVAL, again);
    }

    /// START_REPLICATION at the server that the facts are of.
    pub(crate) fn take_slot(&mut self, relay: usize, facts: SourceFacts) {
        let now = self.agenda.now;
        let changed = facts.timeline != TimelineId(self.postgres.timeline);
        if !self.postgres.is_up(now) || changed {
            self.relays[relay].reader = None;
            let fault = Fault::new(Code::PgProtocol, "another server answers");
            return self.reader_ends(relay, Gone::Fault(fault));
        }
        let era = self.era(relay);
        let Some(session) = self.postgres.start_replication(era.number, now) else {
            self.live(relay, Input::SlotBusy);
            return self.agenda.after(MS, Event::Look(era));
        };
        self.trace
            .line(now, format_args!("relay {relay} has the slot from {}", self.postgres.slot.confirmed));
        self.reads[era.number as usize] = self.former.len();
        self.agenda.after(S, Event::Sender(session));
        self.relays[relay].facts = Some(facts);
        if let Some(reader) = &mut self.relays[relay].reader {
            reader.session = Some(session);
        }
        let delay = self.dice.between(MS, 5 * MS);
        self.agenda.after(delay, Event::Facts(era, session));
        self.start_step(relay, 2);
    }

    /// The slot is ours.
    pub(crate) fn own(&mut self, relay: usize, session: u64) {
        let now = self.agenda.now;
        let before = self.relays[relay].facts.take().expect("the slot was free");
        match self.facts_of_owner(relay, session, before) {
            Ok(facts) => self.relays[relay].facts = Some(facts),
            Err(fault) => {
                self.relays[relay].reader = None;
                return self.reader_ends(relay, Gone::Fault(fault));
            }
        }
        if let Some(reader) = &mut self.relays[relay].reader {
            reader.phase = Phase::Holding { since: now, status_at: now };
        }
        self.turn_at(relay, now);
        self.live(relay, Input::SlotOwned);
    }

    /// By the connection that saw the slot free: it is gone if the server crashed since.
    fn facts_of_owner(
        &mut self,
        relay: usize,
        session: u64,
        before: SourceFacts,
    ) -> Result<SourceFacts, Fault> {
        if self.is(Mistake::FactsBeforeSlot) {
            return Ok(before);
        }
        let broken = self.relays[relay].downs_seen != self.postgres.downs;
        if !self.postgres.is_up(self.agenda.now) || (broken && !self.is(Mistake::SlotFellBack)) {
            return Err(Fault::new(Code::PgUnreachable, "no connection"));
        }
        if self.postgres.slot.session.as_ref().is_some_and(|other| other.number != session) {
            return Err(Fault::new(Code::PgProtocol, "another client has the slot"));
        }
        let now = self.postgres.facts();
        let confirmed_flush_lsn = now.confirmed_flush_lsn;
        Ok(SourceFacts { confirmed_flush_lsn, ..before.renewed(now)? })
    }

    pub(crate) fn start_sink(&mut self, relay: usize) {
        let facts = self.relays[relay].facts.clone().expect("the slot is owned");
        self.relays[relay].sink = Some(Sink::new(facts, self.agenda.now, self.kafka.ids.len()));
        let alive = (0..crate::kafka::BROKERS).find(|broker| self.kafka.up[*broker]).unwrap_or(0);
        self.send(relay, alive, Request::Metadata, Pending::Connect, REQUEST_TIMEOUT);
    }

    /// An answer while the sink recovers.
    pub(crate) fn recover(&mut self, relay: usize, pending: Pending, reply: Reply) {
        self.start_step(relay, 6);
        match (pending, reply) {
            (Pending::Connect, Reply::Metadata { leaders, coordinators }) => {
                let Some(sink) = &mut self.relays[relay].sink else { return };
                (sink.leaders, sink.homes) = (leaders, coordinators);
                self.read_checkpoint(relay, true);
            }
            (Pending::Offsets, Reply::Offset(to)) => {
                let Some(sink) = &mut self.relays[relay].sink else { return };
                sink.tail = Some(Tail::new(0, to));
                self.fetch(relay);
            }
            (Pending::Fetch, Reply::Records(records)) => self.records(relay, &records),
            (Pending::Describe, Reply::Described(described)) => self.described(relay, &described),
            (Pending::Mark, Reply::Code(_)) => {
                let Some(sink) = &mut self.relays[relay].sink else { return };
                sink.marks_left -= 1;
                if sink.marks_left == 0 {
                    // It looks again: a marker can make a later checkpoint visible.
                    self.describe(relay);
                }
            }
            (Pending::Init { id, attempt }, reply) => self.identity(relay, id, attempt, reply),
            (_, Reply::Code(code)) => self.sink_fails(relay, unreachable(&format!("a broker says {code}"))),
            (pending, reply) => self.sink_fails(relay, unreachable(&format!("{pending:?}: {reply:?}"))),
        }
    }

    /// ListOffsets, then fetches from there back.
    fn read_checkpoint(&mut self, relay: usize, stable: bool) {
        self.ask_leader(relay, Request::Offsets { stable }, Pending::Offsets, READ_TIMEOUT);
    }

    fn fetch(&mut self, relay: usize) {
        let Some(tail) = self.relays[relay].sink.as_ref().and_then(|sink| sink.tail.as_ref()) else { return };
        let request = Request::Fetch { from: tail.from(), to: tail.to() };
        self.ask_leader(relay, request, Pending::Fetch, READ_TIMEOUT);
    }

    fn ask_leader(&mut self, relay: usize, request: Request, pending: Pending, timeout: Duration) {
        match self.relays[relay].sink.as_ref().and_then(|sink| sink.leaders[CHECKPOINT]) {
            Some(broker) => self.send(relay, broker, request, pending, timeout),
            None => self.fail_soon(relay, unreachable("the checkpoint topic has no leader")),
        }
    }

    fn fail_soon(&mut self, relay: usize, fault: Fault) {
        let era = self.era(relay);
        self.agenda.after(MS, Event::Later(era, Job::Fail(Box::new(fault))));
    }

    fn records(&mut self, relay: usize, records: &[pillarbox_kafka::reader::Record]) {
        let Some(sink) = &mut self.relays[relay].sink else { return };
        let tail = sink.tail.as_mut().expect("a read is under way");
        let table = match tail.look(records).expect("the relay reads what it writes") {
            Look::Further => return self.fetch(relay),
            Look::Table(table) => Some(*table),
            Look::Nothing => None,
        };
        match sink.stage {
            Stage::Looking => self.looked(relay, table),
            _ => self.judged_again(relay, table),
        }
    }

    /// Read without fencing: a clone must halt here.
    fn looked(&mut self, relay: usize, table: Option<Table>) {
        let unchecked = self.is(Mistake::LineageUnchecked);
        let Some(sink) = &mut self.relays[relay].sink else { return };
        if let Some(position) = table.as_ref().and_then(|table| table.position.as_ref())
            && !unchecked
            && let Err(fault) = judge_unfenced(&sink.facts, position)
        {
            sink.read = table;
            return self.refused(relay, fault);
        }
        sink.before = table;
        match self.is(Mistake::MarkersForgotten) {
            true => self.fence(relay),
            false => self.describe(relay),
        }
    }

    /// The verdict is no. What the database says of itself may be older than the checkpoint: it is asked once more.
    fn refused(&mut self, relay: usize, fault: Fault) {
        let known = self.is(Mistake::FactsNotRefreshed);
        let Some(sink) = &mut self.relays[relay].sink else { return };
        if known || std::mem::replace(&mut sink.refreshed, true) {
            return self.sink_fails(relay, fault);
        }
        let (era, delay) = (self.era(relay), self.dice.between(2 * MS, 20 * MS));
        self.agenda.after(delay, Event::Later(era, Job::Refresh));
    }

    pub(crate) fn refresh(&mut self, relay: usize) {
        if !self.postgres.is_up(self.agenda.now) {
            return self.sink_fails(relay, Fault::new(Code::PgUnreachable, "no connection"));
        }
        let facts = self.postgres.facts();
        let Some(sink) = &mut self.relays[relay].sink else { return };
        match sink.facts.renewed(facts) {
            Ok(facts) => sink.facts = facts,
            Err(fault) => return self.sink_fails(relay, fault),
        }
        let table = sink.read.take();
        match sink.stage {
            Stage::Looking => self.looked(relay, table),
            _ => self.judged_again(relay, table),
        }
        if let Some(sink) = &mut self.relays[relay].sink {
            sink.refreshed = false;
        }
    }

    fn describe(&mut self, relay: usize) {
        let alive = (0..crate::kafka::BROKERS).find(|broker| self.kafka.up[*broker]).unwrap_or(0);
        self.send(relay, alive, Request::Describe, Pending::Describe, REQUEST_TIMEOUT);
    }

    /// Lost markers, as `pillarbox_kafka::markers` finds them.
    fn described(&mut self, relay: usize, described: &Described) {
        let raised = i32::from(self.kafka.raised());
        let mut lost = Vec::new();
        for (partition, open) in &described.open {
            let Some((state, epoch)) = described.ids[open.producer_id as usize] else { continue };
            match judge_marker(state, i32::from(epoch), i32::from(open.producer_epoch), raised) {
                Verdict::UnderWay => {}
                Verdict::Lost(ending) => lost.push((*partition, *open, ending == Ending::Commit)),
                Verdict::Ending => {
                    let message = format!("a transaction is still ending in {partition}");
                    return self.sink_fails(relay, Fault::new(Code::KafkaTransactionEnding, message));
                }
                Verdict::Unknown => {
                    let message = format!("a transaction is open in {partition}, its outcome forgotten");
                    let pause = self.dice.between(S, 5 * S);
                    self.agenda.after(pause, Event::Mend);
                    return self.sink_fails(relay, Fault::new(Code::KafkaMarkersLost, message));
                }
            }
        }
        let Some(sink) = &mut self.relays[relay].sink else { return };
        sink.marks_left = lost.len();
        if lost.is_empty() {
            return self.fence(relay);
        }
        for (partition, open, commit) in lost {
            let leader = self.relays[relay].sink.as_ref().and_then(|sink| sink.leaders[partition]);
            let Some(leader) = leader else { return self.fail_soon(relay, unreachable("no leader")) };
            self.send(
                relay,
                leader,
                Request::Mark { partition, open, commit },
                Pending::Mark,
                REQUEST_TIMEOUT,
            );
        }
    }

    /// InitProducerId for all ids.
    fn fence(&mut self, relay: usize) {
        let now = self.agenda.now;
        let Some(sink) = &mut self.relays[relay].sink else { return };
        sink.stage = Stage::Fencing;
        sink.fencing_since = now;
        if self.is(Mistake::NotFenced) {
            let identities = self.kafka.ids.iter().map(|id| Some(id.identity)).collect();
            if let Some(sink) = &mut self.relays[relay].sink {
                sink.identities = identities;
            }
            return self.fenced(relay);
        }
        for id in 0..usize::from(TRANSACTION_IDS_OWNED) {
            self.init(relay, id, 0);
        }
    }

    pub(crate) fn init(&mut self, relay: usize, id: usize, attempt: u32) {
        let Some(sink) = &mut self.relays[relay].sink else { return };
        if attempt > 0 {
            sink.homes[id] = self.kafka.homes[id];
        }
        let home = sink.homes[id];
        let request = Request::Init { id, expected: None };
        self.send(relay, home, request, Pending::Init { id, attempt }, REQUEST_TIMEOUT);
    }

    fn identity(&mut self, relay: usize, id: usize, attempt: u32, reply: Reply) {
        let now = self.agenda.now;
        let Some(sink) = &mut self.relays[relay].sink else { return };
        match reply {
            Reply::Identity(identity) => {
                sink.identities[id] = Some(identity);
                if sink.identities.iter().all(Option::is_some) {
                    self.fenced(relay);
                }
            }
            Reply::Code(code)
                if code.is_retriable() && now.saturating_sub(sink.fencing_since) < INIT_LIMIT =>
            {
                let pause = if code == ErrorCode::CONCURRENT_TRANSACTIONS { 5 * MS } else { 20 * MS };
                let era = self.era(relay);
                self.agenda.after(pause, Event::Later(era, Job::Init { id, attempt: attempt + 1 }));
            }
            reply => self.sink_fails(relay, unreachable(&format!("InitProducerId: {reply:?}"))),
        }
    }

    fn fenced(&mut self, relay: usize) {
        let Some(sink) = &mut self.relays[relay].sink else { return };
        sink.stage = Stage::ReadingAgain;
        match self.mistake {
            Some(Mistake::ReadBeforeFencing) => {
                let before = sink.before.take();
                self.judged_again(relay, before);
            }
            _ => self.read_checkpoint(relay, false),
        }
    }

    /// Everybody else is fenced: what is read now is the newest.
    fn judged_again(&mut self, relay: usize, table: Option<Table>) {
        let Some(sink) = &mut self.relays[relay].sink else { return };
        let Some((mut table, before)) =
            table.and_then(|table| table.position.clone().map(|position| (table, position)))
        else {
            let fault = Fault::new(Code::CheckpointMissing, "no checkpoint");
            return self.sink_fails(relay, fault);
        };
        let facts = sink.facts.clone();
        let unchecked = self.mistake == Some(Mistake::LineageUnchecked);
        let now = match judge(&facts, &before) {
            Ok(now) => now,
            Err(_) if unchecked => Continuation {
                epoch: before.epoch,
                timeline: facts.timeline,
                resume_lsn: before.resume_lsn.min(facts.wal_position),
            },
            Err(fault) => {
                sink.read = Some(table);
                return self.refused(relay, fault);
            }
        };
        let generation = self.scenario.config.generation();
        let mut recognition = Recognition::of(&before, facts.confirmed_flush_lsn, &generation);
        if unchecked {
            recognition = Recognition::NOTHING;
        }
        let position = now.record(&before, &self.scenario.config.postgres.slot, &generation);
        table.position = Some(position.clone());
        let topics = table.topics.iter().map(|(name, record)| self.topic(name, Some(record))).collect();
        let new_epoch = now.epoch != before.epoch;
        let plan = Plan { table, epoch: now.epoch, topics, recognition };
        self.begin(relay, plan, position, new_epoch);
    }

    fn begin(&mut self, relay: usize, plan: Plan, position: PositionRecord, new_epoch: bool) {
        let now = self.agenda.now;
        let kip890 = self.kafka.kip890 || self.is(Mistake::EpochKept);
        let transaction = &self.scenario.config.kafka.transaction;
        let (in_use, timeout) = (usize::from(transaction.ids), transaction.timeout);
        let Some(sink) = &mut self.relays[relay].sink else { return };
        let identities: Vec<ProducerIdentity> = sink.identities.iter().flatten().copied().collect();
        let protocol = if kip890 { Protocol::Kip890 } else { Protocol::Older };
        let topic = TopicRef { name: "__pillarbox.sim".into(), id: pillarbox_kafka::Uuid::nil() };
        sink.recorder = Some(Recorder::new(topic.into(), plan.table.clone(), position.clone()));
        sink.machine = Some(Machine::new(identities, in_use, timeout, protocol));
        sink.machine_since = now;
        sink.plan = Some(Box::new(plan));
        sink.stage = Stage::Streaming;
        if new_epoch {
            sink.stage = Stage::CommittingEpoch;
            let alone = Sealed::alone(SetEnd::from(&position), Delta::default());
            sink.waiting.push_back(alone);
            return self.submit(relay);
        }
        self.recovered(relay);
    }

    /// The reader gets its plan.
    pub(crate) fn recovered(&mut self, relay: usize) {
        let Some(plan) = self.relays[relay].sink.as_mut().and_then(|sink| sink.plan.take()) else { return };
        if self.relays[relay].reader.is_none() {
            return;
        }
        self.command(relay, Command::Stream(plan));
        self.live(relay, Input::Recovered);
        let era = self.era(relay);
        self.agenda.after(MS, Event::Lineage(era));
    }

    pub(crate) fn topic(&self, name: &str, record: Option<&TopicRecord>) -> Topic {
        let index = self.scenario.topic_named(name).expect("one of the scenario's");
        Topic {
            name: name.to_owned(),
            id: pillarbox_kafka::Uuid::from_u128(index as u128 + 1),
            partitions: self.scenario.topics[index],
            first_slot: record.map_or(0, |record| record.first_slot),
            recorded: record.is_some(),
            limits: TopicLimits {
                batch_bytes_max: 4096,
                retention_ms: None,
                before_max_ms: i64::MAX,
                after_max_ms: i64::MAX,
                compacted: false,
            },
        }
    }
}

impl World {
    /// The relay's own task gives the database a new nonce.
    pub(crate) fn advance_lineage(&mut self, relay: usize) {
        let now = self.agenda.now;
        let era = self.era(relay);
        if !self.postgres.is_up(now) {
            let fault = Fault::new(Code::PgUnreachable, "the SQL connection broke");
            return self.live(relay, Input::Fault(fault));
        }
        let salt = self.dice.below(u64::MAX);
        let Some(at) = self.postgres.advance_lineage(&self.scenario, salt, now) else {
            // Another one holds the row.
            if self.postgres.nonces.last().is_some_and(|nonce| now - nonce.written_at > ADVANCE_TIMEOUT) {
                let fault = Fault::new(Code::PgUnreachable, "the lineage cannot be advanced");
                return self.live(relay, Input::Fault(fault));
            }
            return self.agenda.after(200 * MS, Event::Lineage(era));
        };
        let nonce = self.postgres.nonces[at].text.clone();
        self.trace.line(now, format_args!("relay {relay} gives the lineage {nonce}"));
        self.agenda.after(MS, Event::Flush);
        // Visible a moment after it was flushed, unless it waits for a standby.
        let most = if self.is(Mistake::LineageWaits) { self.scenario.visible_delay } else { MS };
        let delay = self.dice.between(MS, MS + most);
        self.agenda.after(delay, Event::NonceVisible(era, nonce));
        self.agenda.after(10 * S, Event::Lineage(era));
    }
}
