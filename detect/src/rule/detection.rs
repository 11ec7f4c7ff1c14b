//! What a rule looks for: its log source, its selections, and the condition over them.
//!
//! Specification: Sigma 2.1, "Log source", "Detection", "Filter".

use picket_documents::fields::{Field, Reader};
use picket_documents::yaml::{At, Key, Node, Value};

use super::{Body, MAX_LIST, check_field, code};
use crate::condition::{self, Expr};
use crate::event::lower;
use crate::matcher::{How, Modifiers, Scalar, Test};
use crate::pattern::{Anchor, Pattern};

/// The events that a rule or filter is about: of any kind and service, or of one, in lower case.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogSource {
    category: Option<String>,
    service: Option<String>,
}

impl LogSource {
    /// Whether all events of the other are among these.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let covers = |own: &Option<String>, other| own.is_none() || own == other;
        covers(&self.category, &other.category) && covers(&self.service, &other.service)
    }

    /// What an event has to have.
    pub(super) fn tests(&self) -> Vec<Expr<Test>> {
        let category = self.category.iter().map(|text| equals("picket.kind", text.clone()));
        category
            .chain(self.service.iter().map(|text| equals("service.name", text.clone())))
            .collect()
    }
}

pub(super) fn logsource_of(
    field: Option<Field<'_>>,
    at: At,
    reader: &mut Reader<'_>,
) -> Option<LogSource> {
    let Some(field) = field else {
        let help = "add `logsource: {product: picket, category: request}`";
        reader.error(at, code::MISSING_FIELD, "the rule has no `logsource`", help);
        return None;
    };
    let mut fields = reader.map(field.node, "`logsource`")?;
    let product = fields.string("product", reader);
    let category = fields.string("category", reader);
    let service = fields.string("service", reader);
    fields.ignore(&["definition"]);
    fields.finish(reader);
    match product {
        Some(product) if product.text == "picket" => {}
        Some(product) => {
            let words = format!("no event comes from the product {:?}", product.text);
            reader.error(product.at, code::BAD_LOGSOURCE, words, "write `product: picket`");
            return None;
        }
        None => {
            let words = "`logsource` has no `product`";
            reader.error(field.key, code::BAD_LOGSOURCE, words, "add `product: picket`");
            return None;
        }
    }
    if let Some(category) = &category
        && !["request", "connection", "event"].contains(&category.text.as_str())
    {
        let words = format!("there is no category {:?}", category.text);
        let help = "there are request, connection and event (acts of the control plane)";
        reader.error(category.at, code::BAD_LOGSOURCE, words, help);
        return None;
    }
    let category = category.map(|category| category.text);
    Some(LogSource { category, service: service.map(|service| lower(&service.text).into_owned()) })
}

fn equals(field: &str, text: String) -> Expr<Test> {
    let how = How::Pattern { pattern: Pattern::Exact(text), cased: false };
    Expr::Test(Test { field: Some(field.to_owned()), how })
}

pub(super) fn filter_of(
    field: Field<'_>,
    source: Option<LogSource>,
    reader: &mut Reader<'_>,
) -> Option<Body> {
    let Value::Map(entries) = &field.node.value else {
        reader.map(field.node, "`filter`");
        return None;
    };
    let mut rest = Vec::new();
    let mut rules = None;
    let mut is_said = false;
    for entry in entries {
        if entry.0.name != "rules" {
            rest.push(entry);
            continue;
        }
        is_said = true;
        let named = Field { name: "rules", key: entry.0.at, node: &entry.1 };
        match &entry.1.value {
            Value::Text(text) if text == "any" => {}
            Value::Text(_) => rules = reader.string(named.node, "rules").map(|text| vec![text]),
            _ => rules = Some(reader.strings(named, MAX_LIST)),
        }
    }
    if !is_said {
        let help = "add `rules: [NAME or ID …]`, or `rules: any`";
        reader.error(field.key, code::MISSING_FIELD, "`filter` has no `rules`", help);
        return None;
    }
    let condition = selections(field.key, &rest, reader)?;
    Some(Body::Filter { rules, source: source?, condition })
}

