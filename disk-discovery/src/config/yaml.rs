//! The configuration file as a tree with lines. The only place that knows the YAML crate's reader.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A value with the line it stands on.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Line, from 1.
    pub line: u64,
    /// The value.
    pub value: Value,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing, or `null`.
    Null,
    /// Any scalar, as it is written: `00123` keeps its zeros.
    Scalar(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping: key, the key's line, value.
    Map(Vec<(String, u64, Node)>),
}

impl Value {
    /// What it is, for errors.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Reads one document.
///
/// # Errors
/// Line and what is wrong.
pub fn parse(text: &str) -> Result<Node, (u64, String)> {
    match serde_saphyr::from_str::<Spanned<Raw>>(text) {
        Ok(raw) => Ok(node(raw, text)),
        Err(error) => {
            let line = error.location().map_or(1, |at| at.line());
            let said = error.without_snippet().to_string();
            // The place is told by the caller, in one form for all errors.
            let said = said.split(" at line ").next().unwrap_or(&said).to_owned();
            let said = said.lines().next().unwrap_or("not valid YAML").to_owned();
            Err((line, said))
        }
    }
}

enum Raw {
    Null,
    Text(String),
    /// A scalar that YAML gave a type: its text is taken from the file.
    Typed(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn node(raw: Spanned<Raw>, text: &str) -> Node {
    let line = raw.referenced.line();
    let span = raw.defined.span();
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Scalar(text),
        Raw::Typed(typed) => {
            let written: String = text.chars().skip(start(span)).take(length(span)).collect();
            Value::Scalar(if written.is_empty() { typed } else { written })
        }
        Raw::List(items) => Value::List(items.into_iter().map(|i| node(i, text)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| (key.value, key.referenced.line(), node(value, text)))
                .collect(),
        ),
    };
    Node { line, value }
}

fn start(span: serde_saphyr::Span) -> usize {
    usize::try_from(span.offset()).unwrap_or(usize::MAX)
}

fn length(span: serde_saphyr::Span) -> usize {
    usize::try_from(span.len()).unwrap_or(0)
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a mapping")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }
    fn visit_u128<E: Error>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }
    fn visit_i128<E: Error>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }
    fn visit_unit<E: Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_none<E: Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<(String, u64, Node)> {
        match parse(text).unwrap().value {
            Value::Map(entries) => entries,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scalars_keep_the_text_that_was_written() {
        let map = entries("serial: 00123\nö: 1.50 # a comment\ny: yes\nq: \"0x10\"\nbig: 1e5\n");
        let texts: Vec<Value> = map.into_iter().map(|(_, _, n)| n.value).collect();
        let expected = ["00123", "1.50", "yes", "0x10", "1e5"].map(|t| Value::Scalar(t.to_owned()));
        assert_eq!(texts, expected);
    }

    #[test]
    fn every_key_and_value_knows_its_line() {
        let map = entries("a: 1\nb:\n  - x\n  - y\n");
        assert_eq!((map[0].1, map[1].1), (1, 2));
        let Value::List(items) = &map[1].2.value else {
            panic!()
        };
        assert_eq!((items[0].line, items[1].line), (3, 4));
    }

    #[test]
    fn a_key_given_twice_is_refused_with_its_line() {
        let (line, said) = parse("a: 1\na: 2\n").unwrap_err();
        assert_eq!(line, 2);
        assert!(said.contains("duplicate"), "{said}");
    }

    #[test]
    fn no_text_makes_the_reader_panic() {
        for text in [
            "",
            "\0",
            "[",
            "{a",
            "*x",
            "&a [*a]",
            "a: !!binary x",
            "--- a\n--- b",
            "? [1]\n: 2",
            "<<: 3",
        ] {
            drop(parse(text));
        }
    }
}
