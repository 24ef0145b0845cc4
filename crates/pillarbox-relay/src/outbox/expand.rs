//! A JSON payload becomes the value itself, as Debezium's expansion and JsonConverter write it.
//!
//! ```text
//! text -> document -> shape (which fields survive) -> text
//! ```
//!
//! | payload | value |
//! | --- | --- |
//! | an object, an array with something in it | the same, compact; null fields and empty arrays dropped or kept |
//! | an array of objects | every object has the fields of all, `null` where it lacks one |
//! | an array of different types, of integers that need 32 and 64 bits, of nulls or empty arrays first | a string: the payload as it is |
//! | `[]`, a scalar, not JSON, not beginning with `{` or `[` | a string: the payload as it is |
//!
//! Where Debezium's task dies or data vanishes, the document goes out: integers above 2^63, root
//! arrays, fields that have different types or inner fields from object to object. Never fails.

use super::document::{self, Node, Number};
use super::json::write_string;
use super::number::write_f64;
use crate::config::Expand;

/// Writes the payload as JSON: expanded where it can be, a string elsewhere.
pub(super) fn write(payload: &[u8], expand: Expand, out: &mut Vec<u8>) {
    let document = std::str::from_utf8(payload).ok().filter(|text| text.starts_with(['{', '[']));
    let Some(document) = document.and_then(document::parse) else { return write_string(payload, out) };
    // Debezium passes an empty root array on as it is, and so do we.
    let empty = matches!(&document, Node::Array(items) if items.is_empty()) && !expand.keep_empty_arrays;
    match shape(&document, expand) {
        Ok(Some(shape)) if !empty => write_node(&document, &shape, expand, out),
        _ => write_string(payload, out),
    }
}

/// What survives of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    /// The node as it stands.
    Plain,
    Array(Box<Shape>),
    /// Fields in their order.
    Object(Vec<(String, Shape)>),
}

/// An array that has no one type: the whole document stays a string.
#[derive(Debug)]
struct Mixed;

/// The shape of a node; `None` = a field that holds it is dropped.
fn shape(node: &Node, expand: Expand) -> Result<Option<Shape>, Mixed> {
    match node {
        Node::Null => Ok(expand.keep_nulls.then_some(Shape::Plain)),
        Node::Bool(_) | Node::Number(_) | Node::Text(_) => Ok(Some(Shape::Plain)),
        Node::Array(items) if items.is_empty() => Ok(expand.keep_empty_arrays.then_some(Shape::Plain)),
        Node::Array(items) => elements(items, expand).map(|shape| Some(Shape::Array(Box::new(shape)))),
        Node::Object(fields) => {
            let mut shapes = Vec::with_capacity(fields.len());
            for (name, value) in fields {
                // No schema has a field without a name.
                let value = if name.is_empty() { return Err(Mixed) } else { shape(value, expand)? };
                shapes.extend(value.map(|value| (name.clone(), value)));
            }
            Ok(Some(Shape::Object(shapes)))
        }
    }
}

/// The shape that all elements have together.
fn elements(items: &[Node], expand: Expand) -> Result<Shape, Mixed> {
    let mut values = items.iter().filter(|item| !matches!(item, Node::Null));
    let Some(first) = values.clone().next() else {
        return if expand.keep_nulls { Ok(Shape::Plain) } else { Err(Mixed) };
    };
    if values.any(|item| kind(item) != kind(first)) {
        return Err(Mixed);
    }
    // An empty array in front says nothing of its elements.
    let mut all = shape(first, expand)?.ok_or(Mixed)?;
    for item in items.iter().filter(|item| !matches!(item, Node::Null)).skip(1) {
        match shape(item, expand) {
            Ok(Some(shape)) => merge(&mut all, shape),
            // Of arrays in an array only the first is judged.
            Err(Mixed) if matches!(item, Node::Object(_)) => return Err(Mixed),
            Ok(None) | Err(Mixed) => {}
        }
    }
    Ok(all)
}

/// What elements of one array have in common.
#[derive(PartialEq, Eq)]
enum Kind {
    Null,
    Bool,
    Int32,
    Int64,
    Float,
    Text,
    Array,
    Object,
}

fn kind(node: &Node) -> Kind {
    match node {
        Node::Null => Kind::Null,
        Node::Bool(_) => Kind::Bool,
        Node::Number(Number::Integer(number)) if i32::try_from(*number).is_ok() => Kind::Int32,
        Node::Number(Number::Integer(_)) => Kind::Int64,
        Node::Number(Number::Float(..) | Number::Huge(_)) => Kind::Float,
        Node::Text(_) => Kind::Text,
        Node::Array(_) => Kind::Array,
        Node::Object(_) => Kind::Object,
    }
}

