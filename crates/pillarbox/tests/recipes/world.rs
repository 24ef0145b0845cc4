//! Servers and a relay that all cases share, and a desk for each recipe in each case: a topic, a group and a database
//! of its own.
//!
//! ```text
//! publish -> outbox -> relay -> topic -> members (the recipe) -> invoices -> report
//! ```
//! Must never change what a consumer remembers.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use pillarbox_lab::{KafkaOptions, PostgresOptions};
use rdkafka::message::Message;

use crate::groups;
use crate::harness::records::{Isolation, exists, read};
use crate::harness::relay::{BINARY, Relay};
use crate::harness::site::Site;
use crate::harness::until::until;
use crate::judge::{Recorded, Report, judge};
use crate::member::Member;
use crate::planted;
use crate::program::Program;
use crate::sql::Sql;

/// How long anything that comes by itself may take on a machine that does other things too: most of it is rebalances,
/// which members notice at a heartbeat, every 3 s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Partitions of each topic that the relay writes.
const PARTITIONS: u32 = 3;
/// Events of one source transaction at most.
const TRANSACTION_EVENTS_MAX: u64 = 7;

/// What every consumer's database is made from: as `examples/consume/README.md` says. Who made an effect is for the
/// test alone.
const BILLING: &str = "
    CREATE TABLE invoices (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id text NOT NULL, content jsonb NOT NULL);
    ALTER TABLE invoices ADD backend integer NOT NULL DEFAULT pg_backend_pid();
    GRANT INSERT ON invoices TO the_consumer;";

pub(crate) struct World {
    // First, so that it ends first.
    _relay: Relay,
    pub(crate) site: Site,
}

impl World {
    /// The one that other cases are using, or a new one.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<World>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let world = Arc::new(Self::start());
            *shared = Arc::downgrade(&world);
            world
        })
    }

    fn start() -> Self {
        let mut site = Site::start(PostgresOptions::default(), KafkaOptions::default());
        let configuration = site.configure("orders", PARTITIONS, &[]);
        site.setup(&configuration);
        let mut relay = site.relay(&configuration);
        relay.wait_state("streaming", PATIENCE);

        site.postgres.execute("postgres", "CREATE DATABASE billing; ").expect("a database");
        let url = site.postgres.superuser_url("billing");
        let setup = Command::new(BINARY).args(["setup", "--consumer", &url]).output().expect("it runs");
        assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stderr));
        let said = String::from_utf8(setup.stderr).expect("text");
        let (_, grants) = said.split_once("each role that consumes needs:\n").expect("the grants");
        let roles = "CREATE ROLE the_consumer LOGIN; CREATE ROLE the_operator; CREATE ROLE the_reader;";
        site.postgres.execute("billing", &format!("{roles}{grants}{BILLING}")).expect("the consumer's side");

        for topic in planted::TOPICS {
            site.kafka.create_topic(topic.name, 1, &[]).expect("a topic");
        }
        let world = Self { _relay: relay, site };
        planted::plant(&world);
        world
    }

    /// Writes events of a topic, numbered, in transactions of a few events each.
    pub(crate) fn publish(&self, source: &Sql, topic: &str, first: u64, count: u64, keys: u64) {
        let kind = topic.strip_prefix("outbox.event.").expect("a topic of the relay");
        let mut next = first;
        while next < first + count {
            let events = (1 + next % TRANSACTION_EVENTS_MAX).min(first + count - next);
            let last = next + events - 1;
            source.column(&format!(
                "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) \
                 SELECT gen_random_uuid(), '{kind}', 'order-' || event % {keys}, 'OrderPlaced', \
                        jsonb_build_object('event', event, 'amount', 7) \
                   FROM generate_series({next}, {last}) AS event"
            ));
            next += events;
        }
    }

    /// What a `read_committed` consumer is given, once it is so many.
    pub(crate) fn records_all(&self, topic: &str, count: u64) -> Vec<Recorded> {
        let bootstrap = self.site.kafka.bootstrap();
        let what = format!("{count} records in {topic}");
        let all = || {
            let records = exists(&bootstrap, topic).then(|| self.records(topic))?;
            (records.len() as u64 >= count).then_some(records)
        };
        let (records, _) = until(&what, PATIENCE, all);
        assert_eq!(records.len() as u64, count, "the relay wrote more than it was given");
        records
    }

    /// What a `read_committed` consumer is given.
    fn records(&self, topic: &str) -> Vec<Recorded> {
        let mut records = Vec::new();
        read(&self.site.kafka.bootstrap(), topic, Isolation::Committed, |message| {
            let payload = serde_json::from_slice(message.payload().expect("a payload"));
            let payload: serde_json::Value = payload.expect("JSON");
            let event = payload["event"].as_i64().expect("a number");
            records.push(Recorded { partition: message.partition(), offset: message.offset(), event });
        });
        records
    }
}

/// A recipe in a case.
pub(crate) struct Desk<'w> {
    pub(crate) world: &'w World,
    program: Program,
    /// Of the database, and of the group unless another one is said.
    pub(crate) name: String,
    pub(crate) topic: String,
    published: Cell<u64>,
    started: Cell<u32>,
    source: Sql,
    pub(crate) billing: Sql,
}

impl<'w> Desk<'w> {
    /// A database without a position or an effect, for a topic of its own that the relay will make.
    pub(crate) fn new(world: &'w World, program: &Program, case: &str) -> Self {
        let name = format!("{case}_{}", program.name);
        let topic = format!("outbox.event.{name}");
        Self::at(world, program, name, topic)
    }

