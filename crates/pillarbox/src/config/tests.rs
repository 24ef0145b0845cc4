//! What users read when a file is wrong: every message with its place, several at once, no secret.

mod security;

use std::path::PathBuf;
use std::time::Duration;

use pillarbox_relay::config::{Batches, Housekeeping, Messages, OnError, Partitions, PlainPart, TlsMode};

use super::*;
use crate::report::problems_for_test;

const SMALLEST: &str = "pipeline: orders\n\
    postgres: { url: \"postgres://pillarbox@db/shop\" }\n\
    kafka: { brokers: [\"kafka-0:9092\"] }\n\
    outbox: { table: public.outbox }\n";

fn with_env(source: &str, env: &[(&str, &str)]) -> Result<Loaded, Problems> {
    let lookup =
        |name: &str| env.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned());
    interpret("p.yaml", source.to_owned(), Outside { env: &lookup, base: PathBuf::new() })
}

fn ok(source: &str) -> Loaded {
    with_env(source, &[]).unwrap_or_else(|problems| panic!("{}", problems_for_test(&problems)))
}

fn refused(source: &str) -> String {
    problems_for_test(&with_env(source, &[]).expect_err("refused"))
}

#[test]
fn the_smallest_file() {
    let loaded = ok(SMALLEST);
    let config = &loaded.config;
    assert_eq!(config.pipeline.as_str(), "orders");
    assert_eq!(config.postgres.host, "db");
    assert_eq!(config.postgres.port, 5432);
    assert_eq!(config.postgres.user, "pillarbox");
    assert_eq!(config.postgres.database, "shop");
    assert_eq!(config.postgres.slot, "pillarbox_orders");
    assert_eq!(config.postgres.publication, "pillarbox_orders");
    assert_eq!(config.postgres.tls.mode, TlsMode::Prefer);
    assert_eq!(config.kafka.brokers, ["kafka-0:9092"]);
    assert_eq!(config.kafka.transaction, pillarbox_relay::config::Transaction::default());
    assert_eq!(config.outbox.len(), 1);
    assert_eq!(config.outbox[0].topic.to_string(), "outbox.event.{aggregatetype}");
    assert_eq!(loaded.listen, Some("127.0.0.1:8686".parse().unwrap()));
    assert_eq!(config.messages, None);
}

#[test]
fn messages_alone_need_no_table() {
    let source = SMALLEST.replace("outbox: { table: public.outbox }", "messages: { prefix: outbox }");
    let config = ok(&source).config;
    assert!(config.outbox.is_empty());
    let messages = config.messages.expect("messages");
    assert_eq!((messages.prefix.as_str(), &messages), ("outbox", &Messages::new("outbox")));
    assert_eq!(messages.outbox.topic.to_string(), "outbox.event.{aggregatetype}");
}

#[test]
fn plain_messages() {
    let source = format!(
        "{SMALLEST}messages:\n  prefix: shop\n  topic: shop.events\n  headers: [ {{ column: type, name: eventType }} ]\n  \
         plain: {{ aggregateid: {{ field: aggregate_id }}, type: {{ value: made }} }}\n"
    );
    let messages = ok(&source).config.messages.expect("messages");
    assert_eq!(messages.outbox.headers[0].name, "eventType");
    assert_eq!(messages.plain.aggregate_id, PlainPart::Field("aggregate_id".into()));
    assert_eq!(messages.plain.event_type, PlainPart::Value("made".into()));
    assert_eq!(messages.plain.aggregate_type, PlainPart::Field("aggregatetype".into()));
    for (messages, expected) in [
        ("messages: {}", "messages.prefix is missing"),
        ("messages: { prefix: pillarbox.lineage }", "expected a prefix that does not begin with pillarbox."),
        ("messages: { prefix: o, topic: \"t.{kind}\" }", "expected columns of id, aggregatetype"),
        ("messages: { prefix: o, headers: [ { column: kind } ] }", "expected columns of id, aggregatetype"),
        (
            "messages: { prefix: o, plain: { id: { field: a, value: b } } }",
            "expected field or value, one of them",
        ),
        ("messages: { prefix: o, plain: { key: { field: a } } }", "unknown option `key` in messages.plain"),
    ] {
        let text = refused(&format!("{SMALLEST}{messages}\n"));
        assert!(text.contains(expected), "{messages}: {text}");
    }
}

