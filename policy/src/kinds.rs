//! YAML nodes to checked policies: which kinds there are, what every object has, and who it concerns.
//!
//! `security.istio.io/v1` and `v1beta1`, strictly: a field is implemented or refused at its place, with the fix. What
//! the kinds mean is in [`crate::rule`], [`crate::mtls`] and [`crate::jwt`]. Sources: istio/api `security/v1`, the
//! validation in istio/istio `pkg/config/validation/validation.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::authorizer::ExternalAuthorizer;
use crate::decision::PolicyInfo;
use crate::diagnostic::{Diagnostics, code};
use crate::document::{Document, Settings, Workload};
use crate::fields::{Field, Fields, Reader, Text};
use crate::jwt::RequestAuthentication;
use crate::limit::RateLimit;
use crate::mtls::PeerAuthentication;
use crate::rule::{Action, Rule};
use crate::trust_domain::TrustDomains;
use crate::yaml::{self, At, Node, Value};

mod authorization;
mod conditions;
mod external_authorizer;
mod metadata;
mod peer;
mod policy_test;
mod rate_limit;
mod request;
#[cfg(test)]
mod tests;
mod values;

use metadata::Metadata;
pub(crate) use policy_test::read_all as read_tests;

/// A checked AuthorizationPolicy.
#[derive(Debug)]
pub(crate) struct AuthorizationPolicy {
    pub(crate) info: Arc<PolicyInfo>,
    pub(crate) target: Target,
    pub(crate) action: Action,
    /// Whom a CUSTOM policy asks.
    pub(crate) provider: Option<Provider>,
    pub(crate) dry_run: bool,
    pub(crate) rules: Vec<Rule>,
}

/// The name of an external authorizer, and where a policy says it.
#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) name: Box<str>,
    pub(crate) at: At,
}

/// Whom an object concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `None`: every namespace, for an object of the root namespace.
    pub(crate) namespace: Option<String>,
    /// All of these labels, sorted.
    pub(crate) labels: Vec<(String, String)>,
}

impl Target {
    pub(crate) fn selects(&self, workload: &Workload) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == workload.namespace)
            && self.labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
    }

    /// Whether it selects every workload that another one does.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        (self.namespace.is_none() || self.namespace == other.namespace)
            && self.labels.iter().all(|label| other.labels.contains(label))
    }

    /// Whether there may be a workload that both select.
    pub(crate) fn may_meet(&self, other: &Self) -> bool {
        let one_namespace = self.namespace.is_none()
            || other.namespace.is_none()
            || self.namespace == other.namespace;
        one_namespace && self.labels_may_meet(other)
    }

    /// Whether there may be a workload with the labels of both.
    pub(crate) fn labels_may_meet(&self, other: &Self) -> bool {
        let values: BTreeMap<&str, &str> =
            self.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let mut labels = other.labels.iter();
        labels.all(|(key, value)| values.get(key.as_str()).is_none_or(|own| own == value))
    }
}

/// One object of a policy file.
#[derive(Debug)]
pub(crate) enum Object {
    Authorization(AuthorizationPolicy),
    Request(RequestAuthentication),
    Peer(PeerAuthentication),
    Limit(RateLimit),
    Authorizer(Arc<ExternalAuthorizer>),
}

impl Object {
    pub(crate) fn info(&self) -> &Arc<PolicyInfo> {
        match self {
            Self::Authorization(policy) => &policy.info,
            Self::Request(policy) => &policy.info,
            Self::Peer(policy) => &policy.info,
            Self::Limit(policy) => &policy.info,
            Self::Authorizer(authorizer) => &authorizer.info,
        }
    }

    /// None: whoever names it.
    pub(crate) fn target(&self) -> Option<&Target> {
        match self {
            Self::Authorization(policy) => Some(&policy.target),
            Self::Request(policy) => Some(&policy.target),
            Self::Peer(policy) => Some(&policy.target),
            Self::Limit(policy) => Some(&policy.target),
            Self::Authorizer(_) => None,
        }
    }

