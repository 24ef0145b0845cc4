//! What happens at the servers: writers, WAL, walsenders, requests that arrive, markers.

use std::fmt;
use std::time::Duration;

use pillarbox_kafka::ErrorCode;
use pillarbox_wire::lsn::Lsn;

use crate::kafka::{BROKERS, Reply, Request, Taken};
use crate::mistakes::Mistake;
use crate::postgres::{Change, Piece};
use crate::relay::Era;
use crate::world::{Event, Flight, MS, Refusal, S, World};

/// How often a walsender says that it lives.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// A leader that is gone is replaced after this long.
const ELECTION: Duration = Duration::from_millis(150);
/// A marker that could not be written is tried again.
const MARKER_PAUSE: Duration = Duration::from_millis(40);

impl World {
    pub(crate) fn write(&mut self) {
        if self.written >= self.scenario.transactions {
            return;
        }
        let pause = self.dice.between(Duration::ZERO, self.scenario.pause * 2);
        self.agenda.after(pause, Event::Write);
        if !self.postgres.is_up(self.agenda.now) {
            return;
        }
        let count = 1 + self.dice.below(self.scenario.changes_max);
        let changes: Vec<Change> = (0..count)
            .map(|_| match self.dice.below(10) {
                0 => Change::Row,
                _ => Change::Event(self.dice.index(self.scenario.topics.len()), self.dice.below(6) as u32),
            })
            .collect();
        let gap = self.dice.pick(&[0, 0, 64, 200, 4096]);
        let now = self.agenda.now;
        let number = self.postgres.write(&self.scenario, &changes, gap, now);
        self.written += 1;
        self.trace.line(
            now,
            format_args!("transaction {number} commits at {}: {count} changes", self.postgres.inserted),
        );
        self.flush_soon();
    }

    pub(crate) fn flush_soon(&mut self) {
        let delay = if self.dice.one_in(20) {
            self.dice.between(MS, 100 * MS)
        } else {
            self.dice.between(Duration::ZERO, 2 * MS)
        };
        self.agenda.after(delay, Event::Flush);
    }

    pub(crate) fn noise(&mut self) {
        let (now, bytes) = (self.agenda.now, self.dice.pick(&[100, 5_000, 20 << 20]));
        if self.postgres.is_up(now) {
            self.postgres.write_noise(bytes);
            self.flush_soon();
        }
        let pause = self.dice.between(S, 8 * S);
        self.agenda.after(pause, Event::Noise);
    }

    pub(crate) fn flush(&mut self) {
        if !self.postgres.is_up(self.agenda.now) || self.postgres.flushed == self.postgres.inserted {
            return;
        }
        self.postgres.flushed = self.postgres.inserted;
        let delay = match self.is_healed() {
            false if self.dice.one_in(self.scenario.standby_lags) => self.dice.between(S, 10 * S),
            _ => self.dice.between(MS, 20 * MS),
        };
        self.agenda.after(delay, Event::Replicate(self.postgres.timeline, self.postgres.flushed));
    }

    /// The slot is written to disk, and copied by the standby, now and then.
    pub(crate) fn slots(&mut self) {
        if self.dice.one_in(2) {
            self.postgres.slot.persisted = self.postgres.slot.confirmed;
        }
        self.postgres.synchronize_slot();
        self.agenda.after(700 * MS, Event::Slots);
    }

    /// The walsender sends what it can.
    pub(crate) fn pump(&mut self) {
        let now = self.agenda.now;
        if !self.postgres.is_up(now) {
            return;
        }
        while let Some(pieces) = self.postgres.parcel(now) {
            self.post(pieces);
        }
    }

    /// Pieces on their way to the client of the slot, in order.
    fn post(&mut self, pieces: Vec<Piece>) {
        let delay = self.dice.between(MS / 10, MS);
        let now = self.agenda.now;
        let Some(session) = &mut self.postgres.slot.session else { return };
        session.arrives = session.arrives.max(now + delay);
        let (number, arrives) = (session.number, session.arrives);
        if let Some(relay) = self.relays.iter().position(|relay| relay.era == session.era) {
            let era = Era { relay, number: session.era };
            self.agenda.at(arrives, Event::Parcel(era, number, pieces));
        }
    }

    pub(crate) fn look_after(&mut self, number: u64) {
        let now = self.agenda.now;
        let Some(session) = self.postgres.session(number) else { return };
        let silent = now.saturating_sub(session.replied_at);
        let timeout = self.scenario.sender_timeout;
        if timeout.is_some_and(|timeout| silent >= timeout) {
            self.trace.line(now, format_args!("the walsender gives its client up"));
            return self.close_session(number);
        }
        let asked = timeout.is_some_and(|timeout| silent >= timeout / 2) || self.dice.one_in(5);
        if let Some(keepalive) = self.postgres.keepalive(asked) {
            self.post(vec![keepalive]);
        }
        self.agenda.after(KEEPALIVE, Event::Sender(number));
    }

