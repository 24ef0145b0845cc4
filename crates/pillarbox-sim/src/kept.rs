//! Seeds that once found something, or show that a rule is needed: run before all others.

use crate::mistakes::Mistake;
use crate::run::run;
use crate::scenario::Mode;
use crate::sweep::replay_command;

/// A seed, what it found, and the mistake that brings it back.
pub(crate) struct Kept {
    pub(crate) seed: u64,
    pub(crate) mode: Mode,
    pub(crate) why: &'static str,
    pub(crate) mistake: Mistake,
}

/// One line each. Where the simulator changes, a seed means something else: then its mistake is not found any more, the
/// test beside this says so, and another seed takes its place.
pub(crate) const KEPT: &[Kept] = &[
    Kept {
        seed: 1338,
        mode: Mode::Safety,
        why: "stopped amid its start while another led, a relay took what that published for another history",
        mistake: Mistake::FactsNotRefreshed,
    },
    Kept {
        seed: 12522,
        mode: Mode::Safety,
        why: "a relay got the slot from another that had gone on with it since the first look, and missed its landmark",
        mistake: Mistake::FactsBeforeSlot,
    },
    Kept {
        seed: 10,
        mode: Mode::Safety,
        why: "were a nonce to wait for a standby, a checkpoint could see it first, and the next start take it for a copy's",
        mistake: Mistake::LineageWaits,
    },
    Kept {
        seed: 30329,
        mode: Mode::Liveness,
        why: "Postgres crashed amid a start, its slot fell back, and a relay took that for the beginning of its stream",
        mistake: Mistake::SlotFellBack,
    },
];

/// Runs them; false where one fails.
pub(crate) fn hold() -> bool {
    let mut holds = true;
    for kept in KEPT {
        if let Some(violation) = run(kept.seed, kept.mode, None, false).violation {
            println!(
                "kept seed {} ({}) fails: \"{}\": {}",
                kept.seed, kept.why, violation.rule, violation.what
            );
            println!("  {}", replay_command(kept.seed, kept.mode, None));
            holds = false;
        }
    }
    println!("{} kept seeds: {}", KEPT.len(), if holds { "hold" } else { "FAIL" });
    holds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_seeds_hold_and_still_find_what_they_found() {
        assert!(hold());
        for Kept { seed, mode, why, mistake } in KEPT {
            assert!(run(*seed, *mode, Some(*mistake), false).violation.is_some(), "seed {seed}: {why}");
        }
    }
}
