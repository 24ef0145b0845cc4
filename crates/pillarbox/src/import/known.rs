//! Every other key of a Postgres connector, of Kafka Connect and of Debezium Server: a flat table of what becomes of it.
//!
//! What decides about topics, keys, headers, values or order is never ignored: it is mapped elsewhere, or unsupported.

use super::fate::{Fate, Keys};

/// What becomes of a key whatever else is set.
enum Rule {
    /// These values are what happens anyway; others are unsupported: (values, why not, what to do).
    Same(&'static [&'static str], &'static str, &'static str),
    Ignored(&'static str),
    Unsupported(&'static str, &'static str),
    /// Another file reads it; here for suggestions only.
    Elsewhere,
}

use Rule::{Elsewhere, Ignored, Same, Unsupported};

const NO_SNAPSHOT: &str = "there is no snapshot: what is in the WAL after the slot's position is sent";
const NO_SIGNALS: &str = "signals ask for snapshots, and there are none";
const NO_QUEUE: &str = "there is no queue to size: memory is bounded, and reading waits for Kafka";
const NO_CLASS: &str = "there are no classes to load";
const HALTS: &str = "a row that cannot be published halts the pipeline with a code; nothing is dropped";
const RETRIES: &str = "outages are retried for ever";
const IDLE: &str = "an idle pipeline moves its slot by itself";
const NO_CDC: &str = "it is about changes of ordinary tables; an outbox event has nothing of it";
const METRICS: &str = "metrics are at /metrics";
const TRANSACTIONAL: &str = "every write is transactional, idempotent and acknowledged by all replicas";
const PACED: &str = "batches follow the load";
const WORKER: &str = "there is no Connect worker";
const TYPES: &str = "it changes how columns look in headers and envelopes";
const TYPES_ADVICE: &str =
    "look at such a record with `pillarbox tap`; docs/debezium.md says how columns look";
const MASK: &str = "events are sent as they are written";
const MASK_ADVICE: &str = "let the application write what consumers may see";

