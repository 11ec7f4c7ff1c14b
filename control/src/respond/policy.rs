//! What stands, as policies that are laid over those of the directory: a quarantine is an AuthorizationPolicy that denies, a
//! limit a RateLimit.
//!
//! Both only ever narrow: a DENY rule is asked before any other, and of several limits each has to have something left.

use picket_detect::Action;
use picket_policy::Document;
use serde_json::Value;

use crate::store::responses::Kept;

/// The namespace and name of a response's policy, if it is done by one.
pub(crate) fn name(kept: &Kept, root_namespace: &str) -> Option<(String, String)> {
    let action = kept.plan.action;
    let is_one = matches!(action, Action::Quarantine | Action::Limit);
    let namespace = kept.place.as_ref().map_or(root_namespace, |place| &place.namespace);
    is_one.then(|| (namespace.to_owned(), format!("{}-{}", action.as_str(), kept.id)))
}

/// It as a policy.
pub(super) fn of(kept: &Kept, root_namespace: &str) -> Option<Document> {
    let (namespace, name) = name(kept, root_namespace)?;
    // Principals are written without the scheme.
    let principal = kept.target.strip_prefix("spiffe://").unwrap_or(&kept.target);
    let from = format!("from: [{{source: {{principals: [{}]}}}}]", quoted(principal));
    let (api, kind, spec) = match (kept.plan.action, kept.plan.rate) {
        (Action::Limit, Some(rate)) => {
            let count = format!("requests: {}, per: {}s", rate.requests, rate.per);
            let spec = format!("limits: [{{{from}, {count}, key: [source.principal]}}]");
            ("picket.dev/v1alpha1", "RateLimit", spec)
        }
        _ => {
            let spec = format!("action: DENY, rules: [{{{from}}}]");
            ("security.istio.io/v1", "AuthorizationPolicy", spec)
        }
    };
    let selector = kept.place.as_ref().map(|place| {
        let labels = place.labels.iter();
        let labels = labels.map(|(name, value)| format!("{}: {}", quoted(name), quoted(value)));
        let labels: Vec<String> = labels.collect();
        format!("selector: {{matchLabels: {{{}}}}}, ", labels.join(", "))
    });
    let text = format!(
        "# A response to the alert {}: {}\napiVersion: {api}\nkind: {kind}\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{}{spec}}}\n",
        kept.alert,
        kept.title.escape_debug(),
        selector.unwrap_or_default(),
    );
    Some(Document::whole(format!("response:{}.yaml", kept.id), text))
}

/// A text as JSON writes it, which YAML reads.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