    pub(crate) fn nonce_visible(&mut self, era: Era, nonce: String) {
        if self.postgres.stalled_until > self.agenda.now && self.is(Mistake::LineageWaits) {
            return self.agenda.at(self.postgres.stalled_until, Event::NonceVisible(era, nonce));
        }
        let written = self.postgres.nonces.iter_mut().find(|written| written.text == nonce);
        // Otherwise its transaction was lost with the server.
        if let Some(written) = written {
            written.visible = true;
            self.agenda.after(MS / 10, Event::LineageTold(era, nonce));
        }
    }

    pub(crate) fn close_session(&mut self, number: u64) {
        if self.postgres.session(number).is_some() {
            self.post(vec![Piece::End]);
            self.postgres.slot.session = None;
            self.trace.line(self.agenda.now, format_args!("the slot is free"));
        }
    }

    pub(crate) fn status(&mut self, session: u64, lsn: Lsn) {
        let now = self.agenda.now;
        if self.postgres.is_up(now)
            && let Some(before) = self.postgres.status(session, lsn, now)
        {
            self.trace.line(now, format_args!("the slot is confirmed at {lsn}, was at {before}"));
            let verdict = self.checker.confirmed(lsn, &self.postgres.expected);
            self.hold(verdict);
        }
    }

    pub(crate) fn arrive(&mut self, mut flight: Flight) {
        let now = self.agenda.now;
        if !self.kafka.up[flight.broker] {
            return;
        }
        let marked = match flight.request {
            Request::Mark { partition, .. } => Some(partition),
            _ => None,
        };
        if flight.refusal == Some(Refusal::Before)
            && let Some(reply) = refused(&flight.request)
        {
            self.trace
                .line(now, format_args!("  broker {}: refuses {}", flight.broker, Brief(&flight.request)));
            return self.reply(&flight, reply);
        }
        match self.kafka.take(flight.broker, &flight.request, flight.tries, now) {
            Taken::Again(pause) => {
                flight.tries += 1;
                self.agenda.after(pause, Event::Arrive(flight));
            }
            Taken::Answer(reply) => {
                self.decisions(flight.era.number, &flight.request);
                self.watch_duration(&flight.request);
                self.trace.line(
                    now,
                    format_args!(
                        "  broker {}: {} -> {}",
                        flight.broker,
                        Brief(&flight.request),
                        Brief(&reply)
                    ),
                );
                let spoiled = refused(&flight.request).filter(|_| {
                    matches!(flight.request, Request::Produce { .. })
                        && flight.refusal == Some(Refusal::After)
                });
                self.reply(&flight, spoiled.unwrap_or(reply));
            }
        }
        if let Some(partition) = marked {
            let verdict = self.checker.visible(partition, &self.kafka.logs[partition]);
            self.hold(verdict);
        }
    }

    fn reply(&mut self, flight: &Flight, reply: Reply) {
        if let Some(token) = flight.token
            && !flight.answer_is_lost
        {
            let delay = self.dice.between(MS / 10, MS);
            self.agenda.after(delay, Event::Answer(flight.era, token, reply));
        }
    }

    /// A transaction that has begun is aborted if it lasts too long.
    fn watch_duration(&mut self, request: &Request) {
        let (Request::Produce { id, .. } | Request::Join { id, .. }) = request else { return };
        let coordinator = &self.kafka.ids[*id];
        if coordinator.since() == Some(self.agenda.now) {
            let event = Event::TimeOut(*id, coordinator.identity.producer_epoch, self.agenda.now);
            self.agenda.after(self.scenario.config.kafka.transaction.timeout, event);
        }
    }

    /// What coordinators decided is held against the rules; markers go out.
    pub(crate) fn decisions(&mut self, era: u64, request: &Request) {
        for decision in std::mem::take(&mut self.kafka.decisions) {
            let ended = &decision.ended;
            if ended.commit {
                debug_assert!(matches!(request, Request::EndTxn { .. }));
                let read = self.reads[era as usize];
                let former = self.former.get(read).map(|_| read);
                let history = self.former.get(read).unwrap_or(&self.postgres.expected);
                let verdict = self.checker.decided(ended, &self.kafka.logs, history, former);
                self.figures.commits += 1;
                let position = &self.checker.position;
                self.trace.line(
                    self.agenda.now,
                    format_args!(
                        "  committed: epoch {} to {} {:?}, resume {}",
                        position.epoch, position.commit_lsn, position.index, position.resume_lsn
                    ),
                );
                self.hold(verdict);
            }
            let epoch = self.kafka.ids[decision.id].identity.producer_epoch;
            for partition in &ended.parts {
                let most = if self.is_healed() { 5 * MS } else { self.scenario.marker_delay };
                let delay = self.dice.between(MS / 5, most);
                self.agenda.after(delay, Event::Marker(decision.id, epoch, *partition));
            }
        }
    }

