//! Tables of partitions and what they call for.

use std::time::Duration;

use super::super::horizon::FullXid;
use super::*;

const DAY: i64 = DAY_SECONDS;
/// 2026-11-26 00:00 UTC.
const TODAY: i64 = 20_783 * DAY;

fn table() -> TableName {
    TableName { schema: "public".into(), name: "outbox".into() }
}

fn wanted(ahead: u32) -> Partitions {
    Partitions { ahead, ..Partitions::default() }
}

fn watch(now: i64, confirmed: Option<u64>) -> Watch {
    Watch {
        confirmed: confirmed.map(Lsn),
        now: Moment(now),
        relay_now: Moment(now),
        oldest_transaction: None,
        xmin: FullXid(1),
        wal_insert: Lsn(100),
    }
}

fn partition(oid: u32, lower: i64, upper: i64, stage: Stage) -> Partition {
    let table = TableName { schema: "public".into(), name: format!("p{oid}") };
    Partition { oid, table, lower: Some(Moment(lower)), upper: Some(Moment(upper)), stage }
}

fn ranges(steps: &[Step]) -> Vec<(i64, i64)> {
    let range = |step: &Step| match step {
        Step::Create { from, to, .. } => (from.0 - TODAY, to.0 - TODAY),
        other => panic!("{other:?}"),
    };
    steps.iter().map(range).collect()
}

fn open(lower: i64, upper: i64) -> Partition {
    partition(1, TODAY + lower, TODAY + upper, Stage::Open)
}

#[test]
fn partitions_are_made_ahead_and_around_what_is_there() {
    let noon = watch(TODAY + DAY / 2, None);
    for (there, expected) in [
        (vec![], vec![(0, DAY), (DAY, 2 * DAY)]),
        (vec![open(0, DAY)], vec![(DAY, 2 * DAY)]),
        (vec![open(0, 30 * DAY)], vec![]),
        (vec![open(-DAY, DAY + 5)], vec![(DAY + 5, 2 * DAY)]),
        (vec![open(DAY - 5, 3 * DAY)], vec![(0, DAY - 5)]),
        (vec![open(-5, 7), open(9, DAY)], vec![(7, 9), (DAY, 2 * DAY)]),
        (vec![partition(1, TODAY, TODAY + DAY, Stage::Sealed)], vec![(DAY, 2 * DAY)]),
        (vec![partition(1, TODAY, TODAY + DAY, Stage::Detached)], vec![(0, DAY), (DAY, 2 * DAY)]),
    ] {
        assert_eq!(ranges(&missing(&table(), &wanted(1), &there, &noon)), expected, "{there:?}");
    }
}

#[test]
fn open_ended_partitions_cover_everything_on_their_side() {
    let rest = Partition { upper: None, ..open(DAY, 0) };
    let noon = watch(TODAY + DAY / 2, None);
    assert_eq!(ranges(&missing(&table(), &wanted(3), &[rest], &noon)), [(0, DAY)]);
}

#[test]
fn what_is_covered_ends_at_the_first_gap() {
    let sealed = partition(1, TODAY + DAY, TODAY + 2 * DAY, Stage::Sealed);
    for (there, expected) in [
        (vec![], None),
        (vec![open(DAY, 2 * DAY)], None),
        (vec![open(-DAY, 0)], None),
        (vec![open(0, DAY)], Some(DAY)),
        (vec![open(DAY, 2 * DAY), open(0, DAY)], Some(2 * DAY)),
        (vec![open(0, DAY), open(DAY + 1, 2 * DAY)], Some(DAY)),
        (vec![open(0, DAY), sealed], Some(DAY)),
    ] {
        let covered = covered_until(&there, Moment(TODAY + 60));
        assert_eq!(covered, expected.map(|at| Moment(TODAY + at)), "{there:?}");
    }
}

