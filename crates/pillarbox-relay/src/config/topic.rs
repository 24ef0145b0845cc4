//! Topic templates: literal text and the columns of a row.
//!
//! Never lets a row choose a topic freely: a template has a literal part, or its topics are listed.

use std::fmt;

/// A topic name with at least one literal character or none but one column, e.g.
/// `outbox.event.{aggregatetype}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTemplate {
    parts: Vec<TopicPart>,
}

/// A piece of a topic template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicPart {
    /// Text that stands as it is.
    Literal(String),
    /// The text of a column.
    Column(String),
}

/// Why a topic template is not legal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicTemplateError {
    /// Nothing in it.
    #[error("the topic template is empty")]
    Empty,
    /// `{` without `}` or the other way round.
    #[error("unbalanced brace at character {at}")]
    Brace {
        /// 1-based character position.
        at: usize,
    },
    /// `{}`.
    #[error("empty column name at character {at}")]
    EmptyColumn {
        /// 1-based character position.
        at: usize,
    },
    /// A literal that no topic name may contain.
    #[error("character {found:?} is not allowed in a topic name")]
    Illegal {
        /// The character.
        found: char,
    },
    /// Only columns: any row could choose any topic, internal ones included.
    #[error(
        "the template needs a literal prefix or suffix or a list of topics, or every row could choose any topic"
    )]
    NoLiteral,
}

impl TopicTemplate {
    /// Parses `literal{column}literal`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TopicTemplateError> {
        let template = Self::parse_listed(text)?;
        if !template.parts.iter().any(|part| matches!(part, TopicPart::Literal(_))) {
            return Err(TopicTemplateError::NoLiteral);
        }
        Ok(template)
    }

    /// Parses a template whose topics are listed: it needs no literal part.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_listed(text: &str) -> Result<Self, TopicTemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let at = text[..text.len() - rest.len()].chars().count() + 1;
            match rest.find(['{', '}']) {
                Some(0) if rest.starts_with('{') => {
                    let end = rest.find('}').ok_or(TopicTemplateError::Brace { at })?;
                    let column = &rest[1..end];
                    if column.is_empty() {
                        return Err(TopicTemplateError::EmptyColumn { at });
                    }
                    if column.contains('{') {
                        return Err(TopicTemplateError::Brace { at });
                    }
                    parts.push(TopicPart::Column(column.to_owned()));
                    rest = &rest[end + 1..];
                }
                Some(0) => return Err(TopicTemplateError::Brace { at }),
                end => {
                    let (literal, tail) = rest.split_at(end.unwrap_or(rest.len()));
                    if let Some(found) = literal.chars().find(|c| !topic_char(*c)) {
                        return Err(TopicTemplateError::Illegal { found });
                    }
                    parts.push(TopicPart::Literal(literal.to_owned()));
                    rest = tail;
                }
            }
        }
        if parts.is_empty() {
            return Err(TopicTemplateError::Empty);
        }
        Ok(Self { parts })
    }

    /// The text of one column, for a rule that makes a topic's name of it.
    pub fn column(name: impl Into<String>) -> Self {
        Self { parts: vec![TopicPart::Column(name.into())] }
    }

    /// The pieces in order.
    pub fn parts(&self) -> &[TopicPart] {
        &self.parts
    }
}

impl fmt::Display for TopicTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            TopicPart::Literal(text) => f.write_str(text),
            TopicPart::Column(column) => write!(f, "{{{column}}}"),
        })
    }
}

/// Whether Kafka allows it in a topic's name.
pub(super) fn topic_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_templates() {
        let ok = TopicTemplate::parse("outbox.event.{aggregatetype}").unwrap();
        assert_eq!(ok.parts().len(), 2);
        assert_eq!(ok.to_string(), "outbox.event.{aggregatetype}");
        for (text, error) in [
            ("", TopicTemplateError::Empty),
            ("a{b", TopicTemplateError::Brace { at: 2 }),
            ("a}b", TopicTemplateError::Brace { at: 2 }),
            ("a{}", TopicTemplateError::EmptyColumn { at: 2 }),
            ("a/{b}", TopicTemplateError::Illegal { found: '/' }),
            ("{b}", TopicTemplateError::NoLiteral),
        ] {
            assert_eq!(TopicTemplate::parse(text), Err(error), "{text}");
        }
    }
}
