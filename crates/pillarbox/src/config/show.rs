//! The configuration in effect, defaults filled in, secrets blanked: `config show`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use pillarbox_relay::config::{
    ChannelBinding, Messages, Outbox, PlainPart, Postgres, PostgresTls, Roots, Sasl, Tls, TopicPart, Verify,
};
use serde_json::{Value, json};

use super::outbox::{EMPTY_PAYLOAD, FORMAT, KEPT, MISSING, ON_ERROR, OTHER_SHARD, UPDATES};
use super::{Loaded, tls};

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
    if let Some(sql) = &config.postgres.sql {
        postgres["sql"] = json!({ "user": sql.user });
        if sql.password.is_some() {
            postgres["sql"]["password"] = json!(BLANK);
        }
    }
    postgres["tls"] = postgres_tls(&config.postgres.tls);
    let mut kafka = json!({
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
    });
    if let Some(tls) = &config.kafka.tls {
        kafka["tls"] = files(tls);
        kafka["tls"]["mode"] = json!(if tls.verify == Verify::Full { "verify-full" } else { "verify-ca" });
    }
    if let Some(sasl) = &config.kafka.sasl {
        kafka["sasl"] = shown_sasl(sasl);
    }
    let mut shown = json!({
        "pipeline": config.pipeline.as_str(),
        "postgres": postgres,
        "kafka": kafka,
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
        "on_error": outbox["on_error"],
        "plain": {
            "id": part(&messages.plain.id),
            "aggregatetype": part(&messages.plain.aggregate_type),
            "aggregateid": part(&messages.plain.aggregate_id),
            "type": part(&messages.plain.event_type),
        },
    })
}

fn postgres_tls(tls: &PostgresTls) -> Value {
    let mut shown = files(&tls.secured);
    shown["mode"] = json!(tls.mode.to_string());
    shown
}

fn shown_sasl(sasl: &Sasl) -> Value {
    let mechanism = sasl.mechanism().to_lowercase();
    match sasl {
        Sasl::Plain(login) | Sasl::ScramSha256(login) | Sasl::ScramSha512(login) => {
            json!({ "mechanism": mechanism, "username": login.username, "password": BLANK })
        }
        Sasl::OAuthBearer(oauth) => {
            let mut shown = json!({
                "mechanism": mechanism,
                "token_url": oauth.token_url,
                "client_id": oauth.client_id,
                "client_secret": BLANK,
                "extensions": oauth.extensions.iter().cloned().collect::<BTreeMap<_, _>>(),
            });
            if let Some(scope) = &oauth.scope {
                shown["scope"] = json!(scope);
            }
            if let Roots::File(path) = &oauth.tls.roots {
                shown["token_ca"] = json!(tls::shown(path));
            }
            shown
        }
    }
}

fn files(tls: &Tls) -> Value {
    let mut shown = json!({});
    if let Roots::File(path) = &tls.roots {
        shown["ca"] = json!(tls::shown(path));
    }
    if let Some(identity) = &tls.identity {
        shown["cert"] = json!(tls::shown(&identity.certificate));
        shown["key"] = json!(tls::shown(&identity.key));
    }
    shown
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
        "on_error": word(ON_ERROR, outbox.on_error),
        "housekeeping": super::housekeeping::shown(&outbox.housekeeping),
    });
    insert(&mut shown, "partition", &outbox.partition_column);
    insert(&mut shown, "trace", &outbox.trace_column);
    insert(&mut shown, "shard", &outbox.shard.map(|shard| shard.to_string()));
    if outbox.shard.is_some() {
        shown["on_other_shard"] = json!(word(OTHER_SHARD, outbox.other_shard));
    }
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
    let binding = match postgres.tls.channel_binding {
        ChannelBinding::Disable => "?channel_binding=disable",
        ChannelBinding::Prefer => "",
        ChannelBinding::Require => "?channel_binding=require",
    };
    let (user, port, database) = (encode(&postgres.user), postgres.port, encode(&postgres.database));
    format!("postgres://{user}@{host}:{port}/{database}{binding}")
}

/// What every part of a URI may hold as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}
