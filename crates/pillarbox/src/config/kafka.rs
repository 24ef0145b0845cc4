//! The `kafka` section.

mod security;

use std::time::Duration;

use pillarbox_relay::config::{Compression, Kafka, TRANSACTION_IDS_OWNED, Topics, Transaction};
use pillarbox_relay::error::Code;

use super::problem::Problem;
use super::reader::{Context, Section, parsed, scalar};
use super::tree::Value;
use super::units;

/// Smallest `transaction.max_bytes`: below, every ordinary transaction would be split.
const TRANSACTION_BYTES_MIN: u64 = 64 << 10;

/// Largest `transaction.max_bytes`: the relay holds several such transactions in memory.
const TRANSACTION_BYTES_MAX: u64 = 64 << 20;

/// Largest `transaction.max_events`: about what the largest `max_bytes` holds at 64 bytes each.
const TRANSACTION_EVENTS_MAX: usize = 1_000_000;

/// Shortest `transaction.timeout`: a slow broker may need seconds to answer.
const TRANSACTION_TIMEOUT_MIN: Duration = Duration::from_secs(5);

/// Longest `transaction.timeout`: the broker's default `transaction.max.timeout.ms`.
const TRANSACTION_TIMEOUT_MAX: Duration = Duration::from_secs(15 * 60);

/// Most partitions of a created topic: Kafka itself sets no limit; a typing error should not make a
/// million of them.
const PARTITIONS_MAX: i32 = 10_000;

/// Reads the section; `None` when something was reported.
pub(super) fn read(context: &Context<'_>, section: &Section<'_>) -> Option<Kafka> {
    let brokers = brokers(context, section);
    let tls = security::tls(context, section);
    let sasl = security::sasl(context, section);
    let compression = section
        .parse("compression", |text| text.parse::<Compression>().map_err(|expected| expected.to_string()));
    let topics = topics(section);
    let transaction = transaction(section);
    Some(Kafka {
        brokers: brokers?,
        compression: compression.unwrap_or_default(),
        tls: tls?,
        sasl: sasl?,
        topics,
        transaction,
    })
}

fn brokers(context: &Context<'_>, section: &Section<'_>) -> Option<Vec<String>> {
    let hint = "write brokers: [\"host:9092\"]";
    let option = section.option("brokers");
    let Some(node) = section.node("brokers") else {
        section.missing("brokers", hint);
        return None;
    };
    let broker = |option: &str, text: &str, place| {
        let scalar = super::reader::Scalar { text: text.to_owned(), place, referenced: false };
        parsed(context, option, &scalar, broker)
    };
    match &node.value {
        Value::List(items) if !items.is_empty() => {
            let read = items.iter().enumerate().map(|(n, item)| {
                let option = format!("{option}[{n}]");
                scalar(context, &option, item).and_then(|text| parsed(context, &option, &text, self::broker))
            });
            // Collected first, so that every broker is looked at.
            read.collect::<Vec<_>>().into_iter().collect()
        }
        // One value, such as a variable with a comma-separated list.
        Value::Scalar(_) => {
            let list = scalar(context, &option, node)?;
            let read = list.text.split(',').map(|text| broker(&option, text.trim(), list.place));
            read.collect::<Vec<_>>().into_iter().collect()
        }
        Value::List(_) | Value::Null => {
            let problem = Problem::new(Code::ConfigValue, &option, format!("{option} names no broker"));
            context.report(problem.at(Some(node.place)).hint(hint));
            None
        }
        Value::Map(_) => {
            let problem =
                Problem::new(Code::ConfigValue, &option, format!("{option} must be a list, found a map"));
            context.report(problem.at(Some(node.place)).hint(hint));
            None
        }
    }
}

fn broker(text: &str) -> Result<String, String> {
    let expected = || "expected host:port".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host_is_legal = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(legal),
    };
    let port_is_legal = port.parse::<u16>().is_ok_and(|port| port > 0);
    if host_is_legal && port_is_legal { Ok(text.to_owned()) } else { Err(expected()) }
}

fn topics(section: &Section<'_>) -> Topics {
    let mut topics = Topics::default();
    let Some(section) = section.section("topics") else { return topics };
    topics.create = section.boolean("create").unwrap_or(topics.create);
    topics.partitions =
        section.parse("partitions", |text| count(text, PARTITIONS_MAX)).unwrap_or(topics.partitions);
    topics.replication_factor = section
        .parse("replication_factor", |text| count(text, i16::MAX))
        .unwrap_or(topics.replication_factor);
    section.finish();
    topics
}

/// A positive count, or -1 for the broker's default.
fn count<T: std::str::FromStr + PartialOrd + From<i8> + std::fmt::Display>(
    text: &str,
    max: T,
) -> Result<T, String> {
    let legal = |n: &T| *n == T::from(-1) || (*n >= T::from(1) && *n <= max);
    let value = text.parse().ok().filter(legal);
    value.ok_or_else(|| format!("expected 1 to {max}, or -1 for the broker's default"))
}

fn transaction(section: &Section<'_>) -> Transaction {
    let mut transaction = Transaction::default();
    let Some(section) = section.section("transaction") else { return transaction };
    let bytes_max = section.parse("max_bytes", |text| {
        let bytes = units::bytes(text)?;
        let legal = (TRANSACTION_BYTES_MIN..=TRANSACTION_BYTES_MAX).contains(&bytes);
        // Within the bounds, so it fits a usize.
        if legal { Ok(bytes as usize) } else { Err("expected a size from 64KiB to 64MiB".to_owned()) }
    });
    let timeout = section.parse("timeout", |text| {
        let timeout = units::duration(text)?;
        let legal = (TRANSACTION_TIMEOUT_MIN..=TRANSACTION_TIMEOUT_MAX).contains(&timeout);
        if legal { Ok(timeout) } else { Err("expected a duration from 5s to 15m".to_owned()) }
    });
    transaction.bytes_max = bytes_max.unwrap_or(transaction.bytes_max);
    transaction.events_max =
        section.integer("max_events", 1, TRANSACTION_EVENTS_MAX).unwrap_or(transaction.events_max);
    transaction.ids = section.integer("ids", 1, TRANSACTION_IDS_OWNED).unwrap_or(transaction.ids);
    transaction.timeout = timeout.unwrap_or(transaction.timeout);
    section.finish();
    transaction
}
