//! RequestAuthentications that nobody relies on. One alone demands nothing: a request without a token passes.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Findings, items, take};
use crate::diagnostic::{Diagnostics, code};
use crate::jwt::JwtRule;
use crate::kinds::{AuthorizationPolicy, Target};
use crate::rule::{Action, Clause, Test};
use crate::set::PolicySet;
use crate::yaml::{self, At};

pub(super) fn check(set: &PolicySet, findings: &mut Findings) {
    if set.request().is_empty() {
        return;
    }
    let places = places(set);
    for policy in set.request() {
        let of_it = |other: &&Arc<AuthorizationPolicy>| {
            other.action != Action::Audit
                && !other.dry_run
                && Target::may_meet(&other.target, &policy.target)
        };
        let demands: Vec<&Clause> = set
            .authorization()
            .iter()
            .filter(of_it)
            .flat_map(|other| other.rules.iter().flat_map(|rule| rule.clauses()))
            .filter(|clause| matches!(clause.test, Test::RequestPrincipal(_) | Test::Claim(..)))
            .collect();
        for (index, rule) in policy.rules.iter().enumerate() {
            // Made into headers, tokens are of use to the service itself.
            if rule.payload_header.is_some() || !rule.claim_headers.is_empty() {
                continue;
            }
            let at = places.get(&(&*policy.info.file, policy.info.line, index));
            let at = at.copied().unwrap_or(At { line: rule.line, column: 1 });
            let issuer = rule.issuer.as_deref().unwrap_or("any issuer");
            if demands.is_empty() {
                findings.warn(
                    &policy.info,
                    at,
                    code::TOKEN_OPTIONAL,
                    format!("tokens of {issuer} are checked, but no AuthorizationPolicy demands one: a request without passes"),
                    format!("demand it: `from: [{{source: {{requestPrincipals: [\"{issuer}/*\"]}}}}]` in an ALLOW policy"),
                );
            } else if !demands.iter().any(|clause| asks_for(clause, rule)) {
                findings.warn(
                    &policy.info,
                    at,
                    code::UNUSED_ISSUER,
                    format!("no AuthorizationPolicy asks for tokens of {issuer}"),
                    "correct the issuer here or there, or remove the rule",
                );
            }
        }
    }
}

/// Whether a field may be about tokens of a rule.
fn asks_for(clause: &Clause, rule: &JwtRule) -> bool {
    let Some(issuer) = rule.issuer.as_deref() else { return true };
    match &clause.test {
        Test::RequestPrincipal(values) => values.iter().any(|value| value.issuer.matches(issuer)),
        Test::Claim(path, values) if **path == [Box::from("iss")] => {
            values.iter().any(|value| value.matches(issuer))
        }
        _ => true,
    }
}

/// Where the rules stand, by file, line of the object and number.
fn places(set: &PolicySet) -> HashMap<(&str, u32, usize), At> {
    let mut places = HashMap::new();
    for document in set.documents() {
        let Some(node) = yaml::read(document, &mut Diagnostics::default()) else { continue };
        let line = node.at.line;
        let Some(rules) = take(node, "spec").and_then(|spec| take(spec, "jwtRules")) else {
            continue;
        };
        for (index, rule) in items(&rules).iter().enumerate() {
            places.insert((&*document.file, line, index), rule.at);
        }
    }
    places
}