    pub(crate) fn marker(&mut self, id: usize, epoch: i16, partition: usize) {
        if self.kafka.ids[id].identity.producer_epoch != epoch {
            return;
        }
        if !self.kafka.write_marker(id, partition, self.agenda.now) {
            return self.agenda.after(MARKER_PAUSE, Event::Marker(id, epoch, partition));
        }
        let verdict = self.checker.visible(partition, &self.kafka.logs[partition]);
        self.hold(verdict);
    }

    pub(crate) fn time_out(&mut self, id: usize, epoch: i16, since: Duration) {
        let coordinator = &self.kafka.ids[id];
        if coordinator.identity.producer_epoch == epoch && coordinator.since() == Some(since) {
            self.trace.line(self.agenda.now, format_args!("the transaction of id {id} times out"));
            self.kafka.time_out(id);
            self.decisions(0, &Request::Metadata);
        }
    }

    pub(crate) fn broker_down(&mut self, broker: usize, down: Duration) {
        if self.kafka.up.iter().filter(|up| **up).count() < 2 && !self.dice.one_in(4) {
            return;
        }
        let now = self.agenda.now;
        self.trace.line(now, format_args!("BROKER {broker} DIES for {down:?}"));
        self.kafka.up[broker] = false;
        for leader in self.kafka.leaders.iter_mut().filter(|leader| **leader == Some(broker)) {
            *leader = None;
        }
        self.agenda.after(ELECTION, Event::Elect);
        self.agenda.after(down, Event::BrokerUp(broker));
        self.break_connections(broker);
    }

    /// Partitions and ids without a broker get another one.
    pub(crate) fn elect(&mut self) {
        let now = self.agenda.now;
        let alive: Vec<usize> = (0..BROKERS).filter(|broker| self.kafka.up[*broker]).collect();
        if alive.is_empty() {
            return self.agenda.after(ELECTION, Event::Elect);
        }
        for partition in 0..self.kafka.leaders.len() {
            if self.kafka.leaders[partition].is_none() {
                self.kafka.leaders[partition] = Some(self.dice.pick(&alive));
            }
        }
        for id in 0..self.kafka.homes.len() {
            if !self.kafka.up[self.kafka.homes[id]] {
                self.kafka.homes[id] = self.dice.pick(&alive);
                self.kafka.loading[id] = now + self.dice.between(5 * MS, 300 * MS);
            }
        }
    }

    pub(crate) fn broker_up(&mut self, broker: usize) {
        self.trace.line(self.agenda.now, format_args!("broker {broker} is back"));
        self.kafka.up[broker] = true;
    }
}

/// What a broker says that cannot do it now, or cannot be sure that it has.
fn refused(request: &Request) -> Option<Reply> {
    match request {
        Request::Produce { parts, .. } => {
            let code = ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND;
            Some(Reply::Produced(parts.iter().map(|part| (part.item, code, -1)).collect()))
        }
        Request::Join { .. } | Request::EndTxn { .. } | Request::Init { .. } => {
            Some(Reply::Code(ErrorCode::COORDINATOR_NOT_AVAILABLE))
        }
        _ => None,
    }
}

/// A request in few words.
pub(crate) struct Brief<'a, T>(pub(crate) &'a T);

impl fmt::Display for Brief<'_, Request> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Request::Metadata => f.write_str("Metadata"),
            Request::Join { id, identity, parts } => {
                write!(f, "Join({id}:{} {parts:?})", identity.producer_epoch)
            }
            Request::Produce { id, identity, parts } => {
                let parts: Vec<usize> = parts.iter().map(|part| part.partition).collect();
                write!(f, "Produce({id}:{} {parts:?})", identity.producer_epoch)
            }
            Request::EndTxn { id, identity, commit } => {
                write!(
                    f,
                    "EndTxn({id}:{} {})",
                    identity.producer_epoch,
                    if *commit { "commit" } else { "abort" }
                )
            }
            Request::Init { id, expected } => {
                write!(f, "InitProducerId({id} {:?})", expected.map(|expected| expected.producer_epoch))
            }
            Request::Offsets { stable } => {
                write!(f, "ListOffsets({})", if *stable { "stable" } else { "end" })
            }
            Request::Fetch { from, to } => write!(f, "Fetch({from}..{to})"),
            Request::Describe => f.write_str("Describe"),
            Request::Mark { partition, open, commit } => {
                write!(
                    f,
                    "WriteTxnMarkers({partition} {}:{} {commit})",
                    open.producer_id, open.producer_epoch
                )
            }
        }
    }
}

impl fmt::Display for Brief<'_, Reply> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Reply::Metadata { .. } => f.write_str("ok"),
            Reply::Code(code) => write!(f, "{code}"),
            Reply::Identity(identity) => write!(f, "epoch {}", identity.producer_epoch),
            Reply::Produced(results) => {
                write!(f, "{:?}", results.iter().map(|(_, code, _)| code.0).collect::<Vec<_>>())
            }
            Reply::Offset(offset) => write!(f, "offset {offset}"),
            Reply::Records(records) => write!(f, "{} records", records.len()),
            Reply::Described(described) => write!(f, "{} open", described.open.len()),
            Reply::Broken => f.write_str("nothing"),
        }
    }
}
