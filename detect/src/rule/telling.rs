//! Who is told of what a rule finds, and what it is evidence for: `notify`, `budget` and `controls` under `x-picket`.

use std::collections::BTreeSet;

use picket_documents::fields::{Field, Fields, Reader, Text};
use picket_documents::yaml::Value;
use serde::{Serialize, Serializer};

use super::{SECOND, code, timespan};

/// Controls, and sinks, that one rule may name.
const MAX_NAMES: usize = 16;
/// Longest name of a control or a sink, in bytes.
const MAX_NAME: usize = 64;
/// The most alerts that a budget may have.
const MAX_ALERTS: u64 = 100_000;
/// The shortest time that a budget may be for, in seconds: shorter ones are what a rule's suppression is for.
const SHORTEST: i64 = 60;

/// How many alerts of a rule may be told of, each by itself, in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoiseBudget {
    /// So many …
    pub alerts: u64,
    /// … in so many seconds.
    pub within: i64,
}

impl std::fmt::Display for NoiseBudget {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm')];
        let unit = units.into_iter().find(|(length, _)| self.within % length == 0);
        let (length, unit) = unit.unwrap_or((1, 's'));
        write!(out, "{}/{}{unit}", self.alerts, self.within / length)
    }
}

impl Serialize for NoiseBudget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What was read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Telling {
    /// Controls of standards that the rule is evidence for.
    pub(crate) controls: Vec<String>,
    /// The sinks that are told; none: all.
    pub(crate) notify: Vec<String>,
    pub(crate) budget: Option<NoiseBudget>,
}

/// Reads all three; none if one is wrong.
pub(super) fn telling(fields: &mut Fields<'_>, reader: &mut Reader<'_>) -> Option<Telling> {
    let controls = fields.take("controls").map(|field| controls(field, reader));
    let notify = fields.take("notify").map(|field| notify(field, reader));
    let budget = match fields.string("budget", reader) {
        Some(text) => Some(budget(&text, reader)?),
        None => None,
    };
    Some(Telling {
        budget,
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

fn budget(text: &Text, reader: &mut Reader<'_>) -> Option<NoiseBudget> {
    let read = || {
        let (alerts, within) = text.text.split_once('/')?;
        let is_plain = !alerts.is_empty() && alerts.bytes().all(|byte| byte.is_ascii_digit());
        let alerts = alerts.parse().ok().filter(|alerts| (1..=MAX_ALERTS).contains(alerts));
        let within = timespan(within).map(|time| time / SECOND);
        let within = within.filter(|within| *within >= SHORTEST);
        Some(NoiseBudget { alerts: alerts.filter(|_| is_plain)?, within: within? })
    };
    let budget = read();
    if budget.is_none() {
        let words = format!("{:?} is no budget", text.text);
        let help = format!(
            "write how many alerts (1 to {MAX_ALERTS}) in which time (1m to 31d), such as 10/1d"
        );
        reader.error(text.at, code::BAD_SETTING, words, help);
    }
    budget
}
