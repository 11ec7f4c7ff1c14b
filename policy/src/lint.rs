//! What a set may not mean as its author thinks: `picket policy lint`.
//!
//! Beyond the warnings that come with reading a set, this looks at rules side by side and at how they are written. It is
//! not part of reading: proxies and the control plane never pay for it. Findings are warnings, and each is silenced for an
//! object by the annotation `picket.dev/lint-ignore`. Where a finding is a claim (a rule is dead, a rule is shadowed) it is
//! made only if it is certain; what is a guess about what somebody meant is made only where few mean otherwise.

use std::collections::HashMap;
use std::sync::Arc;

use crate::decision::PolicyInfo;
use crate::diagnostic::{Diagnostics, Fix};
use crate::kinds::AuthorizationPolicy;
use crate::rule::Action;
use crate::set::PolicySet;
use crate::yaml::{self, At, Key, Node, Value};

mod dash;
mod duplicates;
pub mod fix;
mod implies;
mod ports;
mod principals;
mod shadow;
mod tokens;

/// What is known beside the policies.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Ports of workloads that carry raw TCP.
    pub tcp_ports: Vec<u16>,
}

impl PolicySet {
    /// Its warnings, and what else it may not mean.
    pub fn lint(&self, options: &Options) -> Diagnostics {
        let written = Written::all(self);
        let mut findings = Findings::default();
        for policy in &written {
            dash::check(policy, &mut findings);
            duplicates::check(policy, &mut findings);
            principals::check(policy, &mut findings);
            ports::check(policy, options, &mut findings);
        }
        shadow::check(&written, &mut findings);
        tokens::check(self, &mut findings);
        let mut all = findings.0;
        all.extend(self.warnings());
        all.sort();
        all
    }
}

/// Findings of objects that want to hear them.
#[derive(Default)]
struct Findings(Diagnostics);

impl Findings {
    /// Whether it was taken.
    fn warn(
        &mut self,
        info: &PolicyInfo,
        at: At,
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> bool {
        let wanted = !info.ignored.contains(&code);
        if wanted {
            self.0.warning(&info.file, at, code, message, help);
        }
        wanted
    }

    fn offer(&mut self, value: &str, replacement: Option<String>) {
        self.0.offer(Fix { value: value.to_owned(), replacement });
    }
}

/// An AuthorizationPolicy beside its text.
struct Written<'s> {
    policy: &'s Arc<AuthorizationPolicy>,
    /// The nodes of its rules, as many as it has.
    rules: Vec<Node>,
}

impl<'s> Written<'s> {
    /// In the order of the set, so in that of names.
    fn all(set: &'s PolicySet) -> Vec<Self> {
        let mut nodes: HashMap<(&str, u32), Vec<Node>> = HashMap::new();
        for document in set.documents() {
            // It was read before, so there is nothing to report.
            let Some(node) = yaml::read(document, &mut Diagnostics::default()) else { continue };
            let line = node.at.line;
            let rules = take(node, "spec").and_then(|spec| take(spec, "rules"));
            if let Some(Node { value: Value::List(rules), .. }) = rules {
                nodes.insert((&document.file, line), rules);
            }
        }
        let policies = set.authorization().iter();
        let with_text = policies.map(|policy| {
            let rules = nodes.remove(&(&*policy.info.file, policy.info.line));
            Self { policy, rules: rules.unwrap_or_default() }
        });
        with_text.collect()
    }

    fn info(&self) -> &PolicyInfo {
        &self.policy.info
    }

    /// Whether its rules let requests pass, or keep them out.
    fn grants(&self) -> bool {
        self.policy.action == Action::Allow
    }

    /// Where a rule stands.
    fn place(&self, rule: usize) -> At {
        let line = self.info().line;
        self.rules.get(rule).map_or(At { line, column: 1 }, |node| node.at)
    }
}

fn take(node: Node, name: &str) -> Option<Node> {
    let Value::Map(entries) = node.value else { return None };
    entries.into_iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
}

fn entries(node: &Node) -> &[(Key, Node)] {
    match &node.value {
        Value::Map(entries) => entries,
        _ => &[],
    }
}

fn items(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(items) => items,
        _ => &[],
    }
}

fn member<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    entries(node).iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
}

/// The sources of `from` or the operations of `to`.
fn groups<'n>(rule: &'n Node, list: &str, member_name: &str) -> Vec<&'n Node> {
    let list = member(rule, list).map_or(&[][..], items);
    list.iter().filter_map(|entry| member(entry, member_name)).collect()
}
