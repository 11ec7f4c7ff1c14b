//! Differences that are explained in docs/detection.md, each by its exact shape.

use serde_json::Value;

use crate::comparisons::{Comparison, comparisons};
use crate::decide;
use crate::shrink::Difference;

/// Why the two differ about an event that some rules of a correlation matched, if that is known.
pub fn explain_correlation(
    docs: &[Value],
    id: &str,
    event: &Value,
    matched: impl Fn(&str) -> bool,
) -> Option<&'static str> {
    let find = |wanted: &Value| {
        docs.iter().find(|doc| doc.get("id") == Some(wanted) || doc.get("name") == Some(wanted))
    };
    let rule = find(&Value::from(id))?;
    let correlation = rule.get("correlation")?;
    let parts: Vec<&Value> =
        correlation.get("rules")?.as_array()?.iter().filter_map(find).collect();
    let is_matched = |part: &Value| part.get("id").and_then(Value::as_str).is_some_and(&matched);
    let has_one_value = |field: &str| {
        matches!(event.get(field), Some(Value::String(_) | Value::Number(_) | Value::Bool(_)))
    };
    let group = match correlation.get("group-by") {
        Some(Value::Array(names)) => names.as_slice(),
        Some(single) => std::slice::from_ref(single),
        None => &[],
    };
    let meant = |name: &str, part: &Value| {
        let by = part.get("name").and_then(Value::as_str).unwrap_or_default();
        let alias = correlation.get("aliases").and_then(|aliases| aliases.get(name)?.get(by));
        alias.and_then(Value::as_str).unwrap_or(name).to_owned()
    };
    let lacks_group = group.iter().filter_map(Value::as_str).any(|name| {
        let involved =
            parts.iter().filter(|part| is_matched(part) || part.get("correlation").is_some());
        involved.into_iter().any(|part| match part.get("correlation") {
            // What it is made of says what its alias means.
            Some(inner)
                if inner.get("aliases").is_some_and(|aliases| aliases.get(name).is_some()) =>
            {
                !["picket.source", "picket.destination"].iter().all(|field| has_one_value(field))
            }
            _ => !has_one_value(&meant(name, part)),
        })
    });
    if lacks_group {
        return Some("group without a single value");
    }
    match correlation.get("type").and_then(Value::as_str)? {
        "temporal_ordered" if !parts.last().is_some_and(|last| is_matched(last)) => {
            Some("row that was complete before")
        }
        "value_count" => {
            let counted = correlation.pointer("/condition/field").and_then(Value::as_str)?;
            (!has_one_value(counted)).then_some("count without a single value")
        }
        _ => None,
    }
}

/// A named shape of a difference in its smallest form.
type Shape = (&'static str, fn(&Small<'_>) -> bool);

/// Every shape that docs/detection.md explains.
const SHAPES: &[Shape] = &[
    ("filter with a list of conditions or `of`", is_filter_of),
    ("keyword in a number or boolean", is_keyword_beside_text),
    ("pattern of names that begins with a star", is_leading_star),
    ("event that two counted rules match", is_matched_twice),
    ("wildcards at the beginning or end of a value", is_anchored_wildcard),
    ("reference to or from a list or null", is_reference_beside_texts),
    ("row within one instant", is_row_of_an_instant),
    ("count of null", is_null_counted),
    ("letters with more than two cases", is_third_case),
    ("several keywords", is_several_keywords),
    ("wildcard over a line break", is_wildcard_over_lines),
    ("boolean by another word", is_boolean_word),
    ("null among values", is_null_among_values),
    ("field that is null", is_null_field),
    ("text of a fraction", is_fraction),
];

/// The smallest form, as shapes look at it.
struct Small<'d> {
    difference: &'d Difference,
    comparisons: Vec<Comparison>,
    event: &'d Value,
}

impl Small<'_> {
    fn items(&self, comparison: &Comparison) -> Vec<&Value> {
        let found = comparison.field.as_ref().and_then(|field| self.event.get(field));
        found.map(items).unwrap_or_default()
    }

    fn any(&self, holds: impl Fn(&Comparison, &Value) -> bool) -> bool {
        self.comparisons.iter().any(|c| self.items(c).into_iter().any(|item| holds(c, item)))
    }
}

fn items(value: &Value) -> Vec<&Value> {
    value.as_array().map_or_else(|| vec![value], |items| items.iter().collect())
}

/// Why the two differ about the smallest form of a difference, if that is known.
pub fn explain(difference: &Difference) -> Option<&'static str> {
    let small = Small {
        difference,
        comparisons: difference.docs.iter().flat_map(comparisons).collect(),
        event: difference.events.last()?,
    };
    SHAPES.iter().find(|(_, is_shape)| is_shape(&small)).map(|(name, _)| *name)
}

fn is_filter_of(small: &Small<'_>) -> bool {
    small.difference.docs.iter().filter_map(|doc| doc.pointer("/filter/condition")).any(
        |condition| match condition {
            Value::String(text) => text.contains(" of "),
            other => other.is_array(),
        },
    )
}

/// Words that only a number or boolean of the event has.
fn is_keyword_beside_text(small: &Small<'_>) -> bool {
    let is_plain = |value: &Value| value.is_number() || value.is_boolean();
    let mut fields = small.event.as_object().into_iter().flatten();
    small.comparisons.iter().any(|c| c.field.is_none())
        && fields.any(|(_, value)| items(value).into_iter().any(is_plain))
}

