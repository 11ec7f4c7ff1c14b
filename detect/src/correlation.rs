//! A correlation as it is written: several matches that only together mean something.
//!
//! Specification: Sigma 2.1, "Correlation Rules": `event_count`, `value_count`, `temporal`, `temporal_ordered`.

use std::collections::BTreeMap;

use picket_documents::fields::{Field, Reader, Text};
use picket_documents::yaml::Value;

use crate::rule::{self, MAX_LIST, check_field, code, timespan};

/// A correlation.
#[derive(Debug, Clone)]
pub(crate) struct Correlation {
    pub(crate) kind: Kind,
    /// Names or ids of rules.
    pub(crate) rules: Vec<Text>,
    /// What the matches have in common: names of fields, or of aliases.
    pub(crate) group_by: Vec<String>,
    /// In nanoseconds.
    pub(crate) timespan: i64,
    /// For a field of `group_by` that is an alias: the field that each rule means by it.
    pub(crate) aliases: BTreeMap<String, BTreeMap<String, String>>,
    /// Whether the rules that it names alert by themselves, too.
    pub(crate) generate: bool,
}

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// So many events.
    EventCount(u64),
    /// So many different values of a field.
    ValueCount(u64, String),
    /// Each rule at least once.
    Temporal,
    /// Each rule, in their order.
    TemporalOrdered,
}

/// Largest count: so many times are kept for each group.
const MAX_COUNT: u64 = 100_000;

impl Correlation {
    pub(crate) fn read(field: Field<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let mut fields = reader.map(field.node, "`correlation`")?;
        let kind = fields.require("type", reader).and_then(|f| reader.string(f.node, f.name));
        let rules = fields.require("rules", reader).map(|field| match &field.node.value {
            Value::Text(_) => reader.string(field.node, field.name).into_iter().collect(),
            _ => reader.strings(field, MAX_LIST),
        });
        let span = fields.require("timespan", reader).and_then(|f| reader.string(f.node, f.name));
        let span = span.and_then(|text| {
            let time = timespan(&text.text);
            if time.is_none() {
                rule::not_a_time(&text, reader);
            }
            time
        });
        let aliases =
            fields.take("aliases").map_or_else(|| Some(BTreeMap::new()), |f| aliases(f, reader));
        let group_by = match fields.take("group-by") {
            Some(field) => rule::group_by(field, reader).map(|names| (names, field.node.at)),
            None => Some((Vec::new(), field.key)),
        };
        let generate = fields.take("generate").map_or(Some(false), |field| reader.boolean(field));
        let condition = fields.take("condition");
        fields.finish(reader);
        let (kind, rules, aliases) = (kind?, rules?, aliases?);
        let (group_by, group_at) = group_by?;
        for name in group_by.iter().filter(|name| !aliases.contains_key(*name)) {
            if !check_field(name, group_at, reader) {
                return None;
            }
        }
        let kind = kind_of(&kind, condition, field, reader)?;
        if rules.is_empty() {
            return None;
        }
        if matches!(kind, Kind::Temporal | Kind::TemporalOrdered) && rules.len() < 2 {
            let words = "a temporal correlation names at least two rules";
            reader.error(field.key, code::BAD_CORRELATION, words, "add a rule, or count events");
            return None;
        }
        Some(Self { kind, rules, group_by, timespan: span?, aliases, generate: generate? })
    }
}

fn kind_of(
    kind: &Text,
    condition: Option<Field<'_>>,
    whole: Field<'_>,
    reader: &mut Reader<'_>,
) -> Option<Kind> {
    let is_count = matches!(kind.text.as_str(), "event_count" | "value_count");
    match (kind.text.as_str(), condition) {
        ("temporal" | "temporal_ordered", Some(field)) => {
            let words = "a temporal correlation has no condition: every rule has to match";
            reader.error(field.key, code::BAD_CORRELATION, words, "remove it");
            None
        }
        ("temporal", None) => Some(Kind::Temporal),
        ("temporal_ordered", None) => Some(Kind::TemporalOrdered),
        (_, None) if is_count => {
            let help = "add `condition: {gte: 10}`";
            reader.error(whole.key, code::MISSING_FIELD, "`correlation` has no `condition`", help);
            None
        }
        (_, Some(field)) if is_count => {
            let (count, name) = threshold(field, reader)?;
            match (kind.text.as_str(), name) {
                ("event_count", None) => Some(Kind::EventCount(count)),
                ("value_count", Some(name)) => Some(Kind::ValueCount(count, name)),
                ("event_count", Some(_)) => {
                    let words = "`event_count` counts events and has no `field`";
                    reader.error(field.key, code::BAD_CORRELATION, words, "use `value_count`");
                    None
                }
                _ => {
                    let words = "`value_count` counts the values of a `field`";
                    reader.error(
                        field.key,
                        code::BAD_CORRELATION,
                        words,
                        "add `field` to the condition",
                    );
                    None
                }
            }
        }
        (other, _) => {
            let words = format!("there is no correlation of type {other:?}");
            let help = "there are event_count, value_count, temporal and temporal_ordered";
            reader.error(kind.at, code::BAD_CORRELATION, words, help);
            None
        }
    }
}

/// From how many on, and values of which field.
fn threshold(field: Field<'_>, reader: &mut Reader<'_>) -> Option<(u64, Option<String>)> {
    let mut fields = reader.map(field.node, "`condition`")?;
    let name = match fields.take("field") {
        Some(field) => {
            let name = reader.string(field.node, field.name)?;
            if !check_field(&name.text, name.at, reader) {
                return None;
            }
            Some(name.text)
        }
        None => None,
    };
    for refused in ["lt", "lte", "eq", "neq"] {
        if let Some(field) = fields.take(refused) {
            let words = format!(
                "`{refused}` is not read: whether it holds is known only when a window has passed"
            );
            reader.error(field.key, code::BAD_CORRELATION, words, "use `gte` or `gt`");
            return None;
        }
    }
    let bounds = [(fields.take("gte"), 0), (fields.take("gt"), 1)];
    fields.finish(reader);
    let mut found = bounds.into_iter().filter_map(|(field, more)| field.map(|field| (field, more)));
    let (Some((bound, more)), None) = (found.next(), found.next()) else {
        let words = "the condition has neither `gte` nor `gt`, or both";
        reader.error(field.key, code::BAD_CORRELATION, words, "write one of them");
        return None;
    };
    let number = match &bound.node.value {
        Value::Number(text) => text.parse::<u64>().ok(),
        _ => None,
    };
    let count = number.and_then(|n| n.checked_add(more)).filter(|n| (1..=MAX_COUNT).contains(n));
    if count.is_none() {
        let words = format!("`{}` is no number from 1 to {MAX_COUNT}", bound.name);
        reader.error(bound.node.at, code::BAD_CORRELATION, words, "write one such as 10");
    }
    count.map(|count| (count, name))
}

fn aliases(
    field: Field<'_>,
    reader: &mut Reader<'_>,
) -> Option<BTreeMap<String, BTreeMap<String, String>>> {
    let fields = reader.map(field.node, "`aliases`")?;
    let mut aliases = BTreeMap::new();
    for (alias, node) in fields.entries() {
        let mut by_rule = BTreeMap::new();
        for (rule, name) in reader.map(node, "an alias")?.entries() {
            let name = reader.string(name, "field")?;
            if !check_field(&name.text, name.at, reader) {
                return None;
            }
            by_rule.insert(rule.name.clone(), name.text);
        }
        aliases.insert(alias.name.clone(), by_rule);
    }
    Some(aliases)
}
