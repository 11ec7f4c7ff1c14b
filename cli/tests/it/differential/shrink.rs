//! Makes a difference small: takes away one thing after another, of the policies and of the request,
//! for as long as both sides still differ.

use picket_policy::explain::Request;
use serde_json::Value;

use super::generate::Set;

/// Everything that is one step smaller. Some of it is no valid policy; whoever reads it finds out.
pub(super) fn smaller(set: &Set, request: &Request) -> Vec<(Set, Request)> {
    let mut found = Vec::new();
    for documents in smaller_lists(&set.documents) {
        found.push((Set { documents, ..set.clone() }, request.clone()));
    }
    if set.settings.trust_domain.is_some() {
        let mut set = set.clone();
        set.settings.trust_domain = None;
        set.settings.trust_domain_aliases.clear();
        found.push((set, request.clone()));
    }
    if set.port_is_settled {
        found.push((Set { port_is_settled: false, ..set.clone() }, request.clone()));
    }
    let mut keep = |change: &dyn Fn(&mut Request)| {
        let mut smaller = request.clone();
        change(&mut smaller);
        if serde_json::to_value(&smaller).unwrap() != serde_json::to_value(request).unwrap() {
            found.push((set.clone(), smaller));
        }
    };
    keep(&|request| request.sni = None);
    keep(&|request| request.from = None);
    keep(&|request| request.remote_ip = None);
    for name in request.headers.keys() {
        keep(&|request| drop(request.headers.remove(name)));
    }
    if request.method.is_some() {
        keep(&|request| request.path = Some("/".to_owned()));
        keep(&|request| request.method = Some("GET".to_owned()));
        keep(&|request| request.host = Some("payments.shop".to_owned()));
    }
    found
}

/// A value without one of its members, at any depth.
fn smaller_values(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(list) => smaller_lists(list).into_iter().map(Value::from).collect(),
        Value::Object(map) => {
            let mut found = Vec::new();
            for (name, member) in map {
                let mut without = map.clone();
                without.remove(name);
                found.push(without.into());
                for smaller in smaller_values(member) {
                    let mut with = map.clone();
                    with.insert(name.clone(), smaller);
                    found.push(with.into());
                }
            }
            found
        }
        _ => Vec::new(),
    }
}

fn smaller_lists(list: &[Value]) -> Vec<Vec<Value>> {
    let mut found = Vec::new();
    for (index, item) in list.iter().enumerate() {
        let mut without = list.to_vec();
        without.remove(index);
        found.push(without);
        for smaller in smaller_values(item) {
            let mut with = list.to_vec();
            with[index] = smaller;
            found.push(with);
        }
    }
    found
}

/// A value as block YAML, as people write policies.
pub(super) fn yaml(value: &Value, indent: usize) -> String {
    let pad = " ".repeat(indent);
    let member = |value: &Value, indent: usize| match value {
        Value::Object(map) if !map.is_empty() => format!("\n{}", yaml(value, indent + 2)),
        Value::Array(list) if list.iter().any(Value::is_object) => {
            format!("\n{}", yaml(value, indent))
        }
        scalar => format!(" {scalar}"),
    };
    let lines: Vec<String> = match value {
        Value::Object(map) => map
            .iter()
            .map(|(name, value)| format!("{pad}{name}:{}", member(value, indent)))
            .collect(),
        Value::Array(list) => list
            .iter()
            .map(|item| format!("{pad}- {}", yaml(item, indent + 2).trim_start()))
            .collect(),
        scalar => vec![format!("{pad}{scalar}")],
    };
    lines.join("\n")
}
