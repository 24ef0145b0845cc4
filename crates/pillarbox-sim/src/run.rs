//! One seed, from its first transaction to its verdict.

use std::rc::Rc;
use std::time::Duration;

use pillarbox_relay::config::TRANSACTION_IDS_OWNED;
use pillarbox_relay::position::checkpoint::{Delta, PositionRecord, VERSION, encode};
use pillarbox_wire::lsn::Lsn;

use crate::agenda::Agenda;
use crate::checker::{Checker, Violation};
use crate::dice::Dice;
use crate::kafka::log::Batch;
use crate::kafka::{BROKERS, CHECKPOINT, Kafka};
use crate::mistakes::Mistake;
use crate::postgres::{EPOCH_MS, Postgres, START};
use crate::relay::Relay;
use crate::scenario::{Mode, Scenario};
use crate::trace::Trace;
use crate::world::{Event, Figures, MS, S, World};

/// What became of a seed.
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    pub(crate) figures: Figures,
    /// Equal for two runs of the same seed.
    pub(crate) hash: u64,
    pub(crate) trace: Vec<String>,
}

/// Which mode a seed has if nobody chose one.
pub(crate) fn mode_of(seed: u64) -> Mode {
    if seed.is_multiple_of(2) { Mode::Safety } else { Mode::Liveness }
}

pub(crate) fn run(seed: u64, mode: Mode, mistake: Option<Mistake>, traced: bool) -> Outcome {
    let mut world = world(seed, mode, mistake, traced);
    begin(&mut world);
    world.run();
    let World { violation, mut figures, trace, kafka, .. } = world;
    figures.batches = kafka.logs.iter().skip(1).map(|log| log.data.len() as u64).sum();
    Outcome { violation, figures, hash: trace.hash(), trace: trace.into_lines() }
}

fn world(seed: u64, mode: Mode, mistake: Option<Mistake>, traced: bool) -> World {
    let mut dice = Dice::new(seed);
    let scenario = Scenario::new(&mut dice, mode);
    let partitions = scenario.partitions();
    let mut kafka = Kafka::new(usize::from(TRANSACTION_IDS_OWNED), partitions, scenario.kip890);
    kafka.aborts_nothing = scenario.aborts_nothing;
    kafka.loses_markers = scenario.loses_markers;
    let position = first_position(&scenario);
    setup(&mut kafka, &position);
    let events_max = scenario.config.kafka.transaction.events_max;
    let mut trace = Trace::new(traced);
    trace.line(Duration::ZERO, format_args!("seed {seed}: {scenario:?}"));
    World {
        mistake,
        dice,
        agenda: Agenda::new(),
        trace,
        postgres: Postgres::new(&scenario),
        kafka,
        relays: (0..scenario.relays).map(|_| Relay::new()).collect(),
        checker: Checker::new(partitions, position, events_max),
        former: Vec::new(),
        reads: vec![0],
        eras: 0,
        tokens: 0,
        written: 0,
        healed: None,
        violation: None,
        over: false,
        figures: Figures::default(),
        lanes: vec![[Duration::ZERO; BROKERS * 2]; scenario.relays],
        scenario,
    }
}

/// The checkpoint that `setup` writes.
fn setup(kafka: &mut Kafka, position: &PositionRecord) {
    let mut records = Vec::new();
    encode(&Delta::default(), position, |key, value| records.push((key.as_bytes().to_vec(), value.to_vec())));
    let identity = kafka.ids[0].identity;
    let batch = Rc::new(Batch::Checkpoint(records, Box::new(position.clone())));
    kafka.logs[CHECKPOINT].append(identity, 0, &batch).expect("an empty log");
    kafka.logs[CHECKPOINT].end_transaction(identity, identity.producer_epoch, true);
}

fn first_position(scenario: &Scenario) -> PositionRecord {
    PositionRecord {
        v: VERSION,
        epoch: 1,
        commit_lsn: Lsn::ZERO,
        commit_ms: None,
        index: None,
        part: None,
        resume_lsn: START,
        published_end_lsn: Lsn::ZERO,
        system_id: "7".into(),
        timeline: 1,
        lineage_nonce: None,
        slot: scenario.config.postgres.slot.clone(),
        generation: scenario.config.generation(),
        paused: false,
        snapshot_offset: None,
        at: EPOCH_MS,
    }
}

fn begin(world: &mut World) {
    for relay in 0..world.relays.len() {
        let delay = world.dice.between(MS, 200 * MS);
        world.agenda.after(delay, Event::Boot(relay));
    }
    world.agenda.after(5 * MS, Event::Write);
    world.agenda.after(S, Event::Noise);
    world.agenda.after(300 * MS, Event::Slots);
    let first = world.dice.between(50 * MS, world.scenario.fault_pause * 2);
    world.agenda.after(first, Event::Fault);
    world.agenda.at(world.scenario.heals_at, Event::Heal);
}
