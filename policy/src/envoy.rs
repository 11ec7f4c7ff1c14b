//! What holds for one workload, as configuration for Envoy: `picket policy export --envoy`.
//!
//! The filters decide as [`crate::WorkloadPolicy`] does: their structure is Istio's own (`builder.go`, `model.go`), so that
//! tools which know it find what they expect; where our meaning is another (default deny, TCP, namespaces) it is ours that
//! is written down. What Envoy cannot be told is an error with its place, never a configuration that lets more pass. That
//! holds in tests: the same requests go through a real Envoy with these filters (`cli/tests/it/differential.rs`). Not
//! translated: rate limits, and what is no decision, such as records. Envoy's API: `envoy.extensions.filters.*.rbac.v3`,
//! `envoy.extensions.filters.http.jwt_authn.v3`; JSON, which Envoy reads as it does YAML.

use http::header::COOKIE;
use serde_json::{Value, json};

use crate::decision::PolicyInfo;
use crate::diagnostic::{Diagnostics, code};
use crate::document::{DefaultAction, MtlsMode, Workload};
use crate::mtls::Modes;
use crate::rule::{Action, Test};
use crate::set::PolicySet;
use crate::yaml::At;

mod bootstrap;
mod jwt;
mod matchers;
mod rbac;
#[cfg(test)]
mod tests;

pub use bootstrap::{Listener, Protocol};

/// Configuration for Envoy, in parts, each as the lists of Envoy's API want it.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvoyConfig {
    /// Filters to stand before the router of an HTTP connection manager, in this order.
    pub http_filters: Vec<Value>,
    /// Filters to stand before the TCP proxy of a port that is not HTTP, in this order.
    pub network_filters: Vec<Value>,
    /// Where keys are fetched.
    pub clusters: Vec<Value>,
    /// Whether clients must, may or need not show a certificate.
    pub mtls: MtlsMode,
    /// What is not exported though no decision depends on it.
    pub warnings: Diagnostics,
}

impl EnvoyConfig {
    /// Translates what a set holds for a workload. `port` is the one that its service listens on: `ports` are then
    /// compared here and now, since Envoy may listen on another. Without it Envoy compares the port that a connection was
    /// made to, as it does beside Istio.
    ///
    /// Fails with everything that Envoy cannot be told.
    pub fn of(
        set: &PolicySet,
        workload: &Workload,
        port: Option<u16>,
    ) -> Result<Self, Diagnostics> {
        let mut problems = Diagnostics::default();
        let modes = Modes::compile(set.peer(), workload, set.settings().default_mtls);
        let mtls = modes.of(port).0;
        if port.is_none()
            && let Some((port, by)) = modes.other_port()
        {
            problems.error(
                by.file(),
                At { line: by.line(), column: 1 },
                code::NOT_FOR_ENVOY,
                format!(
                    "port {port} has an mTLS mode of its own, which one list of filters cannot say"
                ),
                "name the port that is exported with `--port`",
            );
        }
        for limit in set.limits().iter().filter(|limit| limit.target.selects(workload)) {
            not_exported(&limit.info, "a RateLimit", &mut problems);
        }
        let policies: Vec<_> =
            set.authorization().iter().filter(|policy| policy.target.selects(workload)).collect();
        for policy in policies.iter().filter(|policy| policy.action == Action::Custom) {
            problems.error(
                &policy.info.file,
                At { line: policy.info.line, column: 1 },
                code::NOT_FOR_ENVOY,
                "the external authorizer of a CUSTOM policy is not translated",
                "export without the policy, and configure Envoy's `ext_authz` filter before the exported ones",
            );
        }
        let mut clauses =
            policies.iter().flat_map(|policy| &policy.rules).flat_map(|rule| rule.clauses());
        let reads_cookies =
            clauses.any(|clause| matches!(&clause.test, Test::Header(name, _) if name == COOKIE));
        let tokens = jwt::translate(set, workload, reads_cookies, &mut problems);
        let rules = rbac::Rules { policies, port, mtls };
        let mut http_filters = Vec::new();
        let mut network_filters = Vec::new();
        for (protocol, filters) in
            [(Protocol::Http, &mut http_filters), (Protocol::Tcp, &mut network_filters)]
        {
            filters.extend(rules.peer_authentication(protocol));
            if protocol == Protocol::Http {
                filters.extend(tokens.filters.iter().cloned());
            }
            filters.extend(rules.filter(protocol, Action::Audit, false));
            filters.extend(rules.filter(protocol, Action::Deny, false));
            let closed = set.settings().default_action == DefaultAction::Deny;
            filters.extend(rules.filter(protocol, Action::Allow, closed));
        }
        problems.sort();
        if problems.has_errors() {
            return Err(problems);
        }
        let clusters = tokens.clusters;
        Ok(Self { http_filters, network_filters, clusters, mtls, warnings: problems })
    }

    /// All parts in one object, beside the settings that an HTTP connection manager needs for paths to mean the same.
    pub fn fragment(&self) -> Value {
        json!({
            "http_filters": self.http_filters,
            "http_connection_manager": bootstrap::connection_manager_settings(),
            "network_filters": self.network_filters,
            "clusters": self.clusters,
        })
    }
}

fn not_exported(info: &PolicyInfo, what: &str, problems: &mut Diagnostics) {
    problems.warning(
        &info.file,
        At { line: info.line, column: 1 },
        code::NOT_EXPORTED,
        format!("{what} is not exported: {} has no effect in Envoy", info.full),
        "configure Envoy's own rate limits beside the exported filters",
    );
}
