//! A difference made small: the fewest rules, selections, events and characters that still differ the same way.

use serde_json::{Map, Value, json};

use crate::decide::{self, Decisions};

/// One rule and one event on which the two do not agree.
#[derive(Debug, Clone)]
pub struct Difference {
    pub docs: Vec<Value>,
    /// The last one is decided differently.
    pub events: Vec<Value>,
    /// The rule.
    pub id: String,
    pub ours: bool,
    pub theirs: bool,
}

/// Times that a smaller form is tried.
const MAX_TRIES: usize = 3_000;

impl Difference {
    pub fn is_one(&self) -> bool {
        let text = decide::text(&self.docs);
        let last = |decisions: Decisions| decisions.get(&self.id)?.last().copied();
        // Silent: most smaller forms are no rules any more.
        let ours = decide::ours(&text, &self.docs, &self.events).ok().and_then(last);
        ours == Some(self.ours)
            && decide::theirs(&self.docs, &self.events).ok().and_then(last) == Some(self.theirs)
    }

    /// The smallest form that is found.
    pub fn shrunk(mut self) -> Self {
        let mut left = MAX_TRIES;
        loop {
            let smaller = self.smaller().take(left).inspect(|_| left -= 1).find(Self::is_one);
            match smaller {
                Some(smaller) => self = smaller,
                None => return self,
            }
        }
    }

    /// Forms that are a step smaller, big steps first.
    fn smaller(&self) -> impl Iterator<Item = Self> {
        self.fewer_docs()
            .chain(self.fewer_events())
            .chain(self.smaller_docs())
            .chain(self.smaller_events())
    }

    fn fewer_docs(&self) -> impl Iterator<Item = Self> {
        let others = self.docs.iter().enumerate();
        let others = others.filter(|(_, doc)| doc.get("id") != Some(&json!(self.id)));
        others.map(|(number, _)| Self { docs: without(&self.docs, number), ..self.clone() })
    }

    fn fewer_events(&self) -> impl Iterator<Item = Self> {
        let before = self.events.len().saturating_sub(1);
        let lengths = std::iter::successors(Some(before), |length| Some(length / 2));
        let cuts = lengths.take_while(|length| *length > 0).flat_map(move |length| {
            (0..before).step_by(length).map(move |from| from..(from + length).min(before))
        });
        cuts.map(|cut| {
            let kept = self.events.iter().enumerate().filter(|(i, _)| !cut.contains(i));
            let events = kept.map(|(_, event)| event.clone()).collect();
            Self { docs: self.docs.clone(), events, id: self.id.clone(), ..*self }
        })
    }

    fn smaller_docs(&self) -> impl Iterator<Item = Self> {
        self.docs.iter().enumerate().flat_map(move |(number, doc)| {
            let sections = ["detection", "filter", "logsource", "correlation"];
            let sections = sections.into_iter().filter_map(|name| Some((name, doc.get(name)?)));
            let forms = sections.flat_map(|(name, section)| {
                smaller_section(section).into_iter().map(move |section| (name, section))
            });
            forms.map(move |(name, section)| {
                let mut form = self.clone();
                if let Some(doc) = form.docs.get_mut(number).and_then(Value::as_object_mut) {
                    doc.insert(name.to_owned(), section);
                }
                form
            })
        })
    }

    fn smaller_events(&self) -> impl Iterator<Item = Self> {
        self.events.iter().enumerate().flat_map(move |(number, event)| {
            smaller_values(event, &["id", "time"]).into_iter().map(move |smaller| {
                let mut form = self.clone();
                if let Some(event) = form.events.get_mut(number) {
                    *event = smaller;
                }
                form
            })
        })
    }
}

fn without<T: Clone>(items: &[T], number: usize) -> Vec<T> {
    let kept = items.iter().enumerate().filter(|(i, _)| *i != number);
    kept.map(|(_, item)| item.clone()).collect()
}

fn smaller_section(section: &Value) -> Vec<Value> {
    let mut forms = Vec::new();
    if let Some(fields) = section.as_object().filter(|fields| fields.contains_key("condition")) {
        let names = fields.keys().filter(|name| !["condition", "rules"].contains(&name.as_str()));
        for name in names {
            for condition in [name.clone(), format!("not {name}")] {
                if fields.get("condition") == Some(&json!(condition)) {
                    continue;
                }
                let mut smaller = Map::new();
                smaller.extend(fields.get_key_value(name).map(|(k, v)| (k.clone(), v.clone())));
                smaller.extend(fields.get_key_value("rules").map(|(k, v)| (k.clone(), v.clone())));
                smaller.insert("condition".to_owned(), json!(condition));
                if smaller.len() < fields.len() || !condition.starts_with("not ") {
                    forms.push(Value::Object(smaller));
                }
            }
        }
    }
    forms.extend(smaller_values(section, &["condition", "rules", "type", "timespan"]));
    forms
}

/// The value without one part of it. What stands under the kept keys stays as it is.
fn smaller_values(value: &Value, kept: &[&str]) -> Vec<Value> {
    match value {
        Value::Object(fields) => {
            let names: Vec<&String> =
                fields.keys().filter(|name| !kept.contains(&name.as_str())).collect();
            let removed = names.iter().map(|name| {
                let mut fields = fields.clone();
                fields.remove(*name);
                Value::Object(fields)
            });
            let changed = names.iter().flat_map(|name| {
                let inner = fields.get(*name).map(|value| smaller_values(value, kept));
                inner.into_iter().flatten().map(|smaller| {
                    let mut fields = fields.clone();
                    fields.insert((*name).clone(), smaller);
                    Value::Object(fields)
                })
            });
            removed.chain(changed).collect()
        }
        Value::Array(items) => {
            let single = items.iter().filter(|_| items.len() == 1).cloned();
            let removed = (0..items.len()).map(|number| json!(without(items, number)));
            let changed = items.iter().enumerate().flat_map(|(number, item)| {
                smaller_values(item, kept).into_iter().map(move |smaller| {
                    let mut items = items.clone();
                    if let Some(item) = items.get_mut(number) {
                        *item = smaller;
                    }
                    json!(items)
                })
            });
            single.chain(removed).chain(changed).collect()
        }
        Value::String(text) => {
            let chars: Vec<char> = text.chars().collect();
            let half = chars.len() / 2;
            let halves = (chars.len() > 3).then(|| [chars.get(half..), chars.get(..half)]);
            let halves = halves.into_iter().flatten().flatten().map(<[char]>::to_vec);
            let single = (0..chars.len()).map(|number| without(&chars, number));
            halves.chain(single).map(|chars| json!(chars.into_iter().collect::<String>())).collect()
        }
        _ => Vec::new(),
    }
}