    /// How many rules it has, and how many values in them.
    pub(crate) fn size(&self) -> (usize, usize) {
        let values = |rule: &Rule| rule.clauses().map(|clause| clause.test.len()).sum::<usize>();
        match self {
            Self::Authorization(policy) => {
                (policy.rules.len(), policy.rules.iter().map(values).sum())
            }
            Self::Limit(policy) => {
                let limits = &policy.limits;
                (limits.len(), limits.iter().map(|limit| values(&limit.rule)).sum())
            }
            Self::Request(policy) => (policy.rules.len(), 0),
            Self::Peer(_) | Self::Authorizer(_) => (1, 0),
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Authorization(_) => "AuthorizationPolicy",
            Self::Request(_) => "RequestAuthentication",
            Self::Peer(_) => "PeerAuthentication",
            Self::Limit(_) => "RateLimit",
            Self::Authorizer(_) => "ExternalAuthorizer",
        }
    }
}

/// What a document turned out to be.
pub(crate) enum Read {
    Policy(Object),
    /// A PolicyTest, which is not for proxies: see [`crate::testing`].
    Test,
}

/// What the meaning of an object depends on beside its own text.
pub(crate) struct Context {
    pub(crate) root_namespace: String,
    pub(crate) trust_domains: TrustDomains,
}

impl Context {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            root_namespace: settings.root_namespace.clone(),
            trust_domains: TrustDomains::new(settings),
        }
    }
}

/// What the parsers of the kinds get: the object's head and its `spec`.
struct Head<'n> {
    info: Arc<PolicyInfo>,
    metadata: Metadata,
    spec: Option<Field<'n>>,
    at: At,
}

const READ: &str = "AuthorizationPolicy, RequestAuthentication and PeerAuthentication of security.istio.io/v1 and \
                    v1beta1, RateLimit, ExternalAuthorizer and PolicyTest of picket.dev/v1alpha1";
const ISTIO: [&str; 2] = ["security.istio.io/v1", "security.istio.io/v1beta1"];
const OURS: [&str; 1] = ["picket.dev/v1alpha1"];

/// Reads one YAML document. `None`: empty, or reported.
pub(crate) fn read(
    document: &Document,
    context: &Context,
    diagnostics: &mut Diagnostics,
) -> Option<Read> {
    let node = yaml::read(document, diagnostics)?;
    let before = diagnostics.len();
    let mut reader = Reader { file: &document.file, diagnostics };
    let Value::Map(_) = &node.value else {
        reader.error(
            node.at,
            code::NOT_AN_OBJECT,
            format!(
                "a policy must be a map with apiVersion, kind, metadata and spec, not {}",
                node.value.kind()
            ),
            "remove the document, or check what its first line should be",
        );
        return None;
    };
    let mut fields = reader.map(&node, "object")?;
    let version = fields.require("apiVersion", &mut reader);
    let kind = fields.require("kind", &mut reader);
    let (version, kind) = (version?, kind?);
    let version_text = reader.string(version.node, "apiVersion")?;
    let kind_text = reader.string(kind.node, "kind")?;
    type Parse = fn(Head<'_>, &Context, &mut Reader<'_>) -> Option<Object>;
    let (parse, versions): (Parse, &[&str]) = match kind_text.text.as_str() {
        "AuthorizationPolicy" => (authorization::read, &ISTIO),
        "RequestAuthentication" => (request::read, &ISTIO),
        "PeerAuthentication" => (peer::read, &ISTIO),
        "RateLimit" => (rate_limit::read, &OURS),
        "ExternalAuthorizer" => (external_authorizer::read, &OURS),
        policy_test::KIND => return Some(Read::Test),
        other => {
            reader.error(
                kind_text.at,
                code::UNKNOWN_KIND,
                format!("kind `{other}` ({}) is not read", version_text.text),
                format!("move it out of the policy directory, which holds {READ}"),
            );
            return None;
        }
    };
    if !versions.contains(&version_text.text.as_str()) {
        unknown_version(&version_text, &kind_text.text, versions, &mut reader);
        return None;
    }
    let metadata = metadata::read(&mut fields, &mut reader);
    let spec = fields.take("spec");
    fields.ignore(&["status"]);
    let at = fields.at();
    fields.finish(&mut reader);
    let metadata = metadata?;
    let info = Arc::new(PolicyInfo {
        full: format!("{}/{}", metadata.namespace, metadata.name),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        file: document.file.clone(),
        line: at.line,
        ignored: metadata.ignored.clone(),
    });
    let own = Arc::clone(&info);
    let object = parse(Head { info, metadata, spec, at }, context, &mut reader);
    reader.diagnostics.silence(before, &own.ignored);
    object.map(Read::Policy)
}

