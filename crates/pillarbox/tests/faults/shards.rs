//! A table that two pipelines share, each with its keys.
//!
//! Must never judge by what relays say where Kafka can be asked.

use std::collections::BTreeMap;
use std::fs;

use pillarbox_wire::header::{PB_POS, PbPos};
use rdkafka::message::Message;

use crate::harness::records::{Isolation, header, read};
use crate::harness::relay::Relay;
use crate::harness::site::Site;
use crate::world::{PATIENCE, site};

const KEYS: usize = 40;
const ROWS: usize = 2_000;

/// What was published: the numbers of each key in order. Sequences are dense for each pipeline and partition.
fn published(site: &Site) -> BTreeMap<String, Vec<usize>> {
    let mut keys: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut sequences: BTreeMap<(String, i32), u64> = BTreeMap::new();
    let mut pipelines: BTreeMap<String, String> = BTreeMap::new();
    read(&site.kafka.bootstrap(), "outbox.event.shared", Isolation::Committed, |message| {
        let key = message.key().map(|key| String::from_utf8_lossy(key).into_owned()).unwrap_or_default();
        let id = header(message, "id").expect("an id");
        keys.entry(key.clone()).or_default().push(id[24..].parse().expect("a number"));
        let place = header(message, PB_POS).expect("pb-pos");
        let place = PbPos::parse(&place).expect("a position");
        let pipeline = place.pipeline.to_string();
        let before = sequences.insert((pipeline.clone(), message.partition()), place.sequence.0);
        assert_eq!(place.sequence.0, before.unwrap_or(0) + 1, "{pipeline}/{}", message.partition());
        let owner = pipelines.entry(key.clone()).or_insert_with(|| pipeline.clone());
        assert_eq!(*owner, pipeline, "key {key} came by two pipelines");
    });
    let mut owners: Vec<&String> = pipelines.values().collect();
    owners.sort();
    owners.dedup();
    assert_eq!(owners.len(), 2, "one pipeline relayed everything");
    keys
}

/// fault: 28 a table is shared by two pipelines with a shard each, one of them is killed again and again; then its
/// publication loses the filter
/// holds: each row once, those of a key in commit order, rows without a key, too; none is published by both, nor is any
/// that was written while the publication had no filter
/// told: PB-1011 at the first row of the other shard; the statement; with `on_other_shard: skip` it goes on
#[test]
fn two_pipelines_share_a_table_by_key() {
    let site = site();
    let outbox = |shard| format!("{{ table: public.shared_outbox, shard: {shard} }}");
    let halves: Vec<_> = [("half_one", "1/2"), ("half_two", "2/2")]
        .map(|(pipeline, shard)| site.configure_outbox(pipeline, 3, &[], &outbox(shard)))
        .into();
    halves.iter().for_each(|half| site.setup(half));
    let sql = |text: &str| {
        site.postgres.execute("postgres", text).unwrap_or_else(|error| panic!("{text}: {error}"))
    };
    sql("ALTER TABLE public.shared_outbox ALTER COLUMN aggregateid DROP NOT NULL");
    let mut relays: Vec<_> = halves.iter().map(|half| site.relay(half)).collect();
    for relay in &mut relays {
        relay.wait_state("streaming", PATIENCE);
    }
    let rows = |first: usize, last: usize| {
        sql(&format!(
            "INSERT INTO public.shared_outbox SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'shared', \
             nullif('key-' || n % {KEYS}, 'key-0'), 'made', to_json(n) FROM generate_series({first}, {last}) n"
        ));
    };
    let step = ROWS / 4;
    for first in (1..=ROWS).step_by(step) {
        rows(first, first + step - 1);
        relays[1].kill9();
        relays[1].start_again();
        relays[1].wait_state("streaming", PATIENCE);
    }
    for half in &halves {
        site.caught_up(half, PATIENCE);
    }
    each_once(&site, ROWS);

    sql("ALTER PUBLICATION pillarbox_half_two SET TABLE public.shared_outbox");
    rows(ROWS + 1, 2 * ROWS);
    relays[1].wait_state("halted", PATIENCE);
    rows(2 * ROWS + 1, 3 * ROWS);
    halted_by(&relays[1], "shards");
    // Looked at anew, the publication is at fault first; then the rows that were decoded with it.
    let start_again = |relay: &mut Relay| {
        assert_eq!(relay.terminate(PATIENCE).code(), Some(0));
        relay.start_again();
    };
    start_again(&mut relays[1]);
    relays[1].wait_state("halted", PATIENCE);
    let hint = halted_by(&relays[1], "DROP TABLE");
    let (statement, _) = hint.split_once("--").expect("a remark");
    sql(statement);
    start_again(&mut relays[1]);
    relays[1].wait_state("halted", PATIENCE);
    halted_by(&relays[1], "on_other_shard");
    let file = &halves[1].file;
    let text = fs::read_to_string(file).expect("the configuration");
    fs::write(file, text.replace("shard: 2/2", "shard: 2/2, on_other_shard: skip")).expect("written");
    start_again(&mut relays[1]);
    relays[1].wait_state("streaming", PATIENCE);
    rows(3 * ROWS + 1, 4 * ROWS);
    for half in &halves {
        site.caught_up(half, PATIENCE);
    }
    each_once(&site, 4 * ROWS);
    assert!(relays[1].log_count("rows of other shards") > 0, "nobody was told of them");
    let checked = site.command(&["check", "-v"], &halves[1]);
    assert!(
        checked.stdout.contains("publishes the inserts of shard 2/2 of public.shared_outbox"),
        "{}",
        checked.stdout
    );
}