#[test]
fn a_full_file() {
    let source = r#"
pipeline: orders
postgres:
  url: postgresql://pillarbox@db:5433/shop?sslmode=prefer
  password: ${env:PW:-0755}
  tls: { mode: disable }
  slot: my_slot
  publication: My Publication
kafka:
  brokers: [kafka-0:9092, "[::1]:9092"]
  compression: zstd
  topics: { create: false, partitions: 12, replication_factor: -1 }
  transaction: { max_bytes: 8MiB, max_events: 50000, ids: 1, timeout: 1m }
outbox:
  - table: public.outbox
    columns: { id: event_id, key: k, payload: body }
    topic: "shop.{kind}"
    headers: [ { column: type, name: eventType }, { column: tenant } ]
    key_format: text
    on_error: dead_letter
  - table: '"My Shop".outbox'
http: { listen: off }
"#;
    let loaded = ok(source);
    let config = &loaded.config;
    assert_eq!(config.postgres.password.as_ref().unwrap().expose(), "0755");
    assert_eq!(config.postgres.publication, "My Publication");
    assert_eq!(config.kafka.brokers, ["kafka-0:9092", "[::1]:9092"]);
    assert_eq!(config.kafka.compression.name(), "zstd");
    assert!(!config.kafka.topics.create);
    assert_eq!(config.kafka.topics.partitions, 12);
    assert_eq!(config.kafka.transaction.bytes_max, 8 << 20);
    assert_eq!(config.kafka.transaction.timeout, Duration::from_secs(60));
    let outbox = &config.outbox[0];
    assert_eq!((outbox.id_column.as_str(), outbox.key_column.as_str()), ("event_id", "k"));
    assert_eq!(outbox.headers[1].name, "tenant");
    let on_error = [outbox.on_error, config.outbox[1].on_error];
    assert_eq!(on_error, [OnError::DeadLetter, OnError::Stop], "each table has its own; stop is the default");
    assert_eq!(config.outbox[1].table.to_string(), "My Shop.outbox");
    assert_eq!(loaded.listen, None);
}

#[test]
fn what_is_shown_reads_back_the_same() {
    let source = "pipeline: orders\npostgres: { url: \"postgres://u%40x:hunter2@[::1]/a%20b\" }\n\
        kafka: { brokers: [\"k:1\"], transaction: { ids: 2 } }\n\
        outbox: { table: '\"a.b\".c', headers: [ { column: type } ], envelope: [ { column: a, name: b } ],\n  \
          columns: { type: t, timestamp: at, schema_version: v }, partition: p, missing_columns: ignore,\n  \
          key_format: json, expand_json: true, json_nulls: keep, empty_payload: tombstone, on_update: stop, shard: 2/3, on_other_shard: skip,\n  \
          trace: tracingspancontext,\n  \
          topics_allowed: [ x, y ], topic: { by: a, regex: '(x)|y', replacement: $1-$0 } }\n";
    let loaded = ok(source);
    let yaml = serde_saphyr::to_string(&show::shown(&loaded)).unwrap();
    assert!(!yaml.contains("hunter2") && yaml.contains("***"), "{yaml}");
    let mut again = ok(&yaml);
    assert_eq!(again.config.postgres.password.take().unwrap().expose(), "***");
    let mut loaded = loaded;
    loaded.config.postgres.password = None;
    assert_eq!(format!("{again:?}"), format!("{loaded:?}"));
}

#[test]
fn topics_by_template_and_by_rule() {
    let topic = |options: &str| {
        let loaded = ok(&SMALLEST.replace("public.outbox", &format!("public.outbox, {options}")));
        let outbox = &loaded.config.outbox[0];
        let rule = outbox.pattern.as_ref().map(|p| (p.regex().to_owned(), p.replacement().to_owned()));
        (outbox.topic.to_string(), rule)
    };
    assert_eq!(topic("topic: \"{a}\", topics_allowed: [ a ]"), ("{a}".into(), None));
    for replacement in ["${routedByValue}-events", "${routedByValue}"] {
        let options = format!("topic: {{ by: aggregate_type, replacement: \"{replacement}\" }}");
        let rule = Some(("(?<routedByValue>.*)".into(), replacement.into()));
        assert_eq!(topic(&options), ("{aggregate_type}".into(), rule));
    }
}

