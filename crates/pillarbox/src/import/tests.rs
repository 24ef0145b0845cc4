//! Connectors as people have them: what they become, what is said of each key, and that no secret travels.

use super::*;
use crate::config::Loaded;

const ARTICLE: &str = include_str!("../../tests/debezium/article.json");
/// Stands for every secret; must never be seen again.
const CANARY: &str = "c4n4ry";

fn imported(text: &str, choices: &Choices) -> Imported {
    let connector = source::parse(text).unwrap();
    import(&connector, choices, "connector.json").unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn loaded(imported: &Imported) -> Loaded {
    let env = |name: &str| (name == "KAFKA_BROKERS").then(|| "kafka:9092".to_owned());
    let outside = Outside { env: &env, base: PathBuf::new() };
    interpret("imported", imported.yaml.clone(), outside).unwrap()
}

fn word(imported: &Imported, key: &str) -> String {
    let entry = imported.entries.iter().find(|entry| entry.key.written == key).unwrap();
    entry.fate.as_ref().unwrap().word().to_owned()
}

/// A connector with an outbox router, and more keys: `"name": "value"` pairs.
fn connector(more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!(
        r#"{{"name":"orders","config":{{"database.hostname":"db","database.user":"u","database.dbname":"shop",
        "table.include.list":"public.outbox","plugin.name":"pgoutput","transforms":"o",
        "transforms.o.type":"io.debezium.transforms.outbox.EventRouter"{comma}{more}}}}}"#
    )
}

#[test]
fn the_articles_connector() {
    let imported = imported(ARTICLE, &Choices { brokers: vec!["kafka:9092".into()], ..Choices::default() });
    assert_eq!(
        imported.yaml,
        "# Imported from connector.json\n# by `pillarbox import debezium`.\npipeline: orders_connector\n\
         postgres:\n  password: \"${env:PGPASSWORD}\"\n  publication: dbz_publication\n  slot: debezium\n  \
         url: \"postgres://debezium@postgres:5432/orders\"\nkafka:\n  brokers: [\"kafka:9092\"]\noutbox:\n  \
         table: public.outbox_events\n  columns: { key: aggregate_id }\n  \
         headers: [{ column: aggregate_id, name: aggregate_id }]\n  \
         topic: { by: aggregate_type, replacement: \"${routedByValue}-events\" }\n"
    );
    assert!(!imported.falls_short());
    let report = report(&imported);
    for part in [
        "transforms.outbox.table.field.route                  read as route.by.field (there is no such option; Debezium \
         ignores it); outbox.topic.by: aggregate_type",
        "read as table.field.event.payload",
        "read as topic.prefix (its name before Debezium 2)",
        "the secret itself was not copied: export PGPASSWORD",
        "note: key.converter is not in the connector",
        "15 keys: 12 mapped, 2 default, 1 ignored, 0 unsupported",
    ] {
        assert!(report.contains(part), "{part}:\n{report}");
    }
    assert!(!report.contains("dbz;") && !imported.yaml.contains("dbz@"), "{report}");
}

#[test]
fn every_option_of_the_router() {
    let text = connector(
        r#""transforms.o.table.field.event.id":"event_id","transforms.o.table.field.event.key":"k",
        "transforms.o.table.field.event.type":"t","transforms.o.table.field.event.payload":"p",
        "transforms.o.table.field.event.timestamp":"at","transforms.o.table.field.event.schema.version":"v",
        "transforms.o.table.fields.additional.placement":"t:header:eventType, a:envelope ,n:partition",
        "transforms.o.table.field.additional.missing":"ignore","transforms.o.table.expand.json.payload":"true",
        "transforms.o.table.json.payload.null.behavior":"optional_bytes",
        "transforms.o.table.json.payload.empty.array.behavior":"optional_string",
        "transforms.o.table.op.invalid.behavior":"fatal","transforms.o.route.by.field":"kind",
        "transforms.o.route.topic.regex":"(.*)-x","transforms.o.route.topic.replacement":"$1",
        "transforms.o.route.tombstone.on.empty.payload":"true","transforms.o.tracing.span.context.field":"trace",
        "transforms.o.tracing.operation.name":"x","slot.name":"s","publication.name":"P",
        "key.converter":"org.apache.kafka.connect.json.JsonConverter","key.converter.schemas.enable":"false",
        "value.converter":"org.apache.kafka.connect.json.JsonConverter","value.converter.schemas.enable":false,
        "topic.creation.default.partitions":"3","topic.creation.default.replication.factor":"2""#,
    );
    let imported = imported(&text, &Choices::default());
    assert!(!imported.falls_short(), "{}", report(&imported));
    let config = loaded(&imported).config;
    let mut wanted = String::from(
        r#"{ table: public.outbox, columns: { id: event_id, key: k, type: t, payload: p, timestamp: at, schema_version: v },
        headers: [{ column: t, name: eventType }], envelope: [{ column: a }], partition: n, missing_columns: ignore,
        expand_json: true, json_nulls: keep, json_empty_arrays: keep, on_update: stop,
        topic: { by: kind, regex: "(.*)-x", replacement: "$1" }, empty_payload: tombstone, trace: trace,
        key_format: json }"#,
    );
    wanted.insert_str(0, "pipeline: orders\npostgres: { url: \"postgres://u@db/shop\", slot: s, publication: P }\nkafka: { brokers: [\"kafka:9092\"], topics: { partitions: 3, replication_factor: 2 } }\noutbox: ");
    let env = |_: &str| None;
    let by_hand = interpret("by hand", wanted, Outside { env: &env, base: PathBuf::new() }).unwrap().config;
    assert_eq!(config.generation(), by_hand.generation());
    assert_eq!(config.postgres.slot, "s");
    assert_eq!(config.postgres.publication, "P");
    assert_eq!((config.kafka.topics.partitions, config.kafka.topics.replication_factor), (3, 2));
}

