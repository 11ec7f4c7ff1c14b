//! Sets and requests in few words.

use picket_policy::explain::{Answer, Explainer};
use picket_policy::jwt::NoRemoteKeys;
use picket_policy::{DefaultAction, Document, MtlsMode, PolicySet, Settings};

/// A time for tokens: 2026-11-21T00:00:00Z.
pub(crate) const NOW: u64 = 1_795_219_200;

/// Plain text is let in, so that tables can say "no identity" without saying "no mTLS".
pub(crate) fn settings() -> Settings {
    Settings { default_mtls: MtlsMode::Permissive, ..Settings::default() }
}

/// As Istio has it out of the box.
pub(crate) fn istio_settings() -> Settings {
    Settings { default_action: DefaultAction::Allow, ..settings() }
}

pub(crate) fn set_with(yaml: &str, settings: Settings) -> PolicySet {
    PolicySet::parse(&[Document::whole("policies.yaml", yaml)], settings)
        .unwrap_or_else(|diagnostics| panic!("{diagnostics}\n---\n{yaml}"))
}

pub(crate) fn set(yaml: &str) -> PolicySet {
    set_with(yaml, settings())
}

pub(crate) fn ask(set: &PolicySet, request: &str) -> Answer {
    Explainer::new(set, &NoRemoteKeys, NOW).answer_json(request)
}

/// A policy of the namespace `shop` with one rule in flow style, or none.
pub(crate) fn policy(action: &str, rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n  action: {action}\n  rules: [{rule}]\n"
    )
}

/// `GET /` to `shop/web`, with these members added or replaced.
pub(crate) fn request_json(members: &str) -> String {
    let mut request = serde_json::json!({"destination": "shop/web", "method": "GET", "path": "/"});
    let more: serde_json::Value = serde_json::from_str(&format!("{{{members}}}")).expect(members);
    for (key, value) in more.as_object().unwrap() {
        match value {
            serde_json::Value::Null => request.as_object_mut().unwrap().remove(key),
            _ => request.as_object_mut().unwrap().insert(key.clone(), value.clone()),
        };
    }
    request.to_string()
}