#[test]
fn a_partition_goes_step_by_step_and_never_before_its_fence() {
    let upper = TODAY;
    let late = TODAY + 3600;
    let of = |stage| partition(7, TODAY - DAY, upper, stage);
    let name = of(Stage::Open).table;
    for (stage, now, confirmed, fenced, expected) in [
        (Stage::Open, late - 1, Some(999), false, None),
        (Stage::Open, late, None, false, Some(Step::Seal(name.clone()))),
        (Stage::Sealed, late, Some(999), false, None),
        (Stage::Sealed, late, None, true, None),
        (Stage::Sealed, late, Some(99), true, None),
        (Stage::Sealed, late, Some(100), true, Some(Step::Detach(name.clone()))),
        (Stage::Sealed, upper - 1, Some(100), true, Some(Step::Unseal(name.clone()))),
        (Stage::Detaching, late, Some(99), true, None),
        (Stage::Detaching, late, Some(100), true, Some(Step::Finalize(name.clone()))),
        (Stage::Detached, late, Some(99), true, None),
        (Stage::Detached, late, Some(100), true, Some(Step::Drop(name.clone()))),
    ] {
        let mut fences = Fences::new();
        if fenced {
            fence(&mut fences, &[of(stage)], &watch(now, None));
        }
        let steps = ageing(&wanted(0), &[of(stage)], &fences, &watch(now, confirmed));
        assert_eq!(steps, expected.clone().into_iter().collect::<Vec<_>>(), "{stage:?} {now} {confirmed:?}");
    }
}

#[test]
fn clocks_and_open_transactions_must_agree_that_a_partition_is_over() {
    let yesterday = [partition(1, TODAY - DAY, TODAY, Stage::Open)];
    let noon = TODAY + DAY / 2;
    for (now, relay_now, oldest, over) in [
        (noon, noon, None, true),
        (noon, TODAY, None, false),
        (TODAY, noon, None, false),
        (noon, noon, Some(TODAY), true),
        (noon, noon, Some(TODAY - 1), false),
    ] {
        let watch = Watch {
            now: Moment(now),
            relay_now: Moment(relay_now),
            oldest_transaction: oldest.map(Moment),
            ..watch(0, None)
        };
        let steps = ageing(&wanted(0), &yesterday, &Fences::new(), &watch);
        assert_eq!(!steps.is_empty(), over, "{watch:?}");
    }
}

#[test]
fn partitions_without_an_upper_bound_stay() {
    let endless = Partition { upper: None, ..partition(1, 0, 0, Stage::Open) };
    let later = watch(TODAY + 1_000 * DAY, Some(u64::MAX));
    assert_eq!(ageing(&wanted(0), &[endless], &Fences::new(), &later), []);
}

#[test]
fn a_fence_stays_where_it_was_first_seen_and_goes_with_its_partition() {
    let mut fences = Fences::new();
    let sealed = [partition(1, 0, 1, Stage::Sealed)];
    fence(&mut fences, &sealed, &watch(0, None));
    fence(&mut fences, &sealed, &Watch { wal_insert: Lsn(500), ..watch(0, None) });
    assert_eq!(fences.get(&1), Some(&Lsn(100)));
    fence(&mut fences, &[partition(1, 0, 1, Stage::Open)], &watch(0, None));
    assert!(fences.is_empty(), "unsealed: rows may come again");
}

#[test]
fn names_tell_the_day_and_the_time_where_it_matters() {
    for (from, interval, expected) in [
        (TODAY, DAY, "outbox_p20261126"),
        (TODAY + 3600, 3600, "outbox_p20261126t010000"),
        (TODAY, 3600, "outbox_p20261126t000000"),
        (951_782_400, DAY, "outbox_p20000229"),
        (1_709_164_800, DAY, "outbox_p20240229"),
        (1_735_603_200, DAY, "outbox_p20241231"),
        (0, DAY, "outbox_p19700101"),
    ] {
        assert_eq!(name(&table(), Moment(from), interval).name, expected);
    }
    let long = TableName { schema: "s".into(), name: "é".repeat(31) };
    let name = name(&long, Moment(TODAY), DAY).name;
    assert!(name.len() <= NAME_BYTES_MAX && name.ends_with("_p20261126"), "{name}");
    assert_eq!(wanted(0).interval, Duration::from_secs(86_400));
}
