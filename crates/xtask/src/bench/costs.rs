//! CPU of everybody who takes part in a run, and of everybody who should not.
//!
//! Must never lose what a process used because it ended: the last look before its end counts.

use std::time::{Duration, Instant};

use crate::process::{cpu, machine_busy};
use crate::servers::Servers;

/// CPU used since the watch began.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Costs {
    pub(crate) elapsed: Duration,
    /// The relay or `pg_recvlogical`, its start included.
    pub(crate) client: Duration,
    pub(crate) walsender: Duration,
    pub(crate) broker: Duration,
    /// Whatever else kept the machine busy, the bench itself left out. The kernel samples this figure: a lower bound.
    pub(crate) foreign: Duration,
}

impl Costs {
    /// What was used after an earlier look.
    pub(crate) fn since(self, earlier: Costs) -> Costs {
        Costs {
            elapsed: self.elapsed.saturating_sub(earlier.elapsed),
            client: self.client.saturating_sub(earlier.client),
            walsender: self.walsender.saturating_sub(earlier.walsender),
            broker: self.broker.saturating_sub(earlier.broker),
            foreign: self.foreign.saturating_sub(earlier.foreign),
        }
    }

    /// A part as cores: CPU over elapsed time.
    pub(crate) fn cores(self, part: Duration) -> f64 {
        part.as_secs_f64() / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

/// Looks at the CPU of a client, of the walsender behind its slot and of the broker.
pub(crate) struct Watch<'a> {
    servers: &'a Servers,
    client: u32,
    slot: String,
    walsender: Option<u32>,
    started: Instant,
    broker_before: Duration,
    /// Busy time of the machine less what we know the reason of, at the beginning.
    foreign_before: Duration,
    last: Costs,
}

impl<'a> Watch<'a> {
    /// Begins to watch a client that has just been started.
    pub(crate) fn start(servers: &'a Servers, client: u32, slot: &str, started: Instant) -> Watch<'a> {
        let broker_before = servers.broker_cpu().unwrap_or_default();
        let foreign_before = machine_busy().saturating_sub(broker_before + own());
        let (slot, last) = (slot.to_owned(), Costs::default());
        Watch { servers, client, slot, walsender: None, started, broker_before, foreign_before, last }
    }

    /// What has been used up to now.
    pub(crate) fn look(&mut self) -> Costs {
        self.walsender = self.walsender.or_else(|| self.servers.walsender(&self.slot));
        let last = self.last;
        let client = cpu(self.client).unwrap_or(last.client);
        let walsender = self.walsender.and_then(cpu).unwrap_or(last.walsender);
        let broker_total = self.servers.broker_cpu().unwrap_or(self.broker_before + last.broker);
        let known = broker_total + own() + client + walsender;
        self.last = Costs {
            elapsed: self.started.elapsed(),
            client,
            walsender,
            broker: broker_total.saturating_sub(self.broker_before),
            foreign: machine_busy().saturating_sub(known).saturating_sub(self.foreign_before),
        };
        self.last
    }
}

/// CPU of the bench itself.
fn own() -> Duration {
    cpu(std::process::id()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_never_goes_below_zero() {
        let seconds = Duration::from_secs;
        let early = Costs { elapsed: seconds(1), client: seconds(1), broker: seconds(5), ..Costs::default() };
        let late = Costs { elapsed: seconds(5), client: seconds(3), broker: seconds(4), ..Costs::default() };
        let used = late.since(early);
        assert_eq!((used.client, used.broker), (seconds(2), Duration::ZERO));
        assert!((used.cores(used.client) - 0.5).abs() < 1e-9);
    }
}
