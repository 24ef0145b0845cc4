//! Compressed batches end to end: the relay writes with every codec, and two other implementations read it back, the
//! Java client (console consumer) and librdkafka. What lies in the broker's log says which codec it was, and that no
//! batch is larger than its topic allows.
//!
//! Must never pass because a codec was not used: the codec of every stored batch is looked at.

#[expect(dead_code, reason = "not every test needs all of the harness")]
mod harness;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::records::{Isolation, read};
use harness::site::{Configuration, Site};
use pillarbox_lab::{Kafka, KafkaOptions, PostgresOptions};
use rdkafka::message::Message;

/// How long any step may take on a busy machine.
const STEP_MAX: Duration = Duration::from_secs(120);
/// Rows of one transaction: many batches of the size below.
const ROWS: usize = 3_000;
/// The topics' `max.message.bytes`.
const BATCH_BYTES_MAX: usize = 32_768;
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

#[test]
fn every_codec_is_read_by_java_and_by_librdkafka() {
    let mut site = Site::start(PostgresOptions::default(), KafkaOptions::default());
    let limit = BATCH_BYTES_MAX.to_string();
    for codec in CODECS {
        site.kafka
            .create_topic(&topic(codec), 1, &[("max.message.bytes", &limit)])
            .expect("the topic is created");
        relay_rows(&site, codec);
    }
    let mut expected = Vec::new();
    for codec in CODECS {
        let mut values = Vec::new();
        read(&site.kafka.bootstrap(), &topic(codec), Isolation::Committed, |message| {
            values.push(String::from_utf8(message.payload().expect("a payload").to_vec()).expect("text"));
        });
        assert_eq!(values, (1..=ROWS).map(|n| payload(codec, n)).collect::<Vec<_>>(), "{codec}: librdkafka");
        look_into_the_log(&site.kafka, codec);
        expected.extend(values);
    }
    let mut java = java_reads(&site.kafka, expected.len());
    java.sort();
    expected.sort();
    assert_eq!(java.len(), expected.len(), "records that Java reads");
    assert!(java == expected, "Java reads other values");
}

fn topic(codec: &str) -> String {
    format!("outbox.event.{codec}")
}

/// As Postgres writes jsonb.
fn payload(codec: &str, n: usize) -> String {
    format!("{{\"n\": {n}, \"codec\": \"{codec}\", \"state\": \"paid and shipped\"}}")
}

/// A pipeline with this codec relays one transaction.
fn relay_rows(site: &Site, codec: &str) {
    let table = format!("public.outbox_{codec}");
    let configuration = site.configure(codec, 1, &[&format!("compression: {codec}")]);
    replace(&configuration, "public.outbox", &table);
    site.setup(&configuration);
    let mut relay = site.relay(&configuration);
    relay.wait_state("streaming", STEP_MAX);
    let rows = format!(
        "INSERT INTO {table} (id, aggregatetype, aggregateid, type, payload) SELECT gen_random_uuid(), '{codec}', \
         'key', 'made', jsonb_build_object('n', n, 'codec', '{codec}', 'state', 'paid and shipped') \
         FROM generate_series(1, {ROWS}) n"
    );
    site.postgres.execute("postgres", &rows).expect("one transaction");
    site.caught_up(&configuration, STEP_MAX);
    assert_eq!(relay.terminate(STEP_MAX).code(), Some(0));
}

fn replace(configuration: &Configuration, from: &str, to: &str) {
    let text = fs::read_to_string(&configuration.file).expect("the file");
    assert!(text.contains(from), "{from:?} is not in {text}");
    fs::write(&configuration.file, text.replace(from, to)).expect("the file is written");
}

/// Every stored batch has the codec and keeps the limit; compressed ones are a fraction of the plain ones.
fn look_into_the_log(kafka: &Kafka, codec: &str) {
    let log = kafka.log_dir(1).expect("the broker's folder").join(format!("{}-0", topic(codec)));
    let dump = dump(kafka, &log.join("00000000000000000000.log"));
    let number = |line: &str, name: &str| -> usize {
        let (_, rest) = line.split_once(name).unwrap_or_else(|| panic!("{name} is not in {line}"));
        rest.split(' ').next().and_then(|digits| digits.parse().ok()).expect("a number")
    };
    let batches: Vec<&str> = dump.lines().filter(|line| line.contains("isControl: false")).collect();
    let sizes: Vec<usize> = batches.iter().map(|line| number(line, " size: ")).collect();
    let records: usize = batches.iter().map(|line| number(line, " count: ")).sum();
    assert_eq!(records, ROWS, "{codec}:\n{dump}");
    assert!(sizes.len() > 5, "{codec}: the limit has split nothing");
    assert!(sizes.iter().all(|size| *size <= BATCH_BYTES_MAX), "{codec}: {sizes:?}");
    let used = format!("compresscodec: {codec} ");
    assert!(batches.iter().all(|line| line.contains(&used)), "{codec}:\n{dump}");
    println!("{codec}: {} bytes in {} batches", sizes.iter().sum::<usize>(), sizes.len());
}

fn dump(kafka: &Kafka, segment: &Path) -> String {
    let mut java = java(kafka, "org.apache.kafka.tools.DumpLogSegments");
    java.arg("--files").arg(segment);
    said(&mut java)
}

fn java_reads(kafka: &Kafka, count: usize) -> Vec<String> {
    let mut java = java(kafka, "org.apache.kafka.tools.consumer.ConsoleConsumer");
    java.args([
        "--bootstrap-server",
        &kafka.bootstrap(),
        "--include",
        r"outbox\.event\..*",
        "--from-beginning",
    ]);
    java.args(["--isolation-level", "read_committed", "--timeout-ms", "60000"]);
    java.args(["--max-messages", &count.to_string()]);
    said(&mut java).lines().map(str::to_owned).collect()
}

fn java(kafka: &Kafka, class: &str) -> Command {
    let mut command = Command::new("java");
    command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", kafka.classpath(), class]);
    command
}

fn said(command: &mut Command) -> String {
    let output = command.output().expect("java runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{error}");
    String::from_utf8(output.stdout).expect("text")
}
