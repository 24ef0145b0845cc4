//! A JSON document that forgets nothing the expansion needs: the order of fields, and the digits of
//! numbers that no machine type holds.
//!
//! Of two fields with one name the last value stands at the first one's place, as with Jackson.
//! Never recurses deeper than its limit.

/// Deepest nesting that is read; Jackson's own limit.
const DEPTH_MAX: usize = 1000;

/// A value.
#[derive(Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// A number by the smallest type of Java that holds it.
#[derive(Debug, PartialEq)]
pub(super) enum Number {
    /// Up to 64 bits.
    Integer(i64),
    /// With a point or an exponent, and its digits.
    Float(f64, String),
    /// An integer of more than 64 bits, by its digits.
    Huge(String),
}

/// Reads one document with nothing but blanks around it; `None` if it is no JSON.
pub(super) fn parse(text: &str) -> Option<Node> {
    let mut parser = Parser { text, at: 0 };
    let node = parser.value(0)?;
    parser.blanks();
    (parser.at == text.len()).then_some(node)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn value(&mut self, depth: usize) -> Option<Node> {
        if depth > DEPTH_MAX {
            return None;
        }
        self.blanks();
        match self.peek()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string().map(Node::Text),
            b't' => self.word("true", Node::Bool(true)),
            b'f' => self.word("false", Node::Bool(false)),
            b'n' => self.word("null", Node::Null),
            _ => self.number().map(Node::Number),
        }
    }

    fn object(&mut self, depth: usize) -> Option<Node> {
        self.at += 1;
        let mut fields = Vec::new();
        if self.ends_with(b'}') {
            return Some(Node::Object(fields));
        }
        loop {
            self.blanks();
            let name = if self.peek()? == b'"' { self.string()? } else { return None };
            self.blanks();
            self.take(b':')?;
            fields.push((name, self.value(depth + 1)?));
            self.blanks();
            if self.take(b',').is_none() {
                self.take(b'}')?;
                return Some(Node::Object(last_of_each(fields)));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<Node> {
        self.at += 1;
        let mut items = Vec::new();
        if self.ends_with(b']') {
            return Some(Node::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.blanks();
            if self.take(b',').is_none() {
                self.take(b']')?;
                return Some(Node::Array(items));
            }
        }
    }

    /// A string with its quotes; escapes and what is legal in one are the library's business.
    fn string(&mut self) -> Option<String> {
        let bytes = self.text.as_bytes();
        let mut end = self.at + 1;
        loop {
            match bytes.get(end)? {
                b'"' => break,
                b'\\' => end += 2,
                _ => end += 1,
            }
        }
        let quoted = self.text.get(self.at..=end)?;
        self.at = end + 1;
        serde_json::from_str(quoted).ok()
    }

    fn number(&mut self) -> Option<Number> {
        let rest = &self.text[self.at..];
        let len = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'));
        let digits = &rest[..len.unwrap_or(rest.len())];
        if !is_number(digits) {
            return None;
        }
        self.at += digits.len();
        if digits.contains(['.', 'e', 'E']) {
            return Some(Number::Float(digits.parse().ok()?, digits.to_owned()));
        }
        Some(digits.parse().map_or_else(|_| Number::Huge(digits.to_owned()), Number::Integer))
    }

    fn word(&mut self, word: &str, node: Node) -> Option<Node> {
        self.text[self.at..].starts_with(word).then(|| {
            self.at += word.len();
            node
        })
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn ends_with(&mut self, byte: u8) -> bool {
        self.blanks();
        self.take(byte).is_some()
    }
}

/// `-? (0 | 1-9 digits) (. digits)? (e +-? digits)?`
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(m, e)| (m, Some(e)));
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(w, f)| (w, Some(f)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let exponent = exponent.map(|text| text.strip_prefix(['+', '-']).unwrap_or(text));
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
}

/// Postgres' jsonb never has two fields of one name; json and text may.
fn last_of_each(mut fields: Vec<(String, Node)>) -> Vec<(String, Node)> {
    let mut order: Vec<usize> = (0..fields.len()).collect();
    order.sort_by(|a, b| fields[*a].0.cmp(&fields[*b].0));
    if order.windows(2).all(|pair| fields[pair[0]].0 != fields[pair[1]].0) {
        return fields;
    }
    // Equal names stand together, in the order they were written.
    let mut gone = vec![false; fields.len()];
    for same in order.chunk_by(|a, b| fields[*a].0 == fields[*b].0).map(<[usize]>::to_vec).collect::<Vec<_>>()
    {
        if let [first, .., last] = same[..] {
            fields[first].1 = std::mem::replace(&mut fields[last].1, Node::Null);
            same[1..].iter().for_each(|at| gone[*at] = true);
        }
    }
    let mut gone = gone.into_iter();
    fields.retain(|_| !gone.next().unwrap_or(false));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_json_and_what_is_not() {
        for text in ["{}", " [ ] ", "[1,-2.5e+3,0]", "{\"a\":{\"b\":[null,true,false,\"\\\"\"]}}", "[0.0]"] {
            assert!(parse(text).is_some(), "{text}");
        }
        for text in [
            "",
            "{",
            "[1",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "[01]",
            "[1.]",
            "[.5]",
            "[+1]",
            "[-]",
            "[1e]",
            "[nul]",
            "{} x",
            "[\"\\x\"]",
            "[\"\\ud800\"]",
            "[\"\u{1}\"]",
            "[\"a",
            "{\"a\":1,}",
            "[1 2]",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
        assert!(parse(&format!("{}{}", "[".repeat(1001), "]".repeat(1001))).is_some());
        assert!(parse(&format!("{}{}", "[".repeat(1002), "]".repeat(1002))).is_none());
    }

    #[test]
    fn of_two_fields_the_last_value_stands_at_the_first_place() {
        let Some(Node::Object(fields)) = parse("{\"a\":1,\"b\":2,\"a\":3,\"c\":4,\"a\":5}") else {
            panic!("an object")
        };
        let read: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(read, ["a", "b", "c"]);
        assert_eq!(fields[0].1, Node::Number(Number::Integer(5)));
    }

    proptest::proptest! {
        #[test]
        fn it_agrees_with_the_library(text in "[\\[\\]{}\",:0-9ae.\\- \\\\]{0,24}") {
            let known = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            // The library refuses numbers beyond a double, and accepts no more than we do.
            proptest::prop_assert!(parse(&text).is_some() || !known, "{}", text);
        }
    }
}
