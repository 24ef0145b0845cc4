//! Which records of a fetch a consumer may see: aborted transactions and control batches drop out, the position
//! moves over them.
//!
//! A producer's records are aborted from the first offset the broker lists for it up to its next abort marker
//! (Kafka protocol, Fetch v4). Pure.

use std::collections::HashSet;

use bytes::Bytes;

use super::Record;
use super::batch::{Batch, Marker};

/// Base offset of the bad batch and what is wrong with it.
pub(crate) type Corrupt = (i64, &'static str);

/// What a fetch showed.
pub(crate) struct Seen {
    pub(crate) records: Vec<Record>,
    pub(crate) next_offset: i64,
}

/// Walks the batches of a fetch that began at `position`; `aborted` holds (producer id, first offset).
pub(crate) fn records(
    mut bytes: Bytes,
    position: i64,
    mut aborted: Vec<(i64, i64)>,
) -> Result<Seen, Corrupt> {
    aborted.sort_unstable_by_key(|(_, first_offset)| std::cmp::Reverse(*first_offset));
    let mut aborting: HashSet<i64> = HashSet::new();
    let mut seen = Seen { records: Vec::new(), next_offset: position };
    while let Some(batch) = Batch::split_from(&mut bytes)? {
        while let Some((producer, _)) = aborted.pop_if(|(_, first_offset)| *first_offset <= batch.last_offset)
        {
            aborting.insert(producer);
        }
        if batch.control {
            if batch.marker()? == Some(Marker::Abort) {
                aborting.remove(&batch.producer_id);
            }
        } else if !(batch.transactional && aborting.contains(&batch.producer_id)) {
            batch.records(position, &mut seen.records)?;
        }
        seen.next_offset = seen.next_offset.max(batch.last_offset + 1);
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::batch::tests::{control, data};

    fn offsets(parts: &[Bytes], position: i64, aborted: Vec<(i64, i64)>) -> (Vec<i64>, i64) {
        let seen = records(parts.concat().into(), position, aborted).unwrap();
        (seen.records.iter().map(|record| record.offset).collect(), seen.next_offset)
    }

    #[test]
    fn aborted_records_and_markers_move_the_position_only() {
        let log = [data(0, 2, 7, true), control(2, 7, false), data(3, 1, 7, true), control(4, 7, true)];
        assert_eq!(offsets(&log, 0, vec![(7, 0)]), (vec![3], 5));
    }

    #[test]
    fn an_abort_hides_only_its_own_producer_and_only_from_its_first_offset() {
        let log = [
            data(0, 1, 7, true),
            control(1, 7, true),
            data(2, 1, 7, true),
            data(3, 1, 8, true),
            control(4, 8, true),
            control(5, 7, false),
        ];
        assert_eq!(offsets(&log, 0, vec![(7, 2)]), (vec![0, 3], 6));
    }

    #[test]
    fn plain_records_of_an_aborting_producer_stay() {
        let log = [data(0, 1, 7, true), data(1, 1, 7, false), control(2, 7, false)];
        assert_eq!(offsets(&log, 0, vec![(7, 0)]), (vec![1], 3));
    }

    #[test]
    fn records_before_the_position_and_a_cut_batch_are_left_out() {
        let cut = data(3, 1, 7, false);
        let log = [data(0, 3, 7, false), cut.slice(..cut.len() - 1)];
        assert_eq!(offsets(&log, 1, Vec::new()), (vec![1, 2], 3));
    }

    #[test]
    fn nothing_leaves_the_position() {
        assert_eq!(offsets(&[], 42, Vec::new()), (vec![], 42));
    }
}