/// The keys, by subject.
#[rustfmt::skip]
const KNOWN: &[(&str, Rule)] = &[
    // Who and where.
    ("name", Ignored("it only names the connector (and the pipeline)")),
    ("connector.class", Elsewhere),
    ("tasks.max", Ignored("a pipeline has one relay; a second one stands by")),
    ("topic.prefix", Ignored("topics of outbox events do not have it")),
    ("database.hostname", Elsewhere), ("database.port", Elsewhere), ("database.user", Elsewhere),
    ("database.password", Elsewhere), ("database.dbname", Elsewhere), ("database.sslmode", Elsewhere),
    ("database.sslrootcert", Elsewhere), ("database.sslcert", Elsewhere), ("database.sslkey", Elsewhere),
    ("database.sslpassword", Unsupported("keys behind a password are not read", "write the key without one, readable by the relay only")),
    ("database.sslfactory", Ignored(NO_CLASS)),
    ("database.query.timeout.ms", Ignored("queries have limits of their own")),
    ("database.connection.factory.class", Unsupported("there are no other ways to log in", "log in by password or certificate")),
    ("database.initial.statements", Ignored("the stream's session runs no SQL")),
    ("database.tcpKeepAlive", Ignored("the replication protocol has its own sign of life")),
    ("connection.validation.timeout.ms", Ignored("connecting has limits of its own")),
    ("read.only", Ignored(NO_SIGNALS)),
    // Slot and publication.
    ("slot.name", Elsewhere), ("publication.name", Elsewhere), ("plugin.name", Elsewhere),
    ("slot.drop.on.stop", Same(&["false"], "a slot is never dropped: its position is the truth", "drop it by hand when it is not needed any more")),
    ("slot.failover", Ignored("a slot keeps the flag that it was made with")),
    ("slot.stream.params", Unsupported("parameters of the stream are not passed on", "remove them")),
    ("slot.max.retries", Ignored(RETRIES)), ("slot.retry.delay.ms", Ignored(RETRIES)),
    ("slot.seek.to.known.offset.on.start", Ignored("positions come from the checkpoint")),
    ("create.slot.command.timeout", Ignored("setup makes the slot")),
    ("status.update.interval.ms", Ignored("status is sent after every commit, and in between")),
    ("offset.mismatch.strategy", Ignored("a slot that does not fit the checkpoint halts the pipeline")),
    ("lsn.flush.mode", Ignored("what is committed in Kafka is confirmed at once")),
    ("flush.lsn.source", Ignored("what is committed in Kafka is confirmed at once")),
    ("lsn.flush.timeout.ms", Ignored("what is committed in Kafka is confirmed at once")),
    ("lsn.flush.timeout.action", Ignored("what is committed in Kafka is confirmed at once")),
    ("xmin.fetch.interval.ms", Ignored("events have no xmin")),
    ("publication.autocreate.mode", Ignored("a publication that is there is kept; otherwise setup makes one for the outbox tables")),
    ("publish.via.partition.root", Same(&["true"], "events of a partitioned outbox carry the table's own name", "ALTER PUBLICATION .. SET (publish_via_partition_root = true)")),
    ("replica.identity.autoset.values", Ignored("inserts need no replica identity")),
    ("skipped.operations", Ignored("only inserts become events")),
    ("exactly.once.support", Ignored("delivery is always exactly once")),
    ("transaction.boundary", Ignored("a Kafka transaction ends with a source transaction")),
    ("transaction.boundary.interval.ms", Ignored("a Kafka transaction ends with a source transaction")),
    ("offsets.storage.topic", Ignored("positions are in the checkpoint topic")),
    // Which rows.
    ("table.include.list", Elsewhere), ("transforms", Elsewhere), ("predicates", Elsewhere),
    ("table.exclude.list", Ignored("only the tables of `outbox` are read")),
    ("schema.include.list", Ignored("only the tables of `outbox` are read")),
    ("schema.exclude.list", Ignored("only the tables of `outbox` are read")),
    ("column.include.list", Ignored("only the columns of `outbox` are read")),
    ("column.exclude.list", Ignored("only the columns of `outbox` are read")),
    ("message.key.columns", Ignored("the router names the key")),
    ("message.prefix.include.list", Unsupported("logical messages are not taken over by the importer", "see docs/debezium.md, what is not taken over")),
    ("message.prefix.exclude.list", Ignored("logical messages are not relayed unless they are asked for")),
    ("skip.messages.without.change", Ignored(NO_CDC)),
    ("guardrail.collections.max", Ignored(NO_CDC)), ("guardrail.collections.limit.action", Ignored(NO_CDC)),
    // Snapshots and signals.
    ("snapshot.mode", Same(&["no_data", "never", "initial", "when_needed"], "rows are sent once, from the WAL", "for rows that are in the table already, see docs/debezium.md, hand-over")),
    ("snapshot.isolation.mode", Ignored(NO_SNAPSHOT)), ("snapshot.locking.mode", Ignored(NO_SNAPSHOT)),
    ("snapshot.lock.timeout.ms", Ignored(NO_SNAPSHOT)), ("snapshot.query.mode", Ignored(NO_SNAPSHOT)),
    ("snapshot.fetch.size", Ignored(NO_SNAPSHOT)), ("snapshot.max.threads", Ignored(NO_SNAPSHOT)),
    ("snapshot.max.threads.multiplier", Ignored(NO_SNAPSHOT)), ("legacy.snapshot.max.threads", Ignored(NO_SNAPSHOT)),
    ("snapshot.include.collection.list", Ignored(NO_SNAPSHOT)), ("snapshot.select.statement.overrides", Ignored(NO_SNAPSHOT)),
    ("snapshot.delay.ms", Ignored(NO_SNAPSHOT)), ("streaming.delay.ms", Ignored(NO_SNAPSHOT)),
    ("snapshot.tables.order.by.row.count", Ignored(NO_SNAPSHOT)), ("snapshot.mode.custom.name", Ignored(NO_SNAPSHOT)),
    ("snapshot.query.mode.custom.name", Ignored(NO_SNAPSHOT)), ("snapshot.locking.mode.custom.name", Ignored(NO_SNAPSHOT)),
    ("snapshot.mode.configuration.based.snapshot.data", Ignored(NO_SNAPSHOT)),
    ("snapshot.mode.configuration.based.snapshot.schema", Ignored(NO_SNAPSHOT)),
    ("snapshot.mode.configuration.based.start.stream", Ignored(NO_SNAPSHOT)),
    ("snapshot.mode.configuration.based.snapshot.on.schema.error", Ignored(NO_SNAPSHOT)),
    ("snapshot.mode.configuration.based.snapshot.on.data.error", Ignored(NO_SNAPSHOT)),
    ("incremental.snapshot.chunk.size", Ignored(NO_SNAPSHOT)), ("incremental.snapshot.watermarking.strategy", Ignored(NO_SNAPSHOT)),
    ("incremental.snapshot.allow.schema.changes", Ignored(NO_SNAPSHOT)),
    ("signal.data.collection", Ignored(NO_SIGNALS)), ("signal.enabled.channels", Ignored(NO_SIGNALS)),
    ("signal.poll.interval.ms", Ignored(NO_SIGNALS)), ("signal.file", Ignored(NO_SIGNALS)),
    ("signal.emit.failure.max.retries", Ignored(NO_SIGNALS)), ("signal.emit.failure.backoff.ms", Ignored(NO_SIGNALS)),
    ("signal.kafka.topic", Ignored(NO_SIGNALS)), ("signal.kafka.groupId", Ignored(NO_SIGNALS)),
    ("signal.kafka.bootstrap.servers", Elsewhere), ("signal.kafka.poll.timeout.ms", Ignored(NO_SIGNALS)),
    ("notification.enabled.channels", Ignored(METRICS)), ("notification.sink.topic.name", Ignored(METRICS)),
    // Heartbeats, queue, batches.
    ("heartbeat.interval.ms", Ignored(IDLE)), ("heartbeat.action.query", Ignored(IDLE)),
    ("topic.heartbeat.prefix", Ignored(IDLE)), ("topic.heartbeat.name", Ignored(IDLE)), ("heartbeat.topics.prefix", Ignored(IDLE)),
    ("max.batch.size", Ignored(NO_QUEUE)), ("max.queue.size", Ignored(NO_QUEUE)),
    ("max.queue.size.in.bytes", Ignored(NO_QUEUE)), ("poll.interval.ms", Ignored("nothing is polled")),
    ("poll.dispatch.interval.ms", Ignored("nothing is polled")), ("queue.provider.type", Ignored(NO_QUEUE)),
    // How values look.
    ("time.precision.mode", Same(&["adaptive", "adaptive_time_microseconds"], TYPES, TYPES_ADVICE)),
    ("decimal.handling.mode", Ignored("numeric columns are their text")),
    ("money.fraction.digits", Ignored("money columns are their text")),
    ("hstore.handling.mode", Ignored("hstore columns are their text")),
    ("interval.handling.mode", Ignored("interval columns are their text")),
    ("binary.handling.mode", Same(&["bytes"], "a bytea payload is sent as its bytes", "let consumers read bytes")),
    ("include.unknown.datatypes", Ignored("columns of every type are their text")),
    ("unavailable.value.placeholder", Ignored("an insert has all its values")),
    ("schema.refresh.mode", Ignored("the stream itself says how tables look")),
    ("schema.name.adjustment.mode", Ignored("nothing has a schema name")),
    ("field.name.adjustment.mode", Ignored("JSON has no illegal field names")),
    ("schema.history.internal", Ignored("there is no schema history")),
    ("converters", Unsupported("there are no converters of single columns", TYPES_ADVICE)),
    ("post.processors", Unsupported("there are no post processors", MASK_ADVICE)),
    ("extended.headers.enabled", Ignored("the four __debezium.context headers are never written")),
    ("sanitize.field.names", Ignored("JSON has no illegal field names")),
    // Topics and records of Debezium itself.
    ("topic.naming.strategy", Ignored(NO_CDC)), ("topic.delimiter", Ignored(NO_CDC)), ("topic.cache.size", Ignored(NO_CDC)),
    ("topic.transaction", Ignored("positions say which transaction an event is of")),
    ("provide.transaction.metadata", Ignored("positions say which transaction an event is of")),
    ("transaction.metadata.factory", Ignored(NO_CLASS)),
    ("tombstones.on.delete", Ignored("a deleted outbox row is no event")),
    ("custom.metric.tags", Ignored(METRICS)), ("statistics.metrics.enabled", Ignored(METRICS)),
    // Errors.
    ("errors.tolerance", Ignored(HALTS)), ("errors.max.retries", Ignored(RETRIES)),
    ("errors.retry.timeout", Ignored(RETRIES)), ("errors.retry.delay.max.ms", Ignored(RETRIES)),
    ("errors.retry.delay.initial.ms", Ignored(RETRIES)),
    ("errors.log.enable", Ignored("errors are logged once, never with their payload")),
    ("errors.log.include.messages", Ignored("errors are logged once, never with their payload")),
    ("retriable.restart.connector.wait.ms", Ignored(RETRIES)), ("custom.retriable.exception", Ignored(RETRIES)),
    ("event.processing.failure.handling.mode", Ignored(HALTS)), ("event.converting.failure.handling.mode", Ignored(HALTS)),
    ("executor.shutdown.timeout.ms", Ignored("stopping commits what is open within 20 s")),
    // Connect.
    ("config.action.reload", Ignored(WORKER)), ("topic.creation.groups", Ignored("only the default group is read: make other topics beforehand")),
    ("key.converter", Elsewhere), ("value.converter", Elsewhere), ("header.converter", Elsewhere),
    ("config.providers", Ignored("secrets come from ${env:..} and ${file:..}")),
    ("topic.creation.default.partitions", Elsewhere), ("topic.creation.default.replication.factor", Elsewhere),
    // The producer.
    ("producer.override.acks", Ignored(TRANSACTIONAL)), ("producer.override.enable.idempotence", Ignored(TRANSACTIONAL)),
    ("producer.override.retries", Ignored(TRANSACTIONAL)), ("producer.override.transactional.id", Ignored(TRANSACTIONAL)),
    ("producer.override.transaction.timeout.ms", Ignored("kafka.transaction.timeout has a default of 30 s")),
    ("producer.override.max.in.flight.requests.per.connection", Ignored(TRANSACTIONAL)),
    ("producer.override.delivery.timeout.ms", Ignored(RETRIES)), ("producer.override.request.timeout.ms", Ignored(RETRIES)),
    ("producer.override.retry.backoff.ms", Ignored(RETRIES)), ("producer.override.max.block.ms", Ignored(RETRIES)),
    ("producer.override.linger.ms", Ignored(PACED)), ("producer.override.batch.size", Ignored(PACED)),
    ("producer.override.buffer.memory", Ignored(NO_QUEUE)), ("producer.override.client.id", Ignored("it only names the client")),
    ("producer.override.max.request.size", Ignored("the topic's max.message.bytes is the limit")),
    ("producer.override.partitioner.class", Unsupported("keys go where Kafka's own partitioner sends them", "remove it, where it is Kafka's own; otherwise keys would change their partition")),
    ("producer.override.interceptor.classes", Ignored(NO_CLASS)),
    ("producer.override.bootstrap.servers", Elsewhere), ("producer.override.compression.type", Elsewhere),
    ("producer.override.security.protocol", Elsewhere), ("producer.override.sasl.mechanism", Elsewhere),
    ("producer.override.sasl.jaas.config", Elsewhere),
    ("producer.override.key.serializer", Ignored(NO_CLASS)), ("producer.override.value.serializer", Ignored(NO_CLASS)),
    // Debezium Server.
    ("debezium.sink.type", Same(&["kafka"], "events go to Kafka only", "keep Debezium Server for other sinks")),
    ("offset.storage", Ignored("positions are in the checkpoint topic")),
    ("offset.storage.file.filename", Ignored("positions are in the checkpoint topic")),
    ("offset.flush.interval.ms", Ignored("positions are written with the events")),
    ("offset.flush.timeout.ms", Ignored("positions are written with the events")),
];

