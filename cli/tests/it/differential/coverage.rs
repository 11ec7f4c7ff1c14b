//! Which fields the requests were compared with, and how often each matched: every field of every policy
//! becomes an AUDIT policy of its own, and the decision says which of them match.

use std::collections::BTreeMap;

use picket_policy::explain::{Explainer, Request};
use picket_policy::jwt::NoRemoteKeys;
use picket_policy::{Document, PolicySet};
use serde_json::{Map, Value, json};

use super::generate::{self, Set};

/// How often each field matched and missed.
#[derive(Default)]
pub(super) struct Coverage(BTreeMap<String, (u64, u64)>);

impl Coverage {
    /// Counts the requests of a set.
    pub(super) fn count(&mut self, set: &Set, requests: &[Request], now: u64) {
        let mut names = Vec::new();
        let mut documents = Vec::new();
        for document in &set.documents {
            if document["kind"] != "AuthorizationPolicy" {
                documents.push(document.clone());
                continue;
            }
            if !is_for_the_workload(document) {
                continue;
            }
            for (name, rule) in clauses(document) {
                let mut policy = document.clone();
                policy["metadata"]["name"] = format!("c{}", names.len()).into();
                policy["metadata"].as_object_mut().unwrap().remove("annotations");
                policy["spec"]["action"] = "AUDIT".into();
                policy["spec"]["rules"] = json!([rule]);
                documents.push(policy);
                names.push(name);
            }
        }
        let documents: Vec<Document> = documents
            .iter()
            .enumerate()
            .map(|(index, document)| Document::whole(format!("{index}.json"), document.to_string()))
            .collect();
        let parsed = PolicySet::parse(&documents, set.settings.clone()).unwrap();
        let mut explainer = Explainer::new(&parsed, &NoRemoteKeys, now);
        for request in requests.iter().filter(|request| request.method.is_some()) {
            let answer = explainer.answer(request);
            if answer.stage < picket_policy::Stage::Deny {
                continue;
            }
            for (index, name) in names.iter().enumerate() {
                let policy = format!("/c{index}");
                let matched = answer.audit.iter().any(|place| place.policy.ends_with(&policy));
                let (matches, misses) = self.0.entry(name.clone()).or_default();
                *(if matched { matches } else { misses }) += 1;
            }
        }
    }

    /// The fields that did not both match and miss.
    pub(super) fn gaps(&self) -> Vec<String> {
        let seen = |field: &String| matches!(self.0.get(field), Some((1.., 1..)));
        generate::fields().filter(|field| !seen(field)).collect()
    }

    /// A line for each field.
    pub(super) fn table(&self) -> String {
        let lines = self.0.iter().map(|(field, (matched, missed))| {
            format!("  {field:45} matched {matched:7}  missed {missed:7}")
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn is_for_the_workload(policy: &Value) -> bool {
    let labels = generate::workload().labels;
    let selector = policy["spec"]["selector"]["matchLabels"].as_object();
    policy["metadata"]["namespace"] != "store"
        && selector.is_none_or(|selector| {
            selector.iter().all(|(key, value)| labels.get(key).is_some_and(|own| value == own))
        })
}

/// Each field of a policy, with a rule that holds nothing else.
fn clauses(policy: &Value) -> Vec<(String, Value)> {
    let empty = Vec::new();
    let list = |value: &Value| value.as_array().unwrap_or(&empty).clone();
    let mut found = Vec::new();
    for rule in list(&policy["spec"]["rules"]) {
        for (member, part) in [("from", "source"), ("to", "operation")] {
            for group in list(&rule[member]) {
                for (field, values) in group[part].as_object().unwrap() {
                    found.push((field.clone(), json!({member: [{part: {field: values}}]})));
                }
            }
        }
        for condition in list(&rule["when"]) {
            let key = condition["key"].as_str().unwrap();
            for which in ["values", "notValues"] {
                let Some(values) = condition.get(which) else { continue };
                let alone = Map::from_iter([
                    ("key".to_owned(), key.into()),
                    (which.to_owned(), values.clone()),
                ]);
                found.push((format!("{key} {which}"), json!({"when": [alone]})));
            }
        }
    }
    found
}
