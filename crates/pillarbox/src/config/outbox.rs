//! The `outbox` section: one table or a list of them.

use pillarbox_relay::config::{HeaderColumn, Outbox, TableName, TopicTemplate};
use pillarbox_relay::error::Code;

use super::problem::Problem;
use super::reader::{Context, Section};
use super::tree::{Node, Value};

/// Headers that Pillarbox writes itself.
const RESERVED_HEADERS: &[&str] = &["id", "pb-pos", "pb-part", "pb-ts", "pb-orig-pos"];

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
        .and_then(|scalar| super::reader::parsed(context, &section.option("table"), &scalar, table_name));
    let mut outbox = Outbox::debezium(
        name.clone().unwrap_or_else(|| TableName { schema: String::new(), name: String::new() }),
    );
    columns(&section, &mut outbox);
    let template =
        section.parse("topic", |text| TopicTemplate::parse(text).map_err(|error| error.to_string()));
    outbox.topic = template.unwrap_or(outbox.topic);
    outbox.headers = headers(context, &section);
    section.unsupported("key_format", &["text"], "remove it, or write `key_format: text`");
    section.unsupported("on_error", &["stop"], "remove it, or write `on_error: stop`");
    section.finish();
    name.map(|_| outbox)
}

fn columns(section: &Section<'_>, outbox: &mut Outbox) {
    let Some(columns) = section.section("columns") else { return };
    for (key, column) in [
        ("id", &mut outbox.id_column),
        ("key", &mut outbox.key_column),
        ("payload", &mut outbox.payload_column),
    ] {
        if let Some(name) = columns.parse(key, column_name) {
            *column = name;
        }
    }
    columns.finish();
}

pub(super) fn headers(context: &Context<'_>, section: &Section<'_>) -> Vec<HeaderColumn> {
    let Some(node) = section.node("headers") else { return Vec::new() };
    let option = section.option("headers");
    let Value::List(items) = &node.value else {
        let message = format!("{option} must be a list, found {}", node.value.kind());
        let hint = "write headers: [{ column: type, name: eventType }]";
        context.report(Problem::new(Code::ConfigValue, option, message).at(Some(node.place)).hint(hint));
        return Vec::new();
    };
    let read = items.iter().enumerate().filter_map(|(n, item)| {
        let section = Section::open(context, &format!("{option}[{n}]"), item)?;
        let column = section.required("column", "name the column that becomes a header");
        let name = section.parse("name", header_name);
        section.finish();
        let column = column?.text;
        Some(HeaderColumn { name: name.unwrap_or_else(|| column.clone()), column })
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

fn column_name(text: &str) -> Result<String, String> {
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
