//! Values that stand twice in one list. They change nothing, but somebody meant another one.

use std::collections::BTreeMap;

use super::{Findings, Written, entries, groups, items, member};
use crate::diagnostic::code;
use crate::yaml::{At, Node, Value};

pub(super) fn check(written: &Written<'_>, findings: &mut Findings) {
    for rule in &written.rules {
        let sources = groups(rule, "from", "source");
        let operations = groups(rule, "to", "operation");
        for (key, list) in sources.into_iter().chain(operations).flat_map(entries) {
            check_list(written, &key.name, list, findings);
        }
        for condition in member(rule, "when").map_or(&[][..], items) {
            for name in ["values", "notValues"] {
                if let Some(list) = member(condition, name) {
                    check_list(written, name, list, findings);
                }
            }
        }
    }
}

fn check_list(written: &Written<'_>, name: &str, list: &Node, findings: &mut Findings) {
    let mut seen: BTreeMap<&str, At> = BTreeMap::new();
    for item in items(list) {
        let Value::Text(text) = &item.value else { continue };
        let Some(first) = seen.get(text.as_str()) else {
            seen.insert(text, item.at);
            continue;
        };
        let taken = findings.warn(
            written.info(),
            item.at,
            code::DUPLICATE_VALUE,
            format!("\"{text}\" of `{name}` is written twice"),
            format!("remove it, or write what was meant; the first is at line {}", first.line),
        );
        if taken {
            findings.offer(text, None);
        }
    }
}
