//! Which rows may be deleted: those of transactions older than a confirmed horizon. Pure.

use pillarbox_wire::lsn::Lsn;

use super::look::Watch;

/// A transaction id with its epoch, as a snapshot has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FullXid(pub u64);

impl FullXid {
    /// As rows have it: without the epoch.
    pub(super) fn of_rows(self) -> String {
        (self.0 & u64::from(u32::MAX)).to_string()
    }
}

/// What a session knows of the transactions that have ended. Belongs to one session: after a
/// failover the same ids are other transactions.
#[derive(Debug, Default)]
pub(super) struct Horizon {
    /// Everything older has ended before this end of WAL.
    pending: Option<(FullXid, Lsn)>,
    /// Everything older was relayed.
    confirmed: Option<FullXid>,
}

impl Horizon {
    /// Takes a look into account. `watch.xmin` was read before `watch.wal_insert`. True when the
    /// horizon moved.
    pub(super) fn observe(&mut self, watch: &Watch) -> bool {
        let reached = self.pending.filter(|(_, fence)| watch.confirmed.is_some_and(|lsn| lsn >= *fence));
        let moved = reached.is_some_and(|(xmin, _)| self.confirmed != Some(xmin));
        if let Some((xmin, _)) = reached {
            self.confirmed = Some(xmin);
            self.pending = None;
        }
        // A pending one is not replaced: under load its fence would run away from the relay.
        self.pending.get_or_insert((watch.xmin, watch.wal_insert));
        moved
    }

    /// Rows of older transactions may go.
    pub(super) fn confirmed(&self) -> Option<FullXid> {
        self.confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::super::partitions::Moment;
    use super::*;

    fn watch(xmin: u64, wal_insert: u64, confirmed: Option<u64>) -> Watch {
        Watch {
            confirmed: confirmed.map(Lsn),
            now: Moment(0),
            relay_now: Moment(0),
            oldest_transaction: None,
            xmin: FullXid(xmin),
            wal_insert: Lsn(wal_insert),
        }
    }

    #[test]
    fn rows_go_only_when_the_fence_is_reached() {
        let mut horizon = Horizon::default();
        for (look, moved, expected) in [
            (watch(10, 100, Some(99)), false, None),
            (watch(20, 200, Some(99)), false, None),
            (watch(20, 200, None), false, None),
            (watch(20, 210, Some(100)), true, Some(10)),
            (watch(30, 300, Some(209)), false, Some(10)),
            (watch(20, 300, Some(210)), true, Some(20)),
            (watch(20, 400, Some(300)), false, Some(20)),
        ] {
            assert_eq!(horizon.observe(&look), moved, "{look:?}");
            assert_eq!(horizon.confirmed(), expected.map(FullXid), "{look:?}");
        }
    }

    #[test]
    fn rows_do_not_have_the_epoch() {
        assert_eq!(FullXid((7 << 32) + 5).of_rows(), "5");
    }
}
