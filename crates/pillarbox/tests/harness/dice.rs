//! Everything random in a test, from one seed. Must never draw from anything else.

use std::time::{Duration, SystemTime};

/// A source of random numbers (SplitMix64) that replays from its seed.
pub(crate) struct Dice {
    seed: u64,
    state: u64,
}

impl Dice {
    /// Seeds from `PILLARBOX_SEED`, else from the clock, and prints how to replay.
    pub(crate) fn new() -> Self {
        let clock = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |age| age.subsec_nanos().into());
        let seed = number("PILLARBOX_SEED", clock);
        println!("seed {seed}; replay with PILLARBOX_SEED={seed}");
        Self { seed, state: seed }
    }

    /// Dice of their own for another thread, from the same seed.
    pub(crate) fn split(&mut self) -> Self {
        Self { seed: self.seed, state: self.below(u64::MAX) }
    }

    /// What everything was drawn from.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// A number below `bound`, which is at least 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    /// An index of something that holds so many.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("below a length")
    }

    /// Puts things in random order.
    pub(crate) fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            let other = self.below(last as u64 + 1);
            things.swap(last, usize::try_from(other).expect("below the length"));
        }
    }

    /// A time between two bounds, in whole milliseconds.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = most.saturating_sub(least).as_millis();
        least + Duration::from_millis(self.below(u64::try_from(span).unwrap_or(u64::MAX)))
    }
}

/// A number from the environment.
///
/// # Panics
/// Where the variable holds something else: a typing error must not run another test than was asked for.
pub(crate) fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
        Err(_) => default,
    }
}
