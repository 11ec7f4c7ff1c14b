//! YAML text to a tree of nodes that know their line and column.
//!
//! The only module that uses `serde-saphyr`. It splits a file into its YAML documents, refuses hostile ones by stated
//! limits and keeps every node's position, so that each later check can say where the mistake stands. It knows nothing
//! of what a document means. Spec: YAML 1.2.2; booleans are read as Kubernetes reads them (YAML 1.1), so that a plain `on` is never
//! taken for a string.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::Document;
use crate::diagnostic::{Diagnostics, code};

#[cfg(test)]
mod tests;

/// Bytes of one file; ten thousand ordinary rules fit in half of it.
pub const MAX_FILE_BYTES: usize = 8 << 20;
/// Bytes of one YAML document: what etcd takes for one object.
pub const MAX_DOCUMENT_BYTES: usize = 3 << 19;
/// Levels of nesting; a policy needs nine, `managedFields` about twelve.
const MAX_DEPTH: usize = 32;
/// Scalars, lists and maps of one document, aliases expanded.
const MAX_NODES: usize = 250_000;
/// Uses of anchors in one document.
const MAX_ALIASES: usize = 256;
/// Events that aliases may replay in one document.
const MAX_REPLAYED_EVENTS: usize = 50_000;

/// Where a node starts, in the file as the operator has it; both count from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// One node with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it starts.
    pub at: At,
    /// What it holds.
    pub value: Value,
}

/// What a node holds. Numbers keep their text, for whoever reads them.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A boolean, as YAML 1.1 has them.
    Bool(bool),
    /// A number, as its text.
    Number(String),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the text.
    Map(Vec<(Key, Node)>),
}

/// A map key with its place; a number or boolean key is kept as its text, as JSON would.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Where it starts.
    pub at: At,
    /// The key.
    pub name: String,
}

impl Node {
    /// The node as JSON has it.
    pub fn json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Number(text) => {
                text.parse().map_or_else(|_| Json::String(text.clone()), Json::Number)
            }
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => Json::Array(items.iter().map(Self::json).collect()),
            Value::Map(entries) => {
                let entries = entries.iter().map(|(key, node)| (key.name.clone(), node.json()));
                Json::Object(entries.collect())
            }
        }
    }
}

