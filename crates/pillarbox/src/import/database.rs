//! Where events come from and go to: the connection, slot and publication, the producer, and topics to be created.
//!
//! A secret becomes a reference; a value that a config provider fills in is left to the `PG*` environment.

use serde_json::Value;

use super::draft::Settings;
use super::fate::{Fate, Keys, provided, secret};
use crate::config::show::encode;

/// Debezium's names where it is not told any.
const SLOT: &str = "debezium";
const PUBLICATION: &str = "dbz_publication";

/// Parts of the URL: key of the connector, the variable that stands for it where the file cannot say it.
const URL: &[(&str, &str)] = &[
    ("database.user", "PGUSER"),
    ("database.hostname", "PGHOST"),
    ("database.port", "PGPORT"),
    ("database.dbname", "PGDATABASE"),
];

/// The connection to Postgres.
pub(super) fn postgres(keys: &mut Keys, root: &mut Settings) {
    let mut parts: [Option<String>; 4] = Default::default();
    let mut used = Vec::new();
    for (part, (key, variable)) in parts.iter_mut().zip(URL) {
        let Some(value) = keys.value(key) else { continue };
        if provided(&value).is_some() {
            let told = format!("postgres.url leaves it to the environment: export {variable}");
            keys.settle(key, Fate::Mapped(told));
        } else {
            *part = Some(value);
            used.push(*key);
        }
    }
    let [user, host, port, database] = parts;
    let part = |text: Option<String>| text.as_deref().map(encode).unwrap_or_default();
    let host = host.map_or_else(String::new, |host| {
        if host.contains(':') { format!("[{}]", host.trim_matches(['[', ']'])) } else { encode(&host) }
    });
    let user = user.map_or_else(String::new, |user| format!("{}@", encode(&user)));
    let port = port.map_or_else(String::new, |port| format!(":{}", encode(&port)));
    let url = format!("postgres://{user}{host}{port}/{}", part(database));
    for key in used {
        keys.settle(key, Fate::Mapped(format!("postgres.url: {url}")));
        root.set("postgres.url", url.clone(), key);
    }
    if let Some(value) = keys.value("database.password") {
        let (reference, told) = secret(&value, "PGPASSWORD");
        keys.settle("database.password", Fate::Mapped(format!("postgres.password: {reference}; {told}")));
        root.set("postgres.password", reference, "database.password");
    }
    tls(keys, root);
}

fn tls(keys: &mut Keys, root: &mut Settings) {
    let mode = keys.value("database.sslmode");
    match mode.as_deref().map(str::to_ascii_lowercase).as_deref() {
        Some("disable" | "allow" | "prefer") => {
            keys.settle("database.sslmode", Fate::Default("TLS is not demanded".to_owned()));
        }
        Some(mode) => set(keys, root, "database.sslmode", "postgres.tls.mode", mode),
        None => {}
    }
    let files = [("database.sslrootcert", "ca"), ("database.sslcert", "cert"), ("database.sslkey", "key")];
    for (key, option) in files {
        if let Some(path) = keys.value(key) {
            set(keys, root, key, &format!("postgres.tls.{option}"), &path);
        }
    }
}

fn set(keys: &mut Keys, root: &mut Settings, key: &str, option: &str, value: &str) {
    keys.settle(key, Fate::Mapped(format!("{option}: {value}")));
    root.set(option, value, key);
}

/// Slot and publication: the same ones, so that either side can go on where the other stopped.
pub(super) fn stream(keys: &mut Keys, root: &mut Settings) -> Vec<String> {
    let mut notes = Vec::new();
    for (key, option, default) in
        [("slot.name", "postgres.slot", SLOT), ("publication.name", "postgres.publication", PUBLICATION)]
    {
        match keys.value(key) {
            Some(value) => set(keys, root, key, option, &value),
            None => {
                notes.push(format!("{key} is not set: {option} is Debezium's default, {default}"));
                root.set(option, default, key);
            }
        }
    }
    let own_slot = "a slot that this plugin has made cannot be taken over: stop the connector when all is relayed, drop \
                    the slot, then run `pillarbox setup`";
    match keys.value("plugin.name").as_deref() {
        Some("pgoutput") => keys.settle("plugin.name", Fate::Default("pgoutput".to_owned())),
        Some(_) => keys.settle("plugin.name", Fate::unsupported("only pgoutput is read", own_slot)),
        None => notes.push(format!(
            "plugin.name is not set: Debezium's default is decoderbufs, here it is pgoutput; {own_slot}"
        )),
    }
    if keys.value("heartbeat.interval.ms").is_none_or(|interval| interval == "0") {
        notes.push(
            "heartbeat.interval.ms is off: Debezium leaves its last transaction unconfirmed, and it would be sent again \
             after a hand-over; set it (1000) before you stop the connector"
                .to_owned(),
        );
    }
    notes
}

