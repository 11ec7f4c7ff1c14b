//! HTTP fields on ports that carry raw TCP: an ALLOW rule vanishes there, a DENY rule matches every connection.
//!
//! Which ports these are no policy says, so the caller does.

use super::{Findings, Options, Written};
use crate::diagnostic::code;
use crate::rule::{Action, Clause, Rule, Test};

pub(super) fn check(written: &Written<'_>, options: &Options, findings: &mut Findings) {
    if options.tcp_ports.is_empty() {
        return;
    }
    for (index, rule) in written.policy.rules.iter().enumerate() {
        if !rule.needs_http() {
            continue;
        }
        let is_tcp = |port: &u16| options.tcp_ports.contains(port);
        let named = ports(rule);
        let tcp: Vec<String> =
            named.iter().filter(|port| is_tcp(port)).map(u16::to_string).collect();
        if tcp.is_empty() {
            continue;
        }
        let fields: Vec<String> = rule
            .clauses()
            .filter(|clause| clause.test.needs_http())
            .map(|clause| format!("`{}`", clause.field))
            .collect();
        let (fields, tcp) = (fields.join(", "), tcp.join(", "));
        let (message, help) = match written.policy.action {
            Action::Allow => (
                format!(
                    "the rule has HTTP fields ({fields}), so on TCP port {tcp} it lets nothing pass"
                ),
                "give the TCP port a rule of its own, without HTTP fields",
            ),
            _ => (
                format!(
                    "the rule has HTTP fields ({fields}), which are left out on TCP port {tcp}: there it matches without them"
                ),
                "take the TCP port out of the rule; give it a rule of its own if it is meant, too",
            ),
        };
        findings.warn(written.info(), written.place(index), code::HTTP_ON_TCP, message, help);
    }
}

/// The ports that a rule names.
fn ports(rule: &Rule) -> Vec<u16> {
    let named = |clause: &Clause| match &clause.test {
        Test::Port(ports) if !clause.negated => ports.to_vec(),
        _ => Vec::new(),
    };
    rule.clauses().flat_map(named).collect()
}
