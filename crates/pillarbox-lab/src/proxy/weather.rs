//! What a network is like for a while: values only, set for kinds of connections and directions.

use std::time::Duration;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From whoever connected to whoever was connected to.
    ToServer,
    /// Back.
    ToClient,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::ToServer, Self::ToClient];
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Postgres, opened for replication (`replication` in its startup packet): the stream, and what leads to it.
    Stream,
    /// Anything else.
    Plain,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Stream, Self::Plain];
}

/// The weather of a lane. `Weather::default()` is calm: bytes pass as they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// Every message arrives this much later.
    pub delay: Duration,
    /// And by up to this much more, at random; the order stays.
    pub jitter: Duration,
    /// Bytes a second, where there is a limit.
    pub rate: Option<u32>,
    /// Bytes to one write at most, where there is a limit.
    pub slice: Option<usize>,
    /// Nothing passes, nothing ends: half-open.
    pub stalled: bool,
    /// Passes and stalls in turn, each for this long.
    pub flap: Option<Duration>,
}

impl Weather {
    /// Half-open.
    pub fn stalled() -> Self {
        Self { stalled: true, ..Self::default() }
    }

    /// Late by this much.
    pub fn delayed(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// Late by up to this much.
    pub fn jittery(jitter: Duration) -> Self {
        Self { jitter, ..Self::default() }
    }

    /// So many bytes a second.
    pub fn limited(rate: u32) -> Self {
        Self { rate: Some(rate), ..Self::default() }
    }

    /// So many bytes to one write.
    pub fn sliced(slice: usize) -> Self {
        Self { slice: Some(slice), ..Self::default() }
    }

    /// Passing and stalling in turn.
    pub fn flapping(each: Duration) -> Self {
        Self { flap: Some(each), ..Self::default() }
    }
}

/// The weather of all lanes.
#[derive(Debug, Default)]
pub(super) struct Forecast {
    lanes: [[Weather; 2]; 2],
}

impl Forecast {
    pub(super) fn set(&mut self, kinds: &[Kind], directions: &[Direction], weather: Weather) {
        for kind in kinds {
            for direction in directions {
                self.lanes[*kind as usize][*direction as usize] = weather;
            }
        }
    }

    pub(super) fn of(&self, kind: Kind, direction: Direction) -> Weather {
        self.lanes[kind as usize][direction as usize]
    }
}

/// Random numbers for the jitter (SplitMix64), one sequence a lane.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// A time up to `most`.
    pub(super) fn up_to(&mut self, most: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        most.mul_f64((z >> 11) as f64 / (1_u64 << 53) as f64)
    }
}