#[test]
fn options_of_the_outbox_that_do_not_fit() {
    let many: String = (0..17).map(|n| format!("{{ column: c{n} }},")).collect();
    for (options, message) in [
        ("value_format: xml".to_owned(), "outbox.value_format: expected text or json, found `xml`"),
        (
            "value_format: text, envelope: [ { column: a } ]".to_owned(),
            "outbox.value_format: an envelope and an expanded payload are JSON",
        ),
        (
            "envelope: [ { column: a, name: payload } ]".to_owned(),
            "outbox.envelope: the envelope has two fields `payload`",
        ),
        ("envelope: [ { name: a } ]".to_owned(), "outbox.envelope[0].column is missing"),
        ("topic: \"{a}\"".to_owned(), "outbox.topic: the template needs a literal prefix or suffix"),
        (
            "topic: \"{a}{a}{a}{a}{a}{a}{a}{a}x\"".to_owned(),
            "outbox.topic: expected at most 8 pieces, it has 9",
        ),
        (
            "topic: { regex: \"a(?=b)\" }".to_owned(),
            "outbox.topic: `(?=` at character 2 of the regex is not supported",
        ),
        (
            "topic: { regex: a, replacement: $1 }".to_owned(),
            "outbox.topic: character 1 of the replacement: the regex has no group of this number",
        ),
        ("topic: { to: a }".to_owned(), "unknown option `to` in outbox.topic"),
        ("topics_allowed: [ a/b ]".to_owned(), "outbox.topics_allowed[0]: "),
        ("topics_allowed: a".to_owned(), "outbox.topics_allowed: expected a list of topics"),
        ("missing_columns: 1".to_owned(), "outbox.missing_columns: expected stop or ignore, found `1`"),
        (
            format!("headers: [ {many} ]"),
            "outbox.headers: at most 16 columns become headers, a trace counts as 3, found 17",
        ),
        ("json_nulls: keep".to_owned(), "outbox.json_nulls: nothing is expanded"),
        (
            "expand_json: true, value_format: text".to_owned(),
            "outbox.value_format: an envelope and an expanded payload are JSON",
        ),
        ("empty_payload: null".to_owned(), "outbox.empty_payload has no value"),
        (
            "shard: 1/2, housekeeping: { mode: delete }".to_owned(),
            "outbox.housekeeping: one pipeline does not know what the others of the table have relayed",
        ),
        ("shard: 3/2".to_owned(), "outbox.shard: expected NUMBER/COUNT, as 1/2, of at most 16, found `3/2`"),
        ("on_update: fatal".to_owned(), "outbox.on_update: expected warn or error or stop, found `fatal`"),
    ] {
        let text = refused(&SMALLEST.replace("public.outbox", &format!("public.outbox, {options}")));
        assert!(text.starts_with("error[PB-000") && text.contains(&format!("]: {message}")), "{text}");
    }
}

#[test]
fn an_unknown_option_and_its_suggestion() {
    let source = SMALLEST.replace("url:", "slott: a, url:");
    assert_eq!(
        refused(&source),
        "error[PB-0002]: unknown option `slott` in postgres\n  --> p.yaml:2:13\n    |\n  2 | postgres: \
         { slott: a, url: \"postgres://pillarbox@db/shop\" }\n    |             ^^^^^\n  hint: did you \
         mean `slot`?\n"
    );
    let text = refused(&format!("{SMALLEST}zebra: 1\n"));
    assert!(text.contains("unknown option `zebra`\n"), "{text}");
    assert!(
        text.contains("the options here are pipeline, postgres, kafka, outbox, messages, http"),
        "{text}"
    );
}

