//! What changes between two sets of policies: `picket policy diff`.
//!
//! Two answers. [`objects`](Difference::objects) says which objects and which of their fields differ, as they are written.
//! [`decisions`](Difference::decisions) says what that comes to: requests are made from the values that either set names,
//! decided under both, and those with another verdict are told. It samples: no difference found is no proof that there is
//! none. Tokens count as verified, so a changed RequestAuthentication shows as an object only.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::decision::Verdict;
use crate::document::Workload;
use crate::explain::{Answer, Explainer, Request};
use crate::jwt::NoRemoteKeys;
use crate::set::PolicySet;

mod corpus;
mod objects;

pub use objects::{Change, FieldChange, ObjectChange};

/// Requests that are decided at most.
const MAX_REQUESTS: usize = 50_000;

/// How two sets differ.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// Objects that are not the same in both, by kind and name.
    pub objects: Vec<ObjectChange>,
    /// Requests with another verdict, one example for each workload, caller and pair of deciding rules.
    pub decisions: Vec<DecisionChange>,
    /// Requests that were decided under both.
    pub sampled: usize,
    /// Requests that could have been made, if there were more.
    pub possible: usize,
}

/// Requests of one caller that were decided otherwise, by the same rules.
#[derive(Debug, Serialize)]
pub struct DecisionChange {
    /// The verdict now.
    pub now: Verdict,
    /// One of them.
    pub example: Request,
    /// How many of the sampled ones.
    pub count: usize,
    /// The answer to the example before.
    pub before: Answer,
    /// The answer to it after.
    pub after: Answer,
}

impl Difference {
    /// Compares two sets.
    pub fn of(before: &PolicySet, after: &PolicySet) -> Self {
        let objects = objects::compare(before, after);
        let workloads = concerned(before, after);
        let share = MAX_REQUESTS / workloads.len().max(1);
        let (mut sampled, mut possible) = (0, 0);
        // Nothing that is sampled depends on the time: claims stand for tokens.
        let mut old = Explainer::new(before, &NoRemoteKeys, 0);
        let mut new = Explainer::new(after, &NoRemoteKeys, 0);
        let mut changes: BTreeMap<_, DecisionChange> = BTreeMap::new();
        for workload in &workloads {
            let corpus = corpus::requests(workload, [before, after], share);
            possible += corpus.possible;
            for request in corpus.requests {
                sampled += 1;
                let (was, is) = (old.answer(&request), new.answer(&request));
                if was.decision == is.decision {
                    continue;
                }
                let by = |answer: &Answer| (answer.policy.clone(), answer.rule, answer.code);
                let key = (
                    request.destination.clone(),
                    request.labels.clone(),
                    is.decision,
                    request.from.clone(),
                    by(&was),
                    by(&is),
                );
                let change = || DecisionChange {
                    now: is.decision,
                    example: request,
                    count: 0,
                    before: was,
                    after: is,
                };
                changes.entry(key).or_insert_with(change).count += 1;
            }
        }
        let decisions = changes.into_values().collect();
        Self { objects, decisions, sampled, possible }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.decisions.is_empty()
    }
}

/// The workloads that policies single out and for which something changes, in a stable order.
fn concerned(before: &PolicySet, after: &PolicySet) -> Vec<Workload> {
    let targets = || before.targets().chain(after.targets());
    let mut namespaces: Vec<&str> =
        targets().filter_map(|target| target.namespace.as_deref()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    if namespaces.is_empty() {
        namespaces.push("default");
    }
    let mut workloads = Vec::new();
    for target in targets() {
        let own = target.namespace.as_deref();
        let all =
            namespaces.iter().copied().filter(|namespace| own.is_none_or(|own| own == *namespace));
        for namespace in all {
            let labels: BTreeMap<String, String> = target.labels.iter().cloned().collect();
            let name = labels.get("app").or(labels.values().next());
            let name = name.cloned().unwrap_or_else(|| "any".to_owned());
            workloads.push(Workload { namespace: namespace.to_owned(), name, labels });
        }
    }
    workloads.sort();
    workloads.dedup();
    let same_settings = before.settings() == after.settings();
    workloads.retain(|workload| {
        let texts = |set: &PolicySet| {
            let documents = set.documents_for(workload);
            documents.into_iter().map(|document| document.text).collect::<Vec<_>>()
        };
        !same_settings || texts(before) != texts(after)
    });
    workloads
}
