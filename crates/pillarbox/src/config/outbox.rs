//! The `outbox` section: one table or a list of them.

use pillarbox_relay::config::{
    EmptyPayload, EnvelopeColumn, Expand, Format, HEADERS_MAX, HeaderColumn, Housekeeping, Missing, OnError,
    OtherShard, Outbox, Shard, TableName, TopicPattern, TopicTemplate, Updates,
};
use pillarbox_relay::error::Code;
use pillarbox_relay::outbox::TOPIC_PARTS_MAX;
use pillarbox_wire::topic::validate_topic_name;

use super::problem::Problem;
use super::reader::{Context, Section, parsed, scalar};
use super::tree::{Node, Value};

/// Headers that Pillarbox writes itself.
const RESERVED_HEADERS: &[&str] = &["id", "pb-pos", "pb-part", "pb-ts", "pb-orig-pos"];

/// Debezium's defaults for a topic by rule.
const ROUTE_BY: &str = "aggregatetype";
const ROUTE_REGEX: &str = "(?<routedByValue>.*)";
const ROUTE_TO: &str = "outbox.event.${routedByValue}";

/// The field of an envelope that holds the payload.
const PAYLOAD_FIELD: &str = "payload";

/// Most outbox tables of a pipeline: each costs a look-up per relation message; more than this is
/// a generated file gone wrong.
const TABLES_MAX: usize = 1_000;

/// Reads the section; `None` when something was reported.
pub(super) fn read(context: &Context<'_>, root: &Section<'_>) -> Option<Vec<Outbox>> {
    let hint = "write outbox: { table: public.outbox }, or messages: { prefix: outbox }";
    let Some(node) = root.node("outbox") else {
        root.missing("outbox", hint);
        return None;
    };
    let nodes: Vec<(String, &Node)> = match &node.value {
        Value::List(items) => {
            items.iter().enumerate().map(|(n, item)| (format!("outbox[{n}]"), item)).collect()
        }
        _ => vec![("outbox".to_owned(), node)],
    };
    if nodes.is_empty() || nodes.len() > TABLES_MAX {
        let message = format!("outbox must name 1 to {TABLES_MAX} tables, found {}", nodes.len());
        context.report(Problem::new(Code::ConfigValue, "outbox", message).at(Some(node.place)).hint(hint));
        return None;
    }
    // Collected first, so that every table is looked at.
    let read: Vec<Option<Outbox>> = nodes.iter().map(|(path, node)| table(context, path, node)).collect();
    let mut seen = Vec::new();
    for ((path, node), outbox) in nodes.iter().zip(&read) {
        let Some(outbox) = outbox else { continue };
        if seen.contains(&&outbox.table) {
            let message = format!("{path}: table {} is listed twice", outbox.table);
            context.report(Problem::new(Code::ConfigValue, path, message).at(Some(node.place)));
        }
        seen.push(&outbox.table);
    }
    read.into_iter().collect()
}

fn table(context: &Context<'_>, path: &str, node: &Node) -> Option<Outbox> {
    let section = Section::open(context, path, node)?;
    let name = section
        .required("table", "write table: public.outbox")
        .and_then(|scalar| parsed(context, &section.option("table"), &scalar, table_name));
    let mut outbox = Outbox::debezium(
        name.clone().unwrap_or_else(|| TableName { schema: String::new(), name: String::new() }),
    );
    columns(&section, &mut outbox);
    outbox.topics_allowed = topics_allowed(context, &section);
    topic(context, &section, &mut outbox);
    outbox.headers = headers(context, &section);
    outbox.envelope = envelope(context, &section);
    outbox.partition_column = section.parse("partition", column_name);
    outbox.missing = section.choice("missing_columns", MISSING).unwrap_or_default();
    outbox.key_format = section.choice("key_format", FORMAT).unwrap_or_default();
    value(&section, &mut outbox);
    outbox.empty_payload = section.choice("empty_payload", EMPTY_PAYLOAD).unwrap_or_default();
    outbox.updates = section.choice("on_update", UPDATES).unwrap_or_default();
    outbox.trace_column = section.parse("trace", column_name);
    headers_fit(&section, &outbox);
    outbox.on_error = section.choice("on_error", ON_ERROR).unwrap_or_default();
    outbox.housekeeping = super::housekeeping::read(&section);
    outbox.shard = section.parse("shard", Shard::parse);
    outbox.other_shard = section.choice("on_other_shard", OTHER_SHARD).unwrap_or_default();
    if outbox.shard.is_some() && outbox.housekeeping != Housekeeping::None {
        let message = "one pipeline does not know what the others of the table have relayed".to_owned();
        section.wrong(
            "housekeeping",
            message,
            "remove rows by a job of your own, or relay the table by one pipeline",
        );
    }
    section.finish();
    name.map(|_| outbox)
}

