//! AuthorizationPolicy: its fields, and the checks that Istio's own admission makes.
//!
//! Source: istio/api `security/v1/authorization_policy.proto`, `ValidateAuthorizationPolicy` in istio/istio
//! `pkg/config/validation/validation.go`.

use std::borrow::Cow;

use super::values::{self, MAX_RULES, MAX_VALUES};
use super::{AuthorizationPolicy, Context, Head, Object, Provider, Target, conditions};
use crate::diagnostic::code;
use crate::fields::{Field, Fields, Reader, Text};
use crate::rule::{Action, Clause, Groups, Rule, Test};
use crate::yaml::{At, Node, Value};

pub(super) fn read(head: Head<'_>, context: &Context, reader: &mut Reader<'_>) -> Option<Object> {
    head.metadata.refuse_token_annotations(reader);
    let mut spec = head.spec(reader)?;
    let target = head.target(&mut spec, context, reader);
    let action = read_action(&mut spec, reader);
    let provider = read_provider(&mut spec, action, reader);
    let rules_field = spec.take("rules");
    let spec_at = spec.at();
    spec.finish(reader);

    let namespace = &head.metadata.namespace;
    let nodes =
        rules_field.and_then(|field| reader.list_or_empty(field, MAX_RULES)).unwrap_or_default();
    let mut rules = Vec::with_capacity(nodes.len());
    for (index, node) in (0..).zip(nodes) {
        let Some(rule) = read_rule(index, node, namespace, context, reader) else { continue };
        warn(&rule, node, action, &target, reader);
        rules.push(rule);
    }
    let has_no_rules = rules_field
        .is_none_or(|field| matches!(&field.node.value, Value::List(list) if list.is_empty()));
    if action != Action::Allow && has_no_rules {
        reader.error(
            rules_field.map_or(spec_at, |field| field.key),
            code::NEVER_MATCHES,
            "a DENY, AUDIT or CUSTOM policy without `rules` never matches",
            "add `rules: [{}]` if every request is meant",
        );
    }
    if let (Some(at), true) = (head.metadata.dry_run.at, head.metadata.dry_run.value) {
        refuse_dry_run(at, action, reader);
    }
    let dry_run = head.metadata.dry_run.value;
    Some(Object::Authorization(AuthorizationPolicy {
        info: head.info,
        target,
        action,
        provider,
        dry_run,
        rules,
    }))
}

/// Reports an annotation on a kind that it means nothing for.
pub(super) fn misplaced(at: At, name: &str, kind: &str, reader: &mut Reader<'_>) {
    reader.error(
        at,
        code::BAD_ANNOTATION,
        format!("annotation `{name}` has no effect here"),
        format!("it belongs to a {kind}; remove it"),
    );
}

fn refuse_dry_run(at: At, action: Action, reader: &mut Reader<'_>) {
    let why = match action {
        Action::Allow | Action::Deny => return,
        Action::Audit => "an AUDIT policy never enforces anything, so there is nothing to try out",
        // Istio asks the authorizer all the same, and enforces what it says.
        Action::Custom => {
            "a CUSTOM policy cannot be tried out: its authorizer would have to be asked"
        }
    };
    reader.error(at, code::BAD_ANNOTATION, why, "remove the annotation `istio.io/dry-run`");
}

fn read_action(spec: &mut Fields<'_>, reader: &mut Reader<'_>) -> Action {
    let Some(action) = spec.string("action", reader) else { return Action::Allow };
    match action.text.as_str() {
        "ALLOW" => Action::Allow,
        "DENY" => Action::Deny,
        "AUDIT" => Action::Audit,
        "CUSTOM" => Action::Custom,
        other => {
            reader.error(
                action.at,
                code::UNKNOWN_ACTION,
                format!("action `{other}` is not known"),
                "write ALLOW, DENY, AUDIT or CUSTOM, in capitals",
            );
            Action::Allow
        }
    }
}

