//! Many topics and partitions.

use crate::arrived::count;
use crate::figures::size;
use crate::world::{PATIENCE, World, arrival_max};

/// What the relay may hold resident with as many partitions as here.
const RSS_MAX_KIB: u64 = 128 << 10;

/// How long the takeover takes is up to the broker: the standby waits for the markers of a transaction that is the first in
/// each partition (docs/errors/PB-2022.md), so no bound is held to.
///
/// fault: 25 5,000 partitions
/// holds: events spread over all of them arrive once and in order, another relay takes over all of them
/// told: nothing
#[test]
fn thousands_of_partitions_are_written_and_taken_over() {
    let (topics, partitions) = size((10, 50), (50, 100));
    let events: u64 = size(20_000, 400_000);
    let half = events / 2;
    let mut world = World::start(partitions, &[]);
    let names: Vec<String> = (0..topics).map(|n| format!("outbox.event.t{n}")).collect();
    let insert = |first, last| {
        format!(
            "INSERT INTO public.limits SELECT lpad(to_hex(n), 32, '0')::uuid, 't' || n % {topics}, 'k' || n, 'made', \
             repeat('x', 200) FROM generate_series({first}, {last}) n"
        )
    };
    world.execute(&insert(1, half));
    let took = world.site.caught_up(&world.at, arrival_max());
    let another = world.site.configure_outbox("limits", partitions, &[], "{ table: public.limits }");
    let mut heir = world.site.relay(&another);
    heir.wait_state("standing_by", PATIENCE);
    let first_kib = world.relay.rss_max_kib();
    world.relay.kill9();
    let streams = heir.wait_state("streaming", PATIENCE);
    std::mem::swap(&mut world.relay, &mut heir);
    world.execute(&insert(half + 1, events));
    world.site.caught_up(&world.at, arrival_max());
    let what = format!("{topics} topics of {partitions} partitions, made by the relay, {events} events");
    let (mut figures, site) = world.figures("partitions", what, events, took);
    let used = count(&site, &names, events);
    assert_eq!(used, topics * partitions as usize, "some partitions hold nothing");
    figures.rss_kib = figures.rss_kib.max(first_kib);
    figures.note = format!("a standby streams {streams:.1?} after a kill -9");
    figures.tell();
    assert!(figures.rss_kib < RSS_MAX_KIB, "{} KiB", figures.rss_kib);
}
