//! Reads maps, lists and strings out of YAML nodes strictly: whatever is not asked for, missing or of another type
//! becomes a diagnostic at its own place.
//!
//! It knows types and positions, not meanings; those are whoever's that asks.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::diagnostic::{Diagnostics, Fix, code};
use crate::yaml::{At, Key, Node, Value};

/// Bytes of one value in a list: more than any path, name or claim that is compared with it.
const MAX_VALUE_BYTES: usize = 8192;

/// Where problems go while one document is read.
pub struct Reader<'a> {
    /// The document's file.
    pub file: &'a Arc<str>,
    /// What was found so far.
    pub diagnostics: &'a mut Diagnostics,
}

/// A string with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// Where it stands.
    pub at: At,
    /// What it says.
    pub text: String,
}

/// The fields of one map; each is taken once, and what is left at the end is unknown.
pub struct Fields<'n> {
    what: &'static str,
    at: At,
    left: Vec<&'n (Key, Node)>,
    known: Vec<&'static str>,
}

/// One field that was there.
#[derive(Clone, Copy)]
pub struct Field<'n> {
    /// Its name.
    pub name: &'static str,
    /// Where the name stands.
    pub key: At,
    /// Its value.
    pub node: &'n Node,
}

impl Reader<'_> {
    /// Reports an error.
    pub fn error(
        &mut self,
        at: At,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.diagnostics.error(self.file, at, code, message, help);
    }

    /// Reports a warning.
    pub fn warning(
        &mut self,
        at: At,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.diagnostics.warning(self.file, at, code, message, help);
    }

    /// Says how the problem that was reported last can be mended without asking: by another value.
    pub fn offer(&mut self, value: &str, replacement: impl Into<String>) {
        let replacement = Some(replacement.into());
        self.diagnostics.offer(Fix { value: value.to_owned(), replacement });
    }

    /// The fields of a map; `what` names the map in messages, such as "`spec`".
    pub fn map<'n>(&mut self, node: &'n Node, what: &'static str) -> Option<Fields<'n>> {
        match &node.value {
            Value::Map(entries) => {
                self.refuse_twice(entries);
                let left = entries.iter().collect();
                Some(Fields { what, at: node.at, left, known: Vec::new() })
            }
            Value::Null => {
                self.no_value(node.at, what);
                None
            }
            other => {
                self.wrong_type(node.at, what, "a map", other);
                None
            }
        }
    }

    /// The parser sees that `8080` and `8080` are one key, but not that `8080` and `"8080"` are.
    fn refuse_twice(&mut self, entries: &[(Key, Node)]) {
        let mut seen = BTreeSet::new();
        for (key, _) in entries {
            if !seen.insert(&key.name) {
                self.error(
                    key.at,
                    code::DUPLICATE_KEY,
                    format!("the key `{}` is written twice in one map", key.name),
                    "keep one of them",
                );
            }
        }
    }

    /// The items of a list. An empty one is an error: Istio takes it for "any", its author may have meant "none".
    pub fn list<'n>(&mut self, field: Field<'n>, limit: usize) -> Option<&'n [Node]> {
        let items = self.list_or_empty(field, limit)?;
        if items.is_empty() {
            self.error(
                field.node.at,
                code::EMPTY_LIST,
                format!("`{}` is an empty list, which would match everything", field.name),
                "remove the field if everything is meant, or list what is meant",
            );
            return None;
        }
        Some(items)
    }

    /// The items of a list where none is as good as no list.
    pub fn list_or_empty<'n>(&mut self, field: Field<'n>, limit: usize) -> Option<&'n [Node]> {
        match &field.node.value {
            Value::List(items) if items.len() > limit => {
                self.error(
                    field.node.at,
                    code::TOO_MANY,
                    format!(
                        "`{}` has {} entries; at most {limit} are read",
                        field.name,
                        items.len()
                    ),
                    "split it over several rules or policies",
                );
                None
            }
            Value::List(items) => Some(items),
            Value::Null => {
                self.no_value(field.key, field.name);
                None
            }
            other => {
                self.wrong_type(field.node.at, field.name, "a list", other);
                None
            }
        }
    }

    /// A string that is not empty.
    pub fn string(&mut self, node: &Node, what: &str) -> Option<Text> {
        match &node.value {
            Value::Text(text) if text.is_empty() => {
                self.error(
                    node.at,
                    code::EMPTY_STRING,
                    format!("`{what}` is empty"),
                    "write the value, or remove it",
                );
                None
            }
            Value::Text(text) => Some(Text { at: node.at, text: text.clone() }),
            Value::Null => {
                self.no_value(node.at, what);
                None
            }
            other => {
                self.wrong_type(node.at, what, "a string", other);
                None
            }
        }
    }

    /// A list of strings, none of them empty or very long.
    pub fn strings(&mut self, field: Field<'_>, limit: usize) -> Vec<Text> {
        let Some(items) = self.list(field, limit) else { return Vec::new() };
        items.iter().filter_map(|item| self.value(item, field.name)).collect()
    }

    /// A string that requests are compared with.
    fn value(&mut self, node: &Node, what: &str) -> Option<Text> {
        let text = self.string(node, what)?;
        if text.text.len() > MAX_VALUE_BYTES {
            self.error(
                text.at,
                code::TOO_MANY,
                format!(
                    "a value of `{what}` has {} bytes; at most {MAX_VALUE_BYTES} are read",
                    text.text.len()
                ),
                "write a shorter one: no request has a value as long as that",
            );
            return None;
        }
        Some(text)
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, field: Field<'_>) -> Option<bool> {
        match &field.node.value {
            Value::Bool(value) => Some(*value),
            Value::Null => {
                self.no_value(field.key, field.name);
                None
            }
            other => {
                self.wrong_type(field.node.at, field.name, "true or false", other);
                None
            }
        }
    }

    fn no_value(&mut self, at: At, what: &str) {
        self.error(
            at,
            code::NO_VALUE,
            format!("`{what}` has no value, which Kubernetes would drop and so match everything"),
            "write the value, or remove the key; check the indentation of what follows",
        );
    }

    fn wrong_type(&mut self, at: At, what: &str, wanted: &str, got: &Value) {
        let help = match (wanted, got) {
            ("a string", Value::Number(text)) => format!("put it in quotes: \"{text}\""),
            ("a string", Value::Bool(value)) => {
                format!("put it in quotes: \"{value}\" (YAML takes it for a boolean)")
            }
            ("a list", Value::Text(text)) => format!("make it a list: [\"{text}\"]"),
            ("a list", Value::Map(_)) => "begin each entry with `- `".to_owned(),
            ("true or false", Value::Text(_)) => "write true or false without quotes".to_owned(),
            _ => format!("write {wanted} there; check the indentation"),
        };
        self.error(
            at,
            code::WRONG_TYPE,
            format!("`{what}` must be {wanted}, not {}", got.kind()),
            help,
        );
        if let ("a string", Value::Number(text)) = (wanted, got) {
            self.offer(text, text.as_str());
        }
    }
}