#[test]
fn several_problems_at_once_in_the_order_of_the_file() {
    let source = "pipeline: Orders\n\
        postgres: { url: \"postgres://pillarbox@db/shop?options=-c\", slot: A-B }\n\
        kafka:\n  brokers: [kafka-0]\n  transaction: { ids: 9, timeout: 30, max_bytes: 1GiB }\n  topics: 3\n\
        outbox: { table: a.b.c, topic: \"{type}\", headers: [ { column: a, name: pb-pos } ] }\n\
        http: { listen: localhost }\n";
    let text = refused(source);
    let expected = [
        "error[PB-0003]: pipeline: expected 1 to 40 of a-z 0-9 _, beginning with a letter, found `Orders`",
        "error[PB-0005]: postgres.url: URI parameter options is not supported by this version",
        "error[PB-0003]: postgres.slot: expected 1 to 63 of a-z 0-9 _, found `A-B`",
        "error[PB-0003]: kafka.brokers[0]: expected host:port, found `kafka-0`",
        "error[PB-0003]: kafka.transaction.ids: expected a whole number from 1 to 8, found `9`",
        "error[PB-0003]: kafka.transaction.timeout: expected a duration such as 30s, 500ms or 2m, found `30`",
        "error[PB-0003]: kafka.transaction.max_bytes: expected a size from 64KiB to 64MiB, found `1GiB`",
        "error[PB-0003]: kafka.topics must be a map of options, found a single value",
        "error[PB-0003]: outbox.table: expected schema.table, found `a.b.c`",
        "error[PB-0003]: outbox.topic: the template needs a literal prefix or suffix",
        "error[PB-0003]: outbox.headers[0].name: expected a name that Pillarbox does not write itself, found `pb-pos`",
        "error[PB-0003]: http.listen: expected address:port such as 127.0.0.1:8686, or off, found `localhost`",
        "12 problems in p.yaml",
    ];
    let mut at = 0;
    for line in expected {
        let found =
            text[at..].find(line).unwrap_or_else(|| panic!("{line} is missing or misplaced:\n{text}"));
        at += found;
    }
}

#[test]
fn missing_sections_and_wrong_kinds() {
    let text = refused("pipeline: [a]\n");
    for line in [
        "pipeline must be a single value, found a list",
        "postgres.url names no user, and PGUSER is not set",
        "kafka is missing",
        "outbox is missing",
    ] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
    assert!(refused("").contains("pipeline is missing"));
    assert!(refused("- a\n").contains("the file must be a map of options, found a list"));
    assert!(refused("a: [1\n").starts_with("error[PB-0002]: not valid YAML: "));
    let text = refused(&SMALLEST.replace("{ table: public.outbox }", "[]"));
    assert!(text.contains("outbox must name 1 to 1000 tables, found 0"), "{text}");
    let text = refused(&SMALLEST.replace("{ table: public.outbox }", "[{table: a},{table: public.a}]"));
    assert!(text.contains("outbox[1]: table public.a is listed twice"), "{text}");
    let text = refused(&SMALLEST.replace("[\"kafka-0:9092\"]", "[]"));
    assert!(text.contains("kafka.brokers names no broker"), "{text}");
}

#[test]
fn the_environment_fills_in_for_the_url() {
    let source = SMALLEST.replace("postgres: { url: \"postgres://pillarbox@db/shop\" }\n", "");
    let env = [
        ("PGHOST", "/run/pg"),
        ("PGPORT", "5433"),
        ("PGUSER", "me"),
        ("PGPASSWORD", "hunter2"),
        ("PGDATABASE", ""),
    ];
    let postgres = with_env(&source, &env).unwrap().config.postgres;
    assert_eq!(postgres.host, "/run/pg");
    assert_eq!((postgres.port, postgres.user.as_str(), postgres.database.as_str()), (5433, "me", "me"));
    assert_eq!(postgres.password.unwrap().expose(), "hunter2");
    let wrong = with_env(&source, &[("PGUSER", "me"), ("PGPORT", "x"), ("PGSSLMODE", "full")]).unwrap_err();
    let text = problems_for_test(&wrong);
    assert!(text.contains("PGPORT: the port must be"), "{text}");
    assert!(text.contains("PGSSLMODE: expected disable, allow"), "{text}");
    // What the URL says wins.
    let postgres = with_env(SMALLEST, &env).unwrap().config.postgres;
    assert_eq!((postgres.host.as_str(), postgres.user.as_str()), ("db", "pillarbox"));
    assert_eq!(postgres.port, 5433);
}

