//! The `messages` section: events without a table.

use pillarbox_relay::config::{
    HeaderColumn, MESSAGE_COLUMNS, Messages, OWN_HEADERS_MAX, PlainPart, TopicPart, TopicTemplate,
};
use pillarbox_relay::error::Code;
use pillarbox_relay::outbox::HEADERS_MAX;

use super::outbox::{ON_ERROR, headers};
use super::problem::Problem;
use super::reader::{Context, Section};

/// Prefixes of messages that are not events.
const RESERVED_PREFIX: &str = "pillarbox.";

/// Columns that become headers, beside those that a call of `pillarbox.emit()` adds.
const HEADERS_MOST: usize = HEADERS_MAX - OWN_HEADERS_MAX;

/// Reads the section; `Some(None)` when there is none, `None` when something was reported.
pub(super) fn read(context: &Context<'_>, root: &Section<'_>) -> Option<Option<Messages>> {
    let Some(node) = root.node("messages") else { return Some(None) };
    let section = Section::open(context, "messages", node)?;
    let prefix = section.required("prefix", "write prefix: outbox");
    let prefix = prefix
        .and_then(|scalar| super::reader::parsed(context, &section.option("prefix"), &scalar, prefix_text));
    let mut messages = Messages::new(prefix.clone().unwrap_or_default());
    let template = section.parse("topic", topic);
    messages.outbox.topic = template.unwrap_or(messages.outbox.topic);
    messages.outbox.headers = headers(context, &section);
    if let Some(problem) = wrong_headers(&messages.outbox.headers) {
        let option = section.option("headers");
        let place = section.node("headers").map(|node| node.place);
        context.report(Problem::new(Code::ConfigValue, &option, format!("{option}: {problem}")).at(place));
    }
    if let Some(plain) = section.section("plain") {
        for (key, part) in [
            ("id", &mut messages.plain.id),
            ("aggregatetype", &mut messages.plain.aggregate_type),
            ("aggregateid", &mut messages.plain.aggregate_id),
            ("type", &mut messages.plain.event_type),
        ] {
            if let Some(read) = plain.section(key).and_then(|section| plain_part(context, section)) {
                *part = read;
            }
        }
        plain.finish();
    }
    messages.outbox.on_error = section.choice("on_error", ON_ERROR).unwrap_or_default();
    section.finish();
    prefix.map(|_| Some(messages))
}

fn prefix_text(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with(RESERVED_PREFIX) {
        return Err(format!("expected a prefix that does not begin with {RESERVED_PREFIX}"));
    }
    Ok(text.to_owned())
}

fn topic(text: &str) -> Result<TopicTemplate, String> {
    let template = TopicTemplate::parse(text).map_err(|error| error.to_string())?;
    let unknown = template.parts().iter().any(|part| match part {
        TopicPart::Column(column) => !MESSAGE_COLUMNS.contains(&column.as_str()),
        TopicPart::Literal(_) => false,
    });
    if unknown { Err(format!("expected columns of {}", MESSAGE_COLUMNS.join(", "))) } else { Ok(template) }
}

fn wrong_headers(headers: &[HeaderColumn]) -> Option<String> {
    if headers.len() > HEADERS_MOST {
        return Some(format!("expected {HEADERS_MOST} headers at most, found {}", headers.len()));
    }
    let unknown = headers.iter().any(|header| !MESSAGE_COLUMNS.contains(&header.column.as_str()));
    unknown.then(|| format!("expected columns of {}", MESSAGE_COLUMNS.join(", ")))
}

/// `{ field: NAME }` or `{ value: TEXT }`.
fn plain_part(context: &Context<'_>, section: Section<'_>) -> Option<PlainPart> {
    let (field, value) = (section.text("field"), section.text("value"));
    let part = match (field, value) {
        (Some(field), None) => Some(PlainPart::Field(field.text)),
        (None, Some(value)) => Some(PlainPart::Value(value.text)),
        _ => {
            let option = section.option("field");
            let message = format!("{option}: expected field or value, one of them");
            context.report(
                Problem::new(Code::ConfigValue, option, message)
                    .at(Some(section.place()))
                    .hint("write { field: NAME }, a field of the JSON content, or { value: TEXT }"),
            );
            None
        }
    };
    section.finish();
    part
}