pub(super) fn detection_of(field: Field<'_>, reader: &mut Reader<'_>) -> Option<Expr<Test>> {
    let fields = reader.map(field.node, "`detection`")?;
    selections(field.key, &fields.entries(), reader)
}

/// Selections and the condition over them.
fn selections(at: At, entries: &[&(Key, Node)], reader: &mut Reader<'_>) -> Option<Expr<Test>> {
    let mut names = Vec::new();
    let mut bodies = Vec::new();
    let mut conditions = Vec::new();
    let mut is_good = true;
    for (key, node) in entries {
        match key.name.as_str() {
            "condition" => match &node.value {
                Value::List(_) => {
                    let field = Field { name: "condition", key: key.at, node };
                    conditions = reader.strings(field, 16);
                }
                _ => conditions.extend(reader.string(node, "condition")),
            },
            "timeframe" => {
                let words = "`timeframe` belongs to aggregations, which are not read";
                reader.error(
                    key.at,
                    code::BAD_CONDITION,
                    words,
                    "write a correlation with `timespan`",
                );
                is_good = false;
            }
            _ => match selection(node, reader) {
                Some(expression) => {
                    names.push((key.name.clone(), key.at));
                    bodies.push(expression);
                }
                None => is_good = false,
            },
        }
    }
    if !is_good {
        return None;
    }
    if conditions.is_empty() {
        reader.error(
            at,
            code::MISSING_FIELD,
            "there is no `condition`",
            "add one, such as `condition: selection`",
        );
        return None;
    }
    let plain: Vec<String> = names.iter().map(|(name, _)| name.clone()).collect();
    let mut any = Vec::new();
    let mut used = vec![false; names.len()];
    for text in conditions {
        match condition::read(&text.text, &plain) {
            Ok(expression) => {
                expression.tests(&mut |index: &usize| {
                    if let Some(used) = used.get_mut(*index) {
                        *used = true;
                    }
                });
                any.push(expression);
            }
            Err(wrong) => {
                // Within the string; quotes and folded lines may put it further on.
                let column = u32::try_from(wrong.at).unwrap_or(0);
                let at = At { line: text.at.line, column: text.at.column.saturating_add(column) };
                let help = format!("the selections are {}", plain.join(", "));
                reader.error(at, code::BAD_CONDITION, wrong.words, help);
                return None;
            }
        }
    }
    for ((name, at), _) in names.iter().zip(&used).filter(|(_, used)| !**used) {
        let words = format!("the condition does not name `{name}`");
        reader.warning(*at, code::UNUSED_SELECTION, words, "remove the selection, or name it");
    }
    let mut substitute = |index: usize| bodies.get(index).cloned().unwrap_or(Expr::Any(Vec::new()));
    let any: Vec<Expr<Test>> = any.into_iter().map(|e| flatten(e.map(&mut substitute))).collect();
    Some(Expr::Any(any))
}

fn flatten(expression: Expr<Expr<Test>>) -> Expr<Test> {
    let list = |items: Vec<Expr<Expr<Test>>>| items.into_iter().map(flatten).collect();
    match expression {
        Expr::Test(inner) => inner,
        Expr::All(items) => Expr::All(list(items)),
        Expr::Any(items) => Expr::Any(list(items)),
        Expr::Not(inner) => Expr::Not(Box::new(flatten(*inner))),
    }
}

/// A map of fields that all have to hold, a list of such maps of which one has to, or keywords.
fn selection(node: &Node, reader: &mut Reader<'_>) -> Option<Expr<Test>> {
    match &node.value {
        Value::Map(entries) => {
            let parts: Vec<Option<Expr<Test>>> =
                entries.iter().map(|(key, value)| comparison(key, value, reader)).collect();
            let all: Vec<Expr<Test>> = parts.into_iter().collect::<Option<_>>()?;
            if all.is_empty() {
                reader.error(
                    node.at,
                    code::EMPTY_LIST,
                    "the selection is empty and would match everything",
                    "name a field",
                );
                return None;
            }
            Some(Expr::All(all))
        }
        Value::List(items) if !items.is_empty() => {
            let any: Vec<Option<Expr<Test>>> = items
                .iter()
                .map(|item| match &item.value {
                    Value::Map(_) => selection(item, reader),
                    _ => keyword(item, reader),
                })
                .collect();
            any.into_iter().collect::<Option<_>>().map(Expr::Any)
        }
        Value::Text(_) => keyword(node, reader),
        other => {
            let words = format!(
                "a selection is a map of fields, a list of such maps or of words, not {}",
                other.kind()
            );
            reader.error(node.at, code::WRONG_TYPE, words, "write `field: value`");
            None
        }
    }
}

