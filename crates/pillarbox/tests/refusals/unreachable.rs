//! Servers that nobody answers for: `run` tries for 30 s, then says which.

use std::time::{Duration, Instant};

use pillarbox_lab::{KafkaOptions, PostgresOptions};

use crate::harness::site::{Configuration, Site};
use crate::said::{edited, pillarbox, run};

/// The start deadline, less what a connection attempt may already have taken.
const TRIES_FOR: Duration = Duration::from_secs(29);

/// Runs until it gives up.
fn gives_up(configuration: &Configuration, code: u16, words: &[&str]) {
    let started = Instant::now();
    run(&configuration.file).expect(69, code, words);
    let took = started.elapsed();
    println!("PB-{code} {words:?}: gave up after {took:.1?}");
    assert!(took >= TRIES_FOR, "it gave up after {took:?}");
}

#[test]
fn servers_that_do_not_answer_are_tried_for_30_seconds_and_named() {
    let site = Site::start(PostgresOptions::default(), KafkaOptions::default());
    let configuration = |pipeline| site.configure(pipeline, 1, &[]);
    let postgres = format!("127.0.0.1:{}/", site.postgres.port());
    // Nobody listens; no route or no answer; no such name.
    let [closed, silent, unknown] =
        [("a", "127.0.0.1:1/"), ("b", "192.0.2.1:5432/"), ("c", "nowhere.invalid:5432/")]
            .map(|(pipeline, address)| edited(&configuration(pipeline), &postgres, address));
    let of_kafka = configuration("d");
    site.setup(&of_kafka);
    let of_kafka = edited(&of_kafka, &site.kafka.bootstrap(), "127.0.0.1:1");
    std::thread::scope(|scope| {
        scope.spawn(|| gives_up(&closed, 1001, &["127.0.0.1:1"]));
        scope.spawn(|| gives_up(&silent, 1001, &["192.0.2.1:5432"]));
        scope.spawn(|| gives_up(&unknown, 1001, &["nowhere.invalid"]));
        scope.spawn(|| gives_up(&of_kafka, 2001, &["127.0.0.1:1", "kafka.brokers"]));
    });
    // One-shot commands do not try again.
    for words in [&["setup"][..], &["check"]] {
        pillarbox(words, &closed.file).expect(69, 1001, &["127.0.0.1:1"]);
        pillarbox(words, &of_kafka.file).expect(69, 2001, &["127.0.0.1:1", "kafka.brokers"]);
    }
}
