//! Who is told of what a rule finds, and what it is evidence for: `notify` and `controls` under `x-picket`.

use std::collections::BTreeSet;

use picket_documents::fields::{Field, Fields, Reader, Text};
use picket_documents::yaml::Value;

use super::code;

/// Controls, and sinks, that one rule may name.
const MAX_NAMES: usize = 16;
/// Longest name of a control or a sink, in bytes.
const MAX_NAME: usize = 64;
/// What was read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Telling {
    /// Controls of standards that the rule is evidence for.
    pub(crate) controls: Vec<String>,
    /// The sinks that are told; none: all.
    pub(crate) notify: Vec<String>,
}

/// Reads both; none if one is wrong.
pub(super) fn telling(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Telling> {
    let controls = fields.take("controls").map(|field| controls(field, reader));
    let notify = fields.take("notify").map(|field| notify(field, reader));
    Some(Telling {
        controls: controls.unwrap_or_else(|| Some(Vec::new()))?,
        notify: notify.unwrap_or_else(|| Some(Vec::new()))?,
    })
}

/// Words of letters, digits and `.-_()/:`, one blank between two.
fn controls(field: Field<'_>, reader: &mut Reader<'_>) -> Option<Vec<String>> {
    let help = "write the standard and the control, such as PCI-DSS 10.2.1";
    let is_good = |text: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_()/:".contains(c);
        text.split(' ').all(|word| !word.is_empty() && word.chars().all(plain))
    };
    names(field, "control", is_good, help, reader)
}

/// Names as `alerts.sinks` has them.
fn notify(field: Field<'_>, reader: &mut Reader<'_>) -> Option<Vec<String>> {
    let help = "write names of alerts.sinks; to have nobody told, make a silence";
    let is_good =
        |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    names(field, "sink", is_good, help, reader)
}

/// A list that is not empty and has nothing twice.
fn names(
    field: Field<'_>,
    thing: &str,
    is_good: impl Fn(&str) -> bool,
    help: &str,
    reader: &mut Reader<'_>,
) -> Option<Vec<String>> {
    let (name, at) = (field.name, field.node.at);
    let count = match &field.node.value {
        Value::List(items) if items.is_empty() => {
            reader.error(at, code::BAD_SETTING, format!("`{name}` is empty"), help);
            return None;
        }
        Value::List(items) => items.len(),
        _ => 1,
    };
    let texts: Vec<Text> = match &field.node.value {
        Value::Text(_) => reader.string(field.node, name).into_iter().collect(),
        _ => reader.strings(field, MAX_NAMES),
    };
    let mut seen = BTreeSet::new();
    for text in &texts {
        let words = if text.text.len() > MAX_NAME || !is_good(&text.text) {
            format!("{:?} cannot be the name of a {thing}", text.text)
        } else if !seen.insert(&text.text) {
            format!("{:?} is named twice", text.text)
        } else {
            continue;
        };
        reader.error(text.at, code::BAD_SETTING, words, help);
        return None;
    }
    (texts.len() == count).then(|| texts.into_iter().map(|text| text.text).collect())
}
