//! The configuration in effect, defaults filled in, secrets blanked: `config show`.

use std::net::SocketAddr;

use pillarbox_relay::config::{Messages, Outbox, PlainPart, Postgres};
use serde_json::{Value, json};

use super::Loaded;

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
    let mut shown = json!({
        "pipeline": config.pipeline.as_str(),
        "postgres": postgres,
        "kafka": {
            "brokers": config.kafka.brokers,
            "compression": config.kafka.compression.name(),
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
    });
    if let Some(messages) = &config.messages {
        shown["messages"] = self::messages(messages);
    }
    shown
}

fn messages(messages: &Messages) -> Value {
    let part = |part: &PlainPart| match part {
        PlainPart::Field(name) => json!({ "field": name }),
        PlainPart::Value(text) => json!({ "value": text }),
    };
    let outbox = outbox(&messages.outbox);
    json!({
        "prefix": messages.prefix,
        "topic": outbox["topic"],
        "headers": outbox["headers"],
        "plain": {
            "id": part(&messages.plain.id),
            "aggregatetype": part(&messages.plain.aggregate_type),
            "aggregateid": part(&messages.plain.aggregate_id),
            "type": part(&messages.plain.event_type),
        },
    })
}

fn listen(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "off".to_owned(), |address| address.to_string())
}

fn outbox(outbox: &Outbox) -> Value {
    let headers: Vec<Value> =
        outbox.headers.iter().map(|header| json!({ "column": header.column, "name": header.name })).collect();
    json!({
        "table": table(&outbox.table.schema, &outbox.table.name),
        "columns": {
            "id": outbox.id_column,
            "key": outbox.key_column,
            "payload": outbox.payload_column,
        },
        "topic": outbox.topic.to_string(),
        "headers": headers,
        "key_format": "text",
        "on_error": "stop",
    })
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
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
