//! YAML as the tree that JSON is. Every plain scalar stays text (but `null`), so that nothing is guessed: who reads a
//! number out of it asks for one. Anchors may not make a small file large.
#![forbid(unsafe_code)]

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::HashMap;

/// Nodes and bytes of text that come out of one file at most, aliases counted each time.
const MAX_SIZE: usize = 2 << 20;
/// Collections in collections.
const MAX_DEPTH: usize = 64;

/// The tree of a file that has one document; or why not, in words.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| format!("line {}: {}", error.marker().line(), error.info()))?;
        builder
            .take(event)
            .map_err(|reason| format!("line {}: {reason}", span.start.line()))?;
    }
    builder.document.ok_or_else(|| "it is empty".to_owned())
}

#[derive(Default)]
struct Builder {
    open: Vec<Collection>,
    anchors: HashMap<usize, (Value, usize)>,
    document: Option<Value>,
    size: usize,
}

/// A collection that is being read.
struct Collection {
    anchor: usize,
    /// What the builder had read when this began.
    size_before: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Value>),
    /// With the key whose value is next.
    Mapping(Map<String, Value>, Option<String>),
}

impl Builder {
    fn take(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                untagged(tag)?;
                let value = scalar(text, style);
                let size = 1 + value.as_str().map_or(0, str::len);
                self.put(value, size, anchor)
            }
            Event::SequenceStart(anchor, tag) => self.begin(anchor, tag, Content::Sequence(Vec::new())),
            Event::MappingStart(anchor, tag) => self.begin(anchor, tag, Content::Mapping(Map::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            // An alias within its own anchor is not known yet.
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor);
                let (value, size) = known.ok_or("an alias of what is not complete")?;
                // Before it is copied.
                let size = self.fits(*size)?;
                self.put(value.clone(), size, 0)
            }
            Event::DocumentStart(_) if self.document.is_some() => Err("more than one document".to_owned()),
            _ => Ok(()),
        }
    }

    fn fits(&self, size: usize) -> Result<usize, String> {
        match self.size.checked_add(size) {
            Some(sum) if sum <= MAX_SIZE => Ok(size),
            _ => Err(format!("more than {MAX_SIZE} bytes when its aliases are written out")),
        }
    }

    fn begin(&mut self, anchor: usize, tag: Option<Cow<'_, Tag>>, content: Content) -> Result<(), String> {
        untagged(tag)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} collections in one another"));
        }
        self.open.push(Collection {
            anchor,
            size_before: self.size,
            content,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let Some(Collection {
            anchor,
            size_before,
            content,
        }) = self.open.pop()
        else {
            return Err("an end without a beginning".to_owned());
        };
        let value = match content {
            Content::Sequence(items) => Value::Array(items),
            Content::Mapping(items, _) => Value::Object(items),
        };
        self.remember(anchor, &value, 1 + self.size - size_before)?;
        // What is in it has been counted.
        self.put(value, 1, 0)
    }

    /// Keeps a copy for aliases, which takes memory too.
    fn remember(&mut self, anchor: usize, value: &Value, size: usize) -> Result<(), String> {
        if anchor > 0 {
            self.size += self.fits(size)?;
            self.anchors.insert(anchor, (value.clone(), size));
        }
        Ok(())
    }

    fn put(&mut self, value: Value, size: usize, anchor: usize) -> Result<(), String> {
        self.size += self.fits(size)?;
        self.remember(anchor, &value, size)?;
        match self.open.last_mut().map(|collection| &mut collection.content) {
            None => self.document = Some(value),
            Some(Content::Sequence(items)) => items.push(value),
            Some(Content::Mapping(items, key)) => match (key.take(), value) {
                (None, Value::String(name)) if items.contains_key(&name) => {
                    return Err(format!("{name:?} comes twice"));
                }
                (None, Value::String(name)) => *key = Some(name),
                (None, _) => return Err("a key is not a word".to_owned()),
                (Some(name), value) => drop(items.insert(name, value)),
            },
        }
        Ok(())
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Value {
    let null = matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
    match style {
        ScalarStyle::Plain if null => Value::Null,
        _ => Value::String(text.into_owned()),
    }
}

fn untagged(tag: Option<Cow<'_, Tag>>) -> Result<(), String> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => Err(format!("unknown tag {:?}", tag.suffix)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn collections_scalars_and_aliases() {
        let text = "---\na: 1.0\nb: [no, 'x y', \"\\u0041\", ~]\nc: &one\n  - d: |\n      text\n    e:\nf: *one\n'g': {h: i, \"j\":k}\n";
        let expected = json!({
            "a": "1.0", "b": ["no", "x y", "A", null], "c": [{"d": "text\n", "e": null}], "f": [{"d": "text\n", "e": null}],
            "g": {"h": "i", "j": "k"},
        });
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse("{\"a\": [1, \"b\"]}").unwrap(), json!({"a": ["1", "b"]}));
    }

    #[test]
    fn what_is_wrong_has_a_line() {
        for (text, reason) in [
            ("", "it is empty"),
            ("a: 1\na: 2\n", "line 2: \"a\" comes twice"),
            ("a: 1\n---\nb: 2\n", "line 2: more than one document"),
            ("a: *x\n", "line 1: while parsing node, found unknown anchor"),
            ("a: !x 1\n", "line 1: unknown tag"),
            ("? [a]\n: b\n", "line 1: a key is not a word"),
            ("a: &x [*x]\n", "line 1: "),
            ("a: [1\n", "line "),
            ("a: 'b\n", "line "),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn aliases_do_not_multiply() {
        let mut bomb = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
        for level in 1..30 {
            let below = format!("*a{}, ", level - 1).repeat(9);
            bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(parse(&bomb).unwrap_err().contains("when its aliases are written out"));
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a, ".repeat(100));
        assert!(parse(&long).unwrap_err().contains("when its aliases are written out"));
    }

    #[test]
    fn depth_is_bounded_and_takes_no_time() {
        for text in [
            "[".repeat(1 << 20),
            "- ".repeat(1 << 19),
            "{a: ".repeat(1 << 18),
            "? ".repeat(1 << 19),
        ] {
            let start = std::time::Instant::now();
            parse(&text).unwrap_err();
            assert!(start.elapsed().as_secs() < 5, "{}", &text[..4]);
        }
    }
}