/// The words of the options that have only some.
pub(super) const FORMAT: &[(&str, Format)] = &[("text", Format::Text), ("json", Format::Json)];
pub(super) const KEPT: &[(&str, bool)] = &[("drop", false), ("keep", true)];
pub(super) const EMPTY_PAYLOAD: &[(&str, EmptyPayload)] =
    &[("keep", EmptyPayload::Keep), ("tombstone", EmptyPayload::Tombstone)];
pub(super) const UPDATES: &[(&str, Updates)] =
    &[("warn", Updates::Warn), ("error", Updates::Error), ("stop", Updates::Stop)];
pub(super) const OTHER_SHARD: &[(&str, OtherShard)] =
    &[("stop", OtherShard::Stop), ("skip", OtherShard::Skip)];
pub(super) const MISSING: &[(&str, Missing)] = &[("stop", Missing::Stop), ("ignore", Missing::Ignore)];
pub(super) const ON_ERROR: &[(&str, OnError)] =
    &[("stop", OnError::Stop), ("dead_letter", OnError::DeadLetter)];

/// A template, or Debezium's rule as a map.
fn topic(context: &Context<'_>, section: &Section<'_>, outbox: &mut Outbox) {
    let Some(node) = section.node("topic") else { return };
    if let Value::Map(_) = node.value {
        let Some(rule) = Section::open(context, &section.option("topic"), node) else { return };
        let by = rule.parse("by", column_name).unwrap_or_else(|| ROUTE_BY.to_owned());
        let regex = written(&rule, "regex").unwrap_or_else(|| ROUTE_REGEX.to_owned());
        let replacement = written(&rule, "replacement").unwrap_or_else(|| ROUTE_TO.to_owned());
        rule.finish();
        match TopicPattern::parse(&regex, &replacement) {
            Ok(pattern) => {
                outbox.topic = TopicTemplate::column(by);
                outbox.pattern = Some(pattern);
            }
            Err(error) => section.wrong("topic", error.to_string(), "see docs/debezium.md, topics"),
        }
        return;
    }
    let listed = outbox.topics_allowed.is_some();
    let parse = if listed { TopicTemplate::parse_listed } else { TopicTemplate::parse };
    let template = section.parse("topic", |text| {
        let template = parse(text).map_err(|error| error.to_string())?;
        let pieces = template.parts().len();
        if pieces > TOPIC_PARTS_MAX {
            return Err(format!("expected at most {TOPIC_PARTS_MAX} pieces, it has {pieces}"));
        }
        Ok(template)
    });
    if let Some(template) = template {
        outbox.topic = template;
    }
}

/// The text as it is written: `${routedByValue}` refers to a group, not to the outside.
fn written(rule: &Section<'_>, key: &'static str) -> Option<String> {
    match &rule.node(key)?.value {
        Value::Scalar(text) => Some(text.clone()),
        _ => rule.text(key).map(|scalar| scalar.text),
    }
}

fn topics_allowed(context: &Context<'_>, section: &Section<'_>) -> Option<Vec<String>> {
    let node = section.node("topics_allowed")?;
    let option = section.option("topics_allowed");
    let Value::List(items) = &node.value else {
        section.wrong(
            "topics_allowed",
            "expected a list of topics".to_owned(),
            "write topics_allowed: [orders]",
        );
        return None;
    };
    let legal = |text: &str| validate_topic_name(text.as_bytes()).map_err(|error| error.to_string());
    let read = items.iter().enumerate().filter_map(|(n, item)| {
        let option = format!("{option}[{n}]");
        let name = scalar(context, &option, item)?;
        parsed(context, &option, &name, legal)?;
        Some(name.text)
    });
    Some(read.collect())
}

fn columns(section: &Section<'_>, outbox: &mut Outbox) {
    let Some(columns) = section.section("columns") else { return };
    for (key, column) in [
        ("id", &mut outbox.id_column),
        ("key", &mut outbox.key_column),
        ("type", &mut outbox.type_column),
        ("payload", &mut outbox.payload_column),
    ] {
        if let Some(name) = columns.parse(key, column_name) {
            *column = name;
        }
    }
    outbox.timestamp_column = columns.parse("timestamp", column_name);
    outbox.version_column = columns.parse("schema_version", column_name);
    columns.finish();
}