/// Families of keys whose names the user or a library makes.
#[rustfmt::skip]
const FAMILIES: &[(&str, Rule)] = &[
    ("snapshot.select.statement.overrides.", Ignored(NO_SNAPSHOT)),
    ("column.mask.", Unsupported(MASK, MASK_ADVICE)), ("column.truncate.", Unsupported(MASK, MASK_ADVICE)),
    ("column.propagate.source.type", Ignored(NO_CDC)), ("datatype.propagate.source.type", Ignored(NO_CDC)),
    ("openlineage.", Ignored("lineage is not reported")), ("schema.history.internal.", Ignored("there is no schema history")),
    ("internal.", Ignored("it is internal to Debezium")), ("driver.", Ignored("there is no JDBC driver")),
    ("errors.deadletterqueue.", Ignored(HALTS)),
    ("producer.override.ssl.", Unsupported("key stores of Java are not read", "export PEM files and name them: kafka.tls: { ca, cert, key }")),
    ("producer.override.sasl.", Unsupported("this way to log in is not taken over by the importer", "see kafka.sasl")),
    ("producer.override.metric", Ignored(METRICS)), ("producer.override.metadata", Ignored(RETRIES)),
    ("producer.override.reconnect", Ignored(RETRIES)), ("producer.override.connections", Ignored(RETRIES)),
    ("producer.override.send", Ignored(PACED)), ("producer.override.receive", Ignored(PACED)),
    ("consumer.override.", Ignored("it concerns consumers of Connect")), ("admin.override.", Ignored(WORKER)),
    ("config.providers.", Ignored("secrets come from ${env:..} and ${file:..}")),
    ("topic.creation.", Unsupported("only partitions and replication.factor are set for new topics", "make the topics beforehand with these settings")),
    ("offset.storage.", Ignored("positions are in the checkpoint topic")),
    ("quarkus.", Ignored("there is no Quarkus")), ("debezium.sink.kafka.", Ignored("the sink has no options of its own")),
    ("debezium.api.", Ignored(METRICS)),
];

