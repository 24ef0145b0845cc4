//! One relay, its lives and deaths. Must never take another end for the one that was chosen.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant, SystemTime};

use pillarbox_failpoint::Step;
use serde_json::Value;

use crate::figures::Figures;
use crate::harness::relay::Relay;

/// How long anything that comes by itself may take on a machine that does other things too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// How often a relay that should have died is asked whether it halted.
const ASK_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const DAY: Duration = Duration::from_secs(86_400);
const SIGABRT: i32 = 6;

/// Where a life ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failpoint {
    /// The step.
    pub(crate) step: Step,
    /// Which time it is reached.
    pub(crate) hit: u64,
    /// A process that dies just before.
    pub(crate) victim: Option<u32>,
    /// For how long the relay stands still before both die.
    pub(crate) delay: Duration,
}

impl Failpoint {
    /// The first time that this step is reached.
    pub(crate) fn first(step: Step) -> Self {
        Self { step, hit: 1, victim: None, delay: Duration::ZERO }
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let Self { step, hit, victim, delay } = self;
        let mut variables = vec![("PILLARBOX_FAILPOINT", format!("{}:{hit}", step.name()))];
        variables.push(("PILLARBOX_FAILPOINT_DELAY", delay.as_micros().to_string()));
        variables.extend(victim.map(|pid| ("PILLARBOX_FAILPOINT_VICTIM", pid.to_string())));
        variables
    }
}

/// A relay that dies again and again.
pub(crate) struct Subject {
    pub(crate) relay: Relay,
    pub(crate) figures: Figures,
    /// Where the log of this life begins.
    log_from: u64,
    /// Where and when the life before ended.
    ended: Option<(Step, SystemTime)>,
}

impl Subject {
    pub(crate) fn new(relay: Relay) -> Self {
        Self { relay, figures: Figures::default(), log_from: 0, ended: None }
    }

    /// Starts the next life; one that goes on is killed before.
    pub(crate) fn launch(&mut self, failpoint: Option<&Failpoint>) {
        self.end();
        self.log_from = self.relay.log_bytes();
        self.relay.start_again_with(&failpoint.map(Failpoint::variables).unwrap_or_default());
    }

    /// Kills this life.
    pub(crate) fn end(&mut self) {
        if self.relay.is_running() {
            self.relay.kill9();
            self.note_recovery();
        }
    }

    /// A life that comes to its step by itself.
    pub(crate) fn strike(&mut self, failpoint: &Failpoint) {
        self.launch(Some(failpoint));
        self.wait_death(failpoint);
    }

    /// A server crashed with this life: how long the next one needs says nothing of the relay.
    pub(crate) fn was_not_alone(&mut self) {
        self.ended = None;
    }

    /// Waits until this life streams.
    pub(crate) fn wait_streaming(&mut self) {
        self.relay.wait_state("streaming", PATIENCE);
    }

    /// Waits for the end of this life, which must be the chosen one.
    ///
    /// # Panics
    /// Where it ends in another way, halts, or does not come to that step.
    pub(crate) fn wait_death(&mut self, failpoint: &Failpoint) {
        let reached = self.wait_death_or(failpoint, |_| false);
        assert!(reached, "a death");
    }

    /// The same, but content with something else that becomes true; gives whether it died.
    pub(crate) fn wait_death_or(&mut self, failpoint: &Failpoint, other: fn(&Relay) -> bool) -> bool {
        let name = failpoint.step.name();
        let (started, mut asked) = (Instant::now(), Instant::now());
        while self.relay.is_running() {
            let waited = started.elapsed();
            assert!(waited < PATIENCE, "{name}:{} was not reached: {:?}", failpoint.hit, self.relay.status());
            if asked.elapsed() > ASK_EVERY {
                asked = Instant::now();
                if other(&self.relay) {
                    return false;
                }
                let halted = self.relay.state().is_some_and(|state| state == "halted");
                assert!(!halted, "it halted on the way to {name}: {:?}", self.relay.fault());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let died = SystemTime::now();
        let status = self.relay.wait_end(Duration::ZERO);
        let said = self.relay.log_from(self.log_from);
        let chosen = said.lines().any(|line| line.strip_prefix("failpoint: ") == Some(name));
        assert!(status.signal() == Some(SIGABRT) && chosen, "it should have died at {name}: {status}");
        self.note_recovery();
        self.figures.died(failpoint.step);
        self.ended = Some((failpoint.step, died));
        true
    }

    /// How long this life needed to stream, if it came so far.
    fn note_recovery(&mut self) {
        let Some((step, died)) = self.ended.take() else { return };
        let Some(streamed) = self.relay.log_from(self.log_from).lines().find_map(streams_at) else { return };
        let died =
            died.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_micros() % DAY.as_micros();
        let took = (DAY.as_micros() + streamed.as_micros() - died) % DAY.as_micros();
        let took = Duration::from_micros(u64::try_from(took).expect("less than a day"));
        self.figures.recovered(step, took);
    }
}

/// The time of day at which a line says that the relay streams.
fn streams_at(line: &str) -> Option<Duration> {
    let entry: Value = serde_json::from_str(line).ok()?;
    if entry["message"] != "pipeline" || entry["state"] != "Streaming" {
        return None;
    }
    let (_, time) = entry["timestamp"].as_str()?.split_once('T')?;
    let mut parts = time.trim_end_matches('Z').splitn(3, ':').map(str::parse::<f64>);
    let mut part = || parts.next()?.ok();
    Some(Duration::from_secs_f64(part()? * 3600.0 + part()? * 60.0 + part()?))
}