/// How the value is written: an envelope and what is expanded are JSON, and say so by being there.
fn value(section: &Section<'_>, outbox: &mut Outbox) {
    let expand = section.boolean("expand_json").unwrap_or(false);
    let (nulls, empty_arrays) =
        (section.choice("json_nulls", KEPT), section.choice("json_empty_arrays", KEPT));
    outbox.expand = expand.then(|| Expand {
        keep_nulls: nulls.unwrap_or_default(),
        keep_empty_arrays: empty_arrays.unwrap_or_default(),
    });
    for (key, set) in [("json_nulls", nulls.is_some()), ("json_empty_arrays", empty_arrays.is_some())] {
        if set && !expand {
            section.wrong(key, "nothing is expanded".to_owned(), "write `expand_json: true`, or remove it");
        }
    }
    let needs_json = expand || !outbox.envelope.is_empty();
    let format = section.choice("value_format", FORMAT);
    outbox.value_format = format.unwrap_or(if needs_json { Format::Json } else { Format::Text });
    if needs_json && outbox.value_format == Format::Text {
        let message = "an envelope and an expanded payload are JSON".to_owned();
        section.wrong("value_format", message, "write `value_format: json`, or remove it");
    }
}

fn headers_fit(section: &Section<'_>, outbox: &Outbox) {
    let count = outbox.header_names().count();
    if count > HEADERS_MAX {
        let message =
            format!("at most {HEADERS_MAX} columns become headers, a trace counts as 3, found {count}");
        section.wrong("headers", message, "place fewer columns");
    }
}

pub(super) fn headers(context: &Context<'_>, section: &Section<'_>) -> Vec<HeaderColumn> {
    let hint = "write headers: [{ column: type, name: eventType }]";
    let read = placements(context, section, "headers", hint, header_name);
    read.into_iter().map(|(column, name)| HeaderColumn { column, name }).collect()
}

fn envelope(context: &Context<'_>, section: &Section<'_>) -> Vec<EnvelopeColumn> {
    let hint = "write envelope: [{ column: type, name: eventType }]";
    let read = placements(context, section, "envelope", hint, column_name);
    let mut seen = vec![PAYLOAD_FIELD];
    for (_, name) in &read {
        if seen.contains(&name.as_str()) {
            let message = format!("the envelope has two fields `{name}`");
            section.wrong("envelope", message, "give one of them another name");
        }
        seen.push(name);
    }
    read.into_iter().map(|(column, name)| EnvelopeColumn { column, name }).collect()
}

/// A list of columns with the names they get.
fn placements(
    context: &Context<'_>,
    section: &Section<'_>,
    key: &'static str,
    hint: &str,
    parse: fn(&str) -> Result<String, String>,
) -> Vec<(String, String)> {
    let Some(node) = section.node(key) else { return Vec::new() };
    let option = section.option(key);
    let Value::List(items) = &node.value else {
        let message = format!("{option} must be a list, found {}", node.value.kind());
        context.report(Problem::new(Code::ConfigValue, option, message).at(Some(node.place)).hint(hint));
        return Vec::new();
    };
    let read = items.iter().enumerate().filter_map(|(n, item)| {
        let section = Section::open(context, &format!("{option}[{n}]"), item)?;
        let column = section.required("column", "name the column that is placed");
        let name = section.parse("name", parse);
        section.finish();
        let column = column?.text;
        Some((column.clone(), name.unwrap_or(column)))
    });
    read.collect()
}

fn header_name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("expected a header name".to_owned());
    }
    if RESERVED_HEADERS.contains(&text) {
        return Err("expected a name that Pillarbox does not write itself".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn column_name(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("expected a column name".to_owned()) } else { Ok(text.to_owned()) }
}

/// `table`, `schema.table`, either part in double quotes. Names are as the catalogue holds them:
/// nothing is folded to lower case.
fn table_name(text: &str) -> Result<TableName, String> {
    let expected = || "expected schema.table".to_owned();
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, tail) = identifier(rest).ok_or_else(expected)?;
        parts.push(part);
        match tail.strip_prefix('.') {
            Some(tail) => rest = tail,
            None if tail.is_empty() => break,
            None => return Err(expected()),
        }
    }
    match <[String; 2]>::try_from(parts) {
        Ok([schema, name]) => Ok(TableName { schema, name }),
        Err(mut parts) if parts.len() == 1 => {
            Ok(TableName { schema: "public".to_owned(), name: parts.remove(0) })
        }
        Err(_) => Err(expected()),
    }
}

fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find(['.', '"']).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    loop {
        let end = rest.find('"')?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(tail) => {
                name.push('"');
                rest = tail;
            }
            None => return (!name.is_empty()).then_some((name, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names() {
        for (text, parsed) in [
            ("outbox", Some(("public", "outbox"))),
            ("shop.outbox", Some(("shop", "outbox"))),
            ("\"My Shop\".\"a.b\"", Some(("My Shop", "a.b"))),
            ("x.\"say \"\"hi\"\"\"", Some(("x", "say \"hi\""))),
            ("", None),
            ("a.", None),
            (".a", None),
            ("a.b.c", None),
            ("\"a", None),
            ("\"\"", None),
            ("a\"b\"", None),
        ] {
            let name = table_name(text).ok();
            let name = name.as_ref().map(|name| (name.schema.as_str(), name.name.as_str()));
            assert_eq!(name, parsed, "{text}");
        }
    }
}