/// Settles every key that is left and known.
pub(super) fn settle(keys: &mut Keys) {
    for name in keys.open("") {
        let rule = KNOWN.iter().find(|(known, _)| *known == name);
        let rule = rule.or_else(|| FAMILIES.iter().find(|(prefix, _)| name.starts_with(prefix)));
        let fate = match rule {
            Some((_, Same(values, why, todo))) => {
                let value = keys.value(&name).unwrap_or_default().to_ascii_lowercase();
                same(&name, values.contains(&value.as_str()), why, todo)
            }
            Some((_, Ignored(why))) => Fate::ignored(*why),
            Some((_, Unsupported(why, todo))) => Fate::unsupported(*why, *todo),
            Some((_, Elsewhere)) | None => continue,
        };
        keys.settle(&name, fate);
    }
}

fn same(name: &str, same: bool, why: &str, todo: &str) -> Fate {
    match (name, same) {
        ("snapshot.mode", true) => Fate::ignored(NO_SNAPSHOT),
        (_, true) => Fate::Default("it is so anyway".to_owned()),
        (_, false) => Fate::unsupported(why, todo),
    }
}

/// The known key that resembles this one most.
pub(super) fn resembling(name: &str) -> Option<String> {
    /// Options of a router, for the part behind its alias.
    const ROUTER: &[&str] = &[
        "type",
        "predicate",
        "negate",
        "table.op.invalid.behavior",
        "table.field.event.id",
        "table.field.event.key",
        "table.field.event.type",
        "table.field.event.payload",
        "table.field.event.timestamp",
        "table.field.event.schema.version",
        "table.fields.additional.placement",
        "table.field.additional.missing",
        "table.expand.json.payload",
        "table.json.payload.null.behavior",
        "table.json.payload.empty.array.behavior",
        "route.by.field",
        "route.topic.regex",
        "route.topic.replacement",
        "route.tombstone.on.empty.payload",
        "tracing.span.context.field",
        "tracing.operation.name",
        "tracing.with.context.field.only",
    ];
    let split = name.strip_prefix("transforms.").and_then(|rest| rest.split_once('.'));
    let (lead, option) =
        split.map_or((String::new(), name), |(alias, option)| (format!("transforms.{alias}."), option));
    let known = KNOWN.iter().map(|(known, _)| *known).filter(|_| lead.is_empty());
    let router = ROUTER.iter().copied().filter(|_| !lead.is_empty());
    let scored = known.chain(router).map(|known| (strsim::jaro_winkler(option, known), known));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    // Below this, names only begin alike.
    (best.0 > 0.9).then(|| format!("{lead}{}", best.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_key() {
        for (name, known) in [
            ("slot.nmae", Some("slot.name")),
            ("snapshot.moed", Some("snapshot.mode")),
            ("transforms.outbox.route.by.feild", Some("transforms.outbox.route.by.field")),
            ("completely.different", None),
        ] {
            assert_eq!(resembling(name).as_deref(), known, "{name}");
        }
    }

    #[test]
    fn no_key_is_listed_twice() {
        let mut seen = std::collections::HashSet::new();
        for (name, _) in KNOWN {
            assert!(seen.insert(name), "{name}");
        }
    }
}
