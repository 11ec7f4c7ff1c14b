//! What a rule asks of single fields, read from its document.

use serde_json::Value;

/// One comparison with one value.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// None for keywords.
    pub field: Option<String>,
    pub modifiers: Vec<String>,
    pub value: Value,
    /// Whether it is one of several values.
    pub is_listed: bool,
}

impl Comparison {
    pub fn has(&self, modifier: &str) -> bool {
        self.modifiers.iter().any(|known| known == modifier)
    }
}

/// Every comparison of a rule or filter.
pub fn comparisons(doc: &Value) -> Vec<Comparison> {
    let mut found = Vec::new();
    let sections =
        ["detection", "filter"].into_iter().filter_map(|name| doc.get(name)?.as_object());
    for (name, selection) in sections.flatten() {
        if name != "condition" && name != "rules" {
            collect(selection, &mut found);
        }
    }
    found
}

fn collect(selection: &Value, found: &mut Vec<Comparison>) {
    match selection {
        Value::Object(fields) => {
            for (key, value) in fields {
                let mut parts = key.split('|').map(str::to_owned);
                let field = parts.next().filter(|name| !name.is_empty());
                let modifiers: Vec<String> = parts.collect();
                let values = match value {
                    Value::Array(values) => values.as_slice(),
                    single => std::slice::from_ref(single),
                };
                found.extend(values.iter().map(|value| Comparison {
                    field: field.clone(),
                    modifiers: modifiers.clone(),
                    value: value.clone(),
                    is_listed: values.len() > 1,
                }));
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        word => found.push(Comparison {
            field: None,
            modifiers: Vec::new(),
            value: word.clone(),
            is_listed: false,
        }),
    }
}