fn merge(all: &mut Shape, other: Shape) {
    match (all, other) {
        (Shape::Object(all), Shape::Object(others)) => {
            let mut cursor = 0;
            for (name, shape) in others {
                match find(all, &name, &mut cursor) {
                    Some(at) => merge(&mut all[at].1, shape),
                    None => all.push((name, shape)),
                }
            }
        }
        (Shape::Array(all), Shape::Array(other)) => merge(all, *other),
        (all, other) if *all != other => *all = Shape::Plain,
        _ => {}
    }
}

/// Where a field is. Objects of one array mostly have their fields in the same order: the search
/// begins behind the last one found.
fn find<T>(fields: &[(String, T)], name: &str, cursor: &mut usize) -> Option<usize> {
    let start = (*cursor).min(fields.len());
    let behind = fields[start..].iter().position(|(field, _)| field == name).map(|at| start + at);
    let at = behind.or_else(|| fields[..start].iter().position(|(field, _)| field == name))?;
    *cursor = at + 1;
    Some(at)
}

fn write_node(node: &Node, shape: &Shape, expand: Expand, out: &mut Vec<u8>) {
    match (node, shape) {
        (Node::Null, _) => out.extend_from_slice(b"null"),
        (Node::Bool(value), _) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        (Node::Text(text), _) => write_string(text.as_bytes(), out),
        (Node::Number(number), _) => write_number(number, out),
        (Node::Array(items), Shape::Array(shape)) => write_array(items, shape, expand, out),
        (Node::Array(items), _) if items.is_empty() => out.extend_from_slice(b"[]"),
        (Node::Object(fields), Shape::Object(shapes)) => write_object(fields, shapes, expand, out),
        // A value that is of another type elsewhere has a shape of its own here, or goes out whole.
        (Node::Array(items), _) => match self::shape(node, expand) {
            Ok(Some(own)) if own != Shape::Plain => write_node(node, &own, expand, out),
            _ => write_array(items, &Shape::Plain, expand, out),
        },
        (Node::Object(fields), _) => match self::shape(node, expand) {
            Ok(Some(own)) => write_node(node, &own, expand, out),
            _ => {
                let all: Vec<_> = fields.iter().map(|(name, _)| (name.clone(), Shape::Plain)).collect();
                write_object(fields, &all, expand, out);
            }
        },
    }
}

fn write_array(items: &[Node], shape: &Shape, expand: Expand, out: &mut Vec<u8>) {
    out.push(b'[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_node(item, shape, expand, out);
    }
    out.push(b']');
}