/// Whom a CUSTOM policy asks; that there is such an authorizer is for the whole set to say.
fn read_provider(
    spec: &mut Fields<'_>,
    action: Action,
    reader: &mut Reader<'_>,
) -> Option<Provider> {
    let at = spec.at();
    let field = spec.take("provider");
    if action != Action::Custom {
        if let Some(field) = field {
            reader.error(
                field.key,
                code::MISPLACED_PROVIDER,
                "`provider` belongs to action CUSTOM",
                "remove it, or did you mean another action?",
            );
        }
        return None;
    }
    let Some(field) = field else {
        reader.error(
            at,
            code::CUSTOM_ACTION,
            "a CUSTOM policy without `provider` asks nobody",
            "add `provider: {name: …}` with the name of an ExternalAuthorizer",
        );
        return None;
    };
    let mut fields = reader.map(field.node, "provider")?;
    let name = fields.require("name", reader).and_then(|field| reader.string(field.node, "name"));
    fields.finish(reader);
    name.map(|name| Provider { name: name.text.into(), at: name.at })
}

fn read_rule(
    index: u32,
    node: &Node,
    namespace: &str,
    context: &Context,
    reader: &mut Reader<'_>,
) -> Option<Rule> {
    let mut fields = reader.map(node, "rule")?;
    let rule = read_match(index, &mut fields, namespace, context, reader);
    fields.finish(reader);
    Some(rule)
}

/// `from`, `to` and `when` of a map that may hold more.
pub(super) fn read_match(
    index: u32,
    fields: &mut Fields<'_>,
    namespace: &str,
    context: &Context,
    reader: &mut Reader<'_>,
) -> Rule {
    let from = fields.take("from");
    let to = fields.take("to");
    let when = fields.take("when");
    let from = groups(from, "source", MAX_RULES, reader, |source, reader| {
        read_source(source, namespace, context, reader)
    });
    let to = groups(to, "operation", MAX_VALUES, reader, read_operation);
    let when =
        when.map_or_else(Vec::new, |field| conditions::read(field, namespace, context, reader));
    Rule { index, line: fields.at().line, from, to, when: when.into() }
}

/// `from` and `to`: lists of maps with one member, `source` or `operation`.
fn groups(
    field: Option<Field<'_>>,
    member: &'static str,
    limit: usize,
    reader: &mut Reader<'_>,
    mut read: impl FnMut(Field<'_>, &mut Reader<'_>) -> Vec<Clause>,
) -> Groups {
    let Some(field) = field else { return Groups::default() };
    let items = reader.list(field, limit).unwrap_or_default();
    let mut groups = Groups::with_capacity(items.len());
    for item in items {
        let Some(mut fields) = reader.map(item, field.name) else { continue };
        if let Some(inner) = fields.require(member, reader) {
            groups.push(read(inner, reader).into_boxed_slice());
        }
        fields.finish(reader);
    }
    groups
}

/// Collects the clauses of one `source` or `operation`.
struct Clauses<'f, 'n, 'r, 'd> {
    fields: &'f mut Fields<'n>,
    reader: &'r mut Reader<'d>,
    prefix: &'static str,
    found: Vec<Clause>,
}