#[test]
fn the_fate_of_keys() {
    for (key, value, fate) in [
        ("tasks.max", "1", "ignored"),
        ("snapshot.mode", "initial", "ignored"),
        ("snapshot.mode", "always", "unsupported"),
        ("plugin.name", "wal2json", "unsupported"),
        ("column.mask.with.3.chars", "a.b", "unsupported"),
        ("errors.tolerance", "all", "ignored"),
        ("producer.override.linger.ms", "5", "ignored"),
        ("producer.override.partitioner.class", "x.Y", "unsupported"),
        ("producer.override.ssl.truststore.location", "/a.jks", "unsupported"),
        ("producer.override.compression.type", "none", "default"),
        ("key.converter", "org.apache.kafka.connect.storage.StringConverter", "default"),
        ("key.converter", "org.apache.kafka.connect.json.JsonConverter", "unsupported"),
        ("value.converter", "io.debezium.converters.BinaryDataConverter", "default"),
        ("value.converter", "io.confluent.connect.avro.AvroConverter", "unsupported"),
        ("header.converter", "org.apache.kafka.connect.storage.SimpleHeaderConverter", "default"),
        ("transforms.o.table.fields.additional.placement", "a:nowhere", "unsupported"),
        ("transforms.o.route.topic.regex", "(?=a).*", "unsupported"),
        ("transforms.o.table.op.invalid.behavior", "panic", "unsupported"),
        ("slot.name", "Not Legal", "unsupported"),
        ("topic.creation.default.cleanup.policy", "compact", "unsupported"),
        ("binary.handling.mode", "hex", "unsupported"),
        ("database.sslmode", "prefer", "default"),
    ] {
        let base = connector("").replace(r#""plugin.name":"pgoutput","#, "");
        let text = base.replace(r#""transforms":"o""#, &format!(r#""transforms":"o","{key}":"{value}""#));
        let imported = imported(&text, &Choices::default());
        assert_eq!(word(&imported, key), fate, "{key}={value}");
        assert_eq!(imported.falls_short(), fate == "unsupported", "{key}={value}");
        loaded(&imported);
    }
}

#[test]
fn other_transformations_and_tables() {
    let more = r#""transforms.o.predicate":"p","predicates":"p","topic.prefix":"shop",
        "predicates.p.type":"org.apache.kafka.connect.transforms.predicates.TopicNameMatches",
        "predicates.p.pattern":"shop\\.public\\.outbox_.*","transforms.m.type":"x.MaskField$Value","transforms.m.fields":"a""#;
    let text = connector(more).replace(r#""transforms":"o""#, r#""transforms":"m, o""#);
    let two = text.replace("\"public.outbox\"", "\"public.outbox_a,public.outbox_b,public.orders\"");
    let imported = imported(&two, &Choices::default());
    for (key, fate) in [
        ("table.include.list", "unsupported"),
        ("transforms.m.type", "unsupported"),
        ("transforms.m.fields", "unsupported"),
        ("predicates.p.pattern", "mapped"),
        ("transforms", "mapped"),
    ] {
        assert_eq!(word(&imported, key), fate, "{key}");
    }
    let tables: Vec<String> =
        loaded(&imported).config.outbox.iter().map(|outbox| outbox.table.to_string()).collect();
    assert_eq!(tables.len(), 2);
    assert!(report(&imported).contains("public.orders pass the router by"));
}

#[test]
fn what_cannot_be_imported() {
    let no_router = r#"{"slot.name":"s","transforms":"x","transforms.x.type":"a.B"}"#;
    let mysql = connector("").replace(
        "\"plugin.name\":\"pgoutput\"",
        "\"connector.class\":\"io.debezium.connector.mysql.MySqlConnector\"",
    );
    let unknown = connector(r#""slot.nmae":"s","transforms.o.route.by.feild":"x""#);
    let pattern = connector("").replace("public.outbox", "public.(.*)");
    for (text, parts) in [
        (no_router, &["no EventRouter"][..]),
        (mysql.as_str(), &["no connector for Postgres"]),
        (
            unknown.as_str(),
            &[
                "unknown key `slot.nmae`",
                "did you mean `slot.name`",
                "did you mean `transforms.o.route.by.field`",
            ],
        ),
        (pattern.as_str(), &["no outbox table is known: it is a pattern", "--table"]),
    ] {
        let connector = source::parse(text).unwrap();
        let problems = import(&connector, &Choices::default(), "c").unwrap_err();
        let told = format!("{:?}", problems.list);
        for part in parts {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
    let lenient = Choices { lenient: true, ..Choices::default() };
    assert_eq!(word(&imported(&unknown, &lenient), "slot.nmae"), "ignored");
    let named = Choices { tables: vec!["public.outbox".into()], ..Choices::default() };
    assert!(!imported(&pattern, &named).falls_short());
}

#[test]
fn no_secret_travels() {
    let secrets = [
        "database.password",
        "database.sslpassword",
        "heartbeat.action.query",
        "producer.override.ssl.keystore.password",
        "value.converter.basic.auth.user.info",
        "signal.kafka.sasl.password",
        "column.mask.hash.SHA-256.with.salt.c4n4ry",
    ];
    let mut more: Vec<String> = secrets.iter().map(|key| format!(r#""{key}":"{CANARY}""#)).collect();
    more.push(format!(
        r#""producer.override.sasl.jaas.config":"a.B required username=\"u\" password=\"{CANARY}\";","producer.override.sasl.mechanism":"PLAIN""#
    ));
    let connector = source::parse(&connector(&more.join(","))).unwrap();
    let problems = import(&connector, &Choices::default(), "c").unwrap_err();
    assert_eq!(problems.list.len(), 1, "signal.kafka.sasl.password is unknown");
    assert!(!format!("{problems:?}").contains(CANARY), "the errors");
    let lenient = Choices { lenient: true, ..Choices::default() };
    let imported = import(&connector, &lenient, "c").unwrap();
    let told = report(&imported);
    assert!(!imported.yaml.contains(CANARY) && !told.contains(CANARY), "{}{told}", imported.yaml);
    assert!(imported.yaml.contains("${env:PGPASSWORD}"));
    assert!(told.contains("column.mask.hash.SHA-256.with.salt.***"), "{told}");
}

#[test]
fn protection_is_never_dropped() {
    let more = r#""database.sslmode":"verify-full","database.sslrootcert":"/not/here.pem",
        "producer.override.security.protocol":"SASL_SSL","producer.override.sasl.mechanism":"SCRAM-SHA-512",
        "producer.override.sasl.jaas.config":"a.B required username=\"u\" password=\"p\";""#;
    let imported = imported(&connector(more), &Choices::default());
    assert!(imported.falls_short(), "the file is not there");
    for part in [
        "tls: { ca: /not/here.pem, mode: verify-full }",
        "sasl: { mechanism: scram-sha-512, password: \"${env:KAFKA_PASSWORD}\", username: u }",
        "tls: {  }",
    ] {
        assert!(imported.yaml.contains(part), "{part}:\n{}", imported.yaml);
    }
    assert_eq!(word(&imported, "database.sslrootcert"), "unsupported");
}

#[test]
fn properties_of_debezium_server() {
    let text = "debezium.source.connector.class=io.debezium.connector.postgresql.PostgresConnector\n\
                debezium.source.database.hostname=${DB_HOST}\ndebezium.source.database.password=${DB_PW}\n\
                debezium.source.table.include.list=public.outbox\ndebezium.source.plugin.name=pgoutput\n\
                debezium.source.offset.storage.file.filename=x\ndebezium.sink.type=kafka\n\
                debezium.sink.kafka.producer.bootstrap.servers=k1:9092,k2:9092\n\
                debezium.sink.kafka.producer.key.serializer=x\ndebezium.transforms=o\n\
                debezium.transforms.o.type=io.debezium.transforms.outbox.EventRouter\n\
                debezium.transforms.o.route.topic.replacement=\\\\${routedByValue}.events\n\
                debezium.format.key=json\ndebezium.format.schemas.enable=false\ndebezium.format.value=simplestring\n\
                quarkus.log.level=INFO\n";
    let imported = imported(text, &Choices::default());
    assert!(!imported.falls_short(), "{}", report(&imported));
    for part in [
        "password: \"${env:DB_PW}\"",
        "brokers: [\"k1:9092\", \"k2:9092\"]",
        "key_format: json",
        "replacement: \"${routedByValue}.events\"",
    ] {
        assert!(imported.yaml.contains(part), "{part}:\n{}", imported.yaml);
    }
    assert!(report(&imported).contains("export PGHOST"));
}