/// fault: 28 a table is to be shared by key through a publication that publishes deletes, too
/// holds: rows can be deleted all the time: with such a filter Postgres would refuse it
/// told: PB-1011 by `setup`, with the statement; with it `setup` goes on
#[test]
fn a_publication_of_deletes_gets_no_shard() {
    let site = site();
    let outbox = "{ table: public.kept_outbox, shard: 1/2 }";
    let half = site.configure_outbox("kept_half", 1, &[], outbox);
    let sql = |text: &str| {
        site.postgres.execute("postgres", text).unwrap_or_else(|error| panic!("{text}: {error}"))
    };
    sql("CREATE PUBLICATION pillarbox_kept_half");
    let refused = site.command(&["setup"], &half);
    assert_eq!(refused.code, Some(65), "{}{}", refused.stdout, refused.stderr);
    assert!(refused.stderr.contains("PB-1011"), "{}", refused.stderr);
    let at = refused.stderr.find("ALTER PUBLICATION").expect("the statement");
    sql(refused.stderr[at..].lines().next().expect("a line"));
    site.setup(&half);
    sql("INSERT INTO public.kept_outbox VALUES (gen_random_uuid(), 'kept', 'k', 'made', '{}')");
    sql("UPDATE public.kept_outbox SET type = 'kept'; DELETE FROM public.kept_outbox");
}

/// The relay has halted with a hint that holds this; gives the hint.
fn halted_by(relay: &Relay, words: &str) -> String {
    let fault = relay.status().expect("a status")["fault"].clone();
    assert_eq!(fault["code"], "PB-1011", "{fault}");
    let hint = fault["hint"].as_str().expect("a hint");
    assert!(hint.contains(words), "{fault}");
    hint.to_owned()
}

/// Rows 1 to `rows` were published, each once, those of a key in order.
fn each_once(site: &Site, rows: usize) {
    let found = published(site);
    assert_eq!(found.len(), KEYS);
    for n in 0..KEYS {
        let key = if n == 0 { String::new() } else { format!("key-{n}") };
        // The first of key 0 is 40.
        let wanted: Vec<usize> = (1..=rows).filter(|row| row % KEYS == n).collect();
        let found = &found[&key];
        assert!(*found == wanted || n == 0 && sorted(found) == wanted, "{key}: {found:?}");
    }
}

/// Records without a key are spread over partitions: only each partition has an order.
fn sorted(numbers: &[usize]) -> Vec<usize> {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    numbers
}