impl Clauses<'_, '_, '_, '_> {
    /// A field and its `not…` twin.
    fn both(
        &mut self,
        name: &'static str,
        not_name: &'static str,
        make: impl Fn(&[Text], &str, &mut Reader<'_>) -> Test,
    ) {
        for (name, negated) in [(name, false), (not_name, true)] {
            let values = self.fields.strings(name, MAX_VALUES, self.reader);
            if values.is_empty() {
                continue;
            }
            let test = make(&values, name, self.reader);
            let field = Cow::Owned(format!("{}.{name}", self.prefix));
            self.found.push(Clause { field, negated, test });
        }
    }

    fn has(&self, names: &[&str]) -> bool {
        self.found
            .iter()
            .any(|clause| names.iter().any(|name| clause.field.ends_with(&format!(".{name}"))))
    }
}

fn read_source(
    field: Field<'_>,
    namespace: &str,
    context: &Context,
    reader: &mut Reader<'_>,
) -> Vec<Clause> {
    let Some(mut fields) = reader.map(field.node, "source") else { return Vec::new() };
    let domains = &context.trust_domains;
    let mut clauses = Clauses { fields: &mut fields, reader, prefix: "source", found: Vec::new() };
    clauses.both("principals", "notPrincipals", |v, f, r| {
        Test::Principal(values::principals(v, f, domains, r))
    });
    clauses.both("namespaces", "notNamespaces", |v, _, _| Test::Namespace(values::namespaces(v)));
    clauses.both("serviceAccounts", "notServiceAccounts", |v, f, r| {
        Test::ServiceAccount(values::service_accounts(v, f, namespace, r))
    });
    clauses.both("trustDomains", "notTrustDomains", |v, f, r| {
        Test::TrustDomain(values::trust_domains(v, f, domains, r))
    });
    clauses.both("requestPrincipals", "notRequestPrincipals", |v, f, r| {
        Test::RequestPrincipal(values::request_principals(v, f, r))
    });
    clauses.both("ipBlocks", "notIpBlocks", |v, f, r| Test::SourceIp(values::ip_blocks(v, f, r)));
    clauses.both("remoteIpBlocks", "notRemoteIpBlocks", |v, f, r| {
        Test::RemoteIp(values::ip_blocks(v, f, r))
    });
    let conflict = clauses.has(&["serviceAccounts", "notServiceAccounts"])
        && clauses.has(&["principals", "notPrincipals", "namespaces", "notNamespaces"]);
    let found = clauses.found;
    if conflict {
        reader.error(
            field.node.at,
            code::CONFLICT,
            "`serviceAccounts` cannot stand in one source with `principals` or `namespaces`",
            "say it by one of them; a service account may carry its namespace: `namespace/serviceAccount`",
        );
    }
    finish_group(fields, field, reader);
    found
}

fn read_operation(field: Field<'_>, reader: &mut Reader<'_>) -> Vec<Clause> {
    let Some(mut fields) = reader.map(field.node, "operation") else { return Vec::new() };
    let mut clauses =
        Clauses { fields: &mut fields, reader, prefix: "operation", found: Vec::new() };
    clauses.both("hosts", "notHosts", |v, f, r| Test::Host(values::patterns(v, f, r)));
    clauses.both("methods", "notMethods", |v, f, r| Test::Method(values::methods(v, f, r)));
    clauses.both("paths", "notPaths", |v, f, r| Test::Path(values::paths(v, f, r)));
    clauses.both("ports", "notPorts", |v, f, r| Test::Port(values::ports(v, f, r)));
    let found = clauses.found;
    finish_group(fields, field, reader);
    found
}

/// Unknown fields are reported, and a group without any field, which would match everything.
fn finish_group(fields: Fields<'_>, field: Field<'_>, reader: &mut Reader<'_>) {
    fields.finish(reader);
    if is_empty_map(field.node) {
        reader.error(
            field.node.at,
            code::EMPTY_MATCH,
            format!("`{}` is empty, which would match everything", field.name),
            "name at least one field, or leave the whole entry out if everything is meant",
        );
    }
}

fn warn(rule: &Rule, node: &Node, action: Action, target: &Target, reader: &mut Reader<'_>) {
    if action == Action::Allow && is_empty_map(node) {
        reader.warning(
            node.at,
            code::ALLOWS_ALL,
            "an empty rule in an ALLOW policy lets every request pass, with or without an identity",
            "name who may (`from`) and what (`to`), unless this is meant",
        );
    }
    let mut tests = rule.clauses().map(|clause| &clause.test).peekable();
    // Whoever selects workloads by labels knows whether they have TCP ports.
    let is_wide = target.labels.is_empty();
    if action == Action::Deny && is_wide && tests.peek().is_some() && tests.all(Test::needs_http) {
        reader.warning(
            node.at,
            code::DENIES_ALL_TCP,
            "the rule has HTTP fields only, so on a TCP port it denies every connection",
            "add `ports` to its operation, or a selector to the policy",
        );
    }
}

fn is_empty_map(node: &Node) -> bool {
    matches!(&node.value, Value::Map(entries) if entries.is_empty())
}
