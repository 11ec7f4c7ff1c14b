//! Which rules the tests of a set have reached.
//!
//! A rule is covered if it decided a test; a rule of an AUDIT or dry-run policy, which decides nothing, if it was noted.
//! A rule that only matched beside the one that decided is told apart: no test fails if it goes away.

use std::collections::BTreeMap;

use crate::decision::PolicyRef;
use crate::explain::{Answer, Place};
use crate::set::PolicySet;

/// The rules of a set with what the tests came to.
#[derive(Clone, Debug)]
pub struct Coverage {
    /// By policy and rule.
    rules: BTreeMap<(String, u32), CoveredRule>,
}

/// A rule and how many tests reached it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CoveredRule {
    /// The policy and the rule.
    #[serde(flatten)]
    pub place: Place,
    /// Tests that it decided, or in which it was noted.
    pub decided: u32,
    /// Tests whose request it matches.
    pub matched: u32,
}

impl Coverage {
    /// The rules of a set's AuthorizationPolicies, reached by no test yet.
    pub fn new(set: &PolicySet) -> Self {
        let rule = |place: Place| {
            let key = (place.policy.clone(), place.rule.unwrap_or_default());
            (key, CoveredRule { place, decided: 0, matched: 0 })
        };
        Self { rules: set.rules().map(|by| rule(Place::from(&by))).collect() }
    }

    /// Notes a test: its answer, and all rules that match its request.
    pub fn note(&mut self, answer: &Answer, matching: &[PolicyRef]) {
        for by in matching {
            if let Some(rule) = self.of(by.policy(), by.rule()) {
                rule.matched += 1;
            }
        }
        let noted = answer.dry_run.iter().map(|hit| &hit.place).chain(&answer.audit);
        let noted = noted.map(|place| (Some(place.policy.as_str()), place.rule));
        // A policy that refused before the rules is none of these.
        for (policy, index) in noted.chain([(answer.policy.as_deref(), answer.rule)]) {
            let Some(policy) = policy else { continue };
            let is_match = matching.iter().any(|by| by.policy() == policy && by.rule() == index);
            if let Some(rule) = self.of(policy, index).filter(|_| is_match) {
                rule.decided += 1;
            }
        }
    }

    fn of(&mut self, policy: &str, rule: Option<u32>) -> Option<&mut CoveredRule> {
        self.rules.get_mut(&(policy.to_owned(), rule?))
    }

    /// All rules, by the names of their policies.
    pub fn rules(&self) -> impl Iterator<Item = &CoveredRule> {
        self.rules.values()
    }

    /// The rules that decided no test.
    pub fn uncovered(&self) -> impl Iterator<Item = &CoveredRule> {
        self.rules().filter(|rule| rule.decided == 0)
    }
}