fn write_object(fields: &[(String, Node)], shapes: &[(String, Shape)], expand: Expand, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut cursor = 0;
    for (at, (name, shape)) in shapes.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_string(name.as_bytes(), out);
        out.push(b':');
        match find(fields, name, &mut cursor) {
            Some(field) => write_node(&fields[field].1, shape, expand, out),
            None => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
}

fn write_number(number: &Number, out: &mut Vec<u8>) {
    match number {
        Number::Integer(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Number::Float(float, _) if float.is_finite() => write_f64(*float, out),
        // Beyond what Java's types hold: the digits as they are.
        Number::Float(_, digits) | Number::Huge(digits) => out.extend_from_slice(digits.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROP: Expand = Expand { keep_nulls: false, keep_empty_arrays: false };
    const KEEP: Expand = Expand { keep_nulls: true, keep_empty_arrays: true };

    fn expanded(text: &str, expand: Expand) -> String {
        let mut out = Vec::new();
        write(text.as_bytes(), expand, &mut out);
        let json = String::from_utf8(out).unwrap();
        serde_json::from_str::<&serde_json::value::RawValue>(&json)
            .unwrap_or_else(|error| panic!("{json}: {error}"));
        json
    }

    /// What Debezium 3.7.0 with JsonConverter writes for it; `""` = the payload as a string.
    #[test]
    fn as_debezium_expands() {
        for (text, value) in [
            ("{\"b\": 1, \"a\": \"t\", \"l\": [1, 2]}", "{\"b\":1,\"a\":\"t\",\"l\":[1,2]}"),
            (
                "{\"n\": null, \"e\": [], \"o\": {\"k\": null, \"e\": []}, \"t\": true}",
                "{\"o\":{},\"t\":true}",
            ),
            ("{\"a\":[[1],[]]}", "{\"a\":[[1],[]]}"),
            ("{\"a\":[[],[1]]}", ""),
            ("{\"a\":[null,1]}", "{\"a\":[null,1]}"),
            ("{\"a\":[null,null]}", ""),
            ("{\"a\":[true,1]}", ""),
            ("{\"a\":[1,2.5]}", ""),
            ("{\"a\":[1,3000000000]}", ""),
            ("{\"\":1}", ""),
            ("{\"a\":[{\"a\":1},{\"b\":\"x\"}]}", "{\"a\":[{\"a\":1,\"b\":null},{\"a\":null,\"b\":\"x\"}]}"),
            (
                "{\"a\":[{\"x\":null,\"y\":1},{\"x\":2}]}",
                "{\"a\":[{\"y\":1,\"x\":null},{\"y\":null,\"x\":2}]}",
            ),
            ("{\"a\":[{\"x\":[]},{\"x\":[1]}]}", "{\"a\":[{\"x\":[]},{\"x\":[1]}]}"),
            ("{\"a\":1,\"b\":0,\"a\":2}", "{\"a\":2,\"b\":0}"),
            ("{\"a\":1,\"b\":0,\"a\":null}", "{\"b\":0}"),
            ("{\"a\":\"\\u00e9\\/\\u001f\\ud83d\\ude00\"}", "{\"a\":\"é/\\u001F\\uD83D\\uDE00\"}"),
            (
                "{\"a\":-0,\"b\":-0.0,\"c\":1e5,\"d\":1.50,\"e\":9223372036854775807}",
                "{\"a\":0,\"b\":-0.0,\"c\":100000.0,\"d\":1.5,\"e\":9223372036854775807}",
            ),
            (" {\"a\":1}", ""),
            ("{\"a\":NaN}", ""),
            ("[]", ""),
            ("\"scalar\"", ""),
            ("5", ""),
            ("", ""),
        ] {
            let whole = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            assert_eq!(
                expanded(text, DROP),
                if value.is_empty() { whole } else { value.to_owned() },
                "{text}"
            );
        }
    }

    #[test]
    fn nulls_and_empty_arrays_may_stay() {
        for (text, value) in [
            ("{\"n\":null,\"m\":[]}", "{\"n\":null,\"m\":[]}"),
            ("{\"a\":[null,null]}", "{\"a\":[null,null]}"),
            ("{\"a\":[[],[1]]}", "{\"a\":[[],[1]]}"),
            ("[]", "[]"),
        ] {
            assert_eq!(expanded(text, KEEP), value);
        }
    }

    /// What kills Debezium's task, or what it drops without a word.
    #[test]
    fn what_debezium_cannot_expand_goes_out() {
        for (text, value) in [
            ("[1, 2]", "[1,2]"),
            ("[{\"a\": 1}, {\"b\": 2}]", "[{\"a\":1,\"b\":null},{\"a\":null,\"b\":2}]"),
            ("{\"a\":9223372036854775808}", "{\"a\":9223372036854775808}"),
            ("{\"a\":1e400}", "{\"a\":1e400}"),
            ("{\"a\":[{\"x\":1},{\"x\":\"s\"}]}", "{\"a\":[{\"x\":1},{\"x\":\"s\"}]}"),
            ("{\"a\":[{\"x\":1},{\"x\":{\"y\":[1,\"z\"]}}]}", ""),
            ("{\"a\":[{\"x\":1},{\"x\":{\"y\":[1]}}]}", "{\"a\":[{\"x\":1},{\"x\":{\"y\":[1]}}]}"),
            ("{\"a\":[[1],[\"x\"]]}", "{\"a\":[[1],[\"x\"]]}"),
            ("{\"a\":[[1],[null],[{\"x\":[1,\"z\"]}]]}", "{\"a\":[[1],[null],[{\"x\":[1,\"z\"]}]]}"),
            ("{\"a\":[{},{\"x\":1},null]}", "{\"a\":[{\"x\":null},{\"x\":1},null]}"),
            (
                "{\"a\":[{\"x\":{\"p\":1}},{\"x\":{\"q\":2}}]}",
                "{\"a\":[{\"x\":{\"p\":1,\"q\":null}},{\"x\":{\"p\":null,\"q\":2}}]}",
            ),
        ] {
            let whole = format!("\"{}\"", text.replace('"', "\\\""));
            assert_eq!(expanded(text, DROP), if value.is_empty() { whole } else { value.to_owned() });
        }
    }

    proptest::proptest! {
        /// With everything kept, a document without mixed arrays says the same before and after.
        #[test]
        fn nothing_is_lost(values in proptest::collection::vec(("[a-z]{1,3}", ".*", -9i64..9), 0..6)) {
            let document: serde_json::Map<_, _> = values.iter().map(|(name, text, number)| {
                (name.clone(), serde_json::json!({ "t": text, "n": [number], "o": { "x": null } }))
            }).collect();
            let text = serde_json::to_string(&document).unwrap();
            let back: serde_json::Value = serde_json::from_str(&expanded(&text, KEEP)).unwrap();
            proptest::prop_assert_eq!(back, serde_json::Value::Object(document));
        }
    }
}
