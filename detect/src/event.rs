//! One record, flat: names of attributes and their values, and when it happened.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// A record that cannot be an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    /// Without a time there is no order.
    #[error("the record has no `time`, or one that is not RFC 3339 such as 2026-11-26T10:00:00Z")]
    Time,
    /// What is to be pointed at needs a name.
    #[error("the record has no `id`")]
    Id,
}

/// A record with its time.
#[derive(Debug, Clone, Copy)]
pub struct Event<'r> {
    record: &'r Map<String, Value>,
    id: &'r str,
    time: i64,
}

impl<'r> Event<'r> {
    /// Reads `id` and `time`; whatever else there is, is there.
    ///
    /// # Errors
    /// When one of the two is missing or no time.
    pub fn read(record: &'r Map<String, Value>) -> Result<Self, BadEvent> {
        let id = record.get("id").and_then(Value::as_str).ok_or(BadEvent::Id)?;
        let time = record.get("time").and_then(Value::as_str).ok_or(BadEvent::Time)?;
        let time: jiff::Timestamp = time.parse().map_err(|_| BadEvent::Time)?;
        let time = i64::try_from(time.as_nanosecond()).map_err(|_| BadEvent::Time)?;
        Ok(Self { record, id, time })
    }

    /// The record's name.
    pub fn id(&self) -> &'r str {
        self.id
    }

    /// Nanoseconds since 1970.
    pub fn time(&self) -> i64 {
        self.time
    }

    /// All of it.
    pub fn record(&self) -> &'r Map<String, Value> {
        self.record
    }

    /// The value of a field; null is none.
    pub(crate) fn get(&self, name: &str) -> Option<&'r Value> {
        self.record.get(name).filter(|value| !value.is_null())
    }

    /// All fields.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'r String, &'r Value)> {
        self.record.iter()
    }
}

/// Each value of a field: its items if it is a list.
pub(crate) fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        single => std::slice::from_ref(single),
    }
}

/// A value as text. A map has none.
pub(crate) fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(value) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A value as a number; a text that is one counts.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok().filter(|number: &f64| number.is_finite()),
        _ => None,
    }
}

/// Without case, as everything is compared that is not `cased`.
///
/// A character stays one character, wherever it stands: otherwise `?` and the parts of a text would not mean the same
/// in pattern and value. So it is Unicode's simple case folding, in which final sigma is a sigma, and not full lower case.
pub(crate) fn lower(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        match text.bytes().any(|b| b.is_ascii_uppercase()) {
            true => Cow::Owned(text.to_ascii_lowercase()),
            false => Cow::Borrowed(text),
        }
    } else if text.chars().all(|c| fold(c) == c) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.chars().map(fold).collect())
    }
}

fn fold(c: char) -> char {
    // The upper case of a dotless i is one that has no dot to lose.
    if c.is_ascii() || c == 'ı' {
        return c.to_ascii_lowercase();
    }
    // Several lower case letters can have one upper case: s and long s, sigma and final sigma.
    let upper = single(c.to_uppercase()).unwrap_or(c);
    single(upper.to_lowercase()).unwrap_or(c)
}

fn single(mut chars: impl Iterator<Item = char>) -> Option<char> {
    chars.next().filter(|_| chars.next().is_none())
}
