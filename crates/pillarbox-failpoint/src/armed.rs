//! What a failpoint does in a build that has them: dies at the step that the environment chose.
//!
//! Must never be in a build for users, and never do anything at any other step.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::Step;

/// `name:number`.
const STEP: &str = "PILLARBOX_FAILPOINT";
/// A process id.
const VICTIM: &str = "PILLARBOX_FAILPOINT_VICTIM";
/// Microseconds.
const DELAY: &str = "PILLARBOX_FAILPOINT_DELAY";

/// The chosen end.
#[derive(Debug)]
struct Chosen {
    step: Step,
    /// Times it is still to be reached.
    left: AtomicU64,
    victim: Option<Pid>,
    delay: Duration,
}

/// Counts, and ends the process when it is time.
pub(crate) fn hit(step: Step) {
    static CHOSEN: OnceLock<Option<Chosen>> = OnceLock::new();
    let Some(chosen) = CHOSEN.get_or_init(choose) else { return };
    if chosen.step == step && chosen.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        die(chosen);
    }
}

fn die(chosen: &Chosen) -> ! {
    std::thread::sleep(chosen.delay);
    if let Some(victim) = chosen.victim {
        // One that is gone already needs no signal.
        let _ = kill_process(victim, Signal::KILL);
    }
    eprintln!("failpoint: {}", chosen.step.name());
    std::process::abort();
}

fn choose() -> Option<Chosen> {
    let read = |variable| std::env::var(variable).ok();
    let chosen = parse(&read(STEP)?, read(VICTIM).as_deref(), read(DELAY).as_deref());
    Some(chosen.unwrap_or_else(|wrong| {
        eprintln!("failpoint: {wrong}");
        std::process::abort();
    }))
}

fn parse(step: &str, victim: Option<&str>, delay: Option<&str>) -> Result<Chosen, String> {
    let wrong = |text: &str| format!("{text} is not what {STEP}, {VICTIM} and {DELAY} hold");
    let (name, number) = step.split_once(':').ok_or_else(|| wrong(step))?;
    let step = Step::ALL.iter().find(|step| step.name() == name).ok_or_else(|| wrong(name))?;
    let pid = |text: &str| i32::from_str(text).ok().and_then(Pid::from_raw).ok_or_else(|| wrong(text));
    let micros = |text: &str| u64::from_str(text).map_err(|_| wrong(text));
    Ok(Chosen {
        step: *step,
        left: AtomicU64::new(u64::from_str(number).map_err(|_| wrong(number))?),
        victim: victim.map(pid).transpose()?,
        delay: Duration::from_micros(delay.map_or(Ok(0), micros)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_can_be_chosen_and_nothing_else() {
        for step in Step::ALL {
            let chosen = parse(&format!("{}:3", step.name()), None, None).expect("a step");
            assert_eq!((chosen.step, chosen.left.into_inner()), (*step, 3));
        }
        let chosen = parse("routed:1", Some("7"), Some("1500")).expect("all three");
        assert_eq!((chosen.victim, chosen.delay), (Pid::from_raw(7), Duration::from_micros(1500)));
        let wrong = [("routed", None, None), ("rooted:1", None, None), ("routed:x", None, None)];
        let others =
            [("routed:1", Some("0"), None), ("routed:1", Some("x"), None), ("routed:1", None, Some("-1"))];
        for (step, victim, delay) in wrong.into_iter().chain(others) {
            assert!(parse(step, victim, delay).is_err(), "{step} {victim:?} {delay:?}");
        }
    }
}