impl<'n> Fields<'n> {
    /// The map's own place.
    pub fn at(&self) -> At {
        self.at
    }

    /// Whether a field is there and has not been taken.
    pub fn has(&self, name: &str) -> bool {
        self.left.iter().any(|(key, _)| key.name == name)
    }

    /// A field, if it is there.
    pub fn take(&mut self, name: &'static str) -> Option<Field<'n>> {
        self.known.push(name);
        let index = self.left.iter().position(|(key, _)| key.name == name)?;
        let (key, node) = self.left.remove(index);
        Some(Field { name, key: key.at, node })
    }

    /// A field that must be there; its absence is reported.
    pub fn require(&mut self, name: &'static str, reader: &mut Reader<'_>) -> Option<Field<'n>> {
        let field = self.take(name);
        if field.is_none() {
            reader.error(
                self.at,
                code::MISSING_FIELD,
                format!("`{}` has no `{name}`", self.what),
                format!("add `{name}`"),
            );
        }
        field
    }

    /// A list of strings that may be absent.
    pub fn strings(
        &mut self,
        name: &'static str,
        limit: usize,
        reader: &mut Reader<'_>,
    ) -> Vec<Text> {
        self.take(name).map_or_else(Vec::new, |field| reader.strings(field, limit))
    }

    /// A string that may be absent.
    pub fn string(&mut self, name: &'static str, reader: &mut Reader<'_>) -> Option<Text> {
        let field = self.take(name)?;
        reader.string(field.node, name)
    }

    /// Accepts fields whose content is of no interest.
    pub fn ignore(&mut self, names: &[&'static str]) {
        for name in names {
            self.take(name);
        }
    }

    /// Every entry, for maps whose keys are data.
    pub fn entries(self) -> Vec<&'n (Key, Node)> {
        self.left
    }

    /// Reports what is left.
    pub fn finish(self, reader: &mut Reader<'_>) {
        for (key, _) in self.left {
            let help = match closest(&key.name, &self.known) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("`{}` takes {}", self.what, list(&self.known)),
            };
            reader.error(
                key.at,
                code::UNKNOWN_FIELD,
                format!("`{}` has no field `{}`", self.what, key.name),
                help,
            );
        }
    }
}

/// Names in a sentence.
pub fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// The known name that is a slip of the keyboard away.
#[must_use]
pub fn closest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|candidate| {
            (distance(&name.to_ascii_lowercase(), &candidate.to_ascii_lowercase()), *candidate)
        })
        .filter(|(distance, candidate)| *distance <= 2 && *distance < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((y, diagonal), above) in b.chars().zip(&row).zip(row.iter().skip(1)) {
            let left = next.last().copied().unwrap_or_default();
            next.push((diagonal + usize::from(x != y)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
