//! Many seeds on all cores; what failed, how to replay it, and figures.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::checker::Violation;
use crate::faults::FAULTS;
use crate::kept::KEPT;
use crate::mistakes::Mistake;
use crate::run::{Outcome, mode_of, run};
use crate::scenario::Mode;
use crate::world::Figures;

/// Failures that are printed; the first ones are enough to begin with.
const FAILURES_MAX: usize = 10;

struct Failure {
    seed: u64,
    mode: Mode,
    violation: Violation,
}

/// The command that shows a run in full.
pub(crate) fn replay_command(seed: u64, mode: Mode, mistake: Option<Mistake>) -> String {
    let mode = name(mode);
    let mistake = mistake.map_or_else(String::new, |mistake| format!(" --mistake {}", name(mistake)));
    format!("cargo xtask sim --seed {seed} --mode {mode}{mistake} --trace")
}

fn name<T: ValueEnum>(value: T) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// A run; an assertion of the relay's own is a violation, too.
fn observed(seed: u64, mode: Mode, mistake: Option<Mistake>, traced: bool) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| run(seed, mode, mistake, traced))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let what = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let violation = Violation { rule: "assertion", what: what.unwrap_or_default() };
        Outcome { violation: Some(violation), figures: Figures::default(), hash: 0, trace: Vec::new() }
    })
}

/// One seed, with everything that happens.
pub(crate) fn replay(seed: u64, mode: Option<Mode>, mistake: Option<Mistake>, traced: bool) -> bool {
    let mode = mode.unwrap_or_else(|| mode_of(seed));
    let outcome = observed(seed, mode, mistake, traced);
    for line in &outcome.trace {
        println!("{line}");
    }
    let Figures { steps, commits, simulated, .. } = outcome.figures;
    let (mode, hash) = (name(mode), outcome.hash);
    println!(
        "seed {seed}, {mode}: {steps} steps, {commits} commits, {simulated:.1?} simulated; run {hash:016x}"
    );
    match outcome.violation {
        None => println!("holds"),
        Some(Violation { rule, what }) => {
            println!("\"{rule}\" is broken: {what}");
            return false;
        }
    }
    true
}

/// All seeds; prints what failed, and figures.
pub(crate) fn sweep(seeds: Range<u64>, mode: Option<Mode>, mistake: Option<Mistake>) -> bool {
    let began = Instant::now();
    let (failures, total) = all(seeds.clone(), mode, mistake, FAILURES_MAX);
    for Failure { seed, mode, violation } in &failures {
        println!("seed {seed}: \"{}\" is broken: {}", violation.rule, violation.what);
        println!("  {}", replay_command(*seed, *mode, mistake));
    }
    print(seeds.end - seeds.start, &total, began.elapsed());
    if failures.is_empty() {
        println!("all hold");
    }
    failures.is_empty()
}

fn print(seeds: u64, total: &Figures, took: Duration) {
    let seconds = took.as_secs_f64();
    println!("{seeds} seeds in {seconds:.1} s: {:.0} seeds/s on {} cores", seeds as f64 / seconds, cores());
    println!(
        "{:.1} days simulated, {} steps, {} starts of relays, {} Kafka transactions, {} batches, {} halts for a cause",
        total.simulated.as_secs_f64() / 86_400.0,
        total.steps,
        total.starts,
        total.commits,
        total.batches,
        total.halts
    );
    let faults: Vec<String> =
        FAULTS.iter().zip(total.faults).map(|((_, name), count)| format!("{count} {name}")).collect();
    println!("faults: {}; and requests lost, late, twice", faults.join(", "));
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs them on all cores until so many have failed.
fn all(
    seeds: Range<u64>,
    mode: Option<Mode>,
    mistake: Option<Mistake>,
    most: usize,
) -> (Vec<Failure>, Figures) {
    let next = AtomicU64::new(seeds.start);
    let enough = AtomicBool::new(false);
    let found = Mutex::new((Vec::new(), Figures::default()));
    std::thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(|| {
                let mut own = Figures::default();
                while !enough.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let mode = mode.unwrap_or_else(|| mode_of(seed));
                    let outcome = observed(seed, mode, mistake, false);
                    own.add(&outcome.figures);
                    if let Some(violation) = outcome.violation {
                        let mut found = found.lock().expect("nobody panics with it");
                        found.0.push(Failure { seed, mode, violation });
                        enough.fetch_or(found.0.len() >= most, Ordering::Relaxed);
                    }
                }
                found.lock().expect("nobody panics with it").1.add(&own);
            });
        }
    });
    let (mut failures, total) = found.into_inner().expect("nobody panics with it");
    failures.sort_by_key(|failure| failure.seed);
    (failures, total)
}

/// Every mistake, planted: each has to be found. Where a seed is kept that finds it, that one is the first.
pub(crate) fn mistakes(from: u64, seeds: u64) -> bool {
    // The relay's own assertions are among what finds them.
    std::panic::set_hook(Box::new(|_| {}));
    let mut holds = true;
    for mistake in Mistake::value_variants() {
        let began = Instant::now();
        let from = KEPT.iter().find(|kept| kept.mistake == *mistake).map_or(from, |kept| kept.seed);
        let (failures, _) = all(from..from + seeds, None, Some(*mistake), 1);
        match failures.first() {
            Some(Failure { seed, violation, .. }) => {
                let took = began.elapsed();
                println!(
                    "{:<22} seed {seed:>6}, {took:>7.1?}: \"{}\": {}",
                    name(*mistake),
                    violation.rule,
                    violation.what
                );
            }
            None => {
                println!("{:<22} IS NOT FOUND in {seeds} seeds", name(*mistake));
                holds = false;
            }
        }
    }
    holds
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Few, because these are built without optimisation: `cargo xtask ci` runs a hundred thousand.
    #[test]
    fn seeds_hold() {
        let (failures, _) = all(1..150, None, None, 1);
        let failures: Vec<String> = failures
            .iter()
            .map(|failure| {
                format!("{}: {:?}", replay_command(failure.seed, failure.mode, None), failure.violation)
            })
            .collect();
        assert!(failures.is_empty(), "{failures:?}");
    }

    #[test]
    fn one_seed_is_one_run() {
        for seed in 1..12 {
            let [first, second] = [(); 2].map(|()| run(seed, mode_of(seed), None, true));
            assert_eq!(first.hash, second.hash, "seed {seed}");
            assert_eq!(first.trace, second.trace, "seed {seed}");
        }
        assert_ne!(run(1, Mode::Safety, None, false).hash, run(3, Mode::Safety, None, false).hash);
    }

    /// Else all could hold because nothing happens.
    #[test]
    fn every_fault_is_met() {
        let (_, total) = all(1..150, None, None, 1);
        for ((_, name), count) in FAULTS.iter().zip(total.faults) {
            assert!(count > 0, "never met: {name}");
        }
        assert!(total.commits > 1_000);
    }
}
