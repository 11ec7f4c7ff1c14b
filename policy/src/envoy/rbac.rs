//! AuthorizationPolicy and PeerAuthentication as Envoy's RBAC filters.
//!
//! One filter for each action, one policy of Envoy's for each rule, named as Istio names them. What a rule compares is
//! parted as Istio parts it: what is asked for are permissions, who asks are principals, both must match. Source:
//! istio/istio `pilot/pkg/security/authz/{builder/builder.go,model/model.go}`.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Protocol;
use super::matchers as m;
use crate::document::MtlsMode;
use crate::kinds::AuthorizationPolicy;
use crate::rule::{Action, Clause, Rule, Test};

/// What is to be translated.
pub(super) struct Rules<'s> {
    /// The policies that select the workload.
    pub(super) policies: Vec<&'s Arc<AuthorizationPolicy>>,
    /// The port, if it is settled.
    pub(super) port: Option<u16>,
    pub(super) mtls: MtlsMode,
}

/// The two halves of Envoy's policies, which say the same things in other words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Permission,
    Principal,
}

impl Half {
    fn all(self, parts: Vec<Value>) -> Value {
        match (self, <[Value; 1]>::try_from(parts)) {
            (_, Ok([only])) => only,
            (_, Err(none)) if none.is_empty() => json!({"any": true}),
            (Self::Permission, Err(parts)) => json!({"and_rules": {"rules": parts}}),
            (Self::Principal, Err(parts)) => json!({"and_ids": {"ids": parts}}),
        }
    }

    fn any(self, parts: Vec<Value>) -> Value {
        match (self, <[Value; 1]>::try_from(parts)) {
            (_, Ok([only])) => only,
            (_, Err(none)) if none.is_empty() => self.not(json!({"any": true})),
            (Self::Permission, Err(parts)) => json!({"or_rules": {"rules": parts}}),
            (Self::Principal, Err(parts)) => json!({"or_ids": {"ids": parts}}),
        }
    }

    fn not(self, part: Value) -> Value {
        match self {
            Self::Permission => json!({"not_rule": part}),
            Self::Principal => json!({"not_id": part}),
        }
    }
}