fn unknown_version(version: &Text, kind: &str, known: &[&str], reader: &mut Reader<'_>) {
    reader.error(
        version.at,
        code::UNKNOWN_VERSION,
        format!("apiVersion `{}` is not read for {kind}", version.text),
        format!("write {}", known.first().copied().unwrap_or_default()),
    );
}

impl<'n> Head<'n> {
    /// The fields of `spec`.
    fn spec(&self, reader: &mut Reader<'_>) -> Option<Fields<'n>> {
        match self.spec {
            Some(spec) => reader.map(spec.node, "spec"),
            None => {
                reader.error(
                    self.at,
                    code::MISSING_FIELD,
                    "the object has no `spec`",
                    "add `spec`; an AuthorizationPolicy that shall allow nothing has `spec: {}`",
                );
                None
            }
        }
    }

    /// `selector`, and a refusal of `targetRef` and `targetRefs`.
    fn target(&self, spec: &mut Fields<'_>, context: &Context, reader: &mut Reader<'_>) -> Target {
        for name in ["targetRef", "targetRefs"] {
            if let Some(field) = spec.take(name) {
                reader.error(
                    field.key,
                    code::NOT_IMPLEMENTED,
                    format!("`{name}` is not implemented: there are no Gateway API gateways or waypoints here"),
                    "select the workloads with `selector.matchLabels`",
                );
            }
        }
        let labels = spec.take("selector").map_or_else(Vec::new, |field| labels(field, reader));
        let namespace = &self.metadata.namespace;
        Target {
            namespace: (*namespace != context.root_namespace).then(|| namespace.clone()),
            labels,
        }
    }
}

fn labels(selector: Field<'_>, reader: &mut Reader<'_>) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    let Some(mut fields) = reader.map(selector.node, "selector") else { return labels };
    let match_labels = fields.take("matchLabels");
    fields.finish(reader);
    let entries = match match_labels.map(|field| reader.map(field.node, "matchLabels")) {
        Some(Some(entries)) => entries.entries(),
        Some(None) => return labels,
        None => Vec::new(),
    };
    if entries.is_empty() {
        reader.warning(
            selector.key,
            code::SELECTS_ALL,
            "`selector` has no labels, so the policy selects every workload of its namespace",
            "name labels under `matchLabels`, or remove `selector` if every workload is meant",
        );
    }
    for (key, node) in entries {
        let Some(value) = label_value(node, reader) else { continue };
        if key.name.is_empty() {
            reader.error(
                key.at,
                code::BAD_SELECTOR,
                "a label of `matchLabels` has no name",
                "write the label's name",
            );
        } else if key.name.contains('*') || value.contains('*') {
            reader.error(
                key.at,
                code::BAD_SELECTOR,
                format!("`matchLabels` knows no wildcards, as in `{}: {value}`", key.name),
                "write the label out; leave it out to select every value",
            );
        } else if labels.len() >= values::MAX_LABELS || key.name.len() > 317 || value.len() > 63 {
            reader.error(
                key.at,
                code::TOO_MANY,
                "`matchLabels` has too many or too long labels",
                "use fewer, shorter labels",
            );
            break;
        } else {
            labels.push((key.name.clone(), value));
        }
    }
    labels.sort();
    labels
}

/// A label may be empty, unlike every other string.
fn label_value(node: &Node, reader: &mut Reader<'_>) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        _ => reader.string(node, "matchLabels").map(|value| value.text),
    }
}