/// A word in any field.
fn keyword(node: &Node, reader: &mut Reader<'_>) -> Option<Expr<Test>> {
    let text = reader.string(node, "keyword")?;
    let pattern = Pattern::read(&text.text, Anchor::Anywhere).lower();
    Some(Expr::Test(Test { field: None, how: How::Pattern { pattern, cased: false } }))
}

/// `field|modifiers: value or values`
fn comparison(key: &Key, node: &Node, reader: &mut Reader<'_>) -> Option<Expr<Test>> {
    let mut parts = key.name.split('|');
    let name = parts.next().unwrap_or_default();
    let modifiers = match Modifiers::read(parts) {
        Ok(modifiers) => modifiers,
        Err((words, help)) => {
            reader.error(key.at, code::BAD_VALUE, words, help);
            return None;
        }
    };
    let field = match name {
        // Keywords that all have to be there: `'|all': [one, two]`.
        "" => None,
        name => {
            if !check_field(name, key.at, reader) {
                return None;
            }
            Some(name.to_owned())
        }
    };
    let values = match &node.value {
        Value::List(items) if items.len() > MAX_LIST => {
            let words = format!("the list has {} values; at most {MAX_LIST} are read", items.len());
            reader.error(node.at, code::TOO_MANY, words, "split the rule");
            return None;
        }
        Value::List(items) if items.is_empty() => {
            reader.error(
                node.at,
                code::EMPTY_LIST,
                "the list is empty: nothing would match",
                "write a value",
            );
            return None;
        }
        Value::List(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut tests = Vec::new();
    for value in values {
        let scalar = match &value.value {
            Value::Null => Scalar::Null,
            Value::Bool(value) => Scalar::Bool(*value),
            Value::Number(text) => Scalar::Number(text),
            Value::Text(text) => Scalar::Text(text),
            other => {
                let words = format!("a value cannot be {}", other.kind());
                reader.error(
                    value.at,
                    code::WRONG_TYPE,
                    words,
                    "write a text, a number, true, false or null",
                );
                return None;
            }
        };
        let how = match (modifiers.compare(scalar), &field) {
            // A word may stand anywhere in the field.
            (Ok(How::Pattern { .. }), None) => match scalar {
                Scalar::Text(text) | Scalar::Number(text) => How::Pattern {
                    pattern: Pattern::read(text, Anchor::Anywhere).lower(),
                    cased: false,
                },
                _ => How::Missing,
            },
            (Ok(how @ How::Regex(_)), None) => how,
            (Ok(_), None) => {
                reader.error(
                    key.at,
                    code::BAD_VALUE,
                    "without a field only words and `re` can be compared",
                    "name the field",
                );
                return None;
            }
            (Ok(How::Field { other, anchor, cased }), _) => {
                if !check_field(&other, value.at, reader) {
                    return None;
                }
                How::Field { other, anchor, cased }
            }
            (Ok(how), _) => how,
            (Err((words, help)), _) => {
                reader.error(value.at, code::BAD_VALUE, words, help);
                return None;
            }
        };
        tests.push(Expr::Test(Test { field: field.clone(), how }));
    }
    if modifiers.all && values.len() < 2 {
        let words = "`all` is about several values, and there is one";
        reader.error(key.at, code::BAD_VALUE, words, "remove `all`, or add a value");
        return None;
    }
    Some(if modifiers.all { Expr::All(tests) } else { Expr::Any(tests) })
}
