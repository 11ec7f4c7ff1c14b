//! Principal patterns that let in more than they seem to, where they grant: in `principals` of an ALLOW rule, and in
//! `notPrincipals` of a DENY rule.

use super::{Findings, Written, entries, groups, items, member};
use crate::diagnostic::code;
use crate::rule::Action;
use crate::yaml::{Node, Value};

pub(super) fn check(written: &Written<'_>, findings: &mut Findings) {
    let (field, values) = match written.policy.action {
        Action::Allow => ("principals", "values"),
        Action::Deny => ("notPrincipals", "notValues"),
        _ => return,
    };
    for rule in &written.rules {
        let conditions = member(rule, "when").map_or(&[][..], items);
        for source in groups(rule, "from", "source") {
            // Whatever else the rule asks of the caller makes the pattern one part of several.
            let alone = entries(source).len() == 1 && conditions.is_empty();
            if let Some(list) = member(source, field) {
                check_list(written, field, list, alone, findings);
            }
        }
        for condition in conditions {
            let key = member(condition, "key").map(|node| &node.value);
            if !matches!(key, Some(Value::Text(key)) if key == "source.principal") {
                continue;
            }
            if let Some(list) = member(condition, values) {
                check_list(written, values, list, false, findings);
            }
        }
    }
}

fn check_list(
    written: &Written<'_>,
    field: &str,
    list: &Node,
    alone: bool,
    findings: &mut Findings,
) {
    for item in items(list) {
        let Value::Text(pattern) = &item.value else { continue };
        let Some((what, help)) = excess(pattern, alone && written.grants()) else { continue };
        findings.warn(
            written.info(),
            item.at,
            code::WIDE_PRINCIPAL,
            format!("\"{pattern}\" of `{field}` matches {what}"),
            help,
        );
    }
}

/// What a pattern matches beyond what its author is likely to mean.
fn excess(pattern: &str, alone: bool) -> Option<(&'static str, &'static str)> {
    const NAMES: &str = "write the whole identity, TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT, or end the pattern after a slash";
    if pattern == "*" {
        return alone.then_some((
            "every identity of every trust domain that is trusted",
            "name the callers, or their `namespaces`, unless every workload is meant",
        ));
    }
    if let Some(rest) = pattern.strip_prefix('*') {
        let has_namespace = rest.starts_with("/ns/") || rest.contains("/ns/");
        return (!has_namespace).then_some((
            "service accounts of that name in every namespace, whoever may create them",
            "write the namespace, too: */ns/NAMESPACE/sa/SERVICE-ACCOUNT",
        ));
    }
    let begin = pattern.strip_suffix('*')?;
    match begin.split_once("/ns/") {
        None if begin.ends_with("/ns") || begin.ends_with('/') => None,
        None => Some(("trust domains that only begin with that", NAMES)),
        Some((_, namespace)) if namespace.is_empty() || namespace.contains('/') => None,
        Some(_) => Some(("namespaces that only begin with that", NAMES)),
    }
}