#[test]
fn no_message_repeats_a_secret() {
    for source in [
        "pipeline: orders\npostgres: { url: \"postgres://u:hunter2@h:x/d\" , slott: 1 }\n",
        "pipeline: orders\npostgres:\n  password: hunter2\n  url: \"mysql://u:hunter2@h\"\n  slott: 1\n",
        "pipeline: orders\npostgres: { url: \"postgres://u:hunter2@h\", password: hunter2, x: 1 }\n",
        "pipeline: orders\npostgres: {\"password\": \"hunter2\", \"url\": 1, x: ]\n",
        "pipeline: o\nkafka: { brokers: [\"k:1\"], sasl: { mechanism: oauthbearer, client_secret: hunter2, x: 1 } }\n",
        "pipeline: o\nkafka: { brokers: [\"k:1\"], sasl: { mechanism: none, password: hunter2 } }\n",
        "pipeline: ${env:SECRET}\nhttp: { listen: \"${env:SECRET}\" }\n",
    ] {
        let problems = with_env(source, &[("SECRET", "hunter2")]).unwrap_err();
        let text = problems_for_test(&problems);
        assert!(!text.contains("hunter2"), "{text}");
    }
    let debug = format!("{:?}", ok(&SMALLEST.replace("pillarbox@", "pillarbox:hunter2@")));
    assert!(!debug.contains("hunter2"), "{debug}");
}

#[test]
fn a_reference_that_leads_nowhere() {
    let text = refused(&SMALLEST.replace("{ url", "{ password: \"${env:NONE}\", url"));
    assert!(
        text.contains("error[PB-0004]: postgres.password: environment variable NONE is not set"),
        "{text}"
    );
}

#[test]
fn housekeeping_has_defaults_and_each_mode_its_own_options() {
    let with = |section: &str| {
        SMALLEST.replace("table: public.outbox", &format!("table: public.outbox, housekeeping: {section}"))
    };
    let of = |section: &str| ok(&with(section)).config.outbox[0].housekeeping.clone();
    assert_eq!(ok(SMALLEST).config.outbox[0].housekeeping, Housekeeping::None);
    assert_eq!(of("{ mode: none }"), Housekeeping::None);
    assert_eq!(of("{ mode: partitions }"), Housekeeping::Partitions(Partitions::default()));
    assert_eq!(of("{ mode: delete }"), Housekeeping::Delete(Batches::default()));
    let partitions = of("{ mode: partitions, column: at, interval: 1h, ahead: 48, keep: 10m }");
    let expected = Partitions {
        column: "at".into(),
        interval: Duration::from_secs(3600),
        ahead: 48,
        keep: Duration::from_secs(600),
    };
    assert_eq!(partitions, Housekeeping::Partitions(expected));
    let delete = of("{ mode: delete, batch: 500, pause: 1s }");
    assert_eq!(delete, Housekeeping::Delete(Batches { rows_max: 500, pause: Duration::from_secs(1) }));
    for (section, said) in [
        ("{ }", "outbox.housekeeping.mode is missing"),
        ("{ mode: archive }", "expected none or partitions or delete, found `archive`"),
        ("{ mode: delete, ahead: 3 }", "unknown option `ahead` in outbox.housekeeping"),
        ("{ mode: partitions, batch: 3 }", "unknown option `batch` in outbox.housekeeping"),
        ("{ mode: partitions, interval: 1s }", "expected 60s to 744h"),
        ("{ mode: partitions, interval: 90500ms }", "expected whole seconds"),
        ("{ mode: partitions, keep: 0s }", "expected 60s to 8760h"),
        ("{ mode: partitions, ahead: 0 }", "expected a whole number from 1 to 100"),
        ("{ mode: delete, batch: 0 }", "expected a whole number from 1 to 100000"),
    ] {
        let text = refused(&with(section));
        assert!(text.contains(said), "{section}: {text}");
    }
}

/// What fuzzing has kept, `fuzz/corpus/config`: each file is a configuration or has problems that can be told.
#[test]
fn nothing_in_the_corpus_panics() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/config");
    let (mut files, mut sound) = (0, 0);
    for entry in std::fs::read_dir(&folder).expect("a corpus") {
        let bytes = std::fs::read(entry.expect("a file").path()).expect("bytes");
        let Ok(text) = String::from_utf8(bytes) else { continue };
        files += 1;
        match with_env(&text, &[]) {
            Ok(_) => sound += 1,
            Err(problems) => assert!(!problems_for_test(&problems).is_empty()),
        }
    }
    assert!(files > 5 && sound > 0, "{files} files, {sound} of them sound");
}