impl Rules<'_> {
    /// Refuses who shows no identity where one is demanded.
    pub(super) fn peer_authentication(&self, protocol: Protocol) -> Option<Value> {
        if self.mtls != MtlsMode::Strict {
            return None;
        }
        let nobody = Half::Principal.not(m::any_peer());
        let rules = json!({
            "action": "DENY",
            "policies": {"peer-authentication": {
                "permissions": [{"any": true}],
                "principals": [nobody],
            }},
        });
        Some(filter(protocol, "peer_authentication", json!({"rules": rules})))
    }

    /// The policies of one action. A filter without policies that permits is one that refuses everything: that is what
    /// `closed` says of a workload that no ALLOW policy selects.
    pub(super) fn filter(&self, protocol: Protocol, action: Action, closed: bool) -> Option<Value> {
        let (name, envoys) = match action {
            Action::Audit => ("audit", "LOG"),
            Action::Deny => ("deny", "DENY"),
            Action::Allow => ("allow", "ALLOW"),
            // Refused before it comes to this.
            Action::Custom => return None,
        };
        let mut config = Map::new();
        if let Some(policies) = self.policies(protocol, action, false, closed) {
            config.insert("rules".to_owned(), json!({"action": envoys, "policies": policies}));
        }
        if let Some(policies) = self.policies(protocol, action, true, false) {
            let shadow = json!({"action": envoys, "policies": policies});
            config.insert("shadow_rules".to_owned(), shadow);
            let prefix = format!("istio_dry_run_{name}_");
            config.insert("shadow_rules_stat_prefix".to_owned(), prefix.into());
        }
        (!config.is_empty()).then(|| filter(protocol, name, config.into()))
    }

    fn policies(
        &self,
        protocol: Protocol,
        action: Action,
        dry_run: bool,
        closed: bool,
    ) -> Option<Map<String, Value>> {
        let mut any = closed;
        let mut policies = Map::new();
        for policy in &self.policies {
            if policy.action != action || policy.dry_run != dry_run {
                continue;
            }
            any = true;
            for rule in &policy.rules {
                if protocol == Protocol::Tcp && action == Action::Allow && rule.needs_http() {
                    continue;
                }
                let (namespace, name) = (&policy.info.namespace, &policy.info.name);
                let name = format!("ns[{namespace}]-policy[{name}]-rule[{}]", rule.index);
                policies.insert(name, self.rule(protocol, rule));
            }
        }
        any.then_some(policies)
    }

    fn rule(&self, protocol: Protocol, rule: &Rule) -> Value {
        let when = |half| self.clauses(protocol, half, &rule.when);
        let half = |half: Half, groups: &[Box<[Clause]>]| {
            let groups = groups.iter().map(|group| self.clauses(protocol, half, group));
            let mut alternatives: Vec<Vec<Value>> = groups.collect();
            if alternatives.is_empty() {
                alternatives.push(Vec::new());
            }
            let all = alternatives.into_iter().map(|mut parts| {
                parts.extend(when(half));
                half.all(parts)
            });
            all.collect::<Vec<Value>>()
        };
        json!({
            "permissions": half(Half::Permission, &rule.to),
            "principals": half(Half::Principal, &rule.from),
        })
    }

    /// Those clauses of a group that belong to one half.
    fn clauses(&self, protocol: Protocol, half: Half, group: &[Clause]) -> Vec<Value> {
        let said = group.iter().filter(|clause| {
            // Left out of a DENY rule, which so refuses more; an ALLOW rule with one is not there at all.
            let on_this_protocol = protocol == Protocol::Http || !clause.test.needs_http();
            on_this_protocol && half_of(&clause.test) == half
        });
        said.map(|clause| {
            let any = half.any(self.values(&clause.test));
            if clause.negated { half.not(any) } else { any }
        })
        .collect()
    }

    /// A matcher for each value.
    fn values(&self, test: &Test) -> Vec<Value> {
        let is_peer = matches!(
            test,
            Test::Principal(_)
                | Test::Namespace(_)
                | Test::ServiceAccount(_)
                | Test::TrustDomain(_)
        );
        if is_peer && self.mtls == MtlsMode::Disable {
            // An identity that is shown is ignored.
            return Vec::new();
        }
        match test {
            Test::Principal(values) => values.iter().map(m::peer).collect(),
            Test::Namespace(values) => values.iter().map(m::peer_namespace).collect(),
            Test::ServiceAccount(values) => values.iter().map(m::peer_account).collect(),
            Test::TrustDomain(values) => values.iter().map(m::peer_trust_domain).collect(),
            Test::RequestPrincipal(values) => values
                .iter()
                .map(|value| {
                    let issuer = m::claim(&["iss"], &m::text(&value.issuer));
                    let subject = m::claim(&["sub"], &m::text(&value.subject));
                    Half::Principal.all(vec![issuer, subject])
                })
                .collect(),
            Test::SourceIp(blocks) => {
                blocks.iter().map(|block| json!({"direct_remote_ip": m::block(block)})).collect()
            }
            Test::RemoteIp(blocks) => {
                blocks.iter().map(|block| json!({"remote_ip": m::block(block)})).collect()
            }
            Test::DestinationIp(blocks) => {
                blocks.iter().map(|block| json!({"destination_ip": m::block(block)})).collect()
            }
            Test::Port(ports) => match self.port {
                Some(port) if ports.contains(&port) => vec![json!({"any": true})],
                Some(_) => Vec::new(),
                None => ports.iter().map(|port| json!({"destination_port": port})).collect(),
            },
            Test::Sni(values) => {
                let name = |value| json!({"requested_server_name": m::string(value)});
                values.iter().map(name).collect()
            }
            Test::Host(values) => {
                values.iter().map(|value| m::header(":authority", value, true)).collect()
            }
            Test::Method(values) => {
                values.iter().map(|value| m::header(":method", value, false)).collect()
            }
            Test::Path(values) => values.iter().map(m::path).collect(),
            Test::Header(name, values) => {
                let name = if *name == http::header::HOST { ":authority" } else { name.as_str() };
                values.iter().map(|value| m::header(name, value, false)).collect()
            }
            Test::Claim(path, values) => {
                values.iter().map(|value| m::claim(path, &m::text_or_list(value))).collect()
            }
        }
    }
}

fn half_of(test: &Test) -> Half {
    match test {
        Test::DestinationIp(_)
        | Test::Port(_)
        | Test::Sni(_)
        | Test::Host(_)
        | Test::Method(_)
        | Test::Path(_) => Half::Permission,
        Test::Principal(_)
        | Test::Namespace(_)
        | Test::ServiceAccount(_)
        | Test::TrustDomain(_)
        | Test::RequestPrincipal(_)
        | Test::SourceIp(_)
        | Test::RemoteIp(_)
        | Test::Header(..)
        | Test::Claim(..) => Half::Principal,
    }
}

fn filter(protocol: Protocol, name: &str, config: Value) -> Value {
    let url = |kind| m::type_url(&format!("envoy.extensions.filters.{kind}.rbac.v3.RBAC"));
    let own = match protocol {
        Protocol::Http => json!({"@type": url("http")}),
        Protocol::Tcp => json!({"@type": url("network"), "stat_prefix": format!("picket_{name}")}),
    };
    json!({"name": format!("picket.{name}"), "typed_config": m::with(config, own)})
}