fn is_leading_star(small: &Small<'_>) -> bool {
    let conditions =
        small.difference.docs.iter().filter_map(|doc| doc.pointer("/detection/condition"));
    conditions.flat_map(items).filter_map(Value::as_str).any(|text| text.contains(" of *"))
}

/// The other evaluator counts such an event once for each of the rules.
fn is_matched_twice(small: &Small<'_>) -> bool {
    let is_counted = |doc: &Value| {
        let kind = doc.pointer("/correlation/type").and_then(Value::as_str);
        let rules = doc.pointer("/correlation/rules").and_then(Value::as_array).map_or(0, Vec::len);
        kind == Some("event_count") && rules > 1
    };
    small.difference.docs.iter().any(is_counted) && some_event_twice(small.difference)
}

/// Whether there is an event that several rules match.
fn some_event_twice(Difference { docs, events, .. }: &Difference) -> bool {
    let Ok(decisions) = decide::ours(&decide::text(docs), docs, events) else { return false };
    let rules = docs.iter().filter(|doc| doc.get("detection").is_some());
    let rules: Vec<&Vec<bool>> =
        rules.filter_map(|doc| decisions.get(doc.get("id")?.as_str()?)).collect();
    let times = |number: usize| rules.iter().filter(|rule| rule.get(number) == Some(&true)).count();
    (0..events.len()).any(|number| times(number) > 1)
}

fn is_anchored_wildcard(small: &Small<'_>) -> bool {
    small.comparisons.iter().any(|c| {
        (c.has("startswith") || c.has("endswith"))
            && c.value.as_str().is_some_and(|text| text.contains(['*', '?']))
    })
}

fn is_reference_beside_texts(small: &Small<'_>) -> bool {
    small.comparisons.iter().filter(|c| c.has("fieldref")).any(|c| {
        let other = c.value.as_str().and_then(|name| small.event.get(name));
        let own = c.field.as_ref().and_then(|name| small.event.get(name));
        own.into_iter().chain(other).any(|value| value.is_array() || value.is_null())
    })
}

/// Events of one time, or one event that is two steps.
fn is_row_of_an_instant(small: &Small<'_>) -> bool {
    let Difference { docs, events, id, .. } = small.difference;
    let is_meant = |doc: &&Value| doc.get("id").and_then(Value::as_str) == Some(id);
    let kind = docs.iter().find(is_meant).and_then(|doc| doc.pointer("/correlation/type"));
    let steps = docs.iter().filter(|doc| doc.get("detection").is_some()).count();
    let mut times: Vec<&str> =
        events.iter().filter_map(|event| event.get("time")?.as_str()).collect();
    times.dedup();
    kind.and_then(Value::as_str) == Some("temporal_ordered")
        && (times.len() < steps || some_event_twice(small.difference))
}

fn is_null_counted(small: &Small<'_>) -> bool {
    let Difference { docs, events, .. } = small.difference;
    let counted =
        docs.iter().filter_map(|doc| doc.pointer("/correlation/condition/field")?.as_str());
    counted.into_iter().any(|field| {
        events
            .iter()
            .filter_map(|event| event.get(field))
            .any(|value| value.is_null() || value.is_array())
    })
}

/// Of these simple folding, full folding and lower case each say something else.
fn is_third_case(small: &Small<'_>) -> bool {
    let is_third = |text: &str| text.contains(['ς', 'σ', 'Σ', 'İ', 'ı', 'ſ', '\u{212a}', 'ß', 'ẞ']);
    let mut fields = small.event.as_object().into_iter().flatten();
    small.comparisons.iter().any(|c| c.value.as_str().is_some_and(is_third))
        || fields.any(|(_, value)| items(value).into_iter().filter_map(Value::as_str).any(is_third))
}

fn is_several_keywords(small: &Small<'_>) -> bool {
    small.comparisons.iter().any(|c| c.field.is_none() && c.has("all"))
}

fn is_wildcard_over_lines(small: &Small<'_>) -> bool {
    let has_wildcard = |c: &Comparison| {
        c.value.as_str().is_some_and(|text| text.contains(['*', '?'])) && !c.has("re")
    };
    let breaks = |value: &Value| value.as_str().is_some_and(|text| text.contains('\n'));
    let is_keyword = small.comparisons.iter().any(|c| c.field.is_none() && has_wildcard(c));
    let mut fields = small.event.as_object().into_iter().flatten();
    small.any(|c, value| has_wildcard(c) && breaks(value))
        || is_keyword && fields.any(|(_, value)| items(value).into_iter().any(breaks))
}

fn is_boolean_word(small: &Small<'_>) -> bool {
    small.any(|c, value| {
        let word = value.as_str().map(str::to_lowercase);
        c.value.is_boolean()
            && !c.has("exists")
            && matches!(word.as_deref(), Some("1" | "0" | "yes" | "no"))
    })
}

fn is_null_among_values(small: &Small<'_>) -> bool {
    small.comparisons.iter().any(|c| c.value.is_null() && c.is_listed)
}

fn is_null_field(small: &Small<'_>) -> bool {
    small.any(|c, value| c.has("exists") && value.is_null())
}

fn is_fraction(small: &Small<'_>) -> bool {
    let fields = small.difference.events.iter().filter_map(Value::as_object).flatten();
    let mut values = fields.flat_map(|(_, value)| items(value));
    values.any(Value::is_f64) || small.comparisons.iter().any(|c| c.value.is_f64())
}