    /// The same for a topic that is there.
    pub(crate) fn at(world: &'w World, program: &Program, name: String, topic: String) -> Self {
        let source = Sql::connect(&world.site.url());
        // Two copies of one template at a time are refused.
        static COPYING: Mutex<()> = Mutex::new(());
        let copying = COPYING.lock().unwrap_or_else(PoisonError::into_inner);
        source.column(&format!("CREATE DATABASE {name} TEMPLATE billing"));
        drop(copying);
        let billing = Sql::connect(&world.site.postgres.superuser_url(&name));
        let (published, started) = (Cell::new(0), Cell::new(0));
        Self { world, program: program.clone(), name, topic, published, started, source, billing }
    }

    /// Writes so many more events.
    pub(crate) fn publish(&self, count: u64) {
        self.world.publish(&self.source, &self.topic, self.published.get() + 1, count, 20);
        self.published.set(self.published.get() + count);
        // A consumer of a topic that is not there ends, or looks again only after minutes.
        let bootstrap = self.world.site.kafka.bootstrap();
        let there = || exists(&bootstrap, &self.topic).then_some(());
        until(&format!("{} is there", self.topic), PATIENCE, there);
    }

    /// How many were written.
    pub(crate) fn published(&self) -> i64 {
        i64::try_from(self.published.get()).expect("few events")
    }

    /// Starts a member of the desk's group.
    pub(crate) fn member(&self) -> Member {
        self.member_of(&self.name)
    }

    /// Starts a member of a group.
    pub(crate) fn member_of(&self, group: &str) -> Member {
        self.started.set(self.started.get() + 1);
        let name = format!("{}-{}", self.name, self.started.get());
        let program = self.program.clone();
        let env = [
            ("PGHOST", "127.0.0.1".to_owned()),
            ("PGPORT", self.world.site.postgres.port().to_string()),
            ("PGUSER", "the_consumer".to_owned()),
            ("PGDATABASE", self.name.clone()),
            ("KAFKA_BROKERS", self.world.site.kafka.bootstrap()),
            ("KAFKA_TOPIC", self.topic.clone()),
            ("KAFKA_GROUP", group.to_owned()),
        ];
        let recipe = move || {
            let mut command = program.command();
            command.envs(env.iter().map(|(name, value)| (name, value)));
            command
        };
        let log = self.world.site.path(&format!("{name}.log"));
        Member::start(&name, Box::new(recipe), &log)
    }

    /// Takes the dead out of the group, and the living too: they join again.
    pub(crate) fn empty_group(&self) {
        self.world.site.kafka.empty_group(&self.name).expect("Kafka empties the group");
    }

    /// How many effects there are.
    pub(crate) fn effects(&self) -> i64 {
        self.billing.number("SELECT count(*) FROM invoices")
    }

    /// How many effects each member has made, alive or not, the fewest first.
    pub(crate) fn shares(&self) -> Vec<i64> {
        self.billing.numbers("SELECT count(*) FROM invoices GROUP BY backend ORDER BY 1")
    }

    /// Waits for that many effects while all members run, or are started again.
    pub(crate) fn wait_effects(&self, least: i64, members: &mut [&mut Member]) {
        until(&format!("{}: {least} effects", self.name), PATIENCE, || {
            members.iter_mut().for_each(|member| member.supervise());
            (self.effects() >= least).then_some(())
        });
    }

    /// Gives members more to do, until they go on, or wait for a row that another one holds.
    pub(crate) fn wait_progress(&self, members: &mut [&mut Member]) {
        let before = self.effects();
        self.publish(50);
        let waits = "SELECT count(*) FROM pg_stat_activity \
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        until(&format!("{}: the others go on, or wait", self.name), PATIENCE, || {
            members.iter_mut().for_each(|member| member.supervise());
            (self.effects() > before || self.billing.number(waits) > 0).then_some(())
        });
    }

    /// Waits until a group's offsets say that it has read everything.
    pub(crate) fn wait_read(&self, group: &str, member: &mut Member) {
        let records = self.records();
        until(&format!("{}: {group} has read all", self.name), PATIENCE, || {
            member.supervise();
            let offsets = self.offsets(group);
            let read =
                |record: &Recorded| offsets.get(&record.partition).is_some_and(|at| *at > record.offset);
            records.iter().all(read).then_some(())
        });
    }

    /// All that was written, or planted, as the topic has it.
    pub(crate) fn records(&self) -> Vec<Recorded> {
        match self.published.get() {
            0 => self.world.records(&self.topic),
            count => self.world.records_all(&self.topic, count),
        }
    }

    /// Where a group would read on, by partition.
    pub(crate) fn offsets(&self, group: &str) -> BTreeMap<i32, i64> {
        groups::offsets(&self.world.site.kafka.bootstrap(), group, &self.topic)
    }

    /// The events whose effect is there, in the order in which they were made.
    pub(crate) fn applied(&self) -> Vec<i64> {
        self.billing.numbers("SELECT (content->>'event')::bigint FROM invoices ORDER BY number")
    }

    /// Compares all that the topic holds with the effects.
    pub(crate) fn report(&self) -> Report {
        judge(&self.records(), &self.applied())
    }

    /// Fails unless each event had its effect once, in order.
    pub(crate) fn assert_each_once(&self) {
        assert_eq!(self.report(), Report::default(), "{}", self.name);
    }
}
