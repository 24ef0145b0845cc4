//! The configuration in effect, defaults filled in, secrets blanked: `config show`.

use std::net::SocketAddr;

use pillarbox_relay::config::{Outbox, Postgres, TopicPart};
use serde_json::{Value, json};

use super::Loaded;
use super::outbox::{EMPTY_PAYLOAD, FORMAT, KEPT, MISSING, UPDATES};

/// What stands where a secret is.
const BLANK: &str = "***";

/// The configuration as the file would spell it.
pub(crate) fn shown(loaded: &Loaded) -> Value {
    let config = &loaded.config;
    let transaction = &config.kafka.transaction;
    let topics = &config.kafka.topics;
    let mut postgres = json!({
        "url": url(&config.postgres),
        "slot": config.postgres.slot,
        "publication": config.postgres.publication,
    });
    if config.postgres.password.is_some() {
        postgres["password"] = json!(BLANK);
    }
    json!({
        "pipeline": config.pipeline.as_str(),
        "postgres": postgres,
        "kafka": {
            "brokers": config.kafka.brokers,
            "compression": "none",
            "topics": {
                "create": topics.create,
                "partitions": topics.partitions,
                "replication_factor": topics.replication_factor,
            },
            "transaction": {
                "max_bytes": transaction.bytes_max,
                "max_events": transaction.events_max,
                "ids": transaction.ids,
                "timeout": format!("{}ms", transaction.timeout.as_millis()),
            },
        },
        "outbox": config.outbox.iter().map(outbox).collect::<Vec<_>>(),
        "http": { "listen": listen(loaded.listen) },
    })
}

fn listen(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "off".to_owned(), |address| address.to_string())
}

fn outbox(outbox: &Outbox) -> Value {
    let placed = |column: &str, name: &str| json!({ "column": column, "name": name });
    let headers: Vec<Value> = outbox.headers.iter().map(|h| placed(&h.column, &h.name)).collect();
    let envelope: Vec<Value> = outbox.envelope.iter().map(|f| placed(&f.column, &f.name)).collect();
    let mut columns = json!({
        "id": outbox.id_column,
        "key": outbox.key_column,
        "type": outbox.type_column,
        "payload": outbox.payload_column,
    });
    insert(&mut columns, "timestamp", &outbox.timestamp_column);
    insert(&mut columns, "schema_version", &outbox.version_column);
    let mut shown = json!({
        "table": table(&outbox.table.schema, &outbox.table.name),
        "columns": columns,
        "topic": topic(outbox),
        "headers": headers,
        "envelope": envelope,
        "missing_columns": word(MISSING, outbox.missing),
        "value_format": word(FORMAT, outbox.value_format),
        "key_format": word(FORMAT, outbox.key_format),
        "expand_json": outbox.expand.is_some(),
        "empty_payload": word(EMPTY_PAYLOAD, outbox.empty_payload),
        "on_update": word(UPDATES, outbox.updates),
        "on_error": "stop",
    });
    insert(&mut shown, "partition", &outbox.partition_column);
    insert(&mut shown, "trace", &outbox.trace_column);
    if let Some(expand) = outbox.expand {
        shown["json_nulls"] = json!(word(KEPT, expand.keep_nulls));
        shown["json_empty_arrays"] = json!(word(KEPT, expand.keep_empty_arrays));
    }
    if let Some(topics) = &outbox.topics_allowed {
        shown["topics_allowed"] = json!(topics);
    }
    shown
}

/// A rule shows what it is made of; its template is one column.
fn topic(outbox: &Outbox) -> Value {
    match (&outbox.pattern, outbox.topic.parts()) {
        (Some(pattern), [TopicPart::Column(by)]) => {
            json!({ "by": by, "regex": pattern.regex(), "replacement": pattern.replacement() })
        }
        _ => json!(outbox.topic.to_string()),
    }
}

/// An option without default appears where it is set.
fn insert(map: &mut Value, key: &str, value: &Option<String>) {
    if let Some(value) = value {
        map[key] = json!(value);
    }
}

fn word<T: PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, candidate)| *candidate == value).expect("every value has its word").0
}

/// `schema.table`, quoted where a reader of the file needs it.
fn table(schema: &str, name: &str) -> String {
    let quoted = |part: &str| {
        if part.contains(['.', '"']) { format!("\"{}\"", part.replace('"', "\"\"")) } else { part.to_owned() }
    };
    format!("{}.{}", quoted(schema), quoted(name))
}

/// The connection as a URI without its password.
pub(crate) fn url(postgres: &Postgres) -> String {
    let host =
        if postgres.host.contains(':') { format!("[{}]", postgres.host) } else { encode(&postgres.host) };
    format!("postgres://{}@{host}:{}/{}", encode(&postgres.user), postgres.port, encode(&postgres.database))
}

/// Percent-encodes everything but unreserved characters.
pub(crate) fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