impl Value {
    /// What the value is, in the words of an error message.
    pub fn kind(&self) -> String {
        match self {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => format!("the boolean {value}"),
            Value::Number(value) => format!("the number {value}"),
            Value::Text(_) => "a string".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }
}

/// Splits a file into its YAML documents, each with the line of the file at which it starts.
///
/// A line that begins with `---` always ends a document, even inside a block scalar (YAML 1.2.2, 9.1.2), so no parser
/// is needed. Pieces with nothing but comments are left out.
pub fn split(file: &Document, diagnostics: &mut Diagnostics) -> Vec<Document> {
    if file.text.len() > MAX_FILE_BYTES {
        diagnostics.error(
            &file.file,
            At { line: file.first_line, column: 1 },
            code::TOO_LARGE,
            format!(
                "the file has {} bytes, more than the {MAX_FILE_BYTES} that are read",
                file.text.len()
            ),
            "split it into several files",
        );
        return Vec::new();
    }
    let mut pieces = Vec::new();
    let mut line = file.first_line;
    let mut piece = Piece { first_line: line, start: 0, has_content: false };
    let mut offset = 0;
    for text in file.text.split_inclusive('\n') {
        if text.strip_suffix("\r\n").unwrap_or(text).contains('\r') {
            // To the parser it ends a line, so that what looks like a comment here may be more there.
            diagnostics.error(
                &file.file,
                At { line, column: 1 },
                code::SYNTAX,
                "the line holds a carriage return that does not end it",
                "end lines with LF or CR LF",
            );
            return Vec::new();
        }
        if is_marker(text, "---") {
            piece.finish(file, offset, &mut pieces);
            let has_content = !is_blank(text.get(3..).unwrap_or_default());
            piece = Piece { first_line: line, start: offset, has_content };
        } else if is_marker(text, "...") {
            piece.finish(file, offset, &mut pieces);
            piece = Piece { first_line: line + 1, start: offset + text.len(), has_content: false };
        } else {
            if text.starts_with('%') {
                diagnostics.error(
                    &file.file,
                    At { line, column: 1 },
                    code::SYNTAX,
                    "YAML directives are not read",
                    "remove the line; policies need neither %YAML nor %TAG",
                );
            }
            piece.has_content |= !is_blank(text);
        }
        offset += text.len();
        line = line.saturating_add(1);
    }
    piece.finish(file, offset, &mut pieces);
    pieces
}

struct Piece {
    first_line: u32,
    start: usize,
    has_content: bool,
}

impl Piece {
    fn finish(self, file: &Document, end: usize, pieces: &mut Vec<Document>) {
        if !self.has_content {
            return;
        }
        if let Some(text) = file.text.get(self.start..end) {
            pieces.push(Document {
                file: file.file.clone(),
                first_line: self.first_line,
                text: Arc::from(text),
            });
        }
    }
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Nothing or a comment, as YAML has it: other white space than this is content.
fn is_blank(line: &str) -> bool {
    let line = line.strip_prefix('\u{feff}').unwrap_or(line);
    let text = line.trim_start_matches([' ', '\t', '\r', '\n']);
    text.is_empty() || text.starts_with('#')
}

/// Reads one YAML document; `None` if it is empty or has been reported as unreadable.
pub fn read(document: &Document, diagnostics: &mut Diagnostics) -> Option<Node> {
    if document.text.len() > MAX_DOCUMENT_BYTES {
        diagnostics.error(
            &document.file,
            At { line: document.first_line, column: 1 },
            code::TOO_LARGE,
            format!(
                "the document has {} bytes, more than the {MAX_DOCUMENT_BYTES} that are read",
                document.text.len()
            ),
            "split it into several objects",
        );
        return None;
    }
    match serde_saphyr::from_str_with_options::<Spanned<RawValue>>(&document.text, options()) {
        Ok(raw) => match resolve(raw, document.first_line) {
            Node { value: Value::Null, .. } => None,
            node => Some(node),
        },
        Err(error) => {
            report(document, &error, diagnostics);
            None
        }
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_recorded_anchor_events: MAX_REPLAYED_EVENTS,
            flow_nesting_limit: MAX_DEPTH,
            max_documents: 2,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED_EVENTS,
            max_replay_stack_depth: 8,
        },
        merge_keys: serde_saphyr::options::MergeKeyPolicy::Error,
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::Error,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

fn report(document: &Document, error: &serde_saphyr::Error, diagnostics: &mut Diagnostics) {
    use serde_saphyr::Error;
    let at = error
        .location()
        .map_or(At { line: document.first_line, column: 1 }, |l| place(l, document.first_line));
    let (code, message, help) = match error.without_snippet() {
        Error::DuplicateMappingKey { key, .. } => (
            code::DUPLICATE_KEY,
            match key {
                Some(key) => format!("the key `{key}` is written twice in one map"),
                None => "a key is written twice in one map".to_owned(),
            },
            "keep one of them; if both values are meant, put them into one list",
        ),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => too_large(),
        Error::MergeKeyNotAllowed { .. } => {
            (code::SYNTAX, "YAML merge keys (`<<`) are not read".to_owned(), "write the fields out")
        }
        other => {
            let words = syntax_words(other);
            if words.contains("limit exceeded") {
                too_large()
            } else {
                let help = "check the indentation, quotes and brackets at this place";
                (code::SYNTAX, format!("not readable as YAML: {words}"), help)
            }
        }
    };
    diagnostics.error(&document.file, at, code, message, help);
}

fn too_large() -> (&'static str, String, &'static str) {
    (
        code::TOO_LARGE,
        "the document exceeds the limits on nesting, size or aliases".to_owned(),
        "write the values out instead of nesting or repeating them by anchors",
    )
}

/// The parser's own words without the position that it adds: ours is the file's.
fn syntax_words(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    first.split(" at line ").next().unwrap_or(first).trim().to_owned()
}

fn place(location: serde_saphyr::Location, first_line: u32) -> At {
    let line = u32::try_from(location.line()).unwrap_or(u32::MAX).max(1);
    let column = u32::try_from(location.column()).unwrap_or(u32::MAX).max(1);
    At { line: first_line.saturating_add(line - 1), column }
}

/// The tree as the parser hands it over; turned into [`Node`] so that nothing outside sees the parser's types.
enum RawValue {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Spanned<RawValue>>),
    Map(Vec<(Spanned<RawValue>, Spanned<RawValue>)>),
}

fn resolve(raw: Spanned<RawValue>, first_line: u32) -> Node {
    let at = place(raw.referenced, first_line);
    let value = match raw.value {
        RawValue::Null => Value::Null,
        RawValue::Bool(value) => Value::Bool(value),
        RawValue::Number(text) => Value::Number(text),
        RawValue::Text(text) => Value::Text(text),
        RawValue::List(items) => {
            Value::List(items.into_iter().map(|item| resolve(item, first_line)).collect())
        }
        RawValue::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let at = place(key.referenced, first_line);
                    let name = match key.value {
                        RawValue::Text(text) | RawValue::Number(text) => text,
                        RawValue::Bool(value) => value.to_string(),
                        RawValue::Null | RawValue::List(_) | RawValue::Map(_) => String::new(),
                    };
                    (Key { at, name }, resolve(value, first_line))
                })
                .collect(),
        ),
    };
    Node { at, value }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<RawValue, E> {
        Ok(RawValue::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<RawValue, E> {
        Ok(RawValue::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawValue, D::Error> {
        RawValue::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<RawValue, E> {
        Ok(RawValue::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<RawValue, E> {
        Ok(RawValue::Number(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<RawValue, E> {
        Ok(RawValue::Number(value.to_string()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<RawValue, E> {
        Ok(RawValue::Number(value.to_string()))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<RawValue, E> {
        Ok(RawValue::Number(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<RawValue, E> {
        Ok(RawValue::Number(value.to_string()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<RawValue, E> {
        Ok(RawValue::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<RawValue, E> {
        Ok(RawValue::Text(value))
    }

    fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<RawValue, E> {
        Err(E::custom("binary values are not read"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawValue, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(RawValue::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawValue, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(RawValue::Map(entries))
    }
}