/// The producer and the topics it makes.
pub(super) fn kafka(keys: &mut Keys, root: &mut Settings, brokers: &[String]) -> Vec<String> {
    let mut notes = Vec::new();
    let named = ["producer.override.bootstrap.servers", "signal.kafka.bootstrap.servers"];
    let found = named.iter().find_map(|key| Some((*key, keys.value(key)?)));
    match (brokers, found) {
        ([], Some((key, list))) if provided(&list).is_none() => {
            let list: Vec<Value> = list.split(',').map(|broker| Value::from(broker.trim())).collect();
            keys.settle(key, Fate::Mapped("kafka.brokers".to_owned()));
            root.set("kafka.brokers", list, key);
        }
        ([], _) => {
            notes.push(
                "a connector does not name its brokers: export KAFKA_BROKERS (host:9092,...), or import with --kafka"
                    .to_owned(),
            );
            root.set("kafka.brokers", "${env:KAFKA_BROKERS}", "--kafka");
        }
        (brokers, _) => root.set("kafka.brokers", brokers.to_vec(), "--kafka"),
    }
    for key in named {
        keys.settle(key, Fate::ignored("kafka.brokers is known already"));
    }
    if let Some(codec) = keys.value("producer.override.compression.type") {
        if codec == "none" {
            keys.settle(
                "producer.override.compression.type",
                Fate::Default("kafka.compression: none".into()),
            );
        } else {
            set(keys, root, "producer.override.compression.type", "kafka.compression", &codec);
        }
    }
    security(keys, root);
    for (key, option) in [
        ("topic.creation.default.partitions", "kafka.topics.partitions"),
        ("topic.creation.default.replication.factor", "kafka.topics.replication_factor"),
    ] {
        if let Some(value) = keys.value(key) {
            set(keys, root, key, option, &value);
        }
    }
    notes
}

/// TLS and SASL of the producer.
fn security(keys: &mut Keys, root: &mut Settings) {
    let key = |option: &str| format!("producer.override.{option}");
    let protocol = keys.value(&key("security.protocol")).unwrap_or_default().to_ascii_uppercase();
    match protocol.as_str() {
        "" => {}
        "PLAINTEXT" => keys.settle(&key("security.protocol"), Fate::Default("plaintext".to_owned())),
        "SASL_PLAINTEXT" => keys.settle(&key("security.protocol"), Fate::Mapped("kafka.sasl".to_owned())),
        "SSL" | "SASL_SSL" => {
            root.set("kafka.tls", serde_json::json!({}), &key("security.protocol"));
            keys.settle(&key("security.protocol"), Fate::Mapped("kafka.tls".to_owned()));
        }
        _ => keys.settle(
            &key("security.protocol"),
            Fate::unsupported("Kafka has no such protocol", "see kafka.tls and kafka.sasl"),
        ),
    }
    if let Some(mechanism) = keys.value(&key("sasl.mechanism")) {
        set(keys, root, &key("sasl.mechanism"), "kafka.sasl.mechanism", &mechanism.to_ascii_lowercase());
    }
    let name = key("sasl.jaas.config");
    let Some(login) = keys.value(&name) else { return };
    // What stands between the quotes of `username="..."`; the password is never looked at.
    let user = login.split_once("username=\"").and_then(|(_, rest)| Some(rest.split_once('"')?.0.to_owned()));
    let user = user.filter(|user| provided(user).is_none());
    let user = user.unwrap_or_else(|| "${env:KAFKA_USERNAME}".to_owned());
    root.set("kafka.sasl.username", user.clone(), &name);
    root.set("kafka.sasl.password", "${env:KAFKA_PASSWORD}", &name);
    let told =
        format!("kafka.sasl.username: {user}; the secret was not copied: export KAFKA_PASSWORD with it");
    keys.settle(&name, Fate::Mapped(told));
}
