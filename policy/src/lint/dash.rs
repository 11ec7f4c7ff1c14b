//! The extra dash: two entries of a list where one with both fields was meant, so that AND becomes OR.
//!
//! The best known foot-gun of these policies (istio/istio#9043). A guess, so it is made only where the alternatives look
//! like parts of one: entries with one field each, all different, that could hold together and mean little apart.

use super::{Findings, Written, entries, groups, member};
use crate::diagnostic::code;
use crate::lint::implies;
use crate::rule::{Action, Clause};
use crate::yaml::Node;

pub(super) fn check(written: &Written<'_>, findings: &mut Findings) {
    for (rule, node) in written.policy.rules.iter().zip(&written.rules) {
        check_entries(written, node, ["from", "source"], &rule.from, findings);
        check_entries(written, node, ["to", "operation"], &rule.to, findings);
    }
    for pair in written.rules.windows(2) {
        let [first, second] = pair else { continue };
        check_rules(written, first, second, findings);
    }
}

fn check_entries(
    written: &Written<'_>,
    rule: &Node,
    [list, entry]: [&'static str; 2],
    clauses: &[Box<[Clause]>],
    findings: &mut Findings,
) {
    let nodes = groups(rule, list, entry);
    let (Some(second), true) = (nodes.get(1), nodes.len() == clauses.len()) else { return };
    let mut single = Vec::new();
    for group in clauses {
        let [clause] = &**group else { return };
        single.push(clause);
    }
    let fields: Vec<&str> = single.iter().map(|clause| short(&clause.field)).collect();
    let distinct =
        (1..fields.len()).all(|at| !fields.iter().take(at).any(|f| Some(f) == fields.get(at)));
    let pairs = || single.iter().zip(single.iter().skip(1));
    // Fields that cannot hold together were never meant to.
    let together = pairs().all(|(a, b)| !implies::contradict(a, b, Action::Allow));
    let suspicious =
        list == "to" || pairs().any(|(a, b)| a.negated || b.negated || aspect(a) != aspect(b));
    if !distinct || !together || !suspicious {
        return;
    }
    let fields = fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(" and ");
    findings.warn(
        written.info(),
        second.at,
        code::EXTRA_DASH,
        format!("{fields} stand in different entries of `{list}`, so one of them is enough"),
        format!(
            "if all are meant, put them into one `{entry}`; if any is, say so by \
             `picket.dev/lint-ignore: \"{}\"`",
            code::EXTRA_DASH
        ),
    );
}

/// What a field of a source looks at: sources that look at the same are ordinary alternatives.
fn aspect(clause: &Clause) -> &'static str {
    match short(&clause.field) {
        "principals" | "namespaces" | "serviceAccounts" | "trustDomains" => "peer",
        "requestPrincipals" => "token",
        _ => "address",
    }
}

fn short(field: &str) -> &str {
    field.rsplit_once('.').map_or(field, |(_, name)| name)
}

/// `from` and `to` as two rules, in the order in which one would write them as one.
fn check_rules(written: &Written<'_>, first: &Node, second: &Node, findings: &mut Findings) {
    let only = |node: &Node| match entries(node) {
        [(key, _)] => Some(key.name.clone()),
        _ => None,
    };
    let (Some(a), Some(b)) = (only(first), only(second)) else { return };
    let parts = match (a.as_str(), b.as_str()) {
        ("from", "to") | ("from", "when") | ("to", "when") => [a, b],
        _ => return,
    };
    if member(second, "to").is_some() && written.policy.rules.len() > 2 {
        // Among more rules it is one of several ways in.
        return;
    }
    let [a, b] = parts;
    let what = match written.policy.action {
        Action::Allow => "lets everything pass",
        _ => "matches everything",
    };
    findings.warn(
        written.info(),
        second.at,
        code::EXTRA_DASH,
        format!("`{b}` begins a rule of its own beside one that has `{a}` alone: each {what} that it names, whatever the other says"),
        format!(
            "if both are meant together, take the dash before `{b}` away; if not, say so by \
             `picket.dev/lint-ignore: \"{}\"`",
            code::EXTRA_DASH
        ),
    );
}
